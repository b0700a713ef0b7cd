"""results.csv as the tables of the two READMEs: python -m benchmarks.tables"""

import csv
import re
from pathlib import Path

HERE = Path(__file__).parent
SHORT, FULL = HERE.parent / "README.md", HERE / "README.md"
BLOCK = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- end -->)", re.S)
SIZES = (1, 2, 4)


def main() -> None:
    for file, text in render().items():
        file.write_text(BLOCK.sub(lambda _, text=text: text, file.read_text()))


def render() -> dict[Path, str]:
    """{file: what stands between its marks}."""
    with open(HERE / "results.csv", newline="") as f:
        rows = {r["name"]: r for r in csv.DictReader(f)}
    growing = {n for n in rows if re.fullmatch(r"\w+-(images|pixels|epochs)-\d", n)}
    steps = [r for n, r in rows.items() if n not in growing]
    marked = [r for r in steps if r["ratio"] and r["mark"]]
    waits = [r for r in steps if not r["ratio"] and r["mark"]]
    full = table(
        ("step", "time", "against", "faster", "mark", "times its floor", "MB more", "results"),
        [(r["step"], time(r["seconds"]), r["against"], times(r["ratio"]), mark(r),
          f"{times(r['times_floor'])} {r['floor_is']}", megabytes(r), r["same"]) for r in steps],
    )  # fmt: skip
    grows = [
        (f"{name.replace('-', ', ')}", *(f"{float(r['cpu_seconds']):.3g} s" for r in found),
         ", ".join(megabytes(r) or "0" for r in found))
        for name in sorted({n.rpartition("-")[0] for n in growing})
        if len(found := [rows[f"{name}-{k}"] for k in SIZES if f"{name}-{k}" in rows]) == len(SIZES)
    ]  # fmt: skip
    heads = ("CPU seconds at", *(f"{k}x" for k in SIZES), "growth of memory, MB")
    ratios = [(r["step"], r["against"], times(r["ratio"]), mark(r)) for r in marked]
    waited = [(r["step"], time(r["seconds"]), mark(r)) for r in waits]
    short = (table(("step", "against", "faster", "mark"), ratios), "\n",
             table(("what one waits for", "time", "mark"), waited))  # fmt: skip
    return {SHORT: "".join(short), FULL: f"{full}\n{table(heads, grows)}"}


def table(heads: tuple, rows: list[tuple]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str.strip, line))} |\n" for line in lines)


def time(seconds: str) -> str:
    value = float(seconds)
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def times(ratio: str) -> str:
    return f"{float(ratio):,.0f}x" if ratio and float(ratio) >= 100 else ratio and f"{ratio[:4]}x"


def mark(row: dict) -> str:
    return row["mark"] + (" **missed**" if row["met"] == "no" else "")


def megabytes(row: dict) -> str:
    return f"{float(row['growth_mb']):.0f}" if float(row["growth_mb"]) >= 1 else ""


if __name__ == "__main__":
    main()

"""Run the benchmarks: sides in turn (A B floor A B floor), medians, ratios, a table."""

import argparse
import csv
import importlib
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import Case

HERE = Path(__file__).parent
TABLE = HERE / "results.csv"
MODULES = sorted(
    p.stem
    for p in HERE.glob("*.py")
    if p.stem not in ("__init__", "__main__", "side", "throughput", "strides", "tables")
)
COLUMNS = (
    "name", "step", "against", "mark", "met", "ratio", "seconds", "cpu_seconds", "peak_mb",
    "growth_mb", "other_seconds", "other_cpu_seconds", "other_peak_mb", "other_growth_mb",
    "floor_seconds", "times_floor", "floor_is", "same", "rounds",
)  # fmt: skip


def once(module: str, case: Case, which: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured"
        words = [sys.executable, "-m", "benchmarks.side", module, case.name, which, str(file)]
        subprocess.run(words, check=True)
        return pickle.loads(file.read_bytes())


def row(module: str, case: Case, rounds: int) -> dict:
    sides = [s for s in ("ours", "other", "floor") if getattr(case, s)]
    found: dict[str, list[dict]] = {s: [] for s in sides}
    for k in range(rounds):
        for side in sides:
            found[side].append(once(module, case, side))
            print(f"  {case.name} {k + 1}/{rounds} {side:6} {found[side][-1]['seconds']:.4g} s",
                  file=sys.stderr, flush=True)  # fmt: skip

    def median(side: str, what: str) -> float | None:
        return statistics.median(x[what] for x in found[side]) if side in found else None

    ours, other, floor = (median(s, "seconds") for s in ("ours", "other", "floor"))
    same = case.same(found["ours"][0]["value"], found["other"][0]["value"]) if case.same else ""
    ratio = other and other / ours
    mark = f"{case.ratio:g}x" if case.ratio else f"{case.seconds:g} s" if case.seconds else ""
    met = ratio >= case.ratio if case.ratio else ours <= case.seconds if case.seconds else None
    values = {
        "name": case.name, "step": case.step, "against": case.against, "mark": mark,
        "met": {True: "yes", False: "no", None: ""}[met], "ratio": ratio, "seconds": ours,
        "cpu_seconds": median("ours", "cpu"), "peak_mb": median("ours", "peak_mb"),
        "growth_mb": median("ours", "growth_mb"), "other_seconds": other,
        "other_cpu_seconds": median("other", "cpu"), "other_peak_mb": median("other", "peak_mb"),
        "other_growth_mb": median("other", "growth_mb"), "floor_seconds": floor,
        "times_floor": floor and ours / floor, "floor_is": case.floor_is, "same": same,
        "rounds": rounds,
    }  # fmt: skip
    return {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items()}


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, {time.strftime('%Y-%m-%d')}"


def main() -> None:
    ask = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    ask.add_argument("names", nargs="*", metavar="NAME", help="cases or modules; default: all")
    ask.add_argument("--rounds", type=int, help="of every case; default: its own number")
    ask.add_argument("--write", action="store_true", help=f"keep the rows in {TABLE.name}")
    ask.add_argument("--list", action="store_true", help="say what there is")
    given = ask.parse_args()
    cases = [(m, c) for m in MODULES for c in importlib.import_module(f"benchmarks.{m}").CASES]
    unknown = set(given.names) - {c.name for _, c in cases} - set(MODULES)
    if unknown:
        ask.error(f"no case or module {', '.join(sorted(unknown))}: see --list")
    cases = [(m, c) for m, c in cases if not given.names or {m, c.name} & set(given.names)]
    if given.list:
        print("\n".join(f"{m:12} {c.name:24} {c.step}" for m, c in cases))
        return
    print(machine(), flush=True)
    failed = []
    for module, case in cases:
        try:
            r = row(module, case, given.rounds or case.rounds)
        except (subprocess.CalledProcessError, AssertionError) as e:
            failed.append(case.name)
            print(f"{case.name}: FAILED: {e}", flush=True)
            continue
        if given.write:
            write([r])
        rival = f"{r['ratio']}x {r['against']}" if r["ratio"] else ""
        floor = f"{r['times_floor']}x the floor ({r['floor_is']})" if r["times_floor"] else ""
        said = [f"{r['seconds']} s", rival, floor, f"{r['growth_mb']} MB more", r["same"]]
        verdict = {"yes": "reached", "no": "MISSED", "": ""}[r["met"]]
        said.append(f"mark {r['mark']} {verdict}" if r["mark"] else "")
        print(f"{r['name']}: {'; '.join(x for x in said if x)}", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def write(rows: list[dict]) -> None:
    """Replace the rows of the cases that ran; each says its machine and date."""
    kept = {}
    if TABLE.exists():
        with open(TABLE, newline="") as f:
            kept = {r["name"]: r for r in csv.DictReader(f)}
    kept |= {r["name"]: r | {"machine": machine()} for r in rows}
    with open(TABLE, "w", newline="") as f:
        table = csv.DictWriter(f, [*COLUMNS, "machine"], lineterminator="\n")
        table.writeheader()
        table.writerows(kept.values())


if __name__ == "__main__":
    main()

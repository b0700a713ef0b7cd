"""What was tried, as a table: results.csv, written by the tests, and README.md, which shows it."""

import csv
import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE, PAGE = HERE / "results.csv", HERE / "README.md"
COLUMNS = ("test", "kind", "fault", "tried", "outcome", "campaign", "date")
BLOCK = re.compile(r"(?<=<!-- tried -->\n).*(?=<!-- end -->)", re.S)


def read() -> list[dict]:
    if not TABLE.exists():
        return []
    with open(TABLE, newline="") as f:
        return list(csv.DictReader(f))


def write(found: list[dict]) -> None:
    """New rows in place of those of the same test; the others stay, but for those of
    tests that are no more."""
    rows = {r["test"]: r for r in (*read(), *found)}
    rows = {test: r for test, r in rows.items() if _is_there(*test.split("::"))}
    with open(TABLE, "w", newline="") as f:
        table = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows[test] for test in sorted(rows))
    PAGE.write_text(BLOCK.sub(lambda _: render(), PAGE.read_text()))


def _is_there(file: str, function: str) -> bool:
    path = HERE.parents[1] / file
    return path.exists() and f"def {function}(" in path.read_text()


def render() -> str:
    """The rows as tables of Markdown, one for each kind of fault."""
    rows, text = read(), ""
    for kind in dict.fromkeys(r["kind"] for r in rows):
        text += f"\n### {kind}\n\n| fault | tried | what comes of it | `pytest tests/faults/` |\n"
        text += "| --- | --- | --- | --- |\n"
        for r in rows:
            if r["kind"] == kind:
                command = r["test"].removeprefix("tests/faults/")
                command += " -m campaign" if r["campaign"] else ""
                text += f"| {r['fault']} | {int(r['tried']):,} | {r['outcome']} | `{command}` |\n"
    return text.lstrip("\n")

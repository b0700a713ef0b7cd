"""Benchmarks measure what they say: sides in turn, equal results, a table with its machine."""

import csv
import subprocess
import sys

import pytest

import benchmarks.__main__ as harness
from benchmarks import Case, side, tables


def adds(value: int, repeats: int = 2):
    def work():
        found = [0]
        yield repeats
        for _ in range(repeats):
            found = [value] * 300_000
        return found[0]

    return work


def equal(a: int, b: int) -> str:
    assert a == b, f"{a} is not {b}"
    return "equal"


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(harness, "once", lambda m, case, which: side.measure(getattr(case, which)))


def test_sides_take_turns_and_are_compared(in_process, capsys):
    case = Case("adds", "a list", adds(1, 4), "twice the list", adds(1, 2), adds(1), "itself",
                ratio=100, same=equal)  # fmt: skip
    found = harness.row("", case, 2)
    order = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert order == ["ours", "other", "floor"] * 2
    assert found["same"] == "equal" and found["met"] == "no" and found["mark"] == "100x"
    assert float(found["ratio"]) == pytest.approx(
        float(found["other_seconds"]) / float(found["seconds"]), rel=0.01
    )


def test_a_limit_in_seconds_is_a_mark_too(in_process):
    assert harness.row("", Case("adds", "a list", adds(1), seconds=60), 1)["met"] == "yes"
    assert harness.row("", Case("adds", "a list", adds(1), seconds=1e-9), 1)["met"] == "no"


def test_results_that_differ_fail(in_process):
    case = Case("adds", "a list", adds(1), "another", adds(2), ratio=1, same=equal)
    with pytest.raises(AssertionError, match="1 is not 2"):
        harness.row("", case, 1)


TAKES = """
from benchmarks import side

def takes():
    yield 1
    return bytearray(64 * 2**20)

print(side.measure(takes)["growth_mb"])
"""


def test_memory_that_a_side_takes_is_seen(root):
    """In a process of its own, as `harness` runs a side: an old one has free memory to give."""
    words = [sys.executable, "-c", TAKES]
    r = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    assert float(r.stdout) > 60


def test_every_case_is_listed_once_and_kept_rows_are_of_cases(root):
    words = [sys.executable, "-m", "benchmarks", "--list"]
    listed = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
    names = [line.split()[1] for line in listed.splitlines()]
    assert len(set(names)) == len(names) > 20
    with open(root / "benchmarks/results.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert {r["name"] for r in rows} <= set(names)
    assert all(r["machine"] and float(r["seconds"]) > 0 for r in rows)


def test_an_unknown_name_is_said(root):
    words = [sys.executable, "-m", "benchmarks", "nothing"]
    said = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert said.returncode == 2 and "no case or module nothing" in said.stderr


def test_the_readmes_show_what_was_measured():
    for file, text in tables.render().items():
        assert tables.BLOCK.search(file.read_text())[0] == text, "python -m benchmarks.tables"

"""The table of README.md is results.csv, and every row is a test that says the same of itself."""

import ast

import faults
import pytest


def marked(campaign: bool) -> dict[str, tuple]:
    """{test: (kind, what, outcome)} of this folder, as written in its files."""
    out = {}
    for file in sorted(faults.HERE.glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
            if ("pytest.mark.campaign" in marks) != campaign:
                continue
            for mark in node.decorator_list if marks else []:
                if ast.unparse(mark).startswith("pytest.mark.fault("):
                    words = tuple(map(ast.literal_eval, mark.args))
                    out[f"tests/faults/{file.name}::{node.name}"] = words
    return out


def test_the_page_shows_the_rows():
    assert faults.BLOCK.search(faults.PAGE.read_text()).group() == faults.render()


def test_every_row_is_a_test_and_every_test_a_row():
    """But for campaigns that have not come to their end since they were last changed."""
    rows = {r["test"]: (r["kind"], r["fault"], r["outcome"]) for r in faults.read()}
    short, long = marked(campaign=False), marked(campaign=True)
    assert {t: said for t, said in rows.items() if t not in long} == short
    assert {t: said for t, said in rows.items() if t in long}.items() <= long.items()


@pytest.mark.parametrize("row", faults.read(), ids=lambda r: r["test"].partition("::")[2])
def test_a_row_counts_what_was_done(row):
    assert int(row["tried"]) > 0 and row["outcome"] and row["date"]

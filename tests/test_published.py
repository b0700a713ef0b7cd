"""The papers' tables as they stand in data/published, and the citations of the deviations."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from resegment import published
from resegment.errors import UserError

ROOT = Path(__file__).parents[1]
CITED = re.compile(rf"\b(?:all|{'|'.join(published.PAPERS)})-\d\d-[a-z][a-z0-9-]*")

# numbers of each printed table, counted in the papers: 768 in all
TOTALS = {
    "rga": [9, 48, 45, 39, 39],
    "rsan": [20, 20, 45, 45],
    "bcdu": [6],
    "hybridnetseg": [50, 27, 30, 14, 8, 24],
    "mininet": [15, 18, 106, 71, 54, 35],
}


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of data/published to break, with the current directory beside it."""
    shutil.copytree(ROOT / "data/published", tmp_path / "data/published")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data/published"


def value(cell: str) -> float:
    t = published.cells()
    return t.set_index("cell")["value"][cell]


def test_every_printed_number_is_there():
    t = published.cells()
    assert len(t) == 768
    for paper, totals in TOTALS.items():
        of_paper = t[t["paper"] == paper].groupby("table").size()
        assert of_paper.to_list() == totals
        assert of_paper.index.to_list() == list(range(1, len(totals) + 1))
    assert len(published.tables()) == sum(map(len, TOTALS.values())) == 22


@pytest.mark.parametrize(
    ("cell", "printed"),
    {
        "rga-2-08.f1": 0.8166,
        "rga-2-08.se": 0.8285,
        "rga-2-08.iou": 0.6903,
        "rga-2-03.precision": 0.8080,
        "rga-3-11.sp": 0.9822,
        "rga-3-11.params_m": 0.04,
        "rga-4-08.f1": 0.8459,
        "rsan-1-04.auc": 0.9855,
        "rsan-2-03.se": 0.833,
        "bcdu-1-01.precision": 0.894,
        "hybridnetseg-3-06.f1": 0.8061,
        "hybridnetseg-5-02.gmacs": 3.52,
        "hybridnetseg-6-04.se": 0.7367,
        "mininet-3-12.iou": 0.8982,
        "mininet-3-24.iou": 0.8717,
        "mininet-4-16.se": 0.837,
        "mininet-6-07.f1": 0.9447,
    }.items(),
)
def test_known_cells(cell, printed):
    assert value(cell) == printed


def test_percent_become_fractions_and_keep_their_digits():
    t = published.cells().set_index("cell")
    assert t["unit"]["rga-4-01.se"] == "percent"
    assert t["printed"]["rga-4-01.se"] == "0.8010"  # the paper prints 80.10
    assert t["resolution"]["rga-4-01.se"] == pytest.approx(1e-4)
    assert t["resolution"]["rga-3-11.params_m"] == pytest.approx(1e-2)
    shares = t[t["metric"].isin(published.SHARES)]
    assert shares["value"].between(0.5, 1).all()
    assert set(shares["unit"]) == {"fraction", "percent"}


def test_variants_tell_the_rows_of_an_ablation_apart():
    t = published.cells()
    table2 = t[(t["paper"] == "rga") & (t["table"] == 2)].drop_duplicates("row")
    assert not table2.duplicated(["method", "variant"]).any()
    assert published.row("rga-2-08")["variant"].unique().tolist() == ["Dice + BCE"]


def test_what_is_never_rerun():
    t = published.cells()
    assert not t["rerun"][t["metric"].isin(["p_value", "year"])].any()
    assert not t["rerun"][t["role"].isin(["quoted", "dataset", "architecture"])].any()
    own = t[t["role"].isin(["proposed", "ablation"]) & t["metric"].isin(published.SHARES)]
    assert own["rerun"].all()


def test_datasets_have_the_names_of_the_registry():
    known = set(yaml.safe_load((ROOT / "data/registry/datasets.yaml").read_text()))
    assert set(published.cells()["dataset"]) - {""} <= known
    assert set(" ".join(published.tables()["dataset"]).split()) <= known


def test_a_row_is_found_or_its_neighbours_are_named():
    assert published.row("rga-3-11")["metric"].to_list() == ["se", "sp", "acc", "f1", "params_m"]
    with pytest.raises(UserError, match=r"no row 'rga-2-8'.*did you mean .*rga-2-08"):
        published.row("rga-2-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cells", "rga-2-08.f1,rga,2", "rga-2-08.f1,rgb,2", "rga-2-08.f1: paper is one of"),
        ("cells", "rga-2-08.f1,", "rga-2-08.se,", "rga-2-08.se stands there twice"),
        ("cells", "f1,0.8166", "f1,81.66", "rga-2-08.f1: a share is a fraction"),
        ("cells", "f1,0.8166", "f1,.8166?", "rga-2-08.f1: value is a plain number"),
        ("cells", "cell,paper", "cell,papers", "the columns must be cell, paper"),
    ],
)
def test_a_broken_table_is_named(copy, name, old, new, message):
    path = copy / f"{name}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(message)):
        published.cells()


def test_a_missing_table_is_named(copy):
    (copy / "cells.csv").unlink()
    with pytest.raises(UserError, match="cells.csv is missing"):
        published.cells()


def test_every_deviation_cited_in_the_code_is_described():
    files = [*(ROOT / "src").rglob("*.py"), ROOT / "params.yaml"]
    known = set(published.deviations()["id"])
    cited = {i for f in files for i in CITED.findall(f.read_text())}
    assert cited, "no file cites a deviation"
    assert cited <= known, f"not in data/published/deviations.csv: {sorted(cited - known)}"


def test_every_deviation_described_is_cited_where_it_says():
    table = published.deviations()
    assert set(table["paper"]) <= {"all", *published.PAPERS}
    assert all(CITED.fullmatch(i) for i in table["id"])
    assert (table.drop(columns="where") != "").all(axis=None)
    for i, where in zip(table["id"], table["where"], strict=True):
        assert where
        for name in where.split():
            assert i in CITED.findall((ROOT / name).read_text()), f"{name} does not cite {i}"


def test_deviations_that_apply_to_a_paper():
    ids = published.applying("rga")
    assert {"all-01-resize", "rga-01-partial-decoder"} <= set(ids)
    assert all(i.startswith("all-") for i in published.applying(None))


def test_the_experiments_name_rows_that_exist_and_are_theirs():
    experiments = yaml.safe_load((ROOT / "params.yaml").read_text())["experiments"]
    named = [(e, row) for e in experiments.values() for row in e.get("rows", [])]
    assert named
    for experiment, row in named:
        cells: pd.DataFrame = published.row(row)
        assert set(cells["paper"]) == {experiment["paper"]}
        assert set(cells["dataset"]) - {""} <= {experiment["dataset"]}
        assert cells["rerun"].any()


def test_every_row_that_the_authors_measured_is_an_experiment():
    """And every experiment of a paper stands in a campaign under the paper's own schedule, but for
    those that no paper has made."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    named = {row for e in tree["experiments"].values() for row in e.get("rows", [])}
    cells = published.cells()
    assert named == set(cells["row"][cells["rerun"]]) and len(named) == 43
    run = {
        e for c in tree["campaigns"].values() if c["budget"] == "paper" for e in c["experiments"]
    }
    ours = {"bcdu-chase", "hybridnetseg-unet-chase"}
    assert {name for name, e in tree["experiments"].items() if e.get("paper")} == run | ours

"""Numbers in prose are those of the tables."""

import shutil
from pathlib import Path

import pytest

from resegment import quotes
from resegment.errors import UserError

SCORES = """\
experiment,dataset,n_images,seed,protocol,metric,value,ci_low,ci_high
a,d,20,0,common,f1,0.80,0.79,0.82
a,d,20,1,common,f1,0.82,0.80,0.83
a,d,20,0,frame,f1,0.7,0.6,0.8
a,d,20,0,common,auc,0.9,,
a,d,20,observer2,common,f1,0.77,,
b,d,20,0,common,f1,0.90,0.8,0.9
"""
RUNS = """\
experiment,seed,key,value
a,0,cost.cpu_seconds,440.4
a,1,cost.cpu_seconds,1506.6
a,0,model.trainable,29785
a,1,model.trainable,29785
"""
CLAIMS = """\
claim,paper,statement,metric,published,effect,low,high,seeds_low,seeds_high,budget,verdict
one,p,It helps.,f1,0.02,0.01,-0.01,0.03,0.002,0.018,lite,not run
two,p,It is small.,total,37685.0,,,,,,lite,undecided
"""
COMPARISONS = """\
dataset,metric,a,b,difference,low,high,seeds_low,seeds_high,p,p_holm,n_images,n_subjects,n_seeds
d,f1,a,b,-0.09,-0.1,-0.08,-0.12,0.01,0.0001,0.0004,20,20,2
d,f1,a,c,0.01,0,0.02,,,0.5,0.5,20,20,1
"""
SENSITIVITY = """\
experiment,seed,region,space,pooling,threshold,metric,value
a,0,fov,native,pixels,0.5,f1,0.80
a,1,fov,native,pixels,0.5,f1,0.82
a,0,frame,native,pixels,0.5,f1,0.78
a,1,frame,native,pixels,0.5,f1,0.78
b,0,fov,native,pixels,0.5,f1,0.70
b,0,frame,native,pixels,0.5,f1,0.71
"""
LEDGER = "row,metric,verdict\nrga-3-11,f1,reproduced\n"
VERDICTS = (
    "2 claims: 0 supported, 0 not supported, 1 undecided, 1 not run "
    "(1 of them measured under a reduced budget)"
)
LEAD = "{} (images {}, seeds {}; p < 0.001 after Holm)"


@pytest.fixture
def tables(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reports/x-lite"
    folder.mkdir(parents=True)
    texts = {"scores": SCORES, "runs": RUNS, "claims": CLAIMS, "comparisons": COMPARISONS,
             "ledger": LEDGER, "sensitivity": SENSITIVITY}  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    published = tmp_path / "data/published"
    published.mkdir(parents=True)
    for name in ("claims.csv", "cells.csv"):
        shutil.copy(root / "data/published" / name, published)
    quotes._table.cache_clear()
    yield folder
    quotes._table.cache_clear()


def test_every_quote_of_the_texts_is_that_of_the_tables(root, monkeypatch):
    monkeypatch.chdir(root)
    quotes._table.cache_clear()
    texts = [Path("README.md"), *Path("reports").glob("*.md")]
    assert quotes.QUOTE.search(texts[0].read_text())
    assert [t for t in texts if quotes.build(t, check=True)] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score x-lite a f1", "0.8100 ± 0.0141"),
        ("score x-lite a f1 frame", "0.7000"),
        ("each x-lite a f1", "0.8000, 0.8200"),
        ("images x-lite a f1", "0.7950 to 0.8250"),
        ("observer x-lite f1", "0.7700"),
        ("lead x-lite a b f1", LEAD.format("-0.0900", "-0.1000 to -0.0800", "-0.1200 to +0.0100")),
        ("lead x-lite b a f1", LEAD.format("+0.0900", "+0.0800 to +0.1000", "-0.0100 to +0.1200")),
        ("lead x-lite a c f1", "+0.0100 (images +0.0000 to +0.0200; p = 0.500 after Holm)"),
        ("cpu x-lite a", "440 to 1,507"),
        ("seeds x-lite a", "2"),
        ("claim x-lite one", "not run: 0.01 (-0.01 to 0.03)"),
        ("claim x-lite two", "undecided"),
        ("verdict x-lite rga-3-11 f1", "reproduced"),
        ("verdicts x-lite", VERDICTS),
        ("moved x-lite f1", "0.0100 to 0.0300"),
    ],
)
def test_a_quote(tables, words, said):
    text = f"one <!-- = {words} -->0.5<!-- / --> two"
    assert quotes.refresh(text, "t.md") == f"one <!-- = {words} -->{said}<!-- / --> two"


def test_a_printed_number_is_as_it_was_printed(root, monkeypatch):
    monkeypatch.chdir(root)
    assert quotes.printed("rga-3-11", "f1") == "0.8166"


def test_a_table_is_of_every_experiment(tables):
    with open(tables / "scores.csv", "a") as f:
        f.writelines(f"{e},d,20,0,common,{m},0.9,,\n" for e in "ab" for m in ("se", "sp", "acc"))
        f.write("b,d,20,0,common,auc,0.95,,\n")
        f.writelines(f"a,d,20,observer2,common,{m},0.8,,\n" for m in ("se", "sp", "acc"))
    with open(tables / "runs.csv", "a") as f:
        f.write("b,0,model.trainable,5\nb,0,cost.cpu_seconds,7\n")
    lines = quotes.table("x-lite").split("\n")
    assert lines[0] == lines[-1] == "" and len(lines) == 7
    assert lines[1] == "| | parameters | F1 | Se | Sp | Acc | AUC | CPU-seconds |"
    assert lines[3] == "| b | 5 | 0.9000 | 0.9000 | 0.9000 | 0.9000 | 0.9500 | 7 |"
    assert lines[4].startswith("| a | 29,785 | 0.8100 ± 0.0141 |")
    assert lines[5] == "| second observer | | 0.7700 | 0.8000 | 0.8000 | 0.8000 |  |  |"


def test_experiments_on_other_images_are_not_ranked_together(tables):
    head = SCORES.splitlines()[0]
    rows = [f"{e},{d},{n},{s},common,{m},{v},," for e, d, n, f1 in
            (("a", "d", 8, 0.7), ("b", "d", 20, 0.8)) for m in quotes.COLUMNS
            for s, v in ((0, f1), ("observer2", f1 - 0.1))]  # fmt: skip
    (tables / "scores.csv").write_text("\n".join([head, *rows]) + "\n")
    with open(tables / "runs.csv", "a") as f:
        f.write("b,0,model.trainable,5\nb,0,cost.cpu_seconds,7\n")
    lines = quotes.table("x-lite").split("\n")[3:-1]
    assert [line.split("|")[1].strip() for line in lines] == [
        "**8 images of d**", "a", "second observer", "**20 images of d**", "b", "second observer"
    ]  # fmt: skip
    assert [line.split("|")[3].strip() for line in lines[1::3] + lines[2::3]] == [
        "0.7000", "0.8000", "0.6000", "0.7000"
    ]  # fmt: skip
    with pytest.raises(UserError, match="there are 2 values of the second observer"):
        quotes.refresh("<!-- = observer x-lite f1 -->1<!-- / -->", "t.md")
    assert quotes.observer("x-lite", "f1", "common", "a") == "0.6000"
    assert quotes.observer("x-lite", "f1", "common", "b") == "0.7000"


def test_the_claims_of_a_paper(tables):
    lines = quotes.claims("p", "x-lite").split("\n")
    assert lines[0] == lines[-1] == "" and len(lines) == 6
    assert lines[3] == (
        "| It helps. | f1 | 0.0200 | 0.0100 | -0.0100 to 0.0300 | 0.0020 to 0.0180 | x-lite | "
        "not run: lite only |"
    )
    assert lines[4] == "| It is small. | total | 37,685 | – | – | – | – | undecided |"


def test_of_seeds_that_disagree_too_far_there_is_no_interval(tables):
    path = tables / "claims.csv"
    path.write_text(path.read_text().replace("0.002,0.018", "-0.2,1.1"))
    assert "| -0.0100 to 0.0300 | wider than 0.1 | x-lite |" in quotes.claims("p", "x-lite")


def test_what_was_trained_is_told_in_steps(tables):
    settings = {
        "epochs_run": 20,
        "parameters.train.samples_per_epoch": 10,
        "parameters.train.batch_size": 4,
        "parameters.train.augment.crop": 64,
        "parameters.train.optimiser.name": "sgd",
        "parameters.train.optimiser.lr": 0.01,
    }
    with open(tables / "runs.csv", "a") as f:
        f.writelines(f"a,0,{k},{v}\n" for k, v in settings.items())
    assert quotes.training("x-lite").split("\n")[3:-1] == ["| a | 60 | 200 of 64x64 | sgd | 0.01 |"]


def test_a_claim_is_shown_as_the_first_campaign_that_measured_it_has_it(tables):
    (other := tables.parent / "y-paper").mkdir()
    text = (tables / "claims.csv").read_text().splitlines()
    head = text[0].split(",")
    effect, verdict = head.index("effect"), head.index("verdict")
    rows = [line.split(",") for line in text[1:]]
    rows[0][effect], rows[0][verdict] = "0.5", "supported"
    (other / "claims.csv").write_text("\n".join([text[0], *map(",".join, rows)]) + "\n")
    first, second = ([line.split("|")[5:-1] for line in quotes.claims("p", *names).split("\n")[3:]]
                     for names in (("x-lite", "y-paper"), ("y-paper", "x-lite")))  # fmt: skip
    assert first[0][2:] == [" x-lite ", " not run: lite only "]
    assert second[0][2:] == [" y-paper ", " supported "]
    assert first[1] == second[1]


@pytest.mark.parametrize(
    "words", ["score x-lite a", "score x-lite c f1", "score y-lite a f1", "guess x-lite", "printed "
              "rga-3-99 f1", "observer x-lite auc", "claims q x-lite",
              "lead x-lite a d f1"],
)  # fmt: skip
def test_a_quote_of_nothing_is_said_by_its_line(tables, words):
    with pytest.raises(UserError, match=r"^t\.md, line 2: .* quotes nothing"):
        quotes.refresh(f"one\n<!-- = {words} -->0.5<!-- / -->", "t.md")


@pytest.mark.parametrize("more", ["", "\n<!-- = observer x-lite f1 -->2<!-- / -->"])
def test_a_quote_that_does_not_end_costs_no_prose(tables, tmp_path, more):
    text = tmp_path / "t.md"
    text.write_text(before := f"one\n<!-- = observer x-lite f1 -->1 and my own words{more}\n")
    with pytest.raises(UserError, match="line 2: a quote does not end"):
        quotes.build(text)
    assert text.read_text() == before


def test_check_leaves_a_text_as_it_is(tables, tmp_path):
    text = tmp_path / "t.md"
    text.write_text("<!-- = observer x-lite f1 -->1<!-- / -->")
    assert quotes.build(text, check=True) and "-->1<" in text.read_text()
    assert quotes.build(text) and not quotes.build(text) and "0.7700" in text.read_text()


def test_line_endings_stay_and_another_encoding_is_said(tables, tmp_path):
    text = tmp_path / "t.md"
    text.write_bytes(b"one\r\n<!-- = observer x-lite f1 -->1<!-- / -->\r\n")
    assert quotes.build(text)
    assert text.read_bytes() == b"one\r\n<!-- = observer x-lite f1 -->0.7700<!-- / -->\r\n"
    text.write_bytes("Müller".encode("latin-1"))
    with pytest.raises(UserError, match="t.md is no UTF-8 from byte 1 on"):
        quotes.build(text)

"""The page a person reads: self-contained, every link resolves, everything escaped."""

import base64
import itertools
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest
from test_figures import SETS, fake_campaign

from resegment import figures, paths, report
from resegment.datasets import registry
from resegment.errors import UserError
from resegment.report import pictures

NASTY = """<script>alert(1)</script>&"'{{7*7}}""".replace("/", "∕")  # a name no file system refuses

DEEP = {"ece": 1.25, "cldice": 1.5, "betti0_error": 41.62, "se_thin": 1.75}  # unlike other scores


class Page(HTMLParser):
    """All start tags with their attributes, the text, and tags closed in order."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def evidence(campaign, runs):
    """The tables that the stage `ledger` writes beside the scores."""
    a, b = runs[0]["experiment"], runs[-1]["experiment"]
    dataset, folder = runs[0]["dataset"], paths.reports(campaign)
    claim = {"paper": "rga", "statement": "Attention <b>helps</b>.", "dataset": dataset}
    claim |= {"metric": "f1", "protocol": "frame-network", "a": a, "b": b, "published": "0.01"}
    claim |= {"effect": 0.0123, "low": 0.002, "high": 0.02, "p": 0.01, "p_holm": 0.02}
    claim |= {"seeds_low": -0.001, "seeds_high": 0.03}
    claim |= {"n_seeds": 2, "n_images": 4, "budget": runs[0]["budget"], "reason": "the interval"}
    verdicts = ("supported", "not supported", "undecided", "not run")
    said = [{"claim": f"rga-c{i}", **claim, "verdict": v} for i, v in enumerate(verdicts)]
    pair = {"dataset": dataset, "metric": "f1", "a": a, "b": b, "difference": 0.004, "low": 0.001}
    pair |= {"high": 0.007, "p": 0.01, "p_holm": 0.03, "n_images": 4, "n_subjects": 4, "n_seeds": 2}
    pair |= {"seeds_low": 0.001, "seeds_high": 0.009}
    second = pair | {"b": "observer2", "low": -0.001}
    kinds = itertools.product(
        ("fov", "frame"), ("native", "network"), ("pixels", "images"), ("0.5", "train")
    )
    keys = ("region", "space", "pooling", "threshold")
    moved = [
        {"experiment": e, "dataset": dataset, "seed": 0, **dict(zip(keys, kind, strict=True))}
        | {"metric": m, "value": 0.8 + 0.001 * i}
        for i, kind in enumerate(kinds)
        for e in dict.fromkeys(r["experiment"] for r in runs)
        for m in ("f1", "acc")
    ]
    row = {"row": "rga-4-08", "paper": "rga", "table": 4, "method": "RGA", "dataset": "chase_db1"}
    row |= {"role": "ablation", "verdict": "impossible", "protocol": "", "prevalence": 0.053}
    row |= {"cells": "se sp", "sentence": "prevalence .053 & .126", "referee": ""}
    scores = pd.read_csv(folder / "scores.csv", dtype={"seed": str})
    f1 = scores[scores.metric == "f1"]
    deep = [f1.assign(metric=m, value=v, ci_low=v - 1, ci_high=v + 1) for m, v in DEEP.items()]
    pd.concat([scores, *deep]).to_csv(folder / "scores.csv", index=False)
    tables = {"claims": said, "comparisons": [pair, second], "sensitivity": moved, "audit": [row]}
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def made(**options):
    campaign, runs = fake_campaign(**options)
    if options.get("published"):
        runs = [{**run, "paper": "rga"} for run in runs]
    evidence(campaign, runs)
    figures.build(campaign, runs)
    report.build(campaign, runs)
    html = (paths.reports(campaign) / "report.html").read_text(encoding="utf-8")
    return html, Page(html), campaign, runs


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The page of a campaign with published rows, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("checkout"))
        yield made(dataset="drive", published=True, crossed=True)


def test_nothing_is_loaded_from_elsewhere(full):
    html, page, _, _ = full
    for _, attrs in page.tags:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
    assert "url(" not in html and "@import" not in html and "fetch(" not in html
    assert "default-src 'none'" in html


def test_every_link_resolves_and_ids_are_unique(full):
    _, page, _, runs = full
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and not any(" " in i for i in ids)
    links = [a["href"][1:] for a in page.all("a")]
    assert set(links) <= set(ids)
    for _, attrs in page.tags:
        for key in ("aria-labelledby", "for"):
            assert attrs.get(key) is None or attrs[key] in ids
    panels = [a["id"] for a in page.all("details") if "id" in a]
    assert len(panels) == len(runs) and set(panels) <= set(links)


def test_what_was_scored_on_other_sets_stands_beside_the_own(full, tmp_path, monkeypatch):
    _, page, campaign, _ = full
    assert "On other data sets" in page.text and "Trained on drive stare net-a" in page.text
    assert "net-a drive 0.8130 ± 0.0028 0.7130 ± 0.0028" in page.text  # 0.815 and 0.811; less 0.1
    monkeypatch.chdir(tmp_path)
    assert "On other data sets" not in made()[1].text


def test_a_reader_without_eyes_or_mouse_finds_everything(full):
    _, page, _, _ = full
    names = [tag for tag, _ in page.tags]
    assert {"header", "nav", "main", "footer"} <= set(names) and names.count("h1") == 1
    assert names.count("table") == names.count("caption") > 8
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert all(len(i["alt"]) > 30 or "aria-hidden" in i for i in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"


def shown(page):
    """The pictures of a page in their order, each a list of its layers' bytes."""
    out = []
    for tag, attrs in page.tags:
        if tag == "span" and "stack" in attrs.get("class", "").split():
            out.append([])
        if tag == "img":
            out[-1].append(base64.b64decode(attrs["src"].split(",")[1]))
    return out


def same(layer, picture):
    """Whether all that an upper layer shows is the picture's: colours, black and white exactly,
    other grays to half a step of 32."""
    there = layer[..., 3] == 255
    gray = picture.min(axis=-1) == picture.max(axis=-1)
    between = gray & (picture[..., 0] > 0) & (picture[..., 0] < 255)
    off = cv2.absdiff(np.ascontiguousarray(layer[..., :3]), picture).max(axis=-1)
    return (off[there & ~between] == 0).all() and (off[there & between] < 5).all()


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_pictures_inside_are_those_on_disk(full):
    """Each once, at its own size: drawings and drawn pixels exactly, photographs nearly."""
    _, page, campaign, _ = full
    folder = paths.reports(campaign)
    inside = shown(page)
    drawings = {p.read_bytes() for p in folder.glob("figures/*.svg")}
    assert {layers[0] for layers in inside} >= drawings
    stacks = [[decoded(x) for x in layers] for layers in inside if layers[0] not in drawings]
    files = sorted(folder.glob("pictures/*.png"))
    assert len(inside) == len(drawings) + len(files) and len(stacks) == len(files) > 6
    for path in files:
        want = cv2.imread(str(path))
        drawn = [s for s in stacks if len(s) == 1 and s[0].shape == want.shape]
        if any((s[0] == want).all() for s in drawn):
            continue
        both = [s for s in stacks if len(s) == 2 and s[1].shape[:2] == want.shape[:2]]
        exact = [s for s in both if same(s[1], want)]
        seen = [np.where(s[1][..., 3:] == 255, s[1][..., :3], s[0]) for s in exact]
        assert any(cv2.absdiff(picture, want).mean() < 4 for picture in seen), path
        pure = (np.sort(want, axis=-1) == (0, 0, 255)).all(axis=-1)
        assert all((s[1][..., 3] == 255)[pure].all() for s in exact)


def test_a_mask_beside_a_photograph_stays_exact():
    """Single coloured and gray pixels survive; the photograph, gray specks included, is smaller."""
    rng = np.random.default_rng(3)
    picture = np.full((90, 200, 3), 255, np.uint8)
    photo = np.clip(rng.normal((40, 80, 190), 25, (80, 80, 3)), 1, 254).astype(np.uint8)
    photo[20, 20] = photo[50, 30] = (90, 90, 90)
    picture[5:85, 5:85] = cv2.GaussianBlur(photo, (0, 0), 2)
    right = np.zeros((80, 80, 3), np.uint8)
    where = rng.integers(0, 6, (80, 80))
    for k, colour in enumerate(((0, 255, 0), (0, 0, 255), (255, 0, 0), (7, 7, 7))):
        right[where == k] = colour
    picture[5:85, 105:185] = right
    below, above = map(decoded, pictures.layers(picture))
    clear = above[..., 3] == 0
    assert clear[6:84, 6:84].all() and not clear[:, 90:].any()
    assert same(above, picture)
    assert 0 < cv2.absdiff(below, picture)[clear].mean() < 12
    assert [decoded(x)[..., :3].tolist() for x in pictures.layers(right)] == [right.tolist()]


def test_scores_are_means_with_sd_and_interval_and_lead_to_their_runs(full):
    _, page, campaign, _ = full
    scores = pd.read_csv(paths.reports(campaign) / "scores.csv", dtype={"seed": str})
    scores = scores[(scores.metric == "f1") & (scores.seed != "observer2")]
    for name in ("net-a", "net-b"):
        for protocol in ("common", "frame-network"):
            rows = scores[(scores.experiment == name) & (scores.protocol == protocol)]
            mean, sd = rows.value.mean(), rows.value.std(ddof=1)
            low, high = rows.ci_low.mean(), rows.ci_high.mean()
            assert f"{mean:.4f} ± {sd:.4f}" in page.text
            assert protocol != "common" or f"± {sd:.4f} {low:.3f}–{high:.3f}" in page.text
    assert "second observer drive 4 images – – 0.7850 0.779–0.817 0.9600" in page.text
    assert (
        page.text.count("second observer drive 4 images") == 1
    )  # the same images, hence the same row
    assert {"runs-net-a", "runs-net-b"} <= {a["href"][1:] for a in page.all("a")}


def test_the_ledger_has_its_verdicts_reasons_and_deviations(full):
    _, page, _, _ = full
    assert "1 was reproduced, 2 were not reproduced, 1 was not comparable and 1 was" in page.text
    for words in ("inside the interval", "contradicts itself", "STARE is not here"):
        assert words in page.text
    assert "stare F1 0.840 – – ○ not run" in page.text  # the digits the paper printed
    assert "Mini-Net mininet-2-01 drive parameters, M 0.037685 0.039639 +0.001954 ✗" in page.text
    assert "some of other experiments than these: rga-01-filters , all-01-resize ." in page.text
    assert "contradicts itself rga-02-x net-a" in page.text
    assert "0.8171 ± 0.0012 0.800–0.840 +0.0005 ✓ reproduced" in page.text
    assert "40 K parameters, text gives 22 K" in page.text  # named by the ledger
    assert "bcdu-01-depth" not in page.text  # neither named nor of a paper in this campaign


def test_a_dataset_says_its_title_and_licence(full):
    _, page, _, _ = full
    drive = registry._load(SETS, 0)["drive"]
    for words in (drive.title, drive.licence, drive.homepage):
        assert " ".join(words.split()) in page.text


def test_a_run_says_parameters_data_code_and_weights(full):
    _, page, _, runs = full
    for fact in ("a" * 64, "b" * 64, "c" * 64, "d" * 32, "0123456789abcdef", "1.3 min", "2.13.0"):
        assert page.text.count(fact) >= len(runs)
    assert f"resegment trace {runs[0]['run']} auc" in page.text
    assert f"resegment trace {runs[0]['run']} cldice" in page.text
    said = "Deviations of its paper, and of all rga-01-filters , rga-02-x , all-01-resize"
    assert page.text.count(said) == len(runs)


def test_calibration_and_structure_are_a_table_of_their_own(full):
    _, page, _, _ = full
    scores = "1.2500 ± 0.0000 0.250–2.250 – 1.5000 ± 0.0000 0.500–2.500 41.6 ± 0.0 40.6–42.6 –"
    assert f"net-a drive {scores}" in page.text


def row_of(page, name):
    """The text of an experiment's row in the table of costs, up to the next row."""
    return page.text.split("ms per image")[1].split("Data")[0].split(name)[1].split(" net-")[0]


def test_what_an_older_manifest_does_not_say_is_a_dash(full):
    _, page, _, _ = full
    assert row_of(page, "net-a").split() == "unet – 38,903 39,639 – – 0.15 –".split()
    assert "did not measure the time of an image" in page.text


def test_costs_are_medians_over_seeds_and_say_where_they_were_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, campaign, runs = made()
    for i, run in enumerate(runs):  # net-a of both seeds, then net-b; net-b's second took no time
        path = paths.run(run["run"]) / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["model"]["macs"] = 1_480_000_000
        manifest["parameters"]["model"]["options"] = {"filters": [8, 16], "norm": True}
        manifest["cost"] |= {"image_size": [584, 565]}
        manifest["cost"] |= {"image_seconds": 0.02 + 0.01 * i} if i < 3 else {}
        manifest["device"]["threads"] = 2
        path.write_text(json.dumps(manifest))
    report.build(campaign, runs)
    page = Page((paths.reports(campaign) / "report.html").read_text())
    said = "unet filters: [8, 16] , norm: True 38,903 39,639 584 × 565 1.48 0.15"
    assert " ".join(row_of(page, "net-a").split()) == f"{said} 25.0"
    assert " ".join(row_of(page, "net-b").split()) == f"{said} 40.0"
    assert "measured on cpu: two cores, 2 threads." in page.text
    manifest["cost"]["image_seconds"] = 0.0355
    manifest["device"] = {"type": "cuda", "name": "a GPU", "threads": 2}
    path.write_text(json.dumps(manifest))
    report.build(campaign, runs)
    page = Page((paths.reports(campaign) / "report.html").read_text())
    assert "measured on cpu: two cores, 2 threads; cuda: a GPU." in page.text
    assert row_of(page, "net-a").endswith("25.0 cpu: two cores, 2 threads")  # in the row as well
    both = "40.0 cpu: two cores, 2 threads 35.5 cuda: a GPU"  # seeds of two devices are not mixed
    assert " ".join(row_of(page, "net-b").split()) == f"{said} {both}"


def test_a_reduced_budget_and_sample_data_are_said_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, page, campaign, runs = made()
    sentence = "Budget smoke: a declared reduction; no score here reproduces a paper."
    assert page.text.index(sentence) < page.text.index("What was asked")
    assert page.text.index("Procedural sample data") < page.text.index("What was asked")
    assert "Nothing to compare" in page.text and "reproduced," not in page.text
    report.build(campaign, runs)
    assert Page((paths.reports(campaign) / "report.html").read_text()).tags == page.tags
    (paths.run(runs[0]["run"]) / "manifest.json").unlink()
    with pytest.raises(UserError, match="manifest.json is not here"):
        report.build(campaign, runs)


def test_the_paper_budget_has_no_warning_and_one_seed_no_sd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    campaign, runs = fake_campaign(names=("net-a",), budget="paper", dataset="drive")
    path = paths.reports(campaign) / "scores.csv"
    scores = pd.read_csv(path, dtype={"seed": str})
    scores[scores.seed != "1"].to_csv(path, index=False)
    evidence(campaign, runs)
    figures.build(campaign, runs[:1])
    report.build(campaign, runs[:1])
    page = Page((paths.reports(campaign) / "report.html").read_text())
    assert "declared reduction" not in page.text and "Procedural" not in page.text
    assert "0.8150 0.794–0.832" in page.text and "± nan" not in page.text
    assert {"run-net-a-s0"} <= {a["href"][1:] for a in page.all("a")}


def test_the_best_is_named_of_each_set_of_test_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    campaign, runs = fake_campaign(dataset="drive")
    path = paths.reports(campaign) / "scores.csv"
    scores = pd.read_csv(path, dtype={"seed": str})
    scores.loc[scores.experiment == "net-b", "n_images"] = 20
    scores.to_csv(path, index=False)
    evidence(campaign, runs)
    figures.build(campaign, runs)
    report.build(campaign, runs)
    text = Page((paths.reports(campaign) / "report.html").read_text()).text
    lead = re.search(r"the highest mean F1 is (.*?)\. (Of|No)", text)[1]
    assert re.fullmatch(
        r"0\.\d{4} on 4 test images \(net-a; the second observer reaches 0\.\d{4}\) and "
        r"0\.\d{4} on 20 test images \(net-b.*\)", lead,
    ), lead  # fmt: skip


def test_nasty_names_are_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    html, page, campaign, runs = made(names=(NASTY, "net-b"))
    assert NASTY not in html and NASTY in page.text
    assert len(page.all("script")) == 1
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in page.all("a")} <= set(ids)
    path = paths.run(runs[2]["run"]) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["device"]["name"] = "</td><img src=x onerror=alert(1)>"
    path.write_text(json.dumps(manifest))
    report.build(campaign, runs)
    page = Page((paths.reports(campaign) / "report.html").read_text())
    assert not any("onerror" in attrs for _, attrs in page.tags)


def test_a_paper_has_a_page_in_the_headings_of_the_challenge(full):
    _, page, _, _ = full
    for words in (
        "Scope of reproducibility Attention <b>helps</b>.",
        "Results that support the claims ✓ supported Attention <b>helps</b>. Measured: 0.0123",
        "(0.0020 to 0.0200 over images, -0.0010 to 0.0300 over seeds)",
        "Results that do not support the claims ✗ not supported",
        "Row rga-4-08 (chase_db1) contradicts itself: prevalence .053 & .126",
        "Communication with authors There was none.",
    ):
        assert words in page.text
    assert "paper-rga" in {attrs.get("id") for _, attrs in page.tags}


def test_a_claim_has_its_interval_over_images_and_over_seeds(full):
    _, page, _, _ = full
    both = "0.0123 images: 0.0020 to 0.0200 seeds: -0.0010 to 0.0300 0.0200"
    assert page.text.count(f"b: net-b 0.0100 {both}") == 4


@pytest.mark.parametrize(
    ("change", "differ"),
    [({}, 1), ({"seeds_low": -0.001}, 0), ({"low": -0.001}, 0), ({"p_holm": 0.05}, 0),
     ({"seeds_low": None, "seeds_high": None}, 0),
     ({"difference": -0.004, "low": -0.007, "high": -0.001, "seeds_low": -0.009,
       "seeds_high": -0.001}, 1)],
)  # fmt: skip
def test_a_pair_differs_over_images_and_over_seeds(change, differ):
    row = {"dataset": "d", "b": "x", "difference": 0.004, "low": 0.001, "high": 0.007,
           "seeds_low": 0.001, "seeds_high": 0.009, "p_holm": 0.03, "n_images": 20,
           "n_subjects": 20, "n_seeds": 3}  # fmt: skip
    (part,) = report.evidence.comparisons(pd.DataFrame([row | change]))
    assert part["differ"] == differ and part["testable"] and part["n_seeds"] == 3


def test_protocols_pairs_and_audit_are_tables(full):
    _, page, _, _ = full
    assert "On 4 images of drive, 1 of 1 pairs differ: over the images" in page.text
    assert "On 4 images of drive, 0 of 1 networks differ from the second observer" in page.text
    assert "So few images cannot reach that level" in page.text  # 2 / 2^4 at least
    assert "net-a drive 0.8010 0.8000–0.8150" in page.text  # fov, native, pixels, train; all
    assert "rga-4-08 RGA chase_db1 ablation ✗ impossible" in page.text


def test_it_says_where_trainings_were_stopped_and_what_weighs_their_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, page, campaign, runs = made()
    assert "net-a : 30 epochs of all samples, batches of 4" in page.text
    for epochs, run in zip((12, 7), runs[:2], strict=True):
        path = paths.run(run["run"]) / "manifest.json"
        manifest = json.loads(path.read_text()) | {"epochs_run": epochs}
        more = {"early_stopping": 4, "monitor": "val_loss", "alpha": "linear"}
        manifest["parameters"]["train"] |= more
        path.write_text(json.dumps(manifest))
    report.build(campaign, runs)
    page = Page((paths.reports(campaign) / "report.html").read_text())
    said = "30 epochs at most, ended where 4 bring no better val_loss (here after 12, 7)"
    assert f"net-a : {said} of all samples" in page.text
    assert "loss bce weighted by alpha (linear), fp32" in page.text

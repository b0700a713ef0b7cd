"""The audit: arithmetic against brute force, known answers, no false accusation."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from resegment import audit, geometry, published
from resegment.audit import possible, verdict
from resegment.cli import app
from resegment.datasets import chase_db1, drive
from resegment.errors import UserError

SETS = tuple(possible.testsets())
NATIVE = [s for s in SETS if s.space == "native"]
RSAN = ["rsan-1-02", "rsan-1-03", "rsan-1-04", "rsan-2-02", "rsan-2-03", "rsan-2-04"]


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    return {r["row"]: r for r in audit.table()}


def test_what_is_recorded_is_what_the_rows_say(rows):
    assert audit.recorded() == list(rows.values())  # else: `resegment audit --write`


def printed(values: dict[str, float], digits: int = 4) -> possible.Intervals:
    half = 0.5 * 10.0**-digits
    return {k: (round(v, digits) - half, round(v, digits) + half) for k, v in values.items()}


def scored(vessel, pixels, se, sp, how: str) -> dict[str, float]:
    """All six metrics of images with these pixel counts, counted as whole pixels."""
    tp, tn = np.round(vessel * se), np.round((pixels - vessel) * sp)
    fn, fp = vessel - tp, pixels - vessel - tn
    if how == "pooled":
        tp, tn, fn, fp = (x.sum() for x in (tp, tn, fn, fp))
    each = {"se": tp / (tp + fn), "sp": tn / (tn + fp), "acc": (tp + tn) / (tp + tn + fp + fn),
            "precision": tp / (tp + fp), "f1": 2 * tp / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn)}  # fmt: skip
    return {k: float(np.mean(v)) for k, v in each.items()}


# What is known of the papers


@pytest.mark.parametrize("row", [*RSAN, "rsan-3-08", "rsan-4-08"])
def test_rsan_is_whole_frame_pooled_and_exact(rows, row):
    assert rows[row]["verdict"] == "consistent" and rows[row]["protocol"] == "frame, pooled"
    values = published.row(row).set_index("metric")["value"]
    on = next(s for s in NATIVE if (s.region, s.split) in {("frame", "01-20"), ("frame", "11L-14R")}
              and s.dataset == rows[row]["dataset"])  # fmt: skip
    follows = possible.implied_f1(printed(values[["se", "sp"]].to_dict()), on.prevalence)
    assert follows == pytest.approx(values["f1"], abs=0.0008)


def test_the_convlstm_net_is_inside_the_field_of_view(rows):
    row = rows["bcdu-1-01"]
    assert (row["verdict"], row["protocol"]) == ("consistent", "fov, pooled")
    assert float(row["prevalence"]) == pytest.approx(0.1274, abs=1e-4)
    f1 = possible.implied_f1(printed({"se": 0.7153, "sp": 0.9876}), 0.1274)
    assert f1 == pytest.approx(0.7947, abs=0.0005)


@pytest.mark.parametrize(
    ("row", "figures"),
    [("rga-4-08", ["0.0527 to 0.0539", "0.8459", "0.7703"]), ("rga-5-08", ["0.8432", "0.0321"])],
)
def test_rga_nets_chase_and_stare_rows_contradict_themselves(rows, row, figures):
    assert rows[row]["verdict"] == "impossible" and rows[row]["cells"] == "se sp acc f1"
    assert all(f in rows[row]["sentence"] for f in figures)


def test_rga_nets_specificity_on_drive_contradicts_table_2(rows):
    row = rows["rga-3-11"]
    assert (row["verdict"], row["cells"]) == ("impossible", "sp")
    assert "rga-2-08" in row["sentence"] and "0.9812" in row["sentence"]
    assert rows["rga-2-08"]["verdict"] == "consistent"


@pytest.mark.parametrize("row", [f"rga-2-0{i}" for i in range(1, 9)])
def test_rga_nets_ablation_is_means_of_images_of_the_whole_frame(rows, row):
    assert rows[row]["verdict"] == "consistent"
    assert rows[row]["protocol"] == "frame, mean of images"


def test_hybridnetseg_accuracy_on_drive_is_the_wrong_cell(rows):
    row = rows["hybridnetseg-2-07"]
    assert (row["verdict"], row["cells"]) == ("impossible", "acc")
    assert "0.9656" in row["sentence"] and "0.9695" in row["sentence"]


def test_the_u_net_that_hybridnetseg_quotes_mixes_sources(rows):
    row = rows["hybridnetseg-2-01"]
    assert (row["verdict"], row["cells"]) == ("impossible", "f1 iou")
    assert "0.8120" in row["sentence"]


@pytest.mark.parametrize("row", ["rga-3-08", "mininet-4-08"])
def test_mobilenet_is_impossible(rows, row):
    assert rows[row]["verdict"] == "impossible" and rows[row]["cells"] == "se sp acc f1"


def test_t_net_is_impossible(rows):
    row = rows["mininet-4-14"]
    assert row["verdict"] == "impossible" and "f1" in row["cells"].split()


def test_mini_net_measured_drive_inside_the_field_of_view(rows):
    assert rows["mininet-4-16"]["verdict"] == "consistent"
    assert rows["mininet-4-16"]["protocol"].startswith("fov")


def test_mini_net_measured_chase_on_the_whole_frame(rows):
    assert rows["mininet-5-11"]["verdict"] == "consistent"
    assert rows["mininet-5-11"]["protocol"].startswith("frame")


def test_lesions_and_nuclei_are_undecidable_unless_f1_and_iou_exclude_each_other(rows):
    found = [r for r in rows.values() if r["dataset"] in ("isic2016", "isic2018", "monuseg")]
    wrong = {r["row"] for r in found if r["verdict"] == "impossible"}
    values = published.cells().pivot(index="row", columns="metric", values="value")
    beyond = values[(values["f1"] < values["iou"])
                    | (values["f1"] > 2 * values["iou"] / (1 + values["iou"]) + 2e-4)]  # fmt: skip
    assert wrong == set(beyond.index) & {r["row"] for r in found}
    assert wrong == {"mininet-2-01", "mininet-3-15"}
    assert {r["verdict"] for r in found} == {"impossible", "undecidable"}
    assert not any(r["role"] != "quoted" for r in found if r["row"] in wrong)


def test_too_few_metrics_are_named(rows):
    assert rows["rga-3-02"]["verdict"] == "undecidable"
    assert "prints only Acc and F1" in rows["rga-3-02"]["sentence"]


def test_every_row_with_a_metric_has_a_verdict_and_a_sentence(rows):
    cells = published.cells()
    assert set(rows) == set(cells["row"][cells["metric"].isin(published.SHARES)])
    for r in rows.values():
        assert tuple(r) == audit.COLUMNS
        assert (r["verdict"] == "impossible") == bool(r["cells"])
        assert r["sentence"].endswith(".") and "nan" not in r["sentence"]
        assert set(f"{r['row']}.{c}" for c in r["cells"].split()) <= set(cells["cell"])


def test_what_contradicts_itself_is_named_by_cell(rows):
    wrong = audit.incomparable(list(rows.values()))
    assert {"rga-3-11.sp", "rga-4-08.f1", "rga-5-08.acc", "hybridnetseg-2-07.acc"} <= wrong.keys()
    assert "rga-3-11.f1" not in wrong and "rsan-1-04.f1" not in wrong


def test_a_row_of_other_images_is_not_compared(rows):
    """Mini-Net's row of CHASE_DB1 fits all 28 images alone, RSAN's the last 8, HybridNetSeg's its
    20; a split that nobody counted says nothing."""
    known = list(rows.values())
    last, twenty = (audit.incomparable(known, tested) for tested in ("11L-14R", "05L-14R"))
    assert "of other images than the 11L-14R" in last["mininet-5-11.f1"]
    assert "rsan-2-04.f1" not in last and "hybridnetseg-3-05.f1" not in twenty
    assert "mininet-5-11.f1" not in audit.incomparable(known, "01L-14R")
    assert audit.incomparable(known, "01_test-20_test") == audit.incomparable(known)


# The arithmetic


@settings(max_examples=60, deadline=None)
@given(
    on=st.sampled_from([s for s in NATIVE if s.dataset in ("drive", "chase_db1", "stare")]),
    how=st.sampled_from(["pooled", "mean of images"]),
    se=st.floats(0.6, 0.9),
    fpr=st.floats(0.008, 0.05),
    seed=st.integers(0, 2**32 - 1),
    kept=st.sampled_from([possible.METRICS, ("se", "sp", "acc", "f1"), ("se", "acc", "precision",
                          "f1", "iou"), ("se", "sp", "acc", "f1", "iou")]),
)  # fmt: skip
def test_maps_of_real_labels_are_never_called_impossible(on, how, se, fpr, seed, kept):
    """Images differ by up to twice the standard deviation usual on DRIVE; Se may follow pi."""
    random = np.random.default_rng(seed)
    vessel, pixels = np.array(on.vessel), np.array(on.pixels)
    z = random.normal(size=(2, len(vessel)))
    z[0] += random.uniform(-1, 1) * (vessel / pixels - on.prevalence) / 0.01
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    each_se = np.clip(se + random.uniform(0, 0.07) * z[0], 0.3, 0.99)
    each_sp = 1 - np.clip(fpr * (1 + random.uniform(0, 0.4) * z[1]), 1e-4, 0.2)
    values = scored(vessel, pixels, each_se, each_sp, how)
    said = verdict.judge(printed({k: values[k] for k in kept}), on.dataset, SETS)
    assert said["verdict"] == "consistent", said["sentence"]


@settings(max_examples=25, deadline=None)
@given(
    on=st.sampled_from([s for s in NATIVE if s.dataset == "drive"]),
    how=st.sampled_from(["pooled", "mean of images"]),
    se=st.floats(0.7, 0.85),
    fpr=st.floats(0.012, 0.03),
    shift=st.sampled_from([-0.06, 0.06]),
)
def test_rows_that_were_altered_decisively_are_called_impossible(on, how, se, fpr, shift):
    vessel, pixels = np.array(on.vessel), np.array(on.pixels)
    values = scored(vessel, pixels, np.full(len(vessel), se), np.full(len(vessel), 1 - fpr), how)
    values["f1"] += shift
    row = printed({k: values[k] for k in ("se", "sp", "acc", "f1")})
    said = verdict.judge(row, on.dataset, SETS)
    assert said["verdict"] == "impossible" and "f1" in said["cells"].split()


@settings(max_examples=100, deadline=None)
@given(se=st.floats(0.05, 0.99), sp=st.floats(0.5, 0.999), pi=st.floats(0.02, 0.4),
       metric=st.sampled_from(["acc", "precision", "f1", "iou"]))  # fmt: skip
def test_pooled_pixels_accept_their_own_numbers_and_no_others(se, sp, pi, metric):
    vessel, pixels = np.array([pi * 1e8]), np.array([1e8])
    values = scored(vessel, pixels, np.array([se]), np.array([sp]), "pooled")
    pi = float(vessel[0] / pixels[0])
    assert possible.pooled(printed(values), pi, pi)
    true = values[metric]
    row = printed({k: values[k] for k in ("se", "sp")} | {metric: true})
    reach = (np.ptp([scored(vessel, pixels, np.array([a]), np.array([b]), "pooled")[metric]
                     for a in row["se"] for b in (row["sp"][0], min(row["sp"][1], 1))])
             + 2e-4)  # fmt: skip
    assert not possible.pooled(row | printed({metric: true + 1.5 * reach}), pi, pi)


def test_prevalence_follows_from_either_triple():
    values = scored(np.array([9e6]), np.array([1e8]), np.array([0.8]), np.array([0.98]), "pooled")
    for kept in (("se", "sp", "acc"), ("se", "precision", "acc")):
        low, high = possible.prevalence(printed({k: values[k] for k in kept}))
        assert low <= 0.09 <= high and high - low < 0.002
    assert possible.prevalence(printed({"se": 0.8, "f1": 0.8})) is None


def test_a_slip_that_moves_the_prevalence_to_the_other_region_blames_no_cell_alone():
    right = {"se": 0.8229, "sp": 0.9716, "acc": 0.9527, "f1": 0.8157}  # pooled, inside the FOV
    assert verdict.judge(printed(right), "drive", SETS)["verdict"] == "consistent"
    said = verdict.judge(printed(right | {"acc": 0.9587}), "drive", SETS)
    assert said["verdict"] == "impossible" and said["cells"] == "se sp acc f1", said
    said = verdict.judge(printed(right | {"f1": 0.7700}), "drive", SETS)
    assert said["cells"] == "f1", said


# The labels


def test_the_counts_of_the_test_sets_add_up():
    table = pd.read_csv("data/published/testsets.csv")
    key = ["dataset", "split", "region"]
    native = table[table["space"] == "native"].set_index(key)
    for row in table.to_dict("records"):
        pi = row["vessel"] / row["pixels"]
        base = native.loc[tuple(row[k] for k in key)]
        assert abs(pi / (base["vessel"] / base["pixels"]) - 1) < possible.RESIZE
    for one in SETS:  # what sharing a prevalence among neighbours can cost
        each = np.sort(np.array(one.vessel) / np.array(one.pixels))
        assert (each - one.groups).std() * (possible.SPREAD_SE + 0.02) < possible.JOINED


def test_the_labels_were_counted(real_data, tmp_path):
    for archive in ("test.zip", "training.zip"):
        zipfile.ZipFile(real_data / "DRIVE" / archive).extractall(tmp_path / "drive")
    zipfile.ZipFile(real_data / "CHASE_DB1/CHASEDB1.zip").extractall(tmp_path / "chase_db1")
    ids = {("drive", "01-20"): drive.IDS[:20], ("chase_db1", "11L-14R"): chase_db1.IDS[20:],
           ("chase_db1", "05L-14R"): chase_db1.IDS[8:],
           ("chase_db1", "01L-14R"): chase_db1.IDS}  # fmt: skip
    readers = {"drive": drive, "chase_db1": chase_db1}
    read = {(d, i): readers[d].read(tmp_path / d, i) for (d, _), each in ids.items() for i in each}
    checked = [s for s in SETS if s.dataset in readers]
    assert len(checked) == 22
    for one in checked:
        size = None if one.space == "native" else [int(n) for n in one.space.split("x")]
        way = {"resize": size, "pad": None, "width": None}
        for n, i in enumerate(ids[one.dataset, one.split]):
            record = read[one.dataset, i]
            label = geometry.to_network_mask(record.label, way)
            inside = geometry.to_network_mask(record.fov, way)
            inside = inside if one.region == "fov" else np.ones_like(label)
            assert ((label & inside).sum(), inside.sum()) == (one.vessel[n], one.pixels[n])


def test_the_other_counts_are_mlscorechecks():
    from mlscorecheck.experiments import load_hrf, load_stare

    tables = {("stare", "frame"): load_stare()["ah"], ("hrf", "fov"): load_hrf()["fov"],
              ("hrf", "frame"): load_hrf()["all"]}  # fmt: skip
    for one in (s for s in SETS if s.dataset in ("stare", "hrf")):
        every = {i["identifier"]: (i["p"], i["p"] + i["n"])
                 for i in tables[one.dataset, one.region]["images"]}  # fmt: skip
        split = pd.read_csv(f"data/splits/{one.dataset}.csv", dtype=str)
        test = split["id"][split["split"] == "test"]
        chosen = every if one.split.startswith("all") else test
        assert sorted(zip(one.vessel, one.pixels, strict=True)) == sorted(every[i] for i in chosen)


# The verb and its files


def test_the_referee_agrees_on_pooled_rows():
    found = {
        r["row"]: r["referee"]
        for r in audit.table(["rsan-1-04", "rga-4-08", "rga-2-08"], referee=True)
    }
    assert found["rsan-1-04"].startswith("pooled frame of 01-20; means frame")
    assert "fov" not in found["rsan-1-04"].split(";")[0]
    assert found["rga-4-08"].startswith("pooled impossible")
    assert found["rga-2-08"] == ("pooled impossible; means not testable without Se, Sp and Acc")


def test_mlscorecheck_says_the_same_of_every_row_that_is_exact(rows):
    """Where the audit finds one pooled confusion matrix to the digit, so does mlscorecheck."""
    for name in (*RSAN, "rsan-3-04", "rsan-3-07", "mininet-4-12"):
        assert "prevalence being" not in rows[name]["sentence"]
        referee = audit.table([name], referee=True)[0]["referee"]
        region = rows[name]["protocol"].split(",")[0]
        assert region in referee.split(";")[0], (name, referee)


def test_the_verb_prints_a_table_or_json():
    run = CliRunner().invoke(app, ["audit", "bcdu"])
    assert run.exit_code == 0 and "1 consistent, 0 impossible" in run.output
    run = CliRunner().invoke(app, ["audit", "rga-4-08", "bcdu", "--json"])
    assert [r["row"] for r in json.loads(run.output)] == ["rga-4-08", "bcdu-1-01"]
    run = CliRunner().invoke(app, ["audit", "rga-9-99"])
    assert isinstance(run.exception, UserError) and "rga-9-99" in str(run.exception)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("same_run", "rga-3-11,rga-2-08", "rga-3-11,rga-2-99", "no row rga-2-99"),
        ("testsets", "native,20,577945", "native,20,577946", "do not add up"),
        ("testsets", "dataset,split", "dataset,splits", "the columns must be"),
    ],
)
def test_a_broken_file_is_named(tmp_path, monkeypatch, name, old, new, message):
    for file in Path("data/published").glob("*.csv"):
        (tmp_path / file.name).write_text(file.read_text())
    path = tmp_path / f"{name}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    monkeypatch.setattr(audit.paths, "PUBLISHED", tmp_path)
    with pytest.raises(UserError, match=message):
        audit.table(["bcdu"])


def test_a_test_set_is_its_pixels():
    one = dataclasses.replace(NATIVE[0], vessel=(1, 3), pixels=(10, 10))
    assert one.prevalence == 0.2 and one.groups.tolist() == [0.1, 0.3]

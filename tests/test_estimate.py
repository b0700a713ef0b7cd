"""Estimates against the costs that were counted by hand from the papers' schedules."""

import pytest

from resegment import config, estimate, paths
from resegment.errors import UserError
from resegment.files import write_json


@pytest.fixture
def params(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    monkeypatch.setattr(paths, "run", lambda run_id: tmp_path / run_id)
    estimate.rates.cache_clear()
    yield config.load()
    estimate.rates.cache_clear()


def cost(params, run_id):
    run = config.find(params, run_id)
    return estimate.estimate(run, params.recipes[run["recipe"]])


COUNTED = [  # run, PMAC of a training: multiply-adds of one image x images x epochs x 3
    ("papers-drive-paper/rga-drive/s0", 1.48e9 * 6534 * 70 * 3 / 1e15),
    ("papers-drive-paper/rsan-drive/s0", 25.16e9 * 18 * 200 * 3 / 1e15),
    ("papers-chase-paper/rsan-chase/s0", 72.95e9 * 18 * 150 * 3 / 1e15),
    ("papers-drive-paper/bcdu-drive/s0", 4.64e9 * 160_000 * 5 * 3 / 1e15),
    ("papers-drive-paper/mininet-drive/s0", 1.76e9 * 18 * 100 * 3 / 1e15),
]


@pytest.mark.parametrize(("run_id", "peta"), COUNTED)
def test_a_training_costs_what_was_counted(params, run_id, peta):
    found = cost(params, run_id)
    assert found.training / 1e15 == pytest.approx(peta, rel=0.01)
    assert found.seconds == (found.training + found.drawing) / estimate.RATE


MEASURED = [  # run, the most memory (GB) that its training took: reports/*/runs.csv, peak_memory_mb
    ("drive-lite/unet-drive/s0", 0.760),
    ("drive-lite/rga-drive/s0", 0.999),
    ("drive-lite/rsan-drive/s0", 1.487),
    ("drive-lite/hybridnetseg-drive/s0", 1.976),
    ("drive-lite/mininet-drive/s0", 1.388),
    ("drive-lite/hybridnetseg-unet/s0", 1.132),
    ("mininet-paper/mininet-drive/s0", 3.834),
]


@pytest.mark.parametrize(("run_id", "gigabytes"), MEASURED)
def test_a_training_takes_about_the_memory_that_was_measured(params, run_id, gigabytes):
    assert cost(params, run_id).memory / 1e9 == pytest.approx(gigabytes, rel=0.25)


def test_memory_grows_with_batch_and_area(params):
    run = config.find(params, "mininet-paper/mininet-drive/s0")
    recipe = params.recipes[run["recipe"]]
    step = estimate.estimate(run, recipe).memory - estimate.RUNTIME
    twice = run | {"train": run["train"] | {"batch_size": 2 * run["train"]["batch_size"]}}
    assert estimate.estimate(twice, recipe).memory - estimate.RUNTIME == pytest.approx(2 * step)
    wider = run | {"geometry": run["geometry"] | {"resize": [960, 960]}}
    assert estimate.estimate(wider, recipe).memory == pytest.approx(12e9, rel=0.1)  # as measured


def test_overlapping_patches_cost_as_often_as_they_cover_a_pixel(params):
    found = cost(params, "papers-drive-paper/bcdu-drive/s0")
    patches = 40 * 10_710  # training images too: a threshold is chosen on them
    assert found.drawing == pytest.approx(4.64e9 * patches, rel=0.3)  # fewer at the borders


def test_disk_is_that_of_the_pixels(params):
    found = cost(params, "papers-drive-paper/rga-drive/s0")
    assert found.pairs == ("drive/rga-512", 7260 * 512 * 512 * 4)
    assert found.disk == 4 * 39_639 + 2 * 40 * 512 * 512


def test_maps_of_other_sets_count_and_shared_pairs_count_once(params):
    run = config.find(params, "vessels-lite/unet-vessels-drive/s0")
    recipe = params.recipes["width-592"]
    alone = estimate.estimate(run | {"cross": []}, recipe)
    assert alone.drawing < estimate.estimate(run, recipe).drawing
    runs = [r for r in config.runs(params, ("papers-drive",)) if r["experiment"] == "rga-drive"]
    one, three = (estimate.summary(runs[:n], params).splitlines()[1].split() for n in (1, 3))
    assert float(three[-4]) == pytest.approx(float(one[-4]), abs=0.1)  # 7.6 GB of pairs, not 23


def test_a_set_whose_ids_are_not_known_yet_is_estimated(params):
    assert cost(params, "papers-skin-paper/mininet-isic2018/s0").training > 0


def test_maps_of_a_set_whose_images_differ_are_as_large_as_the_largest(
    params, tmp_path, monkeypatch
):
    monkeypatch.setattr(paths, "native", lambda name: tmp_path / name)
    run = config.find(params, "sample-smoke/unet-drive/s0") | {"cross": ["isic2018"]}
    recipe = params.recipes[run["recipe"]]
    alone = estimate.estimate(run | {"cross": []}, recipe).disk
    disk = []
    for lines in ("", "a,10,20\nb,30,40\nc,50,2\n"):
        if lines:
            (tmp_path / "isic2018").mkdir()
            head = "id,height,width,image,label,fov,observer2,part"
            rows = [f"{line},,,,,test" for line in lines.split()]
            (tmp_path / "isic2018/manifest.csv").write_text("\n".join([head, *rows]) + "\n")
        estimate.largest.cache_clear()
        estimate.parts.cache_clear()
        disk.append(estimate.estimate(run, recipe).disk - alone)
    estimate.largest.cache_clear()
    estimate.parts.cache_clear()
    assert disk == [594 * 4499 * 6748 * 2, 3 * 30 * 40 * 2]


def test_finished_runs_of_the_same_kind_give_the_rate(params, tmp_path):
    model = {"name": "rga_net", "options": {"attention": False}}
    for i, (seconds, precision) in enumerate([(2.0, "bf16"), (4.0, "bf16"), (9.0, "fp32")]):
        folder = tmp_path / f"c/e/s{i}"
        folder.mkdir(parents=True)
        write_json(folder / "manifest.json", {
            "device": {"type": "cpu"}, "model": {"name": "rga_net", "macs": 1000},
            "cost": {"image_size": [10, 10], "images": 7, "cpu_seconds": seconds},
            "parameters": {"model": model,
                           "train": {"augment": {"crop": 5}, "precision": precision}},
        })  # fmt: skip
    macs = 3 * 1000 / 100 * 25 * 7
    options = '{"attention": false}'
    assert estimate.rates() == {("rga_net", options, "bf16"): macs / 4,
                                ("rga_net", options, "fp32"): macs / 9}  # fmt: skip
    run = config.find(params, "drive-lite/rga-drive/s0")
    like = run | {"model": model}
    slow, usual = (estimate.estimate(r, params.recipes[r["recipe"]]) for r in (like, run))
    assert slow.seconds == pytest.approx((slow.training + slow.drawing) / (macs / 4))
    assert usual.seconds == pytest.approx((usual.training + usual.drawing) / estimate.RATE)


def test_a_split_that_is_missing_is_told_by_the_plan(params, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "split", lambda name: tmp_path / f"{name}.csv")
    estimate.parts.cache_clear()
    with pytest.raises(
        UserError, match="stare.csv is missing: list in it, as id,split, .* of stare"
    ):
        estimate.parts("stare", "stare")
    assert estimate.parts("isic2018", "isic2018").total() == 2594
    estimate.parts.cache_clear()

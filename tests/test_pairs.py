"""What stands on disk, what training makes of the originals, and what a GPU makes: one set."""

import csv

import cv2
import numpy as np
import pytest
import torch

from resegment import native, paths, png, prepare, resident, schema, variants
from resegment.ingest import ingest
from resegment.pairs import Pairs, ahead, draws

NATIVE = {"resize": None, "pad": None, "width": None}
TURNED = NATIVE | {"enhance": [], "fov": True, "flips": True, "rotations": 8,
                   "flip_rotations": True}  # fmt: skip
STILL = schema.Augment().model_dump()
MOVED = STILL | {"crop": 64, "flips": True, "rotate": 180.0, "scale": 0.15, "aspect": 0.1}


@pytest.fixture(scope="module")
def turned(tmp_path_factory, root):
    """(folder, rows) of the sample set's training images with 27 variants each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("turned"))
        paths.SPLITS.mkdir(parents=True)
        paths.split("sample").write_bytes((root / paths.split("sample")).read_bytes())
        ingest("sample")
        prepare.prepare("sample", "sample", "turned", TURNED, NATIVE)
        folder = paths.prepared("sample", "turned").resolve()
        with open(folder / "manifest.csv", newline="") as f:
            rows = [r for r in csv.DictReader(f) if r["split"] == "train"]
        assert native.split("sample", "sample")
    return folder, rows


def test_variants_in_memory_are_the_bytes_on_disk(turned):
    folder, rows = turned
    pairs = Pairs(folder, rows, STILL, 0)
    assert len(pairs) == len(rows) == 27 * len(pairs.kept)
    for i, row in enumerate(rows[: 2 * 27]):
        image, label = pairs[0, i]
        assert np.array_equal(image, cv2.imread(str(folder / row["image"]), cv2.IMREAD_COLOR_RGB))
        assert np.array_equal(label * 255, cv2.imread(str(folder / row["label"]), 0))


def test_a_set_too_large_for_memory_gives_the_same(turned, monkeypatch):
    kept = Pairs(*turned, MOVED, 3)
    monkeypatch.setattr(Pairs, "RESIDENT", 0)
    anew = Pairs(*turned, MOVED, 3)
    assert anew.kept is None
    for key in [(0, 5), (1, 40), (2, 5)]:
        for a, b in zip(kept[key], anew[key], strict=True):
            assert np.array_equal(a, b)


def test_threads_change_neither_order_nor_bytes(turned):
    pairs = Pairs(*turned, MOVED, 1)
    order = draws(len(pairs), 37, 1, 0)
    alone, together = (list(pairs.batches(order, 5, threads)) for threads in (0, 3))
    assert [len(x) for x, _ in alone] == [5] * 7 + [2]
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_work_ahead_is_bounded_and_its_error_arrives():
    begun = []
    work = ahead(begun.append, range(100), 2)
    next(work)
    work.close()
    assert len(begun) <= 5
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda x: 1 // x, [2, 1, 0], 2))


@pytest.mark.parametrize("how", [STILL, MOVED, MOVED | {"gain": 0.2, "offset": 0.08, "crop": None},
                                 STILL | {"crop": 64, "inside_fov": True}])  # fmt: skip
def test_views_on_a_device_are_those_of_the_host(turned, how):
    """To a level of 255, but for edges: OpenCV places a sample on a grid of 1/32 pixel."""
    pairs = Pairs(*turned, how, 2)
    assert resident.fits(pairs)
    there = resident.Resident(pairs, torch.device("cpu"))
    there.epoch = 4
    assert pairs.epoch == 4
    order = draws(len(pairs), 24, 2, 4)
    for a, b in zip(pairs.batches(order, 4), there.batches(order, 4), strict=True):
        assert all(x.shape == y.shape and x.dtype == y.dtype for x, y in zip(a, b, strict=True))
        apart = (a[0].int() - b[0].int()).abs()
        assert apart.float().mean() < 0.6 and (apart > 6).float().mean() < 0.01
        assert (a[1] != b[1]).float().mean() < 0.004


def test_untouched_items_on_a_device_are_the_very_bytes(turned):
    folder, rows = turned
    pairs = Pairs(folder, [r for r in rows if r["operation"] == "none"], STILL, 0)
    there = resident.Resident(pairs, torch.device("cpu"))
    order = draws(len(pairs), None, 0, 0)
    for a, b in zip(pairs.batches(order, 3), there.batches(order, 3), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_changed_colours_and_mixed_sizes_stay_with_the_host(turned):
    folder, rows = turned
    jitter = STILL | {"jitter": STILL["jitter"] | {"hue": 0.1}}
    assert not resident.fits(Pairs(folder, rows, jitter, 0))
    pairs = Pairs(folder, rows, STILL, 0)
    first = next(iter(pairs.kept))
    pairs.kept[first] = tuple(x[:-1] for x in pairs.kept[first])
    assert not resident.fits(pairs)


@pytest.mark.parametrize("how", variants.operations(TURNED | {"rotations": 4}))
def test_a_matrix_takes_pixels_where_the_variant_does(how):
    image = np.random.default_rng(0).integers(0, 256, (33, 40), np.uint8)
    same = cv2.warpAffine(image, variants.matrix(*how, *image.shape), image.shape[::-1])
    there = variants.apply(image, *how, cv2.INTER_LINEAR)
    assert (np.abs(same.astype(int) - there) <= 2).mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (40, 8, 3), (2, 1, 3)])
def test_png_files_are_what_was_written(tmp_path, shape):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, shape, np.uint8)
    png.write(tmp_path / "a.png", array)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[..., ::-1] if array.ndim == 3 else read, array)
    if array.ndim == 2:
        png.write(tmp_path / "b.png", array > 99)
        for how in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE):
            assert np.array_equal(cv2.imread(str(tmp_path / "b.png"), how), 255 * (array > 99))

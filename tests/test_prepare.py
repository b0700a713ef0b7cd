"""Geometry is undone exactly where it can be; the paper's variants are what they say."""

import csv
import json
import re

import cv2
import numpy as np
import pytest

from resegment import files, native, paths, prepare, variants
from resegment.errors import UserError
from resegment.geometry import restore, to_network, to_network_mask
from resegment.ingest import ingest

NATIVE = {"resize": None, "pad": None, "width": None}
PLAIN = NATIVE | {"enhance": [], "fov": False, "flips": False, "rotations": 0,
                  "flip_rotations": False}  # fmt: skip


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)


@pytest.mark.parametrize("pad", [(31, 45), (32, 48), (64, 63)])
def test_padding_is_undone_exactly(image, pad):
    geometry = {"resize": None, "pad": list(pad), "width": None}
    padded = to_network(image, geometry)
    assert padded.shape == (*pad, 3) and padded.sum() == image.sum()
    gray = image[..., 0].astype(np.uint16) * 257
    assert np.array_equal(restore(to_network(gray, geometry), geometry, (31, 45)), gray)


def test_padding_is_centred_as_in_rsans_code(image):
    top, left = (592 - 584) // 2, (592 - 565) // 2
    picture = np.ones((584, 565, 3), np.uint8)
    padded = to_network(picture, {"resize": None, "pad": [592, 592], "width": None})
    assert padded[top, left].all() and not padded[top - 1].any() and not padded[:, left - 1].any()


def test_a_pad_that_is_too_small_is_refused(image):
    with pytest.raises(UserError, match="smaller than an image of 31x45"):
        to_network(image, {"resize": None, "pad": [30, 64], "width": None})


def test_resize_goes_to_the_size_and_back(image):
    geometry = {"resize": [64, 32], "pad": None, "width": None}
    assert to_network(image, geometry).shape == (64, 32, 3)
    assert to_network_mask(image[..., 0] > 99, geometry).dtype == bool
    assert restore(np.zeros((64, 32), np.uint16), geometry, (31, 45)).shape == (31, 45)


@pytest.mark.parametrize("size", [(512, 512), (960, 960), (292, 300)])
def test_labels_stay_on_their_images(size):
    y, x = np.mgrid[:584, :565]
    vessels = (np.abs((x + y) % 40 - 20) < 3) | (np.abs((x - 2 * y) % 60 - 30) < 3)
    geometry = NATIVE | {"resize": list(size)}
    label = to_network_mask(vessels, geometry)
    image = to_network(np.where(vessels[..., None], 255, 0).astype(np.uint8).repeat(3, 2), geometry)
    shifts = {
        (i, j): np.mean(np.roll(label, (i, j), (0, 1)) != (image[..., 0] > 127))
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    }
    assert shifts[0, 0] == 0 and min(v for k, v in shifts.items() if k != (0, 0)) > 0.02
    turned = to_network_mask(vessels[::-1, ::-1], geometry)[::-1, ::-1]
    assert np.mean(turned != label) < 0.002  # neither up nor left


def test_a_width_scales_both_sides_alike(image):
    geometry = NATIVE | {"width": 90}
    height, width = image.shape[:2]
    assert to_network(image, geometry).shape[:2] == (round(height * 90 / width), 90)
    small = np.zeros((round(height * 90 / width), 90), np.uint16)
    assert restore(small, geometry, (height, width)).shape == (height, width)


def test_no_geometry_is_the_identity(image):
    assert to_network(image, NATIVE) is image


def test_the_papers_set_has_363_variants():
    recipe = PLAIN | {"flips": True, "rotations": 360}
    made = variants.operations(recipe)
    assert len(made) == 363 and 20 * len(made) == 7260
    assert made[:3] == [("none", 0.0), ("hflip", 0.0), ("vflip", 0.0)]
    assert [a for _, a in made[3:]] == list(range(1, 361))


def test_stares_set_has_1083_variants():
    recipe = PLAIN | {"flips": True, "rotations": 360, "flip_rotations": True}
    made = variants.operations(recipe)
    assert 10 * len(made) == 10 * len(set(made)) == 10830
    square = np.arange(49, dtype=np.uint8).reshape(7, 7)
    turned = variants.apply(square, "rotate-hflip", 90.0, cv2.INTER_NEAREST)
    assert np.array_equal(turned, np.rot90(square)[:, ::-1])


def test_quarter_turns_and_flips_move_image_and_label_together():
    square = np.arange(49, dtype=np.uint8).reshape(7, 7)
    for operation, angle, same in [
        ("rotate", 90.0, np.rot90(square)), ("rotate", 180.0, square[::-1, ::-1]),
        ("rotate", 360.0, square), ("hflip", 0, square[:, ::-1]), ("vflip", 0, square[::-1]),
    ]:  # fmt: skip
        for way in (cv2.INTER_LINEAR, cv2.INTER_NEAREST):
            assert np.array_equal(variants.apply(square, operation, angle, way), same), operation


@pytest.fixture
def sample(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    paths.SPLITS.mkdir(parents=True)
    (paths.split("sample")).write_bytes((root / paths.split("sample")).read_bytes())
    ingest("sample")
    return tmp_path


def test_pairs_on_disk_are_lossless_and_joined_by_id(sample):
    recipe = PLAIN | {"flips": True, "rotations": 4, "fov": True}
    prepare.prepare("sample", "sample", "turned", recipe, NATIVE)
    folder = paths.prepared("sample", "turned")
    with open(folder / "manifest.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    splits = native.split("sample", "sample")
    learn = [i for i, s in splits.items() if s != "test"]
    assert len(rows) == 7 * len(learn) and {r["id"] for r in rows} == set(learn)
    table = native.manifest("sample")
    for row in rows:
        assert row["split"] == splits[row["id"]]
        image = native.image("sample", table[row["id"]])
        label = native.mask("sample", table[row["id"]], "label").astype(np.uint8) * 255
        written = cv2.imread(str(folder / row["image"]), cv2.IMREAD_COLOR_RGB)
        how = row["operation"], float(row["angle"])
        assert np.array_equal(written, variants.apply(image, *how, cv2.INTER_LINEAR))
        mask = cv2.imread(str(folder / row["label"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, variants.apply(label, *how, cv2.INTER_NEAREST))
        assert set(np.unique(mask)) <= {0, 255}
        fov = native.mask("sample", table[row["id"]], "fov").astype(np.uint8) * 255
        mask = cv2.imread(str(folder / row["fov"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, variants.apply(fov, *how, cv2.INTER_NEAREST))
    recorded = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(recorded) == {p.name for p in folder.iterdir()} - {"manifest.json"}


def test_a_split_that_names_an_absent_image_is_refused(sample):
    paths.split("sample").write_text("id,split\n01,train\n99,test\n")
    with pytest.raises(UserError, match="99"):
        native.split("sample", "sample")


def test_an_unknown_split_word_is_refused(sample):
    paths.split("sample").write_text("id,split\n01,training\n")
    with pytest.raises(UserError, match="train, val, test"):
        native.split("sample", "sample")


def test_a_split_separated_by_semicolons_is_told_of_commas(sample):
    paths.split("sample").write_text("id;split\n01;train\n")
    with pytest.raises(
        UserError, match="sample.csv separates its columns .*: save it with commas$"
    ):
        native.split("sample", "sample")


@pytest.mark.parametrize(("table", "said"), [
    ("01,train\n02,val\n", "sample.csv names no image of test"),
    ("01,val\n02,test\n", "sample.csv names no image of train"),
    ("01,train\n02,test\n03,val\n", "01 .train., 03 .val., 02 .test. are of one subject, anna"),
])  # fmt: skip
def test_a_split_that_proves_nothing_is_refused(sample, table, said):
    rows = (paths.native("sample") / "manifest.csv").read_text()
    rows = re.sub(r"^(0[123]),..,", r"\1,anna,", rows, flags=re.M)
    (paths.native("sample") / "manifest.csv").write_text(rows)
    order = sorted(table.splitlines(), key=lambda line: line.endswith("test"))
    paths.split("sample").write_text("\n".join(["id,split", *order]) + "\n")
    with pytest.raises(UserError, match=said):
        prepare.prepare("sample", "sample", "plain", PLAIN, NATIVE)
    assert not paths.prepared("sample", "plain").exists()


def test_committed_splits_learn_from_nobody_whom_they_test(root):
    subjects = {"chase_db1": 2, "monuseg": 12}  # the first letters of an id, as the readers say
    for file in sorted((root / paths.SPLITS).glob("*.csv")):
        splits = {row["id"]: row["split"] for row in files.table(file, "id", "split")}
        end = subjects.get(file.stem.partition("-")[0])
        prepare.separate(file, splits, {i: {"subject": i[:end]} for i in splits})


@pytest.mark.slow
def test_drive_becomes_7260_pairs(tmp_path, monkeypatch, real_data, root):
    from resegment.fetch import add

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for folder in (paths.REGISTRY, paths.SPLITS):
        (tmp_path / folder).symlink_to(root / folder)
    add("drive", real_data / "DRIVE")
    ingest("drive")
    recipe = PLAIN | {"resize": [512, 512], "flips": True, "rotations": 360}
    prepare.prepare("drive", "drive", "rga-512", recipe, recipe)
    folder = paths.prepared("drive", "rga-512")
    with open(folder / "manifest.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 7260
    assert sum(r["split"] == "train" for r in rows) == 6534  # deviation rga-07-validation
    assert len(list(folder.glob("*_image.png"))) == len(list(folder.glob("*_label.png"))) == 7260

"""The readers: official counts on the real files, and one clear sentence for every broken one."""

import csv
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from resegment.datasets import chase_db1, drive
from resegment.errors import UserError

REAL = os.environ.get("RESEGMENT_REAL_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="RESEGMENT_REAL_DATA names no folder")
SPLITS = Path(__file__).parent.parent / "data/splits"


def write(path: Path, pixels: np.ndarray, *options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":  # OpenCV's own writer dithers
        Image.fromarray(pixels).save(path)
    else:
        assert cv2.imwrite(str(path), pixels, options)


@pytest.fixture
def fake(tmp_path) -> Path:
    """Image 03 of DRIVE, small: red on the left, green on the right; one vessel; one mask."""
    image = np.zeros((24, 20, 3), np.uint8)
    image[:, :10], image[:, 10:] = (0, 0, 200), (0, 200, 0)  # BGR
    vessel = np.zeros((24, 20), np.uint8)
    vessel[5] = 255
    write(tmp_path / "test/images/03_test.tif", image)
    write(tmp_path / "test/1st_manual/03_manual1.gif", vessel)
    write(tmp_path / "test/2nd_manual/03_manual2.gif", np.roll(vessel, 1, axis=0))
    write(tmp_path / "test/mask/03_test_mask.gif", np.full((24, 20), 255, np.uint8))
    return tmp_path


@pytest.fixture
def fake_chase(tmp_path) -> Path:
    disc = cv2.circle(np.zeros((60, 64, 3), np.uint8), (32, 30), 26, (40, 90, 180), -1)
    vessel = np.zeros((60, 64), np.uint8)
    vessel[30] = 255
    write(tmp_path / "Image_05R.jpg", disc)
    write(tmp_path / "Image_05R_1stHO.png", vessel, cv2.IMWRITE_PNG_BILEVEL, 1)
    return tmp_path


def test_drive_record(fake):
    record = drive.read(fake, "03")
    assert (record.id, record.subject, record.fov_source) == ("03", "03", "given")
    assert record.image[0, 0].tolist() == [200, 0, 0]  # RGB, not BGR
    assert record.image[0, 19].tolist() == [0, 200, 0]
    assert np.flatnonzero(record.label.any(axis=1)).tolist() == [5]
    assert record.fov.all()
    assert np.flatnonzero(record.observer2.any(axis=1)).tolist() == [6]
    assert record.label.dtype == record.fov.dtype == bool and record.image.dtype == np.uint8


def test_drive_without_a_second_observer(fake):
    (fake / "test/2nd_manual/03_manual2.gif").unlink()
    assert drive.ids(fake)["03"] is None
    assert drive.read(fake, "03").observer2 is None


def test_palette_gif_is_cut_at_half(fake):
    index = np.zeros((24, 20), np.uint8)
    index[7] = 1
    image = Image.fromarray(index, "P")
    image.putpalette([3, 3, 3, 253, 253, 253])  # as in DRIVE's test/2nd_manual
    image.save(fake / "test/2nd_manual/03_manual2.gif")
    assert np.flatnonzero(drive.read(fake, "03").observer2.all(axis=1)).tolist() == [7]


def test_missing_label_is_named(fake):
    (fake / "test/1st_manual/03_manual1.gif").unlink()
    reasons = drive.ids(fake)
    assert list(reasons) == [f"{i:02d}" for i in range(1, 41)]
    assert reasons["03"] == "label test/1st_manual/03_manual1.gif is missing"
    assert reasons["21"] == "image training/images/21_training.tif is missing"
    with pytest.raises(UserError, match=r"03_manual1.gif \(label\) is missing.*data add drive"):
        drive.read(fake, "03")


@pytest.mark.parametrize(
    "name",
    ["images/03_test.tif", "1st_manual/03_manual1.gif", "mask/03_test_mask.gif",
     "2nd_manual/03_manual2.gif"],
)  # fmt: skip
@pytest.mark.parametrize("left", [0.0, 0.6])
def test_truncated_file_of_drive(fake, name, left):
    path = fake / "test" / name
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(UserError, match=f"{path.name}.*truncated or not an image.*add drive PATH"):
        drive.read(fake, "03")


def test_page_saved_as_an_image(fake_chase):
    (fake_chase / "Image_05R.jpg").write_text("<html>Please log in</html>")
    with pytest.raises(UserError, match="Image_05R.jpg.*not an image.*data get chase_db1"):
        chase_db1.read(fake_chase, "05R")


@pytest.mark.parametrize("name", ["Image_05R.jpg", "Image_05R_1stHO.png"])
def test_truncated_file_of_chase(fake_chase, name):
    path = fake_chase / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{name}.*truncated"):
        chase_db1.read(fake_chase, "05R")


@pytest.mark.parametrize(
    ("name", "what"), [("1st_manual/03_manual1.gif", "label"), ("mask/03_test_mask.gif", "mask")]
)
def test_label_of_another_size(fake, name, what):
    write(fake / "test" / name, np.zeros((12, 20), np.uint8))
    with pytest.raises(UserError, match=rf"\({what}\) is 20x12 but image .*03_test.tif is 20x24"):
        drive.read(fake, "03")


def test_chase_record(fake_chase):
    record = chase_db1.read(fake_chase, "05R")
    assert (record.id, record.subject, record.fov_source) == ("05R", "05", "derived")
    assert record.observer2 is None
    assert np.flatnonzero(record.label.all(axis=1)).tolist() == [30]
    assert record.fov[30, 32] and not record.fov[0, 0]
    assert record.image[30, 32, 0] > record.image[30, 32, 2]  # red above blue
    assert [i for i, reason in chase_db1.ids(fake_chase).items() if reason is None] == ["05R"]


@pytest.mark.parametrize(("module", "id"), [(drive, "41"), (drive, "3"), (chase_db1, "15L")])
def test_unknown_id(module, id, tmp_path):
    with pytest.raises(UserError, match=f"no image '{id}'"):
        module.read(tmp_path, id)


def split(name: str) -> dict[str, str]:
    with open(SPLITS / f"{name}.csv") as f:
        return {row["id"]: row["split"] for row in csv.DictReader(f)}


def of(table: dict[str, str], part: str) -> list[str]:
    return [id for id, where in table.items() if where == part]


def test_splits_name_every_id_once():
    for name, module in [("drive", drive), ("chase_db1", chase_db1), ("chase_db1-8-20", chase_db1)]:
        assert list(split(name)) == list(module.IDS)
    assert of(split("drive"), "test") == [f"{i:02d}" for i in range(1, 21)]
    assert of(split("drive"), "val") == ["23", "40"]
    assert of(split("chase_db1"), "val") == ["09R", "10L"]
    counts = {n: [len(of(split(n), p)) for p in ("train", "val", "test")]
              for n in ("drive", "chase_db1", "chase_db1-8-20")}  # fmt: skip
    assert counts == {"drive": [18, 2, 20], "chase_db1": [18, 2, 8], "chase_db1-8-20": [8, 0, 20]}


@pytest.mark.parametrize("name", ["chase_db1", "chase_db1-8-20"])
def test_no_child_is_in_training_and_test(name):
    table = split(name)
    learnt = {id[:2] for id in of(table, "train") + of(table, "val")}
    assert not learnt & {id[:2] for id in of(table, "test")}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@needs_data
def test_counts_of_drive(tmp_path):
    for archive in ("training.zip", "test.zip"):
        zipfile.ZipFile(Path(REAL, "DRIVE", archive)).extractall(tmp_path)
    assert set(drive.ids(tmp_path).values()) == {None}
    records = {id: drive.read(tmp_path, id) for id in drive.IDS}
    test = [records[id] for id in of(split("drive"), "test")]
    positive = sum(int((r.label & r.fov).sum()) for r in test)
    assert (positive, sum(int(r.fov.sum()) for r in test) - positive) == (577_649, 3_960_494)
    assert np.mean([r.label.mean() for r in test]) == pytest.approx(0.08758, abs=5e-6)
    assert np.mean([r.fov.mean() for r in records.values()]) == pytest.approx(0.688, abs=5e-4)
    train = [r for r in records.values() if r.id > "20"]
    share = sum((r.label & r.fov).sum() for r in train) / sum(r.fov.sum() for r in train)
    assert share == pytest.approx(0.1254, abs=5e-5)
    assert np.mean([dice(r.label, r.observer2) for r in test]) == pytest.approx(0.788, abs=5e-4)
    assert all(r.observer2 is None for r in train)
    assert {r.image.shape for r in records.values()} == {(584, 565, 3)}


@needs_data
def test_counts_of_chase(tmp_path):
    zipfile.ZipFile(Path(REAL, "CHASE_DB1", "CHASEDB1.zip")).extractall(tmp_path)
    records = {id: chase_db1.read(tmp_path, id) for id in chase_db1.IDS}
    share = {id: record.label.mean() for id, record in records.items()}
    assert np.mean(list(share.values())) == pytest.approx(0.0693, abs=5e-5)
    for name, expected in [("chase_db1", 0.06302), ("chase_db1-8-20", 0.06636)]:
        test = [share[id] for id in of(split(name), "test")]
        assert np.mean(test) == pytest.approx(expected, abs=5e-6)
    both = [dice(r.label, r.observer2) for r in records.values()]
    assert np.mean(both) == pytest.approx(0.777, abs=1e-3)
    assert {r.image.shape for r in records.values()} == {(960, 999, 3)}

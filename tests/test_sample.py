"""The sample set: the same bytes everywhere, and vessels that look and measure like vessels."""

import csv
import hashlib
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from resegment.datasets import fov, sample
from resegment.errors import UserError

SPLIT = Path(__file__).parent.parent / "data/splits/sample.csv"
DIGEST = """
import hashlib, sys
from resegment.datasets import sample
for id in sys.argv[1:]:
    r = sample.read(None, id)
    parts = (r.image, r.label, r.fov, r.observer2)
    print(hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest())
"""


def digest(record) -> str:
    parts = (record.image, record.label, record.fov, record.observer2)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def drawn() -> dict:
    """id -> (record, eye, vessels, lesions), every image once."""
    return {id: sample.draw(id) for id in sample.IDS}


@pytest.fixture(scope="module")
def records(drawn) -> list:
    return [record for record, *_ in drawn.values()]


def test_same_bytes_again_and_in_any_order(drawn):
    for id in ("16", "03", "01"):
        assert digest(sample.read(None, id)) == digest(drawn[id][0])


def test_same_bytes_in_a_new_process_and_on_one_thread(drawn):
    script = "import cv2; cv2.setNumThreads(1)\n" + DIGEST
    command = [sys.executable, "-c", script, "06", "11"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert out.stdout.split() == [digest(drawn[id][0]) for id in ("06", "11")]


def test_every_id_is_another_image(records):
    for part in ("image", "label", "fov", "observer2"):
        seen = {getattr(record, part).tobytes() for record in records}
        assert len(seen) == len(records) == 16, part


def test_reader_interface():
    assert sample.ids() == sample.ids(Path("nowhere")) == dict.fromkeys(sample.IDS)
    record = sample.read(Path("nowhere"), "02")
    assert (record.id, record.subject, record.fov_source) == ("02", "02", "given")
    with pytest.raises(UserError, match="17"):
        sample.read(None, "17")


def test_sizes_and_types(records):
    for record in records:
        assert record.image.shape == (270, 262, 3) and record.image.dtype == np.uint8
        for mask in (record.label, record.fov, record.observer2):
            assert mask.shape == (270, 262) and mask.dtype == bool
        assert all(part.flags.c_contiguous for part in (record.image, record.label, record.fov))


def test_labels_lie_in_the_field_of_view_and_have_real_prevalence(records):
    for record in records:
        assert not (record.label & ~record.fov).any()
        assert not (record.observer2 & ~record.fov).any()
        assert 0.10 < record.label[record.fov].mean() < 0.14, record.id


def test_second_observer_agrees_as_people_do(records):
    scores = [dice(record.label, record.observer2) for record in records]
    assert 0.78 < min(scores) and max(scores) < 0.85, scores


def test_border_is_dark_with_noise_and_the_aperture_can_be_found(records):
    for record in records:
        inner = cv2.dilate(record.fov.astype(np.uint8), np.ones((7, 7)))
        border = record.image[inner == 0]
        assert 2 < border.mean() < 10 and border.std() > 0.5
        assert dice(fov.derive(record.image), record.fov) > 0.98, record.id


def test_vessels_are_darker_than_what_surrounds_them(records):
    for record in records:
        near = cv2.dilate(record.label.astype(np.uint8), np.ones((9, 9))) > 0
        around = near & ~record.label & record.fov
        green = record.image[..., 1].astype(float)
        contrast = 1 - green[record.label].mean() / green[around].mean()
        assert 0.04 < contrast < 0.35, (record.id, contrast)


def test_lesions_are_seen_but_never_labelled(drawn):
    ill = [id for id, (*_, lesions) in drawn.items() if lesions.any()]
    assert ill == ["03", "06", "09", "12", "15"]
    for id in ill:
        record, _, _, lesions = drawn[id]
        assert (lesions & record.fov).sum() > 100
        assert not (lesions & (record.label | record.observer2)).any(), id
        green = record.image[..., 1]
        off = abs(green - cv2.medianBlur(green, 31).astype(float))
        plain = record.fov & ~record.label & ~lesions
        plain[cv2.dilate(record.label.astype(np.uint8), np.ones((5, 5))) > 0] = False
        assert off[lesions].mean() > 2 * np.median(off[plain]), id


def test_murrays_law():
    radius, minor = 2.0, 2.0 * 2 ** (-1 / 3)  # two equal daughters part at 75 degrees
    major, *angles = sample.murray(radius, minor)
    assert major == pytest.approx(minor)
    assert math.degrees(sum(angles)) == pytest.approx(75, abs=0.1)
    major, bend, spread = sample.murray(2.0, 0.8)
    assert major**3 + 0.8**3 == pytest.approx(8.0)
    assert 0 < bend < spread < math.pi / 2  # the thinner daughter turns away further


def test_vessels_thin_out_along_their_course(drawn):
    for id, (_, _, vessels, _) in drawn.items():
        assert {vessel.artery for vessel in vessels} == {True, False}
        for vessel in vessels:
            assert all(after < before for before, after in pairwise(vessel.radii)), id
        veins, arteries = (
            max(v.radii[0] for v in vessels if v.artery == kind) for kind in (False, True)
        )
        assert veins > 1.1 * arteries  # the larger calibre, 4 : 3 or so in real eyes
        assert min(min(v.radii) for v in vessels) < 0.5  # down to 1 px across


def test_labelled_widths_shrink_with_distance_from_the_disc(drawn):
    for id, (record, eye, _, _) in drawn.items():
        rows, columns = np.nonzero(record.label)
        away = np.hypot(columns - eye.disc[0], rows - eye.disc[1])
        depth = cv2.distanceTransform(record.label.astype(np.uint8), cv2.DIST_L2, 5)
        depth = depth[rows, columns]
        near = depth[(away > 1.2 * eye.disc_radius) & (away < 60)]
        far = depth[away > 110]
        assert (near > 1.5).mean() > 2 * (far > 1.5).mean(), id  # pixels of vessels over 3 px wide


def test_split_holds_every_id_once():
    rows = list(csv.DictReader(SPLIT.open()))
    assert [row["id"] for row in rows] == list(sample.IDS)
    assert "".join(row["split"][:2] for row in rows) == "tr" * 8 + "va" * 2 + "te" * 6

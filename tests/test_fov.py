"""The derived field of view: on drawn discs, and against DRIVE's given masks."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from resegment.datasets import chase_db1, drive, fov

REAL = os.environ.get("RESEGMENT_REAL_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="RESEGMENT_REAL_DATA names no folder")
ROWS, COLUMNS = np.mgrid[:290, :300]


def disc(radius: float = 130, cut: int = 0) -> np.ndarray:
    inside = np.hypot(ROWS - 145, COLUMNS - 150) <= radius
    inside[: 145 - 130 + cut] = False
    return inside


def photograph(inside: np.ndarray, light: float | np.ndarray = 150, black: int = 0) -> np.ndarray:
    pixels = np.where(inside, light, black)
    return np.stack([pixels, pixels * 0.5, pixels * 0.2], axis=2).clip(0, 255).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("light", [255, 150, 30, 14])
def test_disc_is_found_in_bright_and_dark_images(light):
    found = fov.derive(photograph(disc(), light))
    assert found.dtype == bool and found.shape == (290, 300)
    assert dice(found, disc()) > 0.99


def test_disc_cut_by_the_camera_stays_cut():
    assert dice(fov.derive(photograph(disc(cut=25))), disc(cut=25)) > 0.99


def test_noise_and_a_caption_in_the_border_stay_outside():
    random = np.random.default_rng(0)
    image = photograph(disc(), 120, black=10).astype(float)
    image[4:16, 4:90] = 220  # a caption
    image = (image + random.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)
    assert dice(fov.derive(image), disc()) > 0.98


def test_a_line_that_touches_the_disc_is_cut_off():
    image = photograph(disc() | (abs(ROWS - COLUMNS) < 4))
    image[:25, :25] = 0
    assert dice(fov.derive(image), disc()) > 0.99


def test_dark_spots_inside_and_a_rim_in_shadow_are_part_of_it():
    light = 160.0 * np.ones(ROWS.shape)
    light[np.hypot(ROWS - 145, COLUMNS - 100) < 25] = 0  # a hole
    light[ROWS + COLUMNS < 140] = 2  # upper left, as in CHASE's 12L
    assert (disc() & (ROWS + COLUMNS < 140)).sum() > 0.02 * disc().sum()
    assert dice(fov.derive(photograph(disc(), light)), disc()) > 0.99


def test_image_without_an_aperture_is_inside_everywhere():
    assert fov.derive(np.full((40, 50, 3), 90, np.uint8)).all()
    assert fov.derive(np.zeros((40, 50, 3), np.uint8)).all()
    vignette = 160 - 0.3 * np.hypot(ROWS - 145, COLUMNS - 150)  # 160 to 97
    assert fov.derive(photograph(np.ones_like(disc()), vignette)).all()


@needs_data
def test_agrees_with_every_mask_of_drive(tmp_path):
    for archive in ("training.zip", "test.zip"):
        zipfile.ZipFile(Path(REAL, "DRIVE", archive)).extractall(tmp_path)
    scores = {}
    for id in drive.IDS:
        record = drive.read(tmp_path, id)
        scores[id] = dice(fov.derive(record.image), record.fov)
    assert min(scores.values()) > 0.99, scores
    assert np.mean(list(scores.values())) > 0.996


@needs_data
def test_chase_discs_hold_all_vessels_but_those_at_the_rim(tmp_path):
    zipfile.ZipFile(Path(REAL, "CHASE_DB1", "CHASEDB1.zip")).extractall(tmp_path)
    records = [chase_db1.read(tmp_path, id) for id in chase_db1.IDS]
    shares = [record.fov.mean() for record in records]
    assert 0.65 < min(shares) and max(shares) < 0.70
    vessels = sum(record.label.sum() for record in records)
    inside = sum((record.label & record.fov).sum() for record in records)
    assert inside / vessels > 0.998
    test = records[20:]  # 11L-14R
    of_fov = sum((r.label & r.fov).sum() for r in test) / sum(r.fov.sum() for r in test)
    assert of_fov == pytest.approx(0.0907, abs=5e-4)

"""Pieces, holes, centrelines and thin vessels, on shapes whose answers are known by hand."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.measure import euler_number

from resegment import metrics
from resegment.structure import betti, cldice, measure, thin_limit, truths, width

EIGHT = np.ones((3, 3), int)
masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda s: arrays(bool, s))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def by_scipy(mask):
    """Pieces and holes by scipy's labelling, in a frame of background."""
    framed = np.pad(mask, 1)
    return ndimage.label(framed, EIGHT)[1], ndimage.label(~framed)[1] - 1


RING = drawn("#####", "#...#", "#...#", "#####")
DOTS = drawn("#....", ".....", "....#")
CROSS = drawn("..#..", "..#..", "#####", "..#..", "..#..")
SLANT = drawn("#...", ".#..", "..#.", "...#")  # one piece only if corners connect
DIAMOND = drawn(".#.", "#.#", ".#.")  # a hole only if corners do not let it out
SHAPES = [(RING, (1, 1)), (DOTS, (2, 0)), (CROSS, (1, 0)), (SLANT, (1, 0)), (DIAMOND, (1, 1)),
          (np.zeros((3, 3), bool), (0, 0)), (np.ones((3, 3), bool), (1, 0)),
          (np.hstack([RING, np.zeros((4, 1), bool), RING]), (2, 2))]  # fmt: skip


@pytest.mark.parametrize(("shape", "numbers"), SHAPES)
def test_pieces_and_holes_of_known_shapes(shape, numbers):
    assert betti(shape) == numbers == by_scipy(shape)


@settings(max_examples=300, deadline=None)
@given(masks)
def test_pieces_and_holes_agree_with_scipy_and_scikit_image(mask):
    pieces, holes = betti(mask)
    assert (pieces, holes) == by_scipy(mask) and pieces - holes == euler_number(
        mask, connectivity=2
    )


def test_cldice_by_hand():
    """Lines one pixel wide are their own skeletons, so that shares can be counted."""
    label = np.zeros((5, 10), bool)
    label[2, :8] = True
    half = np.zeros_like(label)
    half[2, :4] = True
    assert cldice(half, label) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert cldice(label, half) == pytest.approx(2 * 1 * 0.5 / 1.5)
    moved = np.zeros_like(label)
    moved[2, 2:] = True  # eight pixels, six of them in the label
    assert cldice(moved, label) == pytest.approx(0.75)
    assert cldice(label, label) == 1
    # thicker by a pixel on either side: Dice 0.5, the same line
    wide = np.zeros_like(label)
    wide[1:4, :8] = True
    assert cldice(wide, label) > 0.9  # the ends of a skeleton may bend
    assert metrics.from_counts(
        metrics.counts_of_mask(wide, label, np.ones_like(label))
    )["f1"] == pytest.approx(0.5)  # fmt: skip
    assert cldice(np.roll(label, 2, 0), label) == 0


def test_a_straight_vessel_is_as_wide_as_it_is():
    for w in (1, 2, 3, 4, 5, 6, 9):
        mask = np.zeros((30, 60), bool)
        mask[10 : 10 + w] = True
        found = width(mask)
        assert (found[10 : 10 + w, 12:-12] == w).all() and not found[~mask].any()
        assert (width(mask.T) == found.T)[12:-12].all()
    rows, columns = np.mgrid[:80, :80]
    slanted = np.abs(rows - columns / 2 - 20) <= 2.5 * 5**0.5 / 2  # 5 across
    assert np.median(width(slanted)[slanted]) == pytest.approx(5, abs=0.6)


def test_a_pixel_has_the_width_of_the_nearest_centreline():
    """A trunk of nine pixels with a twig of two: the twig is thin up to the trunk's side."""
    mask = np.zeros((40, 60), bool)
    mask[15:24] = True
    mask[24:38, 30:32] = True
    found = width(mask)
    assert (found[28:37, 30:32] == 2).all() and (found[15:22, 5:25] >= 8).all()


@pytest.fixture
def eye():
    """A field of view of 540 pixels with a vessel of 3 and one of 8 pixels: (label, fov)."""
    fov = np.hypot(*np.ogrid[-290:290, -280:280]) < 270
    label = np.zeros(fov.shape, bool)
    label[100:103, 100:400] = True
    label[300:308, 100:400] = True
    return label, fov


def test_sensitivity_of_thin_and_of_thick_vessels(eye):
    label, fov = eye
    truth = truths(label, fov, ["fov"])["fov"]
    assert thin_limit(fov) == 3
    assert (truth.thin == (label & (np.arange(580) < 200)[:, None])).all()
    assert (truth.thick == (label & ~truth.thin)).all()
    prediction = label.copy()
    prediction[100:103, 100:325] = False  # 75 of 300 columns stay
    prediction[304:308] = False  # half of the thick one stays
    found = measure(prediction, truth)
    assert tuple(found) == metrics.STRUCTURE
    assert (found["se_thin"], found["se_thick"]) == (0.25, 0.5)
    assert (found["betti0_error"], found["betti1_error"]) == (0, 0)


def test_thin_scales_with_the_field_of_view(eye):
    label, fov = eye
    for scale, limit in ((1, 3), (2, 6), (6, 18), (0.5, 2), (0.1, 1)):
        size = round(560 * scale), round(580 * scale)
        assert thin_limit(cv2.resize(fov.astype(np.uint8), size) > 0) == limit
    cut = fov.copy()
    cut[:60] = cut[-60:] = False  # a camera that crops the disc sees the same eye
    assert thin_limit(cut) == 3
    double = [np.repeat(np.repeat(m, 2, 0), 2, 1) for m in eye]
    small, large = (truths(*pair, ["frame"])["frame"] for pair in (eye, double))
    assert large.thin.sum() == 4 * small.thin.sum() and large.thick.sum() == 4 * small.thick.sum()


def test_the_region_empties_both_masks_outside(eye):
    label, fov = eye
    fov = fov & (np.abs(np.arange(560) - 280) > 20)  # each vessel becomes two, none thinner
    inside, frame = truths(label, fov, ["fov", "frame"]).values()
    prediction = label.copy()
    prediction[0:2, :] = True  # outside the field of view
    assert measure(prediction, inside) == measure(label, inside)
    assert measure(label, inside)["cldice"] == 1 and inside.betti == (4, 0)
    found = measure(prediction, frame)
    assert found["betti0_error"] == 1 and found["cldice"] < 1
    assert (inside.thin == (frame.thin & fov)).all()


def test_what_is_undefined_is_nan(eye):
    label, fov = eye
    empty = np.zeros_like(label)

    def undefined(prediction, label, fov, region="fov"):
        found = measure(prediction, truths(label, fov, [region])[region])
        return found, {k for k, v in found.items() if np.isnan(v)}

    assert undefined(label, label, empty)[1] == set(metrics.STRUCTURE)  # no pixel in the region
    found, names = undefined(label, label, empty, "frame")
    assert names == {"se_thin", "se_thick"} and found["cldice"] == 1  # no field of view
    whole = np.ones_like(label)  # which is what sets have that know none
    assert undefined(label, label, whole)[1] == {"se_thin", "se_thick"}
    found, names = undefined(empty, label, fov)
    assert not names and found["cldice"] == found["se_thin"] == 0 and found["betti0_error"] == 2
    found, names = undefined(label, empty, fov)
    assert names == {"se_thin", "se_thick"} and found["cldice"] == 0 == found["betti1_error"]
    found, names = undefined(empty, empty, fov)
    assert names == {"cldice", "se_thin", "se_thick"} and found["betti0_error"] == 0
    thick = label & (np.arange(580) > 200)[:, None]
    assert undefined(label, thick, fov)[1] == {"se_thin"}
    assert undefined(label, label & ~thick, fov)[1] == {"se_thick"}

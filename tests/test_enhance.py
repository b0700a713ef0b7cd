"""The steps of BCDU-Net's preprocessing, and why its standardisation is left out."""

import cv2
import numpy as np
import pytest

from resegment.enhance import STEPS, enhance


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.random((60, 70, 3)), (0, 0), 4)
    return np.rint(40 + 150 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def test_gray_is_luma_on_three_channels(image):
    gray = enhance(image, ["gray"])
    assert np.array_equal(gray[..., 0], gray[..., 1]) and np.array_equal(gray[..., 0], gray[..., 2])
    assert np.abs(gray[..., 0] - image @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_the_stretch_of_an_image_undoes_the_standardisation_of_the_set(image):
    """Gray -> (x - mean) / deviation of any set -> per-image 0..255 is gray -> 0..255."""
    gray = enhance(image, ["gray"])[..., 0].astype(np.float64)
    for mean, deviation in ((101.3, 37.7), (12.0, 3.3)):
        x = (gray - mean) / deviation
        x = 255 * (x - x.min()) / (x.max() - x.min())
        ours = enhance(image, ["gray", "stretch"])[..., 0]
        assert np.abs(x - ours).max() <= 0.5 + 1e-6  # rounding alone
        assert ours.min() == 0 and ours.max() == 255


def test_gamma_lightens_and_keeps_the_ends():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    out = enhance(ramp, ["gamma"])[0, :, 0].astype(int)
    assert out[0] == 0 and out[255] == 255 and (np.diff(out) >= 0).all()
    assert out[64] == round(255 * (64 / 255) ** (1 / 1.2))


def test_equalising_raises_the_contrast_of_a_flat_image(image):
    flat = (image // 8 + 100).astype(np.uint8)
    assert enhance(flat, ["clahe"]).std() > 1.3 * flat.std()


def test_a_constant_image_stays_finite_and_steps_keep_the_shape():
    constant = np.full((20, 30, 3), 77, np.uint8)
    out = enhance(constant, list(STEPS))
    assert out.shape == constant.shape and out.dtype == np.uint8
    assert enhance(constant, []) is constant

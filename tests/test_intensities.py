"""What can be an image, which of its pixels are used, and that its unit does not matter."""

import numpy as np
import pytest
from drawing import draw_image

from bayesctx.micrograph import check_image, fit_lattice, standardize

BAD = {
    "zeros": (np.zeros((64, 64)), ValueError, "got 0.0 in every pixel; check the detector"),
    "constant": (np.full((64, 64), 7, np.uint16), ValueError, "got 7 in every pixel"),
    "nan": (np.full((64, 64), np.nan), ValueError, "got 0 of 4096 that are not masked, NaN"),
    "nearly masked": (
        np.ma.masked_array(np.arange(4096.0).reshape(64, 64), np.arange(4096).reshape(64, 64) > 99),
        ValueError,
        "got 100 of 4096 .*; check the mask",
    ),
    "colours": (
        np.ones((64, 64, 3), np.uint8),
        ValueError,
        "as of colours; pass the data of one detector",
    ),
    "colours first": (np.ones((4, 64, 64), np.uint8), ValueError, "as of colours"),
    "detectors": (np.ones((2, 64, 64)), ValueError, "pass one frame of one detector"),
    "row": (np.ones(64), ValueError, "pass one frame of one detector"),
    "empty": (np.ones((0, 64)), ValueError, "pass an image, not a patch"),
    "patch": (np.random.default_rng(0).random((20, 64)), ValueError, "pass an image, not a patch"),
    "complex": (
        np.ones((64, 64), complex),
        TypeError,
        "real numbers was expected, got an array of complex128",
    ),
    "mask": (np.eye(64) > 0, TypeError, "got an array of bool"),
    "names": (np.full((64, 64), "W"), TypeError, "got an array of <U1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused(name):
    values, error, message = BAD[name]
    for check in (check_image, standardize, fit_lattice):
        with pytest.raises(error, match=message) as caught:
            check(values)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        (np.ones((64, 64)), TypeError, "valid was expected to be boolean, got an array of float64"),
        (np.ones((64, 63), bool), ValueError, r"shape \(64, 64\) of the image, got \(64, 63\)"),
        (np.zeros((64, 64), bool), ValueError, "at least 900 valid pixels were expected, got 0"),
    ],
)
def test_what_is_no_mask_is_refused(valid, error, message):
    image = np.random.default_rng(0).random((64, 64))
    with pytest.raises(error, match=message):
        check_image(image, valid)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float16, np.float64])
def test_numbers_of_any_kind_pass(dtype):
    assert check_image(np.arange(40 * 50).reshape(40, 50).astype(dtype)) is None


COUNTS = draw_image((96, 110), 8.0)[0]
UNITS = {
    "1e-300": COUNTS * 1e-300,
    "1e300": COUNTS * 1e300,
    "ends of the range": (COUNTS - 20) / 100 * 1.7e308,
    "offset": COUNTS + 5e6 * COUNTS.std(),
    "negative": COUNTS - 1000,
    "uint32": COUNTS.astype(np.uint32) + np.uint32(2**31),
    "int32": (COUNTS - 2**31).astype(np.int32),
    "int64": COUNTS.astype(np.int64) - np.int64(2**62) - np.int64(2**62),
    "uint64": COUNTS.astype(np.uint64) + np.uint64(2**64 - 1000),
    "half": COUNTS.astype(np.float16),
}


@pytest.mark.parametrize("name", UNITS)
def test_unit_offset_and_kind_of_number_do_not_matter(name):
    """Up to the rounding of the numbers as they came: the offset of 5e6 deviations has 1e-9."""
    expected, found = standardize(COUNTS), standardize(UNITS[name])
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    lattice, same = fit_lattice(COUNTS), fit_lattice(UNITS[name])
    assert np.allclose(lattice.vectors, same.vectors, atol=1e-4)
    assert np.allclose(lattice.origin, same.origin, atol=1e-3)


def test_standard_intensities_have_zero_median_and_unit_deviation():
    image = np.random.default_rng(0).normal(7.0, 3.0, (200, 300))
    standard = standardize(image)
    # 60 000 values: errors of 0.005
    assert abs(np.median(standard)) < 1e-6
    assert standard.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("counts", [0.01, 0.1, 0.5])
def test_few_counts_have_a_unit(counts):
    standard = standardize(np.random.default_rng(0).poisson(counts, (200, 300)))
    assert np.isfinite(standard).all()
    assert standard.min() == 0
    assert 1 < standard.max() < 100


def test_hot_pixels_do_not_set_the_unit():
    hot = COUNTS.copy()
    hot[::17, ::19] = 1e200
    standard, expected = standardize(hot), standardize(COUNTS)
    rest = np.ones(COUNTS.shape, bool)
    rest[::17, ::19] = False
    # a third of a per cent of the pixels moves the quantiles by as much
    assert np.abs(standard - expected)[rest].max() < 0.15
    assert standard.max() == 1e6


def test_pixels_that_are_not_valid_are_nan():
    valid = np.random.default_rng(1).random(COUNTS.shape) < 0.7
    holes = np.where(valid, COUNTS, np.nan)
    expected = standardize(COUNTS, valid)
    assert np.array_equal(np.isfinite(expected), valid)
    for same in (holes, np.ma.masked_array(COUNTS, ~valid), np.where(valid, COUNTS, -np.inf)):
        assert np.array_equal(standardize(same), expected, equal_nan=True)
    with_mask = standardize(
        np.ma.masked_array(COUNTS, ~valid), np.arange(110) < np.full(96, 60)[:, None]
    )
    assert np.array_equal(np.isfinite(with_mask), valid & (np.arange(110) < 60))

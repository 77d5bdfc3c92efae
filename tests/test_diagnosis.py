"""What was done to an image is named, and ordinary images are left in peace."""

import numpy as np
import pytest
from drawing import draw_image
from scipy.ndimage import gaussian_filter

from bayesctx import reference_prior, simulate_micrograph
from bayesctx.crystal import HOSTS
from bayesctx.micrograph import diagnose, find_blemishes, fit_lattice, standardize
from bayesctx.micrograph.diagnosis import measure_contrast

SEEDS = range(12)
INSIDE = (slice(176, 181), slice(20, 70))  # of the scale bar


def simulated(seed):
    """192 px of each host in turn, at doses from 3e4 to 1e6."""
    context = {"host": list(HOSTS)[seed % 12], "dose": 10 ** (4.5 + 1.5 * seed / 11)}
    prior = reference_prior().given(context)
    return simulate_micrograph(prior, seed=seed, num_pixels=192, sampling=0.2).intensity.values


IMAGES = [simulated(seed) for seed in SEEDS]


def findings(values, valid=None):
    """Names of all that is found, in the order in which ``infer`` looks."""
    image = standardize(values, valid)
    blemishes = find_blemishes(image)
    for blemish in blemishes:
        image[blemish.pixels] = np.nan
    whole = diagnose(values, np.isfinite(image), fit_lattice(image))
    return {f.name: f for f in (*blemishes, *whole)}


def change_some(image, factor):
    rng = np.random.default_rng(0)
    changed = image.copy()
    changed.ravel()[rng.integers(0, image.size, 8)] = factor * image.max()
    return changed


def burn_in(image, value):
    changed = image.copy()
    changed[INSIDE] = value
    return changed


def display(image, power=1.0, cut=0.5):
    low, high = np.percentile(image, (cut, 100 - cut))
    return np.rint(255 * np.clip((image - low) / (high - low), 0, 1) ** power).astype(np.uint8)


@pytest.mark.parametrize("seed", SEEDS)
def test_ordinary_images_have_no_findings(seed):
    image = IMAGES[seed]
    widest = (2 * (image.astype(float) - image.min()) / np.ptp(image) - 1) * 1.7e308
    forms = (image, gaussian_filter(image, 0.8), 1e-12 * image, image - 1000, widest)
    assert [findings(form) for form in forms] == [{}] * 5


SPOILED = {
    "inverted": lambda image: image.max() - image,
    "hot pixels": lambda image: change_some(image, 3.0),
    "scale bar": lambda image: burn_in(image, image.max()),
    "padding": lambda image: np.pad(image, ((0, 20), (15, 0))),
    "clipped": lambda image: np.clip(image, *np.percentile(image, (2, 98))),
    "display": display,
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_was_done_to_an_image_is_named(name):
    for image in IMAGES:
        found = findings(SPOILED[name](image))
        assert name in found
        message = found[name].message
        assert "expected, got" in message
        assert ";" in message
        assert "\n" not in message


@pytest.mark.parametrize("image", [-IMAGES[3], 255 - display(IMAGES[3])])
def test_dark_columns_are_inverted_in_any_unit(image):
    assert "inverted" in findings(image)


def test_compressed_grey_scales_are_found_where_noise_tells():
    """A square root makes the noise of counts the same everywhere; little noise hides it."""
    found = [findings(np.sqrt(np.clip(v - v.min(), 0, None))) for v in IMAGES]
    assert sum("gamma" in f for f in found) >= 6
    assert all(set(f) <= {"gamma"} for f in found)


def test_marked_pixels_are_those_that_were_changed():
    for image in IMAGES:
        bar = findings(burn_in(image, image.max()))["scale bar"].pixels
        assert bar[INSIDE].all()
        assert bar.sum() < 1.5 * bar[INSIDE].size + 200
        hot = change_some(image, 5.0)
        assert (findings(hot)["hot pixels"].pixels == (hot != image)).all()
        padded = findings(np.pad(image, ((0, 20), (15, 0))))["padding"].pixels
        assert padded[192:].all()
        assert padded[:, :15].all()
        assert padded[:192, 15:].mean() < 0.01


def test_masked_values_are_not_looked_at():
    """Neither a bar under a mask nor other values there are found."""
    valid = np.ones((192, 192), bool)
    valid[170:185, 10:80] = False
    for content in (0.0, 1e9, np.nan, IMAGES[2].max()):
        assert findings(np.where(valid, IMAGES[2], content), valid) == {}


def test_stretched_cells_are_named():
    strain = ((1.06, 0.0), (0.0, 0.94))
    image, *_ = draw_image((256, 256), 12.0, counts=50.0, strain=strain)
    found = findings(image)
    assert "got one stretched 1.13 times at" in found["stretched"].message
    assert "stretched" not in findings(draw_image((256, 256), 12.0, counts=50.0)[0])


def test_polarity_is_that_of_the_columns():
    image, *_ = draw_image((200, 200), 12.0, counts=100.0)
    bright, dark = (measure_contrast(standardize(v), fit_lattice(v)) for v in (image, -image))
    assert bright.polarity == pytest.approx(1.0, abs=0.02)
    assert dark.polarity == pytest.approx(-1.0, abs=0.02)
    # the variance of counts is their mean: more where columns are
    assert bright.noise > 0.3
    assert bright.significance > 50

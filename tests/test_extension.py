"""The crystal beyond the border of its image and under a mask."""

import numpy as np
import pytest
from drawing import draw_image, make_lattice
from scipy.ndimage import distance_transform_edt

from bayesctx.micrograph import (
    extend_image,
    find_sites,
    fit_lattice,
    has_own_pixels,
    standardize,
)


def test_the_crystal_goes_on_beyond_the_border():
    """A field that is cropped and extended again is the same up to noise and interpolation."""
    whole, _, _ = draw_image((220, 240), 12.0, counts=1e4)
    margin = 25
    inner = whole[margin:-margin, margin:-margin]
    extended = extend_image(inner, fit_lattice(inner), margin)
    assert extended.shape == whole.shape
    assert np.array_equal(extended[margin:-margin, margin:-margin], inner.astype(np.float32))
    ring = np.ones(whole.shape, bool)
    ring[margin:-margin, margin:-margin] = False
    # linear interpolation flattens the columns a little, and two corners have nothing further in
    # to be copied from
    error = np.abs(extended - whole)[ring] / whole.std()
    assert np.quantile(error, 0.9) < 0.15
    mirrored = np.pad(inner, margin, mode="reflect")
    assert np.median(error) < 0.2 * np.median(np.abs(mirrored - whole)[ring] / whole.std())


MASKS = {
    "corner": lambda y, x: (y < 40) & (x < 60),
    "border": lambda y, x: (y < 15) | (x > 215),
    "bar": lambda y, x: (abs(y - 180) < 6) & (abs(x - 60) < 40),
    "pixels": lambda y, x: (y % 17 == 3) & (x % 13 == 5),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_masked_is_filled_by_the_crystal(name):
    image, *_ = draw_image((220, 240), 12.0, counts=1e4)
    invalid = MASKS[name](*np.mgrid[:220, :240])
    holes = np.where(invalid, np.nan, image)
    margin = 25
    extended = extend_image(holes, fit_lattice(holes), margin)
    assert np.isfinite(extended).all()
    inner = extended[margin:-margin, margin:-margin]
    assert np.array_equal(inner[~invalid], image.astype(np.float32)[~invalid])
    # further inside stands the median, which is wrong by a whole standard deviation
    near = invalid & (distance_transform_edt(invalid) <= margin)
    error = np.abs(inner - image)[near] / image.std()
    assert np.quantile(error, 0.9) < 0.15


def test_sites_on_masked_pixels_have_none_of_their_own():
    lattice = make_lattice()
    sites, _ = find_sites(lattice, lattice.shape, margin=0)
    image = np.ones(lattice.shape)
    assert has_own_pixels(image, lattice, sites).all()
    image[:50] = np.nan
    own = has_own_pixels(image, lattice, sites)
    # the window has a standard deviation of 1.4 px
    assert not own[sites[:, 0] < 49].any()
    assert own[sites[:, 0] > 52].all()
    single = np.ones(lattice.shape)
    single[tuple(np.rint(sites[len(sites) // 2]).astype(int))] = np.nan
    assert has_own_pixels(single, lattice, sites).all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30, 0.0, 1e300])
def test_masked_values_change_nothing(garbage):
    """Neither lattice nor extension, bit for bit; and both are close to those of the image."""
    image, *_ = draw_image((200, 230), 10.0, distortion=1.0)
    valid = ~(MASKS["corner"](*np.mgrid[:200, :230]) | MASKS["bar"](*np.mgrid[:200, :230]))
    first, other = image.copy(), image.copy()
    first[~valid], other[~valid] = 12345.0, garbage
    lattice, same = fit_lattice(first, valid), fit_lattice(other, valid)
    for name in ("vectors", "origin", "displacement"):
        assert np.array_equal(getattr(lattice, name), getattr(same, name))
    extended = [extend_image(standardize(v, valid), lattice, 20) for v in (first, other)]
    assert np.array_equal(*extended)
    whole = fit_lattice(image)
    assert same.lattice_constant == pytest.approx(whole.lattice_constant, rel=2e-3)
    positions = find_sites(whole, image.shape, margin=0)[0]
    own = positions[has_own_pixels(np.where(valid, 1.0, np.nan), whole, positions)]
    masked = find_sites(same, image.shape, margin=-5)[0]
    apart = np.linalg.norm(own[:, None] - masked, axis=-1).min(1)
    # they differ by the noise of the windows that the mask cuts
    assert np.sqrt((apart**2).mean()) < 0.1

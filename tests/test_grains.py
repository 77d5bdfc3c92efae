"""Grains of a polycrystal: which pixels belong to which, and each read by itself."""

import re
import warnings

import numpy as np
import pytest
import xarray as xr
from drawing import draw_image

import bayesctx as bc
from bayesctx.micrograph import label_grains, standardize

SIDE, CONSTANT = 300, 14.0


def polycrystal(*angles, counts=50.0, seed=0):
    """An image with as many grains as angles, and the true labels: strips that are slanted."""
    y, x = np.mgrid[:SIDE, :SIDE]
    parts = [
        draw_image((SIDE, SIDE), CONSTANT, counts=counts, angle=a, seed=seed + k)[0]
        for k, a in enumerate(angles)
    ]
    # the first is the largest
    share = (x + 0.4 * y) / (1.4 * SIDE)
    edges = np.cumsum([1.5 / (len(angles) + 0.5), *[1 / (len(angles) + 0.5)] * (len(angles) - 1)])
    label = np.searchsorted(edges[:-1], share)
    return np.choose(label, parts), label + 1


def agreement(found, label):
    """Share of the pixels farther than a lattice constant from any boundary that are right."""
    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        for step in (-CONSTANT, CONSTANT):
            edge |= np.roll(label, int(step), axis) != label
    return (found == label)[~edge].mean()


@pytest.mark.parametrize("angles", [(0.1, 0.6), (0.0, 0.15), (0.1, 0.45, 0.8)])
def test_grains_are_told_apart(angles):
    image, label = polycrystal(*angles)
    found, lattices = label_grains(standardize(image))
    assert len(lattices) == len(angles)
    # lattices that are turned by a few degrees only look alike beside the boundary
    assert agreement(found, label) > 0.94
    sizes = [np.count_nonzero(found == k + 1) for k in range(len(angles))]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_one_crystal_is_one_grain(seed):
    prior = bc.reference_prior().given({"dose": 1e5, "host": list(bc.HOSTS)[seed]})
    image = bc.simulate_micrograph(prior, seed=seed, num_pixels=256, sampling=0.2).intensity.values
    found, lattices = label_grains(standardize(image))
    assert len(lattices) == 1
    assert (found == 1).mean() > 0.9
    # vacuum is no grain
    y, x = np.mgrid[:256, :256]
    empty = np.random.default_rng(seed).poisson(0.5, image.shape)
    found, lattices = label_grains(standardize(np.where(x > 170, empty, image)))
    assert len(lattices) == 1
    assert not found[x > 185].any()
    assert (found == 1)[x < 160].mean() > 0.9


def test_labels_have_the_coordinates_of_the_image():
    image, label = polycrystal(0.1, 0.6)
    y = xr.DataArray(0.2 * np.arange(SIDE), dims="y", attrs={"units": "Å"})
    given = xr.DataArray(np.stack([image, image]), {"y": y}, ("detector", "y", "x"))
    masked = np.ones(image.shape, bool)
    masked[:, :20] = False
    found = bc.find_grains(given, valid=masked)
    assert found.dims == ("y", "x")
    assert found.y.attrs == y.attrs
    assert not found[:, :20].any()
    assert agreement(found.values[:, 20:], label[:, 20:]) > 0.97


def test_patches_are_refused():
    with pytest.raises(ValueError, match=r"a micrograph \(y, x\) or \(detector, y, x\)"):
        bc.find_grains(np.ones((3, 2, 2)) + np.arange(12).reshape(3, 2, 2))


def test_each_grain_is_read_by_itself():
    """The sites of all grains together are those of the image, and infer names the others."""
    image, label = polycrystal(0.1, 0.6)
    context = {"host": "WSe2", "sampling": 3.28 / CONSTANT}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        bc.infer(image, context, likelihood="network")
    (said,) = (str(w.message) for w in caught if "grains" in str(w.message))
    assert re.search(r"got 2 grains of \d+ px² and \d+ px²", said)
    grain = bc.find_grains(image)
    number = 0
    for k in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes; a drawing is no simulation
            result = bc.infer(image, context, valid=(grain == k).values, likelihood="network")
        data = result["constant_data"]
        at = np.rint([data.site_y, data.site_x]).astype(int)[:, data.crystal.values.astype(bool)]
        assert (label[tuple(at)] == k).mean() > 0.97
        number += at.shape[1]
    # three sites in each cell
    assert number == pytest.approx(3 * SIDE**2 / (CONSTANT**2 * 0.75**0.5), rel=0.08)

"""Predicted images look like the image, and the crystal goes on beyond the border."""

import numpy as np
import pytest
import torch
import xarray as xr
from crystal_results import LATTICE, draw_crystal
from drawing import draw_sites
from scipy.spatial import cKDTree

import bayesctx as bc
from bayesctx.prediction import PADDING, _continue, _expose, predict_images

RING = {"inner_collection_angle": 60.0, "outer_collection_angle": 200.0}
KNOWN = {"host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "convergence_semiangle": 30.0}


@pytest.fixture(scope="module")
def result():
    given = KNOWN | RING | {"dose": 1e5, "defocus": 0.0}
    prior = bc.reference_prior().given(given)
    data = bc.simulate_micrograph(prior, seed=2, num_pixels=140, sampling=0.2)
    return bc.infer(data.intensity, given, likelihood="network", num_draws=64)


def test_predicted_images_resemble_the_image(result):
    observed = result["observed_data"].intensity.values
    images = predict_images(result, num_draws=5)
    assert images.dims == ("chain", "draw", "y", "x")
    for image in images.values[0]:
        # noise, displacements, rows and the width of the source are drawn anew
        alike = np.corrcoef(image.ravel(), observed.ravel())[0, 1]
        assert alike > 0.6 > 2 * np.corrcoef(image[::-1].ravel(), observed.ravel())[0, 1]
        assert image.mean() == pytest.approx(observed.mean(), rel=0.02)
    # the border is as bright as the rest
    edge = np.ones_like(observed, bool)
    edge[6:-6, 6:-6] = False
    ratio = images.values[0][:, edge].mean() / images.values[0][:, ~edge].mean()
    assert ratio == pytest.approx(observed[edge].mean() / observed[~edge].mean(), rel=0.05)


def test_predictions_are_reproducible_and_leave_the_state_of_torch(result):
    state = torch.random.get_rng_state()
    first, second = (predict_images(result, num_draws=2, seed=3) for _ in range(2))
    assert first.identical(second)
    assert torch.equal(state, torch.random.get_rng_state())
    other = predict_images(result, num_draws=2, seed=4)
    assert not np.array_equal(first.values, other.values)
    assert predict_images(result, num_draws=1000).sizes["draw"] == 64


def test_several_detectors_are_predicted_together(result):
    both = result.copy()
    image = result["observed_data"].intensity.values
    both["observed_data"] = xr.Dataset(
        {"intensity": (("detector", "y", "x"), np.stack([image, 2 * image]))},
        {"detector": ["ADF1", "ADF2"]},
    )
    constants = result["constant_data"].to_dataset()
    angles = {n: ("detector", [v, v + 10]) for n, v in RING.items()}
    both["constant_data"] = constants.drop_vars(list(RING)).assign(angles)
    images = predict_images(both, num_draws=2)
    assert images.dims == ("chain", "draw", "detector", "y", "x")
    assert images.detector.values.tolist() == ["ADF1", "ADF2"]
    ratio = images.mean(("chain", "draw", "y", "x"))
    assert ratio[1] / ratio[0] == pytest.approx(2, rel=0.01)


def test_the_crystal_goes_on_beyond_the_border():
    places, sublattice = draw_sites((120, 90), LATTICE)
    places = places[:, ::-1]  # x, y
    limits, margin = np.array([90, 120]), PADDING / 0.2
    inside = ((places > -0.5) & (places < limits - 0.5)).all(1)
    spacing = LATTICE / 3**0.5
    found, kind = _continue(
        places[inside], sublattice[inside], sublattice[inside], (120, 90), spacing, 0.2
    )
    _, far = draw_crystal(1, shape=(120, 90))[1:]
    wide, kinds = draw_sites((120, 90), LATTICE)
    wide = wide[:, ::-1]
    distance, nearest = cKDTree(found).query(wide[~inside])
    # the drawn sites reach 5 px beyond the border
    assert distance.max() < 1e-6 * margin
    assert (kind[nearest] == kinds[~inside]).all()
    assert len(far)
    apart = cKDTree(np.concatenate([places[inside], found])).query(found, 2)[0][:, 1]
    assert apart.min() == pytest.approx(spacing, rel=1e-6)


def test_gain_background_and_noise_are_those_of_the_image():
    rng = np.random.default_rng(0)
    clean = 0.01 + 0.02 * rng.random((1, 300, 300))
    y, x = np.indices((300, 300)) / 300 - 0.5
    exposure = 1e4
    observed = 3.0 * rng.poisson(exposure * clean) + 40 + 20 * x - 30 * y
    image = _expose(clean, observed, np.ones((300, 300), bool), exposure, rng)
    expected = 3.0 * exposure * clean + 40 + 20 * x - 30 * y
    residual = image - expected
    assert residual.mean() == pytest.approx(0, abs=4 * residual.std() / 300)
    # electrons of the background have noise as well
    variance = 9.0 * (exposure * clean + (40 + 20 * x - 30 * y) / 3)
    # the variance of 90000 values is known to 0.5 %
    assert residual.var() == pytest.approx(variance.mean(), rel=0.02)


def test_patches_have_no_sites_to_predict():
    data = bc.simulate(bc.reference_prior(), 4, seed=2)
    patches = bc.infer(data.intensity, {}, num_draws=64)
    with pytest.raises(ValueError, match="a result of a micrograph was expected"):
        predict_images(patches)

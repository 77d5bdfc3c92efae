"""Several detectors of one scan, read together: checks, coordinates, and the result."""

import json
import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from crystals import PRIOR, RINGS, noisy_crystal
from scipy.stats import ks_2samp
from test_worlds import SHORT

import bayesctx as bc
from bayesctx.cli import summaries
from bayesctx.inference import candidates
from bayesctx.inference.detectors import check_rings, detector_names
from bayesctx.inference.placement import place_sites
from bayesctx.metrics import match_sites
from bayesctx.scan import Coordinates, sampling
from bayesctx.scan.occupation import draw_occupation

ANGLES = {
    "ADF1": {"inner_collection_angle": 60.0, "outer_collection_angle": 200.0},
    "ADF2": {"inner_collection_angle": 31.0, "outer_collection_angle": 60.0},
}
KNOWN = {"host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "convergence_semiangle": 30.0}
NAMES = tuple(ANGLES)


@pytest.fixture(scope="module")
def data():
    prior = bc.reference_prior().given(KNOWN | {"defocus": 0.0, "dose": 1e5})
    return bc.simulate_micrograph(prior, seed=4, num_pixels=80, sampling=0.25, detectors=ANGLES)


def read(data, context, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mixed chains were expected", UserWarning)
        return bc.infer(data.intensity, context, **{"num_draws": 40} | options)


@pytest.fixture(scope="module")
def result(data):
    soft = {"inner_collection_angle": dist.Uniform(30.0, 40.0)}
    known = KNOWN | {"sampling": 0.25, "dose": 1e5, "detector_order": ("ADF2", "ADF1")}
    with pytest.MonkeyPatch.context() as patch:
        # one assignment, by the network, and one mode
        less = {candidates: {"POSSIBLE": 0.4}, sampling: {"REMOTE": 1e-3, "WARMUP": 1}}
        for module, values in (*SHORT.items(), *less.items()):
            for name, value in values.items():
                patch.setattr(module, name, value)
        return read(data, known | {"detector": {"ADF1": ANGLES["ADF1"], "ADF2": soft}})


def test_what_a_detector_has_of_its_own_is_told_by_its_name(data, result):
    drawn = result["posterior"].to_dataset()
    assert drawn.detector.values.tolist() == list(NAMES)
    for name in ("inner_collection_angle", "outer_collection_angle", "gain", "amplitude_scatter"):
        assert drawn[name].dims == ("chain", "draw", "detector")
    assert drawn.defocus.dims == drawn.row_jitter.dims == ("chain", "draw")
    assert drawn.gain.attrs["units"] == drawn.amplitude_scatter.attrs["units"] == "1"
    # what is given of a detector is what it has in every draw
    known = drawn.sel(detector="ADF1")
    assert np.unique(known.inner_collection_angle).tolist() == [60.0]
    inner, outer = (
        drawn[f"{n}_collection_angle"].sel(detector="ADF2").values for n in ("inner", "outer")
    )
    assert ((inner > 30) & (inner < 40) & (outer <= 200)).all()
    before = result["prior"].to_dataset()
    assert before.outer_collection_angle.dims == ("chain", "draw", "detector")
    assert float(before.outer_collection_angle.sel(detector="ADF2").max()) <= 200
    # each has a gain of its own: with the dose known it follows from the signal, whose error is
    # that of the angles in a short chain; the two gains differ by a factor of 4.5
    assert drawn.gain.mean(("chain", "draw")).values == pytest.approx(data.gain.values, rel=0.4)
    named = set(result["sample_stats"]["variable"].values)
    assert named >= {"gain[ADF1]", "gain[ADF2]", "outer_collection_angle[ADF2]", "defocus"}
    correlation = result["sample_stats"].residual_correlation
    assert correlation.dims == ("chain", "draw", "detector", "axis", "lag")
    assert correlation.sizes["detector"] == 2


def test_all_detectors_are_kept_with_what_was_known(data, result):
    assert result["observed_data"].intensity.dims == ("detector", "y", "x")
    assert np.array_equal(result["observed_data"].intensity, data.intensity)
    context = json.loads(result.attrs["context"])
    assert context["detector"]["ADF1"] == ANGLES["ADF1"]
    assert context["detector_order"] == ["ADF2", "ADF1"]
    assert result["sample_stats"].surprise.dims == ("detector", "patch")
    assert result["sample_stats"].conflict.dims == ("detector", "claim")
    assert result["log_likelihood"].image.dims == ("chain", "draw")


def test_detectors_together_find_the_classes(data, result):
    matched, truth = match_sites(data, result)
    found = result["class_posterior"].defect.isel(patch=matched)
    assert (np.array(bc.DEFECTS)[found.values.argmax(-1)] == truth).mean() > 0.95
    assert torch.allclose(torch.tensor(found.sum("defect_class").values), torch.ones(1).double())


def test_results_of_several_detectors_survive_their_file(result, tmp_path):
    path = bc.save(result, tmp_path / "result.nc")
    xr.testing.assert_identical(bc.load(path), result)


def test_figures_and_summaries_are_of_each_detector(result):
    with pytest.raises(ValueError, match="one detector was expected, got 2"):
        bc.plot_context(result)
    bc.plot_context(result.isel(detector=1, missing_dims="ignore"))
    bc.plot_defects(result)
    text = summaries.describe_result(result)
    inner = " ".join(text[text.index("\ninner_collection_angle") :].split())
    assert re.search(r"^inner_collection_angle \[mrad\] ADF1: 60[^;]*; ADF2: 3", inner)


def together(values, names=NAMES):
    return xr.DataArray(values, dims=("detector", "y", "x"), coords={"detector": list(names)})


@pytest.mark.parametrize(
    ("context", "error", "match"),
    [
        ({"inner_collection_angle": 60.0}, ValueError, "angles of each detector were expected"),
        ({"detector": {"ADF3": ANGLES["ADF1"]}}, ValueError, "did you mean 'ADF"),
        ({"detector": {"ADF1": {"dose": 1e4}}}, ValueError, "beside detector"),
        ({"detector": {"ADF1": 60.0}}, TypeError, "a mapping of names"),
        ({"detector": "ADF1"}, TypeError, "a mapping of names"),
        ({"detector": {"ADF1": {"inner_collection_angle": 5.0}}}, ValueError, "between"),
        (
            {"convergence_semiangle": 35.0, "detector": {"ADF2": ANGLES["ADF2"]}},
            ValueError,
            "outside of the probe's cone",
        ),
        ({"detector_order": "ADF1"}, TypeError, "a sequence of names"),
        ({"detector_order": ("ADF1",)}, ValueError, "two or more"),
        ({"detector_order": ("ADF1", "ADF1")}, ValueError, "two or more different"),
        ({"detector_order": ("ADF1", "ADF3")}, ValueError, "detectors among ADF1, ADF2"),
        ({"detectors": {}}, ValueError, "unknown context variable"),
    ],
)
def test_contexts_of_several_detectors_that_cannot_be_are_refused(context, error, match):
    with pytest.raises(error, match=match):
        bc.infer(together(np.zeros((2, 64, 64))), context)


@pytest.mark.parametrize("name", ["detector", "detector_order"])
def test_detectors_of_an_image_without_their_dimension_are_refused(name):
    with pytest.raises(ValueError, match="an image with the dimension detector"):
        bc.infer(np.zeros((64, 64)), {name: {}})


def test_images_of_several_detectors_that_cannot_be_are_refused():
    noise = np.random.default_rng(0).random((2, 64, 64))
    with pytest.raises(ValueError, match="different names"):
        bc.infer(together(noise, ("A", "A")))
    with pytest.raises(ValueError, match="more than 32 pixels"):
        bc.infer(together(noise[:, :20, :20]))
    with pytest.raises(ValueError, match="likelihood='simulator' was expected"):
        bc.infer(together(noise), likelihood="network")
    with pytest.raises(ValueError, match="got 1.0 in every pixel"):
        bc.infer(together(np.stack([noise[0], np.ones((64, 64))])))
    with pytest.raises(ValueError, match="shape \\(64, 64\\)"):
        bc.infer(together(noise), valid=np.ones((2, 64, 64), bool))


def test_detectors_without_a_coordinate_are_numbered():
    image = xr.DataArray(np.zeros((2, 4, 4)), dims=("detector", "y", "x"))
    assert detector_names(image) == ("0", "1")
    assert detector_names(image[0]) == detector_names(image.values) == ()


def test_what_all_detectors_share_is_known_of_each():
    rings = check_rings({"host": "WSe2", "dose": 1e4, "detector": {"ADF1": ANGLES["ADF1"]}}, NAMES)
    assert rings.shared == {"host": "WSe2", "dose": 1e4}
    assert rings.own == [rings.shared | ANGLES["ADF1"], rings.shared]
    assert {"inner_collection_angle", "outer_collection_angle"} <= set(rings.latent())
    both = check_rings({"detector": ANGLES}, NAMES)
    assert not {"inner_collection_angle", "outer_collection_angle"} & set(both.latent())
    assert both.stated() == {"detector": ANGLES}


def test_pixels_that_are_no_measurement_are_left_out_on_all_detectors(data):
    values = data.intensity.values.copy()
    values[1, 30, 40] = 50 * values[1].max()
    with pytest.warns(UserWarning, match="pixel"):
        first, second = place_sites(values, np.ones((80, 80), bool))
    assert np.isnan(first.image[30, 40])
    assert np.isnan(second.image[30, 40])
    assert first.lattice is second.lattice
    # each has its own unit of intensity
    ratio = second.unit / first.unit
    contrast = data.intensity.std(("y", "x")).values
    assert ratio == pytest.approx(float(contrast[1] / contrast[0]), rel=0.5)


def test_detectors_that_are_known_to_be_in_an_order_are():
    rings = [
        {"inner_collection_angle": dist.Uniform(30.0, 90.0), "outer_collection_angle": 200.0}
    ] * 2
    given = PRIOR.conditions[0], PRIOR.nuisances, rings
    free, ordered = Coordinates(*given), Coordinates(*given, (1, 0))
    names = free.names
    assert [n for n in names if "collection" in n] == [
        "inner_collection_angle_0", "inner_collection_angle_1",
    ]  # fmt: skip
    z = ordered.draw(2000, torch.Generator().manual_seed(0))
    inner = ordered.values(z)["inner_collection_angle"]
    assert inner.shape == (2000, 2)
    assert bool((inner[:, 1] <= inner[:, 0]).all())
    # draws without an order, of which those are kept that are in it
    other = free.draw(8000, torch.Generator().manual_seed(1))
    other = free.values(other)["inner_collection_angle"]
    other = other[other[:, 1] <= other[:, 0]]
    for k in range(2):
        # of two samples, by the test of Kolmogorov and Smirnov
        assert ks_2samp(inner[:, k].numpy(), other[:, k].numpy()).pvalue > 1e-3
    # and back
    at = {n: v[0] for n, v in ordered.values(z[:1]).items()}
    again = ordered.values(ordered.of(at)[None])["inner_collection_angle"]
    assert torch.allclose(again, inner[:1], rtol=1e-5)
    placed = free.values(free.place({"inner_collection_angle": inner.flip(-1)}, z))
    assert torch.allclose(placed["inner_collection_angle"], inner.flip(-1), rtol=1e-5)


def test_two_detectors_tell_a_site_better_than_one():
    """Mean entropy of sites at a low dose, with everything else known."""
    scan, world, view = noisy_crystal(pixels=40, noise=0.5, rings=RINGS)
    entropies = []
    for kept in ([0], [1], [0, 1]):
        variance = torch.full_like(view.variance, math.inf)
        variance[kept] = view.variance[kept]
        seen = replace(view, variance=variance)
        _, probability = draw_occupation(scan, world, seen, scan.colours(), None)
        found = probability[scan.inside].double()
        entropies.append(float(-torch.special.xlogy(found, found).sum(-1).mean()))
    assert entropies[2] < min(entropies[:2])

"""Micrographs read by all of their pixels: contract of the result, joint draws, convergence."""

import json
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import softmax

import bayesctx as bc
from bayesctx.crystal import HOSTS, METALS
from bayesctx.exact import long_chains
from bayesctx.inference import candidates, choice, claims, misfit, whole_image, worlds
from bayesctx.inference.choice import is_by_pixels
from bayesctx.inference.convergence import diagnose_chains, warn_of_chains
from bayesctx.inference.detectors import check_rings
from bayesctx.inference.inputs import read_inputs
from bayesctx.inference.worlds import PixelReading
from bayesctx.metrics import match_sites
from bayesctx.scan import Candidate, Coordinates, Weight, chain, contenders, fits, search

KNOWN = {
    "host": "WSe2", "beam_energy": 80e3, "convergence_semiangle": 30.0,
    "inner_collection_angle": 60.0, "outer_collection_angle": 200.0, "dose": 1e5,
}  # fmt: skip
SHORT = {
    candidates: {"NUM_POINTS": 8},
    chain: {"EXPLORED": 2, "PER_HEAT": 1},
    fits: {"HOT_DOSE": 1e7, "LEAST_HEAT": 2.5, "DRAWS_PER_HEAT": 2},
    search: {"NUM_TRIED": 8, "NUM_CLIMBED": 2, "NUM_FITTED": 2, "MORE_ANNEALED": 0},
    # a search of its own for every claim
    whole_image: {"conflict_by_pixels": lambda *arguments: {}},
}
"""A search and chains that are too short to be good, but pass through everything."""


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        for module, values in SHORT.items():
            for name, value in values.items():
                patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def data():
    prior = bc.reference_prior().given(KNOWN | {"dopant": "Ti", "defocus": 0.0})
    return bc.simulate_micrograph(prior, seed=4, num_pixels=80, sampling=0.25)


def read(data, context, **options):
    """Few draws, whose convergence is not the point."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mixed chains were expected", UserWarning)
        options = {"num_draws": 40, "likelihood": "simulator"} | options
        return bc.infer(data.intensity, context, **options)


@pytest.fixture(scope="module")
def result(data):
    return read(data, KNOWN)


def test_draws_have_chains_and_units(data, result):
    drawn = result["posterior"].to_dataset()
    assert dict(drawn.sizes)["chain"] == 4
    assert dict(drawn.sizes)["draw"] == 2
    assert set(drawn.data_vars) >= {
        "defocus", "source_size", "focal_spread", "C12", "phi12", "tilt", "vibration", "sampling",
        "gain", "row_jitter", "amplitude_scatter", "concentration", "defect", "dopant",
    }  # fmt: skip
    assert drawn.source_size.attrs["units"] == "Å"
    assert drawn.sampling.attrs["units"] == "Å/px"
    # what is known is not inferred
    assert not {"beam_energy", "host", "dose"} & set(drawn.data_vars)
    assert result["log_likelihood"].image.dims == ("chain", "draw")
    assert set(result["sample_stats"]["variable"].values) >= {"defocus", "C12"}


def test_residuals_of_draws_are_noise_of_single_pixels(result):
    found = result["sample_stats"].residual_correlation
    assert found.dims == ("chain", "draw", "axis", "lag")
    assert found.axis.values.tolist() == ["y", "x"]
    assert found.lag.values.tolist() == [1, 2]
    # chance of one in the root of 6400 pixels, and what sites and rows take of the noise
    assert float(abs(found).max()) < 0.1


def test_probabilities_are_those_of_the_draws(result):
    classes = result["class_posterior"].to_dataset()
    assert np.allclose(classes.defect.sum("defect_class"), 1, atol=1e-5)
    assert np.allclose(classes.assignment.sum(), 1)
    doped = classes.defect.sel(defect_class="D_M")
    assert np.allclose(classes.dopant_at_site.sum("dopant_class"), doped, atol=1e-5)
    # each class has its share on its own kind of site
    shares = result["posterior"].concentration.values
    metal = [bc.DEFECTS.index(d) for d in bc.defects.SITES["metal"]]
    assert np.allclose(shares[..., metal].sum(-1), 1, atol=1e-4)


def test_what_is_certain_is_right(data, result):
    matched, truth = match_sites(data, result)
    found = result["class_posterior"].defect.isel(patch=matched).values
    answer = np.array(bc.DEFECTS)[found.argmax(-1)]
    # metal, chalcogen and hollow, even by a short search
    kinds = {d: k for k, names in bc.defects.SITES.items() for d in reversed(names)}
    assert np.mean([kinds[a] == kinds[t] for a, t in zip(answer, truth, strict=True)]) > 0.9


@pytest.mark.slow
def test_the_seed_determines_the_draws(data, result):
    again = read(data, KNOWN)
    xr.testing.assert_identical(again, result)


def test_results_survive_their_file(result, tmp_path):
    path = bc.save(result, tmp_path / "result.nc")
    xr.testing.assert_identical(bc.load(path), result)


def test_excluded_classes_have_no_probability(data):
    evidence = {"dopant": None, "abundance": {"Y_X": 0.0, "O_X": 0.0}}
    result = read(data, KNOWN | evidence, num_draws=4)
    excluded = result["class_posterior"].defect.sel(defect_class=["D_M", "Y_X", "O_X"])
    assert float(excluded.max()) == 0
    assert "dopant_at_site" not in result["class_posterior"]
    assert json.loads(result.attrs["context"])["dopant"] is None


@pytest.mark.slow
def test_pixels_that_are_masked_do_not_matter(data):
    image = data.intensity.values
    mask = np.zeros(image.shape, bool)
    mask[:14, :14] = True
    found = []
    for value in (0.0, image.max()):
        other = np.ma.masked_array(np.where(mask, value, image), mask)
        found.append(read(xr.Dataset({"intensity": (("y", "x"), other)}), KNOWN, num_draws=4))
    assert np.array_equal(*(f["posterior"].defect.values for f in found))


def test_an_unknown_likelihood_is_refused(data):
    with pytest.raises(ValueError, match=r"a likelihood of auto, network, simulator, exact was"):
        bc.infer(data.intensity, KNOWN, likelihood="exactly")


@pytest.mark.parametrize("likelihood", ["simulator", "exact"])
def test_patches_are_not_read_by_all_pixels(data, likelihood):
    patch = data.intensity.values[None, :32, :32]
    with pytest.raises(ValueError, match=r"a micrograph \(y, x\) was expected for likelihood"):
        bc.infer(patch, KNOWN, likelihood=likelihood)


def test_large_images_are_not_read_by_the_exact_model(data, monkeypatch):
    monkeypatch.setattr(choice, "MOST_EXACT", 20)
    with pytest.raises(ValueError, match=r"at most 20 sites were expected .*crop the image"):
        bc.infer(data.intensity, KNOWN, likelihood="exact")


@pytest.mark.slow
def test_the_exact_model_tells_its_own_error(data, monkeypatch, tmp_path):
    monkeypatch.setattr(long_chains, "ROUNDS", 1)
    monkeypatch.setattr(long_chains, "WARMUP", 2)
    monkeypatch.setattr(long_chains, "LEARNT", (1,))
    found = read(data, KNOWN | {"dopant": ["Ti", "Cr"]}, likelihood="exact", num_draws=160)
    classes = found["class_posterior"].to_dataset()
    assert dict(found["posterior"].sizes)["draw"] == 4
    assert np.allclose(classes.defect.sum("defect_class"), 1, atol=1e-5)
    assert set(np.flatnonzero(classes.dopant)) <= {METALS.index("Ti"), METALS.index("Cr")}
    error = classes.defect_error
    assert error.dims == ("patch", "defect_class")
    assert float(error.max()) > 0
    # what is certain in all draws has none
    assert float(error.where(classes.defect.isin([0.0, 1.0])).max()) == 0
    xr.testing.assert_identical(bc.load(bc.save(found, tmp_path / "exact.nc")), found)


def test_the_network_reads_large_images_and_low_doses():
    few, many = (SimpleNamespace(defect=np.zeros((1, n, 13))) for n in (5000, 500_000))
    assert is_by_pixels("auto", few, {"dose": 1e4})
    assert not is_by_pixels("auto", few, {"dose": 1e3})
    assert not is_by_pixels("auto", many, {"dose": 1e4})
    assert is_by_pixels("simulator", many, {"dose": 1e3})
    assert not is_by_pixels("network", few, {"dose": 1e6})


def test_an_image_that_cannot_be_fitted_is_read_by_patches(data, monkeypatch):
    def fail(*arguments, **options):
        raise torch.linalg.LinAlgError("the factorization could not be completed")

    monkeypatch.setattr(whole_image, "solve_by_pixels", fail)
    with pytest.warns(UserWarning, match=r"simulator cannot be fitted .*read by patches; crop"):
        found = bc.infer(data.intensity, KNOWN, num_draws=64)
    assert found["posterior"].sizes["chain"] == 1
    with pytest.raises(ValueError, match="cannot be fitted .*; crop it, or pass likelihood"):
        bc.infer(data.intensity, KNOWN, num_draws=64, likelihood="simulator")


def test_claims_that_pixels_contradict_are_warned_of(data, monkeypatch):
    """Evidence of the pixels is that of the hosts and assignments that patches leave."""
    prior, seen = bc.reference_prior(), []
    coordinates = Coordinates(prior.conditions[0], prior.nuisances)
    middle = torch.zeros(1, len(coordinates.names), dtype=torch.float64)
    values = {n: v[0].tolist() for n, v in coordinates.values(middle).items()}

    def solve(placements, readings, by_patches, *arguments, judge, **options):
        return PixelReading(by_patches, judge(Weight(0.0, 0.0, values, 1e5)), ())

    def weigh(candidates, *, seed):
        free = candidates[0].scan.coordinates.free
        seen.append([c.scan.material.host for c in candidates])
        weight = Weight(100.0 if "beam_energy" in free else -50.0, 0.0, values)
        return dict.fromkeys(range(len(candidates)), weight)

    monkeypatch.setattr(whole_image, "solve_by_pixels", solve)
    monkeypatch.setattr(whole_image, "conflict_by_pixels", claims.conflict_by_pixels)
    monkeypatch.setattr(whole_image, "weigh_scan", weigh)
    with pytest.warns(UserWarning, match=r"speaks against what is known .*beam_energy = 80000"):
        found = bc.infer(data.intensity, KNOWN, num_draws=64, likelihood="simulator")
    conflict = found["sample_stats"].conflict
    # all together, the context again, then host, energy, convergence and detector
    assert len(seen) == 6
    assert len(seen[0]) <= whole_image.MOST_OPEN
    by_claim = {str(c): float(conflict.sel(claim=c)) for c in conflict.claim.values}
    assert by_claim["context"] > 90
    assert by_claim["beam_energy"] > 90
    assert by_claim["detector"] < 0


@pytest.mark.parametrize("known", [{}, {"host": "WSe2"}], ids=["open", "host known"])
@torch.no_grad()
def test_fits_of_another_context_are_candidates_though_patches_leave_them_out(data, known):
    model = bc.load_model().frozen()
    inputs = read_inputs(data.intensity, None, 8.0, model.prior.num_pixels, 0.25)
    rings = check_rings(known | {"sampling": 0.25}, (), model.domains)
    image = whole_image.Micrograph.of(inputs, rings, model, 64, 0)
    found = [[reading.alternative for reading in image.by_patches(rings)[0]]]
    given = image.placements, found, image.every, rings, None, model.prior, 0
    plain = candidates.list_candidates(*given)
    first = plain.candidates[0].scan
    left_out = set(range(len(HOSTS))) - {c.scan.material.host for c in plain.candidates}
    other = replace(first, material=replace(first.material, host=min(left_out)))
    fits_of_it = Weight(0.0, 0.0, scan=other, assignment=3), Weight(0.0, 0.0)
    wider = candidates.list_candidates(*given, near=fits_of_it)
    # one that the context excludes stays out
    added = [] if known else [(min(left_out), 3)]
    assert pairs_of(wider) == pairs_of(plain) + added


def pairs_of(lattices):
    """Host and assignment of the candidates."""
    hosts = [c.scan.material.host for c in lattices.candidates]
    return list(zip(hosts, lattices.assignments, strict=True))


def test_chains_that_have_not_mixed_are_named():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4, 400))
    apart = mixed + np.arange(4)[:, None]
    found = diagnose_chains({"C12": mixed.ravel(), "defocus": apart.ravel()}, 4)
    assert found["C12"][1] < 1.01
    assert found["defocus"][1] > 1.5
    with pytest.warns(UserWarning, match=r"r_hat up to \d\.\d\d for defocus \("):
        warn_of_chains(found, 1600)
    warn_of_chains({"C12": found["C12"]}, 1600)


def test_the_strain_follows_a_stated_size_of_a_pixel():
    prior = bc.reference_prior()
    free = candidates._strain(None, 0.2, prior)
    told = candidates._strain(0.204, 0.2, prior)
    assert free is prior.nuisances["strain"]
    # product of two normal densities: strain .015, calibration .02 around .02
    assert float(told.loc) == pytest.approx(0.02 * 0.015**2 / (0.015**2 + 0.02**2), rel=0.01)
    assert float(told.scale) == pytest.approx(0.012, rel=0.01)


def test_scales_have_the_prior_of_the_model():
    """Those that are numbers are not inferred, also where they are zero."""
    prior = bc.reference_prior()
    given = {"disorder": 0.0, "line_jitter": 0.05, "additivity": (0.5, 2.0)}
    wanted = {
        "row_jitter": (0.02, 0.15), "disorder": (0.01, 0.05), "additivity": (0.0, 5.5),
        "amplitude_scatter": (0.0, 5.5 * 0.03),
    }  # fmt: skip
    for changes, free in (({}, [*wanted]), (given, ["additivity", "amplitude_scatter"])):
        coordinates = Coordinates(prior.conditions[0], {**prior.nuisances, **changes})
        assert [n for n in wanted if worlds._is_free(coordinates, n)] == free
        scan = SimpleNamespace(coordinates=coordinates)
        lattices = SimpleNamespace(candidates=[SimpleNamespace(scan=scan)])
        drawn = worlds._draw_prior(lattices, ["C12", *free], {}, 100, 0)
        assert set(drawn) == {"C12", *free}
        for name in free:
            low, high = wanted[name]
            assert drawn[name].shape == drawn["C12"].shape == (1, 100)
            # bounds are in single precision
            assert low - 1e-6 <= drawn[name].min() < drawn[name].max() <= high + 1e-6
    assert set(drawn["additivity"][0]) == {0.5, 2.0}


def test_the_prior_of_the_dose_is_one_of_its_logarithm():
    log_density = candidates._log_dose(bc.reference_prior().conditions[0]["dose"])
    # uniform in the logarithm from 1e3 to 1e6
    assert log_density(3e4) == pytest.approx(-np.log(np.log(1e3)), abs=0.01)
    assert log_density(1e7) < -20
    known = candidates._log_dose(1e5)
    assert known(1e5) == 0
    assert known(1.01e5) == pytest.approx(-0.5, abs=0.02)
    assert torch.get_num_threads() == 1


def weigh_two(evidence, by_patches, error):
    """Probabilities of two candidates that are equal but for their evidence."""
    equal = [Candidate(None, (0,), math.log(0.5), math.log(p)) for p in by_patches]
    found = [
        contenders.Contender(search.Start(k, None, None, value), [], value)
        for k, value in enumerate(evidence)
    ]
    return contenders._probabilities(found, equal, error)


@pytest.mark.parametrize("by_patches", [(0.5, 0.5), (0.2, 0.8)])
@pytest.mark.parametrize("error", [8.0, 40.0])
def test_probabilities_of_candidates_are_averaged_over_errors_of_their_evidence(by_patches, error):
    evidence, errors = np.array([0.0, -12.0]), np.random.default_rng(0).normal(size=(100_000, 2))
    found = weigh_two(evidence, by_patches, error)
    average = softmax(evidence + error * errors, -1).mean(0)
    # MacKay's approximation is within .03 of the average, to which patches add their odds
    average = average * by_patches / (average @ by_patches)
    np.testing.assert_allclose(found, average, atol=0.06)
    assert found[1] > 0.05  # twelve nats are no certainty


def test_a_context_that_the_image_speaks_against_leaves_no_certainty():
    """A hundred nats decide between assignments, but not where the context costs as many."""
    agrees, speaks = (misfit.misfit_of({"context": value}) for value in (12.0, 100.0))
    assert misfit.misfit_of({}) == misfit.misfit_of({"dose": 40.0}) == agrees == 0.0
    certain, doubtful = (
        weigh_two((0.0, -100.0), (0.5, 0.5), math.hypot(contenders.ERROR, value))[1]
        for value in (agrees, speaks)
    )
    assert certain < 1e-5
    assert 0.1 < doubtful < 0.5


def test_changed_images_are_read_by_patches(data):
    """Where intensities are clipped the simulator would explain the edge by other columns."""
    few = SimpleNamespace(defect=np.zeros((1, 5000, 13)))
    with pytest.warns(UserWarning, match=r"signs of another \(clipped\), so it is read by patches"):
        assert not is_by_pixels("auto", few, {"dose": 1e4}, {"clipped": None, "stretched": None})
    assert is_by_pixels("auto", few, {"dose": 1e4}, ("stretched", "padding"))
    assert is_by_pixels("simulator", few, {"dose": 1e4}, ("clipped",))
    image = data.intensity.values
    clipped = np.clip(image, *np.quantile(image, [0.08, 1.0]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = bc.infer(clipped, KNOWN, num_draws=64)
    assert any("so it is read by patches" in str(w.message) for w in caught)
    assert found["posterior"].sizes["chain"] == 1


COORDINATES = Coordinates(bc.reference_prior().conditions[0], bc.reference_prior().nuisances)
SCALES = {"additivity": "additivity", "amplitude_scatter": "scatter"}


def test_scales_of_the_prior_are_no_signs_of_misfit():
    """One in a thousand images of the prior has one."""
    generator, number = torch.Generator().manual_seed(0), 4000
    drawn = {
        n: COORDINATES.scale_priors[s].draw(0.0, generator, number).numpy()
        for n, s in SCALES.items()
    }
    drawn["share_outlying"] = np.random.default_rng(0).beta(0.5, 50.0, number)
    found = [
        misfit.signs_in_scales({n: v[None, i : i + 1] for n, v in drawn.items()}, COORDINATES)
        for i in range(number)
    ]
    # four are expected, and more than eleven have a probability below one in a thousand
    assert 0 < sum(map(bool, found)) <= 11


def test_scales_that_are_unusual_together_are_named():
    """As large as those of an image whose focus changes, and of a real scan."""
    names = "additivity", "amplitude_scatter", "share_outlying"
    for values, number in (((3.0, 0.047, 0.09), 2), ((0.89, 0.02, 0.126), 0)):
        draws = {n: np.full((1, 8), v) for n, v in zip(names, values, strict=True)}
        assert len(misfit.signs_in_scales(draws, COORDINATES)) == number


def test_scales_beyond_the_prior_are_named():
    draws = {
        "additivity": np.full((1, 8), 3.7),
        "amplitude_scatter": np.tile([0.01, 0.2], (1, 8, 1)),
        "defocus": np.full((1, 8), 1e3),
    }
    found = misfit.signs_in_scales(draws, COORDINATES)
    assert found == ("additivity = 3.7", "amplitude_scatter = 0.2")
    assert misfit.signs_in_claims({"context": 30.0, "dose": 900.0}) == misfit.signs_in_claims({})
    assert misfit.signs_in_claims({"context": 48.0}) == ("48 nats are lost by the context",)


@pytest.mark.parametrize("likelihood", ["auto", "simulator"])
def test_an_image_that_the_simulator_does_not_make_is_left_to_patches(
    data, monkeypatch, likelihood
):
    """By default; who asks for the simulator gets it, with the warning."""
    asked = []

    def solve(placements, readings, by_patches, *arguments, must, **options):
        asked.append(must)
        other = replace(by_patches, defect=by_patches.defect[..., ::-1].copy())
        return PixelReading(other if must else None, {"context": 80.0}, ("80 nats",))

    monkeypatch.setattr(whole_image, "solve_by_pixels", solve)
    text = {"auto": "so it is read by patches", "simulator": "less certain than they seem"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found, plain = (
            bc.infer(data.intensity, KNOWN, num_draws=64, likelihood=way)
            for way in (likelihood, "network")
        )
    assert any(text[likelihood] in str(w.message) for w in caught)
    assert asked == [likelihood == "simulator"]
    classes = (r["class_posterior"].defect.values for r in (found, plain))
    assert np.array_equal(*classes) == (likelihood == "auto")
    assert float(found["sample_stats"].conflict.sel(claim="context")) == 80.0

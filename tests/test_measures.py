"""Entropy, log score and information of every target, by an analytic toy and by definitions."""

import re

import numpy as np
import pytest
import xarray as xr
from scipy.integrate import quad
from scipy.special import log_softmax

import bayesctx as bc
from bayesctx.information import TARGETS, entropy_reduction, measure_information
from bayesctx.information.resampling import bootstrap
from bayesctx.information.targets import score

CLASSES = ["M", "D_M", "X2", "V_X"]
NUM, SIGMA = 160_000, 0.6


def tree(probabilities):
    """A result of patches of one image."""
    values = {"defect": (("patch", "defect_class"), probabilities)}
    posterior = xr.Dataset(values, {"defect_class": CLASSES})
    return xr.DataTree.from_dict({"class_posterior": posterior})


def logits_of(x, gain):
    """Log likelihood of four classes whose signal is their number times the gain."""
    return -0.5 * ((x[..., None] - gain * np.arange(4)) / SIGMA) ** 2


def conditional_entropy(log_likelihood, draws_per_gain):
    """Mean entropy of a posterior in bits, by quadrature over the signal."""

    def integrand(x, k, gain):
        density = np.exp(-0.5 * ((x - gain * k) / SIGMA) ** 2) / (SIGMA * np.sqrt(2 * np.pi))
        own = log_softmax(log_likelihood(np.array(x), gain), -1)
        return -density * own[k] / np.log(2)

    terms = [
        quad(integrand, gain * k - 8 * SIGMA, gain * k + 8 * SIGMA, (k, gain), limit=200)[0]
        for k in range(4)
        for gain in draws_per_gain
    ]
    return np.mean(terms)


def both_gains(x, _):
    """Log likelihood with the gain summed over."""
    return np.logaddexp(logits_of(x, 1), logits_of(x, 2))


@pytest.fixture(scope="module")
def toy():
    """Exact posteriors of four classes without and with a binary context that doubles the gain."""
    rng = np.random.default_rng(0)
    truth, gain = rng.integers(4, size=NUM), rng.integers(1, 3, size=NUM)
    x = rng.normal(gain * truth, SIGMA)
    with_gain = np.where((gain == 1)[:, None], logits_of(x, 1), logits_of(x, 2))
    results = {
        "nothing": tree(np.exp(log_softmax(both_gains(x, None), -1))),
        "gain": tree(np.exp(log_softmax(with_gain, -1))),
        "overconfident": tree(np.exp(log_softmax(3 * with_gain, -1))),
    }
    return results, xr.Dataset({"defect": ("patch", np.array(CLASSES)[truth])})


def test_information_of_a_toy_is_the_analytic_one(toy):
    results, truth = toy
    found = measure_information(results, truth, num_resamples=100).isel(target=0)
    before = conditional_entropy(both_gains, (1, 2))
    after = conditional_entropy(logits_of, (1, 2))
    wanted = {"entropy": after, "log_score": -after}
    wanted |= {"log_score_gain": before - after, "entropy_reduction": before - after}
    for name, value in wanted.items():
        # 0.005 nats; the standard error of these means is at most 0.0025 nats
        assert float(found[name].sel(known="gain")) == pytest.approx(value, abs=0.005 / np.log(2))
        assert 0 < float(found[f"{name}_error"].sel(known="gain")) < 0.0025 / np.log(2)
    share = (before - after) / before
    assert float(found.log_score_removed.sel(known="gain")) == pytest.approx(share, abs=0.01)


def test_overconfidence_is_the_part_that_the_truth_does_not_confirm(toy):
    results, truth = toy
    found = measure_information(results, truth, num_resamples=100).isel(target=0)
    honest, too_narrow = (found.sel(known=k) for k in ("gain", "overconfident"))
    assert abs(float(honest.overconfidence)) < 4 * float(honest.overconfidence_error)
    assert float(too_narrow.overconfidence) > 20 * float(too_narrow.overconfidence_error)
    assert float(too_narrow.accuracy) == float(honest.accuracy)


def test_entropy_reduction_has_a_mean_an_error_and_the_log_score(toy):
    results, truth = toy
    given = results["nothing"], results["gain"], truth.defect
    bits = entropy_reduction(*given, num_resamples=200)
    found = measure_information(results, truth, num_resamples=200).sel(known="gain").isel(target=0)
    assert float(bits.mean_gain) == pytest.approx(float(found.log_score_gain), abs=1e-12)
    assert float(bits.mean_reduction) == pytest.approx(float(bits.entropy_reduction.mean()))
    # the standard error of a mean; that of the bootstrap itself is 1/sqrt(2 x 200)
    direct = float(bits.log_score_gain.std()) / np.sqrt(NUM)
    assert float(bits.mean_gain_error) == pytest.approx(direct, rel=4 / np.sqrt(400))
    with pytest.raises(TypeError, match="truth"):
        entropy_reduction(results["nothing"], results["gain"])


def test_the_bootstrap_is_paired():
    # the difference of two equal columns has no error, though each of them has
    values = np.random.default_rng(1).normal(size=(50, 1)).repeat(2, 1)
    _, error = bootstrap(
        values, statistic=lambda m: np.stack([m[..., 0] - m[..., 1], m[..., 0]], -1)
    )
    assert error[0] == 0
    assert error[1] == pytest.approx(values[:, 0].std() / 50**0.5, rel=0.1)
    assert np.isnan(bootstrap(values[:1])[1]).all()


@pytest.fixture(scope="module")
def patches():
    return bc.simulate(bc.tmd_prior().given({"dose": 1e5}), 12, seed=4)


@pytest.fixture(scope="module")
def open_result(patches):
    return bc.infer(patches.intensity, {"dose": 1e5}, num_draws=200)


def test_outcomes_agree_with_the_marginals(open_result):
    found = open_result["class_posterior"].to_dataset()
    for name, dim in (("class", "defect_class"), ("host", "host_class")):
        own = found.outcome.groupby(f"outcome_{name}").sum()
        own = own.sel({f"outcome_{name}": found[dim].values}).values
        other = found.defect if name == "class" else found.host
        # single precision sums of some hundred terms
        np.testing.assert_allclose(own.reshape(other.shape), other, atol=1e-5)


@pytest.mark.parametrize("known", [(), ("host",), ("host", "dopant")])
def test_entropies_of_targets_obey_the_chain_rule(patches, known):
    """H(class) <= H(class, host) <= H(whole) <= H(class) + log2 of what the rest can be."""
    context = {n: patches[n] for n in known} | {"dose": 1e5}
    result = bc.infer(patches.intensity, context, num_draws=200)
    bits = {t: score(result, patches, t).entropy for t in TARGETS}
    order = [("class", "class_host"), ("class_host", "whole"), ("species", "species_host"),
             ("species_host", "species_host_dopant"), ("species_host_dopant", "whole")]  # fmt: skip
    for coarse, fine in order:
        assert (bits[coarse] <= bits[fine] + 1e-4).all(), (coarse, fine)
    if known:
        np.testing.assert_allclose(bits["class"], bits["class_host"], atol=1e-5)
    # without the dopant: log2 of eight dopants is added where the site is certainly without one
    rest = bits["species_host_dopant"] - bits["species_host"]
    if "dopant" in known:
        np.testing.assert_allclose(rest, 0, atol=1e-5)
    else:
        holds = result["class_posterior"].defect.sel(defect_class="D_M").values
        np.testing.assert_allclose(rest, 3 * (1 - holds), atol=1e-3)


def test_log_scores_of_joint_targets_are_those_of_the_probabilities(patches, open_result):
    found = open_result["class_posterior"].to_dataset()
    values = found.outcome.isel(patch=0).values
    is_true = (found.outcome_class.values == patches.defect.values[:, None]) & (
        found.outcome_host.values == patches.host.values[:, None]
    )
    wanted = np.log2((values * is_true).sum(1).clip(min=1e-38))
    np.testing.assert_allclose(
        score(open_result, patches, "class_host").log_score[:, 0], wanted, atol=1e-4
    )


def test_mirror_images_are_one_species(patches, open_result):
    mirrored = patches.assign(species=("image", [_reversed(s) for s in patches.species.values]))
    first, second = (score(open_result, d, "species").log_score for d in (patches, mirrored))
    np.testing.assert_array_equal(first, second)
    assert (first > -30).all()


def _reversed(formula):
    """The formula from the other side: SO for OS."""
    elements = re.findall(r"[A-Z][a-z]?\d?", formula)
    return "".join(elements[::-1]) or "-"


def test_five_classes_leave_out_the_others(patches, open_result):
    found = score(open_result, patches, "class_of_five")
    inside = np.isin(patches.defect.values, ["M", "D_M", "X2", "V_X", "V_X2"])
    np.testing.assert_array_equal(np.isfinite(found.entropy[:, 0]), inside)
    assert (found.entropy[inside] <= np.log2(5) + 1e-6).all()


@pytest.mark.filterwarnings("ignore:the posterior rests on")
@pytest.mark.parametrize("dopant", [None, "Ti"])
def test_an_undoped_crystal_has_the_dopant_none(dopant):
    prior = bc.tmd_prior().given({"host": "MoS2", "dopant": dopant, "dose": 1e6})
    data = bc.simulate(prior, 6, seed=2)
    context = {"host": "MoS2", "dopant": dopant, "dose": 1e6}
    result = bc.infer(data.intensity, context, num_draws=64)
    with_dopant, without = (
        score(result, data, t).log_score for t in ("species_host_dopant", "species_host")
    )
    np.testing.assert_allclose(with_dopant, without, atol=1e-6)


def test_micrographs_have_the_classes_and_those_with_the_host():
    probabilities = np.full((3, 13, 12), 1 / 156)
    posterior = xr.Dataset({
        "defect": (("patch", "defect_class"), probabilities.sum(2)),
        "defect_host": (("patch", "defect_class", "host_class"), probabilities),
    }, {"defect_class": list(bc.DEFECTS), "host_class": list(bc.HOSTS)})  # fmt: skip
    result = xr.DataTree.from_dict({"class_posterior": posterior})
    truth = xr.Dataset({"defect": ("patch", ["M"] * 3), "species": ("patch", ["Mo"] * 3),
                        "host": "MoS2", "dopant": "W"})  # fmt: skip
    bits = measure_information({"all": result}, truth, targets=["class", "class_host"])
    np.testing.assert_allclose(bits.entropy.values[0], np.log2([13, 156]))
    with pytest.raises(ValueError, match="joint probabilities of class, species, host, dopant"):
        measure_information({"all": result}, truth, targets=["whole"])


def test_errors(patches, open_result):
    with pytest.raises(ValueError, match="a target among class, .* was expected, got 'sites'"):
        measure_information({"a": open_result}, patches, targets=["sites"])
    with pytest.raises(ValueError, match="a truth with host was expected, got defect; pass the"):
        measure_information({"a": open_result}, patches[["defect"]], targets=["class_host"])
    with pytest.raises(ValueError, match="a true defect of each of 12 x 1 images and patches"):
        measure_information({"a": open_result}, patches.isel(image=slice(5)))
    with pytest.raises(ValueError, match="one result or more was expected, got none"):
        measure_information({}, patches)
    fewer = bc.infer(patches.intensity[:3], {"dose": 1e5}, num_draws=64)
    with pytest.raises(ValueError, match="a true defect of each of 3 x 1 images"):
        measure_information({"a": open_result, "b": fewer}, patches)

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

import bayesctx as bc
from bayesctx.series.session import CHANGES, combine

NONE = np.zeros(1)


def test_the_prior_of_many_posteriors_is_counted_once():
    # x_i ~ N(c, s²), c ~ N(0, 1): each posterior holds the prior
    rng, s = np.random.default_rng(0), 1.5
    x = 0.8 + s * rng.standard_normal(40)
    mean, variance = x / (1 + s**2), np.full(40, s**2 / (1 + s**2))
    found = combine(mean, variance, NONE)
    exact = 1 / (1 + 40 / s**2)
    assert found.variance == pytest.approx(exact)
    assert found.mean == pytest.approx(exact * x.sum() / s**2)
    # the product of the posteriors is another distribution
    naive = 1 / (1 / variance).sum()
    assert naive < 0.4 * exact
    assert naive * (mean / variance).sum() < 0.4 * found.mean


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_one_image_tells_a_further_one_what_it_says_itself(correlation):
    # the value is the same in both: the posterior of the first is the prior of the second
    found = combine(np.array([0.4]), np.array([0.3]), NONE, correlation)
    assert (found.mean, found.variance) == (pytest.approx(0.4), pytest.approx(0.3))


def test_errors_that_images_share_do_not_average_out():
    # exact: y = c + noise of covariance s ((1 - r) I + r), by the normal equations
    rng, s, r, n = np.random.default_rng(1), 0.5, 0.6, 12
    y = rng.standard_normal(n)
    covariance = s * ((1 - r) * np.eye(n) + r)
    weights = np.linalg.solve(covariance, np.ones(n))
    exact = 1 / (1 + weights.sum())
    found = combine(y / (1 + s), np.full(n, s / (1 + s)), NONE, r)
    assert found.variance == pytest.approx(exact)
    assert found.mean == pytest.approx(exact * weights @ y)
    many = combine(np.zeros(10_000), np.full(10_000, s / (1 + s)), NONE, r)
    assert many.variance == pytest.approx(1 / (1 + 1 / (r * s)), rel=1e-3)


@pytest.mark.parametrize(("change", "spread"), [(0.0, 0.05), (0.6, 0.05)])
def test_the_change_between_images_is_inferred(change, spread):
    rng, n = np.random.default_rng(2), 200
    y = 0.5 + change * rng.standard_normal(n) + spread**0.5 * rng.standard_normal(n)
    found = combine(y / (1 + spread), np.full(n, spread / (1 + spread)), CHANGES)
    assert found.change == pytest.approx(change, abs=0.08)
    # of a further image, not of the mean
    assert found.variance == pytest.approx(change**2, abs=0.1)


def test_posteriors_that_are_the_prior_say_nothing():
    found = combine(np.zeros(5), np.ones(5))
    assert (found.mean, found.variance) == (0.0, 1.0)
    mixed = combine(np.array([0.0, 0.4]), np.array([1.0, 0.3]), NONE)
    assert (mixed.mean, mixed.variance) == (pytest.approx(0.4), pytest.approx(0.3))


def result_of(posterior, prior, ess=400.0, stated=None):
    """A result of an image with given draws of some variables."""

    def group(draws):
        return xr.Dataset({n: (("chain", "draw"), v[None]) for n, v in draws.items()})

    shares = xr.DataArray(np.zeros((1, 2, 13)), dims=("chain", "draw", "defect_class"))
    tree = xr.DataTree.from_dict({
        "posterior": group(posterior).assign(
            concentration=shares.rename({"draw": "row"}).isel(row=0)
        ),
        "prior": group(prior),
        "class_posterior": xr.Dataset({"defect": (("patch", "k"), np.zeros((1, 1)))}),
        "sample_stats": xr.Dataset({"ess": ess}),
    })  # fmt: skip
    tree.attrs["context"] = json.dumps(stated or {})
    return tree


def session_of(num_images, seed, value=70.0, width=10.0):
    """Results of images with the same inner angle, known to some width."""
    rng = np.random.default_rng(seed)
    prior = np.exp(rng.uniform(np.log(25), np.log(120), 4000))
    results = []
    for _ in range(num_images):
        weight = norm.pdf(prior, value + width * rng.standard_normal(), width)
        drawn = rng.choice(prior, 1000, p=weight / weight.sum())
        results.append(result_of({"inner_collection_angle": drawn},
                                 {"inner_collection_angle": prior}))  # fmt: skip
    return results


def test_a_session_becomes_the_prior_of_the_next_image():
    learned = bc.session_prior(session_of(20, seed=3), correlation=0.0)
    law = learned.conditions[0]["inner_collection_angle"]
    draws = law.icdf(bc.tensors.torch.linspace(0.01, 0.99, 99)).numpy()
    # 20 measurements with a standard deviation of 10
    assert draws.mean() == pytest.approx(70.0, abs=2 * 10 / 20**0.5)
    assert draws.std() == pytest.approx(10 / 20**0.5, rel=0.25)
    assert bc.Prior.from_dict(learned.to_dict()) == learned
    # everything else is as it was
    before = bc.reference_prior()
    same = {n: v for n, v in before.conditions[0].items() if n != "inner_collection_angle"}
    assert {n: str(learned.conditions[0][n]) for n in same} == {n: str(v) for n, v in same.items()}
    assert (learned.hosts, learned.dirichlet_alpha) == (before.hosts, before.dirichlet_alpha)


def test_the_truth_is_in_the_intervals_of_a_session_as_often_as_they_say():
    inside, num = 0, 60
    for seed in range(num):
        learned = bc.session_prior(session_of(8, seed=100 + seed), correlation=0.0)
        law = learned.conditions[0]["inner_collection_angle"]
        low, high = law.icdf(bc.tensors.torch.tensor([0.05, 0.95])).tolist()
        inside += low <= 70.0 <= high
    # 90 %, within three standard errors
    assert abs(inside / num - 0.9) < 3 * (0.9 * 0.1 / num) ** 0.5


@pytest.mark.parametrize("side", [0, 1])
def test_a_session_at_a_bound_of_the_prior_stays_inside(side):
    prior = np.exp(np.random.default_rng(7).uniform(np.log(4e4), np.log(3e5), 4000))
    bound = (4e4, 3e5)[side]
    near = np.sort(abs(prior - bound))[:400] * (1, -1)[side] + bound
    images = [result_of({"beam_energy": near}, {"beam_energy": prior}) for _ in range(8)]
    learned = bc.session_prior(images)
    low, middle, high = (
        learned.conditions[0]["beam_energy"]
        .icdf(bc.tensors.torch.tensor([0.01, 0.5, 0.99]))
        .tolist()
    )
    assert 4e4 * 0.999 <= low < middle < high <= 3e5 * 1.001
    # at least half of it is as near as all draws of an image
    assert abs(middle - bound) <= np.ptp(near)


def test_a_probe_that_the_simulator_infers_becomes_a_nuisance_of_the_prior():
    rng = np.random.default_rng(4)
    prior = rng.uniform(0.5, 1.4, 100)
    images = [
        result_of({"source_size": 0.9 + 0.03 * rng.standard_normal(100)}, {"source_size": prior})
        for _ in range(6)
    ]
    learned = bc.session_prior(images)
    law = learned.nuisances["source_size"]
    low, high = law.icdf(bc.tensors.torch.tensor([0.05, 0.95])).tolist()
    assert 0.8 < low < 0.9 < high < 1.0
    assert learned.nuisances["C12"] == bc.reference_prior().nuisances["C12"]
    bc.Prior.from_dict(learned.to_dict())
    # and the simulator draws from it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = bc.simulate(learned, 20, seed=0)
    assert float(drawn.source_size.std()) < 0.06


def test_a_coma_beyond_that_of_patches_is_learned():
    rng = np.random.default_rng(5)
    prior = np.abs(500.0 * rng.standard_normal(400))
    images = [
        result_of({"C21": 900.0 + 30.0 * rng.standard_normal(100)}, {"C21": prior})
        for _ in range(6)
    ]
    law = bc.session_prior(images).nuisances["C21"]
    low, high = law.icdf(bc.tensors.torch.tensor([0.05, 0.95])).tolist()
    assert 800.0 < low < 900.0 < high < 1000.0


def test_images_that_say_nothing_leave_the_prior_as_it_is():
    prior = np.exp(np.random.default_rng(5).uniform(np.log(25), np.log(120), 1000))
    name = "inner_collection_angle"
    flat = [result_of({name: prior}, {name: prior}) for _ in range(5)]
    assert bc.session_prior(flat) == bc.reference_prior()
    few = [result_of({name: prior[:5]}, {name: prior}, ess=2.0)]
    assert bc.session_prior(few) == bc.reference_prior()
    known = [result_of({}, {})]
    assert bc.session_prior(known) == bc.reference_prior()


def test_what_is_no_session_is_refused():
    images = session_of(2, seed=6)
    name = "inner_collection_angle"
    with pytest.raises(ValueError, match="unknown variable of a session 'dose'"):
        bc.session_prior(images, variables=["dose"])
    with pytest.raises(ValueError, match="correlation"):
        bc.session_prior(images, correlation=1.0)
    images[1].attrs["context"] = json.dumps({name: "Uniform(low: 60.0, high: 80.0)"})
    with pytest.raises(ValueError, match=f"the same evidence on {name} was expected"):
        bc.session_prior(images)
    with pytest.raises(TypeError, match="a folder of results or several results"):
        bc.session_prior(5)
    with pytest.raises(ValueError, match="got none"):
        bc.session_prior([])
    with pytest.raises(ValueError, match="results of micrographs were expected"):
        bc.session_prior([xr.DataTree()])

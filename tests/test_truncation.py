import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.distributions import AbsTransform, AffineTransform, constraints

from bayesctx.distributions import log_uniform, quantile
from bayesctx.evidence.truncation import Truncated, truncate
from bayesctx.prior import CONTINUOUS, MAX_TRIES, Prior, reference_prior

U = torch.tensor([0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999], dtype=torch.float64)
PEAKS = torch.tensor([[6e4, 8e4], [1e3, 10.0]])


def mixture(component):
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), component)


def two_normals(x):
    return 0.3 * scipy.stats.norm(6e4, 1e3).cdf(x) + 0.7 * scipy.stats.norm(8e4, 10.0).cdf(x)


def two_students(x):
    return 0.3 * scipy.stats.t(3, 6e4, 1e3).cdf(x) + 0.7 * scipy.stats.t(3, 8e4, 10.0).cdf(x)


SMOOTH = {
    # cdf and icdf
    "normal": (dist.Normal(1e4, 5e3), (1e3, 1e6), scipy.stats.norm(1e4, 5e3).cdf),
    "wide": (dist.Normal(0.0, 200.0), (-60, 60), scipy.stats.norm(0, 200).cdf),
    "tail": (dist.Normal(-160.0, 50.0), (-60, 60), scipy.stats.norm(-160, 50).cdf),
    "uniform": (dist.Uniform(-1e4, 1e4), (1e3, 1e6), scipy.stats.uniform(-1e4, 2e4).cdf),
    "cauchy": (dist.Cauchy(0.0, 50.0), (-60, 60), scipy.stats.cauchy(0, 50).cdf),
    "pareto": (dist.Pareto(1e3, 0.5), (1e3, 1e6), scipy.stats.pareto(0.5, scale=1e3).cdf),
    "half": (dist.HalfCauchy(50.0), (-100, 100), scipy.stats.halfcauchy(0, 50).cdf),
    "weibull": (dist.Weibull(80.0, 2.0), (-100, 100), scipy.stats.weibull_min(2, scale=80).cdf),
    "transformed": (
        dist.TransformedDistribution(dist.LogNormal(0.0, 1.0), [AffineTransform(-1e2, 50.0)]),
        (-100, 100),
        scipy.stats.lognorm(1.0, loc=-100, scale=50).cdf,
    ),
    # cdf only
    "gamma": (dist.Gamma(4.0, 4e-4), (1e2, 1e8), scipy.stats.gamma(4, scale=2500).cdf),
    "steep": (dist.Gamma(0.1, 1e-4), (1e2, 1e8), scipy.stats.gamma(0.1, scale=1e4).cdf),
    "chi2": (dist.Chi2(3.0), (-1, 5), scipy.stats.chi2(3).cdf),
    "mixture": (mixture(dist.Normal(*PEAKS)), (3e4, 3e5), two_normals),
    # density only
    "student": (dist.StudentT(3.0, 1e4, 1.0), (1e2, 1e8), scipy.stats.t(3, 1e4, 1).cdf),
    "heavy": (dist.StudentT(1.0, 0.0, 50.0), (-60, 60), scipy.stats.cauchy(0, 50).cdf),
    "beta": (
        dist.TransformedDistribution(dist.Beta(2.0, 3.0), [AffineTransform(1e4, 1e3)]),
        (1e2, 1e8),
        scipy.stats.beta(2, 3, 1e4, 1e3).cdf,
    ),
    "arcsine": (
        dist.TransformedDistribution(dist.Beta(0.5, 0.5), [AffineTransform(-50.0, 100.0)]),
        (-100, 30),
        scipy.stats.beta(0.5, 0.5, -50, 100).cdf,
    ),
    "inverse": (dist.InverseGamma(3.0, 1e5), (3e4, 3e5), scipy.stats.invgamma(3, scale=1e5).cdf),
    "students": (mixture(dist.StudentT(3.0, *PEAKS)), (3e4, 3e5), two_students),
    "torch": (torch.distributions.Normal(1e4, 5e3), (1e3, 1e6), scipy.stats.norm(1e4, 5e3).cdf),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_quantiles_agree_with_an_exact_distribution(name):
    distribution, (low, high), cdf = SMOOTH[name]
    truncated, mass = truncate(distribution, low, high)
    below, above = cdf(low), cdf(high)
    assert mass == pytest.approx(above - below, abs=3e-5)
    found = truncated.icdf(U).numpy()
    # cells of a table hold a density that is constant to 2 %
    assert (cdf(found) - below) / (above - below) == pytest.approx(U.numpy(), abs=1e-4)
    # single precision in and out, and no value beyond the bounds
    ends = truncated.icdf(torch.tensor([0.0, 1.0]))
    assert ends.dtype == torch.float32
    assert low <= ends[0] < ends[1] <= high


@pytest.mark.parametrize("name", SMOOTH)
def test_densities_agree_with_an_exact_distribution(name):
    distribution, (low, high), cdf = SMOOTH[name]
    truncated, _ = truncate(distribution, low, high)
    x = truncated.icdf(U[2:7])
    # a thousandth of the distance to the quantiles 1e-3 away
    h = (truncated.icdf(U[2:7] + 1e-3) - x).numpy() * 1e-3
    exact = (cdf(x.numpy() + h) - cdf(x.numpy() - h)) / (2 * h) / (cdf(high) - cdf(low))
    assert truncated.log_prob(x).exp().numpy() == pytest.approx(exact, rel=1e-3)
    outside = torch.tensor([low - 1.0, high + 1.0, float("nan")], dtype=torch.float64)
    assert torch.equal(truncated.log_prob(outside), torch.full((3,), -torch.inf).double())


def share(values, u):
    """The quantiles of a step function, from values with the same probabilities as u."""
    return [float((values == v).double().mean()) for v in u]


def test_points_keep_their_probability():
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    points = mixture(dist.Delta(torch.tensor([6e4, 8e4])))
    truncated, mass = truncate(points, 3e4, 3e5)
    assert mass == pytest.approx(1, abs=1e-6)
    assert share(truncated.icdf(u), (6e4, 8e4)) == pytest.approx([0.3, 0.7], abs=1e-4)
    assert truncated.log_prob(torch.tensor(8e4)).exp() == pytest.approx(0.7, abs=1e-5)
    truncated, mass = truncate(points, 7e4, 3e5)
    assert mass == pytest.approx(0.7, abs=1e-6)
    assert share(truncated.icdf(u), (6e4, 8e4)) == [0.0, 1.0]
    # a point on a bound is inside
    assert truncate(dist.Delta(torch.tensor(3e4)), 3e4, 3e5)[1] == 1.0
    binomial, mass = truncate(dist.Binomial(40, 0.5), -100, 21)
    exact = scipy.stats.binom(40, 0.5)
    assert mass == pytest.approx(exact.cdf(21), abs=1e-3)
    assert share(binomial.icdf(u), (20, 21, 22)) == pytest.approx(
        [exact.pmf(20) / exact.cdf(21), exact.pmf(21) / exact.cdf(21), 0], abs=1e-3
    )


def test_distributions_that_can_only_be_drawn_have_the_quantiles_of_their_draws():
    folded = dist.TransformedDistribution(dist.Normal(0.0, 50.0), [AbsTransform()])
    truncated, mass = truncate(folded, -100, 100)
    exact = scipy.stats.halfnorm(0, 50)
    # 65536 draws: 0.5 / 256 = 0.002 in probability
    assert mass == pytest.approx(exact.cdf(100), abs=0.005)
    found = exact.cdf(truncated.icdf(U).numpy()) / exact.cdf(100)
    assert found == pytest.approx(U.numpy(), abs=0.008)
    # the density of the histogram: 0.2 % of the interval, 400 draws
    assert truncated.log_prob(torch.tensor(20.0)).exp() == pytest.approx(
        exact.pdf(20) / exact.cdf(100), rel=0.2
    )
    # a density that does not describe the draws is not used: of von Mises it repeats itself
    periodic, mass = truncate(dist.VonMises(0.0, 1.0), -100, 100)
    assert mass == pytest.approx(1)
    assert periodic.icdf(U).abs().max() < np.pi
    # of some points and a wide density
    inflated = dist.ZeroInflatedPoisson(torch.tensor(20.0), gate=torch.tensor(0.3))
    mixed, mass = truncate(inflated, -1, 99)
    assert mass == pytest.approx(1)
    assert share(mixed.icdf(torch.linspace(0, 1, 1001)), (0,)) == pytest.approx([0.3], abs=0.01)


class OnlyDensity(torch.distributions.Distribution):
    """A triangle from -50 to 50 that cannot be drawn from."""

    arg_constraints = {}
    support = constraints.real

    def log_prob(self, value):
        return ((50 - value.abs()).clamp(min=0) / 2500).log()


class Nothing(torch.distributions.Distribution):
    arg_constraints = {}


def test_a_density_alone_is_enough_and_nothing_is_not():
    truncated, mass = truncate(OnlyDensity(validate_args=False), 0.0, 100.0)
    assert mass == pytest.approx(0.5, abs=1e-6)
    assert truncated.icdf(U).numpy() == pytest.approx(50 * (1 - (1 - U.numpy()) ** 0.5), abs=0.01)
    with pytest.raises(ValueError, match="cdf, log_prob or sample method that works was expected"):
        truncate(Nothing(validate_args=False), 0.0, 100.0)


def test_a_density_without_a_norm_is_normalised():
    flat = dist.ImproperUniform(constraints.real, (), ())
    truncated, mass = truncate(flat, -100.0, 100.0)
    assert mass == 1.0
    assert truncated.icdf(U).numpy() == pytest.approx(200 * U.numpy() - 100, abs=1e-3)
    assert float(truncated.log_prob(torch.tensor(3.0))) == pytest.approx(-np.log(200))
    narrower, mass = truncate(truncated, -50.0, 50.0)
    assert mass == pytest.approx(0.5)
    assert float(narrower.log_prob(torch.tensor(3.0))) == pytest.approx(-np.log(100))


def test_what_is_inside_stays_as_it_is():
    for distribution in (dist.Uniform(60.0, 110.0), log_uniform(25.0, 250.0)):
        assert truncate(distribution, 25.0, 250.0) == (distribution, 1.0)
    # but not a low bound that is small beside the high one
    assert truncate(dist.Uniform(1.0, 1e8), 1e2, 1e8)[0].icdf(torch.tensor(0.0)) >= 100


@pytest.mark.parametrize("distribution", [
    dist.Normal(60.0, 5.0), dist.StudentT(3.0, 60.0, 5.0), dist.Poisson(60.0),
    dist.Delta(torch.tensor(60.0)), dist.Uniform(60.0, 80.0), mixture(dist.Normal(*PEAKS / 1e3)),
    dist.Normal(8e4, np.inf, validate_args=False), dist.Normal(np.nan, 1.0, validate_args=False),
], ids=str)  # fmt: skip
def test_nearly_all_mass_outside_is_refused(distribution):
    with pytest.raises(ValueError, match=r"^x was expected to have mass between 30000.*its unit$"):
        truncate(distribution, 3e4, 3e5, "x")


def test_global_generator_and_default_dtype_are_left_alone():
    expected = truncate(dist.StudentT(3.0, 0.0, 30.0), -60, 60)[0].icdf(U)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    for distribution in (dist.StudentT(3.0, 0.0, 30.0), dist.Poisson(20.0), dist.Beta(2.0, 3.0)):
        quantile(distribution, U, (-60.0, 60.0))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.set_default_dtype(torch.float64)
    try:
        found = truncate(dist.StudentT(3.0, 0.0, 30.0), -60, 60)[0]
        assert found.icdf(torch.rand(3, dtype=torch.float32)).dtype == torch.float32
        assert torch.allclose(found.icdf(U), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_get_what_one_thread_gets():
    makers = [
        lambda: dist.StudentT(3.0, 0.0, 30.0),
        lambda: dist.TransformedDistribution(dist.Normal(0.0, 50.0), [AbsTransform()]),
        lambda: dist.Poisson(20.0),
        lambda: dist.Gamma(4.0, 0.1),
    ] * 8

    def quantiles(make):
        return truncate(make(), -60, 60)[0].icdf(U)

    serial = [quantiles(make) for make in makers[:4]] * 8
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        raced = list(pool.map(quantiles, makers))
    assert all(torch.equal(a, b) for a, b in zip(serial, raced, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_truncated_distribution_is_one_of_pyro():
    truncated, _ = truncate(dist.Normal(0.0, 200.0), -60, 60)
    assert str(truncated) == "Normal(loc: 0.0, scale: 200.0) between -60 and 60"
    for twin in (copy.deepcopy(truncated), pickle.loads(pickle.dumps(truncated))):
        assert torch.equal(twin.icdf(U), truncated.icdf(U))

    def program():
        with pyro.plate("image", 500):
            return pyro.sample("defocus", truncated)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = pyro.poutine.trace(program).get_trace()
    values = trace.nodes["defocus"]["value"]
    assert values.shape == (500,)
    assert values.abs().max() <= 60
    assert trace.log_prob_sum() == pytest.approx(float(truncated.log_prob(values).sum()), rel=1e-5)


def test_quantiles_of_unbounded_distributions_are_finite():
    for distribution in (dist.Normal(0.0, 0.015), dist.HalfNormal(1.0), dist.Gamma(4.0, 1.0)):
        ends = quantile(distribution, torch.tensor([0.0, 1.0]))
        assert bool(ends.isfinite().all())
        assert torch.equal(ends, quantile(distribution, torch.tensor([1e-9, 1 - 1e-12])).sort()[0])
    assert float(quantile(dist.Normal(0.0, 1.0), torch.tensor(0.0))) == pytest.approx(
        scipy.stats.norm.ppf(2.0**-25), rel=1e-5
    )


def angles(convergence, inner, outer):
    condition = {
        "beam_energy": 8e4,
        "convergence_semiangle": convergence,
        "inner_collection_angle": inner,
        "outer_collection_angle": outer,
        "defocus": dist.Normal(0.0, 80.0),
        "dose": dist.Cauchy(1e4, 1e4),
    }
    return Prior((condition,))


def test_draws_of_a_prior_are_inside_of_what_the_physics_covers():
    prior = angles(dist.Normal(30.0, 10.0), dist.Normal(60.0, 30.0), 200.0)
    u = torch.rand(4000, 1 + len(CONTINUOUS), generator=torch.Generator().manual_seed(0))
    context, _ = prior.quantiles(torch.cat([u, torch.zeros(1, 7), torch.ones(1, 7)]))
    assert context["defocus"].abs().max() <= 100
    assert context["dose"].min() >= 100
    assert bool((context["convergence_semiangle"] - 27.5).abs().max() <= 12.5)
    # the physics covers 100 Å on both sides, 1.25 standard deviations
    assert prior.domain("defocus") == (-100.0, 100.0)
    assert prior.domain("dose") == pytest.approx((1e2, 1e8), rel=1e-3)


def test_images_without_a_possible_try_take_a_possible_one():
    prior = angles(dist.Uniform(30.0, 35.0), dist.Uniform(25.0, 31.0), 200.0)
    u = torch.rand(64, MAX_TRIES, 7, generator=torch.Generator().manual_seed(0))
    assert not bool(prior.quantiles(u)[1].any(-1).all())
    context = prior.first_possible(u)
    assert bool((context["convergence_semiangle"] <= context["inner_collection_angle"]).all())
    with pytest.raises(
        ValueError, match="convergence_semiangle <= inner_collection_angle and 1.05"
    ):
        angles(35.0, dist.Uniform(25.0, 31.0), 200.0)


def test_a_narrow_ring_is_never_drawn():
    prior = reference_prior().given({"inner_collection_angle": 60.0})
    u = torch.rand(4000, 1 + len(CONTINUOUS), generator=torch.Generator().manual_seed(0))
    context, possible = prior.quantiles(u)
    assert context["outer_collection_angle"][possible].min() > 63


def test_truncated_is_what_it_says():
    truncated = Truncated(dist.Normal(0.0, 1.0), -np.inf, 0.0)
    exact = scipy.stats.truncnorm(-np.inf, 0.0)
    assert truncated.mass == pytest.approx(0.5)
    assert truncated.icdf(U).numpy() == pytest.approx(exact.ppf(U.numpy()), rel=1e-9)
    assert truncated.support.upper_bound == 0.0


def test_parameters_without_numbers_are_refused():
    nowhere = dist.Normal(*torch.ones(2, device="meta"), validate_args=False)
    with pytest.raises(ValueError, match="numbers as parameters .* meta"):
        truncate(nowhere, 0.0, 1.0)


@pytest.mark.parametrize(
    "law", [Truncated(dist.Normal(1.0, 2.0), 0.0, 4.0), Truncated(dist.StudentT(4.0), -1.0, 3.0)]
)
def test_derivatives_of_quantiles_are_one_over_the_density(law):
    u = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).requires_grad_()
    x = law.icdf(u)
    (slope,) = torch.autograd.grad(x.sum(), u)
    density = law.log_prob(x.detach()).exp()
    # of a tabulated distribution between two nodes
    assert torch.allclose(slope * density, torch.ones_like(slope), rtol=0.03)
    assert torch.equal(x.detach(), law.icdf(u.detach()))

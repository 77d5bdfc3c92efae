import numpy as np
import pytest
import xarray as xr
from scipy.stats import chi2, kstest

from bayesctx.metrics import coverage, ranks


def rank_of(width, num=2000, num_draws=99):
    """Ranks of a standard normal seen through unit noise, its posterior scaled in width."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=num)
    seen = truth + rng.normal(size=num)
    draws = seen / 2 + width * np.sqrt(0.5) * rng.normal(size=(1, num_draws, num))
    return ranks(xr.DataArray(draws, dims=("chain", "draw", "image")), truth).values


def test_ranks_distinguish_exact_wide_and_narrow():
    exact, wide, narrow = (rank_of(width) for width in (1.0, 2.0, 0.5))
    # of a uniform rank (u - 1/2)^2 has mean 1/12 and variance 1/180
    spread, error = 1 / 12, np.sqrt(1 / 180 / len(exact))
    assert abs(np.var(exact) - spread) < 4 * error
    assert np.var(wide) < spread - 10 * error
    assert np.var(narrow) > spread + 10 * error
    counts = {
        name: np.histogram(r, 10, (0, 1))[0]
        for name, r in (("exact", exact), ("wide", wide), ("narrow", narrow))
    }
    statistic = {name: ((c - 200) ** 2 / 200).sum() for name, c in counts.items()}
    limit = chi2.ppf(0.9999, 9)
    assert statistic["exact"] < limit < min(statistic["wide"], statistic["narrow"])
    # a hump in the middle, and a U
    assert counts["wide"][[0, -1]].max() < counts["wide"][4:6].min()
    assert counts["narrow"][[0, -1]].min() > counts["narrow"][4:6].max()


def test_ranks_of_a_discrete_variable_are_uniform_too():
    rng = np.random.default_rng(2)
    draws = xr.DataArray(rng.integers(3, size=(2, 50, 3000)), dims=("chain", "draw", "patch"))
    rank = ranks(draws, rng.integers(3, size=3000))
    assert rank.dims == ("patch",)
    assert float(rank.min()) >= 0
    assert float(rank.max()) <= 1
    counts = np.histogram(rank, 10, (0, 1))[0]
    assert ((counts - 300) ** 2 / 300).sum() < chi2.ppf(0.9999, 9)


def coverage_of(width, correlation, num=2000, num_draws=99):
    """Coverage for two standard normals with correlated unit noise, by width and correlation."""
    rng = np.random.default_rng(2)
    noise = np.linalg.cholesky([[1, -0.95], [-0.95, 1]])
    truth = rng.normal(size=(num, 2))
    seen = truth + rng.normal(size=(num, 2)) @ noise.T
    gain = np.linalg.inv(np.eye(2) + noise @ noise.T)
    spread = np.linalg.cholesky(np.eye(2) - gain)
    if not correlation:
        spread = np.diag(np.sqrt(np.diag(np.eye(2) - gain)))
    draws = seen @ gain + width * rng.normal(size=(num_draws, num, 2)) @ spread.T
    names = ("first", "second")
    return coverage(
        xr.Dataset(
            {n: (("chain", "draw", "image"), draws[None, ..., i]) for i, n in enumerate(names)}
        ),
        xr.Dataset({n: ("image", truth[:, i]) for i, n in enumerate(names)}),
    ).values


def test_coverage_distinguishes_exact_wide_narrow_and_uncorrelated():
    draws = {
        "exact": (1.0, True),
        "wide": (1.6, True),
        "narrow": (0.6, True),
        "uncorrelated": (1.0, False),
    }
    rejected = {n: kstest(coverage_of(*a), "uniform").pvalue for n, a in draws.items()}
    assert rejected["exact"] > 0.01
    assert max(rejected["wide"], rejected["narrow"]) < 1e-6
    # every marginal is exact, so that ranks would not show it
    assert rejected["uncorrelated"] < 0.01


def test_coverage_needs_the_truth_of_all_variables():
    draws = xr.Dataset({"dose": (("chain", "draw", "image"), np.zeros((1, 3, 2)))})
    with pytest.raises(ValueError, match="dose is missing"):
        coverage(draws, xr.Dataset())

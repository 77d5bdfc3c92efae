import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax
from scipy.stats import chi2, kstest

from bayesctx.coverage import coverage, ranks
from bayesctx.metrics import class_reliability, confusion, log_score, reliability

NAMES = ["M", "D_M", "X2", "V_X"]
NUM = 4000
SHARPNESS = {"exact": 1.0, "too wide": 0.5, "too narrow": 2.0}


def toy(sharpness=1.0, seed=0, num=NUM):
    """Four equally probable classes seen through unit noise: the posterior, exact at sharpness 1, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=num)
    x = rng.normal(1.5 * truth)
    logits = -0.5 * (x[:, None] - 1.5 * np.arange(4)) ** 2
    posterior = np.exp(log_softmax(sharpness * logits, -1))
    return xr.DataArray(posterior, {"defect_class": NAMES}, ("patch", "defect_class")), truth


@pytest.mark.parametrize("other", ["too wide", "too narrow"])
def test_log_score_prefers_the_exact_posterior(other):
    exact, truth = toy()
    gain = (log_score(exact, truth) - log_score(toy(SHARPNESS[other])[0], truth)).values
    # the mean gain is a Kullback-Leibler divergence: positive by many standard errors of the mean
    assert gain.mean() > 5 * gain.std() / np.sqrt(NUM)


def test_log_score_of_a_coin_is_minus_log_two():
    coin = xr.DataArray(
        np.full((3, 2), 0.5), {"defect_class": ["M", "X2"]}, ("patch", "defect_class")
    )
    np.testing.assert_allclose(log_score(coin, np.array([0, 1, 0])), -np.log(2), rtol=1e-15)


def test_log_score_takes_names_or_indices_and_any_leading_dimensions():
    posterior, truth = toy(num=12)
    by_index = log_score(posterior, truth)
    assert by_index.attrs["units"] == "nat"
    np.testing.assert_array_equal(by_index, log_score(posterior, np.array(NAMES)[truth]))
    folded = posterior.values.reshape(3, 4, 4)
    images = xr.DataArray(folded, {"defect_class": NAMES}, ("image", "patch", "defect_class"))
    np.testing.assert_array_equal(log_score(images, truth.reshape(3, 4)).values.ravel(), by_index)
    np.testing.assert_array_equal(log_score(images, truth).values.ravel(), by_index)


def test_log_score_of_the_impossible_is_finite_and_terrible():
    sure = xr.DataArray([[1.0, 0.0]], {"defect_class": ["M", "X2"]}, ("patch", "defect_class"))
    score = log_score(sure, np.array(["X2"])).item()
    assert np.isfinite(score)
    assert score < -80


def noise_of(table):
    """Three standard deviations in every bin: the calibration error that a calibrated posterior stays below."""
    deviation = np.sqrt(table.confidence * (1 - table.confidence) / table["count"])
    return float((3 * deviation * table["count"]).sum() / table["count"].sum())


def test_a_calibrated_posterior_is_reliable():
    posterior, truth = toy()
    table = reliability(posterior, truth)
    assert int(table["count"].sum()) == NUM
    assert float(table.expected_calibration_error) < noise_of(table)
    right = posterior.values.argmax(-1) == truth
    assert float(table.accuracy_overall) == pytest.approx(right.mean(), abs=1e-12)


@pytest.mark.parametrize(("which", "sign"), [("too narrow", 1), ("too wide", -1)])
def test_a_posterior_that_is_too_sure_or_not_sure_enough_shows(which, sign):
    posterior, truth = toy(SHARPNESS[which])
    table = reliability(posterior, truth)
    assert float(table.expected_calibration_error) > noise_of(table)
    excess = (posterior.max("defect_class").values - (posterior.values.argmax(-1) == truth)).mean()
    # a share of NUM trials has a standard deviation of at most 0.5 / sqrt(NUM)
    assert sign * excess > 5 * 0.5 / np.sqrt(NUM)


def test_reliability_leaves_bins_without_patches_empty():
    posterior, truth = toy(num=50)
    table = reliability(posterior, truth, num_bins=8)
    assert table.sizes["bin"] == 8
    # the most probable of four classes has at least a quarter
    assert table["count"].values[:2].tolist() == [0, 0]
    np.testing.assert_array_equal(np.isnan(table.accuracy), table["count"] == 0)
    assert np.isfinite(table.expected_calibration_error)


def test_confusion_counts_every_patch_once():
    posterior, truth = toy(num=200)
    table = confusion(posterior, np.array(NAMES)[truth])
    assert table.dims == ("truth", "prediction")
    np.testing.assert_array_equal(table.sum("prediction"), np.bincount(truth, minlength=4))
    right = (posterior.values.argmax(-1) == truth).sum()
    assert int(np.trace(table.values)) == right
    assert (
        int(table.sel(truth="X2", prediction="V_X"))
        == ((truth == 2) & (posterior.values.argmax(-1) == 3)).sum()
    )


def rank_of(width, num=2000, num_draws=99):
    """Ranks of a standard normal seen through unit noise, its posterior scaled in width."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=num)
    seen = truth + rng.normal(size=num)
    draws = seen / 2 + width * np.sqrt(0.5) * rng.normal(size=(1, num_draws, num))
    return ranks(xr.DataArray(draws, dims=("chain", "draw", "image")), truth).values


def test_ranks_tell_exact_from_wide_and_narrow():
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


@pytest.mark.parametrize("function", [log_score, reliability, confusion])
def test_a_truth_that_does_not_fit_is_refused(function):
    posterior, truth = toy(num=5)
    with pytest.raises(ValueError, match=r"a truth of shape \(5,\) was expected, got \(4,\)"):
        function(posterior, truth[:4])
    with pytest.raises(ValueError, match="classes among M, D_M, X2, V_X were expected, got 'W'"):
        function(posterior, np.array(["M", "M", "M", "M", "W"]))


def test_every_class_of_a_calibrated_posterior_is_reliable():
    posterior, truth = toy()
    table = class_reliability(posterior, truth)
    assert table["count"].sum("bin").values.tolist() == [NUM] * len(NAMES)
    for name in NAMES:
        assert float(table.expected_calibration_error.sel(defect_class=name)) < noise_of(
            table.sel(defect_class=name)
        )
    # per class, the patches that are of it
    found = (table.accuracy * table["count"]).sum("bin").values
    np.testing.assert_allclose(found, np.bincount(truth, minlength=4), rtol=1e-12)


def test_a_class_that_is_named_too_rarely_shows():
    """Two probabilities exchanged: the other classes stay reliable, as the error of the most probable class would not say."""
    posterior, truth = toy()
    tilted = posterior * xr.DataArray(
        [1.0, 1.0, 1.0, 0.3], {"defect_class": NAMES}, ("defect_class",)
    )
    tilted = tilted / tilted.sum("defect_class")
    error = class_reliability(tilted, truth).expected_calibration_error
    assert error.idxmax("defect_class").item() in ("X2", "V_X")
    assert float(error.sel(defect_class="V_X")) > 3 * float(error.sel(defect_class="M"))


def coverage_of(width, correlation, num=2000, num_draws=99):
    """Coverage of two standard normals seen through correlated unit noise; draws with their own width and correlation."""
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


def test_coverage_tells_exact_from_wide_narrow_and_uncorrelated():
    rejected = {n: kstest(coverage_of(*a), "uniform").pvalue for n, a in {
        "exact": (1.0, True), "wide": (1.6, True), "narrow": (0.6, True), "uncorrelated": (1.0, False)}.items()}  # fmt: skip
    assert rejected["exact"] > 0.01
    assert max(rejected["wide"], rejected["narrow"]) < 1e-6
    # every marginal is exact: ranks could not tell
    assert rejected["uncorrelated"] < 0.01


def test_coverage_wants_the_truth_of_everything():
    draws = xr.Dataset({"dose": (("chain", "draw", "image"), np.zeros((1, 3, 2)))})
    with pytest.raises(ValueError, match="dose is missing"):
        coverage(draws, xr.Dataset())

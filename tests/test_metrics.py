import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax

from bayesctx.metrics import class_reliability, confusion, log_score, match_sites, reliability

NAMES = ["M", "D_M", "X2", "V_X"]

NUM = 4000

SHARPNESS = {"exact": 1.0, "too wide": 0.5, "too narrow": 2.0}


def toy(sharpness=1.0, seed=0, num=NUM):
    """Posterior, exact at sharpness 1, and truth of four equally probable classes with noise."""
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


def test_log_score_of_probability_zero_is_finite():
    sure = xr.DataArray([[1.0, 0.0]], {"defect_class": ["M", "X2"]}, ("patch", "defect_class"))
    score = log_score(sure, np.array(["X2"])).item()
    assert np.isfinite(score)
    assert score < -80


def noise_of(table):
    """Largest calibration error of a calibrated posterior: three standard deviations per bin."""
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
def test_miscalibration_shows(which, sign):
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
    # numbers of patches of every class
    found = (table.accuracy * table["count"]).sum("bin").values
    np.testing.assert_allclose(found, np.bincount(truth, minlength=4), rtol=1e-12)


def test_miscalibration_of_one_class_shows():
    """One class with too low probabilities; the other classes stay reliable."""
    posterior, truth = toy()
    tilted = posterior * xr.DataArray(
        [1.0, 1.0, 1.0, 0.3], {"defect_class": NAMES}, ("defect_class",)
    )
    tilted = tilted / tilted.sum("defect_class")
    error = class_reliability(tilted, truth).expected_calibration_error
    assert error.idxmax("defect_class").item() in ("X2", "V_X")
    assert float(error.sel(defect_class="V_X")) > 3 * float(error.sel(defect_class="M"))


def test_sites_match_the_nearest_true_site():
    """Within 0.7 Å, which is 3.5 pixels here."""
    data = xr.Dataset(
        {
            "site_x": ("patch", [10.0, 20.0, 30.0]),
            "site_y": ("patch", [10.0, 10.0, 10.0]),
            "defect": ("patch", ["M", "X2", "V_X"]),
            "sampling": 0.2,
        }
    )
    sites = xr.Dataset(
        {"site_x": ("patch", [31.0, 9.0, 15.0]), "site_y": ("patch", [12.0, 10.0, 10.0])}
    )
    matched, truth = match_sites(data, xr.DataTree.from_dict({"constant_data": sites}))
    assert matched.tolist() == [True, True, False]
    assert truth.tolist() == ["V_X", "M"]

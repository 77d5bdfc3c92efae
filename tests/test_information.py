import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax

from bayesctx.information import entropy, entropy_reduction

NAMES = ["M", "D_M", "X2", "V_X"]
NUM = 4000


def tree(probabilities):
    """A result with probabilities of classes and of two hosts."""
    classes = {
        "defect": (("patch", "defect_class"), np.asarray(probabilities, float)),
        "host": ("host_class", [0.75, 0.25]),
    }
    coords = {"defect_class": NAMES, "host_class": ["WSe2", "MoS2"]}
    return xr.DataTree.from_dict({"class_posterior": xr.Dataset(classes, coords)})


def toy(num_views, sharpness=1.0):
    """Posterior and truth of four equally probable classes with unit noise, for several views."""
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=NUM)
    x = rng.normal(truth[:, None], size=(NUM, 2))[:, :num_views]
    logits = -0.5 * ((x[..., None] - np.arange(4)) ** 2).sum(1)
    return tree(np.exp(log_softmax(sharpness * logits, -1))), truth


def agrees(difference):
    """Whether a mean is zero within four standard errors."""
    return abs(difference.mean()) < 4 * difference.std() / np.sqrt(difference.size)


@pytest.mark.parametrize(
    ("probabilities", "bits"),
    [
        ([0.25] * 4, 2.0),
        ([1.0, 0, 0, 0], 0.0),
        ([1.0000002, 0, 0, 0], 0.0),
        ([0.5, 0.25, 0.25, 0], 1.5),
        ([0.5, 0, 0, 0.5], 1.0),
    ],
)
def test_entropy_of_known_distributions(probabilities, bits):
    found = entropy(tree([probabilities]))
    # sums of at most four terms in double precision
    np.testing.assert_allclose(found.entropy, [bits], atol=1e-15)
    assert found.entropy.attrs["units"] == "bit"
    assert "log_score" not in found


def test_entropy_of_a_variable_of_the_image():
    found = entropy(tree([[0.25] * 4]), np.array("WSe2"), variable="host")
    # 3/4 log2(4/3) + 1/4 log2(4), and log2(3/4)
    assert found.entropy.item() == pytest.approx(2 - 0.75 * np.log2(3), abs=1e-12)
    assert found.log_score.item() == pytest.approx(np.log2(0.75), abs=1e-12)


def test_entropy_of_a_calibrated_posterior_is_minus_its_log_score():
    found = entropy(*toy(1))
    assert agrees((found.entropy + found.log_score).values)
    assert found.log_score.attrs["units"] == "bit"


@pytest.mark.parametrize(("sharpness", "sign"), [(0.5, 1), (2.0, -1)])
def test_entropy_of_a_wide_or_narrow_posterior_is_not(sharpness, sign):
    found = entropy(*toy(1, sharpness))
    excess = (found.entropy + found.log_score).values
    assert sign * excess.mean() > 5 * excess.std() / np.sqrt(NUM)


def test_entropy_reduction_equals_the_gain_where_knowledge_is_real():
    before, truth = toy(1)
    after, _ = toy(2)
    bits = entropy_reduction(before, after, truth)
    assert agrees((bits.entropy_reduction - bits.log_score_gain).values)
    # a second view tells much more than nothing, though single patches may lose
    assert float(bits.entropy_reduction.mean()) > 0.2
    assert float(bits.entropy_reduction.min()) < 0
    back = entropy_reduction(after, before, truth)
    np.testing.assert_allclose(back.entropy_reduction, -bits.entropy_reduction, atol=1e-15)
    np.testing.assert_allclose(back.log_score_gain, -bits.log_score_gain, atol=1e-12)


def test_entropy_reduction_that_is_bought_by_overconfidence_shows():
    before, truth = toy(1)
    after, _ = toy(1, sharpness=4.0)
    bits = entropy_reduction(before, after, truth)
    gain = bits.log_score_gain.values
    assert float(bits.entropy_reduction.mean()) > 0.2
    assert gain.mean() < -5 * gain.std() / np.sqrt(NUM)


def test_errors():
    one, two = tree([[0.25] * 4]), tree([[0.25] * 4] * 2)
    with pytest.raises(
        ValueError,
        match="a variable among defect, host was expected, got 'dose'; others are continuous",
    ):
        entropy(one, variable="dose")
    with pytest.raises(
        ValueError,
        match=r"on the same patches were expected, got \{'patch': 1\} and \{'patch': 2\}; infer",
    ):
        entropy_reduction(one, two, np.array("M"))
    with pytest.raises(ValueError, match=r"a truth of shape \(1,\) was expected"):
        entropy(one, np.array(["M", "M"]))


def result_of(intensity, sites, probabilities):
    """A result with the observed intensity and the positions of the sites."""
    result = tree(probabilities)
    result["observed_data"] = xr.Dataset({"intensity": (("y", "x"), intensity)})
    result["constant_data"] = xr.Dataset({n: ("patch", sites) for n in ("site_y", "site_x")})
    return result


def test_results_on_other_images_or_sites_are_refused():
    """Results of equal sizes; pixels may be missing, and sites differ by a fraction of a pixel."""
    image = np.array([[1.0, np.nan], [3.0, 4.0]])
    uniform, sharp = [[0.25] * 4] * 2, [[0.5, 0.5, 0, 0]] * 2
    before, truth = result_of(image, [5.0, 9.0], uniform), np.array(["M", "M"])
    bits = entropy_reduction(before, result_of(image, [5.2, 9.1], sharp), truth)
    np.testing.assert_allclose(bits.entropy_reduction, [1.0, 1.0])
    with pytest.raises(ValueError, match="same patches.*on different observed intensities; infer"):
        entropy_reduction(before, result_of(image + 1, [5.0, 9.0], sharp), truth)
    moved = result_of(image, [5.0, 12.0], sharp)
    with pytest.raises(ValueError, match=r"same patches.*on different sites \(site_y\); infer"):
        entropy_reduction(before, moved, truth)
    # the host does not belong to a site
    host = entropy_reduction(before, moved, np.array("WSe2"), variable="host")
    assert host.entropy_reduction.item() == 0
    # without them sizes are compared
    assert entropy_reduction(before, tree(sharp), truth).sizes == {"patch": 2}


def test_joint_probabilities_have_no_entropy_of_one_variable():
    result = tree([[0.25] * 4])
    joint = result["class_posterior"].defect * result["class_posterior"].host
    classes = result["class_posterior"].to_dataset().assign(defect_host=joint)
    with pytest.raises(ValueError, match="or joint probabilities"):
        entropy(xr.DataTree.from_dict({"class_posterior": classes}), variable="defect_host")

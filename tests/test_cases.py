import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import qmc

from bayesctx import check_context, reference_prior, tmd_prior
from bayesctx.context import CONTEXT, Detector, is_annular_dark_field
from bayesctx.inference.cases import FEW, SEED, check_images, draw_context, group_images
from bayesctx.prior import CONTINUOUS

KNOWN = {
    "beam_energy": 80e3,
    "convergence_semiangle": 25.0,
    "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
    "defocus": 0.0,
    "dose": 1e5,
}
EVIDENCE = {
    "nothing": {},
    "normal": {"defocus": dist.Normal(0.0, 20.0), "dose": dist.Normal(1e5, 2e4)},
    "heavy": {"dose": dist.StudentT(2.0, 1e5, 1e3)},
    "mixture": {
        "beam_energy": dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Delta(torch.tensor([6e4, 8e4]))
        )
    },
    "rare": {
        "convergence_semiangle": dist.Uniform(30.0, 38.0),
        "inner_collection_angle": dist.Uniform(25.0, 30.5),
    },
    "candidates": {"inner_collection_angle": [40, 60], "outer_collection_angle": [42.5, 200]},
    "narrow": {"inner_collection_angle": 60.0, "outer_collection_angle": dist.Uniform(55.0, 66.0)},
}


def agrees(context):
    return is_annular_dark_field(context["convergence_semiangle"], Detector.of(context))


@pytest.mark.parametrize("prior", [reference_prior(), tmd_prior()], ids=["reference", "tmd"])
def test_draws_are_points_of_a_sobol_sequence(prior):
    """The same for a seed in every version of scipy from 1.13 on."""
    context = draw_context(prior, 100, 7)
    points = qmc.Sobol(7, **{SEED: np.random.default_rng(7)}).random(1024)
    expected, possible = prior.quantiles(torch.from_numpy(points).float())
    assert list(context) == list(CONTINUOUS)
    for name in CONTINUOUS:
        assert torch.equal(context[name], expected[name][possible][:100])


@pytest.mark.parametrize("name", EVIDENCE)
def test_every_draw_is_inside_of_the_domain_and_possible(name):
    given = reference_prior().given(EVIDENCE[name])
    context = draw_context(given, 256, 0)
    for variable, values in context.items():
        low, high = CONTEXT[variable].domain
        assert values.shape == (256,)
        assert values.dtype == torch.float32
        assert low <= values.min() <= values.max() <= high
    assert bool(agrees(context).all())


def test_rare_draws_are_looked_for_longer():
    """One in 130 pairs of angles is possible: none of 256 draws is a copy."""
    context = draw_context(reference_prior().given(EVIDENCE["rare"]), 256, 0)
    assert len(context["dose"].unique()) == 256


def test_angles_that_never_agree_are_refused():
    with pytest.raises(ValueError, match=r"1.05 .*got none in \d+ draws.*check their ranges"):
        draw_context(
            reference_prior().given({
                "convergence_semiangle": dist.Uniform(36.0, 38.0),
                "inner_collection_angle": dist.Uniform(25.0, 30.0),
            }),
            16,
            0,
        )  # fmt: skip


def test_draws_with_an_angle_of_the_image_are_not_selected():
    context = draw_context(reference_prior(), 512, 0, replaced={"inner_collection_angle"})
    # of the prior a third is not possible
    assert 0.5 < float(agrees(context).float().mean()) < 0.9


def test_many_values_of_one_variable_share_their_draws():
    doses = np.geomspace(1e3, 1e6, 300)
    found = list(group_images(reference_prior(), {"dose": doses}, 300, 8, 0))
    assert len(found) == FEW
    assert sorted(np.concatenate([case.images for case in found])) == list(range(300))
    for case in found:
        # a group of five neighbours spans 4/299 of three decades
        assert np.abs(np.log(doses[case.images] / case.context["dose"][0, 0].numpy())).max() < 0.06


def test_few_values_and_names_make_a_case_each():
    known = {
        "host": np.array(["MoS2", "WS2", "MoS2", "WS2"]),
        "dose": np.array([1e4, 1e4, 1e5, 1e4]),
    }
    found = list(group_images(reference_prior(), known, 4, 8, 0))
    assert [case.images.tolist() for case in found] == [[0], [1, 3], [2]]
    assert [case.context["dose"][0, 0].item() for case in found] == [1e4, 1e4, 1e5]
    assert [case.materials.host.tolist() for case in found] == [[[0]], [[3]], [[0]]]


def test_a_wholly_known_context_needs_one_draw():
    known = KNOWN | {"host": np.array(["MoS2", "WS2", "MoS2"]), "dose": np.array([1e4, 1e5, 1e6])}
    (case,) = group_images(reference_prior(), check_context(known), 3, 1000, 0)
    assert case.images.tolist() == [0, 1, 2]
    assert case.context["dose"].tolist() == [[1e4], [1e5], [1e6]]
    assert case.context["defocus"].tolist() == [[0.0]] * 3
    assert case.possible.all()
    assert case.materials.host[:, 0].tolist() == [0, 3, 0]


def test_validity_is_checked_per_image():
    """The prior of the convergence under a wide detector does not depend on other images."""
    known = {
        "inner_collection_angle": np.linspace(40, 110, 80),
        "beam_energy": np.linspace(60e3, 200e3, 80),
    }
    (case,) = group_images(reference_prior(), known, 80, 1024, 0)
    convergence = case.context["convergence_semiangle"].expand(80, -1)
    assert bool(case.possible[-1].float().mean() > 0.5)
    # of 18 to 38 mrad; the mean of as many independent draws errs by 0.2
    for image in (0, -1):
        weight = case.possible[image].float()
        assert float((convergence[image] * weight).sum() / weight.sum()) == pytest.approx(
            28.0, abs=0.2
        )


def test_images_that_agree_with_no_shared_draw_get_draws_of_their_own():
    inner = np.append(np.linspace(60, 110, 80), [25.02, 25.05])
    known = {
        "convergence_semiangle": dist.Uniform(25.0, 38.0),
        "inner_collection_angle": inner,
        "beam_energy": np.linspace(60e3, 200e3, 82),
    }
    found = list(group_images(reference_prior(), check_context(known), 82, 32, 0))
    assert [case.images.tolist() for case in found] == [[80], [81], list(range(80))]
    for case in found:
        assert bool(case.possible.any(1).all())
        assert bool((case.possible == agrees(case.context)).all())
        assert np.allclose(case.context["inner_collection_angle"][:, 0], inner[case.images])
        assert np.allclose(case.context["beam_energy"][:, 0], known["beam_energy"][case.images])


def test_an_image_whose_angles_contradict_the_evidence_is_refused():
    known = {
        "convergence_semiangle": dist.Uniform(36.0, 38.0),
        "inner_collection_angle": np.append(np.linspace(60, 110, 80), 30.0),
        "beam_energy": np.linspace(60e3, 200e3, 81),
    }
    with pytest.raises(ValueError, match="got none in"):
        list(group_images(reference_prior(), check_context(known), 81, 16, 0))


def test_medians_of_one_angle_are_not_put_to_other_angles():
    """Two populations: rings from 30 to 60 mrad, and rings from 200 to 300 mrad."""
    inner = np.append(np.linspace(30, 40, 33), np.linspace(110, 120, 33))
    outer = np.append(np.full(33, 60.0), np.full(33, 300.0))
    order = np.random.default_rng(0).permutation(66)
    known = {"inner_collection_angle": inner[order], "outer_collection_angle": outer[order]}
    found = list(group_images(reference_prior(), check_context(known), 66, 16, 0))
    for case in found:
        assert np.allclose(
            case.context["inner_collection_angle"][:, 0], inner[order][case.images], rtol=1e-6
        )
        assert bool(case.possible.any(1).all())


def test_values_per_image_fit_the_images():
    known = {"host": np.array(["MoS2", "WS2"]), "dose": 1e4}
    assert check_images(known, 2) == known
    with pytest.raises(ValueError, match="host was expected for 6 images, got 2 values; give one"):
        check_images(known, 6, ("image", "y", "x"))
    with pytest.raises(ValueError, match="host was expected for 6 images, got 2 values"):
        list(group_images(reference_prior(), known, 6, 8, 0))
    for dims in (("patch", "y", "x"), ("y", "x")):
        with pytest.raises(
            ValueError, match=r"one value of host was expected.*call infer for each"
        ):
            check_images(known, 1, dims)
    single = check_images({"host": np.array(["WS2"]), "dose": np.array([1e4])}, 1, ("y", "x"))
    assert single == {"host": "WS2", "dose": 1e4}
    assert [type(v) for v in single.values()] == [str, float]


@pytest.mark.parametrize(
    "known",
    [
        {},
        KNOWN,
        {"dose": dist.Normal(1e5, 1e4)},
        {"dose": dist.StudentT(3.0, 1e5, 1e4)},
        {"dose": np.geomspace(1e3, 1e6, 100), "beam_energy": np.linspace(5e4, 2e5, 100)},
    ],
    ids=["nothing", "all", "normal", "student", "arrays"],
)
def test_the_default_dtype_changes_nothing(known):
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            found.append(list(group_images(reference_prior(), check_context(known), 100, 8, 0)))
        finally:
            torch.set_default_dtype(torch.float32)
    for single, double in zip(*found, strict=True):
        for name in CONTINUOUS:
            assert double.context[name].dtype == torch.float32
            # parameters of distributions are rounded to the default dtype
            assert torch.allclose(single.context[name], double.context[name], rtol=1e-5, atol=1e-5)
        assert torch.equal(single.possible, double.possible)

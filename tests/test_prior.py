"""The prior: exact copies, checked values, quantiles, and conditioning on a context."""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats

from bayesctx import simulate
from bayesctx.distributions import decode, encode, log_uniform, quantile
from bayesctx.nuisances import NUISANCES, OF_SCANS, check_nuisances, nuisances_of_scan
from bayesctx.prior import CONTINUOUS, MAX_TRIES, Prior, limit_prior, reference_prior, tmd_prior

PRIORS = {
    "tmd": tmd_prior,
    "reference": reference_prior,
    "limit": limit_prior,
    "between": lambda: limit_prior(between=True),
}
POINT = {
    "beam_energy": 80e3,
    "convergence_semiangle": 25.0,
    "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
    "defocus": 0.0,
    "dose": 1e5,
}


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_that_was_written_and_read_is_equal_in_every_bit(name):
    prior = PRIORS[name]()
    text = json.dumps(prior.to_dict())
    copy = Prior.from_dict(json.loads(text))
    assert copy == prior
    assert hash(copy) == hash(prior)
    assert json.dumps(copy.to_dict()) == text
    u = uniform(100, 7)
    first, second = prior.quantiles(u)[0], copy.quantiles(u)[0]
    assert all(torch.equal(first[n], second[n]) for n in CONTINUOUS)
    for nuisance, value in prior.nuisances.items():
        assert torch.equal(quantile(value, u), quantile(copy.nuisances[nuisance], u))


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_any_size_are_written_without_loss(seed):
    """Log-uniform distributions hold the logarithm of their bounds in single precision."""
    exponents = (40 * uniform(200, 2, seed=seed) - 20).double().sort().values
    for low, high in (10**exponents).tolist():
        for value in (log_uniform(low, high), dist.Uniform(low, high), dist.Normal(low, high)):
            written = encode(value)
            again = decode(json.loads(json.dumps(written)))
            assert encode(again) == written
            if isinstance(value, dist.TransformedDistribution):
                assert torch.equal(again.base_dist.low, value.base_dist.low)
                assert torch.equal(again.base_dist.high, value.base_dist.high)
            else:
                assert torch.equal(again.mean, value.mean)
                assert torch.equal(again.stddev, value.stddev)


def test_what_was_given_as_a_round_number_is_written_as_one():
    assert encode(log_uniform(40e3, 300e3)) == {"log_uniform": [40e3, 300e3]}
    assert encode(dist.Uniform(0.1, 0.3)) == {"Uniform": [0.1, 0.3]}


def test_priors_are_equal_by_value():
    prior = Prior((POINT,))
    same = Prior([POINT | {"defocus": -0.0, "dose": 10**5}], sampling=np.float64(0.25))
    assert prior == same
    assert hash(prior) == hash(same)
    others = [
        Prior((POINT | {"dose": 2e5},)),
        Prior((POINT, POINT)),
        Prior((POINT,), hosts=("MoS2",)),
        replace(prior, nuisances=dict(prior.nuisances) | {"tilt": 1.0}),
        replace(prior, num_pixels=24),
    ]
    assert all(prior != other for other in others)
    assert prior != "prior"
    assert len({prior, same, *others}) == 6


def test_a_distribution_that_cannot_be_written_is_equal_to_itself_only():
    dose = dist.Gamma(4.0, 4e-5)
    first, second = (Prior((POINT | {"dose": d},)) for d in (dose, dist.Gamma(4.0, 4e-5)))
    assert first == Prior((POINT | {"dose": dose},))
    assert first != second
    with pytest.raises(
        ValueError, match="Uniform, Normal, HalfNormal, Beta and log_uniform was expected"
    ):
        first.to_dict()
    with pytest.raises(ValueError, match="others cannot be written"):
        encode(dist.LogNormal(0.0, 1.0))


def test_the_precision_of_torch_does_not_change_a_prior():
    expected = reference_prior()
    torch.set_default_dtype(torch.float64)
    try:
        found = reference_prior()
        copy = Prior.from_dict(expected.to_dict())
    finally:
        torch.set_default_dtype(torch.float32)
    double = dist.Uniform(torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.2).double())
    for prior in (found, copy, replace(expected, nuisances={"tilt": double, "gain": 1.0})):
        u = uniform(50, 7)
        first, second = prior.quantiles(u)[0], expected.quantiles(u)[0]
        assert all(torch.equal(first[n], second[n]) for n in CONTINUOUS)
        held = prior.nuisances["tilt"]
        assert (held.low.dtype, type(held)) == (torch.float32, dist.Uniform)
    assert found == expected == copy


def test_a_distribution_need_not_state_its_support():
    class Triangle(dist.TorchDistribution):
        """Density 2 x on (0, 1) of a hundredth of the focus."""

        arg_constraints = {}

        def icdf(self, u):
            return 100 * u.sqrt()

    prior = Prior((POINT | {"defocus": Triangle(validate_args=False)},))
    assert prior.domain("defocus") == (0.0, 100.0)


def test_cards_from_before_the_renaming_are_read():
    values = reference_prior().to_dict()
    values["concentration"] = values.pop("dirichlet_alpha")
    assert Prior.from_dict(values) == reference_prior()


def test_a_prior_keeps_what_it_was_made_of():
    alpha = dict(reference_prior().dirichlet_alpha)
    prior = Prior((POINT,), dirichlet_alpha=alpha)
    alpha["M"] = -1.0
    assert prior.dirichlet_alpha["M"] == 15.0


NUISANCE = {"gain": 1.0}
ALPHA = dict(tmd_prior().dirichlet_alpha)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conditions": ()}, ValueError, "1 to 1000 values were expected for conditions, got 0"),
        ({"conditions": POINT}, TypeError, "a tuple was expected for conditions"),
        ({"conditions": ("POINT",)}, TypeError, "a mapping was expected"),
        ({"conditions": ({"dose": 1.0},)}, ValueError, "'beam_energy' was expected, it is missing"),
        ({"conditions": (POINT | {"dosis": 1.0},)}, ValueError, "'dosis'.*did you mean 'dose'"),
        ({"conditions": (POINT | {"dose": "1e5"},)}, TypeError, r"dose \[e/Å²\], got '1e5'"),
        ({"conditions": (POINT | {"dose": True},)}, TypeError, "a number, a tuple of candidates"),
        ({"conditions": (POINT | {"dose": -1e4},)}, ValueError, "between 100 and 1e\\+08, got -1"),
        ({"conditions": (POINT | {"dose": math.nan},)}, ValueError, "dose .*, got nan"),
        ({"conditions": (POINT | {"dose": math.inf},)}, ValueError, "dose .*, got inf"),
        ({"conditions": (POINT | {"dose": 10**400},)}, ValueError, "dose .*, got 1000"),
        ({"conditions": (POINT | {"dose": ()},)}, ValueError, "1 to 1000 values were expected"),
        ({"conditions": (POINT | {"dose": (1e4, 10.0)},)}, ValueError, "dose .*, got 10"),
        ({"conditions": (POINT | {"dose": (1e4, (1e5,))},)}, TypeError, r"a number.*got \(1000"),
        ({"conditions": (POINT | {"dose": torch.ones(2)},)}, TypeError, "a number, a tuple"),
        ({"conditions": (POINT | {"dose": dist.Uniform(-1e4, 1e4)},)}, ValueError, "lower bound"),
        ({"conditions": (POINT | {"dose": dist.Normal(torch.ones(2), 1.0)},)}, ValueError,
         r"a distribution of one number was expected for dose .*, got one of shape \(2,\)"),
        ({"conditions": (POINT | {"dose": dist.LogNormal(torch.ones(2), 1.0)},)}, ValueError,
         "one of shape"),
        ({"conditions": (POINT | {"dose": dist.Poisson(1e4)},)}, ValueError, "a continuous distr"),
        ({"conditions": (POINT | {"convergence_semiangle": 61.0},)}, ValueError, "between 15 and"),
        ({"conditions": (POINT | {"inner_collection_angle": 26.0, "convergence_semiangle": 27.0},)},
         ValueError, "convergence_semiangle <= inner_collection_angle and 1.05"),
        ({"conditions": (POINT | {"outer_collection_angle": dist.Uniform(50.0, 61.0)},)},
         ValueError, "convergence_semiangle <= inner_collection_angle and 1.05"),
        ({"hosts": ()}, ValueError, "1 to 1000 values were expected for hosts"),
        ({"hosts": "MoS2"}, TypeError, r"a tuple was expected for hosts, got 'MoS2'"),
        ({"hosts": ("MoS",)}, ValueError, "unknown host 'MoS'; .*did you mean 'MoS2'"),
        ({"hosts": (3,)}, TypeError, "the name of a host was expected, got 3"),
        ({"hosts": ("MoS2",), "dopants": {}}, ValueError, "dopants of every host.*MoS2 has none"),
        ({"dopants": {"MoS2": ()}}, ValueError, "1 to 1000 values were expected for dopants"),
        ({"dopants": {"MoS2": ("Mo",)}}, ValueError, "other than its own metal.*remove Mo"),
        ({"dopants": {"MoS2": ("Au",)}}, ValueError, "unknown dopant 'Au'"),
        ({"dopants": {"MoS2": "Ti"}}, TypeError, "a tuple was expected for dopants"),
        ({"dopants": {"Mo": ("Ti",)}}, ValueError, "unknown host 'Mo'"),
        ({"defects": ()}, ValueError, "1 to 1000 values were expected for defects"),
        ({"defects": ("VX",)}, ValueError, "unknown defect 'VX'.*did you mean 'V_X'"),
        ({"defects": ("M", "M")}, ValueError, "every defect was expected once"),
        ({"dirichlet_alpha": {"M": 1.0}}, ValueError, "'D_M' was expected, it is missing"),
        ({"dirichlet_alpha": ALPHA | {"V_X": -0.1}}, ValueError, "dirichlet_alpha of V_X .*-0.1"),
        ({"dirichlet_alpha": ALPHA | {"V_X": math.nan}}, ValueError, "dirichlet_alpha of V_X"),
        ({"dirichlet_alpha": ALPHA | {"VX": 1.0}}, ValueError, "did you mean 'V_X'"),
        ({"dirichlet_alpha": dict.fromkeys(ALPHA, 0.0)}, ValueError, "classes of a metal site"),
        ({"nuisances": NUISANCE | {"source_siez": 1.0}}, ValueError, "did you mean 'source_size'"),
        ({"nuisances": NUISANCE | {"tilt": -1.0}}, ValueError, r"tilt \[deg\] .* 0 and 45, got -1"),
        ({"nuisances": NUISANCE | {"tilt": dist.Uniform(-1.0, 1.0)}}, ValueError, "lower bound of"),
        ({"nuisances": NUISANCE | {"tilt": None}}, TypeError, "for tilt .*, got None"),
        ({"nuisances": NUISANCE | {"tilt": dist.HalfNormal(math.inf)}}, ValueError, "a parameter"),
        ({"nuisances": NUISANCE | {"readout": 0.5}}, ValueError, "scan_step above zero"),
        ({"nuisances": {"gain": 0.0}}, ValueError, "gain .* got 0"),
        ({"nuisances": {}}, ValueError, "the nuisance gain was expected, it is missing"),
        ({"nuisances": ["gain"]}, TypeError, "a mapping was expected for nuisances"),
        ({"sampling": 0.0}, ValueError, r"sampling \[Å/px\] was expected between 0.02 and 0.6"),
        ({"sampling": "0.25"}, TypeError, "a number was expected for sampling"),
        ({"num_pixels": 0}, ValueError, "num_pixels was expected to be at least 8"),
        ({"num_pixels": 10**9}, ValueError, "num_pixels .* at most 128"),
        ({"num_pixels": 32.0}, TypeError, "num_pixels was expected as a whole number"),
        ({"num_pixels": 100}, ValueError, "a patch of at most 18.5 Å was expected"),
    ],
)  # fmt: skip
def test_a_prior_that_cannot_be_is_refused_when_it_is_made(change, error, message):
    with pytest.raises(error, match=message):
        Prior(**{"conditions": (POINT,)} | change)


def test_parameters_are_checked_without_the_validation_of_torch():
    for value in (
        dist.Normal(0.0, -1.0, validate_args=False),
        dist.Uniform(2.0, 1.0, validate_args=False),
        dist.HalfNormal(math.nan, validate_args=False),
    ):
        with pytest.raises(ValueError, match="for strain .*; correct it"):
            Prior((POINT,), nuisances=NUISANCE | {"strain": value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("hosts"), "entry of a prior 'hosts' was expected, it is missing; add it"),
        (lambda v: v.update(host=1), "unknown entry of a prior 'host'.*did you mean 'hosts'"),
        (lambda v: v.update(concentration={}), "unknown entry of a prior 'concentration'"),
        (lambda v: v.update(conditions={}), "a tuple was expected for conditions"),
        (lambda v: v.update(conditions=[[]]), "a mapping was expected for a condition"),
        (lambda v: v.update(nuisances=[]), "a mapping was expected for nuisances"),
        (lambda v: v["nuisances"].update(gain={}), "a distribution among Uniform, Normal"),
        (lambda v: v["nuisances"].update(gain={"enable_validation": [False]}), "a distribution"),
        (lambda v: v["nuisances"].update(gain={"Uniform": [0.5]}), "a list of low, high"),
        (lambda v: v["nuisances"].update(gain={"Uniform": {"low": 1}}), "a list of low, high"),
        (lambda v: v["nuisances"].update(gain={"Uniform": [1, [2]]}), "a number was expected"),
        (lambda v: v["nuisances"].update(gain={"Uniform": [2, 1]}), "low < high was expected"),
        (lambda v: v["nuisances"].update(strain={"Normal": [0, 0]}), "scale > 0 was expected"),
        (lambda v: v["nuisances"].update(strain={"Normal": [0, 1e300]}), "got 1e"),
        (lambda v: v["nuisances"].update(gain={"log_uniform": [0, 1]}), "low was expected"),
        (lambda v: v["nuisances"].update(gain={"log_uniform": [1, 1]}), "low < high"),
        (lambda v: v["nuisances"].update(gain={"Uniform": [1, 2], "Normal": [1, 2]}), "among"),
        (lambda v: v["nuisances"].update(tilt=[[1.0]]), r"a number.*got \[1.0\]"),
        (lambda v: v["nuisances"].update(tilt=math.nan), "got nan"),
    ],
)
def test_json_that_is_no_prior_is_refused(change, message):
    import pyro

    values = reference_prior().to_dict()
    change(values)
    with pytest.raises((TypeError, ValueError), match=message):
        Prior.from_dict(values)
    assert pyro.distributions.is_validation_enabled()
    with pytest.raises(TypeError, match="a mapping was expected for the prior, got 3"):
        Prior.from_dict(3)


def test_tmd_prior_has_576_cases():
    prior = tmd_prior()
    detectors = {
        (c["beam_energy"], c["inner_collection_angle"], c["outer_collection_angle"])
        for c in prior.conditions
    }
    assert sum(len(prior.dopants[h]) for h in prior.hosts) * len(detectors) == 576
    assert (200e3, 80.0, 200.0) in detectors
    assert (80e3, 80.0, 250.0) in detectors


def test_draws_are_possible_detectors():
    prior = reference_prior()
    context = prior.first_possible(
        torch.rand(4000, MAX_TRIES, 7, generator=torch.Generator().manual_seed(1))
    )
    assert bool((context["convergence_semiangle"] <= context["inner_collection_angle"]).all())
    assert bool((context["inner_collection_angle"] < context["outer_collection_angle"]).all())
    for name in CONTINUOUS:
        low, high = prior.domain(name)
        assert low - 1e-3 * abs(low) <= float(context[name].min())
        assert float(context[name].max()) <= high * 1.001


def test_log_uniform_is_uniform_in_the_logarithm():
    u = torch.linspace(0.01, 0.99, 9)
    assert torch.allclose(quantile(log_uniform(10.0, 1000.0), u).log10(), 1 + 2 * u, atol=1e-5)


MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.3, 0.7])),
    dist.Normal(torch.tensor([-50.0, 20.0]), torch.tensor([1.0, 5.0])),
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dist.Gamma(4.0, 1.0), stats.gamma(4.0)),
        (dist.Gamma(4.0, 4e-5), stats.gamma(4.0, scale=2.5e4)),
        (dist.Beta(2.0, 5.0), stats.beta(2.0, 5.0)),
        (dist.Beta(2e4, 5e4), stats.beta(2e4, 5e4)),
        (dist.StudentT(1.0, 80e3, 1e3), stats.t(1.0, 80e3, 1e3)),
        (dist.StudentT(5.0, 0.0, 3.0), stats.t(5.0, 0.0, 3.0)),
    ],
)
def test_distributions_without_an_inverse_are_integrated(value, expected):
    u = torch.tensor([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    # the trapezoidal rule on steps of 2e-3 standard deviations, in units of the density
    found = expected.cdf(quantile(value, u).numpy())
    assert np.abs(found - u.numpy()).max() < 2e-4


def test_modes_far_apart_are_found():
    u = torch.tensor([0.15, 0.65])
    assert torch.allclose(quantile(MIXTURE, u), torch.tensor([-50.0, 20.0]), atol=0.05)


def test_quantiles_leave_the_random_numbers_of_torch_alone():
    state = torch.random.get_rng_state()
    values = quantile(dist.Gamma(4.0, 1.0), torch.tensor([0.1, 0.5, 0.9]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(values, quantile(dist.Gamma(4.0, 1.0), torch.tensor([0.1, 0.5, 0.9])))


def test_uniform_numbers_at_the_ends_have_finite_quantiles():
    """Random numbers in single precision are 0 once in 2**24."""
    ends = torch.tensor([0.0, 1 - 2**-24])
    for value in (dist.Normal(0.0, 1.0), dist.HalfNormal(1.0)):
        assert bool(quantile(value, ends).isfinite().all())
    assert torch.equal(quantile(dist.Uniform(1.0, 2.0), ends)[:1], torch.tensor([1.0]))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, math.inf)])
def test_bounds_of_log_uniform_are_checked(bounds):
    with pytest.raises(ValueError, match="was expected|were expected"):
        log_uniform(*bounds)


def test_what_is_given_replaces_the_prior():
    given = reference_prior().given(
        {"host": "WSe2", "beam_energy": 80e3, "inner_collection_angle": dist.Uniform(60.0, 110.0)}
    )
    assert given.hosts == ("WSe2",)
    context, _ = given.quantiles(torch.rand(100, 7))
    assert torch.equal(context["beam_energy"], torch.full((100,), 80e3))
    assert float(context["inner_collection_angle"].min()) >= 60


@pytest.mark.parametrize("name", ["dose", "host"])
def test_arrays_over_images_are_refused(name):
    values = {"dose": np.array([1e4, 1e5]), "host": np.array(["MoS2", "WS2"])}
    with pytest.raises(ValueError, match=f"one value of {name} was expected, got an array; condit"):
        reference_prior().given({name: values[name]})


def test_conditions_that_contradict_the_context_are_removed():
    prior = tmd_prior()
    assert len(prior.given({"beam_energy": 80e3}).conditions) == 2
    assert (
        len(prior.given({"beam_energy": [60e3, 80e3], "inner_collection_angle": 60.0}).conditions)
        == 2
    )
    assert len(prior.given({"outer_collection_angle": dist.Uniform(220.0, 280.0)}).conditions) == 2
    with pytest.raises(
        ValueError, match="conditions of the prior was expected.*; correct the context"
    ):
        prior.given({"beam_energy": 100e3})


def test_a_dopant_chooses_its_hosts():
    given = tmd_prior().given({"dopant": "Co"})
    assert set(given.hosts) == {"NbS2", "NbSe2", "VS2", "VSe2"}
    assert all(d == ("Co",) for d in given.dopants.values())
    # named together, a dopant may be new to its host
    assert tmd_prior().given({"host": "MoS2", "dopant": "Co"}).dopants == {"MoS2": ("Co",)}


def test_candidates_are_equally_probable_and_repetition_weighs():
    values = quantile((60e3, 80e3, 80e3), torch.linspace(0, 0.999, 300))
    assert float((values == 80e3).float().mean()) == pytest.approx(2 / 3, abs=0.01)


def test_the_limit_prior_covers_its_cases_and_what_lies_between():
    between = limit_prior(between=True)
    assert between.nuisances == limit_prior().nuisances
    for name in (
        "beam_energy",
        "inner_collection_angle",
        "outer_collection_angle",
        "convergence_semiangle",
    ):
        low, high = between.domain(name)
        assert all(low <= c[name] <= high for c in limit_prior().conditions)
        assert high > 1.05 * low


@pytest.mark.parametrize(
    ("name", "law", "low", "high"),
    [
        ("source_size", dist.Normal(0.5, 1.0), 0.0, 5.0),
        ("source_size", torch.distributions.Normal(0.5, 1.0), 0.0, 5.0),
        ("gain", dist.Normal(0.0, 1.0), 1e-12, 1e12),
        ("additivity", dist.HalfNormal(20.0), 0.0, 10.0),
        ("vibration", dist.Gamma(0.5, 0.1), 0.0, 5.0),
    ],
)
def test_nuisances_are_truncated_to_what_can_be_simulated(name, law, low, high):
    with pytest.warns(UserWarning, match=rf"{name} \[.*% of the mass of .* is cut off; check its"):
        prior = Prior((POINT,), nuisances={"gain": 1.0, name: law})
    drawn = simulate(prior, 64, seed=0)[name].values
    assert low <= drawn.min() < drawn.max() <= high
    # truncated once, it is kept as it is
    assert Prior((POINT,), nuisances=prior.nuisances).nuisances[name] is prior.nuisances[name]


def test_nuisances_that_cannot_be_simulated_are_refused():
    for law in (dist.Normal(-50.0, 1.0), dist.HalfNormal(1e4)):
        with pytest.raises(ValueError, match=r"source_size \[Å\] was expected to have mass"):
            Prior((POINT,), nuisances={"gain": 1.0, "source_size": law})


def test_the_usual_nuisances_are_not_truncated():
    """Their quantiles, and with them the streams of all seeds, are those of the distributions."""
    kept = reference_prior().nuisances
    assert all(kept[name] is law for name, (_, law) in NUISANCES.items())


def test_truncated_distributions_survive_json():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        nuisances = {"gain": log_uniform(0.1, 10.0), "source_size": dist.Normal(0.5, 1.0)}
        prior = Prior((POINT | {"dose": dist.Uniform(1e3, 1e5)},), nuisances=nuisances)
        prior = prior.given({"dose": dist.Normal(1e4, 5e3)})
    again = Prior.from_dict(json.loads(json.dumps(prior.to_dict())))
    assert again == prior
    assert prior.to_dict()["nuisances"]["source_size"] == {
        "Truncated": [{"Normal": [0.5, 1.0]}, 0.0, 5.0]
    }
    assert simulate(again, 8, seed=0).identical(simulate(prior, 8, seed=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([{"Normal": [0, 1]}, 5, -5], "an interval in which Normal.* has mass was expected, got 5"),
        ([{"Normal": [0, 1]}, 90, 99], "an interval in which .* correct its bounds"),
        ([{"Normal": [0, 1]}, 0, float("inf")], "high of Truncated was expected between"),
        ([3, 0, 1], "a distribution was expected as base of Truncated, got 3; correct it"),
        ([{"Truncated": [{"Normal": [0, 1]}, 0, 1]}, 0, 1], "as base of Truncated"),
        ([{"Normal": [0, 1]}, 0], "a list of base, low, high was expected for Truncated"),
    ],
)
def test_truncated_distributions_of_files_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        decode({"Truncated": arguments})


def test_evidence_on_abundances_is_part_of_the_prior():
    evidence = {"Y_X": 0, "V_X": 0.03, "O_X": (0.0, 0.05), "M_X": dist.Beta(2.0, 100.0)}
    prior = reference_prior().given({"abundance": evidence, "dopant": None})
    assert list(prior.abundance) == ["V_X", "O_X", "M_X"]
    assert prior.dirichlet_alpha["Y_X"] == prior.dirichlet_alpha["D_M"] == 0
    assert not {"Y_X", "D_M"} & set(prior.defects)
    assert not prior.is_doped
    assert reference_prior().is_doped
    assert limit_prior().is_doped
    text = json.dumps(prior.to_dict())
    copy = Prior.from_dict(json.loads(text))
    assert copy == prior
    assert json.dumps(copy.to_dict()) == text
    assert prior != reference_prior().given({"abundance": {"Y_X": 0}, "dopant": None})
    # the file of a prior without such evidence is as it was
    assert "abundance" not in reference_prior().to_dict()
    again = prior.given({"abundance": {"V_X": 0.05}})
    assert again.abundance["V_X"] == 0.05
    assert again.abundance["O_X"] == prior.abundance["O_X"]


@pytest.mark.parametrize("parameters", [[2.0, 0.0], [-1.0, 3.0], [2.0]])
def test_a_beta_distribution_has_two_positive_parameters(parameters):
    assert encode(decode({"Beta": [2.0, 60.0]})) == {"Beta": [2.0, 60.0]}
    with pytest.raises(ValueError, match=r"both parameters > 0 was expected|a list of conc"):
        decode({"Beta": parameters})


def test_evidence_on_abundances_that_the_prior_cannot_have():
    with pytest.raises(ValueError, match="no other class than M there, they leave"):
        limit_prior().given({"abundance": {"M": 0.9}})
    prior = replace(reference_prior(), defects=("Y_X", "D_M"))
    assert prior.given({"dopant": None}).defects == ("Y_X",)
    with pytest.raises(ValueError, match="above 0 was expected for one of Y_X, D_M, the classes"):
        prior.given({"dopant": None, "abundance": {"Y_X": 0}})
    with pytest.raises(ValueError, match=r"shares above 0 .* got 0 for Y_X; set its dirichlet_a"):
        replace(reference_prior(), abundance={"Y_X": 0.0})
    with pytest.raises(TypeError, match="abundance was expected as a mapping"):
        replace(reference_prior(), abundance=[])
    first = reference_prior().given({"abundance": {"V_X": 0.6}})
    with pytest.raises(ValueError, match=r"at most 1 were expected, got V_X 0\.6, O_X 0\.5"):
        first.given({"abundance": {"O_X": 0.5}})


COUNTS = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Poisson(torch.ones(2)))


@pytest.mark.parametrize(("value", "match"), [
    (xr.DataArray(np.zeros((3, 3))), "or a distribution was expected for defocus .*; correct it"),
    (np.zeros((9, 9)), "or a distribution was expected for defocus .*; correct it"),
    (COUNTS, "a continuous distribution was expected for defocus .*; give candidates"),
])  # fmt: skip
def test_what_is_no_value_is_named_in_one_line(value, match):
    assert "\n" in repr(value)
    with pytest.raises((TypeError, ValueError), match=match) as raised:
        Prior((POINT | {"defocus": value},))
    assert "\n" not in str(raised.value)


def test_lenses_of_a_scan_may_be_farther_off_than_those_of_patches():
    prior = reference_prior()
    found = nuisances_of_scan(prior.nuisances)
    assert found.keys() == prior.nuisances.keys()
    assert {n for n, v in found.items() if v is not prior.nuisances[n]} == set(OF_SCANS)
    for name, wide in OF_SCANS.items():
        replaced = prior.nuisances[name]
        assert wide.cdf(replaced.high) < 0.9, name  # the former bound is no bound any more
        check_nuisances({"gain": 1.0, name: wide})
    # so is a prior that was read from a file
    copy = Prior.from_dict(prior.to_dict())
    assert nuisances_of_scan(copy.nuisances)["C21"] is OF_SCANS["C21"]


@pytest.mark.parametrize(
    "given", [100.0, (0.0, 50.0), dist.Uniform(0.0, 200.0), dist.Exponential(0.01)]
)
def test_what_is_stated_of_a_lens_is_kept_for_scans(given):
    nuisances = NUISANCE | {"C21": given}
    assert nuisances_of_scan(nuisances) == nuisances

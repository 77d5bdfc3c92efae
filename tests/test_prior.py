import json

import pyro.distributions as dist
import pytest
import torch

from bayesctx.nuisances import NUISANCES, log_uniform, quantile
from bayesctx.prior import CONTINUOUS, MAX_TRIES, Prior, limit_prior, reference_prior, tmd_prior


@pytest.mark.parametrize("prior", [tmd_prior(), reference_prior()], ids=["tmd", "reference"])
def test_priors_survive_json(prior):
    copy = Prior.from_dict(json.loads(json.dumps(prior.to_dict())))
    u = torch.rand(100, 7, generator=torch.Generator().manual_seed(0))
    for (first, _), (second, _) in [(prior.quantiles(u), copy.quantiles(u))]:
        assert all(torch.allclose(first[n], second[n], rtol=1e-5) for n in CONTINUOUS)
    assert copy.hosts == prior.hosts
    assert copy.dopants == prior.dopants
    v = torch.rand(50)
    for name in NUISANCES:
        assert torch.allclose(
            quantile(prior.nuisances[name], v),
            quantile(copy.nuisances[name], v),
            rtol=1e-4,
            atol=1e-6,
        )


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


def test_quantiles_of_a_distribution_without_an_inverse():
    values = quantile(dist.Gamma(4.0, 1.0), torch.tensor([0.1, 0.5, 0.9]))
    # 4096 draws: the median of Gamma(4) is 3.672 +- sqrt(0.25 / 4096) / density 0.2
    assert float(values[1]) == pytest.approx(3.672, abs=0.12)
    assert torch.equal(values, quantile(dist.Gamma(4.0, 1.0), torch.tensor([0.1, 0.5, 0.9])))


def test_what_is_given_replaces_the_prior():
    given = reference_prior().given(
        {"host": "WSe2", "beam_energy": 80e3, "inner_collection_angle": dist.Uniform(60.0, 110.0)}
    )
    assert given.hosts == ("WSe2",)
    context, _ = given.quantiles(torch.rand(100, 7))
    assert torch.equal(context["beam_energy"], torch.full((100,), 80e3))
    assert float(context["inner_collection_angle"].min()) >= 60


def test_what_is_given_weeds_out_conditions():
    prior = tmd_prior()
    assert len(prior.given({"beam_energy": 80e3}).conditions) == 2
    assert (
        len(prior.given({"beam_energy": [60e3, 80e3], "inner_collection_angle": 60.0}).conditions)
        == 2
    )
    assert len(prior.given({"outer_collection_angle": dist.Uniform(220.0, 280.0)}).conditions) == 2
    with pytest.raises(ValueError, match="none agrees"):
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

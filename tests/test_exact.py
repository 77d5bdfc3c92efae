import math
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm, poisson

import bayesctx as bc
from bayesctx.defects import SPECIES
from bayesctx.exact import FREE, Box, Crystal, ExactModel, evidence, log_density
from bayesctx.exact.exact_model import columns_of_outcomes
from bayesctx.information import entropy
from bayesctx.metrics import log_score
from bayesctx.prior import CONTINUOUS
from bayesctx.simulation import draw_block

CONTEXT = (*CONTINUOUS, "host", "dopant")


def crystal_of(block, i, prior):
    context = {n: float(block.context[n][i]) for n in CONTINUOUS}
    return Crystal(prior, int(block.host[i]), [int(block.dopant[i])], context)


def nuisances_of(block, i):
    values = torch.stack([block.nuisances[n].reshape(-1)[i] for n in FREE])[None]
    values[:, FREE.index("gain")] = values[:, FREE.index("gain")].log()
    return values


class Flat:
    """An image of one brightness in the place of a crystal."""

    def __init__(self, mean, readout):
        self.exposure, self.readout = mean, readout

    def render(self, column, place):
        return torch.ones(len(column), 1, 1)


@pytest.fixture(scope="module")
def block():
    return draw_block(bc.limit_prior(), 7, 0)


def test_crystal_is_that_of_the_simulator(block):
    prior, quiet = bc.limit_prior(), draw_block(bc.limit_prior(), 7, 0, noise=False)
    for i in range(12):
        crystal, nuisances = crystal_of(block, i, prior), nuisances_of(block, i)
        clean = crystal.render(block.species[i], nuisances[:, :4])[0]
        background, gain, dark = nuisances[0, 4:].tolist()
        expected = math.exp(gain) * crystal.exposure * (clean + (background + dark) * clean.max())
        # the simulator cuts the frequencies of a blurred image earlier: a thousandth of its range
        assert (expected - quiet.intensity[i, 0]).abs().max() < 1e-3 * quiet.intensity[i, 0].max()


@pytest.mark.parametrize("mean", [0.2, 3.0, 40.0, 700.0])
@pytest.mark.parametrize("readout", [0.3, 0.5, 1.0])
def test_density_is_poisson_with_normal_noise(mean, readout):
    signal = np.linspace(-3 * readout, mean + 5 * (mean + readout**2) ** 0.5 + 3, 400)
    counts = np.arange(0, int(signal.max()) + 12)
    slow = (poisson.pmf(counts, mean) * norm.pdf(signal[:, None], counts, readout)).sum(-1)
    nuisances = torch.zeros(len(signal), len(FREE))
    patches = torch.from_numpy(signal).float()[:, None, None]
    fast = (
        log_density(
            Flat(mean, readout), torch.zeros(len(signal), dtype=torch.long), nuisances, patches
        )
        .exp()
        .numpy()
    )
    # what lies beyond four standard deviations, and single precision
    assert np.abs(fast - slow).max() < 5e-4 * slow.max()


def test_evidence_is_the_integral_over_the_offset(block):
    """Two nuisances left: importance sampling against a grid."""
    prior, num = bc.limit_prior(), 0
    axis = (torch.arange(81) + 0.5) / 81 * 0.5 - 0.25
    grid = torch.cartesian_prod(axis, axis)
    for i in range(6):
        truth = nuisances_of(block, i)[0]
        low, high = truth.clone(), truth.clone()
        low[1:3], high[1:3] = -0.25, 0.25
        crystal, columns = crystal_of(block, i, prior), block.species[i]
        found = evidence([crystal], columns, block.intensity[i], Box(low, high), num_draws=4096)
        nuisances = truth.repeat(len(grid), 1)
        nuisances[:, 1:3] = grid
        patches = block.intensity[i].expand(len(grid), -1, -1)
        by_grid = log_density(crystal, columns.expand(len(grid)), nuisances, patches).logsumexp(
            0
        ) - math.log(len(grid))
        if float(block.context["dose"][i]) < 1e6:  # there a peak is narrower than the grid
            assert float(found.log_evidence) == pytest.approx(float(by_grid), abs=0.05)
            num += 1
        assert float(found.ess) > 1000
    assert num >= 3


def test_truth_passes_the_sieves():
    """Also for the slowest fits: background, gain and dark level are degenerate up to bounds."""
    model, block = ExactModel(), draw_block(bc.limit_prior(), 1000, 0)
    columns = columns_of_outcomes(1)
    for i in (block.context["dose"] == 1e6).nonzero()[:6, 0].tolist():
        crystal, column = crystal_of(block, i, model.prior), block.species[i]
        truth = log_density(crystal, column, nuisances_of(block, i), block.intensity[i])
        found = evidence([crystal], columns, block.intensity[i], model.box).log_evidence[0, 0]
        # a posterior fills exp(-20) to exp(-45) of the prior; unfinished fits are hundreds below
        assert -60 < float(found[columns == column] - truth) < -10


def test_draws_that_miss_the_box_are_drawn_closer(block):
    from bayesctx.exact.importance import _sample

    model = ExactModel()
    crystal, column, mode = (
        crystal_of(block, 0, model.prior),
        block.species[0],
        nuisances_of(block, 0),
    )
    wide = 1e8 * torch.eye(len(FREE)).double()[None]
    arguments = {"box": model.box, "num_draws": 16, "generator": torch.Generator().manual_seed(0)}
    found, ess, mean, spread = _sample(crystal, column, block.intensity[0], mode, wide, **arguments)
    assert float(found) == -math.inf
    assert float(ess) == 0
    assert torch.equal(mean, mode)
    assert torch.equal(spread, wide / 4)


def test_sieves_hold_back_nothing_that_counts(block):
    columns = torch.tensor([i for i, s in enumerate(SPECIES) if not s.holds_dopant])
    model = ExactModel()
    for i in range(3):
        crystal = crystal_of(block, i, model.prior)
        sieved, whole = (
            evidence([crystal], columns, block.intensity[i], model.box, **options)
            .log_evidence[0, 0]
            .softmax(0)
            for options in ({}, {"sieves": (math.inf,) * 3})
        )
        # other draws: 128 of them leave a tenth
        assert (sieved - whole).abs().max() < 0.1


def test_exact_posterior_is_calibrated():
    data = bc.simulate(bc.limit_prior().given({"dose": 1e4}), 24, seed=3)
    result = bc.infer(data.intensity, data[list(CONTEXT)], ExactModel())
    scores = log_score(result["class_posterior"].defect[:, 0], data.defect)
    surprise = scores + entropy(result).entropy[:, 0] * math.log(2)
    assert abs(float(surprise.mean())) < 3 * float(surprise.std()) / 24**0.5
    # a guess has -2.56
    assert -1.2 < float(scores.mean()) < -0.2


def test_context_may_be_open(block):
    """Host unknown, everything else known: the enumeration of infer over the exact likelihood."""
    data = bc.simulate(bc.limit_prior().given({"dose": 1e6, "host": ["MoS2", "WSe2"]}), 2, seed=1)
    known = data[[n for n in CONTEXT if n not in ("host", "dopant")]]
    prior = bc.limit_prior().given({"host": ["MoS2", "WSe2"]})
    result = bc.infer(data.intensity, known, ExactModel(prior))
    hosts = result["posterior"].host.values
    names = [h for h in bc.HOSTS]
    assert all(
        np.mean(hosts[0, :, i] == names.index(h)) > 0.99 for i, h in enumerate(data.host.values)
    )


@pytest.mark.parametrize(("change", "message"), [
    ({"tilt": 2.0}, "a perfect crystal was expected, got tilt"),
    ({"C30": dist.Uniform(-1e4, 1e4)}, "a number was expected for the nuisance C30"),
    ({"readout": 0.0}, "readout noise above zero"),
    ({"scan_step": 0.1}, "a scan_step of 0.25 Å, the pixels of a patch, was"),
    ({"background": dist.Normal(0.1, 0.01)}, "a uniform distribution was expected for background"),
    ({"rotation": dist.Uniform(0.0, 1.0)}, "a full turn"),
])  # fmt: skip
def test_prior_must_allow_the_integral(change, message):
    prior = bc.limit_prior()
    with pytest.raises(ValueError, match=message):
        ExactModel(replace(prior, nuisances=dict(prior.nuisances) | change))


def test_neighbours_must_be_perfect():
    with pytest.raises(ValueError, match="dirichlet_alpha of zero"):
        ExactModel(replace(bc.limit_prior(), dirichlet_alpha=bc.tmd_prior().dirichlet_alpha))


def test_images_of_several_patches_are_refused(block):
    with pytest.raises(ValueError, match="images of their own.*; cut patches"):
        bc.infer(block.intensity[:3, 0].numpy(), {}, ExactModel())


def test_what_the_prior_holds_at_a_number_need_not_be_told(monkeypatch):
    """Draws that are all the same are one crystal, and give the posterior of a told context."""
    patches = bc.simulate(bc.limit_prior(), 1, seed=0)
    held = [n for n in CONTEXT if n not in ("convergence_semiangle", "defocus")]
    told = bc.infer(patches.intensity, patches[list(CONTEXT)], ExactModel(), num_draws=64)
    counts = []

    def counted(crystals, *args, **options):
        counts.append(len(crystals))
        return evidence(crystals, *args, **options)

    monkeypatch.setattr("bayesctx.exact.exact_model.evidence", counted)
    left_out = bc.infer(patches.intensity, patches[held], ExactModel(), num_draws=64)
    assert counts == [1]
    assert np.allclose(
        told["class_posterior"].defect, left_out["class_posterior"].defect, atol=1e-5
    )

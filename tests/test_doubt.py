"""What sites hold where their columns may look like something else."""

from dataclasses import replace

import pyro
import pytest
import torch
from crystals import PRIOR, abundance_of, noisy_crystal

from bayesctx.crystal import METALS
from bayesctx.defects import CODOPED_SPECIES, DEFECTS, DOPED_SPECIES
from bayesctx.scan.chain import describe
from bayesctx.scan.conditional import MISLEADING, log_share_of_species
from bayesctx.scan.doubt import doubted
from bayesctx.scan.generative import sample_sites, values_of
from bayesctx.scan.world import CLASS

SIGMAS = 4.0


@pytest.fixture(scope="module", params=[None, METALS.index("Re")], ids=["one dopant", "two"])
def drawn(request):
    """A scan, and a draw in which nothing is uncertain."""
    scan, world, view = noisy_crystal()
    scan = replace(scan, material=replace(scan.material, codopant=request.param))
    world = replace(world, share_codopant=0.3)
    num = scan.material.num_species
    certain = torch.nn.functional.one_hot(world.species, num).float() * scan.updated[:, None]
    return scan, describe(scan, world, view, certain)


def test_no_site_is_certain_beyond_what_columns_are_believed(drawn):
    scan, draw = drawn
    found = doubted(scan, draw, torch.Generator().manual_seed(0)).probability
    mine = scan.updated
    assert torch.equal(found[~mine], torch.zeros_like(found[~mine]))
    assert torch.allclose(found[mine].sum(-1), torch.ones(int(mine.sum())))
    shares = log_share_of_species(scan, draw.world).exp()[scan.kind]
    shares = (shares / shares.sum(-1, keepdim=True))[:, : found.shape[-1]]
    wanted = (1 - MISLEADING) * draw.probability + MISLEADING * shares
    assert torch.allclose(found[mine], wanted[mine], rtol=1e-5)


def test_a_class_that_cannot_be_stays_so(drawn):
    scan, draw = drawn
    prior = replace(PRIOR, dirichlet_alpha=PRIOR.dirichlet_alpha | {"O_X": 0.0})
    excluded = CLASS[: draw.probability.shape[-1]] == DEFECTS.index("O_X")
    sure = replace(draw, probability=draw.probability * ~excluded)
    scan = replace(scan, prior=abundance_of(prior))
    found = doubted(scan, sure, torch.Generator().manual_seed(0)).probability
    assert torch.equal(found[:, excluded], torch.zeros_like(found[:, excluded]))


def test_draws_are_those_of_the_probabilities(drawn):
    scan, draw = drawn
    generator, num = torch.Generator().manual_seed(1), 3000
    counts = torch.zeros_like(draw.probability)
    for _ in range(num):
        found = doubted(scan, draw, generator)
        counts += torch.nn.functional.one_hot(found.world.species, counts.shape[-1])
    mine = scan.updated
    wanted = num * found.probability[mine].double().sum(0)
    error = (wanted + 1).sqrt()
    # of the columns that are rare all are misleading ones
    assert ((counts[mine].sum(0) - wanted).abs() < SIGMAS * error)[wanted < 0.1 * num].all()
    moved = num * mine.sum() - float((counts * draw.probability)[mine].sum())
    expected = float(num * (1 - (found.probability * draw.probability).sum(-1))[mine].sum())
    assert moved == pytest.approx(expected, abs=SIGMAS * expected**0.5)
    assert torch.equal(found.world.species[~mine], draw.world.species[~mine])


def test_all_else_is_the_same(drawn):
    scan, draw = drawn
    found = doubted(scan, draw, torch.Generator().manual_seed(2))
    for name, value in vars(draw.world).items():
        if name != "species":
            assert getattr(found.world, name) is value
    assert found.log_prob == draw.log_prob
    assert found.values is draw.values


def test_the_program_has_the_same_law(drawn):
    """Shares of what sites hold given what they look like, from many runs of the program."""
    scan, draw = drawn
    world, shown, total = draw.world, 0, 0
    data = {n: v for n, v in values_of(scan, world).items() if n in ("species", "own", "excess")}
    other = torch.zeros(len(CLASS))
    program = pyro.condition(sample_sites, data=data)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for _ in range(400):
            nodes = pyro.poutine.trace(program).get_trace(scan, world).nodes
            is_misleading = nodes["is_misleading"]["value"].bool() & scan.updated
            held = nodes["held"]["value"]
            others = scan.updated & ~is_misleading
            assert torch.equal(held[others], world.species[others])
            shown, total = shown + int(is_misleading.sum()), total + int(scan.updated.sum())
            other += torch.bincount(held[is_misleading], minlength=len(other))
    assert shown == pytest.approx(MISLEADING * total, abs=SIGMAS * (MISLEADING * total) ** 0.5)
    shares = log_share_of_species(scan, world).softmax(-1)[scan.kind[scan.updated]].sum(0)
    wanted = shown * shares / shares.sum()
    assert ((other - wanted).abs() < SIGMAS * (wanted + 1).sqrt()).all()


def test_what_columns_look_like_is_drawn_as_before(drawn):
    """Of a world no column of which misleads the density has a constant factor only."""
    scan, draw = drawn
    values = values_of(scan, draw.world)
    trace = pyro.poutine.trace(pyro.condition(sample_sites, data=values))
    trace = trace.get_trace(scan, draw.world)
    trace.compute_log_prob()
    assert float(trace.nodes["other"]["log_prob"].abs().max()) == 0
    assert len(trace.nodes["is_misleading"]["log_prob"][scan.updated].unique()) == 1


def test_both_dopants_have_their_shares(drawn):
    scan, draw = drawn
    share = log_share_of_species(scan, draw.world)[0].exp()
    if scan.material.codopant is None:
        assert share[CODOPED_SPECIES] == 0
    else:
        ratio = float(share[CODOPED_SPECIES] / share[DOPED_SPECIES])
        assert ratio == pytest.approx(0.3 / 0.7, rel=1e-5)

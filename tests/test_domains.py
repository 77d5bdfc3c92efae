"""Domains of a crystal: regions whose sublattices hold other kinds of site."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import bayesctx as bc
from bayesctx.inference.domains import find_domains

ASSIGNMENTS = np.array(list(itertools.permutations(range(3))))


def lattice(num):
    """Positions and sublattices of num x num cells, in lattice constants."""
    first, second = np.array([1.0, 0.0]), np.array([0.5, 0.75**0.5])
    cells = np.stack(np.meshgrid(np.arange(num), np.arange(num)), -1).reshape(-1, 2)
    cells = cells @ np.stack([first, second])
    positions = np.concatenate([cells + k * (first + second) / 3 for k in range(3)])
    return positions, np.repeat(np.arange(3), len(cells))


def evidence(kind, rng, strength=1.0, noise=1.0):
    """Log densities under every kind, in favour of the true one on average."""
    found = rng.normal(0.0, noise, (len(kind), 3))
    found[np.arange(len(kind)), kind] += strength
    return found


@pytest.mark.parametrize("other", range(1, 6))
def test_a_domain_of_any_assignment_is_found(other):
    positions, sublattice = lattice(24)
    assigned = np.where(positions[:, 0] < 0.3 * positions[:, 0].max(), other, 0)
    kind = ASSIGNMENTS[assigned, sublattice]
    crystal = np.random.default_rng(1).random(len(kind)) < 0.95
    log_density = evidence(kind, np.random.default_rng(0))[crystal]
    found = find_domains(positions, sublattice, log_density, ASSIGNMENTS, crystal)
    assert found.label.max() == 1
    assert ((found.label == 1) == (assigned == other)).mean() > 0.97
    # one assignment holds everywhere after that
    named = found.relabel(positions, sublattice)
    assert (ASSIGNMENTS[0][named] == kind).mean() > 0.97
    # beyond the border as well
    beyond = found.relabel(positions[:5] - 0.1, sublattice[:5])
    assert (beyond == named[:5]).all()


def test_two_domains_beside_the_largest_are_told_apart():
    positions, sublattice = lattice(30)
    x = positions[:, 0] / positions[:, 0].max()
    assigned = np.select([x < 0.25, x > 0.75], [3, 4], 0)
    kind = ASSIGNMENTS[assigned, sublattice]
    log_density = evidence(kind, np.random.default_rng(0))
    found = find_domains(positions, sublattice, log_density, ASSIGNMENTS, np.ones(len(kind), bool))
    assert found.label.max() == 2
    assert (ASSIGNMENTS[0][found.relabel(positions, sublattice)] == kind).mean() > 0.97


@pytest.mark.parametrize("strength", [0.0, 0.3, 3.0])
def test_a_single_crystal_has_no_domains(strength):
    positions, sublattice = lattice(24)
    kind = ASSIGNMENTS[2, sublattice]
    for seed in range(5):
        log_density = evidence(kind, np.random.default_rng(seed), strength)
        whole = np.ones(len(kind), bool)
        assert find_domains(positions, sublattice, log_density, ASSIGNMENTS, whole) is None


def test_a_cluster_of_defects_is_no_domain():
    positions, sublattice = lattice(24)
    kind = ASSIGNMENTS[0, sublattice]
    log_density = evidence(kind, np.random.default_rng(0))
    middle = np.linalg.norm(positions - positions.mean(0), axis=1) < 1.0
    log_density[middle, kind[middle]] -= 100.0  # however sure they are
    whole = np.ones(len(kind), bool)
    assert find_domains(positions, sublattice, log_density, ASSIGNMENTS, whole) is None


@pytest.fixture(scope="module")
def mirrored():
    """A micrograph, mirrored in a line of columns: a crystal with a 60 degree domain."""
    prior = bc.reference_prior()
    prior = replace(prior, nuisances={**prior.nuisances, "rotation": 0.0})
    known = {
        "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "inner_collection_angle": 60.0,
        "outer_collection_angle": 200.0, "dose": 1e5,
    }  # fmt: skip
    data = bc.simulate_micrograph(prior.given(known), seed=11, num_pixels=160, sampling=0.2)
    rows = data.site_y.values
    near = rows[np.argsort(np.abs(rows - 85.0))[:12]]
    twice = round(2 * min(near, key=lambda row: abs(2 * row - round(2 * row))))
    source = np.arange(160)
    source = np.where(source > twice / 2, twice - source, source)
    context = {n: data[n].item() for n in bc.CONTEXT if n != "sampling"} | {"sampling": 0.2}
    return data.intensity.values[source], twice / 2, context


@pytest.fixture(scope="module")
def result(mirrored):
    with pytest.warns(UserWarning, match="2 domains"):
        return bc.infer(mirrored[0], mirrored[2], likelihood="network")


def test_a_mirrored_crystal_is_read_with_its_domain(result, mirrored):
    constants = result["constant_data"].to_dataset()
    beyond = constants.site_y.values > mirrored[1]
    # patches beside the boundary hold both domains
    far = np.abs(constants.site_y.values - mirrored[1]) > 8
    same = (constants.domain.values == 1) == beyond
    assert max(same[far].mean(), 1 - same[far].mean()) > 0.95
    # columns of the mirror image are what they are in the original
    kind = bc.sites(result).site.values
    places = np.stack([constants.site_y.values, constants.site_x.values], -1)
    for i in np.flatnonzero(beyond & far):
        twin = (2 * mirrored[1] - places[i, 0], places[i, 1])
        distance = np.linalg.norm(places - twin, axis=1)
        if distance.min() < 2.0 and far[distance.argmin()]:
            assert kind[i] == kind[distance.argmin()]


def test_tables_and_predictions_know_the_lattice_behind_domains(result):
    constants = result["constant_data"].to_dataset()
    assert (constants.sublattice.values != constants.lattice_site.values).any()
    assert (bc.sites(result).domain.values == constants.domain.values).all()
    assert np.isfinite(bc.counts(result).number.values).all()
    assert bc.pair_correlations(result).sizes["shell"] > 0
    assert np.isfinite(bc.predict_images(result, num_draws=1, seed=0).values).all()

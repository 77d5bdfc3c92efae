"""Pair correlations: exact expectation, strain, and correlations that are there."""

import numpy as np
import pytest
from crystal_results import LATTICE, SAMPLING, draw_crystal, index, make_result
from scipy.spatial import cKDTree

from bayesctx.tables import PAIRS, pair_correlations
from bayesctx.tables.pairs import _adjacency, _count, _expect, _permute
from bayesctx.tables.spacing import SHELLS, measure_spacing, shell_of

NEIGHBOUR = LATTICE * SAMPLING / 3**0.5 / 10  # nm


@pytest.mark.parametrize("strain", [((1, 0), (0, 1)), ((1.04, 0.02), (-0.03, 0.97))])
def test_shells_follow_a_strained_lattice(strain):
    _, sites, sublattice = draw_crystal(1, strain=strain, distortion=0.4)
    spacing = measure_spacing(sites)
    # the area of a site does not depend on how the lattice is cut
    area = LATTICE**2 * 3**0.5 / 6 * abs(np.linalg.det(strain))
    assert spacing.area == pytest.approx(area, rel=0.01)
    middle = np.linalg.norm(sites - 100, axis=1) < 40
    near = _adjacency(sites, spacing.metric, sublattice, 8)
    numbers = [set(m.sum(1)[middle].tolist()) for m in near]
    # sites of a triangular lattice at these distances
    assert numbers == [{6}, {6}, {6}, {12}, {6}, {6}, {12}, {6}]


def test_shells_of_one_sublattice_are_every_third():
    squared = np.array(SHELLS, float)
    is_same = squared % 3 == 0
    assert shell_of(squared, is_same).tolist() == list(range(len(SHELLS)))
    assert (shell_of(squared + 20.0, is_same)[-3:] == -1).all()
    assert (shell_of(squared, ~is_same) != np.arange(len(SHELLS))).all()


def test_the_expectation_is_that_of_permutations():
    draws, sites, sublattice = draw_crystal(3, defects=("D_M", "V_X", "V_M"), share=0.1)
    kind = np.stack([sublattice, sublattice, (sublattice + 1) % 3])
    label = np.isin(draws, index("D_M")) + 2 * np.isin(draws, index("V_M", "V_X", "D_M")).astype(
        np.int8
    )
    near = _adjacency(sites, measure_spacing(sites).metric, sublattice, 5)
    rng = np.random.default_rng(1)
    null = np.stack([_count(_permute(label, kind, rng), near) for _ in range(400)])
    error = null.std(0) / 20
    assert (np.abs(null.mean(0) - _expect(label, kind, near)) <= 4.5 * error + 1e-9).all()
    assert (null.std(0) > 0).any()


def test_numbers_are_those_of_all_pairs_of_sites():
    draws, sites, sublattice = draw_crystal(7)
    result = make_result(draws, sites, sublattice)
    table = pair_correlations(result, max_distance=0.7)
    dopant, vacancy = ((draws == k).astype(int) for k in index("D_M", "V_X"))
    distance = np.linalg.norm(sites[:, None] - sites, axis=-1) * SAMPLING / 10
    shell = np.abs(distance[..., None] - table.distance.values).argmin(-1)
    shell[distance > 0.72] = -1
    for k in range(table.sizes["shell"]):
        near = (shell == k).astype(int)
        np.fill_diagonal(near, False)
        number = np.einsum("si,ij,sj->s", dopant, near, vacancy).mean()
        assert table.number.sel(pair="dopant-vacancy")[k] == pytest.approx(number)
        number = np.einsum("si,ij,sj->s", dopant, near, dopant).mean() / 2
        assert table.number.sel(pair="dopant-dopant")[k] == pytest.approx(number)
    np.testing.assert_allclose(table.distance, NEIGHBOUR * np.sqrt(SHELLS[:7]), rtol=1e-6)


def test_independent_sites_have_a_ratio_of_one_and_bound_pairs_a_larger_one():
    draws, sites, sublattice = draw_crystal(400, shape=(150, 150))
    random = pair_correlations(make_result(draws, sites, sublattice))
    for pair in PAIRS:
        row = random.sel(pair=pair).dropna("shell", subset=["ratio"])
        # 400 independent worlds
        error = (row.number / 400) ** 0.5 * 1.5 / row.expected
        assert (np.abs(row.ratio - 1) < 4 * error).all()
        assert (np.abs(row.p_value - 0.5) < 0.1).all()
    bound = np.where(np.isin(draws, index("V_X")), index("X2")[0], draws)
    _, nearest = cKDTree(sites[sublattice == 1]).query(sites)
    for world in bound:
        world[np.flatnonzero(sublattice == 1)[nearest[world == index("D_M")[0]]]] = index("V_X")[0]
    table = pair_correlations(make_result(bound, sites, sublattice)).sel(pair="dopant-vacancy")
    first = table.isel(shell=0)
    assert first.ratio_90_low > first.null_90_high
    assert first.p_value < 0.01
    assert random.identical(pair_correlations(make_result(draws, sites, sublattice)))


def test_a_site_without_crystal_takes_no_part():
    draws, sites, sublattice = draw_crystal(5)
    result = make_result(draws, sites, sublattice)
    present = sites[:, 0] < 100
    constants = result["constant_data"].to_dataset()
    result["constant_data"] = constants.assign(crystal=("patch", present))
    half = pair_correlations(result)
    cut = pair_correlations(make_result(draws[:, present], sites[present], sublattice[present]))
    np.testing.assert_allclose(half.number, cut.number)
    np.testing.assert_allclose(half.expected, cut.expected, rtol=1e-12)


ERRORS = {
    "text": ({"pairs": "D_M"}, TypeError, "a mapping of names to pairs of lists"),
    "empty": ({"pairs": {}}, TypeError, "a mapping of names to pairs of lists"),
    "one list": (
        {"pairs": {"a": ["D_M"]}},
        TypeError,
        "two lists of classes were expected for 'a'",
    ),
    "names": ({"pairs": {"a": ("D_M", "V_X")}}, TypeError, "two lists of classes were expected"),
    "class": ({"pairs": {"a": (["D_M"], ["V_S"])}}, ValueError, "'V_S'"),
    "near": ({"max_distance": 0.1}, ValueError, "max_distance from 0.19 nm, .* enlarge it"),
    "far": ({"max_distance": 50.0}, ValueError, "max_distance"),
    "seed": ({"seed": -1}, ValueError, "seed"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors(kind):
    options, error, message = ERRORS[kind]
    with pytest.raises(error, match=message):
        pair_correlations(make_result(*draw_crystal(2)), **options)

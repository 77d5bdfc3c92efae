"""Sites are matched one to one, nearest first."""

import numpy as np
import pytest
import xarray as xr

from bayesctx.matching import pair_positions, positions_of


def test_pairs_are_one_to_one_and_the_nearest_first():
    first = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    second = np.array([[0.6, 0.0], [5.0, 5.0]])
    # both of the first two are near the same one: it goes to the nearer
    assert [v.tolist() for v in pair_positions(first, second, 0.7)] == [[1], [0]]
    assert [v.tolist() for v in pair_positions(second, first, 0.7)] == [[0], [1]]
    assert [v.tolist() for v in pair_positions(first, second, 0.3)] == [[], []]


def test_equal_positions_are_found_in_any_order():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (500, 2))
    order = rng.permutation(500)
    mine, theirs = pair_positions(places, places[order], 1e-9)
    assert mine.tolist() == list(range(500))
    assert (order[theirs] == mine).all()


def test_no_positions_have_no_pairs():
    for first, second in ((np.zeros((0, 2)), np.ones((3, 2))), (np.ones((3, 2)), np.zeros((0, 2)))):
        assert [len(v) for v in pair_positions(first, second, 1.0)] == [0, 0]


def test_positions_are_read_by_either_name():
    table = xr.Dataset({"site_x": ("patch", [1.0]), "site_y": ("patch", [2.0])})
    assert positions_of(table).tolist() == [[1.0, 2.0]]
    assert positions_of({"x_px": [3], "y_px": [4]}).tolist() == [[3.0, 4.0]]
    with pytest.raises(ValueError, match="site_x and site_y, or x_px and y_px, .* got neither"):
        positions_of({"x": [3], "y": [4]})

"""Shapley values: exact over subsets, sampled over orders, and their figure."""

import itertools
import math

import numpy as np
import pytest

import bayesctx as bc
from bayesctx.information import (
    PLAYERS,
    attribute_information,
    attribution as module,
    plot_attribution,
)

pytestmark = pytest.mark.filterwarnings("ignore:the posterior rests on")
FEW = {"host": ("host",), "dopant": ("dopant",), "dose": ("dose",)}
KNOWN = [v for group in FEW.values() for v in group]


@pytest.fixture(scope="module")
def data():
    prior = bc.tmd_prior().given({"beam_energy": 80e3, "inner_collection_angle": 60.0})
    return bc.simulate(prior, 8, seed=3)


@pytest.fixture(scope="module")
def found(data):
    return attribute_information(data, groups=FEW, num_draws=32, num_resamples=50)


def mean_score(data, known):
    result = bc.infer(data.intensity, {v: data[v] for v in known}, num_draws=32)
    scores = bc.log_score(result["class_posterior"].defect[:, 0], data.defect)
    return float(scores.mean()) / np.log(2)


def test_few_groups_are_exact(data, found):
    worth = {s: mean_score(data, s) for r in range(4) for s in itertools.combinations(KNOWN, r)}
    for name in KNOWN:
        others = [n for n in KNOWN if n != name]
        wanted = 0.0
        for r in range(3):
            weight = math.factorial(r) * math.factorial(2 - r) / math.factorial(3)
            for subset in itertools.combinations(others, r):
                joined = tuple(n for n in KNOWN if n in subset or n == name)
                wanted += weight * (worth[joined] - worth[subset])
        # float32 probabilities
        assert float(found.shapley.sel(variable=name)) == pytest.approx(wanted, abs=1e-5)
        alone = worth[(name,)] - worth[()]
        assert float(found.alone.sel(variable=name)) == pytest.approx(alone, abs=1e-5)
        last = worth[tuple(KNOWN)] - worth[tuple(others)]
        assert float(found.given_others.sel(variable=name)) == pytest.approx(last, abs=1e-5)
    assert float(found.shapley.sum()) == pytest.approx(float(found.total), abs=1e-9)


def test_sampled_orders_of_an_additive_worth_are_exact(monkeypatch):
    """Where the worth of a subset is a sum over its groups, every order gives the same values."""
    worth_of = np.arange(1.0, 8.0)

    def additive(wanted, data, *_):
        total = {s: sum(w for k, w in enumerate(worth_of) if s >> k & 1) for s in wanted}
        return {s: np.full((data.sizes["image"], 2), t) for s, t in total.items()}

    monkeypatch.setattr(module, "_infer", additive)
    images = bc.simulate(bc.tmd_prior(), 5, seed=0)
    found = attribute_information(images, num_resamples=10)
    np.testing.assert_allclose(found.shapley, worth_of)
    np.testing.assert_allclose(found.shapley_error, 0, atol=1e-12)


def test_orders_are_opposite_and_balanced():
    num, images = 7, 70
    orders = module._balanced(num, images, np.random.default_rng(0))
    np.testing.assert_array_equal(orders[:, 0], orders[:, 1, ::-1])
    np.testing.assert_array_equal(
        np.sort(orders, -1), np.broadcast_to(np.arange(num), orders.shape)
    )
    counts = (orders[:, 0, :, None] == np.arange(num)).sum(0)
    np.testing.assert_array_equal(counts, images // num)


def test_sampled_orders_agree_with_all_of_them(data, found, monkeypatch):
    """Means over many images are unbiased: here every pair of opposite orders of three groups."""
    monkeypatch.setattr(module, "EXACT", 2)
    values = [
        attribute_information(data, groups=FEW, num_draws=32, num_resamples=10, seed=0).shapley
    ]
    # draws are the same, so that only the orders differ: within their sampling error
    error = np.hypot(found.shapley_error, 0.02)
    assert (np.abs(values[0] - found.shapley) < 3 * error).all()
    assert float(values[0].sum()) == pytest.approx(float(found.total), abs=1e-9)


def test_the_figure_has_a_bar_for_each_variable(found):
    figure = plot_attribution({"1e5": found, "1e6": found})
    assert len(figure.axes) == 2
    bars = figure.axes[0].patches
    np.testing.assert_allclose([b.get_width() for b in bars], np.sort(found.shapley.values))
    assert "bit" in figure.get_supxlabel()
    assert len(plot_attribution(found).axes) == 1


def test_errors(data):
    assert [v for g in PLAYERS.values() for v in g] == [n for n in bc.CONTEXT if n != "sampling"]
    with pytest.raises(ValueError, match="one group of variables or more was expected, got none"):
        attribute_information(data, groups={})
    with pytest.raises(ValueError, match="variables among host, .* got 'gain' in the group 'a'"):
        attribute_information(data, groups={"a": ["gain"]})
    with pytest.raises(ValueError, match="data with dose was expected, it is missing; pass"):
        attribute_information(data.drop_vars("dose"), groups=FEW)
    with pytest.raises(ValueError, match="a target among class, .* got 'sites'"):
        attribute_information(data, groups=FEW, target="sites")

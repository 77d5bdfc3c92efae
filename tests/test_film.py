"""Splines of what varies smoothly over a window."""

import pytest
import torch

from bayesctx.scan.film import Film

AXES = torch.linspace(-10, 10, 41), torch.linspace(-7, 7, 29)


@pytest.fixture
def film():
    return Film.of(AXES, 4.0)


def test_splines_add_up_to_one_everywhere(film):
    ones = torch.ones(film.num_terms)
    assert torch.allclose(film.images(ones), torch.ones(29, 41), atol=1e-6)
    # beyond the border too, where sites are
    places = torch.tensor([[0.0, 0.0], [13.0, 2.0], [-40.0, 40.0]])
    assert torch.allclose(film.at(places).sum(-1), torch.ones(3), atol=1e-6)


def test_knots_are_no_farther_apart_than_asked_for(film):
    assert film.number == (5 + 3, 4 + 3)
    assert film.num_terms == 56


def test_a_smooth_film_is_represented(film):
    x, y = AXES
    wanted = torch.cos(x / 4) * torch.sin(y[:, None] / 5) + 0.3 * x
    basis = film.images(torch.eye(film.num_terms)).flatten(1).T
    found = torch.linalg.lstsq(basis.double(), wanted.flatten().double()).solution
    assert float((film.images(found.float()) - wanted).abs().max()) < 0.01


def test_values_at_places_are_those_of_the_pixels(film):
    coefficients = torch.randn(film.num_terms, generator=torch.Generator().manual_seed(0))
    x, y = AXES
    places = torch.stack([x[7], y[20]])[None]
    assert torch.allclose(film.at(places) @ coefficients, film.images(coefficients)[20, 7])


def test_sums_are_those_over_all_pixels(film):
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(2, 29, 41, generator=generator).double()
    basis = film.images(torch.eye(film.num_terms)).flatten(1).double()
    gram = torch.stack([(basis * w.flatten()) @ basis.T for w in weight])
    assert torch.allclose(film.gram(weight), gram, rtol=1e-6, atol=1e-9)
    products = torch.stack([basis @ w.flatten() for w in weight])
    assert torch.allclose(film.products(weight), products, rtol=1e-6, atol=1e-9)

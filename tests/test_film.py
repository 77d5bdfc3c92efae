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


def test_the_prior_leaves_planes_free_and_bounds_the_rest(film):
    axes = [torch.linspace(-h, h, n) for h, n in zip(film.half, (41, 29), strict=True)]
    plane = 0.3 + 0.02 * axes[0] - 0.05 * axes[1][:, None]
    basis = film.images(torch.eye(film.num_terms, dtype=torch.float64)).flatten(1).T
    flat = torch.linalg.lstsq(basis, plane.double().flatten()[:, None]).solution[:, 0]
    assert torch.allclose(film.images(flat), plane.double(), atol=1e-6)
    assert torch.allclose(film.rough @ flat, torch.zeros_like(flat), atol=1e-5)
    size = torch.tensor([0.1, 2.0])
    precision = film.precision(size)
    assert torch.allclose(film.log_volume(size), torch.logdet(precision) / 2)
    bent = film.rough @ torch.randn(
        film.num_terms, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    square = torch.einsum("i,dij,j->d", bent, precision, bent)
    assert torch.allclose(square, bent.square().sum() / size.double() ** 2)

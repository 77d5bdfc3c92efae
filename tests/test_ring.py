"""Steps of the angles of a detector at which the contrast of the columns stays."""

from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from crystals import PRIOR, log_posterior, noisy_crystal

from bayesctx.scan import ring as steps
from bayesctx.scan.coordinates import Coordinates
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.ring import draw_rings, rings_of
from bayesctx.scan.view import look

RINGS = (
    {
        "inner_collection_angle": dist.Uniform(55.0, 120.0),
        "outer_collection_angle": dist.Uniform(100.0, 250.0),
    },
    {"inner_collection_angle": 32.0, "outer_collection_angle": dist.Uniform(55.0, 70.0)},
)
STEP = 0.01  # of a coordinate


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def noisy(request):
    scan, world, view = noisy_crystal(pixels=32, noise=0.2, prior=PRIOR, rings=request.param)
    return scan, world, view, linearise_jointly(scan, world, view, exactly=False)


def one(scan):
    """The only detector of which both angles are open."""
    (ring,) = rings_of(scan.coordinates)
    assert scan.coordinates.names[ring.inner].startswith("inner_collection_angle")
    assert scan.coordinates.names[ring.outer].startswith("outer_collection_angle")
    return ring


def contrast(ring, scan, z):
    metal, chalcogen = ring.brightness(scan, z[None])[0].tolist()
    return metal / chalcogen


def test_the_brightness_is_that_of_the_images_of_columns(noisy):
    scan, world, view, _ = noisy
    ring = one(scan)
    spectra = view.spectra[ring.detector, steps.COLUMNS]
    middle = spectra.abs().amax((-1, -2))  # of positive images the mean is the largest
    found = ring.brightness(scan, world.z[None])[0]
    assert float(found[0] / found[1]) == pytest.approx(float(middle[0] / middle[1]), rel=1e-3)


@pytest.mark.parametrize("change", [-0.3, 0.2])
def test_the_contrast_stays_and_the_step_back_undoes_it(noisy, change):
    scan, world, *_ = noisy
    ring = one(scan)
    there, log_slope = ring.step(scan, world.z, change)
    assert contrast(ring, scan, there) == pytest.approx(contrast(ring, scan, world.z), rel=1e-5)
    assert float(there[ring.outer] - world.z[ring.outer]) == pytest.approx(change)
    others = [k for k in range(len(there)) if k not in (ring.inner, ring.outer)]
    assert torch.equal(there[others], world.z[others])
    back, returned = ring.step(scan, there, -change)
    assert torch.allclose(back, world.z, atol=1e-4)
    assert log_slope + returned == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("change", [-0.3, 0.2])
def test_the_jacobian_is_that_of_the_map(noisy, change):
    """Against differences of the two coordinates with both."""
    scan, world, *_ = noisy
    ring = one(scan)
    mine, columns = [ring.inner, ring.outer], []
    for k in mine:
        step = STEP * (torch.arange(len(world.z)) == k)
        high, low = (ring.step(scan, world.z + s * step, change)[0][mine] for s in (1, -1))
        columns.append((high - low) / (2 * STEP))
    wanted = float(torch.linalg.det(torch.stack(columns, -1)).log())
    assert ring.step(scan, world.z, change)[1] == pytest.approx(wanted, abs=0.01)


def test_a_contrast_that_is_not_found_again_is_none(noisy, monkeypatch):
    scan, world, *_ = noisy
    monkeypatch.setattr(steps, "REACH", 1e-4)
    assert one(scan).step(scan, world.z, 0.5) is None


def test_ratios_are_those_of_the_posterior(noisy, monkeypatch):
    scan, world, view, near = noisy
    ring, ratios = one(scan), []
    monkeypatch.setattr(steps, "STEPS", (0.1, 0.3))
    monkeypatch.setattr(steps, "accepts", lambda ratio, _: ratios.append(ratio) or False)
    found, _ = draw_rings(scan, world, view, near, torch.Generator().manual_seed(1))
    assert found is world
    before, wanted = log_posterior(scan, world, view.variance), []
    generator = torch.Generator().manual_seed(1)
    for size in steps.STEPS:
        change = size * float(torch.randn(1, generator=generator, dtype=torch.float64))
        z, log_slope = ring.step(scan, world.z, change)
        other = replace(world, z=z)
        wanted.append(log_posterior(scan, other, view.variance) - before + log_slope)
    assert ratios == pytest.approx(wanted, abs=0.05)


def test_the_prior_stays_where_the_image_tells_nothing(noisy, monkeypatch):
    """Draws of the prior of the angles are draws of it after some steps."""
    scan, world, view, near = noisy
    coordinates, ring = scan.coordinates, one(scan)
    monkeypatch.setattr(
        steps, "log_density_at", lambda scan, own, *_: float(coordinates.log_prior(own.z[None]))
    )
    monkeypatch.setattr(steps, "arrive", lambda scan, own, *_: (own, view))
    generator, num, found = torch.Generator().manual_seed(0), 80, []
    for z in coordinates.draw(num, generator):
        own, _ = draw_rings(scan, replace(world, z=z), view, near, generator)
        found.append(torch.stack([z, own.z]))
    before, after = torch.stack(found, 1)
    mine = [ring.inner, ring.outer]
    assert float((before != after)[:, mine].double().mean()) > 0.3
    fresh = coordinates.draw(4000, generator)
    for k in mine:
        rank = torch.searchsorted(fresh[:, k].sort().values, after[:, k].contiguous()) / len(fresh)
        error = (1 + num / len(fresh)) ** 0.5
        assert float(rank.mean()) == pytest.approx(0.5, abs=4 * error / (12 * num) ** 0.5)
        assert float(rank.square().mean()) == pytest.approx(1 / 3, abs=4 * error * 0.3 / num**0.5)


def test_known_angles_stay():
    known = {"inner_collection_angle": 62.0}
    scan, world, view = noisy_crystal(pixels=32, noise=0.2, prior=PRIOR.given(known))
    assert list(rings_of(scan.coordinates)) == []
    near = linearise_jointly(scan, world, view, exactly=False)
    assert draw_rings(scan, world, view, near, torch.Generator()) == (world, view)


def test_steps_change_nothing_but_the_angles_and_what_is_linear(noisy, monkeypatch):
    scan, world, view, near = noisy
    monkeypatch.setattr(steps, "accepts", lambda *_: True)
    monkeypatch.setattr(steps, "STEPS", (0.2,))
    other, seen = draw_rings(scan, world, view, near, torch.Generator().manual_seed(0))
    assert not torch.equal(other.z, world.z)
    assert torch.allclose(seen.expected, look(scan, other).expected, atol=1e-4)
    assert torch.equal(seen.variance, look(scan, other).variance)
    for name in ("species", "shift", "excess", "row_shift", "drift", "floor", "abundance"):
        assert getattr(other, name) is getattr(world, name)


def test_coordinates_of_several_detectors_are_told_apart():
    coordinates = Coordinates(PRIOR.conditions[0], PRIOR.nuisances, (RINGS[1], RINGS[0]))
    (ring,) = rings_of(coordinates)
    assert ring.detector == 1
    assert coordinates.names[ring.inner] == "inner_collection_angle_1"
    assert coordinates.names[ring.outer] == "outer_collection_angle_1"

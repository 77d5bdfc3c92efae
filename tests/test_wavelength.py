"""Steps of the beam energy at which probe and detectors stay what they are in 1/Å."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from crystals import PRIOR, log_posterior, noisy_crystal

from bayesctx.context import Probe
from bayesctx.optics import beam_energy, wavelength
from bayesctx.scan import wavelength as steps
from bayesctx.scan.coordinates import Coordinates
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.view import look
from bayesctx.scan.wavelength import POWERS, draw_wavelength, scaled
from bayesctx.transfer import transfer

STEP = 1e-4  # of a coordinate
CONDITION = PRIOR.conditions[0]
RINGS = (
    {"inner_collection_angle": dist.Uniform(40.0, 110.0), "outer_collection_angle": 200.0},
    {"inner_collection_angle": 32.0, "outer_collection_angle": dist.Uniform(40.0, 90.0)},
)
KNOWN = PRIOR.nuisances | {"C12": 12.0}  # a magnitude of which only the azimuth is open
KINDS = {
    "one detector": Coordinates(CONDITION, PRIOR.nuisances),
    "two detectors": Coordinates(CONDITION, PRIOR.nuisances, RINGS),
    "known astigmatism": Coordinates(CONDITION, KNOWN),
    "known semi-angle": Coordinates(CONDITION | {"convergence_semiangle": 25.0}, PRIOR.nuisances),
}


def middle(coordinates):
    """A point from which the wavelength can be changed by a fifth."""
    z = torch.linspace(-0.3, 0.4, len(coordinates.names), dtype=torch.float64)
    values = {n: v[0] for n, v in coordinates.values(z[None]).items()}
    angles = {"inner_collection_angle": [70.0, 45.0], "outer_collection_angle": [140.0, 62.0]}
    given = {"beam_energy": 110e3, "convergence_semiangle": 24.0, "defocus": 20.0}
    if not coordinates.detectors:
        angles = {n: v[0] for n, v in angles.items()}
    there = coordinates.of(values | given | angles)
    there[-2:] = z[-2:]
    return there


@pytest.fixture(scope="module")
def noisy():
    scan, world, view = noisy_crystal(pixels=32, noise=0.2, prior=PRIOR)
    return scan, world, view, linearise_jointly(scan, world, view, exactly=False)


def test_energy_and_wavelength_are_inverse():
    energy = torch.tensor([30e3, 80e3, 300e3], dtype=torch.float64)
    assert torch.allclose(beam_energy(wavelength(energy)), energy, rtol=1e-10)


def test_the_pupil_is_the_same_at_every_wavelength():
    coordinates = KINDS["one detector"]
    z, seen = middle(coordinates), []
    for point in (z, scaled(coordinates, z, 1.2)[0], scaled(coordinates, z, 0.8)[0]):
        values = coordinates.values(point[None])
        terms = transfer(Probe.of(values), cell=(20.0, 20.0), num_modes=(40, 40))
        seen.append(terms[0])  # the others are of the angle, by which atoms scatter less
    assert torch.allclose(seen[1], seen[0], atol=1e-6 * float(seen[0].abs().max()))
    assert torch.allclose(seen[2], seen[0], atol=1e-6 * float(seen[0].abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.8, 0.99, 1.2])
def test_variables_change_by_their_powers(kind, factor):
    coordinates = KINDS[kind]
    z = middle(coordinates)
    before, after = (coordinates.values(p[None]) for p in (z, scaled(coordinates, z, factor)[0]))
    before["beam_energy"], after["beam_energy"] = (
        wavelength(v["beam_energy"]) for v in (before, after)
    )
    for name, value in before.items():
        is_open = name in coordinates.free and not (name == "C12" and kind == "known astigmatism")
        power = POWERS.get(name, 0) if is_open else 0
        fixed = [not isinstance(d.get(name, dist.Normal(0, 1)), dist.Distribution) for d in RINGS]
        wanted = value * factor**power
        if coordinates.detectors and name.endswith("collection_angle"):
            wanted = torch.where(torch.tensor(fixed), value, wanted)
        assert torch.allclose(after[name], wanted, rtol=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_slopes_are_those_of_the_map(kind, factor):
    """Against differences of all coordinates with all; and the step back undoes it."""
    coordinates = KINDS[kind]
    z = middle(coordinates)
    there, slopes = scaled(coordinates, z, factor)
    back, returned = scaled(coordinates, there, 1 / factor)
    assert torch.allclose(back, z, atol=1e-6)
    assert torch.allclose(slopes * returned, torch.ones_like(slopes), rtol=1e-5)
    columns = []
    for step in STEP * torch.eye(len(z), dtype=z.dtype):
        high, low = (scaled(coordinates, z + s * step, factor)[0] for s in (1, -1))
        columns.append((high - low) / (2 * STEP))
    wanted = torch.linalg.slogdet(torch.stack(columns, -1))[1]
    assert float(slopes.log().sum()) == pytest.approx(float(wanted), abs=1e-4)


def test_a_variable_stays_where_it_can_be():
    coordinates = KINDS["one detector"]
    z = middle(coordinates)
    assert scaled(coordinates, z, 3.0) == (None, None)  # beyond all energies
    assert scaled(coordinates, z, 0.2) == (None, None)


def test_ratios_are_those_of_the_posterior(noisy, monkeypatch):
    scan, world, view, near = noisy
    world = replace(world, z=middle(scan.coordinates))
    view, ratios = replace(look(scan, world), variance=view.variance), []
    monkeypatch.setattr(steps, "accepts", lambda ratio, _: ratios.append(ratio) or False)
    found, _, same = draw_wavelength(scan, world, view, near, torch.Generator().manual_seed(1))
    assert found is world
    assert same is near
    before, wanted = log_posterior(scan, world, view.variance), []
    generator = torch.Generator().manual_seed(1)
    for size in steps.STEPS:
        change = size * torch.randn(1, generator=generator, dtype=torch.float64)
        z, slopes = scaled(scan.coordinates, world.z, math.exp(float(change)))
        if z is not None:
            after = log_posterior(scan, replace(world, z=z), view.variance)
            wanted.append(after - before + float(slopes.log().sum()))
    assert len(wanted) > 1
    assert ratios == pytest.approx(wanted, abs=0.05)


def test_the_prior_stays_where_the_image_tells_nothing(noisy, monkeypatch):
    """Draws of the prior of energy, angles and focus are draws of it after some steps."""
    scan, world, view, near = noisy
    coordinates = scan.coordinates
    monkeypatch.setattr(
        steps, "log_density_at", lambda scan, own, *_: float(coordinates.log_prior(own.z[None]))
    )
    monkeypatch.setattr(steps, "arrive", lambda scan, own, *_: (own, view))
    generator, num, found = torch.Generator().manual_seed(0), 300, []
    for z in coordinates.draw(num, generator):
        own, _, _ = draw_wavelength(scan, replace(world, z=z), view, near, generator)
        found.append(torch.stack([z, own.z]))
    before, after = torch.stack(found, 1)
    mine = [k for k, n in enumerate(coordinates.names) if n in POWERS]
    assert float((before != after)[:, mine].double().mean()) > 0.3
    fresh = coordinates.draw(4000, generator)
    for k in mine:
        rank = torch.searchsorted(fresh[:, k].sort().values, after[:, k].contiguous()) / len(fresh)
        error = (1 + num / len(fresh)) ** 0.5
        assert float(rank.mean()) == pytest.approx(0.5, abs=4 * error / (12 * num) ** 0.5)
        assert float(rank.square().mean()) == pytest.approx(1 / 3, abs=4 * error * 0.3 / num**0.5)


def test_a_known_energy_stays(noisy):
    scan, world, view, near = noisy
    known = Coordinates(CONDITION | {"beam_energy": 80e3}, PRIOR.nuisances)
    given = replace(scan, coordinates=known), replace(world, z=middle(known))
    assert draw_wavelength(*given, view, near, torch.Generator()) == (given[1], view, near)


def test_steps_go_with_the_map(noisy, monkeypatch):
    scan, world, view, near = noisy
    world = replace(world, z=middle(scan.coordinates))
    view = replace(look(scan, world), variance=view.variance)
    monkeypatch.setattr(steps, "accepts", lambda *_: True)
    monkeypatch.setattr(steps, "STEPS", (0.1,))
    other, seen, there = draw_wavelength(scan, world, view, near, torch.Generator().manual_seed(0))
    assert not torch.equal(other.z, world.z)
    assert torch.allclose(seen.expected, look(scan, other).expected, atol=1e-5)
    for name in ("species", "shift", "excess", "row_shift", "drift", "floor", "abundance"):
        assert getattr(other, name) is getattr(world, name)
    factor = wavelength(scan.coordinates.values(other.z[None])["beam_energy"])
    factor = factor / wavelength(scan.coordinates.values(world.z[None])["beam_energy"])
    slopes = scaled(scan.coordinates, world.z, float(factor))[1]
    num = len(slopes) - 2
    assert torch.allclose(there.factor[:num], slopes[:num, None] * near.factor[:num], rtol=1e-4)
    assert torch.equal(there.factor[num:], near.factor[num:])

"""Steps of the beam energy with everything that keeps the probe and the detectors as they are."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..optics import beam_energy, wavelength
from .coordinates import PAIRS, Coordinates
from .following import Joint
from .partners import carried, log_density_at
from .signal import accepts, arrive
from .view import View
from .world import Scan, World

__all__ = ["draw_wavelength", "scaled"]

POWERS = {
    "beam_energy": 1, "convergence_semiangle": 1, "inner_collection_angle": 1,
    "outer_collection_angle": 1, "defocus": -1, "C12": -1, "focal_spread": -1, "C21": -2, "C23": -2,
    "C30": -3,
}  # fmt: skip
"""Powers of the wavelength to which variables are proportional, at a given pupil in 1/Å."""
STEPS = 0.03, 0.1, 0.3  # standard deviations of steps of the logarithm of the wavelength
STEP = 1e-4  # of a coordinate, for the slope of a variable
REACHED = 1e-6  # relative, up to which a variable has the value that was asked for


def draw_wavelength(
    scan: Scan, world: World, view: View, near: Joint, generator: torch.Generator
) -> tuple[World, View, Joint]:
    """Draw the beam energy, with the probe and the detectors kept as functions of frequency.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    near : Joint
        Of the steps of the shared variables here.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world, view : World, View
        After a Metropolis step of each of ``STEPS``, with signal, film and errors drawn anew, or as
        they were.
    near : Joint
        Of the steps there.

    Notes
    -----
    As a function of spatial frequency the pupil depends on the semi-angle over the wavelength, on
    the wavelength times defocus, twofold astigmatism and focal spread, and so on, and a detector on
    its angles over the wavelength. Energy and angles are told apart by what is left: by how atoms
    scatter at other energies, nearly all by the same factor. The posterior has a long and bent
    ridge, which trajectories of the shared variables follow slowly. Here all of these change
    together (Liu and Sabatti, Biometrika 87, 353 (2000),
    doi:10.1093/biomet/87.2.353); the ratio of acceptance has the Jacobian of the map.
    """
    if "beam_energy" not in scan.coordinates.free:
        return world, view, near
    there, before = world, log_density_at(scan, world, view, near)
    for size in STEPS:
        step = size * torch.randn(1, generator=generator, dtype=torch.float64)
        z, slopes = scaled(scan.coordinates, there.z, math.exp(float(step)))
        if z is None:
            continue
        other = replace(there, z=z)
        after = log_density_at(scan, other, view, near)
        if accepts(after - before + float(slopes.log().sum()), generator):
            there, before, near = other, after, carried(near, slopes)
    if there is world:
        return world, view, near
    return *arrive(scan, there, view, generator), near


def scaled(
    coordinates: Coordinates, z: Tensor, factor: float
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Coordinates of the same probe and detectors at another wavelength.

    Parameters
    ----------
    coordinates : Coordinates
        With an open beam energy.
    z : Tensor, shape (coordinate,)
        Where.
    factor : float
        Of the wavelength.

    Returns
    -------
    there : Tensor, shape (coordinate,) or None
        What is not open stays; None if a variable would be where it cannot be.
    slopes : Tensor, shape (coordinate,) or None
        Derivatives of these coordinates by their own; their product is the Jacobian of the map.
    """
    powers = torch.tensor([POWERS.get(_variable(n)[0], 0) for n in coordinates.names])
    rates = _rates(coordinates, z)
    powers = torch.where(rates == 0, 0, powers)  # of a magnitude of which only the azimuth is open
    grown = torch.tensor(factor, dtype=z.dtype) ** powers
    values = {n: v[0] for n, v in coordinates.values(z[None]).items()}
    asked = {n: values[n] * factor**p for n, p in POWERS.items()}
    asked["beam_energy"] = beam_energy(wavelength(values["beam_energy"]) * factor)
    there = torch.where(powers == 0, z, coordinates.of(values | asked))
    wanted, found = (_variables(coordinates, p[None])[0] for p in (z, there))
    if not torch.allclose(found, wanted * grown, rtol=REACHED, atol=0):
        return None, None
    slopes = grown * rates / _rates(coordinates, there)
    slopes = torch.where(powers == 0, 1.0, slopes)
    for k in _first_of_pairs(coordinates):
        # along the radius, and along the arc
        if powers[k] == 0:
            continue
        ratio = there[k : k + 2].norm() / z[k : k + 2].norm()
        slopes[k : k + 2] = (slopes[k] * ratio).sqrt()
    return there, slopes


def _variable(name: str) -> tuple[str, int]:
    """Variable and detector of a coordinate."""
    base, _, last = name.rpartition("_")
    if last.isdigit():
        return base, int(last)
    return (base, 0) if base in PAIRS else (name, 0)


def _variables(coordinates: Coordinates, z: Tensor) -> Tensor:
    """Variable of every coordinate, the wavelength for the energy, shape (point, coordinate)."""
    values = coordinates.values(z)
    values["beam_energy"] = wavelength(values["beam_energy"])
    nothing = torch.zeros_like(z)
    each = [_variable(n) for n in coordinates.names]
    return torch.stack([values.get(n, nothing).reshape(len(z), -1)[:, k] for n, k in each], -1)


def _rates(coordinates: Coordinates, z: Tensor) -> Tensor:
    """Slope of every variable along its coordinate, or along the radius of its pair."""
    along = torch.eye(len(z), dtype=z.dtype)
    for k in _first_of_pairs(coordinates):
        along[k : k + 2, k : k + 2] = torch.nn.functional.normalize(z[k : k + 2], dim=0)
    high, low = (_variables(coordinates, z + s * STEP * along) for s in (1, -1))
    return (high - low).diagonal() / (2 * STEP)


def _first_of_pairs(coordinates: Coordinates) -> list[int]:
    """Positions of the first coordinates of the pairs that change with the wavelength."""
    pairs = [f"{n}_x" for n in PAIRS if n in POWERS]
    return [k for k, n in enumerate(coordinates.names) if n in pairs]

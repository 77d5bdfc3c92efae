"""Jumps between worlds that look nearly the same."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .coordinates import Coordinates
from .following import Joint
from .moves import log_density_along
from .signal import arrive
from .view import View
from .world import MIRROR, Scan, World

__all__ = ["carried", "draw_partner", "log_density_at", "log_ratios", "partners_of"]

EVEN = ("defocus", "C30")  # change sign with C12, see ``partners_of``
STEP = 1e-4  # of a coordinate, for the slopes of a partner


def partners_of(coordinates: Coordinates, z: Tensor) -> list[tuple[Tensor, bool]]:
    """Points that give nearly the same image, and whether the layer is turned upside down.

    Parameters
    ----------
    coordinates : Coordinates
        Of the shared variables.
    z : Tensor, shape (coordinate,)
        Coordinates.

    Returns
    -------
    list of tuple of Tensor and bool
        Three points.

    Notes
    -----
    |psi|² is the same for chi(k) and -chi(-k): for the opposite defocus, twofold astigmatism
    and spherical aberration together; what tells them apart is the depth of the atoms. A
    layer that is tilted the other way is the layer upside down.
    """
    names = coordinates.names
    values = {n: v[0] for n, v in coordinates.values(z[None]).items()}
    even = {n: -values[n] for n in EVEN} | {"phi12": values["phi12"] + math.pi / 2}
    tilt = z.new_tensor([-1.0 if n.startswith("tilt") else 1.0 for n in names])
    opposite = coordinates.of(values | even)
    opposite[-2:] = z[-2:]
    return [(opposite, False), (z * tilt, True), (opposite * tilt, True)]


def draw_partner(
    scan: Scan, world: World, view: View, near: Joint, generator: torch.Generator
) -> tuple[World, View, Joint]:
    """Draw one of the worlds that look nearly the same, or this one.

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
        There, with signal, film and errors drawn anew, or where it began.
    near : Joint
        Of the steps there.

    Notes
    -----
    Every partner of a partner is one of the four worlds again, so that these are drawn in
    proportion to their densities times the Jacobians of the maps (Liu and Sabatti, Biometrika 87,
    353 (2000), doi:10.1093/biomet/87.2.353).
    """
    ratios = torch.tensor([0.0, *log_ratios(scan, world, view, near)])
    chosen = int(torch.multinomial(ratios.softmax(0), 1, generator=generator))
    if not chosen:
        return world, view, near
    z, turned = partners_of(scan.coordinates, world.z)[chosen - 1]
    other = _turned(world, z, turned)
    slopes = _slopes(scan.coordinates, world.z, z)
    return *arrive(scan, other, view, generator), carried(near, slopes)


def log_ratios(scan: Scan, world: World, view: View, near: Joint) -> list[float]:
    """Log of the ratio of the density of each partner, and the Jacobian of the map, to that here.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    near : Joint
        Of the steps of the shared variables here.

    Returns
    -------
    list of float
        In the order of ``partners_of``.
    """
    here, found = log_density_at(scan, world, view, near), []
    for z, turned in partners_of(scan.coordinates, world.z):
        there = log_density_at(scan, _turned(world, z, turned), view, near)
        volume = float(_slopes(scan.coordinates, world.z, z).abs().log().sum())
        found.append(there - here + volume)
    return found


def _turned(world: World, z: Tensor, turned: bool) -> World:
    """The same columns at other shared variables, upside down if so."""
    return replace(world, z=z, species=MIRROR[world.species] if turned else world.species)


def log_density_at(scan: Scan, world: World, view: View, near: Joint) -> float:
    """Log density with all that is linear summed out, at the variance of a view.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where, and the variance of the noise.
    near : Joint
        Of the steps of the shared variables.

    Returns
    -------
    float
        Up to a constant, see ``log_density_along``.
    """
    return float(log_density_along(scan, world, view, near)[0])


def _slopes(coordinates: Coordinates, z: Tensor, there: Tensor) -> Tensor:
    """Derivatives of the coordinates of a partner, each with that of the point alone.

    A variable changes its sign; a coordinate is another function of it on the other side of zero
    where its prior is not even.
    """
    names = coordinates.names
    even = torch.tensor([n in EVEN for n in names])
    steps = STEP * even * torch.tensor([[1.0], [-1.0]], dtype=z.dtype)
    values = coordinates.values(torch.cat([z + steps, there + steps]))
    slopes = torch.where((there + z).abs() < (there - z).abs(), -1.0, 1.0).to(z)
    for k in (even & (there != z)).nonzero()[:, 0].tolist():
        high, low, high_there, low_there = values[names[k]].tolist()
        slopes[k] = -(high - low) / (high_there - low_there)
    return slopes


def carried(near: Joint, slopes: Tensor) -> Joint:
    """Directions, and what follows them, after a map of the coordinates.

    Parameters
    ----------
    near : Joint
        Before.
    slopes : Tensor, shape (coordinate,)
        Derivatives of the new coordinates by the old ones, each by its own.

    Returns
    -------
    Joint
        There, where the image is the same.
    """
    num = len(slopes) - 2  # without the common displacement
    whole = torch.ones(len(near.factor), dtype=near.factor.dtype)
    whole[:num] = slopes[:num]
    back = 1 / whole.to(near.own)
    return replace(
        near,
        factor=whole[:, None] * near.factor,
        own=near.own * back,
        excess=near.excess * back,
        rows=near.rows * back,
        signal=near.signal / whole.to(near.signal)[:, None],
    )

"""Hamiltonian Monte Carlo for the shared variables of a scan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .following import Joint
from .magnitudes import Widths
from .moves import log_density_along, moved
from .signal import accepts
from .view import View, look
from .world import Scan, World

__all__ = ["Density", "Point", "draw_jointly", "travel"]

LENGTH = 2.5  # of a trajectory, in standard deviations
UNEVEN = 0.25  # relative, of the size of the steps: no trajectory is a whole period of a direction

Density = Callable[[Scan, World, View, Joint], tuple[Tensor, dict[int, Tensor]]]


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a trajectory.

    Attributes
    ----------
    world : World
        The world.
    factors : dict of int to Tensor
        Its structure factors.
    log_density : float
        See ``log_density_along``.
    gradient : Tensor, shape (direction,)
        Of the log density, given the widths of a trajectory.
    """

    world: World
    factors: dict[int, Tensor]
    log_density: float
    gradient: Tensor


def draw_jointly(
    scan: Scan,
    world: World,
    view: View,
    joint: Joint,
    most: int,
    generator: torch.Generator,
) -> tuple[World, View, float]:
    """Draw shared variables and drift by one trajectory of Hamiltonian dynamics.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where, and the rest.
    joint : Joint
        Gives units in which directions are equally wide, and says how sites and rows follow.
    most : int
        Steps at most; otherwise a trajectory of ``LENGTH``.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world : World
        At the end of the trajectory, or where it began.
    view : View
        What follows from it, but for the variance.
    log_ratio : float
        By which the end was taken or not: minus the error of the energy.

    Notes
    -----
    Gradients are those of the image itself, by automatic differentiation. A trajectory that meets a
    world that cannot be ends where it began.

    References
    ----------
    Neal, in Handbook of Markov Chain Monte Carlo (2011), chapter 5.
    """
    here, there, gain = travel(scan, world, view, joint, most, generator)
    log_ratio = there.log_density - here.log_density + gain if there else -math.inf
    if accepts(log_ratio, generator):
        here = there
    found = look(scan, here.world, factors=here.factors)
    return here.world, replace(found, variance=view.variance), log_ratio


def travel(
    scan: Scan,
    world: World,
    view: View,
    joint: Joint,
    most: int,
    generator: torch.Generator,
    density: Density = log_density_along,
) -> tuple[Point, Point | None, float]:
    """Follow a trajectory of Hamiltonian dynamics with random momentum and widths, see ``Widths``.

    Parameters
    ----------
    scan, world, view, joint, most, generator : Scan, World, View, Joint, int, Generator
        See ``draw_jointly``.
    density : callable
        Of which the gradient is followed, with arguments and results of ``log_density_along``.

    Returns
    -------
    here : Point
        Where it begins.
    there : Point or None
        Where it ends; None if it meets a world that cannot be.
    gain : float
        Fall of the kinetic energy, and rise of the density given the widths over that without.

    Notes
    -----
    The map keeps volumes and is its own inverse if the momentum is turned round, whatever the
    density is whose gradient it follows, as long as that depends on nothing else that differs
    between both ends: hence it is a proposal for other densities too.
    """
    size = joint.size * (1 + UNEVEN * (2 * float(torch.rand(1, generator=generator)) - 1))
    number = min(most, max(1, round(LENGTH / joint.size)))
    widths = Widths.draw(scan.coordinates, world.z, generator)
    joint = widths.narrow(joint)
    here = _stand(scan, world, view, joint, density, widths)
    momentum = torch.randn(joint.factor.shape[1], generator=generator, dtype=torch.float64)
    kinetic, there = _kinetic(momentum), here
    for _ in range(number):
        momentum = momentum + size / 2 * there.gradient
        change = joint.factor @ (size * momentum)
        try:
            there = moved(scan, there.world, joint, change)
            there = _stand(scan, there, view, joint, density, widths)
        except torch.linalg.LinAlgError:  # it diverges: columns outgrow the film by many orders
            there = None
        if there is None:
            return here, None, 0.0
        momentum = momentum + size / 2 * there.gradient
    gain = kinetic - _kinetic(momentum)
    gain += float(widths.log_ratio(there.world.z) - widths.log_ratio(here.world.z))
    return here, there, gain


def _kinetic(momentum: Tensor) -> float:
    """Kinetic energy."""
    return 0.5 * float(momentum.square().sum())


def _stand(
    scan: Scan,
    world: World,
    view: View,
    joint: Joint,
    density: Density = log_density_along,
    widths: Widths | None = None,
) -> Point | None:
    """A world with log density and gradient, that given the widths; None if not finite."""
    with torch.enable_grad():
        along = joint.factor.new_zeros(joint.factor.shape[1], requires_grad=True)
        there = moved(scan, world, joint, joint.factor @ along)
        value, factors = density(scan, there, view, joint)
        if not bool(value.isfinite()):
            return None
        given = value + widths.log_ratio(there.z) if widths else value
        (gradient,) = torch.autograd.grad(given, along)
    if not bool(gradient.isfinite().all()):
        return None
    factors = {k: f.detach() for k, f in factors.items()}
    return Point(world, factors, float(value.detach()), gradient)

"""Hamiltonian Monte Carlo for the shared variables of a scan."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .moves import Joint, log_density_along, moved
from .signal import accepts
from .view import View, look
from .world import Scan, World

__all__ = ["draw_jointly"]

LENGTH = 2.5  # of a trajectory, in standard deviations
UNEVEN = 0.25  # relative, of the size of the steps: no trajectory is a whole period of a direction


@dataclass(frozen=True, eq=False)
class _Point:
    """A world, its log density, and the gradient of that along the directions."""

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
    rate : float
        Probability with which the end was taken.

    Notes
    -----
    Gradients are those of the image itself, by automatic differentiation. A trajectory that meets a
    world that cannot be ends where it began.

    References
    ----------
    Neal, in Handbook of Markov Chain Monte Carlo (2011), chapter 5.
    """
    size = joint.size * (1 + UNEVEN * (2 * float(torch.rand(1, generator=generator)) - 1))
    number = min(most, max(1, round(LENGTH / joint.size)))
    here = _stand(scan, world, view, joint)
    momentum = torch.randn(joint.factor.shape[1], generator=generator, dtype=torch.float64)
    begun, there = here.log_density - _kinetic(momentum), here
    for _ in range(number):
        momentum = momentum + size / 2 * there.gradient
        change = joint.factor @ (size * momentum)
        there = _stand(scan, moved(scan, there.world, joint, change), view, joint)
        if there is None:
            break
        momentum = momentum + size / 2 * there.gradient
    log_ratio = there.log_density - _kinetic(momentum) - begun if there else -math.inf
    if accepts(log_ratio, generator):
        here = there
    found = look(scan, here.world, factors=here.factors)
    rate = math.exp(min(log_ratio, 0.0))
    return here.world, replace(found, variance=view.variance), rate


def _kinetic(momentum: Tensor) -> float:
    """Kinetic energy."""
    return 0.5 * float(momentum.square().sum())


def _stand(scan: Scan, world: World, view: View, joint: Joint) -> _Point | None:
    """A world with log density and gradient; None if these are not finite."""
    with torch.enable_grad():
        along = joint.factor.new_zeros(joint.factor.shape[1], requires_grad=True)
        there = moved(scan, world, joint, joint.factor @ along)
        value, factors = log_density_along(scan, there, view, joint)
        if not bool(value.isfinite()):
            return None
        (gradient,) = torch.autograd.grad(value, along)
    if not bool(gradient.isfinite().all()):
        return None
    factors = {k: f.detach() for k, f in factors.items()}
    return _Point(world, factors, float(value.detach()), gradient)

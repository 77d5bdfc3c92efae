"""Joint moves: shared variables and drift, with sites and rows following as far as they can.

Given where every column stands, the shared variables are known far better than without: Gibbs
sampling would cross their posterior in many small steps. Here sites and rows move along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .canvas import Canvas
from .conditional import HAS_ATOMS, scales_of_sites
from .dose import pull_of_dose
from .field import frequencies
from .kernels import Kernels, gram_of_unknowns
from .occupation import FIELD_PRECISION
from .shared import State, evaluate, image_slopes
from .signal import accepts, slope_along_x, total_spectrum
from .world import Scan, View, World, look

__all__ = ["Joint", "draw_jointly", "linearise_jointly"]

SMALL, SHARE_SMALL = (
    0.15,
    0.15,
)  # relative size and share of small steps, taken where large ones fail
BLOCKS = 3  # steps in turn, of which the first is along the narrow directions
SOFT = 0.08  # standard deviations of the prior, in size of a direction
# curvature over that of the Gaussian, whose log density falls by one on both sides together: up to
# which a direction is left as it is, and the largest that is corrected at once
NEARLY_ONE, LARGEST_FALL = 1.7, 16.0
ATTEMPTS = 3  # corrections of a direction


@dataclass(frozen=True, eq=False)
class Joint:
    """A linear map from shared variables and drift to everything that follows them.

    Attributes
    ----------
    weighted : Tensor, shape (parameter, pixel)
        Slopes of the images, with sites and rows following, over the variance; pixels of all
        detectors. Parameters are the coordinates without the common displacement, then the
        coefficients of the drift along x and y.
    factor : Tensor, shape (parameter, direction)
        Principal directions of the Gaussian approximation of the posterior, one standard deviation
        long.
    is_soft : Tensor of bool, shape (direction,)
        Directions along which the posterior is wide, so that it is not quite Gaussian.
    own : Tensor, shape (site, 2, parameter)
        Slopes of the displacement of every column from the mean displacement, in Å.
    excess : Tensor, shape (site, detector, parameter)
        Slopes of the relative excess of its amplitudes.
    rows : Tensor, shape (row, parameter)
        Slopes of the displacement of the scan rows in Å.
    of_signal : Tensor, shape (parameter, detector)
        Relative slopes of the signal.
    steps : tuple of float
        Size of the steps along the narrow and along the soft directions.
    """

    weighted: Tensor
    factor: Tensor
    is_soft: Tensor
    own: Tensor
    excess: Tensor
    rows: Tensor
    of_signal: Tensor
    steps: tuple[float, float] = (0.7, 0.5)

    @property
    def log_volume(self) -> float:
        """Log of the volume of one standard deviation along all directions."""
        return float(self.factor.norm(dim=0).log().sum())


@dataclass(frozen=True, eq=False)
class _Point:
    """A world, its log density, and the gradient of that along the parameters."""

    world: World
    state: State
    factors: dict[int, Tensor]
    log_prob: float
    gradient: Tensor


def linearise_jointly(
    scan: Scan,
    world: World,
    view: View,
    steps: tuple[float, float] = (0.7, 0.5),
    *,
    exactly: bool = True,
) -> Joint:
    """Linearise the image, and how sites and rows follow the shared variables.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    steps : tuple of float
        Size of the steps along the narrow and along the soft directions.
    exactly : bool
        Fit the size of soft directions to the density.

    Returns
    -------
    Joint
        Sites follow one colour after the other, each with the others as they are by then.
    """
    of_image, of_signal = (v[:-2] for v in image_slopes(scan, world, view))
    slopes = torch.cat([of_image, _drift_slopes(scan, world, view)])
    slopes = slopes.unflatten(1, scan.image.shape)
    of_signal = torch.nn.functional.pad(of_signal, (0, 0, 0, len(slopes) - len(of_signal)))
    weight = 1 / view.variance
    slope_x = slope_along_x(scan, world, view)
    precision = (slope_x.square() * weight).sum((0, -1)) + world.jitter**-2
    rows = -((slopes * (slope_x * weight)).sum((1, -1)) / precision).mT
    slopes = slopes + rows.mT[:, None, :, None] * slope_x
    own, excess, slopes = _follow(scan, world, view, slopes)
    weighted = slopes.flatten(1) * weight.flatten()
    joint = Joint(weighted, None, None, own, excess, rows, of_signal, steps)
    _, known = pull_of_dose(scan, world.signal, world.slope, view.values)
    hessian = (weighted @ slopes.flatten(1).T).double() + torch.diag(_own_precision(world))
    hessian = hessian + of_signal @ known @ of_signal.mT
    for _, slope, scale in _parts(scan, world, joint):
        scaled = (slope / scale[:, None]).double()
        hessian = hessian + scaled.T @ scaled
    precision, vectors = torch.linalg.eigh(hessian)
    joint = replace(joint, factor=vectors * precision.rsqrt(), is_soft=precision < SOFT**-2)
    return _with_curvature(scan, world, view, joint) if exactly else joint


def _with_curvature(scan: Scan, world: World, view: View, joint: Joint) -> Joint:
    """Narrow the directions along which the log density falls faster than the linear image says.

    Where the image hardly changes to first order, what it does to second order counts.
    """
    here = _stand(scan, world, view, joint, view.factors)
    factor = joint.factor.clone()
    for k in joint.is_soft.nonzero()[:, 0].tolist():
        for _ in range(ATTEMPTS):
            around = [
                _stand(scan, _moved(scan, world, joint, sign * factor[:, k]), view, joint)
                for sign in (1, -1)
            ]
            falls = [here.log_prob - point.log_prob for point in around if point is not None]
            curvature = sum(falls) * (2 / len(falls)) if falls else LARGEST_FALL
            if curvature < NEARLY_ONE:
                break
            factor[:, k] /= math.sqrt(min(curvature, LARGEST_FALL))
    return replace(joint, factor=factor)


def _position(world: World) -> Tensor:
    """Coordinates without the common displacement, and the drift."""
    return torch.cat([world.z[:-2], world.drift.mT.flatten().double()])


def _drift_slopes(scan: Scan, world: World, view: View) -> Tensor:
    """Change of the image with the coefficients of the drift, shape (parameter, pixel)."""
    qx, qy = frequencies(scan.field.cell, scan.field.num_modes)
    turns = (-2j * math.pi * qx, (-2j * math.pi * qy)[:, None])
    positions, held, found = scan.positions + world.shift, HAS_ATOMS[world.species], []
    for term in scan.basis().T:
        weights = (1 + world.excess) * (term * held)[:, None]
        factors = scan.field.factors(positions, weights, world.species)
        total = total_spectrum(world, view, factors)
        found.append(scan.field.images(torch.stack([total * t for t in turns]), world.row_shift))
    return torch.stack(found).transpose(0, 1).flatten(0, 1).flatten(1)


def _follow(scan: Scan, world: World, view: View, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How displacement and excess of every column follow, and the slopes of the image then."""
    kernels = Kernels.of(scan.field, view.values, scan.material)
    canvas = Canvas.of(scan, world, view, kernels.half)
    moving = canvas.pad_images(slopes)
    spread, scatter = scales_of_sites(world)
    own = torch.zeros(len(scan.kind), 2, len(slopes))
    excess = torch.zeros(*world.excess.shape, len(slopes))
    for colour in scan.colours():
        mine = colour[HAS_ATOMS[world.species[colour]]]
        if not len(mine):
            continue
        columns, index = canvas.slopes(scan, world, kernels, mine)  # excess, along x, along y
        weighted = columns * canvas.weight[:, index].movedim(0, 1)[:, :, None]
        prior = torch.cat([spread[mine, None].expand(-1, 2), scatter[mine]], -1) ** -2
        hessian = gram_of_unknowns(weighted @ columns.mT) + torch.diag_embed(prior)
        # (site, detector, pixel, parameter)
        seen = torch.stack([m[:, index] for m in moving], -1).movedim(0, 1)
        pull = weighted @ seen
        pull = torch.cat([pull[:, :, 1:].sum(1), pull[:, :, 0]], 1)
        answer = -torch.linalg.solve(hessian, pull)
        own[mine], excess[mine] = answer[:, :2], answer[:, 2:]
        change = torch.einsum("ska,sdkp->adsp", answer[:, :2], columns[:, :, 1:])
        change = change + torch.einsum("sda,sdp->adsp", answer[:, 2:], columns[:, :, 0])
        moving.index_add_(2, index.flatten(), change.flatten(2))
    return own, excess, canvas.cut_images(moving, scan.field.shape)


def draw_jointly(
    scan: Scan, world: World, view: View, joint: Joint, num: int, generator: torch.Generator
) -> tuple[World, View, list[tuple[int, float]]]:
    """Draw shared variables and drift by Metropolis steps along the gradient (MALA).

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where, and the rest.
    joint : Joint
        Preconditions the steps, and says how sites and rows follow.
    num : int
        Steps.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world : World
        After the steps.
    view : View
        What follows from it, but for the variance.
    rates : list of tuple of int and float
        Of the larger steps, whether it was along the soft directions, and the probability with
        which it was taken.

    References
    ----------
    Roberts and Tweedie, Bernoulli 2, 341 (1996).
    """
    here, rates = _stand(scan, world, view, joint, view.factors), []
    for k in range(num):
        block = int(k % BLOCKS > 0)  # soft directions twice as often
        factor = joint.factor[:, joint.is_soft == bool(block)]
        is_small = float(torch.rand(1, generator=generator)) < SHARE_SMALL
        size = joint.steps[block] * (SMALL if is_small else 1.0)
        noise = torch.randn(factor.shape[1], generator=generator, dtype=torch.float64)
        along = size**2 / 2 * (factor.T @ here.gradient) + size * noise
        there = _stand(scan, _moved(scan, here.world, joint, factor @ along), view, joint)
        log_ratio = -math.inf
        if there is not None:
            back = (along + size**2 / 2 * (factor.T @ there.gradient)) / size
            log_ratio = there.log_prob - here.log_prob
            log_ratio += 0.5 * float(noise.square().sum() - back.square().sum())
        if not is_small:
            rates.append((block, math.exp(min(log_ratio, 0.0))))
        if accepts(log_ratio, generator):
            here = there
    found = look(scan, here.world, here.state.shared, here.factors)
    return here.world, replace(found, variance=view.variance), rates


def _parts(scan: Scan, world: World, joint: Joint) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Values that follow, their slopes (value, parameter), and their standard deviations."""
    spread, scatter = scales_of_sites(world)
    own = (world.shift - scan.basis() @ world.drift) * HAS_ATOMS[world.species, None]
    return (
        (own.flatten(), joint.own.flatten(0, 1), spread.repeat_interleave(2)),
        (world.excess.flatten(), joint.excess.flatten(0, 1), scatter.flatten()),
        (world.row_shift, joint.rows, torch.full_like(world.row_shift, world.jitter)),
    )


def _log_prior(scan: Scan, world: World, joint: Joint) -> tuple[float, Tensor]:
    """Log prior of the drift and of what follows, and gradient with that of the coordinates."""
    precision, place = _own_precision(world), _position(world)
    value = -0.5 * FIELD_PRECISION * float(world.drift.square().sum())
    gradient = -precision * place
    for values, slope, scale in _parts(scan, world, joint):
        value -= 0.5 * float((values / scale).double().square().sum())
        gradient = gradient - (slope.mT @ (values / scale**2)).double()
    return value, gradient


def _own_precision(world: World) -> Tensor:
    """Prior precision of coordinates and drift."""
    ones = torch.ones(len(world.z) - 2, dtype=torch.float64)
    return torch.cat([ones, FIELD_PRECISION * torch.ones(world.drift.numel()).double()])


def _moved(scan: Scan, world: World, joint: Joint, change: Tensor) -> World:
    """A world moved along the joint directions."""
    num = len(world.z) - 2
    small = change.float()
    drift = small[num:].view(2, -1).mT
    return replace(
        world,
        z=torch.cat([world.z[:-2] + change[:num], world.z[-2:]]),
        drift=world.drift + drift,
        shift=world.shift + scan.basis() @ drift + joint.own @ small,
        excess=world.excess + joint.excess @ small,
        row_shift=world.row_shift + joint.rows @ small,
    )


def _stand(
    scan: Scan, world: World, view: View, joint: Joint, factors: dict | None = None
) -> _Point | None:
    """A world with log density and gradient; None if it cannot be."""
    if factors is None:
        factors = scan.field.factors(scan.positions + world.shift, 1 + world.excess, world.species)
    seen = replace(view, factors=factors)
    state = evaluate(scan, world, seen, world.z)
    if state.regression is None:
        return None
    prior, force = _log_prior(scan, world, joint)
    rest = (scan.image - state.regression.expected).flatten()
    gradient = force + (joint.weighted @ rest).double()
    signal, values = state.regression.signal, state.shared[0]
    pull, _ = pull_of_dose(scan, signal, world.slope, values)
    log_prob = state.log_prob_with_dose(scan, world.slope) + prior
    return _Point(world, state, factors, log_prob, gradient + joint.of_signal @ pull)

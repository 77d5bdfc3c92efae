"""Moves of the shared variables and the drift, with sites and rows following as far as they can.

Given where every column stands, the shared variables are known far better than without: Gibbs
sampling would cross their posterior in many small steps. Here sites and rows move along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .canvas import Canvas
from .conditional import HAS_ATOMS, covariance_of_excess, precision_of_sites, spread_of_sites
from .dose import precision_of_dose
from .following import FIRST_SIZE, Joint, principal, taken_by_excess
from .kernels import Kernels, gram_of_unknowns
from .occupation import FIELD_PRECISION
from .rows import rows_given, slopes_of_rows
from .shared import evaluate, image_slopes
from .view import View, spectra_of, total_spectrum
from .world import Scan, World

__all__ = ["linearise_jointly", "log_density_along", "log_prior_along", "moved"]

SOFT = 0.08  # standard deviations of the prior, in size of a direction
# curvature over that of the Gaussian, whose log density falls by one on both sides together: up to
# which a direction is left as it is, and the largest that is corrected at once
NEARLY_ONE, LARGEST_FALL = 1.7, 16.0
LEAST_TAKEN = 1e-6  # of a misfit of the amplitude, by the excess of a column without any light
ATTEMPTS = 3  # corrections of a direction


def linearise_jointly(
    scan: Scan, world: World, view: View, size: float = FIRST_SIZE, *, exactly: bool = True
) -> Joint:
    """Linearise the image, and how sites and rows follow the shared variables.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    size : float
        Of the steps.
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
    rows, slopes = _follow_rows(scan, world, view, slopes)
    own, excess, known, slopes = _follow(scan, world, view, slopes)
    slopes = _beside_film(scan, world, slopes, weight).flatten(1)
    hessian = ((slopes * weight.flatten()) @ slopes.mT).double()
    hessian = hessian + torch.diag(_own_precision(world))
    of_dose = precision_of_dose(scan, world.signal, world.slope, view.values)
    hessian = hessian + of_signal @ of_dose @ of_signal.mT
    unit = torch.eye(len(slopes), dtype=torch.float64)
    joint = Joint(unit, own, excess, known, rows, of_signal, size)
    for _, slope, scale in _parts(scan, world, joint):
        scaled = (slope / scale[:, None]).double()
        hessian = hessian + scaled.T @ scaled
    factor, precision = principal(hessian)
    joint = replace(joint, factor=factor)
    soft = (precision < SOFT**-2).nonzero()[:, 0].tolist()
    return _with_curvature(scan, world, view, joint, soft) if exactly else joint


def _follow_rows(scan: Scan, world: World, view: View, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """How rows follow, shape (row, 3, parameter), and slopes of the image then."""
    of_rows = slopes_of_rows(scan, world, view)
    law = rows_given(scan, world, view.expected, view.variance, of_rows)
    pull = torch.einsum("adyx,pdyx->yap", of_rows / view.variance, slopes)
    rows = -law.covariance_matrix @ pull
    return rows, slopes + torch.einsum("yap,adyx->pdyx", rows, of_rows)


def _beside_film(scan: Scan, world: World, slopes: Tensor, weight: Tensor) -> Tensor:
    """Slopes of the image, of which the film takes what it can, (parameter, detector, y, x)."""
    film, weight = scan.film, weight.double()
    gram, seen = film.gram(weight), film.products(slopes * weight)
    factor = torch.linalg.cholesky(gram + film.precision(world.film_size))
    return slopes - film.images(torch.cholesky_solve(seen[..., None], factor)[..., 0]).float()


def _with_curvature(
    scan: Scan, world: World, view: View, joint: Joint, soft: Sequence[int]
) -> Joint:
    """Narrow the directions along which the log density falls faster than the linear image says.

    Where the image hardly changes to first order, what it does to second order counts.
    """

    def density(change: Tensor) -> float:
        there = moved(scan, world, joint, change)
        smooth = scan.coordinates.distances(there.z).log().sum()  # see ``Widths``
        return float(log_density_along(scan, there, view, joint)[0] + smooth)

    factor = joint.factor.clone()
    here = density(torch.zeros_like(factor[0]))
    for k in soft:
        for _ in range(ATTEMPTS):
            falls = [here - density(sign * factor[:, k]) for sign in (1, -1)]
            falls = [fall for fall in falls if math.isfinite(fall)]
            curvature = sum(falls) * (2 / len(falls)) if falls else LARGEST_FALL
            if curvature < NEARLY_ONE:
                break
            factor[:, k] /= math.sqrt(min(curvature, LARGEST_FALL))
    return replace(joint, factor=factor)


def _drift_slopes(scan: Scan, world: World, view: View) -> Tensor:
    """Change of the image with the coefficients of the drift, shape (parameter, pixel)."""
    positions, held, found = scan.positions + world.shift, HAS_ATOMS[world.species], []
    for term in scan.basis.T:
        weights = (1 + world.excess) * (term * held)[:, None]
        factors = scan.field.factors(positions, weights, world.species)
        total = total_spectrum(world.amplitude, view.spectra, factors)
        # columns that move along an axis are rows that move the other way
        found.append(-scan.field.images(scan.field.slopes(total), world.row_shift))
    return torch.stack(found).transpose(0, 1).flatten(0, 1).flatten(1)


def _follow(scan: Scan, world: World, view: View, slopes: Tensor) -> tuple[Tensor, ...]:
    """How displacement and excess of columns follow, what is known, slopes of the image then."""
    kernels = Kernels.of(scan.field, view.values, scan.material)
    canvas = Canvas.of(scan, world, view, kernels.half)
    moving = canvas.pad_images(slopes)
    precision = precision_of_sites(world)
    own = torch.zeros(len(scan.kind), 2, len(slopes))
    excess = torch.zeros(*world.excess.shape, len(slopes))
    known = torch.zeros_like(world.excess)
    for colour in scan.colours():
        mine = colour[HAS_ATOMS[world.species[colour]]]
        if not len(mine):
            continue
        columns, index = canvas.slopes(scan, world, kernels, mine)  # excess, along x, along y
        weighted = columns * canvas.weight[:, index].movedim(0, 1)[:, :, None]
        gram = gram_of_unknowns(weighted @ columns.mT)
        hessian = gram + precision[mine]
        # (site, detector, pixel, parameter)
        seen = torch.stack([m[:, index] for m in moving], -1).movedim(0, 1)
        pull = weighted @ seen
        pull = torch.cat([pull[:, :, 1:].sum(1), pull[:, :, 0]], 1)
        answer = -torch.linalg.solve(hessian, pull)
        own[mine], excess[mine] = answer[:, :2], answer[:, 2:]
        known[mine] = gram.diagonal(dim1=-2, dim2=-1)[:, 2:]
        change = torch.einsum("ska,sdkp->adsp", answer[:, :2], columns[:, :, 1:])
        change = change + torch.einsum("sda,sdp->adsp", answer[:, 2:], columns[:, :, 0])
        moving.index_add_(2, index.flatten(), change.flatten(2))
    excess = excess / taken_by_excess(world, known).clamp(min=LEAST_TAKEN)[..., None]
    return own, excess, known, canvas.cut_images(moving, scan.field.shape)


def _parts(scan: Scan, world: World, joint: Joint) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Values that follow, their slopes (value, parameter), and their standard deviations."""
    spread = spread_of_sites(world)
    own = (world.shift - scan.basis @ world.drift) * HAS_ATOMS[world.species, None]
    # there are two kinds of columns only, and this is part of every gradient
    covariance = covariance_of_excess(world.scatter, torch.tensor([False, True]))
    white = torch.linalg.inv(torch.linalg.cholesky(covariance))[world.is_coarse.long()]
    excess = world.excess - scan.mean_excess(world.tone)
    excess = (white @ excess[..., None]).flatten()
    num_rows = len(world.row_shift)
    return (
        (own.flatten(), joint.own.flatten(0, 1), spread.repeat_interleave(2)),
        (excess, (white @ joint.excess_slopes(world)).flatten(0, 1), torch.ones_like(excess)),
        (world.row_shift.flatten(), joint.rows.flatten(0, 1), world.jitters.repeat(num_rows)),
    )


def _own_precision(world: World) -> Tensor:
    """Prior precision of coordinates and drift."""
    ones = torch.ones(len(world.z) - 2, dtype=torch.float64)
    return torch.cat([ones, FIELD_PRECISION * torch.ones(world.drift.numel()).double()])


def moved(scan: Scan, world: World, joint: Joint, change: Tensor) -> World:
    """Move shared variables and drift, with what follows.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Where.
    joint : Joint
        Says how sites and rows follow.
    change : Tensor, shape (parameter,)
        Double precision.

    Returns
    -------
    World
        There.
    """
    num = len(world.z) - 2
    small = change.float()
    drift = small[num:].view(2, -1).mT
    return replace(
        world,
        z=torch.cat([world.z[:-2] + change[:num], world.z[-2:]]),
        drift=world.drift + drift,
        shift=world.shift + scan.basis @ drift + joint.own @ small,
        excess=world.excess + joint.excess_slopes(world) @ small,
        row_shift=world.row_shift + joint.rows @ small,
    )


def log_density_along(
    scan: Scan, world: World, view: View, joint: Joint
) -> tuple[Tensor, dict[int, Tensor]]:
    """Log density of a world among those that ``moved`` leads to.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Where.
    view : View
        Gives the variance of the noise, which stays.
    joint : Joint
        Says what follows.

    Returns
    -------
    log_density : Tensor, shape ()
        Differentiable in everything that moves; minus infinity where it cannot be.
    factors : dict of int to Tensor
        Structure factors, see ``Field.factors``.
    """
    factors = scan.field.factors(scan.positions + world.shift, 1 + world.excess, world.species)
    shared = spectra_of(scan, world.z, list(factors))
    state = evaluate(scan, world, replace(view, factors=factors), world.z, shared)
    value = state.log_density_with_signal(scan, world.slope)
    return value + log_prior_along(scan, world, joint), factors


def log_prior_along(scan: Scan, world: World, joint: Joint) -> Tensor:
    """Log prior density of drift, sites and rows among the worlds that ``moved`` leads to.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Where.
    joint : Joint
        Says what follows.

    Returns
    -------
    Tensor, shape ()
        Up to a constant.
    """
    value = -0.5 * FIELD_PRECISION * world.drift.double().square().sum()
    for values, _, scale in _parts(scan, world, joint):
        value = value - 0.5 * (values / scale).double().square().sum()
    return value

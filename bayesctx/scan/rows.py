"""Displacements of the scan rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from .view import View, look, total_spectrum
from .world import JITTERS, Scan, World

__all__ = ["draw_rows", "proposed", "rows_given", "slopes_of_rows", "stretched"]

# of a scan row, in Å, the slant as much per 10 Å, or standard deviations: the larger one
LARGEST_SHIFT, FARTHEST = (0.5, 0.5, 0.05), 4.0


def draw_rows(scan: Scan, world: World, view: View, generator: torch.Generator | None) -> World:
    """Draw the displacement of every scan row, and the scales of these displacements.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator or None
        Source of randomness; None takes the mean, for an image that is linear in them.

    Returns
    -------
    World
        With the new values.

    Notes
    -----
    Draws are proposed for a linear image, and each is taken or not for itself, since a pixel tells
    of its own row only: a row through the middle of columns has no slope across it.
    """
    law = _law_here(scan, world, view)
    if generator is None:
        limit = (FARTHEST * world.jitters).maximum(torch.tensor(LARGEST_SHIFT))
        return replace(world, row_shift=law.mean.clamp(-limit, limit))
    there = replace(world, row_shift=proposed(law, generator))
    seen = look(scan, there, (view.values, view.spectra), view.factors, apart=False)
    seen = replace(seen, variance=view.variance)
    log_ratio = _log_prob_of_rows(scan, there, seen) - _log_prob_of_rows(scan, world, view)
    back = _law_here(scan, there, seen)
    log_ratio += back.log_prob(world.row_shift) - law.log_prob(there.row_shift)
    chance = torch.rand(len(log_ratio), generator=generator)
    taken = (chance + 1e-30).log() < log_ratio
    shift, scales = torch.where(taken[:, None], there.row_shift, world.row_shift), {}
    for name, square in zip(JITTERS, shift.double().square().sum(0), strict=True):
        prior = scan.coordinates.scale_priors[name]
        log_likelihood = -len(shift) * prior.nodes.log() - 0.5 * square / prior.nodes**2
        scales[name] = float(prior.draw(log_likelihood, generator))
    return replace(world, row_shift=shift, **scales)


def _law_here(scan: Scan, world: World, view: View) -> MultivariateNormal:
    """See ``rows_given``."""
    return rows_given(scan, world, view.expected, view.variance, slopes_of_rows(scan, world, view))


def _log_prob_of_rows(scan: Scan, world: World, view: View) -> Tensor:
    """Log density of every row and of its displacement at a given variance, shape (y,)."""
    square = ((scan.image - view.expected).square() / view.variance).sum((0, -1))
    return -0.5 * (square + (world.row_shift / world.jitters).square().sum(-1))


def proposed(law: MultivariateNormal, generator: torch.Generator) -> Tensor:
    """Draw from a normal law.

    Parameters
    ----------
    law : MultivariateNormal
        Of anything.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor, shape (*batch, variable)
        One draw.
    """
    noise = torch.randn(*law.mean.shape, 1, generator=generator)
    return law.mean + (law.scale_tril @ noise)[..., 0]


def rows_given(
    scan: Scan, world: World, expected: Tensor, variance: Tensor, slopes: Tensor
) -> MultivariateNormal:
    """Law of the displacements of rows given all else, for an image that is linear in them.

    Parameters
    ----------
    scan, world : Scan, World
        Image; displacements and their scales.
    expected, variance : Tensor, shape (detector, y, x)
        Of the pixels.
    slopes : Tensor, shape (3, detector, y, x)
        See ``slopes_of_rows``.

    Returns
    -------
    MultivariateNormal
        Of the displacement of every row, see ``World``.
    """
    weighted = slopes / variance
    own = torch.diag(world.jitters**-2)
    precision = torch.einsum("adyx,bdyx->yab", weighted, slopes) + own
    pull = torch.einsum("adyx,dyx->ya", weighted, scan.image - expected) - world.row_shift @ own
    change = torch.linalg.solve(precision, pull)
    return MultivariateNormal(
        world.row_shift + change, precision_matrix=precision, validate_args=False
    )


def slopes_of_rows(scan: Scan, world: World, view: View) -> Tensor:
    """Change of the images with the displacement of their rows.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.

    Returns
    -------
    Tensor, shape (3, detector, y, x)
        Along x and along y, in intensity per Å, and with their slant.
    """
    total = total_spectrum(world.amplitude, view.spectra, view.factors)
    along_x, along_y = scan.field.images(scan.field.slopes(total), world.row_shift)
    return torch.stack([along_x, along_y, scan.field.axes[0] * along_y])


def stretched(row_shift: Tensor, name: str, factor: float) -> Tensor:
    """Displacements of the scan rows, one part of which is multiplied.

    Parameters
    ----------
    row_shift : Tensor, shape (y, 3)
        See ``World``.
    name : str
        One of ``JITTERS``, which says the part.
    factor : float
        Of the displacements.

    Returns
    -------
    Tensor, shape (y, 3)
        In the same units.
    """
    return row_shift * torch.tensor([factor if n == name else 1.0 for n in JITTERS])

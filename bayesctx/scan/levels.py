"""What the images of windows of one scan are linear in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..defects import SPECIES
from .signal import NUM_FILM, WEAK, columns_of, error_size
from .world import Scan, View, World

__all__ = ["Levels", "draw_brightness"]

NUM_SHARED = 1 + len(SPECIES)


@dataclass(frozen=True, eq=False)
class Levels:
    """Gaussian posterior of signal and errors of additivity (times the signal).

    Attributes
    ----------
    evidence : float
        Log of the density of the image with these and the films of the windows summed out, up to a
        constant.
    mean : Tensor, shape (detector, parameter)
        Of the signal and the errors of all species.
    """

    evidence: float
    mean: Tensor

    @classmethod
    def of(cls, seen: Iterable[tuple[Scan, View]], signal: Tensor, additivity: float) -> Levels:
        """Sum what the windows say.

        Parameters
        ----------
        seen : iterable of tuple of Scan and View
            The windows, with the images of their columns.
        signal : Tensor, shape (detector,)
            By which errors of additivity are scaled.
        additivity : float
            Scale of these errors.

        Returns
        -------
        Levels
            Given the rest.
        """
        precision = torch.zeros(len(signal), NUM_SHARED, NUM_SHARED, dtype=torch.float64)
        dot, evidence, size = precision.new_zeros(len(signal), NUM_SHARED), 0.0, signal
        for scan, view in seen:
            index = torch.tensor([0, *(1 + k for k in view.used)])
            design = torch.stack([columns_of(scan, images) for images in view.images])
            gram, own = _normal_equations(scan, view, design)
            num = len(index)
            cross = precision.new_zeros(len(signal), NUM_FILM, NUM_SHARED)
            cross[..., index] = gram[:, num:, :num]
            factor = torch.linalg.cholesky(gram[:, num:, num:] + WEAK * torch.eye(NUM_FILM))
            half = torch.linalg.solve_triangular(factor, cross, upper=False)
            given = torch.linalg.solve_triangular(factor, own[:, num:, None], upper=False)
            precision[:, index[:, None], index] += gram[:, :num, :num]
            precision -= half.mT @ half
            dot[:, index] += own[:, :num]
            dot -= (half.mT @ given)[..., 0]
            evidence += 0.5 * float(given.square().sum()) - _log_volume(factor)
            size = error_size(view.values, additivity)
        prior = (size * signal)[:, None].expand(-1, NUM_SHARED) ** -2
        prior[:, 0] = WEAK
        factor = torch.linalg.cholesky(precision + torch.diag_embed(prior))
        mean = torch.cholesky_solve(dot[..., None], factor)[..., 0]
        evidence += 0.5 * float((dot * mean).sum()) - _log_volume(factor)
        return cls(evidence, mean)


def draw_brightness(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw signal and film given the errors of additivity.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new values.
    """
    columns = torch.einsum("dk,dkyx->dyx", 1 + world.errors[:, view.used], view.images)
    film = scan.film_columns.expand(len(columns), -1, -1, -1)
    design = torch.cat([columns[:, None], film], 1).flatten(2).double()
    gram, dot = _normal_equations(scan, view, design)
    factor = torch.linalg.cholesky(gram + WEAK * torch.eye(1 + NUM_FILM))
    noise = torch.randn(*dot.shape, 1, generator=generator, dtype=torch.float64)
    values = torch.cholesky_solve(dot[..., None], factor)
    values = values + torch.linalg.solve_triangular(factor.mT, noise, upper=True)
    signal, film = values[..., 0].float().split([1, NUM_FILM], -1)
    return replace(world, signal=signal[:, 0], film=film)


def _normal_equations(scan: Scan, view: View, design: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrix and right-hand side of what is linear, of every detector."""
    weighted = design * (1 / view.variance).flatten(1)[:, None].double()
    return weighted @ design.mT, (weighted @ scan.image.flatten(1)[..., None].double())[..., 0]


def _log_volume(factor: Tensor) -> float:
    """Half the log determinant of matrices with some Cholesky factors."""
    return float(factor.diagonal(dim1=-2, dim2=-1).log().sum())

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
    factor : Tensor, shape (detector, parameter, parameter)
        Cholesky factors of the precision.
    """

    evidence: float
    mean: Tensor
    factor: Tensor

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
            gram, own = _normal_equations(scan, view)
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
        return cls(evidence, mean, factor)


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
    amplitude = 1 + world.errors[:, view.used]
    columns = torch.einsum("dk,dkyx->dyx", amplitude, view.images)
    signal, film = world.signal.clone(), world.film.clone()
    for k, image in enumerate(scan.image):
        design = torch.cat([columns[k, None], scan.film_columns]).flatten(1).double()
        weighted = design * (1 / view.variance[k]).flatten().double()
        precision = weighted @ design.T + WEAK * torch.eye(len(design), dtype=torch.float64)
        factor = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(weighted @ image.flatten().double()[:, None], factor)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        found = mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True)
        signal[k], film[k] = found[0, 0], found[1:, 0]
    return replace(world, signal=signal, film=film)


def _normal_equations(scan: Scan, view: View) -> tuple[Tensor, Tensor]:
    """Gram matrix and right-hand side of what is linear, of every detector."""
    design = torch.stack([columns_of(scan, images) for images in view.images])
    weighted = design * (1 / view.variance).flatten(1)[:, None].double()
    return weighted @ design.mT, (weighted @ scan.image.flatten(1)[..., None].double())[..., 0]


def _log_volume(factor: Tensor) -> float:
    """Half the log determinant of matrices with some Cholesky factors."""
    return float(factor.diagonal(dim1=-2, dim2=-1).log().sum())

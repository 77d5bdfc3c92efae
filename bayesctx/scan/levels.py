"""Signal and errors of additivity from several windows of one scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..defects import SPECIES
from .signal import NUM_FILM, WEAK, columns_of, error_size
from .world import Scan, View, World

__all__ = ["Levels"]

NUM_SHARED = 1 + len(SPECIES)


@dataclass(frozen=True, eq=False)
class Levels:
    """Gaussian posterior of signal, errors of additivity (times the signal) and the films.

    Attributes
    ----------
    evidence : float
        Log of the density of the image with these summed out, up to a constant.
    mean : Tensor, shape (detector, parameter)
        Of the signal and the errors of all species.
    factor : Tensor, shape (detector, parameter, parameter)
        Cholesky factors of the precision.
    films : list of tuple of Tensor
        Of every window the Cholesky factors of the precision of its films given signal and errors,
        what the images give for them, and their dependence on these.
    """

    evidence: float
    mean: Tensor
    factor: Tensor
    films: list[tuple[Tensor, Tensor, Tensor]]

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
        dot, evidence, films, size = precision.new_zeros(len(signal), NUM_SHARED), 0.0, [], signal
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
            films.append((factor, own[:, num:], cross))
            size = error_size(view.values, additivity)
        prior = (size * signal)[:, None].expand(-1, NUM_SHARED) ** -2
        prior[:, 0] = WEAK
        factor = torch.linalg.cholesky(precision + torch.diag_embed(prior))
        mean = torch.cholesky_solve(dot[..., None], factor)[..., 0]
        evidence += 0.5 * float((dot * mean).sum()) - _log_volume(factor)
        return cls(evidence, mean, factor, films)

    def draw(self, worlds: Sequence[World], generator: torch.Generator) -> list[World]:
        """Draw signal, errors and films.

        Parameters
        ----------
        worlds : sequence of World
            Of the windows.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        list of World
            All with the same signal and errors.
        """
        values = self.mean + _noise(self.factor, generator)
        signal = values[:, 0].float()
        errors = (values[:, 1:] / values[:, :1]).float()
        found = []
        for world, (factor, own, cross) in zip(worlds, self.films, strict=True):
            mean = torch.cholesky_solve(own[..., None] - cross @ values[..., None], factor)[..., 0]
            film = (mean + _noise(factor, generator)).float()
            found.append(replace(world, signal=signal, errors=errors, film=film))
        return found


def _normal_equations(scan: Scan, view: View) -> tuple[Tensor, Tensor]:
    """Gram matrix and right-hand side of what is linear, of every detector."""
    design = torch.stack([columns_of(scan, images) for images in view.images])
    weighted = design * (1 / view.variance).flatten(1)[:, None].double()
    return weighted @ design.mT, (weighted @ scan.image.flatten(1)[..., None].double())[..., 0]


def _log_volume(factor: Tensor) -> float:
    """Half the log determinant of matrices with some Cholesky factors."""
    return float(factor.diagonal(dim1=-2, dim2=-1).log().sum())


def _noise(factor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal variables whose precisions have some Cholesky factors."""
    noise = torch.randn(*factor.shape[:-1], 1, generator=generator, dtype=torch.float64)
    return torch.linalg.solve_triangular(factor.mT, noise, upper=True)[..., 0]

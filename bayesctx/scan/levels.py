"""Signal and errors of additivity from several windows of one scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..defects import SPECIES
from .signal import NUM_FILM, WEAK, error_size
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
    mean : Tensor, shape (parameter,)
        Of the signal and the errors of all species.
    factor : Tensor, shape (parameter, parameter)
        Cholesky factor of the precision.
    films : list of tuple of Tensor
        Of every window the Cholesky factor of the precision of its film given signal and errors,
        what the image gives for it, and its dependence on them.
    """

    evidence: float
    mean: Tensor
    factor: Tensor
    films: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, seen: Iterable[tuple[Scan, View]], signal: float, additivity: float) -> Levels:
        """Sum what the windows say.

        Parameters
        ----------
        seen : iterable of tuple of Scan and View
            The windows, with the images of their columns.
        signal : float
            By which errors of additivity are scaled.
        additivity : float
            Scale of these errors.

        Returns
        -------
        Levels
            Given the rest.
        """
        precision = torch.zeros(NUM_SHARED, NUM_SHARED, dtype=torch.float64)
        dot, evidence, films, size = precision.new_zeros(NUM_SHARED), 0.0, [], 0.0
        for scan, view in seen:
            index = torch.tensor([0, *(1 + k for k in view.used)])
            gram, own = _normal_equations(scan, view)
            num = len(index)
            cross = precision.new_zeros(NUM_FILM, NUM_SHARED)
            cross[:, index] = gram[num:, :num]
            factor = torch.linalg.cholesky(gram[num:, num:] + WEAK * torch.eye(NUM_FILM))
            half = torch.linalg.solve_triangular(factor, cross, upper=False)
            given = torch.linalg.solve_triangular(factor, own[num:, None], upper=False)[:, 0]
            precision[index[:, None], index] += gram[:num, :num]
            precision -= half.mT @ half
            dot[index] += own[:num]
            dot -= half.mT @ given
            evidence += 0.5 * float(given.square().sum()) - float(factor.diagonal().log().sum())
            films.append((factor, own[num:], cross))
            size = error_size(view.values, additivity)
        prior = precision.new_full((NUM_SHARED,), (size * signal) ** -2)
        prior[0] = WEAK
        factor = torch.linalg.cholesky(precision + torch.diag(prior))
        mean = torch.cholesky_solve(dot[:, None], factor)[:, 0]
        evidence += 0.5 * float(dot @ mean) - float(factor.diagonal().log().sum())
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
        signal = float(values[0])
        errors = (values[1:] / signal).float()
        found = []
        for world, (factor, own, cross) in zip(worlds, self.films, strict=True):
            mean = torch.cholesky_solve((own - cross @ values)[:, None], factor)[:, 0]
            film = (mean + _noise(factor, generator)).float()
            found.append(replace(world, signal=signal, errors=errors, film=film))
        return found


def _normal_equations(scan: Scan, view: View) -> tuple[Tensor, Tensor]:
    """Gram matrix and right-hand side of all columns, those of each species, and film."""
    total = view.images.sum(0, keepdim=True)
    design = torch.cat([total, view.images, scan.film_columns()]).flatten(1).double()
    weighted = design * (1 / view.variance).flatten().double()
    return weighted @ design.mT, weighted @ scan.image.flatten().double()


def _noise(factor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal variable whose precision has a Cholesky factor."""
    noise = torch.randn(len(factor), 1, generator=generator, dtype=torch.float64)
    return torch.linalg.solve_triangular(factor.mT, noise, upper=True)[:, 0]

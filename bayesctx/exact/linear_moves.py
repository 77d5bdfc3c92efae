"""Transitions of signal, film and errors of additivity, in which an image is linear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..scan import Scan, World
from ..scan.dose import log_prior_of_signal, precision_of_dose
from ..scan.signal import accepts, error_size, regress_species
from ..scan.view import View
from .target import Target, chance
from .tuning import Tuning

__all__ = ["Linear", "draw_linear", "signal_around"]

TIMES = 3  # expansions of what is not quite linear in the signal, each around the one before
LEAST_SIGNAL = 1e-6  # for a finite logarithm
STEP_OF_SIGNAL = 0.003  # relative, for derivatives of the prior of the dose


@dataclass(frozen=True, eq=False)
class Linear:
    """A normal law of signal, film and errors of additivity, which does not depend on these.

    Attributes
    ----------
    used : list of int
        Species that occur.
    mean : Tensor, shape (detector, parameter)
        Signal, errors times the signal, film; in double precision.
    factor : Tensor, shape (detector, parameter, parameter)
        Cholesky factors of the precision.
    size : Tensor, shape (detector, 1)
        Standard deviation of the errors of species that do not occur.
    """

    used: list[int]
    mean: Tensor
    factor: Tensor
    size: Tensor

    @classmethod
    def of(cls, scan: Scan, world: World, view: View, tuning: Tuning) -> Linear:
        """The law at a world.

        Parameters
        ----------
        scan : Scan
            The scan.
        world : World
            Its signal, film and errors do not count.
        view : View
            See ``Tuning.see``.
        tuning : Tuning
            What it begins with.

        Returns
        -------
        Linear
            Nearly that of the target, see ``Tuning.pixels_around``.
        """
        signal, image, variance = tuning.signal, scan.image, view.variance
        for k in range(TIMES):
            given = replace(world, signal=signal)
            seen = replace(scan, image=image)
            found = regress_species(seen, given, view.values, view.images, variance)
            image, variance = tuning.pixels_around(scan, world, found.expected)
            mean, factor = found.mean, found.factor
            if k:
                mean, factor = _with_prior(scan, given, view, mean, factor)
            signal = mean[:, 0].float().clamp(min=LEAST_SIGNAL)
        size = error_size(view.values, world.additivity)[:, None]
        return cls(view.used, mean, factor, size)

    def draw(self, world: World, generator: torch.Generator) -> World:
        """Draw from the law.

        Parameters
        ----------
        world : World
            The rest.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        World
            With another signal, film and errors.
        """
        shape, double = self.mean.shape, torch.float64
        noise = torch.randn(*shape, 1, generator=generator, dtype=double)
        values = torch.linalg.solve_triangular(self.factor.mT, noise, upper=True)[..., 0]
        values, last = self.mean + values, 1 + len(self.used)
        errors = torch.randn(world.errors.shape, generator=generator, dtype=double) * self.size
        errors[:, self.used] = values[:, 1:last] / values[:, :1]
        signal, film = values[:, 0].float(), values[:, last:].float()
        return replace(world, signal=signal, film=film, errors=errors.float())

    def log_prob(self, world: World) -> float:
        """Log density of signal, film and errors, up to a constant.

        Parameters
        ----------
        world : World
            With these.

        Returns
        -------
        float
            With respect to the errors themselves.
        """
        signal, errors = world.signal.double()[:, None], world.errors.double()
        values = torch.cat([signal, signal * errors[:, self.used], world.film.double()], -1)
        square = ((values - self.mean)[:, None] @ self.factor).square().sum()
        volume = self.factor.diagonal(dim1=-2, dim2=-1).log().sum()
        volume = volume + len(self.used) * signal.abs().log().sum()
        other = errors / self.size
        other[:, self.used] = 0.0
        num = errors.shape[1] - len(self.used)
        scale = 0.5 * other.square().sum() + num * self.size.log().sum()
        return float(volume - 0.5 * square - scale)


def signal_around(scan: Scan, world: World, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Prior around the signal of a world.

    Parameters
    ----------
    scan : Scan
        Gives the prior.
    world : World
        Gives signal and noise.
    values : mapping of str to Tensor
        The shared variables.

    Returns
    -------
    rise : Tensor, shape (detector,)
        Derivatives of its logarithm in the logarithms of the signals; zero where not finite.
    precision : Tensor, shape (detector, detector)
        Negative second derivatives, without negative eigenvalues. Both in double precision.
    """

    def log_prior(k: int, step: float) -> float:
        signal = world.signal.clone()
        signal[k] *= math.exp(step)
        return float(log_prior_of_signal(scan, signal, world.slope, values))

    each = range(len(world.signal))
    rise = [log_prior(k, STEP_OF_SIGNAL) - log_prior(k, -STEP_OF_SIGNAL) for k in each]
    rise = torch.tensor(rise, dtype=torch.float64).nan_to_num(0.0, 0.0, 0.0) / (2 * STEP_OF_SIGNAL)
    return rise, precision_of_dose(scan, world.signal, world.slope, values)


def _with_prior(
    scan: Scan, world: World, view: View, mean: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Law with the prior of the signal, to second order in the logarithm of each signal."""
    rise, known = signal_around(scan, world, view.values)
    precision, signal, known = factor @ factor.mT, world.signal.double(), known.diagonal()
    pull = (precision @ mean[..., None])[..., 0]
    precision[:, 0, 0] += known / signal**2
    pull[:, 0] += (rise + known) / signal
    factor = torch.linalg.cholesky(precision)
    return torch.cholesky_solve(pull[..., None], factor)[..., 0], factor


def draw_linear(
    scan: Scan,
    world: World,
    shared: tuple,
    target: Target,
    tuning: Tuning,
    generator: torch.Generator,
) -> tuple[World, float]:
    """Draw signal, film and errors of additivity by an independence step.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The rest.
    shared : tuple
        ``spectra_of`` its coordinates.
    target : Target
        What stays invariant.
    tuning : Tuning
        What proposals are made by.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world : World
        With new values, or as it was.
    rate : float
        Probability with which the proposal is taken.
    """
    law = Linear.of(scan, world, tuning.see(scan, world, shared), tuning)
    there = law.draw(world, generator)
    log_ratio = target.log_density(scan, there, shared) - target.log_density(scan, world, shared)
    log_ratio += law.log_prob(world) - law.log_prob(there)
    return (there if accepts(log_ratio, generator) else world), chance(log_ratio)

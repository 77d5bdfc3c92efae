"""Candidates of a scan, what they weigh, and where chains of them begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .world import Scan, World

__all__ = ["Candidate", "Start", "Weight"]


@dataclass(frozen=True)
class Weight:
    """How well a candidate explains the middle of an image.

    Attributes
    ----------
    log_density : float
        At the best fit, see ``fits.log_density``.
    log_volume : float
        Log of the volume of the posterior of the shared variables around the fit, in units of the
        prior, by Laplace's approximation.
    values : dict of str to float or list of float
        The shared variables at the best fit, angles of each detector.
    dose : float
        Electrons per Å² that signal and noise of the best fit imply, to which fits are blind.
    dose_spread : float
        Relative standard deviation of it, as far as shared variables that are not known make it: of
        an open beam energy and open angles the absolute intensity is hardly known.
    scan, world : Scan, World, optional
        The middle of the image, and the best fit of it.
    assignment : int
        Of the sublattices at the best fit, as whoever lists the candidates counts them.
    """

    log_density: float
    log_volume: float
    values: dict[str, float | list[float]] = field(default_factory=dict)
    dose: float = math.nan
    dose_spread: float = 0.0
    scan: Scan | None = None
    world: World | None = None
    assignment: int = -1

    @property
    def log_evidence(self) -> float:
        """Log evidence of the candidate."""
        return self.log_density + self.log_volume


@dataclass(frozen=True, eq=False)
class Start:
    """A fitted world of one of several candidates.

    Attributes
    ----------
    candidate : int
        Its position.
    scan : Scan
        That of the candidate, with the dopant that fits best.
    world : World
        Fitted to the whole image.
    log_density : float
        See ``fits.log_density``.
    weight : Weight
        By the middle of the image.
    """

    candidate: int
    scan: Scan
    world: World
    log_density: float
    weight: Weight = Weight(math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A lattice and a host that may be behind a scan.

    Attributes
    ----------
    scan : Scan
        With one of the dopants.
    dopants : tuple of int
        Metals that may be the dopant.
    log_prior : float
        Log prior probability.
    log_hint : float
        Log probability of the lattice among those of its host by another reading of the image. It
        counts where candidates are compared, whose evidence by the pixels has a large error.
    points : Tensor, shape (point, coordinate), optional
        Where the shared variables may be.
    species : Tensor of int, shape (site,), optional
        What the sites may hold; otherwise a search begins at a perfect crystal only.
    near : sequence of Weight
        Of other contexts: a search also begins at their fits of the same sites.
    """

    scan: Scan
    dopants: tuple[int, ...]
    log_prior: float = 0.0
    log_hint: float = 0.0
    points: Tensor | None = None
    species: Tensor | None = None
    near: Sequence[Weight] = ()

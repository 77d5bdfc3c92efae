"""Candidates of a scan that may be, compared by their evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import softmax
from torch import Tensor

from ..parallel import side_by_side, single_threads
from .fits import anneal, follow_partners, log_density
from .noise import correlation_of_residuals
from .search import find_starts, log_volume, weigh_middles
from .starts import Candidate, Start, Weight
from .view import look
from .windows import crop
from .world import World

__all__ = ["Contender", "Fitted", "compare", "derived", "fit_scan", "weigh_scan"]

# sites of the largest scan that is sampled whole, and of the window of a larger one by which its
# shared variables are sampled
MOST_SITES, IN_WINDOW = 1000, 400
UNCLEAR = 7.5  # errors below the best candidate, up to which candidates are compared with more care
ANNEALED = 1  # worlds of each of these, beside that of the search
# nats, standard deviation of the log evidence of a candidate that describes the image: fits that
# began at different worlds of it end so far apart, on two images of 160 x 160 px (1e4 and 1e5 e/Å²)
ERROR = 8.0


@dataclass(frozen=True, eq=False)
class Fitted:
    """Worlds that were fitted to a scan.

    Attributes
    ----------
    candidates : sequence of Candidate
        Together all that may be.
    starts : sequence of Start
        Of those that may be, for the window by which the shared variables are sampled.
    """

    candidates: Sequence[Candidate]
    starts: Sequence[Start]

    @property
    def weights(self) -> dict[int, Weight]:
        """See ``weigh_scan``."""
        return {start.candidate: start.weight for start in self.starts}

    @property
    def correlation(self) -> Tensor:
        """Of the residuals of the best fit, see ``correlation_of_residuals``."""
        best = self.starts[0]
        return correlation_of_residuals(best.scan, look(best.scan, best.world))


@dataclass(frozen=True, eq=False)
class Contender:
    """A candidate that may be, with its modes.

    Attributes
    ----------
    start : Start
        Of the search.
    modes : list of tuple of float and World
        Log density and world of the modes that give nearly the same image.
    log_evidence : float
        Of the best mode, with the volume of its shared variables.
    """

    start: Start
    modes: list[tuple[float, World]]
    log_evidence: float

    @property
    def best(self) -> tuple[float, World]:
        """The mode of the largest log density."""
        return _best(self.modes)


def fit_scan(candidates: Sequence[Candidate], *, seed: int) -> Fitted:
    """Fit worlds of the candidates.

    Parameters
    ----------
    candidates : sequence of Candidate
        Together all that may be.
    seed : int
        Of everything random.

    Returns
    -------
    Fitted
        With a start for those that are not far from the best one.
    """
    with single_threads() as num_workers:
        return Fitted(candidates, find_starts(_windows(candidates), seed, num_workers))


def weigh_scan(candidates: Sequence[Candidate], *, seed: int) -> dict[int, Weight]:
    """Weigh candidates without drawing worlds.

    Parameters
    ----------
    candidates : sequence of Candidate
        Together all that may be.
    seed : int
        Of everything random.

    Returns
    -------
    dict of int to Weight
        Of the middle of the scan, by the position of the candidate, of those that are not far from
        the best one.
    """
    with single_threads() as num_workers:
        return dict(weigh_middles(_windows(candidates), seed, num_workers))


def compare(
    fitted: Fitted, misfit: float, seed: int, num_workers: int
) -> tuple[list[Contender], np.ndarray]:
    """Compare candidates by their evidence.

    Parameters
    ----------
    fitted : Fitted
        Where to begin.
    misfit : float
        Nats by which the image is explained worse than it could be: the log evidence of a candidate
        has an error of this size beside ``ERROR``.
    seed : int
        Of everything random.
    num_workers : int
        Workers that may be used, see ``parallel.side_by_side``.

    Returns
    -------
    contenders : list of Contender
        Of the candidates that may be.
    probability : ndarray, shape (candidate,)
        Of all candidates, averaged over errors of their log evidence.
    """
    error, candidates = math.hypot(ERROR, misfit), fitted.candidates
    value = [s.log_density + candidates[s.candidate].log_prior for s in fitted.starts]
    least = max(value) - UNCLEAR * error
    unclear = [s for s, v in zip(fitted.starts, value, strict=True) if v > least]
    num_annealed = ANNEALED if len(unclear) > 1 else 0
    contenders = [
        _contend(start, num_annealed, derived(seed, start.candidate), num_workers)
        for start in unclear
    ]
    return contenders, _probabilities(contenders, candidates, error)


def derived(seed: int, *path: int) -> int:
    """Another seed for a part of the work.

    Parameters
    ----------
    seed : int
        Of all of it.
    *path : int
        Which part.

    Returns
    -------
    int
        Independent of those of other parts.
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> 1)


def _contend(start: Start, num_annealed: int, seed: int, num_workers: int) -> Contender:
    """Modes of a candidate, those of the best of several worlds, and their evidence.

    The best of several fits is closer to the mode of a candidate than the first is.
    """
    scan = start.scan
    modes = follow_partners(scan, start.world, num_workers)
    value, world = _best(modes)
    seeds = [derived(seed, k) for k in range(num_annealed)]
    cooled = side_by_side(partial(anneal, scan, world), seeds, num_workers)
    annealed = [(log_density(scan, w, look(scan, w)), w) for w in cooled]
    if annealed and _best(annealed)[0] > value:
        modes = follow_partners(scan, _best(annealed)[1], num_workers)
        value, world = _best(modes)
    return Contender(start, modes, value + log_volume(scan, world))


def _best(modes: Sequence[tuple[float, World]]) -> tuple[float, World]:
    """The mode of the largest log density."""
    return max(modes, key=lambda mode: mode[0])


def _probabilities(
    contenders: Sequence[Contender], candidates: Sequence[Candidate], error: float
) -> np.ndarray:
    """Probabilities of the candidates, averaged over errors of their log evidence.

    The average of a softmax over independent Gaussian errors is nearly the softmax of smaller
    differences (MacKay, Neural Computation 4, 720 (1992), doi:10.1162/neco.1992.4.5.720).

    What patches say of an assignment is taken as its prior: their reading has no such error, and
    what is left of the evidence within its error is not the same information twice.
    """
    scale = math.sqrt(1 + math.pi / 8 * 2 * error**2)
    log_weight = np.full(len(candidates), -np.inf)
    for contender in contenders:
        candidate = candidates[contender.start.candidate]
        log_prior = candidate.log_prior + candidate.log_hint
        log_weight[contender.start.candidate] = contender.log_evidence / scale + log_prior
    return softmax(log_weight)


def _windows(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates for a window of a large scan; the same candidates for another one."""
    scan = candidates[0].scan
    num_sites = int(scan.inside.sum())
    if num_sites <= MOST_SITES:
        return list(candidates)
    size = math.ceil(math.sqrt(math.prod(scan.field.shape) * IN_WINDOW / num_sites))
    found = []
    for candidate in candidates:
        window, kept = crop(candidate.scan, size)
        species = None if candidate.species is None else candidate.species[kept]
        found.append(replace(candidate, scan=window, species=species))
    return found

"""Chains over the worlds behind a scan: several lattices and hosts, several modes of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import softmax

from .chain import Draw, Mode, depart, explore_mode, sample_worlds
from .fits import anneal, follow_partners, log_density
from .mosaic import Mosaic, cover, spread
from .moves import linearise_jointly
from .search import Candidate, Start, find_starts
from .threads import side_by_side, single_threads
from .windows import crop, tile
from .world import Scan, World, look

__all__ = ["sample_scan"]

NEGLIGIBLE = 1e-3  # probability of a candidate that is not sampled
WARMUP = 4  # draws of every chain at every mode that are left out
# sites of the largest scan that is sampled whole, and of the window of a larger one by which its
# shared variables are sampled
MOST_SITES, IN_WINDOW = 1000, 400
REMOTE = 20.0  # nats below the best of modes of nearly one image that are not looked at
UNCLEAR = 60.0  # nats below the best candidate, up to which candidates are compared with more care
ANNEALED = 2  # worlds of each of these
# nats, standard deviation of the log evidence of a candidate: fits that began at different worlds
# of one candidate end roughly so far apart, on two images of 160 x 160 px (1e4 and 1e5 e/Å²)
ERROR = 8.0


@dataclass(frozen=True, eq=False)
class _Contender:
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


def sample_scan(
    candidates: Sequence[Candidate],
    *,
    num_chains: int,
    num_draws: int,
    seed: int,
    every: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> tuple[list[list[tuple[int, Draw]]], np.ndarray]:
    """Draw worlds.

    Parameters
    ----------
    candidates : sequence of Candidate
        Together all that may be.
    num_chains, num_draws : int
        Chains, and draws of each.
    seed : int
        Of everything random.
    every : int
        Rounds over all variables for each draw.
    tick : callable
        Called after every draw.

    Returns
    -------
    draws : list of list of tuple of int and Draw
        Of every chain the position of the candidate and the draw.
    probability : ndarray, shape (candidate,)
        Of the candidates, from the density at their modes.

    Notes
    -----
    A chain holds draws of every candidate, and of every partner mode of a candidate, in proportion
    to their probabilities by Laplace's approximation: it does not move from one to another, so that
    r-hat says nothing of these proportions. Candidates below ``NEGLIGIBLE`` and partner modes
    ``REMOTE`` nats below the best one are left out. The evidence of a candidate is known with the
    error ``ERROR``, over which its probability is averaged, see ``_probabilities``.

    The shared variables of a scan of more than ``MOST_SITES`` sites are those of a window of some
    ``IN_WINDOW``, in its middle or where most pixels are valid; all else is drawn given all pixels,
    see ``mosaic.spread``.

    Chains run side by side in as many threads as torch is set to use, each with random numbers of
    its own.
    """
    with single_threads() as num_threads:
        windows = [_window(candidate) for candidate in candidates]
        starts = find_starts(windows, seed, num_threads)
        contenders = _compare(windows, starts, seed, num_threads)
        probability = _probabilities(contenders, candidates)
        sampled = np.where(probability > NEGLIGIBLE, probability, 0.0)
        numbers = _apportion(num_draws, sampled / sampled.sum())
        chains = [[] for _ in range(num_chains)]
        for contender in contenders:
            index = contender.start.candidate
            if not numbers[index]:
                continue
            given = candidates[index], contender, num_chains, numbers[index], every
            found = _sample_candidate(*given, derived(seed, index), num_threads, tick)
            for chain, own in zip(chains, found, strict=True):
                chain += [(index, draw) for draw in own]
    return chains, probability


def _window(candidate: Candidate) -> Candidate:
    """A candidate for a window of a large scan; the same candidate for another one."""
    scan, species = candidate.scan, candidate.species
    num_sites = int(scan.inside.sum())
    if num_sites <= MOST_SITES:
        return candidate
    size = math.ceil(math.sqrt(math.prod(scan.field.shape) * IN_WINDOW / num_sites))
    window, kept = crop(scan, size)
    return replace(candidate, scan=window, species=None if species is None else species[kept])


def _compare(
    candidates: Sequence[Candidate], starts: Sequence[Start], seed: int, num_threads: int
) -> list[_Contender]:
    """Modes and evidence of the candidates that may be."""
    value = [start.log_density + candidates[start.candidate].log_prior for start in starts]
    unclear = [s for s, v in zip(starts, value, strict=True) if v > max(value) - UNCLEAR]
    num_annealed = ANNEALED if len(unclear) > 1 else 0
    return [
        _contend(start, num_annealed, derived(seed, start.candidate), num_threads)
        for start in unclear
    ]


def _contend(start: Start, num_annealed: int, seed: int, num_threads: int) -> _Contender:
    """Modes of a candidate, those of the best of several worlds, and their evidence.

    The best of several fits is closer to the mode of a candidate than the first is.
    """
    scan = start.scan
    modes = follow_partners(scan, start.world, num_threads)
    value, world = _best(modes)
    seeds = [derived(seed, k) for k in range(num_annealed)]
    cooled = side_by_side(partial(anneal, scan, world), seeds, num_threads)
    annealed = [(log_density(scan, w, look(scan, w)), w) for w in cooled]
    if annealed and _best(annealed)[0] > value:
        modes = follow_partners(scan, _best(annealed)[1], num_threads)
        value, world = _best(modes)
    # the density of a fit knows nothing of the dose, so that its volume must not either
    blind = replace(scan, log_dose=None)
    volume = linearise_jointly(blind, world, look(blind, world)).log_volume
    return _Contender(start, modes, value + volume)


def _best(modes: Sequence[tuple[float, World]]) -> tuple[float, World]:
    """The mode of the largest log density."""
    return max(modes, key=lambda mode: mode[0])


def _probabilities(contenders: Sequence[_Contender], candidates: Sequence[Candidate]) -> np.ndarray:
    """Probabilities of the candidates, averaged over errors of their log evidence.

    The average of a softmax over independent Gaussian errors is nearly the softmax of smaller
    differences (MacKay, Neural Computation 4, 720 (1992), doi:10.1162/neco.1992.4.5.720).
    """
    scale = math.sqrt(1 + math.pi / 8 * 2 * ERROR**2)
    log_weight = np.full(len(candidates), -np.inf)
    for contender in contenders:
        log_prior = candidates[contender.start.candidate].log_prior
        log_weight[contender.start.candidate] = contender.log_evidence / scale + log_prior
    return softmax(log_weight)


def _sample_candidate(
    candidate: Candidate,
    contender: _Contender,
    num_chains: int,
    num_draws: int,
    every: int,
    seed: int,
    num_threads: int,
    tick: Callable[[], object],
) -> list[list[Draw]]:
    """Chains of one candidate, each with the modes of nearly one image in turn."""
    scan, best = contender.start.scan, _best(contender.modes)[0]
    near = [(value, world) for value, world in contender.modes if value > best - REMOTE]
    numbered = range(len(near))
    modes = side_by_side(
        lambda k: explore_mode(scan, near[k][1], derived(seed, 0, k)), numbered, num_threads
    )
    # Laplace's approximation of what each mode holds
    volume = [m.near.log_volume for m in modes]
    weight = softmax([value + v for (value, _), v in zip(near, volume, strict=True)])
    numbers = _apportion(num_draws, weight)
    mosaics = _cover_modes(candidate, scan, modes, numbers, seed, num_threads)

    def draw(k: int) -> list[Draw]:
        segments = []
        for m, mode in enumerate(modes):
            segments.append([])
            if not numbers[m]:
                continue
            begun = depart(scan, mode, derived(seed, k + 1, m, 0))
            own_seed = derived(seed, k + 1, m, 1)
            draws = sample_worlds(scan, begun, own_seed, candidate.dopants, WARMUP)
            draws = itertools.islice(draws, every - 1, every * numbers[m], every)
            if m in mosaics:
                draws = spread(mosaics[m], draws, derived(seed, k + 1, m, 2), candidate.dopants)
            for found in draws:
                segments[-1].append(found)
                tick()
        return _interleave(segments)

    return side_by_side(draw, range(num_chains), num_threads)


def _cover_modes(
    candidate: Candidate,
    scan: Scan,
    modes: Sequence[Mode],
    numbers: Sequence[int],
    seed: int,
    num_threads: int,
) -> dict[int, Mosaic]:
    """Worlds of a large scan at the modes of a window of it that are sampled."""
    whole = replace(candidate.scan, material=scan.material)
    if scan.field.shape == whole.field.shape:
        return {}
    tiles, sampled = tile(whole), [m for m, number in enumerate(numbers) if number]

    def begin(m: int) -> Mosaic:
        return cover(whole, tiles, modes[m].world, derived(seed, 0, m, 1), candidate.species)

    return dict(zip(sampled, side_by_side(begin, sampled, num_threads), strict=True))


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


def _apportion(num: int, weight: np.ndarray) -> list[int]:
    """Whole numbers in proportion to some weights, with a given sum."""
    edges = np.round(num * np.concatenate([[0.0], np.cumsum(weight)]))
    return np.diff(edges).astype(int).tolist()


def _interleave(segments: Sequence[Sequence[Draw]]) -> list[Draw]:
    """Draws of several modes in one chain, each spread evenly over it."""
    placed = [
        ((i + 0.5) / len(segment), draw) for segment in segments for i, draw in enumerate(segment)
    ]
    return [draw for _, draw in sorted(placed, key=lambda pair: pair[0])]

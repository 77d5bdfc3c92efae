"""Chains over the worlds behind a scan: several lattices and hosts, several modes of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import softmax

from .chain import Draw, explore_mode, sample_worlds
from .fits import follow_partners
from .search import Candidate, Start, find_starts
from .threads import side_by_side, single_threads

__all__ = ["sample_scan"]

NEGLIGIBLE = 1e-3  # probability of a candidate that is not sampled
WARMUP = 2  # draws of every chain at every mode that are left out
REMOTE = 20.0  # nats below the best of modes of nearly one image that are not looked at


def sample_scan(
    candidates: Sequence[Candidate],
    *,
    num_chains: int,
    num_draws: int,
    seed: int,
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
    ``REMOTE`` nats below the best one are left out.

    Chains run side by side in as many threads as torch is set to use, each with random numbers of
    its own.
    """
    with single_threads() as num_threads:
        starts = find_starts(candidates, seed, num_threads)
        log_density = np.full(len(candidates), -np.inf)
        for start in starts:
            log_density[start.candidate] = start.log_density + candidates[start.candidate].log_prior
        probability = softmax(log_density)
        sampled = np.where(probability > NEGLIGIBLE, probability, 0.0)
        numbers = _apportion(num_draws, sampled / sampled.sum())
        chains = [[] for _ in range(num_chains)]
        for start in starts:
            if not numbers[start.candidate]:
                continue
            given = candidates[start.candidate], start, num_chains, numbers[start.candidate]
            own_seed = derived(seed, start.candidate)
            found = _sample_candidate(*given, own_seed, num_threads, tick)
            for chain, own in zip(chains, found, strict=True):
                chain += [(start.candidate, draw) for draw in own]
    return chains, probability


def _sample_candidate(
    candidate: Candidate,
    start: Start,
    num_chains: int,
    num_draws: int,
    seed: int,
    num_threads: int,
    tick: Callable[[], object],
) -> list[list[Draw]]:
    """Chains of one candidate, each with the modes of nearly one image in turn."""
    scan = start.scan
    partners = follow_partners(scan, start.world, num_threads)
    best = max(value for value, _ in partners)
    near = [(value, world) for value, world in partners if value > best - REMOTE]
    numbered = range(len(near))
    modes = side_by_side(
        lambda k: explore_mode(scan, near[k][1], derived(seed, 0, k)), numbered, num_threads
    )
    # Laplace's approximation of what each mode holds
    volume = [m.near.log_volume for m in modes]
    weight = softmax([value + v for (value, _), v in zip(near, volume, strict=True)])
    numbers = _apportion(num_draws, weight)

    def draw(k: int) -> list[Draw]:
        segments = []
        for m, mode in enumerate(modes):
            begun = sample_worlds(scan, mode, derived(seed, k + 1, m), candidate.dopants, WARMUP)
            segments.append([])
            for found in itertools.islice(begun, numbers[m]):
                segments[-1].append(found)
                tick()
        return _interleave(segments)

    return side_by_side(draw, range(num_chains), num_threads)


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

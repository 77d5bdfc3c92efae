"""Chains over the worlds behind a scan: several lattices and hosts, several modes of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import softmax

from ..parallel import side_by_side, single_threads
from .chain import Draw, Mode, depart, explore_mode, sample_worlds
from .contenders import Contender, Fitted, compare, derived
from .doubt import doubted
from .mosaic import Mosaic, cover, spread
from .starts import Candidate
from .windows import tile
from .world import Scan, World

__all__ = ["Sampled", "sample_scan"]

NEGLIGIBLE = 1e-3  # probability of a candidate that is not sampled
WARMUP = 3  # draws of every chain at every mode that are left out, beside those that fit its steps
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly between whole numbers
REACHED = 0.03  # probability of a jump, above which modes are sampled as one
REMOTE = 12.0  # nats below the best of modes of nearly one image that are not looked at
MARGIN = 1.15  # of the band limit around modes, at which their angles and energies vary


@dataclass(frozen=True, eq=False)
class Sampled:
    """Worlds behind a scan.

    Attributes
    ----------
    chains : list of list of tuple of int and Draw
        Of every chain the position of the candidate and the draw.
    probability : ndarray, shape (candidate,)
        Of the candidates, from the density at their modes.
    """

    chains: list[list[tuple[int, Draw]]]
    probability: np.ndarray


def sample_scan(
    fitted: Fitted,
    *,
    misfit: float = 0.0,
    num_chains: int,
    num_draws: int,
    seed: int,
    every: int = 1,
    tick: Callable[[], object] = lambda: None,
    sample: Callable[..., Iterator[Draw]] = sample_worlds,
    jumps: bool = True,
) -> Sampled:
    """Draw worlds.

    Parameters
    ----------
    fitted : Fitted
        Where to begin.
    misfit : float
        In nats, see ``contenders.compare``.
    num_chains, num_draws : int
        Chains, and draws of each.
    seed : int
        Of everything random.
    every : int
        Rounds over all variables for each draw.
    tick : callable
        Called after every draw.
    sample : callable
        Draws worlds of a chain, with the arguments of ``chain.sample_worlds``.
    jumps : bool
        Whether these chains jump to partner modes; otherwise all of these are sampled apart.

    Returns
    -------
    Sampled
        Draws, and probabilities of the candidates.

    Notes
    -----
    Chains hold draws of every candidate, and of every partner mode of a candidate that jumps do not
    reach, in proportion to their probabilities by Laplace's approximation: a chain hardly moves
    from one to another, so that r-hat says nothing of these proportions. Candidates below
    ``NEGLIGIBLE`` and partner modes ``REMOTE`` nats below the best one are left out.

    The shared variables of a scan of many sites are those of the window by which it was fitted, in
    its middle or where most pixels are valid; all else is drawn given all pixels,
    see ``mosaic.spread``.

    Chains run side by side in as many processes as torch is set to use threads, each with random
    numbers of its own.
    """
    with single_threads() as num_workers:
        contenders, probability = compare(fitted, misfit, seed, num_workers)
        sampled = np.where(probability > NEGLIGIBLE, probability, 0.0)
        # with few draws not every chain has one of every candidate, but together they do
        numbers = np.array([
            _apportion(num_draws, sampled / sampled.sum(), (k + 0.5) / num_chains)
            for k in range(num_chains)
        ])  # fmt: skip
        chains = [[] for _ in range(num_chains)]
        for contender in contenders:
            index = contender.start.candidate
            if not numbers[:, index].any():
                continue
            given = fitted.candidates[index], contender, numbers[:, index].tolist(), every
            found = _sample_candidate(
                *given, derived(seed, index), num_workers, tick, sample, jumps
            )
            whole, generator = given[0].scan, torch.Generator().manual_seed(derived(seed, index))
            for chain, own in zip(chains, found, strict=True):
                chain += [(index, doubted(whole, draw, generator)) for draw in own]
    return Sampled(chains, probability)


def _sample_candidate(
    candidate: Candidate,
    contender: Contender,
    num_draws: Sequence[int],
    every: int,
    seed: int,
    num_workers: int,
    tick: Callable[[], object],
    sample: Callable[..., Iterator[Draw]] = sample_worlds,
    jumps: bool = True,
) -> list[list[Draw]]:
    """Chains of one candidate, of some lengths, with the modes of nearly one image in turn."""
    best = contender.best[0]
    near = {k: mode for k, mode in enumerate(contender.modes) if mode[0] > best - REMOTE}
    scan, whole = (_limited(s, list(near.values())) for s in (contender.start.scan, candidate.scan))
    candidate = replace(candidate, scan=whole)
    modes, log_weight = _explore_modes(scan, near, derived(seed, 0), jumps, num_workers)
    weight = softmax(log_weight)
    numbers = np.array([
        _apportion(num, weight, k * GOLDEN % 1) for k, num in enumerate(num_draws, 1)
    ])  # fmt: skip
    sampled = numbers.any(0).nonzero()[0].tolist()
    mosaics = _cover_modes(candidate, scan, modes, sampled, seed, num_workers)

    def draw(k: int, tick: Callable[[], object]) -> list[Draw]:
        segments = []
        for m in numbers[k].nonzero()[0].tolist():
            segments.append([])
            begun = depart(scan, modes[m], derived(seed, k + 1, m, 0))
            own_seed = derived(seed, k + 1, m, 1)
            draws = sample(scan, begun, own_seed, candidate.dopants, WARMUP)
            draws = itertools.islice(draws, every - 1, every * numbers[k, m], every)
            if m in mosaics:
                draws = spread(mosaics[m], draws, derived(seed, k + 1, m, 2), candidate.dopants)
            for found in draws:
                segments[-1].append(found)
                tick()
        return _interleave(segments)

    return side_by_side(draw, range(len(num_draws)), num_workers, tick)


def _explore_modes(
    scan: Scan, near: dict[int, tuple[float, World]], seed: int, jumps: bool, num_workers: int = 1
) -> tuple[list[Mode], list[float]]:
    """Explore modes by their position in ``follow_partners``, the best first; with log weights.

    One that a chain reaches from another by jumps is not explored: its weight is that of the other.
    Which jumps lead where is that of the best mode.
    """

    def explore(k: int) -> Mode:
        return explore_mode(scan, near[k][1], derived(seed, k))

    best, *others = sorted(near, key=lambda k: -near[k][0])
    first = explore(best)
    held = {best: [near[best][0]]}
    for k in others:
        # a partner of a partner is the one whose position has the bits in which both differ
        ways = {m: first.reached[(k ^ m) - 1] for m in held} if jumps else {}
        nearest = max(ways, key=ways.get, default=k)
        home = nearest if ways.get(nearest, 0.0) > REACHED else k
        held.setdefault(home, []).append(near[k][0])
    modes = [first, *side_by_side(explore, [k for k in held if k != best], num_workers)]
    # Laplace's approximation
    pairs = zip(modes, held.values(), strict=True)
    return modes, [float(np.logaddexp.reduce(v)) + mode.log_volume for mode, v in pairs]


def _limited(scan: Scan, modes: Sequence[tuple[float, World]]) -> Scan:
    """A scan whose band limit is that of some modes instead of that of all that may be."""
    values = scan.coordinates.values(torch.stack([world.z for _, world in modes]))
    return replace(scan, field=scan.field.limited(values, MARGIN))


def _cover_modes(
    candidate: Candidate,
    scan: Scan,
    modes: Sequence[Mode],
    sampled: Sequence[int],
    seed: int,
    num_workers: int,
) -> dict[int, Mosaic]:
    """Worlds of a large scan at some modes of a window of it."""
    whole = replace(candidate.scan, material=scan.material)
    if scan.field.shape == whole.field.shape:
        return {}
    tiles = tile(whole)

    def begin(m: int) -> Mosaic:
        given = whole, tiles, modes[m].world, derived(seed, 0, m, 1)
        return cover(*given, candidate.species, candidate.dopants)

    return dict(zip(sampled, side_by_side(begin, sampled, num_workers), strict=True))


def _apportion(num: int, weight: np.ndarray, offset: float = 0.5) -> list[int]:
    """Whole numbers in proportion to some weights, with a given sum; an offset rounds the sums."""
    share = np.cumsum(weight) / np.sum(weight)
    edges = np.floor(num * np.append(0.0, share) + offset)
    return np.diff(edges).astype(int).tolist()


def _interleave(segments: Sequence[Sequence[Draw]]) -> list[Draw]:
    """Draws of several modes in one chain, each spread evenly over it."""
    placed = [
        ((i + 0.5) / len(segment), draw) for segment in segments for i, draw in enumerate(segment)
    ]
    return [draw for _, draw in sorted(placed, key=lambda pair: pair[0])]

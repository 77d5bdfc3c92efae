"""Chains over the worlds behind a scan: several lattices and hosts, several modes of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.special import softmax

from ..parallel import side_by_side, single_threads
from .chain import Draw, Mode, depart, explore_mode, sample_worlds
from .fits import anneal, follow_partners, log_density
from .mosaic import Mosaic, cover, spread
from .search import Candidate, Start, Weight, find_starts, log_volume, weigh_middles
from .view import look
from .windows import crop, tile
from .world import Scan, World

__all__ = ["Sampled", "sample_scan", "weigh_scan"]

NEGLIGIBLE = 1e-3  # probability of a candidate that is not sampled
WARMUP = 6  # draws of every chain at every mode that are left out
# sites of the largest scan that is sampled whole, and of the window of a larger one by which its
# shared variables are sampled
MOST_SITES, IN_WINDOW = 1000, 400
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly between whole numbers
REACHED = 0.03  # probability of a jump, above which modes are sampled as one
REMOTE = 12.0  # nats below the best of modes of nearly one image that are not looked at
MARGIN = 1.15  # of the band limit around modes, at which their angles and energies vary
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


@dataclass(frozen=True, eq=False)
class Sampled:
    """Worlds behind a scan.

    Attributes
    ----------
    chains : list of list of tuple of int and Draw
        Of every chain the position of the candidate and the draw.
    probability : ndarray, shape (candidate,)
        Of the candidates, from the density at their modes.
    weights : dict of int to Weight
        See ``weigh_scan``.
    """

    chains: list[list[tuple[int, Draw]]]
    probability: np.ndarray
    weights: dict[int, Weight]


def sample_scan(
    candidates: Sequence[Candidate],
    *,
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
    ``NEGLIGIBLE`` and partner modes ``REMOTE`` nats below the best one are left out. The evidence
    of a candidate is known with the error ``ERROR``, over which its probability is averaged, see
    ``_probabilities``.

    The shared variables of a scan of more than ``MOST_SITES`` sites are those of a window of some
    ``IN_WINDOW``, in its middle or where most pixels are valid; all else is drawn given all pixels,
    see ``mosaic.spread``.

    Chains run side by side in as many processes as torch is set to use threads, each with random
    numbers of its own.
    """
    with single_threads() as num_workers:
        windows = _windows(candidates)
        starts = find_starts(windows, seed, num_workers)
        contenders = _compare(windows, starts, seed, num_workers)
        probability = _probabilities(contenders, candidates)
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
            given = candidates[index], contender, numbers[:, index].tolist(), every
            found = _sample_candidate(
                *given, derived(seed, index), num_workers, tick, sample, jumps
            )
            for chain, own in zip(chains, found, strict=True):
                chain += [(index, draw) for draw in own]
    return Sampled(chains, probability, {start.candidate: start.weight for start in starts})


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


def _compare(
    candidates: Sequence[Candidate], starts: Sequence[Start], seed: int, num_workers: int
) -> list[_Contender]:
    """Modes and evidence of the candidates that may be."""
    value = [start.log_density + candidates[start.candidate].log_prior for start in starts]
    unclear = [s for s, v in zip(starts, value, strict=True) if v > max(value) - UNCLEAR]
    num_annealed = ANNEALED if len(unclear) > 1 else 0
    return [
        _contend(start, num_annealed, derived(seed, start.candidate), num_workers)
        for start in unclear
    ]


def _contend(start: Start, num_annealed: int, seed: int, num_workers: int) -> _Contender:
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
    return _Contender(start, modes, value + log_volume(scan, world))


def _best(modes: Sequence[tuple[float, World]]) -> tuple[float, World]:
    """The mode of the largest log density."""
    return max(modes, key=lambda mode: mode[0])


def _probabilities(contenders: Sequence[_Contender], candidates: Sequence[Candidate]) -> np.ndarray:
    """Probabilities of the candidates, averaged over errors of their log evidence.

    The average of a softmax over independent Gaussian errors is nearly the softmax of smaller
    differences (MacKay, Neural Computation 4, 720 (1992), doi:10.1162/neco.1992.4.5.720).

    What patches say of an assignment is taken as its prior: their reading has no such error, and
    what is left of the evidence within its error is not the same information twice.
    """
    scale = math.sqrt(1 + math.pi / 8 * 2 * ERROR**2)
    log_weight = np.full(len(candidates), -np.inf)
    for contender in contenders:
        candidate = candidates[contender.start.candidate]
        log_prior = candidate.log_prior + candidate.log_hint
        log_weight[contender.start.candidate] = contender.log_evidence / scale + log_prior
    return softmax(log_weight)


def _sample_candidate(
    candidate: Candidate,
    contender: _Contender,
    num_draws: Sequence[int],
    every: int,
    seed: int,
    num_workers: int,
    tick: Callable[[], object],
    sample: Callable[..., Iterator[Draw]] = sample_worlds,
    jumps: bool = True,
) -> list[list[Draw]]:
    """Chains of one candidate, of some lengths, with the modes of nearly one image in turn."""
    best = _best(contender.modes)[0]
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

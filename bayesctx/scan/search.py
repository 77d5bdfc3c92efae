"""Where chains begin: the best of several lattices and materials, and modes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from ..crystal import ATOMIC_NUMBERS, METALS
from .fits import anneal, fit_world, log_density
from .shared import State, climb, evaluate
from .signal import draw_signal
from .threads import side_by_side
from .windows import crop
from .world import Scan, View, World, begin, look, spectra_of

__all__ = ["Candidate", "Start", "find_starts"]

MIDDLE = 104  # px along each side that are searched
NUM_TRIED = 128  # points of the prior
NUM_CLIMBED, LEAST_CLIMBED = 8, 2  # points in all, and of each beginning at least
NUM_FITTED = 4  # worlds of each candidate, in all
# candidates whose best world is annealed, and worlds beside these
MOST_ANNEALED, MORE_ANNEALED = 4, 2
MARGIN = 60.0  # nats in the middle of the image within which candidates are looked at whole
SPREAD = 1.5  # standard deviations of the common displacement: the origin of a lattice may be off
ENDS_OF_PERIODS = (36, 54)  # atomic numbers of Kr and Xe
EXTREME = 1e-4  # probability of points of the prior that are not tried


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
    """

    candidate: int
    scan: Scan
    world: World
    log_density: float


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
    points : Tensor, shape (point, coordinate), optional
        Where the shared variables may be.
    species : Tensor of int, shape (site,), optional
        What the sites may hold; otherwise a search begins at a perfect crystal only.
    """

    scan: Scan
    dopants: tuple[int, ...]
    log_prior: float = 0.0
    points: Tensor | None = None
    species: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Begun:
    """A world in the middle of the scan of a candidate, before anything is fitted."""

    candidate: int
    scan: Scan
    world: World
    view: View


def find_starts(candidates: Sequence[Candidate], seed: int, num_threads: int = 1) -> list[Start]:
    """Fit worlds to a scan whose lattice or host is one of several.

    Parameters
    ----------
    candidates : sequence of Candidate
        The same image with different assignments of its sublattices, or different hosts.
    seed : int
        Of the points that are tried.
    num_threads : int
        Threads to use.

    Returns
    -------
    list of Start
        Of the candidates that may be, the best first.

    Notes
    -----
    Points of the prior, and those that the candidates give, are compared on the middle of the
    image, for a perfect crystal and for the species that the candidates give. The best of each
    climb, the best of these are fitted with their sites, and the best of these are annealed:
    before, a candidate cannot be told from another one that is fitted worse. The best of all are
    fitted to the whole image.
    """
    begun = [b for i, c in enumerate(candidates) for b in _begin(i, c)]
    middles = {b.candidate: b.scan for b in begun}

    def fit(pair: tuple[int, World]) -> tuple[float, int, World]:
        i, world = pair
        own, seen = fit_world(middles[i], world, rounds=3, climbs=4)
        return log_density(middles[i], own, seen), i, own

    def cool(task: tuple[int, tuple[float, int, World]]) -> tuple[float, int, World]:
        k, (_, i, world) = task
        own = anneal(middles[i], world, seed + k)
        return log_density(middles[i], own, look(middles[i], own)), i, own

    climbed = _climb_best(candidates, begun, seed, num_threads)
    fitted = side_by_side(fit, climbed, num_threads)
    fitted.sort(key=lambda found: -found[0])
    chosen = _first_of_each(fitted)[:MOST_ANNEALED]
    others = [f for f in fitted if f not in chosen]
    cooled = side_by_side(cool, enumerate([*chosen, *others[:MORE_ANNEALED]]), num_threads)
    fitted = sorted([*fitted, *cooled], key=lambda found: -found[0])
    kept = [f for f in _first_of_each(fitted) if f[0] > fitted[0][0] - MARGIN]

    def finish(found: tuple[float, int, World]) -> Start:
        _, i, world = found
        middle, world = _best_dopant(middles[i], candidates[i].dopants, world)
        scan = replace(candidates[i].scan, material=middle.material)
        world, view = _whole(scan, world)
        return Start(i, scan, world, log_density(scan, world, view))

    starts = side_by_side(finish, kept, num_threads)
    return sorted(starts, key=lambda start: -start.log_density)


def _best_dopant(middle: Scan, dopants: Sequence[int], world: World) -> tuple[Scan, World]:
    """Scan and world with the dopant of the period that fits best; chains find the metal in it."""
    periods = {}
    for dopant in (middle.material.dopant, *dopants):
        number = ATOMIC_NUMBERS[METALS[dopant]]
        periods.setdefault(sum(number > end for end in ENDS_OF_PERIODS), dopant)
    found = []
    for dopant in periods.values():
        scan = replace(middle, material=replace(middle.material, dopant=dopant))
        own, view = fit_world(scan, world, rounds=2, climbs=3, adapted=2)
        found.append((log_density(scan, own, view), scan, own))
    return max(found, key=lambda fit: fit[0])[1:]


def _first_of_each(fitted: Sequence[tuple[float, int, World]]) -> list[tuple[float, int, World]]:
    """The first fit of every candidate."""
    first = {}
    for found in fitted:
        first.setdefault(found[1], found)
    return list(first.values())


def _whole(scan: Scan, middle: World) -> tuple[World, View]:
    """Fit the whole image, from the fit of its middle."""
    _, kept = crop(scan, MIDDLE)
    world = begin(scan, middle.z)
    drift, species, excess = world.drift.clone(), world.species.clone(), world.excess.clone()
    drift[0] = middle.drift[0]
    species[kept], excess[kept] = middle.species, middle.excess
    shift = world.shift + drift[0]
    shift[kept] = middle.shift
    film = torch.nn.functional.pad(middle.film[:, :1], (0, 2))
    given = {n: getattr(middle, n) for n in ("signal", "floor", "slope", "errors", "jitter")}
    world = replace(
        world, drift=drift, species=species, excess=excess, shift=shift, film=film, **given
    )
    # the sites first: with those of a perfect crystal the shared variables would go elsewhere
    return fit_world(scan, world, climbs=3, adapted=3)


def _begin(index: int, candidate: Candidate) -> list[_Begun]:
    """Worlds to begin at: a perfect crystal, and the species that are given."""
    middle, kept = crop(candidate.scan, MIDDLE)
    z = torch.zeros(len(middle.coordinates.names), dtype=torch.float64)
    species = [None] if candidate.species is None else [None, candidate.species[kept]]
    worlds = [begin(middle, z, s) for s in species]
    return [_Begun(index, middle, world, look(middle, world)) for world in worlds]


def _climb_best(
    candidates: Sequence[Candidate], begun: Sequence[_Begun], seed: int, num_threads: int
) -> list[tuple[int, World]]:
    """Climb from the best points; the best worlds of every beginning."""
    tried = _try_points(candidates, begun, seed)
    num_climbed = max(LEAST_CLIMBED, NUM_CLIMBED // len(begun))
    num_fitted = max(1, NUM_FITTED // len(begun))

    def rise(start: tuple[_Begun, State]) -> tuple[float, World]:
        first, state = start
        own = replace(first.world, z=state.z)
        own = draw_signal(first.scan, own, look(first.scan, own), None)
        seen = replace(look(first.scan, own), variance=first.view.variance)
        own, _, log_prob = climb(first.scan, own, seen, 4)
        return log_prob, own

    found = []
    for first, states in zip(begun, tried, strict=True):
        best = sorted(states, key=lambda state: -state.log_prob)[:num_climbed]
        risen = side_by_side(rise, [(first, state) for state in best], num_threads)
        risen.sort(key=lambda pair: -pair[0])
        found += [(first.candidate, world) for _, world in risen[:num_fitted]]
    return found


def _try_points(
    candidates: Sequence[Candidate], begun: Sequence[_Begun], seed: int
) -> list[list[State]]:
    """States of every beginning at points; spectra are shared where they can be."""
    found = [[] for _ in begun]
    # candidates that differ in the assignment only have the same objects
    keys = [(b.scan.material, id(candidates[b.candidate].scan.coordinates)) for b in begun]
    for key in dict.fromkeys(keys):
        mine = [k for k, own in enumerate(keys) if own == key]
        first = begun[mine[0]]
        given = [candidates[begun[k].candidate].points for k in mine]
        points = torch.cat([_points(first.scan, seed), *[p for p in given if p is not None]])
        for z in points.unique(dim=0):
            shared = spectra_of(first.scan, z)
            for k in mine:
                b = begun[k]
                found[k].append(evaluate(b.scan, b.world, b.view, z, shared))
    return found


def _points(scan: Scan, seed: int) -> Tensor:
    """Points of the prior, shape (point, coordinate)."""
    num = len(scan.coordinates.names)
    u = torch.from_numpy(qmc.Sobol(num, seed=np.random.default_rng(seed)).random(NUM_TRIED))
    points = torch.special.ndtri(u.clamp(EXTREME, 1 - EXTREME))
    points[:, -2:] *= SPREAD
    return points[scan.coordinates.log_prior(points) > -torch.inf]

"""Where chains begin: the best of several lattices and materials, and modes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from ..parallel import side_by_side
from .dopants import best_dopant
from .dose import dose_of
from .fits import anneal, anneal_until_settled, fit_world, log_density
from .following import Joint
from .moves import linearise_jointly
from .shared import climb, evaluate
from .signal import draw_signal
from .starts import Candidate, Start, Weight
from .view import View, look, spectra_of
from .windows import crop
from .world import JITTERS, Scan, World, begin

__all__ = ["find_starts", "log_volume", "weigh_middles"]

MIDDLE = 104  # px along each side that are searched
NUM_TRIED = 128  # points of the prior
NUM_CLIMBED, LEAST_CLIMBED = 32, 2  # points in all, and of each beginning at least
NUM_FITTED = 8  # worlds in all, of each beginning one at least
# candidates whose best world is annealed, and worlds beside these
MOST_ANNEALED, MORE_ANNEALED = 4, 2
MARGIN = 120.0  # nats in the middle of the image within which candidates are looked at whole
SPREAD = 1.5  # standard deviations of the common displacement: the origin of a lattice may be off
EXTREME = 1e-4  # probability of points of the prior that are not tried

_Fit = tuple[float, int, World]
"""Log density, candidate and world."""


@dataclass(frozen=True, eq=False)
class _Begun:
    """A world in the middle of the scan of a candidate, before anything is fitted."""

    candidate: int
    scan: Scan
    world: World
    view: View


def find_starts(candidates: Sequence[Candidate], seed: int, num_workers: int = 1) -> list[Start]:
    """Fit worlds to a scan whose lattice or host is one of several.

    Parameters
    ----------
    candidates : sequence of Candidate
        The same image with different assignments of its sublattices, or different hosts.
    seed : int
        Of the points that are tried.
    num_workers : int
        Workers that may be used, see ``parallel.side_by_side``.

    Returns
    -------
    list of Start
        Of the candidates that may be, the best first.

    Notes
    -----
    Points of the prior, and those that the candidates give, are compared on the middle of the
    image, for a perfect crystal and for the species that the candidates give. The best of each
    climb, the best of these are fitted with their sites, and the best of these are annealed:
    before, a candidate cannot be told from another one that is fitted worse. So every candidate is
    fitted once more from the shared variables of the best other one of its host: the probe that one
    has found is that of the image, whatever the sublattices hold. The best of all are fitted to the
    whole image, and annealed there until that hardly gains. Of an image of 256 x 256 pixels at 1e6
    e/Å² the fit of the right assignment gained 2600 nats by six annealings, beginning 1100 below
    that of the wrong one and ending 80 above it. Chains do not gain that: what they
    begin with is where they stay.
    """
    middles, best = _fit_middles(candidates, seed, num_workers)
    best = _settle_middles(middles, best, seed, num_workers)
    kept = _possible(_exchange(candidates, middles, best, seed, num_workers))

    def finish(found: _Fit) -> Start:
        value, i, world = found
        weight = _weigh(middles[i], world, value)
        middle, world = _best_dopant(middles[i], candidates[i].dopants, world)
        scan = replace(candidates[i].scan, material=middle.material)
        world, view = _whole(scan, world)
        value = log_density(scan, world, view)
        value, world = anneal_until_settled(scan, world, value, seed)
        return Start(i, scan, world, value, weight)

    starts = side_by_side(finish, kept, num_workers)
    return sorted(starts, key=lambda start: -start.log_density)


def weigh_middles(
    candidates: Sequence[Candidate], seed: int, num_workers: int = 1
) -> list[tuple[int, Weight]]:
    """Weigh candidates by the middle of the image.

    Parameters
    ----------
    candidates : sequence of Candidate
        As for ``find_starts``.
    seed : int
        Of the points that are tried.
    num_workers : int
        Workers that may be used, see ``parallel.side_by_side``.

    Returns
    -------
    list of tuple of int and Weight
        Those that may be.
    """
    middles, best = _fit_middles(candidates, seed, num_workers)

    def weigh(found: _Fit) -> tuple[int, Weight]:
        value, i, world = found
        return i, _weigh(middles[i], world, value)

    return side_by_side(weigh, _possible(best), num_workers)


def _weigh(middle: Scan, world: World, value: float) -> Weight:
    """Weight of a fit of a density."""
    values, joint = middle.coordinates.values(world.z[None]), _without_dose(middle, world)
    dose = dose_of(middle, world.signal, world.slope, values)
    spread = float((joint.signal.mean(-1) @ joint.factor).norm())
    named = {n: v[0].tolist() for n, v in values.items()}
    return Weight(value, joint.log_volume, named, dose, spread, middle, world)


def log_volume(scan: Scan, world: World) -> float:
    """Log of the volume of the posterior of the shared variables around a fit.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        A fitted world.

    Returns
    -------
    float
        By Laplace's approximation, in units of the prior; without what is known of the dose, which
        the density of a fit does not know either.
    """
    return _without_dose(scan, world).log_volume


def _without_dose(scan: Scan, world: World) -> Joint:
    """Shared variables around a fit, as they would be if nothing were known of the dose."""
    blind = replace(scan, log_dose=None)
    return linearise_jointly(blind, world, look(blind, world))


def _fit_middles(
    candidates: Sequence[Candidate], seed: int, num_workers: int
) -> tuple[dict[int, Scan], list[_Fit]]:
    """Middles of all candidates, and the best fit of each, the best first."""
    begun = [b for i, c in enumerate(candidates) for b in _begin(i, c)]
    middles = {b.candidate: b.scan for b in begun}

    def fit(pair: tuple[int, World]) -> _Fit:
        i, world = pair
        own, seen = fit_world(middles[i], world, rounds=3)
        return log_density(middles[i], own, seen), i, own

    def cool(task: tuple[int, _Fit]) -> _Fit:
        k, (_, i, world) = task
        own = anneal(middles[i], world, seed + k, is_hot=True)
        return log_density(middles[i], own, look(middles[i], own)), i, own

    climbed = _climb_best(candidates, begun, seed, num_workers)
    near = [(i, w) for i, c in enumerate(candidates) for w in _worlds_near(c, middles[i])]
    fitted = side_by_side(fit, [*climbed, *near], num_workers)
    fitted.sort(key=lambda found: -found[0])
    chosen = _first_of_each(fitted)[:MOST_ANNEALED]
    others = [f for f in fitted if f not in chosen]
    cooled = side_by_side(cool, enumerate([*chosen, *others[:MORE_ANNEALED]]), num_workers)
    return middles, _first_of_each(sorted([*fitted, *cooled], key=lambda found: -found[0]))


def _settle_middles(
    middles: dict[int, Scan], best: Sequence[_Fit], seed: int, num_workers: int
) -> list[_Fit]:
    """Anneal the best fits of several candidates until that hardly gains; the best first."""
    if len(best) < 2:
        return list(best)

    def settle(found: _Fit) -> _Fit:
        value, i, world = found
        value, world = anneal_until_settled(middles[i], world, value, seed + MOST_ANNEALED + i)
        return value, i, world

    settled = side_by_side(settle, best[:MOST_ANNEALED], num_workers)
    return sorted([*settled, *best[MOST_ANNEALED:]], key=lambda found: -found[0])


def _exchange(
    candidates: Sequence[Candidate],
    middles: dict[int, Scan],
    best: Sequence[_Fit],
    seed: int,
    num_workers: int,
) -> list[_Fit]:
    """Fit candidates from the shared variables of others of their host too; the best first.

    Every one of those that are annealed from the best other one.
    """
    given = best[:MOST_ANNEALED]
    hosts = [c.scan.material.host for c in candidates]
    others = [[w for _, k, w in given if k != i and hosts[k] == hosts[i]] for _, i, _ in given]
    pairs = [(i, worlds[0]) for (_, i, _), worlds in zip(given, others, strict=True) if worlds]

    def fit(pair: tuple[int, World]) -> _Fit:
        i, other = pair
        middle, first = middles[i], _first_worlds(candidates[i])[1][-1]
        world, view = fit_world(middle, replace(first, z=other.z), rounds=3, adapted=3)
        value = log_density(middle, world, view)
        value, world = anneal_until_settled(middle, world, value, seed + 2 * MOST_ANNEALED + i)
        return value, i, world

    exchanged = side_by_side(fit, pairs, num_workers)
    return _first_of_each(sorted([*best, *exchanged], key=lambda found: -found[0]))


def _possible(best: Sequence[_Fit]) -> list[_Fit]:
    """Fits that are not far below the first."""
    return [found for found in best if found[0] > best[0][0] - MARGIN]


def _best_dopant(middle: Scan, dopants: Sequence[int], world: World) -> tuple[Scan, World]:
    """Scan and world with the dopant that explains the metal sites best."""
    if len(dopants) < 2:
        return middle, world
    dopant = best_dopant([(middle, world, look(middle, world), middle.updated)], dopants)
    if dopant == middle.material.dopant:
        return middle, world
    scan = replace(middle, material=replace(middle.material, dopant=dopant))
    return scan, fit_world(scan, world, rounds=2, adapted=2)[0]


def _first_of_each(fitted: Sequence[_Fit]) -> list[_Fit]:
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
    film = middle.film.mean(-1, keepdim=True).expand_as(world.film)  # splines add up to one
    known = "signal", "floor", "slope", "errors", *JITTERS
    given = {n: getattr(middle, n) for n in known}
    world = replace(
        world, drift=drift, species=species, excess=excess, shift=shift, film=film, **given
    )
    # the sites first: with those of a perfect crystal the shared variables would go elsewhere
    return fit_world(scan, world, adapted=3)


def _begin(index: int, candidate: Candidate) -> list[_Begun]:
    """Worlds to begin at, with what follows from them."""
    middle, worlds = _first_worlds(candidate)
    return [_Begun(index, middle, world, look(middle, world)) for world in worlds]


def _first_worlds(candidate: Candidate) -> tuple[Scan, list[World]]:
    """Middle of a candidate with a perfect crystal, and with the species that are given."""
    middle, kept = crop(candidate.scan, MIDDLE)
    z = torch.zeros(len(middle.coordinates.names), dtype=torch.float64)
    species = [None] if candidate.species is None else [None, candidate.species[kept]]
    return middle, [begin(middle, z, s) for s in species]


def _worlds_near(candidate: Candidate, middle: Scan) -> list[World]:
    """Fits of the same sites under other contexts, with what of their variables is open here."""
    found = []
    for weight in candidate.near:
        own = weight.scan
        if own is None or own.material.host != middle.material.host:
            continue
        if torch.equal(own.kind, middle.kind) and torch.equal(own.positions, middle.positions):
            z = middle.coordinates.of(weight.values)
            z[-2:] = weight.world.z[-2:]  # the common displacement
            found.append(replace(weight.world, z=z))
    return found


def _climb_best(
    candidates: Sequence[Candidate], begun: Sequence[_Begun], seed: int, num_workers: int
) -> list[tuple[int, World]]:
    """Climb from the best points; the best worlds of every beginning."""
    tried = _try_points(candidates, begun, seed)
    num_climbed = max(LEAST_CLIMBED, NUM_CLIMBED // len(begun))
    num_fitted = max(1, NUM_FITTED // len(begun))

    def rise(start: tuple[_Begun, Tensor]) -> tuple[float, World]:
        first, z = start
        own = replace(first.world, z=z)
        own = draw_signal(first.scan, own, look(first.scan, own), None)
        seen = replace(look(first.scan, own), variance=first.view.variance)
        own, _, log_prob = climb(first.scan, own, seen)
        return log_prob, own

    found = []
    for first, values in zip(begun, tried, strict=True):
        best = sorted(values, key=lambda pair: -pair[0])[:num_climbed]
        risen = side_by_side(rise, [(first, z) for _, z in best], num_workers)
        risen.sort(key=lambda pair: -pair[0])
        found += [(first.candidate, world) for _, world in risen[:num_fitted]]
    return found


def _try_points(
    candidates: Sequence[Candidate], begun: Sequence[_Begun], seed: int
) -> list[list[tuple[float, Tensor]]]:
    """Log densities of every beginning at points; spectra are shared where they can be."""
    found = [[] for _ in begun]
    # candidates that differ in the assignment only have the same objects
    keys = [(b.scan.material, id(candidates[b.candidate].scan.coordinates)) for b in begun]
    for key in dict.fromkeys(keys):
        mine = [k for k, own in enumerate(keys) if own == key]
        first = begun[mine[0]]
        given = [candidates[begun[k].candidate].points for k in mine]
        points = torch.cat([_points(first.scan, seed), *[p for p in given if p is not None]])
        kept = sorted({species for k in mine for species in begun[k].view.used})
        for z in points.unique(dim=0):
            shared = spectra_of(first.scan, z, kept)
            for k in mine:
                b = begun[k]
                # nothing but a number is kept of each of hundreds of images
                found[k].append((evaluate(b.scan, b.world, b.view, z, shared).log_prob, z))
    return found


def _points(scan: Scan, seed: int) -> Tensor:
    """Points of the prior, shape (point, coordinate)."""
    num = len(scan.coordinates.names)
    u = torch.from_numpy(qmc.Sobol(num, seed=np.random.default_rng(seed)).random(NUM_TRIED))
    points = scan.coordinates.quantiles(u.clamp(EXTREME, 1 - EXTREME))
    points[:, -2:] *= SPREAD
    return points[scan.coordinates.log_prior(points) > -torch.inf]

"""Where chains begin: the best of several lattices and materials, and modes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from .field import Field
from .fits import anneal, fit_world, log_density
from .shared import State, climb, evaluate
from .signal import draw_signal
from .threads import side_by_side
from .world import Scan, View, World, begin, look, spectra_of

__all__ = ["Start", "crop", "find_starts"]

MIDDLE = 104  # px along each side that are searched
NUM_TRIED = 256
NUM_CLIMBED, EVERY_CLIMBED = 12, 3  # of all points, and of each candidate at least
NUM_FITTED, MOST_ANNEALED = 4, 4
MARGIN = 100.0  # nats in the middle of the image within which candidates are looked at whole
SPREAD = 1.5  # standard deviations of the common displacement: the origin of a lattice may be off
EXTREME = 1e-4  # probability of points of the prior that are not tried
REACH = 8.5  # Å beyond the border, of columns that reach into the image


@dataclass(frozen=True, eq=False)
class Start:
    """A fitted world of one of several candidates.

    Attributes
    ----------
    candidate : int
        Its position.
    world : World
        Fitted to the whole image.
    log_density : float
        See ``fits.log_density``.
    """

    candidate: int
    world: World
    log_density: float


def find_starts(scans: Sequence[Scan], seed: int, num_threads: int = 1) -> list[Start]:
    """Fit worlds to a scan whose lattice or host is one of several.

    Parameters
    ----------
    scans : sequence of Scan
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
    Quasi-random points of the prior are compared on the middle of the image, the best of every
    candidate climb, the best of these are fitted with their sites, and the best of these are
    annealed: before, a candidate cannot be told from another one that is fitted worse. The best of
    all are fitted to the whole image.
    """
    middles = [crop(scan, MIDDLE)[0] for scan in scans]

    def fit(pair: tuple[int, World]) -> tuple[float, int, World]:
        i, world = pair
        own, seen = fit_world(middles[i], world, rounds=3, climbs=4)
        return log_density(middles[i], own, seen), i, own

    def cool(task: tuple[int, tuple[float, int, World]]) -> tuple[float, int, World]:
        k, (_, i, world) = task
        own = anneal(middles[i], world, seed + k)
        return log_density(middles[i], own, look(middles[i], own)), i, own

    climbed = _climb_best(middles, seed, num_threads)
    fitted = side_by_side(fit, climbed, num_threads)
    fitted.sort(key=lambda found: -found[0])
    chosen = _first_of_each(fitted)[:MOST_ANNEALED]
    # a second try for the best
    cooled = side_by_side(cool, enumerate([*chosen, fitted[0]]), num_threads)
    fitted = sorted([*fitted, *cooled], key=lambda found: -found[0])
    kept = [f for f in _first_of_each(fitted) if f[0] > fitted[0][0] - MARGIN]
    whole = side_by_side(lambda f: _whole(scans[f[1]], f[2]), kept, num_threads)
    starts = [
        Start(i, world, log_density(scans[i], world, view))
        for (_, i, _), (world, view) in zip(kept, whole, strict=True)
    ]
    return sorted(starts, key=lambda start: -start.log_density)


def _first_of_each(fitted: Sequence[tuple[float, int, World]]) -> list[tuple[float, int, World]]:
    """The first fit of every candidate."""
    first = {}
    for found in fitted:
        first.setdefault(found[1], found)
    return list(first.values())


def _whole(scan: Scan, middle: World) -> tuple[World, View]:
    """Fit the whole image, from the fit of its middle."""
    world = begin(scan, middle.z)
    drift = world.drift.clone()
    drift[0] = middle.drift[0]
    names = "signal", "film", "floor", "slope"
    given = {n: getattr(middle, n) for n in names}
    return fit_world(scan, replace(world, drift=drift, shift=world.shift + drift[0], **given))


def _climb_best(middles: Sequence[Scan], seed: int, num_threads: int) -> list[tuple[int, World]]:
    """Climb from the best points of the prior; the best worlds of every candidate."""
    begun = []
    for middle in middles:
        world = begin(middle, torch.zeros(len(middle.coordinates.names), dtype=torch.float64))
        begun.append((world, look(middle, world)))
    tried = sorted(_try_points(middles, begun, seed), key=lambda found: -found[1].log_prob)
    num_climbed = max(EVERY_CLIMBED, NUM_CLIMBED // len(middles))
    num_fitted = max(1, NUM_FITTED // len(middles))

    def rise(start: tuple[int, State]) -> tuple[float, World]:
        i, state = start
        middle, (world, view) = middles[i], begun[i]
        own = replace(world, z=state.z)
        own = draw_signal(middle, own, look(middle, own), None)
        seen = replace(look(middle, own), variance=view.variance)
        own, _, log_prob = climb(middle, own, seen, 4)
        return log_prob, own

    found = []
    for i in range(len(middles)):
        chosen = [pair for pair in tried if pair[0] == i][:num_climbed]
        risen = sorted(side_by_side(rise, chosen, num_threads), key=lambda pair: -pair[0])
        found += [(i, world) for _, world in risen[:num_fitted]]
    return found


def _try_points(
    middles: Sequence[Scan], begun: Sequence[tuple[World, View]], seed: int
) -> list[tuple[int, State]]:
    """Log density of every candidate at points of the prior; spectra are shared where they can."""
    found = []
    materials = list(dict.fromkeys((m.material, m.field.sampling) for m in middles))
    for material in materials:
        mine = [i for i, m in enumerate(middles) if (m.material, m.field.sampling) == material]
        first = middles[mine[0]]
        for z in _points(first, seed):
            shared = spectra_of(first, z)
            found += [(i, evaluate(middles[i], *begun[i], z, shared)) for i in mine]
    return found


def _points(scan: Scan, seed: int) -> Tensor:
    """Points of the prior, shape (point, coordinate)."""
    num = len(scan.coordinates.names)
    u = torch.from_numpy(qmc.Sobol(num, seed=np.random.default_rng(seed)).random(NUM_TRIED))
    points = torch.special.ndtri(u.clamp(EXTREME, 1 - EXTREME))
    points[:, -2:] *= SPREAD
    return points[scan.coordinates.log_prior(points) > -torch.inf]


def crop(scan: Scan, size: int) -> tuple[Scan, Tensor]:
    """The middle of a scan.

    Parameters
    ----------
    scan : Scan
        The scan.
    size : int
        Pixels along each side at most.

    Returns
    -------
    middle : Scan
        Its middle.
    kept : Tensor of bool, shape (site,)
        Sites of the scan that belong to it.
    """
    shape = tuple(min(size, n) for n in scan.image.shape)
    start = [(n - m) // 2 for n, m in zip(scan.image.shape, shape, strict=True)]
    window = tuple(slice(s, s + m) for s, m in zip(start, shape, strict=True))
    field = Field(shape, scan.field.sampling, focal_phase=scan.field.focal_phase)
    modes = [
        int(np.ceil(m * own / whole))
        for m, own, whole in zip(scan.field.num_modes, field.cell, scan.field.cell, strict=True)
    ]
    centre = [
        s + (m - 1) / 2 - (n - 1) / 2
        for s, m, n in zip(start, shape, scan.image.shape, strict=True)
    ]
    positions = scan.positions - torch.tensor(centre[::-1]) * scan.field.sampling
    half = torch.tensor(shape[::-1]) * scan.field.sampling / 2
    kept = (positions.abs() < half + REACH).all(-1)
    return replace(
        scan,
        image=scan.image[window].contiguous(),
        valid=None if scan.valid is None else scan.valid[window].contiguous(),
        field=replace(field, num_modes=tuple(modes)),
        positions=positions[kept],
        kind=scan.kind[kept],
    ), kept

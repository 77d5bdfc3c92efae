"""Where chains begin: modes of the shared variables, looked for in the middle of a scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from .chain import fit_world, follow_partners, log_density
from .field import Field
from .shared import climb, evaluate
from .signal import draw_signal
from .world import Scan, World, begin, look

__all__ = ["find_modes"]

MIDDLE = 104  # px along each side that are searched
NUM_TRIED, NUM_CLIMBED, NUM_FITTED = 256, 12, 4
SPREAD = 1.5  # standard deviations of the common displacement: the origin of a lattice may be off
EXTREME = 1e-4  # probability of points of the prior that are not tried


def find_modes(scan: Scan, seed: int) -> list[tuple[float, World]]:
    """Find modes of the posterior of the shared variables.

    Parameters
    ----------
    scan : Scan
        The scan.
    seed : int
        Of the points that are tried.

    Returns
    -------
    list of tuple of float and World
        Log density and fitted world of modes of nearly the same image, the best first.

    Notes
    -----
    Quasi-random points of the prior are compared on the middle of the image, the best of them
    climb, the best of these are fitted with their sites, and the best of all is fitted to the whole
    image together with its partners.
    """
    middle, _ = crop(scan, MIDDLE)
    points = _points(middle, seed)
    world = begin(middle, points[0])
    view = look(middle, world)
    tried = [evaluate(middle, world, view, z) for z in points]
    best = sorted(tried, key=lambda state: -state.log_prob)[:NUM_CLIMBED]
    climbed = []
    for state in best:
        start = replace(world, z=state.z)
        start = draw_signal(middle, start, look(middle, start), None)
        own, _, log_prob = climb(
            middle, start, replace(look(middle, start), variance=view.variance), 4
        )
        climbed.append((log_prob, own))
    climbed.sort(key=lambda found: -found[0])
    fitted = []
    for _, own in climbed[:NUM_FITTED]:
        own, seen = fit_world(middle, own, rounds=3, climbs=4)
        fitted.append((log_density(middle, own, seen), own))
    best = max(fitted, key=lambda found: found[0])[1]
    start = begin(scan, best.z)
    drift = start.drift.clone()
    drift[0] = best.drift[0]
    start = replace(
        start,
        drift=drift,
        shift=start.shift + drift[0],
        **{n: getattr(best, n) for n in ("signal", "film", "floor", "slope")},
    )
    start, _ = fit_world(scan, start)
    return sorted(follow_partners(scan, start), key=lambda found: -found[0])


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
        field=replace(field, num_modes=tuple(modes)),
        positions=positions[kept],
        kind=scan.kind[kept],
    ), kept


REACH = 8.5  # Å beyond the border, of columns that reach into the image

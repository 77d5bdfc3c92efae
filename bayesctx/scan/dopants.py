"""Which metal is the dopant, by all metal sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from .conditional import IS_DOPED, KINDS, Sites
from .kernels import Kernels
from .world import Scan, View, World

__all__ = ["best_dopant"]

AT_ONCE = 256  # sites


def best_dopant(seen: Iterable[tuple[Scan, World, View]], dopants: Sequence[int]) -> int:
    """Find the metal that explains the metal sites best, whatever is the dopant now.

    Parameters
    ----------
    seen : iterable of tuple of Scan, World and View
        One scan, or windows of one.
    dopants : sequence of int
        Metals that may be the dopant, at least one.

    Returns
    -------
    int
        The metal of the largest pseudo-likelihood: species, displacement and amplitude of every
        metal site summed out given the other sites.

    References
    ----------
    Besag, The Statistician 24, 179 (1975), doi:10.2307/2987782.
    """
    total = torch.zeros(len(dopants), dtype=torch.float64)
    for scan, world, view in seen:
        total += torch.tensor([_log_evidence_of_metals(scan, world, view, d) for d in dopants])
    return dopants[int(total.argmax())]


def _log_evidence_of_metals(scan: Scan, world: World, view: View, dopant: int) -> float:
    """Log density of the pixels around every metal site under a dopant, added over the sites."""
    sites, kind = Sites.of(scan, world, view), KINDS.index("metal")
    material, total = replace(scan.material, dopant=dopant), 0.0
    # errors of additivity that were fitted to another metal would speak for it
    amplitude = torch.where(IS_DOPED, world.signal[:, None], sites.amplitude)
    kernels = Kernels.of(scan.field, view.values, material)
    other = replace(sites, kernels=kernels, amplitude=amplitude)
    for mine in (scan.updated & (scan.kind == kind)).nonzero()[:, 0].split(AT_ONCE):
        present = sites.present(scan, mine)
        given = other.conditional(scan, mine, kind, present)
        rest = sites.canvas.at(sites.canvas.rest, given.index) + present
        weight = sites.canvas.at(sites.canvas.weight, given.index)
        square = (rest.square() * weight).sum((1, 2))
        total += float((given.log_prob.flatten(1).logsumexp(-1) - 0.5 * square).double().sum())
    return total

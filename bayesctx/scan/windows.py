"""Windows of a scan: one of it, or many that cover it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .world import Scan

__all__ = ["REACH", "Tile", "crop", "cut", "tile"]

MOST_VALID = 0.99  # of the largest number of valid pixels, of a window that is as good
REACH = 8.5  # Å beyond the border, of columns that reach into the image
SIDE = 80.0  # Å, at most, of the windows that cover a scan
MARGIN = 4.5  # Å, of what such a window has in common with the next, on each side


def crop(scan: Scan, size: int) -> tuple[Scan, Tensor]:
    """A window of a scan: its middle, or where most pixels are valid.

    Parameters
    ----------
    scan : Scan
        The scan.
    size : int
        Pixels along each side at most.

    Returns
    -------
    middle : Scan
        The window.
    kept : Tensor of bool, shape (site,)
        Sites of the scan that belong to it.
    """
    shape = tuple(min(size, n) for n in scan.field.shape)
    return cut(scan, _corner(scan, shape), shape)


def cut(scan: Scan, start: Sequence[int], shape: tuple[int, int]) -> tuple[Scan, Tensor]:
    """A given window of a scan.

    Parameters
    ----------
    scan : Scan
        The scan.
    start : sequence of int
        Its first pixel (y, x).
    shape : tuple of int
        Its pixels (y, x).

    Returns
    -------
    window : Scan
        The window.
    kept : Tensor of bool, shape (site,)
        Sites of the scan that belong to it, or whose columns reach into it.
    """
    pixels = tuple(slice(s, s + m) for s, m in zip(start, shape, strict=True))
    field = replace(scan.field, shape=shape)
    modes = [
        int(np.ceil(m * own / whole))
        for m, own, whole in zip(scan.field.num_modes, field.cell, scan.field.cell, strict=True)
    ]
    centre = [
        s + (m - 1) / 2 - (n - 1) / 2
        for s, m, n in zip(start, shape, scan.field.shape, strict=True)
    ]
    positions = scan.positions - torch.tensor(centre[::-1]) * scan.field.sampling
    half = torch.tensor(shape[::-1]) * scan.field.sampling / 2
    kept = (positions.abs() < half + REACH).all(-1)
    return replace(
        scan,
        image=scan.image[:, *pixels].contiguous(),
        valid=None if scan.valid is None else scan.valid[pixels].contiguous(),
        field=replace(field, num_modes=tuple(modes)),
        positions=positions[kept],
        kind=scan.kind[kept],
    ), kept


@dataclass(frozen=True, eq=False)
class Tile:
    """One of several windows that overlap and together cover a scan.

    Attributes
    ----------
    scan : Scan
        The window.
    sites : Tensor of int, shape (site,)
        Positions of its sites among those of the whole scan.
    own : Tensor of bool, shape (site,)
        Sites that are nearer to the middle of this window than to that of another one.
    core : Tensor of bool, shape (y, x)
        Pixels of the same kind.
    colours : list of Tensor
        See ``Scan.colours``.
    """

    scan: Scan
    sites: Tensor
    own: Tensor
    core: Tensor
    colours: list[Tensor]


def tile(scan: Scan) -> list[Tile]:
    """Cover a scan by windows of one size.

    Parameters
    ----------
    scan : Scan
        The scan.

    Returns
    -------
    list of Tile
        Those with valid pixels. Every site and every pixel is the own of one window, with
        ``MARGIN`` of the window around it or the border of the scan.
    """
    rows, columns = (_spans(n, scan.field.sampling) for n in scan.field.shape)
    place = scan.positions / scan.field.sampling  # px from the centre
    centre = [(n - 1) / 2 for n in scan.field.shape]
    tiles = []
    for y, x in itertools.product(rows, columns):
        window, kept = cut(scan, (y.start, x.start), (y.size, x.size))
        if window.valid is not None and not window.valid.any():
            continue
        inside = y.holds(place[:, 1] + centre[0]) & x.holds(place[:, 0] + centre[1])
        core = (
            y.holds(torch.arange(y.start, y.start + y.size))[:, None]
            & x.holds(torch.arange(x.start, x.start + x.size))
        )  # fmt: skip
        tiles.append(Tile(window, kept.nonzero()[:, 0], inside[kept], core, window.colours()))
    return tiles


@dataclass(frozen=True)
class _Span:
    """Pixels of a window along one axis, and between which edges they are its own."""

    start: int
    size: int
    low: float
    high: float

    def holds(self, place: Tensor) -> Tensor:
        """Whether positions in px are its own."""
        return (place >= self.low) & (place < self.high)


def _spans(num: int, sampling: float) -> list[_Span]:
    """Windows along an axis of so many pixels."""
    common = 2 * math.ceil(MARGIN / sampling)
    number = max(1, math.ceil((num - common) / (SIDE / sampling - common)))
    size = math.ceil((num + (number - 1) * common) / number)
    starts = np.linspace(0, num - size, number).round().astype(int).tolist()
    # in the middle of what two windows have in common
    edges = [(after + before + size - 1) / 2 for before, after in itertools.pairwise(starts)]
    lows, highs = [-math.inf, *edges], [*edges, math.inf]
    return [_Span(s, size, low, high) for s, low, high in zip(starts, lows, highs, strict=True)]


def _corner(scan: Scan, shape: tuple[int, int]) -> list[int]:
    """First pixel (y, x) of the window with the most valid pixels, in the middle if all are."""
    middle = [(n - m) // 2 for n, m in zip(scan.field.shape, shape, strict=True)]
    if scan.valid is None:
        return middle
    # sums over windows, from those over all pixels above and to the left
    total = torch.nn.functional.pad(scan.valid.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    (height, width), (y, x) = shape, scan.field.shape
    sums = total[height:, width:] - total[: y - height + 1, width:]
    sums = sums - total[height:, : x - width + 1] + total[: y - height + 1, : x - width + 1]
    best = (sums >= MOST_VALID * sums.max()).nonzero()
    return best[(best - torch.tensor(middle)).square().sum(-1).argmin()].tolist()

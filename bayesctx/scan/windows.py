"""Windows of a scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .field import Field
from .world import Scan

__all__ = ["REACH", "crop"]

MOST_VALID = 0.99  # of the largest number of valid pixels, of a window that is as good
REACH = 8.5  # Å beyond the border, of columns that reach into the image


def _corner(scan: Scan, shape: tuple[int, int]) -> list[int]:
    """First pixel (y, x) of the window with the most valid pixels, in the middle if all are."""
    middle = [(n - m) // 2 for n, m in zip(scan.image.shape, shape, strict=True)]
    if scan.valid is None:
        return middle
    # sums over windows, from those over all pixels above and to the left
    total = torch.nn.functional.pad(scan.valid.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    (height, width), (y, x) = shape, scan.image.shape
    sums = total[height:, width:] - total[: y - height + 1, width:]
    sums = sums - total[height:, : x - width + 1] + total[: y - height + 1, : x - width + 1]
    best = (sums >= MOST_VALID * sums.max()).nonzero()
    return best[(best - torch.tensor(middle)).square().sum(-1).argmin()].tolist()


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
    shape = tuple(min(size, n) for n in scan.image.shape)
    start = _corner(scan, shape)
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

"""Responses of columns to Fourier coefficients and pixels of an image, batched in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["interpolation_matrix", "join", "map_tensors", "move", "pick", "take"]


def interpolation_matrix(positions: Tensor, num_pixels: int, spacing: float | Tensor) -> Tensor:
    """Weights of pixels 0 ... num_pixels - 1 in values at positions between them: cubic, averaging where it is coarser.

    Parameters
    ----------
    positions : Tensor, shape (*batch, target)
        In units of the source pixels.
    num_pixels : int
        Number of source pixels.
    spacing : float or Tensor, shape (*batch, 1, 1)
        Distance of the targets in source pixels; above 1 the kernel widens to average over it.

    Returns
    -------
    Tensor, shape (*batch, target, num_pixels)
        Rows that sum to one.

    References
    ----------
    Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981), doi:10.1109/TASSP.1981.1163711.
    """
    width = torch.as_tensor(spacing, dtype=positions.dtype, device=positions.device).clamp(min=1)
    t = ((positions[..., :, None] - torch.arange(num_pixels).to(positions)) / width).abs()
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return weights / weights.sum(-1, keepdim=True)


Record = TypeVar("Record")


def map_tensors(function: Callable[..., Tensor], *records: Record) -> Record:
    """Apply a function to every tensor of a record, or to those of the same place in several ones.

    Parameters
    ----------
    function : callable
        Takes one tensor of each record.
    *records : dataclass, mapping, Tensor or None
        Of one shape. What is not there stays so.

    Returns
    -------
    dataclass, mapping, Tensor or None
        With the results.
    """
    first = records[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*records)
    if isinstance(first, Mapping):
        return {name: map_tensors(function, *(r[name] for r in records)) for name in first}
    changed = {
        f.name: map_tensors(function, *(getattr(r, f.name) for r in records)) for f in fields(first)
    }
    return replace(first, **changed)


def pick(record: Record, index: object) -> Record:
    """Index every tensor.

    Parameters
    ----------
    record : dataclass, mapping, Tensor or None
        Of tensors that share their leading dimensions.
    index : object
        What a tensor takes.

    Returns
    -------
    dataclass, mapping, Tensor or None
        Of the parts.
    """
    return map_tensors(lambda value: value[index], record)


def join(batches: Sequence[Record]) -> Record:
    """Put several batches together as one.

    Parameters
    ----------
    batches : sequence of Patches or Draft
        Of equal numbers of patches per image.

    Returns
    -------
    Patches or Draft
        Their images, in order.
    """
    return (
        batches[0]
        if len(batches) == 1
        else map_tensors(lambda *values: torch.cat(values), *batches)
    )


def move(batch: Record, device: str | torch.device) -> Record:
    """Move a batch to a device.

    Parameters
    ----------
    batch : Patches or Draft
        A batch.
    device : str or device
        Where to.

    Returns
    -------
    Patches or Draft
        Of the tensors themselves where they are there.
    """
    return map_tensors(lambda value: value.to(device), batch)


def take(batch: Record, start: int, stop: int, step: int = 1) -> Record:
    """Take some images of a batch.

    Parameters
    ----------
    batch : Patches or Draft
        A batch.
    start, stop : int
        First image, and the one after the last.
    step : int
        One of so many is taken.

    Returns
    -------
    Patches or Draft
        A copy, for a view would carry the whole batch from a worker to its loader; the batch itself where all is taken.
    """
    if start == 0 and stop >= len(batch.defect) and step == 1:
        return batch
    return map_tensors(lambda value: value[start:stop:step].clone(), batch)

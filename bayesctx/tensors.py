"""Operations on records of tensors (map, index, join, move), and interpolation between pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["interpolation_matrix", "join", "map_tensors", "move", "pick", "pixel_axis", "take"]


def interpolation_matrix(positions: Tensor, num_pixels: int, spacing: float | Tensor) -> Tensor:
    """Weights of the pixels 0 ... num_pixels - 1 in interpolated values (cubic kernel of Keys).

    Parameters
    ----------
    positions : Tensor, shape (*batch, target)
        Positions of the targets in units of the source pixels.
    num_pixels : int
        Number of source pixels.
    spacing : float or Tensor, shape (*batch, 1, 1)
        Distance between targets in source pixels; above 1 the kernel is widened by this factor, so
        that a target averages over its width.

    Returns
    -------
    Tensor, shape (*batch, target, num_pixels)
        Every row sums to one.

    References
    ----------
    Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981),
    doi:10.1109/TASSP.1981.1163711.
    """
    width = torch.as_tensor(spacing, dtype=positions.dtype, device=positions.device).clamp(min=1)
    t = ((positions[..., :, None] - torch.arange(num_pixels).to(positions)) / width).abs()
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return weights / weights.sum(-1, keepdim=True)


def pixel_axis(
    num_pixels: int, sampling: float, device: str | torch.device | None = None
) -> Tensor:
    """Positions of pixels along an axis whose origin is the centre of the image.

    Parameters
    ----------
    num_pixels : int
        Number of pixels.
    sampling : float
        Size of a pixel, in Å or another unit.
    device : str or device, optional
        Default: CPU.

    Returns
    -------
    Tensor, shape (pixel,)
        In the unit of ``sampling``, single precision.
    """
    index = torch.arange(num_pixels, dtype=torch.float32, device=device)
    return (index - (num_pixels - 1) / 2) * sampling


Record = TypeVar("Record")


def map_tensors(function: Callable[..., Tensor], *records: Record) -> Record:
    """Apply a function to every tensor of a record, or to corresponding tensors of several records.

    Parameters
    ----------
    function : callable
        Takes one tensor of each record.
    *records : dataclass, mapping, Tensor or None
        Records of the same structure; None stays None.

    Returns
    -------
    dataclass, mapping, Tensor or None
        A record of the results.
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
    """Index every tensor of a record.

    Parameters
    ----------
    record : dataclass, mapping, Tensor or None
        Tensors with common leading dimensions.
    index : object
        Any index of a tensor.

    Returns
    -------
    dataclass, mapping, Tensor or None
        A record of the indexed tensors.
    """
    return map_tensors(lambda value: value[index], record)


def join(batches: Sequence[Record]) -> Record:
    """Concatenate batches along the dimension image.

    Parameters
    ----------
    batches : sequence of Patches or Latents
        Batches with equal numbers of patches per image.

    Returns
    -------
    Patches or Latents
        All images, in order.
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
    batch : Patches or Latents
        A batch.
    device : str or device
        Target device.

    Returns
    -------
    Patches or Latents
        Shares those tensors that are on the device already.
    """
    return map_tensors(lambda value: value.to(device), batch)


def take(batch: Record, start: int, stop: int, step: int = 1) -> Record:
    """Take a range of images of a batch.

    Parameters
    ----------
    batch : Patches or Latents
        A batch.
    start, stop : int
        First image, and the one after the last.
    step : int
        Distance between the images taken.

    Returns
    -------
    Patches or Latents
        The batch itself if the range covers it, otherwise a copy: a view would send the whole batch
        from a worker process to its loader.
    """
    if start == 0 and stop >= len(batch.defect) and step == 1:
        return batch
    return map_tensors(lambda value: value[start:stop:step].clone(), batch)

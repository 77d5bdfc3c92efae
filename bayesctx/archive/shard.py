"""A shard: a window of a stream as one netCDF file."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import netCDF4
import numpy as np
import torch

from ..context import CONTEXT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, SPECIES
from ..nuisances import NUISANCES
from ..prior import CONTINUOUS
from ..simulation import Patches
from ..storage import replacing

__all__ = ["digest", "open_shard", "read_images", "write_shard"]

# 16 bits between the extremes of each patch: the step is some 1e-4 of the noise and at most a
# hundredth of it (at 1e6 e/Å²), so nothing is lost, at half the size of floats. Compression would
# save a seventh more, and write and read 30 times slower.
STEPS = 65535

LABELS = {
    "defect": tuple(DEFECTS),
    "species": tuple(
        f"{d}:{v}" for d in DEFECTS for v in range(sum(s.defect == d for s in SPECIES))
    ),
    "host": tuple(HOSTS),
    "dopant": tuple(METALS),
}
"""Names of the variables that are stored as an index."""

Variables = Mapping[str, tuple[tuple[str, ...], np.ndarray, dict[str, object]]]


def write_shard(
    path: Path, batches: Iterable[Patches], num_images: int, attributes: Mapping[str, object]
) -> Generator[int, None, dict[str, object]]:
    """Write batches to one file, which appears when it is complete.

    Parameters
    ----------
    path : Path
        The file.
    batches : iterable of Patches
        Written one by one, so that one of them is in memory.
    num_images : int
        Images of all batches.
    attributes : mapping
        Attributes of the file.

    Yields
    ------
    int
        Patches of each batch after it is written.

    Returns
    -------
    dict
        ``name``, ``bytes`` and ``sha256`` of the file, as the value of the exhausted generator.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with replacing(path) as temporary:
        with netCDF4.Dataset(temporary, "w", clobber=True) as file:
            file.setncatts(attributes)
            file.set_fill_off()
            first = 0
            for batch in batches:
                variables = _encode(batch)
                if not first:
                    _define(file, variables, num_images)
                last = first + len(batch.host)
                for name, (_, values, _) in variables.items():
                    file[name][first:last] = values
                first = last
                yield batch.defect.numel()
        return {"name": path.name, "bytes": temporary.stat().st_size, "sha256": digest(temporary)}


def digest(path: Path) -> str:
    """Checksum of a file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Its SHA-256 in hexadecimal digits.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _define(file: netCDF4.Dataset, variables: Variables, num_images: int) -> None:
    """Create the dimensions and variables of a file."""
    for dims, values, _ in variables.values():
        for dim, size in zip(dims, values.shape, strict=True):
            if dim not in file.dimensions:
                file.createDimension(dim, num_images if dim == "image" else size)
    for name, (dims, values, attributes) in variables.items():
        created = file.createVariable(name, values.dtype, dims, fill_value=False)
        created.setncatts(attributes)
        created.set_auto_maskandscale(False)


def _encode(batch: Patches) -> Variables:
    """Arrays of a batch as they are stored, with dimensions and attributes."""
    scalars = {name: CONTEXT[name].unit for name in CONTINUOUS} | {
        name: unit for name, (unit, _) in NUISANCES.items()
    }
    tensors = dict(batch.context) | dict(batch.nuisances)
    variables = _encode_intensity(batch.intensity.numpy())
    for name, labels in LABELS.items():
        values = getattr(batch, name).numpy().astype(np.uint8)
        meaning = {
            "flag_values": np.arange(len(labels), dtype=np.uint8),
            "flag_meanings": " ".join(labels),
        }
        variables[name] = (("image", "patch")[: values.ndim], values, meaning)
    for name, unit in scalars.items():
        variables[name] = (
            ("image", "patch")[: tensors[name].ndim],
            tensors[name].numpy(),
            {"units": unit},
        )
    variables["concentration"] = (
        ("image", "defect_class"),
        tensors["concentration"].numpy(),
        {"units": "1"},
    )
    return variables


def _encode_intensity(
    intensity: np.ndarray,
) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, object]]]:
    """Intensity as integers, with the offset and the scale of every patch."""
    low, high = intensity.min((-2, -1), keepdims=True), intensity.max((-2, -1), keepdims=True)
    scale = (high - low) / np.float32(STEPS)
    scale[scale == 0] = 1  # a patch without a count
    stored = np.rint((intensity - low) / scale).clip(0, STEPS).astype(np.uint16)
    meaning = {
        "units": "counts",
        "long_name": "intensity is intensity_offset + intensity_scale * this",
    }
    return {
        "intensity": (("image", "patch", "y", "x"), stored, meaning),
        "intensity_offset": (("image", "patch"), low[..., 0, 0], {"units": "counts"}),
        "intensity_scale": (("image", "patch"), scale[..., 0, 0], {"units": "counts"}),
    }


def open_shard(path: Path) -> netCDF4.Dataset:
    """Open a shard for ``read_images``.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    netCDF4.Dataset
        To be closed by the caller.

    Raises
    ------
    ValueError
        If the file is missing, damaged or foreign.
    """
    try:
        return netCDF4.Dataset(path)
    except (OSError, RuntimeError) as error:
        raise _refuse(path, error) from error


def _refuse(path: object, error: Exception) -> ValueError:
    """The error for a file that is no shard."""
    return ValueError(
        f"a shard was expected, {path} is missing, damaged or foreign ({error}); "
        "write it again by repeating write_shards with verify=True"
    )


def read_images(file: netCDF4.Dataset, first: int, last: int) -> Patches:
    """Read some images of a shard.

    Parameters
    ----------
    file : netCDF4.Dataset
        From ``open_shard``.
    first, last : int
        First image, and the one after the last.

    Returns
    -------
    Patches
        As they were simulated, except that intensity is rounded to 16 bits.

    Raises
    ------
    ValueError
        If the file is damaged or foreign.
    """
    try:
        return _read_images(file, first, last)
    except (OSError, RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _refuse(file.filepath(), error) from error


def _read_images(file: netCDF4.Dataset, first: int, last: int) -> Patches:
    """Read images; indices without a name and infinite numbers are errors."""
    file.set_auto_maskandscale(False)

    def read(name: str) -> torch.Tensor:
        values = np.asarray(file[name][first:last])
        if len(values) != last - first:
            raise ValueError(f"{name} of {last} images was expected, there are fewer")
        if name in LABELS and values.max() >= len(LABELS[name]):
            raise ValueError(f"{name} has a value without a name")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite")
        return torch.from_numpy(
            values.astype(np.int64 if name in LABELS else np.float32, copy=False)
        )

    scale, offset = (
        read("intensity_scale")[..., None, None],
        read("intensity_offset")[..., None, None],
    )
    return Patches(
        **{name: read(name) for name in LABELS},
        intensity=read("intensity").mul_(scale).add_(offset),
        context={name: read(name) for name in CONTINUOUS},
        nuisances={name: read(name) for name in (*NUISANCES, "concentration")},
    )

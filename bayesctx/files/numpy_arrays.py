"""Files of plain arrays: .npy and .npz; and those of Nion Swift, which add metadata."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from .assembly import Choice, assemble, check_size, label
from .formats import reading
from .netcdf import pick
from .record import Array, Entry, Signal, lookup, pixel
from .units import is_reciprocal
from .vendors import read_nion

__all__ = ["of_nion", "read_ndata", "read_npy", "read_npz"]

AGAIN = "save it again with numpy.save or numpy.savez"
LAYOUTS = {2: ("y", "x"), 3: ("patch", "y", "x"), 4: ("image", "patch", "y", "x")}


def read_npy(path: Path, choice: Choice) -> xr.DataArray:
    """Read a .npy file, mapped first so that a wrong header cannot allocate more than it holds.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Elements of dimensions.

    Returns
    -------
    DataArray
        Of two dimensions (y, x), three (patch, y, x) or four (image, patch, y, x).
    """
    _no_variable(choice)
    with reading(path, "an array of numpy", AGAIN):
        mapped = np.lib.format.open_memmap(path, mode="r")
    return _as_image(mapped, choice, ".npy")


def read_npz(path: Path, choice: Choice) -> xr.DataArray:
    """Read one array of a .npz file.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Name of the array (default: the only one of two or more dimensions), and elements.

    Returns
    -------
    DataArray
        As of ``read_npy``.
    """
    with reading(path, "an archive of numpy", AGAIN), zipfile.ZipFile(path) as archive:
        headers = {name[:-4]: _header(archive, name) for name in archive.namelist()}
        images = [name for name, shape in headers.items() if len(shape) >= 2]
        wanted = choice.variable
        if wanted is None and len(images) == 1:
            wanted = images[0]
        if wanted not in images:
            listed = ", ".join(f"{name} {shape}" for name, shape in headers.items())[:200]
            raise ValueError(
                f"{wanted or 'one array'} of two or more dimensions was expected in {choice.path}, "
                f"it has {listed or 'none'}; choose one by variable"
            )
        check_size(choice.path, headers[wanted])
        with archive.open(f"{wanted}.npy") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
        return _as_image(values, choice, ".npz")


def _no_variable(choice: Choice) -> None:
    """Raise where a variable is named in a file of one array."""
    if choice.variable is not None:
        raise ValueError(
            f"no variable was expected for a .npy file, got {choice.variable!r} of {choice.path}; "
            "leave it out: variables belong to netCDF files and .npz"
        )


def _header(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Shape of an array in an archive, which its header states."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        return read[version[0]](file)[0]


def _as_image(values: np.ndarray, choice: Choice, kind: str) -> xr.DataArray:
    """Name the dimensions of a plain array."""
    check_size(choice.path, values.shape)
    if values.ndim not in LAYOUTS:
        raise ValueError(
            f"an array of two dimensions (y, x), three (patch, y, x) or four was expected, "
            f"{choice.path} has the shape {values.shape}; save the image alone"
        )
    if values.dtype.kind not in "iuf":
        raise ValueError(
            f"an image of real numbers was expected, {choice.path} has values of {values.dtype}; "
            "save the intensities"
        )
    found = label(np.array(values), choice.path, kind, (None, None), {}, dims=LAYOUTS[values.ndim])
    return pick(found, choice.select)


def read_ndata(path: Path, choice: Choice) -> xr.DataArray:
    """Read a file of Nion Swift: an array and JSON in a ZIP archive without compression.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        A frame of a series.

    Returns
    -------
    DataArray, shape (y, x)
        With what Nion Swift records.
    """
    with reading(path, "a file of Nion Swift"), zipfile.ZipFile(path) as archive:
        tree = json.loads(archive.read("metadata.json").decode("utf-8"))
        check_size(choice.path, _header(archive, "data.npy"))
        with archive.open("data.npy") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
        signal = of_nion(values, tree if isinstance(tree, dict) else {})
    return assemble([signal], choice, "Nion ndata")


def of_nion(values: Array, tree: Mapping[str, object]) -> Signal:
    """Image of Nion Swift, by its array and its metadata.

    Parameters
    ----------
    values : array
        The array, in memory or not.
    tree : mapping
        Its JSON.

    Returns
    -------
    Signal
        With the flaw of what is no image.
    """
    axes = _calibrations(tree)
    size: tuple[Entry | None, Entry | None] = (None, None)
    if len(axes) == values.ndim >= 2:
        size = tuple(
            pixel(axis.get("scale"), axis.get("units"), f"spatial_calibrations.{k}.scale")
            for k, axis in enumerate(axes)
        )[-2:]
    found = read_nion(tree, size)
    name = found.detector or str(tree.get("title") or "")
    if values.ndim != 2 and not (values.ndim == 3 and tree.get("is_sequence")):
        return Signal.other(name, values.shape, "a spectrum, a spectrum image or 4D-STEM data")
    units = [axis.get("units") for axis in axes[-2:]]
    flaw = "a diffraction pattern or Fourier transform" if any(map(is_reciprocal, units)) else ""
    return replace(Signal.of(name, values), pixel=size, context=found.context, flaw=flaw)


def _calibrations(tree: Mapping[str, object]) -> list:
    """Calibrations of the dimensions, of an exported file or of one in a library."""
    sources = tree.get("data_sources")
    inner = sources[0] if isinstance(sources, list) and sources else {}
    places = (
        lookup(tree, "spatial_calibrations"),
        lookup(tree, "dimensional_calibrations"),
        lookup(inner, "dimensional_calibrations"),
    )
    axes = next((place for place in places if isinstance(place, list)), [])
    return axes if all(isinstance(axis, dict) for axis in axes) else []

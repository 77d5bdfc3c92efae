"""HDF5 files: which software wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import xarray as xr

from .assembly import Choice, assemble
from .berkeley import signals_of_berkeley
from .formats import reading, refuse
from .netcdf import read_netcdf
from .numpy_arrays import of_nion
from .record import Signal
from .rosetta import read_rosetta
from .velox import is_velox, signals_of_velox

__all__ = ["read_hdf5"]

MOST_NAMED = 6  # datasets in an error
FOREIGN = {
    "py4DSTEM": ("authoring_program", "a py4DSTEM file", "compute a dark-field image first"),
    "nexus": ("NX_class", "a NeXus file", "load its image by h5py and pass the array to infer"),
    "usid": ("pyUSID_version", "a USID file", "load it by sidpy and pass the Dataset to infer"),
}


def read_hdf5(path: Path, choice: Choice) -> xr.DataArray:
    """Read an HDF5 file of a layout that is known.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Of the user.

    Returns
    -------
    DataArray
        The image, or the detectors of one scan.

    Raises
    ------
    ValueError
        If it is truncated, or of another layout: what is in it, and what to do.
    """
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        if is_velox(file):
            return assemble(signals_of_velox(file), choice, "Velox EMD")
        kind, known = _layout(file)
        if known is not None:
            return assemble(known, choice, kind)
        if not kind:
            raise refuse(path, *_describe(file))
    return read_rosetta(path, choice, "hspy") if kind == "HyperSpy" else read_netcdf(path, choice)


def _layout(file: h5py.File) -> tuple[str, list[Signal] | None]:
    """The layout, with the images if they were listed; empty if it is not known."""
    if "HyperSpy" in _text(file.attrs.get("file_format")) or "Experiments" in file:
        return "HyperSpy", None
    found = signals_of_berkeley(file)
    if found:
        return "Berkeley EMD", found
    data = file.get("data")
    if isinstance(data, h5py.Dataset) and "properties" in data.attrs:
        tree = json.loads(_text(data.attrs["properties"]))
        return "Nion HDF5", [of_nion(data, tree if isinstance(tree, dict) else {})]
    return ("netCDF", None) if _is_netcdf(file) else ("", None)


def _text(value: object) -> str:
    """An attribute as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_netcdf(file: h5py.File) -> bool:
    """Whether the file was written by netCDF, which leaves marks and scales of dimensions."""
    if "_NCProperties" in file.attrs:
        return True
    sets = [v for v in file.values() if isinstance(v, h5py.Dataset)]
    return any("DIMENSION_LIST" in v.attrs or "_Netcdf4Dimid" in v.attrs for v in sets)


def _describe(file: h5py.File) -> tuple[str, str]:
    """What an HDF5 file of another layout is, and what to do."""
    attrs = set(file.attrs)
    for item in file.values():
        attrs |= set(item.attrs)
    for mark, what, remedy in FOREIGN.values():
        if mark in attrs:
            return what, remedy
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 1:
            found.append(f"{name} {item.shape}")

    file.visititems(visit)
    two = [n for n in found if n.count(",") == 1 and ",)" not in n]
    listed = ", ".join([*two, *(n for n in found if n not in two)][:MOST_NAMED]) or "no arrays"
    what = f"an HDF5 file of a layout that is not known, with {listed}"
    return what, "load the image by h5py and pass the array to infer"

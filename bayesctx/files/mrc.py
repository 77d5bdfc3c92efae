"""MRC files, with the extended header of Thermo Fisher where there is one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import xarray as xr

from .assembly import Choice, assemble, check_size
from .formats import reading
from .record import Entry, Signal, find, pixel

__all__ = ["read_mrc"]

THERMO_FISHER = (b"FEI1", b"FEI2")
VOLTS = 1e4  # a high tension above this number is in V, below in kV


def read_mrc(path: Path, choice: Choice) -> xr.DataArray:
    """Read an MRC file.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        A frame of a stack.

    Returns
    -------
    DataArray, shape (y, x)
        With the pixel size, and beam energy and detector of the extended header.

    Raises
    ------
    ValueError
        If it is damaged, or no image.
    """
    with reading(path, "an MRC file"), warnings.catch_warnings():
        # of bytes behind the image; a file that is too short is an error
        warnings.simplefilter("ignore", RuntimeWarning)
        # mrcfile 1.5 sets the type of arrays, which numpy 2.5 deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        with mrcfile.open(path, mode="r", header_only=True) as file:
            check_size(choice.path, [int(file.header[n]) for n in ("nz", "ny", "nx")])
        with mrcfile.open(path, mode="r") as file:
            signal = _signal(file, np.array(file.data))
    return assemble([signal], choice, "MRC")


def _signal(file: mrcfile.mrcfile.MrcFile, values: np.ndarray) -> Signal:
    """The image of an open file."""
    header = file.header
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim > 3 or (values.ndim == 3 and file.is_volume()):
        return Signal.other("", values.shape, "a volume or a stack of volumes")
    size = tuple(
        pixel(float(header.cella[a]) / max(int(header[n]), 1), "Å", f"cella.{a} / {n}")
        for a, n in (("y", "my"), ("x", "mx"))
    )
    name, context = "", {}
    if bytes(header.exttyp) in THERMO_FISHER:
        first = np.atleast_1d(file.indexed_extended_header)[:1]
        if len(first):
            name, context, size = _of_thermo_fisher(first[0], size)
    return replace(Signal.of(name, values), pixel=size, context=context)


def _of_thermo_fisher(
    record: np.void, size: tuple[Entry | None, Entry | None]
) -> tuple[str, dict[str, Entry], tuple[Entry | None, Entry | None]]:
    """Detector, beam energy and pixel size (in m) of the extended header."""
    known = {n: record[n].item() for n in record.dtype.names if record[n].dtype.kind in "if"}
    volts = known.get("HT", 0.0)
    energy = find(known, "HT", "V" if volts >= VOLTS else "kV")
    own = tuple(
        pixel(known.get(f"Pixel size {axis}"), "m", f"extended header, Pixel size {axis}")
        for axis in ("Y", "X")
    )
    size = tuple(mine or general for mine, general in zip(own, size, strict=True))
    text = bytes(record["STEM Detector name"]).decode(errors="replace").strip("\0 ")
    context = {}
    if energy is not None:
        context["beam_energy"] = replace(energy, origin="extended header, HT")
    return text, context, size

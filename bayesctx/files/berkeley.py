"""EMD files of Berkeley (openNCEM, Prismatic): groups with data and vectors dim1, dim2."""

from __future__ import annotations

import re
from collections.abc import Mapping

import h5py
import numpy as np

from .record import Entry, Signal, find, pixel
from .units import FACTORS, is_reciprocal

__all__ = ["signals_of_berkeley"]

VALUES = ("data", "realslice", "datacube")  # names of the array in a group
NAMES = {
    "beam_energy": ("voltage", "accelerating_voltage", "acceleration_voltage", "beam_energy"),
    "convergence_semiangle": ("convergence_semiangle", "convergence_semi_angle", "semiconvergence"),
}
"""Attributes of the group 'microscope'; their units are in the value or in NAME_units."""

QUANTITY = re.compile(r"^\s*([-+.\deE]+)\s*([A-Za-zµ]*)\s*$")


def signals_of_berkeley(file: h5py.File) -> list[Signal]:
    """List the images of a Berkeley EMD file.

    Parameters
    ----------
    file : h5py.File
        The open file, which must stay open until the images are loaded.

    Returns
    -------
    list of Signal
        One for each data group; empty if there is none.
    """
    groups: list[h5py.Group] = []

    def visit(_: str, item: object) -> None:
        if isinstance(item, h5py.Group) and _is_data_group(item):
            groups.append(item)

    file.visititems(visit)
    context = _context(file)
    return [_signal(group, context) for group in groups]


def _is_data_group(group: h5py.Group) -> bool:
    """Whether a group holds an array with its vectors."""
    marked = np.ravel(group.attrs.get("emd_group_type", 0))
    is_array = len(marked) == 1 and str(_text(marked[0])) in ("1", "array")
    return is_array and any(isinstance(group.get(n), h5py.Dataset) for n in VALUES)


def _text(value: object) -> str:
    """An attribute as text."""
    first = np.ravel(value)[0] if np.size(value) else ""
    return first.decode(errors="replace") if isinstance(first, bytes) else str(first)


def _context(file: h5py.File) -> dict[str, Entry]:
    """Beam energy and convergence of the group 'microscope', where their units are stated."""
    group = file.get("microscope")
    attrs = dict(group.attrs) if isinstance(group, h5py.Group) else {}
    found = {}
    for name, keys in NAMES.items():
        for key in keys:
            entry = _quantity(attrs, key)
            if entry is not None and entry.unit == ("eV" if name == "beam_energy" else "mrad"):
                found.setdefault(name, entry)
    return found


def _quantity(attrs: Mapping[str, object], key: str) -> Entry | None:
    """A number with its unit."""
    parts = QUANTITY.match(_text(attrs[key])) if key in attrs else None
    if parts is None:
        return None
    other = _text(attrs.get(f"{key}_units", attrs.get(f"{key}_unit", ""))).strip("[]")
    unit = parts.group(2) or other
    unit = "V" if unit == "eV" else unit
    if unit not in FACTORS:
        return None
    entry = find({key: parts.group(1)}, key, unit)
    return entry and Entry(entry.value, entry.unit, f"microscope.{key}", entry.recorded)


def _signal(group: h5py.Group, context: Mapping[str, Entry]) -> Signal:
    """One image."""
    data = next(group[n] for n in VALUES if isinstance(group.get(n), h5py.Dataset))
    name = group.name.rpartition("/")[2]
    vectors = [group.get(f"dim{k + 1}") for k in range(data.ndim)]
    if data.ndim != 2:
        return Signal.other(name, data.shape, "a spectrum, a stack or 4D-STEM data")
    size = tuple(_step(vector, group.name) for vector in vectors)
    # Prismatic writes x before y, and vectors named R_x, R_y; HyperSpy too, and marks its files
    names = [_text(v.attrs.get("name", "")).lower()[-1:] if v is not None else "" for v in vectors]
    is_turned = names == ["x", "y"] or "record_by" in group.attrs
    units = [_text(v.attrs.get("units", "")) for v in vectors if v is not None]
    flaw = "a diffraction pattern or Fourier transform" if any(map(is_reciprocal, units)) else ""
    return Signal(
        name=name,
        shape=data.shape[::-1] if is_turned else data.shape,
        load=lambda frame: data[()].T if is_turned else data[()],
        dtype=data.dtype,
        pixel=size[::-1] if is_turned else size,
        context=context,
        flaw=flaw,
    )


def _step(vector: h5py.Dataset | None, place: str) -> Entry | None:
    """Distance of two neighbours of a vector, which may hold only its first two values."""
    if vector is None or len(vector) < 2 or vector.dtype.kind not in "iuf":
        return None
    unit = vector.attrs.get("units", "")
    name = vector.name.rpartition("/")[2]
    return pixel(float(vector[1]) - float(vector[0]), _text(unit), f"{place.strip('/')}.{name}")

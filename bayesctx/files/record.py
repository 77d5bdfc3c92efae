"""What a file records of an image: values with their origin, and the images of its detectors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .units import convert, length

__all__ = [
    "Array",
    "ELECTRON",
    "Entry",
    "OF_FRAME",
    "Signal",
    "as_json",
    "dose",
    "find",
    "lookup",
    "parse_record",
    "pixel",
    "with_dose_of_frame",
]

Array = Any
"""An array of numpy, h5py or dask."""

ELECTRON = 1.602176634e-19  # charge in C
OF_FRAME = "dose_of_frame"
"""Name in a record of the dose of one frame, where it is not known how many were summed."""


@dataclass(frozen=True)
class Entry:
    """A value that a file records.

    Attributes
    ----------
    value : float
        In ``unit``.
    unit : str
        Unit of the package.
    origin : str
        The metadata entry of the file that it comes from.
    recorded : str
        As the file writes it, with its unit.
    pixel_area : float, optional
        In Å², of a dose that is computed by it.
    """

    value: float
    unit: str
    origin: str
    recorded: str
    pixel_area: float | None = None


@dataclass(frozen=True, eq=False)
class Signal:
    """An image in a file, before it is loaded.

    Attributes
    ----------
    name : str
        Of the detector, or of the image; empty if neither has a name.
    shape : tuple of int
        Rows and columns.
    load : callable
        From the number of a frame to its values, shape (y, x).
    num_frames : int
        Images of the series.
    dtype : dtype
        Of the values.
    pixel : tuple of Entry or None
        Size along y and x in Å.
    context : mapping of str to Entry
        What the file records of the scan, by the names of ``CONTEXT``.
    angles : mapping of str to Entry
        The same of this detector.
    flaw : str
        Why it is no annular dark-field image, such as "bright field"; empty if it may be one.
    is_image : bool
        False for spectra, 4D-STEM data, pictures in colours and the like, which cannot be chosen.
    scan : str
        What images that were recorded at once have in common; empty if that is not known.
    notes : tuple of str
        What was done to it, as far as the file says, and what was not taken from the file.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[int], np.ndarray]
    num_frames: int = 1
    dtype: np.dtype = field(default_factory=lambda: np.dtype(float))
    pixel: tuple[Entry | None, Entry | None] = (None, None)
    context: Mapping[str, Entry] = field(default_factory=dict)
    angles: Mapping[str, Entry] = field(default_factory=dict)
    flaw: str = ""
    is_image: bool = True
    scan: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, values: Array) -> Signal:
        """Signal of an array, of which nothing else is known.

        Parameters
        ----------
        name : str
            Of the detector or image.
        values : array, shape (y, x) or (frame, y, x)
            Intensities, in memory or not.

        Returns
        -------
        Signal
            With the shape, type and number of frames of the array.
        """
        shape, is_series = tuple(map(int, values.shape)), values.ndim == 3

        def load(frame: int) -> np.ndarray:
            return np.asarray(values[frame] if is_series else values[()])

        return cls(name, shape[-2:], load, shape[0] if is_series else 1, np.dtype(values.dtype))

    @classmethod
    def other(cls, name: str, shape: tuple[int, ...], flaw: str) -> Signal:
        """Data that are no image.

        Parameters
        ----------
        name : str
            Of the data.
        shape : tuple of int
            Of the data.
        flaw : str
            What they are.

        Returns
        -------
        Signal
            For errors.
        """
        what = f"{flaw} of shape {tuple(shape)}"
        return cls(name, shape, lambda frame: np.empty(shape), flaw=what, is_image=False)


def lookup(tree: object, path: str) -> object:
    """Look up an entry of nested metadata.

    Parameters
    ----------
    tree : mapping
        The metadata.
    path : str
        Keys, separated by slashes.

    Returns
    -------
    object
        The entry; None if there is none.
    """
    for key in path.split("/"):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _number(value: object) -> float | None:
    """A finite number, also where it is written as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def find(tree: object, paths: str | tuple[str, ...], unit: str) -> Entry | None:
    """Find a value above zero; microscopes write zero for what they do not know.

    Parameters
    ----------
    tree : mapping
        The metadata.
    paths : str or tuple of str
        Where it may be, the preferred place first.
    unit : str
        In which the file writes it.

    Returns
    -------
    Entry or None
        In the unit of the package; None if no place has a number above zero.
    """
    for path in (paths,) if isinstance(paths, str) else paths:
        number = _number(lookup(tree, path))
        if number is not None and number > 0:
            value, own = convert(number, unit)
            text = f"{number:.7g} {unit}".removesuffix(" 1")
            return Entry(value, own, path.replace("/", "."), text)
    return None


def pixel(value: object, unit: object, origin: str) -> Entry | None:
    """Size of a pixel.

    Parameters
    ----------
    value : float
        As the file writes it; its sign is that of an axis.
    unit : str
        Unit of length.
    origin : str
        The metadata entry.

    Returns
    -------
    Entry or None
        In Å; None where it is not above zero, or of another unit.
    """
    number = _number(value)
    size = None if number is None else length(abs(number), unit)
    if size is None:
        return None
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    return Entry(size, "Å", origin, f"{abs(number):.7g} {text.strip()}")


def dose(
    current: Entry | None, dwell: Entry | None, size: tuple[Entry | None, Entry | None]
) -> dict[str, Entry]:
    """Dose of one scan, current x dwell time / (charge x area of a pixel).

    Parameters
    ----------
    current, dwell : Entry, optional
        Beam current in A, time per pixel in s.
    size : tuple of Entry or None
        Of a pixel along y and x in Å.

    Returns
    -------
    dict of str to Entry
        ``dose`` in e/Å²; empty if a factor is not recorded.
    """
    if current is None or dwell is None or None in size:
        return {}
    area = size[0].value * size[1].value
    value = current.value * dwell.value / (ELECTRON * area)
    origin = f"{current.origin} x {dwell.origin} / (e x pixel area)"
    return {"dose": Entry(value, "e/Å²", origin, f"{current.recorded} x {dwell.recorded}", area)}


def as_json(context: Mapping[str, object]) -> str:
    """Write a recorded context as text, which netCDF can store.

    Parameters
    ----------
    context : mapping of str to Entry or mapping
        By name; ``detector`` is a mapping of names to mappings.

    Returns
    -------
    str
        JSON of one line.
    """
    return json.dumps(context, ensure_ascii=False, default=_as_dict)


def _as_dict(entry: Entry) -> dict[str, object]:
    """What is known of an entry."""
    return {name: value for name, value in asdict(entry).items() if value is not None}


def parse_record(attrs: Mapping[str, object]) -> dict[str, object]:
    """Read the recorded context in the attributes of an image.

    Parameters
    ----------
    attrs : mapping
        The attributes, perhaps of other software.

    Returns
    -------
    dict
        As it was written by ``as_json``; empty if there is none.
    """
    try:
        found = json.loads(attrs.get("context", "{}"))
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def with_dose_of_frame(context: Mapping[str, Any]) -> dict[str, Any]:
    """Take a recorded dose for that of one frame of an image that may be the sum of several.

    Parameters
    ----------
    context : mapping
        Entries by name.

    Returns
    -------
    dict
        With ``dose_of_frame`` instead of ``dose``.
    """
    return {OF_FRAME if name == "dose" else name: entry for name, entry in context.items()}

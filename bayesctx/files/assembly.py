"""From the images in a file to one DataArray: which of them are the detectors of one scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from ..checks import shorten
from ..context import CONTEXT
from ..storage import warn
from .record import Entry, Signal, as_json
from .units import remedy_of_size
from .vendors import BRIGHT_FIELD

__all__ = ["MOST_VALUES", "Choice", "assemble", "check_size", "label", "places_of"]

MOST_VALUES = 10**9  # of an image: 4 GB in single precision
LONGEST = 60  # characters of a name
UNEQUAL = 0.002  # relative difference of two pixel sizes that rounding does not explain


@dataclass(frozen=True)
class Choice:
    """What a user wants of a file.

    Attributes
    ----------
    path : str
        Name of the file.
    variable : str, optional
        One of several images.
    select : mapping of str to str
        Dimension to label or position.
    """

    path: str
    variable: str | None
    select: Mapping[str, str]


def check_size(path: object, shape: Sequence[int]) -> None:
    """Check that an image fits into memory and is not empty.

    Parameters
    ----------
    path : object
        Name of the file, for errors.
    shape : sequence of int
        Of the image.

    Raises
    ------
    ValueError
        If it has no pixels or too many.
    """
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(
            f"an image of at most {MOST_VALUES} values was expected, {path} has the shape "
            f"{tuple(shape)}; write a part of it"
        )
    if not math.prod(shape):
        raise ValueError(
            f"an image with pixels was expected, {path} has the shape {tuple(shape)}; export it "
            "again"
        )


def assemble(signals: Sequence[Signal], choice: Choice, kind: str) -> xr.DataArray:
    """Join the images of a file that are the detectors of one scan.

    Parameters
    ----------
    signals : sequence of Signal
        All images of the file.
    choice : Choice
        Of the user.
    kind : str
        The format, in words.

    Returns
    -------
    DataArray, shape (y, x) or (detector, y, x)
        With what the file records.

    Raises
    ------
    ValueError
        If no image is an annular dark-field scan, or several could be meant.

    Warns
    -----
    UserWarning
        If images are left out, or the pixel size is doubtful.
    """
    if not signals:
        raise ValueError(
            f"a two-dimensional image was expected, {choice.path} ({kind}) has none; export the "
            "image of the dark-field detector"
        )
    for name in choice.select:
        if name not in ("detector", "frame"):
            raise ValueError(
                f"a dimension among detector, frame was expected for {choice.path}, got {name!r}; "
                "correct select"
            )
    signals = [replace(s, name=" ".join(s.name.split())[:LONGEST]) for s in signals]
    chosen = _choose(_with_flaws(signals), choice, kind)
    _check_shapes(chosen, choice)
    for signal in chosen:
        _check_values(signal, choice)
    values = [_load(signal, choice) for signal in chosen]
    for note in dict.fromkeys(note for s in chosen for note in s.notes):
        warn(f"{choice.path}: {note}")
    names = [s.name for s in chosen]
    context: dict[str, object] = dict(chosen[0].context)
    several = len(chosen) > 1
    if several:
        context["detector"] = {s.name: dict(s.angles) for s in chosen}
    else:
        context |= chosen[0].angles
    image = np.stack(values) if several else values[0]
    notes = [note for s in chosen for note in s.notes]
    found = label(image, choice.path, kind, chosen[0].pixel, context, notes)
    if several:
        return found.assign_coords(detector=names)
    return found.assign_coords(detector=names[0]) if names[0] else found


def _with_flaws(signals: Sequence[Signal]) -> list[tuple[Signal, str]]:
    """Each image, and why it is no annular dark-field image."""
    return [
        (s, s.flaw or ("bright field" if BRIGHT_FIELD.fullmatch(s.name) else "")) for s in signals
    ]


def _choose(found: Sequence[tuple[Signal, str]], choice: Choice, kind: str) -> list[Signal]:
    """The images that are meant: those that were named, else all without a flaw."""
    wanted = choice.variable or choice.select.get("detector")
    if wanted is not None:
        return [_named(wanted, [s for s, _ in found], choice)]
    good = [s for s, flaw in found if not flaw]
    left = [f"{s.name or 'one image'} ({flaw})" for s, flaw in found if flaw]
    if not good:
        names = [s.name or str(k) for k, (s, _) in enumerate(found) if s.is_image]
        remedy = "export the annular dark-field image of this scan alone"
        if names:
            remedy = f"if it is one all the same, select it, for example detector={names[0]}"
        raise ValueError(
            f"an annular dark-field scan was expected, {choice.path} ({kind}) has "
            f"{', '.join(left)[:200]}; {remedy}"
        )
    if left:
        warn(f"{choice.path}: left out are {', '.join(left)[:200]}; select detector=NAME for one")
    return good


def _named(wanted: str, signals: Sequence[Signal], choice: Choice) -> Signal:
    """The one image of a name, or else of a number."""
    chosen = [s for s in signals if s.name == wanted]
    if not chosen and wanted.isdecimal() and int(wanted) < len(signals):
        chosen = [signals[int(wanted)]]
    if len(chosen) != 1 or not chosen[0].is_image:
        few = ", ".join(
            f"{k}: {s.name or 'without a name'}{'' if s.is_image else f', {s.flaw}'}"
            for k, s in enumerate(signals[:12])
        )[:240]
        raise ValueError(
            f"one image of {choice.path} was expected as {wanted!r}, it has {len(signals)} "
            f"({few}); select a detector by name or number"
        )
    return chosen[0]


def _check_shapes(chosen: Sequence[Signal], choice: Choice) -> None:
    """Raise for images that are not the detectors of one scan."""
    first = chosen[0]
    listed = ", ".join(f"{s.name or k} {s.shape}" for k, s in enumerate(chosen))[:200]
    names = [s.name for s in chosen]
    alike = all(
        (s.shape, s.num_frames, s.scan) == (first.shape, first.num_frames, first.scan)
        and _same(s.pixel, first.pixel)
        for s in chosen
    )
    distinct = len(set(names)) == len(names) and all(names)
    if len(chosen) == 1 or (alike and distinct and first.scan):
        return
    what = "images of several scans"
    if alike:
        what = "images that may be of several scans" if distinct else "images of the same name"
    raise ValueError(
        f"one image, or the detectors of one scan, were expected in {choice.path}, it has {what} "
        f"({listed}); choose one by its number, select detector=0"
    )


def _same(first: tuple, second: tuple) -> bool:
    """Whether two pairs of pixel sizes are equal."""
    for one, other in zip(first, second, strict=True):
        if (one is None) != (other is None):
            return False
        if one is not None and abs(one.value / other.value - 1) > UNEQUAL:
            return False
    return True


def _check_values(signal: Signal, choice: Choice) -> None:
    """Raise for values that are no intensities."""
    check_size(choice.path, signal.shape)
    if signal.dtype.kind == "c" or signal.dtype.names:
        raise ValueError(
            f"an image of real numbers was expected, {choice.path} has {signal.dtype}, as a "
            "Fourier transform or a hologram has; export the image itself"
        )
    if signal.dtype.kind not in "iuf":
        raise ValueError(
            f"an image of numbers was expected, {choice.path} has values of {signal.dtype}; "
            "export the image itself"
        )


def _load(signal: Signal, choice: Choice) -> np.ndarray:
    """Values of the frame that is meant."""
    wanted = choice.select.get("frame")
    if wanted is None:
        if signal.num_frames > 1:
            raise ValueError(
                f"one image was expected in {choice.path}, {signal.name or 'it'} is a series of "
                f"{signal.num_frames} frames; align and sum them, or select one, for example "
                "frame=0"
            )
        wanted = "0"
    if not (wanted.isdecimal() and int(wanted) < signal.num_frames):
        raise ValueError(
            f"a frame from 0 to {signal.num_frames - 1} of {choice.path} was expected, got "
            f"{shorten(wanted)}; correct select"
        )
    values = np.array(signal.load(int(wanted)))
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise ValueError(
            f"an image with finite intensities was expected, all of {choice.path} are NaN or "
            "infinite; export it again"
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def label(
    values: np.ndarray,
    path: str,
    kind: str,
    size: tuple[Entry | None, Entry | None],
    context: Mapping[str, object],
    notes: Sequence[str] = (),
    dims: tuple[str, ...] | None = None,
) -> xr.DataArray:
    """Image with coordinates, and attributes that say where each value comes from.

    Parameters
    ----------
    values : ndarray, shape (y, x) or (detector, y, x)
        Intensities.
    path : str
        Name of the file.
    kind : str
        The format, in words.
    size : tuple of Entry or None
        Of a pixel along y and x in Å.
    context : mapping of str to Entry or mapping
        What the file records.
    notes : sequence of str
        What was done to the image.
    dims : tuple of str, optional
        Other names of the dimensions.

    Returns
    -------
    DataArray
        Named ``intensity``.
    """
    found = xr.DataArray(
        values, dims=dims or ("detector", "y", "x")[-values.ndim :], name="intensity"
    )
    if None not in size:
        found = found.assign_coords(places_of(found.sizes, size))
        context = {**context, "sampling": size[1]}
        _check_sampling(size[1], path)
    history = "; ".join((f"read from {path}, {kind}", *notes))
    found.attrs = {
        "long_name": "intensity",
        "source": path,
        "format": kind,
        "context": as_json(context),
        "history": history,
    }
    return found


def places_of(sizes: Mapping, size: tuple[Entry, Entry]) -> dict[str, tuple]:
    """Coordinates of pixels in Å.

    Parameters
    ----------
    sizes : mapping of str to int
        Numbers of rows, y, and columns, x.
    size : tuple of Entry
        Of a pixel along y and x.

    Returns
    -------
    dict of str to tuple
        As xarray takes coordinates.
    """
    return {
        axis: (
            axis,
            np.arange(sizes[axis]) * entry.value,
            {"units": "Å", "long_name": f"position along {axis}"},
        )
        for axis, entry in zip(("y", "x"), size, strict=True)
    }


def _check_sampling(entry: Entry, path: str) -> None:
    """Warn of a pixel size at which columns cannot be told apart."""
    low, high = CONTEXT["sampling"].domain
    if not low * (1 - UNEQUAL) <= entry.value <= high * (1 + UNEQUAL):
        warn(
            f"pixels of {low:g} to {high:g} Å were expected, {path} states {entry.value:.4g} Å "
            f"({entry.origin}); {remedy_of_size(entry.value)}"
        )

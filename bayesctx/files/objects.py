"""Images in memory of other packages: HyperSpy, sidpy, LiberTEM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from .assembly import Choice, assemble
from .record import Entry, Signal, find, lookup, pixel, with_dose_of_frame
from .rosetta import signal_of
from .units import is_reciprocal
from .vendors import (
    Found,
    read_digitalmicrograph,
    read_velox,
    size_of_tags,
    size_of_velox,
)

__all__ = ["as_image"]

CHOICE = Choice("", None, {})
STACKS = ("IMAGE_STACK",)
IMAGES = ("IMAGE", "IMAGE_MAP", "UNKNOWN")


def as_image(source: object, choice: Choice | None = None) -> object:
    """Turn an image of another package into a DataArray.

    Parameters
    ----------
    source : object
        A Signal2D of HyperSpy, a Dataset of sidpy, an AnalysisResult or a buffer of LiberTEM, or
        anything else.
    choice : Choice, optional
        A frame of a series.

    Returns
    -------
    object
        A DataArray with what the object records; anything else as it is.

    Raises
    ------
    ValueError
        If the object is a spectrum, a stack or the like.
    """
    if isinstance(source, xr.DataArray) or type(source) is np.ndarray:
        return source
    kind = type(source).__module__.partition(".")[0]
    name = f"{type(source).__name__} of {kind}"
    file = lookup(_as_dict(getattr(source, "metadata", {})), "General/original_filename")
    choice = replace(choice or CHOICE, path=f"{file} ({name})" if file else f"the {name}")
    if all(hasattr(source, name) for name in ("axes_manager", "metadata", "data")):
        return assemble([_of_hyperspy(source)], choice, "HyperSpy signal")
    if all(hasattr(source, name) for name in ("data_type", "dim_0", "original_metadata")):
        return assemble([_of_sidpy(source)], choice, "sidpy Dataset")
    if all(hasattr(source, name) for name in ("raw_data", "__array__")):
        return assemble([_of_libertem(source)], choice, "LiberTEM result")
    return source


def _of_hyperspy(source: object) -> Signal:
    """Image of a signal of HyperSpy; one that is lazy is computed."""
    axes = [
        {
            "name": str(axis.name),
            "scale": getattr(axis, "scale", None),
            "units": axis.units,
            "navigate": axis.navigate,
        }
        for axis in getattr(source.axes_manager, "_axes", ())
    ]
    own = {
        "data": source.data,
        "axes": axes,
        "metadata": _as_dict(source.metadata),
        "original_metadata": _as_dict(getattr(source, "original_metadata", {})),
    }
    return signal_of(own, "HyperSpy signal")


def _as_dict(tree: object) -> Mapping[str, object]:
    """Nested metadata of HyperSpy as a dictionary."""
    convert = getattr(tree, "as_dictionary", None)
    found = convert() if callable(convert) else tree
    return found if isinstance(found, Mapping) else {}


def _of_sidpy(source: object) -> Signal:
    """Image of a Dataset of sidpy, whose first dimension is x."""
    values = np.asarray(source)
    kind = str(getattr(source.data_type, "name", source.data_type)).upper()
    axes = [getattr(source, f"dim_{k}") for k in range(values.ndim)]
    size = tuple(_step(a, f"dim_{k}") for k, a in enumerate(axes))[-2:]
    if values.ndim >= 2 and str(axes[-2].name).lower() == "x":
        values, size = values.swapaxes(-1, -2), size[::-1]
    name = str(getattr(source, "title", "") or "")
    is_image = values.ndim == 2 or (values.ndim == 3 and kind in STACKS)
    if not (is_image and kind in (*IMAGES, *STACKS)):
        return Signal.other(name, values.shape, f"data of the type {kind}")
    is_pattern = any(is_reciprocal(axis.units) for axis in axes[-2:])
    flaw = "a diffraction pattern or Fourier transform" if is_pattern else ""
    original = source.original_metadata if isinstance(source.original_metadata, dict) else {}
    energy = find(getattr(source, "metadata", {}), "experiment/acceleration_voltage", "V")
    context = {"beam_energy": energy} if energy is not None else {}
    tags = lookup(original, "ImageTags")
    found = Found()
    if "Optics" in original:
        found = read_velox(original, size_of_velox(original))
    elif isinstance(tags, dict):
        found = read_digitalmicrograph(tags, size_of_tags(original))
    return replace(
        Signal.of(found.detector or name, values),
        pixel=size,
        flaw=flaw or found.flaw,
        context=context | with_dose_of_frame(found.context),
        angles=found.angles,
        notes=found.notes,
    )


def _of_libertem(source: object) -> Signal:
    """Image of a result of LiberTEM: an AnalysisResult, or a buffer of a UDF."""
    values, name = np.asarray(source), str(getattr(source, "title", "") or "")
    if values.ndim not in (2, 3):
        return Signal.other(name, values.shape, "data")
    # a buffer is over the positions of the scan, "nav", or over the pixels of the camera
    is_pattern = getattr(source, "kind", "nav") == "sig"
    flaw = "a diffraction pattern or Fourier transform" if is_pattern else ""
    return replace(Signal.of(name, values), flaw=flaw)


def _step(axis: object, name: str) -> Entry | None:
    """Size of a pixel along a dimension of sidpy."""
    places = np.asarray(axis, dtype=float)
    if places.ndim != 1 or len(places) < 2:
        return None
    return pixel(float(places[1] - places[0]), axis.units, f"{name}.values")

"""Files of arrays with named dimensions: netCDF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from ..context import CONTEXT
from .assembly import Choice, check_size, places_of
from .fingerprint import without_old_dose
from .formats import reading
from .record import Entry, as_json, find, pixel

__all__ = ["pick", "read_netcdf"]

UNITS = {"eV": "V", "keV": "keV", "mrad": "mrad", "rad": "rad"}
LENGTHS = ("angstrom", "nm", "pm")
NUMBERS = ("beam_energy", "convergence_semiangle", "dose", "sampling")
NUMBERS += ("inner_collection_angle", "outer_collection_angle")


def read_netcdf(path: Path, choice: Choice) -> xr.DataArray:
    """Read one variable of a netCDF file.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Name of the variable (default: the only one with dimensions (..., y, x)), and elements of
        its dimensions.

    Returns
    -------
    DataArray
        The variable, with the attributes that ``read`` gives.

    Raises
    ------
    ValueError
        If it cannot be decoded, or several variables could be meant.
    """
    with reading(path, "a netCDF file"), xr.open_dataset(path, engine="netcdf4") as data:
        chosen = _choose(data, choice)
        image = pick(chosen, choice.select)
        check_size(choice.path, image.shape)
        image = image.load()
        found = _recorded(chosen.attrs, _recorded(data.attrs, {}))
    image, found = _with_size(image, found)
    attrs = {"long_name": "intensity", "source": path.name, "format": "netCDF"}
    attrs["context"] = as_json(found)
    attrs["history"] = f"variable {image.name} read from {path.name}, netCDF"
    kept = image.attrs if _is_ours(image.attrs) else {}
    found = image.assign_attrs({**image.attrs, **attrs, **kept}).rename("intensity")
    return without_old_dose(found)


def _with_size(
    image: xr.DataArray, found: dict[str, Entry]
) -> tuple[xr.DataArray, dict[str, Entry]]:
    """Pixel size of the coordinates, or else coordinates of the pixel size in the attributes."""
    entry = found.get("sampling")
    if not {"y", "x"} & image.coords.keys():
        if entry is not None and {"y", "x"} <= set(image.dims):
            image = image.assign_coords(places_of(image.sizes, (entry, entry)))
        return image, found
    found = {n: e for n, e in found.items() if n != "sampling"}
    places = image.coords.get("x")
    if places is None or places.ndim != 1 or places.dtype.kind not in "iuf" or len(places) < 2:
        return image, found
    step = float(places[-1] - places[0]) / (len(places) - 1)
    own = pixel(step, places.attrs.get("units", ""), "coordinate x")
    return image, found | ({} if own is None else {"sampling": own})


def _is_ours(attrs: Mapping[str, object]) -> bool:
    """Whether an image was read by this package before it was saved."""
    try:
        return isinstance(json.loads(str(attrs["context"])), dict) and "format" in attrs
    except (KeyError, ValueError):
        return False


def _recorded(attrs: Mapping[str, object], known: dict[str, Entry]) -> dict[str, Entry]:
    """Values by the names of the context, such as beam_energy, or beam_energy_keV with a unit."""
    found = dict(known)
    for name in NUMBERS:
        unit = CONTEXT[name].unit
        plain = find(attrs, name, "1")
        if plain is not None:
            found[name] = replace(plain, unit=unit, recorded=f"{plain.recorded} {unit}")
        for suffix, other in UNITS.items():
            entry = find(attrs, f"{name}_{suffix}", other)
            if entry is not None and entry.unit == unit:
                found[name] = entry
    for suffix in LENGTHS:
        name = f"sampling_{suffix}"
        entry = pixel(attrs.get(name), suffix, name)
        if entry is not None:
            found["sampling"] = entry
    return found


def _choose(data: xr.Dataset, choice: Choice) -> xr.DataArray:
    """Pick the variable that is an image."""
    images = [str(n) for n, v in data.data_vars.items() if v.dims[-2:] == ("y", "x")]
    variable = choice.variable
    if variable is None and len(images) == 1:
        return data[images[0]]
    if variable in images:
        return data[variable]
    if images:
        listed = f"those are {', '.join(images)}; choose one by variable"
    elif data.attrs.get("package") == "bayesctx":
        listed = "it is a posterior that bayesctx saved; open it with bayesctx.load"
    else:
        listed = f"it has {', '.join(map(str, data)) or 'none'}; rename its dimensions"
    raise ValueError(
        f"{variable or 'one variable'} with dimensions (..., y, x) was expected in {choice.path}; "
        f"{listed}"
    )


def pick(image: xr.DataArray, select: Mapping[str, str]) -> xr.DataArray:
    """Pick elements of dimensions by their label, or else by their position.

    Parameters
    ----------
    image : DataArray
        An image.
    select : mapping of str to str
        Dimension to label or position.

    Returns
    -------
    DataArray
        Without these dimensions.

    Raises
    ------
    ValueError
        If there is no such dimension or label.
    """
    for dim, wanted in select.items():
        if dim not in image.dims:
            raise ValueError(
                f"a dimension among {', '.join(map(str, image.dims))} was expected, got {dim!r}; "
                "correct select"
            )
        labels = [str(v) for v in np.asarray(image[dim].values)]
        if wanted not in labels:
            few = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise ValueError(f"{dim} was expected among {few}, got {wanted!r}; correct select")
        image = image.isel({dim: labels.index(wanted)})
    return image

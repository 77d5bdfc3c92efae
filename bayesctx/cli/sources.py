"""Input of a command: the context from NAME=VALUE, and the image from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import xarray as xr

from ..checks import shorten

__all__ = ["read_context", "read_image"]

MOST_VALUES = 10**9  # of an image: 4 GB in single precision


def read_context(texts: Sequence[str] | None) -> dict[str, object]:
    """Read the context of an image.

    Parameters
    ----------
    texts : sequence of str, optional
        NAME=VALUE, the value a number, a name, a comma list of candidates, or low..high for a
        uniform distribution. ``dopant=none`` is an undoped crystal, ``abundance.CLASS=VALUE`` the
        share of a defect class.

    Returns
    -------
    dict
        A context as ``infer`` takes it, not yet checked.

    Raises
    ------
    ValueError
        If a pair or a range cannot be read.

    Examples
    --------
    >>> read_context(["host=WSe2", "beam_energy=80e3", "dopant=Ti,V"])
    {'host': 'WSe2', 'beam_energy': 80000.0, 'dopant': ['Ti', 'V']}
    >>> read_context(["abundance.Y_X=0", "abundance.V_X=0.03"])
    {'abundance': {'Y_X': 0.0, 'V_X': 0.03}}
    """
    found, shares = {}, {}
    for name, text in _pairs(texts).items():
        kind, _, defect = name.partition(".")
        is_share = kind == "abundance" and defect
        (shares if is_share else found)[defect if is_share else name] = _value(name, text)
    if "abundance" in found:
        raise ValueError(
            f"abundance.CLASS=SHARE was expected, got abundance={shorten(found['abundance'])}; "
            "name the class, for example abundance.V_X=0.03"
        )
    return found | ({"abundance": shares} if shares else {})


def _pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Split NAME=VALUE."""
    found = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(
                f"NAME=VALUE was expected, got {shorten(text)}; "
                "put file names before --context and --select"
            )
        if name in found:
            raise ValueError(
                f"one value of {name} was expected, got {found[name]} and {value}; "
                "separate candidates by commas"
            )
        found[name] = value
    return found


def _value(name: str, text: str) -> object:
    """Read one context value."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1:
        return _range(name, *text.split("..")) if text.count("..") == 1 else _scalar(text)
    if not all(parts) or ".." in text:
        raise ValueError(
            f"{name} was expected as single values between commas, got {shorten(text)}; "
            "a range low..high stands alone"
        )
    return [_scalar(part) for part in parts]


def _scalar(text: str) -> float | str:
    """A number, or else a name."""
    try:
        return float(text)
    except ValueError:
        return text


def _range(name: str, low: str, high: str) -> dist.Uniform:
    """A uniform distribution; the bounds must differ in single precision, in which it is drawn."""
    try:
        bounds = np.array([float(low), float(high)])
    except ValueError:
        bounds = np.full(2, np.nan)
    with np.errstate(over="ignore"):
        drawn = bounds.astype(np.float32)
    if not (np.isfinite(drawn).all() and drawn[0] < drawn[1]):
        raise ValueError(
            f"{name} was expected as low..high, two finite numbers in order, got {low}..{high}; "
            "give one number if they are the same"
        )
    return dist.Uniform(*bounds.tolist())


def read_image(
    path: Path, variable: str | None, select: Sequence[str] | None
) -> xr.DataArray | np.ndarray:
    """Read an image.

    Parameters
    ----------
    path : Path
        A netCDF or .npy file.
    variable : str, optional
        Name in a netCDF file; default: the only one with dimensions (..., y, x).
    select : sequence of str, optional
        DIM=VALUE picks one element of a dimension, by its label or else by its position.

    Returns
    -------
    DataArray or ndarray
        As ``infer`` takes it.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is truncated, of another format or too large, or several variables could be meant.
    """
    is_array = path.suffix == ".npy"
    if is_array and (variable or select):
        raise ValueError(
            f"--variable and --select belong to netCDF files, got {path}; leave them out"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"an image was expected at {path}, there is no such file; correct its name"
        )
    return _read_array(path) if is_array else _read_netcdf(path, variable, _pairs(select))


def _read_array(path: Path) -> np.ndarray:
    """Read a .npy file, mapped first so that a wrong header cannot allocate more than it holds."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's parsers raise nearly anything
        raise _not_an_image(path, error) from error
    _check_size(path, mapped.shape)
    return np.array(mapped)


def _read_netcdf(path: Path, variable: str | None, chosen: dict[str, str]) -> xr.DataArray:
    """Read one variable of a netCDF file."""
    try:
        data = xr.open_dataset(path, engine="netcdf4")
    except Exception as error:  # HDF5 and the decoders of xarray raise nearly anything, too
        raise _not_an_image(path, error) from error
    with data:
        image = _select(_choose(data, path, variable), chosen)
        _check_size(path, image.shape)
        try:
            return image.load()
        except Exception as error:
            raise _not_an_image(path, error) from error


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Raise for an image that is too large for memory."""
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(
            f"an image of at most {MOST_VALUES} values was expected, {path} has the shape {shape}; "
            "write a part of it"
        )


def _not_an_image(path: Path, error: Exception) -> ValueError:
    """Say that a file cannot be read."""
    return ValueError(
        f"a netCDF or .npy file was expected, {path} is truncated or of another format "
        f"({error}); convert it"
    )


def _choose(data: xr.Dataset, path: Path, variable: str | None) -> xr.DataArray:
    """Pick the variable that is an image."""
    images = [str(n) for n, v in data.data_vars.items() if v.dims[-2:] == ("y", "x")]
    if variable is None and len(images) == 1:
        return data[images[0]]
    if variable not in images:
        listed = (
            f"those are {', '.join(images)}; choose one by --variable"
            if images
            else f"it has {', '.join(map(str, data)) or 'none'}; rename its dimensions"
        )
        raise ValueError(
            f"{variable or 'one variable'} with dimensions (..., y, x) was expected in {path}; "
            f"{listed}"
        )
    return data[variable]


def _select(image: xr.DataArray, chosen: dict[str, str]) -> xr.DataArray:
    """Pick elements of dimensions by label."""
    for dim, label in chosen.items():
        if dim not in image.dims:
            raise ValueError(
                f"a dimension among {', '.join(map(str, image.dims))} was expected, got {dim!r}; "
                "correct --select"
            )
        labels = [str(v) for v in image[dim].values]
        if label not in labels:
            few = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise ValueError(f"{dim} was expected among {few}, got {label!r}; correct --select")
        image = image.isel({dim: labels.index(label)})
    return image

"""From the words of a command line to numbers, context and images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import xarray as xr

from ..plots import new_figure

__all__ = ["count", "destination", "index", "picture", "read_context", "read_image", "target"]


def index(text: str) -> int:
    """Read a whole number from 0, also as 10e6.

    Parameters
    ----------
    text : str
        From the command line.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ArgumentTypeError
        If it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 0 or not number.is_integer():
        raise argparse.ArgumentTypeError(
            f"a whole number such as 1000 or 10e6 was expected, got {text!r}"
        )
    return int(number)


def count(text: str) -> int:
    """Read a whole number from 1, also as 10e6.

    Parameters
    ----------
    text : str
        From the command line.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ArgumentTypeError
        If it is none.
    """
    number = index(text)
    if not number:
        raise argparse.ArgumentTypeError("at least 1 was expected, got 0")
    return number


def target(text: str | Path) -> Path:
    """Check that a file can be written before hours are spent on it.

    Parameters
    ----------
    text : str or Path
        The file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ArgumentTypeError
        If there is no such folder, or one that cannot be written.
    """
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(
            f"a file in a folder that can be written was expected, got {str(text)!r}"
        )
    return path


def destination(text: str | Path) -> Path:
    """Check that a file, or a folder of files, can be written before hours are spent on it.

    Parameters
    ----------
    text : str or Path
        The file or folder.

    Returns
    -------
    Path
        The same; what ends in .nc is a file.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written.
    """
    path = Path(text)
    is_folder = path.suffix != ".nc" and path.is_dir() and os.access(path, os.W_OK)
    return path if is_folder else target(text)


def picture(text: str | Path) -> Path:
    """Check that a picture can be written, and in what format.

    Parameters
    ----------
    text : str or Path
        The file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ArgumentTypeError
        If it cannot, or matplotlib does not know its suffix.
    """
    path = target(text)
    if path.suffix[1:].lower() not in new_figure((1, 1)).canvas.get_supported_filetypes():
        raise argparse.ArgumentTypeError(
            f"a picture such as result.png or result.pdf was expected, got {str(text)!r}"
        )
    return path


def read_context(texts: Sequence[str] | None) -> dict[str, object]:
    """Read what is known of an image.

    Parameters
    ----------
    texts : sequence of str, optional
        NAME=VALUE, the value a number, a name, a comma list of candidates, or low..high for a uniform distribution.

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
    """
    return {name: _value(name, text) for name, text in _pairs(texts).items()}


def _pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Split NAME=VALUE."""
    found = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(
                f"NAME=VALUE was expected, got {text!r}; put file names before --context and --select"
            )
        if name in found:
            raise ValueError(
                f"one value of {name} was expected, got {found[name]} and {value}; separate candidates by commas"
            )
        found[name] = value
    return found


def _value(name: str, text: str) -> object:
    """Read one context value."""
    if "," in text:
        return [_value(name, part.strip()) for part in text.split(",")]
    low, is_range, high = text.partition("..")
    try:
        if not is_range:
            return float(text)
        bounds = float(low), float(high)
    except ValueError:
        return text
    if not bounds[0] < bounds[1]:
        raise ValueError(f"{name} was expected as low..high, two numbers in order, got {text!r}")
    return dist.Uniform(*bounds)


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
        If it is truncated or foreign, or several variables could be meant.
    """
    is_array = path.suffix == ".npy"
    if is_array and (variable or select):
        raise ValueError(
            f"--variable and --select belong to netCDF files, got {path}; leave them out"
        )
    if not path.is_file():
        raise FileNotFoundError(f"an image was expected at {path}, there is no such file")
    chosen = _pairs(select)
    try:
        if is_array:
            return np.load(path, allow_pickle=False)
        with xr.open_dataset(path, engine="netcdf4") as data:
            return _select(_choose(data, path, variable), chosen).load()
    except (OSError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"a netCDF or .npy file was expected, {path} is truncated or foreign ({error}); convert it"
        ) from error


def _choose(data: xr.Dataset, path: Path, variable: str | None) -> xr.DataArray:
    """Pick the variable that is an image."""
    images = [str(n) for n, v in data.data_vars.items() if v.dims[-2:] == ("y", "x")]
    if variable is None and len(images) == 1:
        return data[images[0]]
    if variable not in images:
        listed = (
            f"those are {', '.join(images)}; choose one by --variable"
            if images
            else f"it has {', '.join(map(str, data)) or 'none'}"
        )
        raise ValueError(
            f"{variable or 'one variable'} with dimensions (..., y, x) was expected in {path}; {listed}"
        )
    return data[variable]


def _select(image: xr.DataArray, chosen: dict[str, str]) -> xr.DataArray:
    """Pick elements of dimensions by label."""
    for dim, label in chosen.items():
        if dim not in image.dims:
            raise ValueError(
                f"a dimension among {', '.join(map(str, image.dims))} was expected, got {dim!r}"
            )
        labels = [str(v) for v in image[dim].values]
        if label not in labels:
            few = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise ValueError(f"{dim} was expected among {few}, got {label!r}")
        image = image.isel({dim: labels.index(label)})
    return image

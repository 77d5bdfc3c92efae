"""Input of a command: the context from NAME=VALUE, and parts of a file from DIM=VALUE."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

import numpy as np
import pyro.distributions as dist
import xarray as xr

from ..checks import shorten
from ..context import NO_DOPANT

__all__ = ["describe_source", "read_choice", "read_context", "wrap"]

UNDOPED = "undoped"  # for NO_DOPANT, which reads like a name that is missing
WIDTH = 80  # columns of a terminal


def read_context(texts: Sequence[str] | None) -> dict[str, object]:
    """Read the context of an image.

    Parameters
    ----------
    texts : sequence of str, optional
        NAME=VALUE, the value a number, a name, a comma list of candidates, or low..high for a
        uniform distribution. ``dopant=none`` or ``undoped`` is a crystal without dopant,
        ``dopant=Ti+V`` one with both, ``abundance.CLASS=VALUE`` the share of a defect class.

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
    if name == "dopant" and text == UNDOPED:
        return NO_DOPANT
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


def read_choice(texts: Sequence[str] | None) -> dict[str, str]:
    """Read which elements of dimensions are meant.

    Parameters
    ----------
    texts : sequence of str, optional
        DIM=VALUE, the value a label or a position.

    Returns
    -------
    dict of str to str
        As ``read`` takes it.

    Raises
    ------
    ValueError
        If a pair cannot be read.

    Examples
    --------
    >>> read_choice(["detector=HAADF", "frame=0"])
    {'detector': 'HAADF', 'frame': '0'}
    """
    return _pairs(texts)


def describe_source(image: xr.DataArray) -> str:
    """Say what the file of an image records.

    Parameters
    ----------
    image : DataArray
        From ``read``.

    Returns
    -------
    str
        A line for each value, with its origin; empty if the file records nothing.
    """
    known = json.loads(image.attrs["context"])
    rows = [("", name, entry) for name, entry in known.items() if name != "detector"]
    for detector, angles in known.get("detector", {}).items():
        rows += [(f" of {detector}", name, entry) for name, entry in angles.items()]
    lines = [
        wrap(f"  {name}{of}  {entry['value']:.5g} {entry['unit']}  ({entry['origin']})", 6)
        for of, name, entry in rows
    ]
    if not lines:
        return ""
    head = wrap(f"recorded by {image.attrs['source']}, {image.attrs['format']}:", 2)
    return "\n".join([head, *lines])


def wrap(line: str, indent: int) -> str:
    """Break a line that is wider than a terminal.

    Parameters
    ----------
    line : str
        The line.
    indent : int
        Columns by which the lines after the first are indented.

    Returns
    -------
    str
        Lines of at most ``WIDTH`` columns, but for single words that are longer.
    """
    if len(line) <= WIDTH:
        return line
    start = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(),
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

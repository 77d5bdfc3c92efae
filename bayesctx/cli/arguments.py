"""Types of the arguments of a command line: what is refused here is wrong usage."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path

__all__ = ["file_to_write", "number", "picture_to_write", "stream_to_write", "whole_number"]


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers, also written as 10e6.

    Parameters
    ----------
    least, most : int
        Bounds, both allowed.

    Returns
    -------
    callable
        From str to int; raises ArgumentTypeError for anything else.

    Examples
    --------
    >>> whole_number(1, 10**12)("10e6")
    10000000
    """

    def read(text: str) -> int:
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not (value.is_finite() and least <= value <= most and value == int(value)):
            raise argparse.ArgumentTypeError(
                f"a whole number from {least} to {most}, such as 1000 or 10e3, was expected, "
                f"got {text!r}"
            )
        return int(value)

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of finite numbers.

    Parameters
    ----------
    low, high : float
        Bounds, both allowed.

    Returns
    -------
    callable
        From str to float; raises ArgumentTypeError for anything else.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"a number from {low:g} to {high:g} was expected, got {text!r}"
            )
        return value

    return read


def file_to_write(*suffixes: str) -> Callable[[str], Path]:
    """Return a check that a file can be written, before hours are spent on its content.

    Parameters
    ----------
    *suffixes : str
        Endings that are allowed, such as .nc; none allows all.

    Returns
    -------
    callable
        From str to Path; raises ArgumentTypeError for another ending or a folder that is absent
        or cannot be written.
    """

    def check(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(
                f"a file that ends in {' or '.join(suffixes)} was expected, got {text!r}"
            )
        try:
            if path.is_dir():
                raise IsADirectoryError(f"{text} is a folder")
            with suppress(FileNotFoundError):
                path.lstat()  # refuses a name that is too long
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(
                f"a file in a folder that can be written was expected, got {text!r} ({error})"
            ) from error
        return path

    return check


def stream_to_write(text: str) -> Path:
    """Check that a .nc file, or a folder of such files, can be written.

    Parameters
    ----------
    text : str
        The file or folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written, or has the ending of another kind of file.
    """
    path = Path(text)
    # ".5" or ".2026" is part of a name, ".csv" is a format that nobody would find inside
    if path.suffix[1:2].isalpha() and path.suffix.lower() != ".nc" and not path.is_dir():
        raise argparse.ArgumentTypeError(
            f"a file that ends in .nc, or a folder, was expected, got {text!r}"
        )
    if path.suffix.lower() == ".nc" or not path.exists():
        return file_to_write()(text)
    if path.is_dir():
        file_to_write()(str(path / "manifest.json"))
        return path
    raise argparse.ArgumentTypeError(
        f"a folder, or a file that ends in .nc, was expected, {text} is another file"
    )


def picture_to_write(text: str) -> Path:
    """Check that a picture can be written, and in what format.

    Parameters
    ----------
    text : str
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written, or matplotlib does not know its ending.
    """
    # imported when used: a picture is an option, and so is matplotlib
    from ..plots import new_figure

    formats = new_figure((1, 1)).canvas.get_supported_filetypes()
    if Path(text).suffix[1:].lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"a picture such as result.png or result.pdf was expected, got {text!r}; "
            f"known are {', '.join(formats)}"
        )
    return file_to_write()(text)

"""Numbers of the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from ..checks import shorten

__all__ = ["number", "whole_number"]


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
                f"got {shorten(text)}; correct it"
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
                f"a number from {low:g} to {high:g} was expected, got {shorten(text)}; correct it"
            )
        return value

    return read

"""Checks of arguments that many functions share."""

from __future__ import annotations

import operator

__all__ = ["MAX_SEED", "check_seed", "check_whole_number"]

MAX_SEED = 2**63 - 1
"""Largest seed that every generator of random numbers takes."""


def check_whole_number(name: str, value: object, least: int, most: int) -> int:
    """Check that an argument is a whole number in a range.

    Parameters
    ----------
    name : str
        Of the argument, for the error.
    value : object
        An integer of any kind, for example of numpy.
    least, most : int
        Bounds, inclusive.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} was expected as a whole number, got {value!r}; convert it with int()"
        ) from None
    if not least <= number <= most:
        raise ValueError(
            f"{name} was expected to be at least {least} and at most {most}, got {number}; "
            "choose a number in between"
        )
    return number


def check_seed(value: object) -> int:
    """Check a seed.

    Parameters
    ----------
    value : object
        An integer from 0 to ``MAX_SEED``.

    Returns
    -------
    int
        The seed.
    """
    return check_whole_number("seed", value, 0, MAX_SEED)

"""Checks of arguments and of values in files; every failure is one error in three parts."""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Collection, Mapping
from numbers import Real

__all__ = [
    "MAX_SEED",
    "check_keys",
    "check_known",
    "check_mapping",
    "check_memory",
    "check_number",
    "check_seed",
    "check_sequence",
    "check_whole_number",
    "check_workers",
    "shorten",
]

MAX_SEED = 2**63 - 1
"""Largest seed that every generator of random numbers takes."""

LARGEST = 1e38  # of a number in single precision, with a margin
MOST = 1000  # values of a sequence
MOST_WORKERS = 32  # processes, or four per core if these are more


def shorten(value: object) -> str:
    """Write a value for an error message.

    Parameters
    ----------
    value : object
        The value.

    Returns
    -------
    str
        One line of at most 80 characters.
    """
    try:
        text = " ".join((str(value) if isinstance(value, Real) else repr(value)).split())
    except ValueError:  # an integer with more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def check_number(
    value: object, label: str, domain: tuple[float, float] = (-math.inf, math.inf)
) -> float:
    """Check a number.

    Parameters
    ----------
    value : object
        What should be a number.
    label : str
        Its name, for errors.
    domain : tuple of float
        Smallest and largest value; bounds may be exceeded by the rounding of single precision.

    Returns
    -------
    float
        The number.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is not finite in single precision or outside of the domain.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"a number was expected for {label}, got {shorten(value)}; correct it")
    low, high = max(domain[0], -LARGEST), min(domain[1], LARGEST)
    if not low - 1e-6 * abs(low) <= value <= high + 1e-6 * abs(high):
        raise ValueError(
            f"{label} was expected between {low:g} and {high:g}, got {shorten(value)}; correct it"
        )
    return float(value) + 0.0  # 0.0 for -0.0


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
            f"{name} was expected as a whole number, got {shorten(value)}; convert it with int()"
        ) from None
    if not least <= number <= most:
        raise ValueError(
            f"{name} was expected to be at least {least} and at most {most}, "
            f"got {shorten(number)}; choose a number in between"
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


def check_workers(value: object) -> int:
    """Check a number of worker processes.

    Parameters
    ----------
    value : object
        An integer from 0 to 32, or to four per core if these are more.

    Returns
    -------
    int
        The number.
    """
    most = max(MOST_WORKERS, 4 * (os.cpu_count() or 1))
    return check_whole_number("num_workers", value, 0, most)


def check_memory(num_bytes: int, what: str) -> None:
    """Check that something fits into the memory of this machine.

    Parameters
    ----------
    num_bytes : int
        Memory that it takes.
    what : str
        What takes it, with its size, for the error.

    Raises
    ------
    ValueError
        If it takes more than the machine, or the control group of this process, has.
    """
    memory = _memory()
    if num_bytes > memory:
        raise ValueError(
            f"a size that fits into {memory / 1e9:.3g} GB of memory was expected, got {what}, "
            f"which take {num_bytes / 1e9:.3g} GB; choose fewer"
        )


def _memory() -> float:
    """Memory of this machine or control group in bytes, infinite if it is not known."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return math.inf
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(total, int(file.read()))
    except (OSError, ValueError):  # no control group, or "max"
        return total


def check_mapping(value: object, label: str) -> Mapping:
    """Check a mapping.

    Parameters
    ----------
    value : object
        What should be a mapping.
    label : str
        Its name, for errors.

    Returns
    -------
    Mapping
        The same.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"a mapping was expected for {label}, got {shorten(value)}; correct it")
    return value


def check_known(name: object, what: str, known: Collection[str]) -> None:
    """Check a name.

    Parameters
    ----------
    name : object
        What should be one of the known names.
    what : str
        What it names, for errors.
    known : collection of str
        The names.

    Raises
    ------
    ValueError
        If it is none of them; the error suggests the nearest one.
    """
    if not isinstance(name, str) or name not in known:
        close = difflib.get_close_matches(str(name)[:60], known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "choose one of them"
        raise ValueError(f"unknown {what} {shorten(name)}; known are {', '.join(known)}; {hint}")


def check_keys(values: object, what: str, known: Collection[str]) -> Mapping:
    """Check a mapping whose keys are all of the known names and no others.

    Parameters
    ----------
    values : object
        What should be the mapping.
    what : str
        What the keys name, for errors.
    known : collection of str
        The names.

    Returns
    -------
    Mapping
        The same.

    Raises
    ------
    TypeError
        If it is no mapping.
    ValueError
        If a name is missing or unknown.
    """
    for name in check_mapping(values, f"every {what}"):
        check_known(name, what, known)
    missing = [name for name in known if name not in values]
    if missing:
        raise ValueError(f"{what} {missing[0]!r} was expected, it is missing; add it")
    return values


def check_sequence(values: object, label: str) -> tuple:
    """Check a tuple or list.

    Parameters
    ----------
    values : object
        What should be a tuple.
    label : str
        Its name, for errors.

    Returns
    -------
    tuple
        The same, of 1 to 1000 values.

    Raises
    ------
    TypeError
        If it is something else, such as a single name.
    ValueError
        If it is empty or too long.
    """
    if not isinstance(values, tuple | list):
        raise TypeError(f"a tuple was expected for {label}, got {shorten(values)}; write (value,)")
    if not 0 < len(values) <= MOST:
        raise ValueError(
            f"1 to {MOST} values were expected for {label}, got {len(values)}; correct it"
        )
    return tuple(values)

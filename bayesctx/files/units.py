"""Units that files write beside their numbers, converted to those of the package."""

from __future__ import annotations

import math

from ..context import CONTEXT

__all__ = ["ANGSTROM", "FACTORS", "convert", "is_reciprocal", "length", "remedy_of_size"]

ANGSTROM = {
    "å": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0, "ångström": 1.0,
    "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0, "pm": 0.01, "um": 1e4, "µm": 1e4, "μm": 1e4,
    "micron": 1e4, "microns": 1e4, "micrometer": 1e4, "mm": 1e7, "cm": 1e8, "m": 1e10,
}  # fmt: skip
"""Units of length, in Å."""

FACTORS = {
    "V": ("eV", 1.0),  # an electron gains as many eV as the high tension has V
    "kV": ("eV", 1e3),
    "keV": ("eV", 1e3),
    "rad": ("mrad", 1e3),
    "mrad": ("mrad", 1.0),
    "A": ("A", 1.0),
    "nA": ("A", 1e-9),
    "s": ("s", 1.0),
    "µs": ("s", 1e-6),
    "1": ("1", 1.0),
}
"""Other units: the unit of the package, and the factor to it."""


def convert(value: float, unit: str) -> tuple[float, str]:
    """Convert a value to the unit of the package.

    Parameters
    ----------
    value : float
        In ``unit``.
    unit : str
        A key of ``FACTORS``.

    Returns
    -------
    value : float
        In the unit of the package.
    unit : str
        That unit: eV, mrad, A or s.

    Examples
    --------
    >>> convert(0.025, "rad")
    (25.0, 'mrad')
    """
    own, factor = FACTORS[unit]
    return value * factor, own


def _plain(unit: object) -> str:
    """A unit without brackets, escapes and separators, in lower case."""
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit or "")
    text = text.replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace("_", "")
    return text.strip("[] \0\t\n").replace(" ", "").lower()


def length(value: float, unit: object) -> float | None:
    """Convert a length to Å.

    Parameters
    ----------
    value : float
        In ``unit``.
    unit : str or bytes
        As a file writes it, for example ``"nm"`` or ``"[n_m]"``.

    Returns
    -------
    float or None
        In Å; None where the unit is none of length, or the value is not above zero.

    Examples
    --------
    >>> length(0.02, "[n_m]"), length(1.0, "px")
    (0.2, None)
    """
    factor = ANGSTROM.get(_plain(unit))
    return value * factor if factor and math.isfinite(value) and value > 0 else None


def is_reciprocal(unit: object) -> bool:
    """Whether a unit is that of a diffraction pattern.

    Parameters
    ----------
    unit : str or bytes
        As a file writes it.

    Returns
    -------
    bool
        True for a reciprocal length or an angle.

    Examples
    --------
    >>> [is_reciprocal(unit) for unit in ("1 / nm", "nm^-1", "mrad", "nm")]
    [True, True, True, False]
    """
    text = _plain(unit)
    return text.startswith("1/") or text.endswith(("^-1", "-1", "⁻¹")) or text in ("mrad", "rad")


def remedy_of_size(size: float) -> str:
    """Say what to state instead of a pixel size at which columns cannot be told apart.

    Parameters
    ----------
    size : float
        Pixel size in Å, above zero.

    Returns
    -------
    str
        The pixel size that is meant if a power of ten is wrong.

    Examples
    --------
    >>> remedy_of_size(2.0)
    'state sampling=0.2 if a power of ten is wrong, as in some files of DigitalMicrograph'
    """
    low, high = CONTEXT["sampling"].domain
    powers = [k for k in (-1, 1, -2, 2, -3, 3) if low <= size * 10.0**k <= high]
    if not powers:
        return "state sampling if that is wrong: such pixels do not show columns"
    return (
        f"state sampling={size * 10.0 ** powers[0]:.4g} if a power of ten is wrong, as in some "
        "files of DigitalMicrograph"
    )

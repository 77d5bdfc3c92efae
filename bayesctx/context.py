"""What may be known of an image: names, units, domains, and which detector goes with which probe.

Imports neither torch nor xarray; values are checked in ``evidence``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .crystal import HOSTS
from .elements import METALS

__all__ = [
    "ADF_RULE",
    "ANGLES",
    "CALIBRATION_ERROR",
    "CONTEXT",
    "MIN_ANGLE_RATIO",
    "Variable",
    "is_annular_dark_field",
]


@dataclass(frozen=True)
class Variable:
    """A variable of the imaging context.

    Attributes
    ----------
    name, unit, title : str
        Name everywhere in the package, unit, and words for a plot.
    domain : tuple
        Smallest and largest value, or the names that it can take.
    slips : tuple of (str, float)
        Other units of the same quantity, and the factor from them to ``unit``.
    margin : float
        A value beyond a bound by at most this share of it is taken as the bound, with a warning.
    """

    name: str
    unit: str
    title: str
    domain: tuple
    slips: tuple[tuple[str, float], ...] = ()
    margin: float = 0.05

    @property
    def is_name(self) -> bool:
        """Whether the values are names."""
        return isinstance(self.domain[0], str)

    @property
    def label(self) -> str:
        """Name with its unit in brackets."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


ANGLES = ("convergence_semiangle", "inner_collection_angle", "outer_collection_angle")
"""The angles of probe and detector, in the order of the arguments of ``is_annular_dark_field``."""

_ENERGY_SLIPS = (("keV", 1e3), ("J", 1 / 1.602176634e-19))
_ANGLE_SLIPS = (("rad", 1e3), ("µrad", 1e-3))
_LENGTH_SLIPS = (("nm", 10.0), ("pm", 0.01), ("m", 1e10))

CONTEXT = {
    v.name: v
    for v in (
        Variable("host", "", "host", tuple(HOSTS)),
        Variable("dopant", "", "dopant", METALS),
        Variable("beam_energy", "eV", "beam energy", (30e3, 300e3), _ENERGY_SLIPS),
        Variable(ANGLES[0], "mrad", "convergence semi-angle", (15.0, 40.0), _ANGLE_SLIPS),
        Variable(ANGLES[1], "mrad", "inner collection angle", (25.0, 250.0), _ANGLE_SLIPS),
        Variable(ANGLES[2], "mrad", "outer collection angle", (30.0, 300.0), _ANGLE_SLIPS),
        Variable("defocus", "Å", "defocus", (-100.0, 100.0), _LENGTH_SLIPS),
        # the electron dose of a real image is known to some ten per cent
        Variable("dose", "e/Å²", "dose", (1e2, 1e8), (("e/nm²", 0.01),), margin=0.25),
        # lengths scale with it: what is beyond the domain has no near value that would do
        Variable("sampling", "Å/px", "sampling", (0.02, 0.6), _LENGTH_SLIPS, margin=0.0),
    )
}
"""Every variable of the context and what the physics of this package covers."""

CALIBRATION_ERROR = 0.02
"""Relative error (rms) that is assumed of a pixel size that a microscope recorded."""

MIN_ANGLE_RATIO = 1.05
"""Smallest ratio of outer to inner collection angle: of narrower rings the model has seen none."""

ADF_RULE = f"{ANGLES[0]} <= {ANGLES[1]} and {MIN_ANGLE_RATIO:g} * {ANGLES[1]} < {ANGLES[2]}"
"""The rule of ``is_annular_dark_field`` in words, for errors."""


def is_annular_dark_field(
    convergence_semiangle: Any, inner_collection_angle: Any, outer_collection_angle: Any
) -> Any:
    """Whether a detector is a ring outside of the probe's cone.

    Parameters
    ----------
    convergence_semiangle, inner_collection_angle, outer_collection_angle : float, ndarray or Tensor
        In one unit; shapes broadcast.

    Returns
    -------
    bool, ndarray of bool or Tensor of bool
        Where convergence <= inner and 1.05 inner < outer.

    Examples
    --------
    >>> is_annular_dark_field(30.0, 60.0, 200.0), is_annular_dark_field(30.0, 60.0, 62.0)
    (True, False)
    """
    is_outside = convergence_semiangle <= inner_collection_angle
    return is_outside & (inner_collection_angle * MIN_ANGLE_RATIO < outer_collection_angle)

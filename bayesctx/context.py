"""The imaging context: names, units and domains of its variables, records of probe and detector.

This module imports neither torch nor xarray; values are checked in ``evidence``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .crystal import HOSTS, METALS

__all__ = [
    "ABERRATIONS",
    "ADF_RULE",
    "ANGLES",
    "CALIBRATION_ERROR",
    "CONTEXT",
    "Detector",
    "LIKELIHOODS",
    "MIN_ANGLE_RATIO",
    "NO_DOPANT",
    "Probe",
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
"""The angles of probe and detector, from the innermost to the outermost."""

LIKELIHOODS = ("auto", "network", "simulator", "exact")
"""How a micrograph is read, see ``infer``."""

ABERRATIONS = ("C10", "C12", "phi12", "C21", "phi21", "C23", "phi23", "C30")
"""Polar aberration coefficients up to third order, in Å and rad (Krivanek; C10 = -defocus)."""

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
        # all lengths scale with it, so that the bound is no substitute for a value beyond it
        Variable("sampling", "Å/px", "sampling", (0.02, 0.6), _LENGTH_SLIPS, margin=0.0),
    )
}
"""Every variable of the context, with the domain that the physics of this package covers."""

NO_DOPANT = "none"
"""The dopant of an undoped crystal where only text can stand: in files and at the command line."""

CALIBRATION_ERROR = 0.02
"""Relative error (rms) that is assumed for a pixel size that a microscope recorded."""

MIN_ANGLE_RATIO = 1.05
"""Smallest ratio of outer to inner collection angle; narrower rings were not in the training."""

ADF_RULE = f"{ANGLES[0]} <= {ANGLES[1]} and {MIN_ANGLE_RATIO:g} * {ANGLES[1]} < {ANGLES[2]}"
"""The rule of ``is_annular_dark_field`` in words, for errors."""


@dataclass(frozen=True)
class Probe:
    """The focused electron beam. Values are numbers, or arrays or tensors of one batch shape.

    Attributes
    ----------
    beam_energy : float or Tensor
        Kinetic energy of the electrons in eV.
    convergence_semiangle : float or Tensor
        In mrad.
    aberrations : mapping of str to float or Tensor
        Coefficients by the names of ``ABERRATIONS``, in Å and rad; missing ones are zero. The focus
        refers to z = 0 of the specimen.
    source_size : float or Tensor
        Full width at half maximum of the effective source in Å.
    focal_spread : float or Tensor
        Root mean square focal spread in Å.
    """

    beam_energy: Any
    convergence_semiangle: Any
    aberrations: Mapping[str, Any] = field(default_factory=dict)
    source_size: Any = 0.0
    focal_spread: Any = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Probe:
        """Probe from values by name; other names are ignored.

        Parameters
        ----------
        values : mapping of str to float or Tensor
            ``beam_energy`` and ``convergence_semiangle``; optional are ``defocus`` in Å (C10 is
            minus the defocus), the names of ``ABERRATIONS``, ``source_size`` and ``focal_spread``.

        Returns
        -------
        Probe
            Of these values.

        Raises
        ------
        ValueError
            If the beam energy or the convergence semi-angle is missing, or if both ``defocus`` and
            ``C10`` are given.

        Examples
        --------
        >>> Probe.of({"beam_energy": 80e3, "convergence_semiangle": 30.0, "defocus": 20.0})
        ... # doctest: +NORMALIZE_WHITESPACE
        Probe(beam_energy=80000.0, convergence_semiangle=30.0, aberrations={'C10': -20.0},
              source_size=0.0, focal_spread=0.0)
        """
        aberrations = {name: values[name] for name in ABERRATIONS if name in values}
        if "defocus" in values:
            if "C10" in values:
                raise ValueError(
                    "either defocus or C10 was expected, got both; C10 is minus the defocus"
                )
            aberrations["C10"] = -values["defocus"]
        widths = {name: values[name] for name in ("source_size", "focal_spread") if name in values}
        return cls(*_require(values, "beam_energy", ANGLES[0]), aberrations, **widths)


@dataclass(frozen=True)
class Detector:
    """An annular detector. Values are numbers, or arrays or tensors of one batch shape.

    Attributes
    ----------
    inner_collection_angle, outer_collection_angle : float or Tensor
        In mrad.
    """

    inner_collection_angle: Any
    outer_collection_angle: Any

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Detector:
        """Detector from values by name; other names are ignored.

        Parameters
        ----------
        values : mapping of str to float or Tensor
            ``inner_collection_angle`` and ``outer_collection_angle``.

        Returns
        -------
        Detector
            Of these values.

        Raises
        ------
        ValueError
            If one of them is missing.

        Examples
        --------
        >>> Detector.of({"inner_collection_angle": 60.0, "outer_collection_angle": 200.0})
        Detector(inner_collection_angle=60.0, outer_collection_angle=200.0)
        """
        return cls(*_require(values, *ANGLES[1:]))

    @property
    def edges(self) -> tuple[Any, Any]:
        """Inner and outer collection angle."""
        return self.inner_collection_angle, self.outer_collection_angle


def _require(values: Mapping[str, Any], *names: str) -> list[Any]:
    """Values of these names, none of which may be missing."""
    missing = [name for name in names if name not in values]
    if missing:
        found = ", ".join(map(str, values)) or "no values"
        raise ValueError(f"{CONTEXT[missing[0]].label} was expected, got {found}; give it as well")
    return [values[name] for name in names]


def is_annular_dark_field(convergence_semiangle: Any, detector: Detector) -> Any:
    """Whether a detector is a ring outside of the probe's cone.

    Parameters
    ----------
    convergence_semiangle : float, ndarray or Tensor
        Of the probe, in mrad.
    detector : Detector
        Its angles; shapes broadcast.

    Returns
    -------
    bool, ndarray of bool or Tensor of bool
        Where convergence <= inner and 1.05 inner < outer.

    Examples
    --------
    >>> [is_annular_dark_field(30.0, Detector(60.0, outer)) for outer in (62.0, 200.0)]
    [False, True]
    """
    inner, outer = detector.edges
    return (convergence_semiangle <= inner) & (inner * MIN_ANGLE_RATIO < outer)

"""Nuisances of an image, which are not recorded with it: units, distributions and domains."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution as Distribution

from .checks import check_known, check_mapping, shorten
from .distributions import check_value, log_uniform, quantile, support
from .evidence import FEW_OUTSIDE, truncate
from .storage import warn

__all__ = ["NUISANCES", "OF_SCANS", "check_nuisances", "nuisances_of_scan"]

NUISANCES: dict[str, tuple[str, Distribution]] = {
    "rotation": ("rad", dist.Uniform(0.0, 2 * math.pi)),
    "offset_x": ("Å", dist.Uniform(-0.25, 0.25)),
    "offset_y": ("Å", dist.Uniform(-0.25, 0.25)),
    "phase_x": ("1", dist.Uniform(-0.5, 0.5)),
    "phase_y": ("1", dist.Uniform(-0.5, 0.5)),
    "strain": ("1", dist.Normal(0.0, 0.015)),
    "drift_x": ("1", dist.Uniform(-0.03, 0.03)),
    "drift_y": ("1", dist.Uniform(-0.03, 0.03)),
    "line_jitter": ("Å", dist.Uniform(0.02, 0.15)),
    "scan_step": ("Å", dist.Uniform(0.05, 0.40)),
    "tilt": ("deg", dist.Uniform(0.0, 5.0)),
    "tilt_azimuth": ("rad", dist.Uniform(0.0, 2 * math.pi)),
    "relaxation": ("Å", dist.Uniform(0.02, 0.15)),
    "disorder": ("Å", dist.Uniform(0.01, 0.05)),
    "vibration": ("1", dist.Uniform(0.75, 1.25)),
    "source_size": ("Å", dist.Uniform(0.5, 1.4)),
    "focal_spread": ("Å", dist.Uniform(10.0, 60.0)),
    "C12": ("Å", dist.Uniform(0.0, 30.0)),
    "phi12": ("rad", dist.Uniform(0.0, math.pi)),
    "C21": ("Å", dist.Uniform(0.0, 300.0)),
    "phi21": ("rad", dist.Uniform(0.0, 2 * math.pi)),
    "C23": ("Å", dist.Uniform(0.0, 300.0)),
    "phi23": ("rad", dist.Uniform(0.0, 2 * math.pi / 3)),
    "C30": ("Å", dist.Uniform(-2e4, 2e4)),
    "background": ("1", dist.Uniform(0.0, 0.3)),
    "background_slope_x": ("1/Å", dist.Uniform(-0.05, 0.05)),
    "background_slope_y": ("1/Å", dist.Uniform(-0.05, 0.05)),
    "gain": ("1", log_uniform(1e-2, 1e2)),
    "dark_level": ("1", dist.Uniform(-0.05, 0.05)),
    "readout": ("1", dist.Uniform(0.0, 0.5)),
    "additivity": ("1", dist.HalfNormal(1.0)),
}
"""Unit and default distribution of every nuisance (docs/physics.md)."""

OF_SCANS: dict[str, Distribution] = {
    "C12": dist.HalfNormal(20.0), "C21": dist.HalfNormal(500.0), "C23": dist.HalfNormal(500.0),
}  # fmt: skip
"""Aberrations of a whole scan in Å, in place of their default distributions.

Patches are simulated, and networks trained, with lenses that are well tuned. Real ones are farther
off: two scans of one microscope have a coma C21 of 600 and 2100 Å, and if it may not be larger
than 300 Å, semi-angle and tilt are driven to their bounds (docs/tried.md).
"""

DOMAINS = {
    "rotation": (-100.0, 100.0), "offset_x": (-5.0, 5.0), "offset_y": (-5.0, 5.0),
    "phase_x": (-1.0, 1.0), "phase_y": (-1.0, 1.0), "strain": (-0.2, 0.2),
    "drift_x": (-0.5, 0.5), "drift_y": (-0.5, 0.5), "line_jitter": (0.0, 2.0),
    "scan_step": (0.0, 2.0), "tilt": (0.0, 45.0), "tilt_azimuth": (-100.0, 100.0),
    "relaxation": (0.0, 1.0), "disorder": (0.0, 1.0), "vibration": (0.0, 5.0),
    "source_size": (0.0, 5.0), "focal_spread": (0.0, 500.0), "C12": (0.0, 1e3),
    "phi12": (-100.0, 100.0), "C21": (0.0, 1e4), "phi21": (-100.0, 100.0), "C23": (0.0, 1e4),
    "phi23": (-100.0, 100.0), "C30": (-1e7, 1e7), "background": (0.0, 10.0),
    "background_slope_x": (-1.0, 1.0), "background_slope_y": (-1.0, 1.0), "gain": (1e-12, 1e12),
    "dark_level": (-1.0, 1.0), "readout": (0.0, 1e3), "additivity": (0.0, 10.0),
}  # fmt: skip
"""Smallest and largest value of every nuisance, in its unit, that can be simulated."""


def check_nuisances(values: object) -> dict[str, object]:
    """Check the nuisances of a prior.

    Parameters
    ----------
    values : object
        What should be a mapping by names of ``NUISANCES``.

    Returns
    -------
    dict
        Of ``float``, ``tuple`` of candidates or ``Distribution`` by name. A distribution that
        exceeds what can be simulated is truncated to it.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a name is unknown, a value cannot be simulated, less than 1 % of the mass of a
        distribution can be, or the gain is missing.

    Warns
    -----
    UserWarning
        If more than 1 % of the mass of a distribution is cut off.
    """
    checked = {}
    for name, value in check_mapping(values, "nuisances").items():
        check_known(name, "nuisance", NUISANCES)
        label = f"{name} [{NUISANCES[name][0]}]"
        checked[name] = _truncate(check_value(value, label, DOMAINS[name]), label, DOMAINS[name])
    if "gain" not in checked:
        raise ValueError("the nuisance gain was expected, it is missing; give 1.0 for counts")
    if checked.get("readout") and not checked.get("scan_step"):
        raise ValueError(
            "the nuisance scan_step above zero was expected beside readout, which is per pixel of "
            "the scan, got none; give the size of the pixels in Å"
        )
    return checked


def nuisances_of_scan(nuisances: Mapping[str, object]) -> dict[str, object]:
    """Nuisances of a whole scan that is explained by all of its pixels.

    Parameters
    ----------
    nuisances : mapping of str to float, tuple or Distribution
        See ``Prior.nuisances``.

    Returns
    -------
    dict
        With the distributions ``OF_SCANS`` where those given are the default ones; whatever else
        was given is kept.
    """
    return {n: OF_SCANS[n] if _is_default(n, v) else v for n, v in nuisances.items()}


def _is_default(name: str, value: object) -> bool:
    """Whether a nuisance that is wider in a scan has its default distribution, a uniform one."""
    alike = name in OF_SCANS and isinstance(value, dist.Uniform)
    return alike and support(value) == support(NUISANCES[name][1])


def _truncate(value: object, label: str, domain: tuple[float, float]) -> object:
    """A number or candidates as they are, a distribution truncated where its draws need it."""
    if not isinstance(value, torch.distributions.Distribution):
        return value
    # within the domain draws of the distribution itself are kept, and with them earlier streams
    ends = quantile(value, torch.tensor([0.0, 1.0], dtype=torch.float64))
    low, high = (bound + s * 1e-6 * abs(bound) for bound, s in zip(domain, (-1, 1), strict=True))
    if low <= float(ends[0]) and float(ends[1]) <= high:  # to the rounding of single precision
        return value
    truncated, mass = truncate(value, *domain, label)
    if mass < 1 - FEW_OUTSIDE:
        warn(
            f"{label}: {100 * (1 - mass):.0f} % of the mass of {shorten(value)} is outside of "
            f"{domain[0]:g} to {domain[1]:g}, which can be simulated, and is cut off; check its "
            "unit"
        )
    return truncated

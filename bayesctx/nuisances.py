"""Distributions of nuisances and compositions, their quantiles, and how they are written as JSON."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution as Distribution
from torch import Tensor
from torch.distributions.transforms import ExpTransform

from .evidence import TINY, truncate

__all__ = ["CONCENTRATION", "NUISANCES", "decode", "encode", "log_uniform", "quantile"]


def log_uniform(low: float, high: float) -> Distribution:
    """Uniform distribution of the logarithm.

    Parameters
    ----------
    low, high : float
        Bounds, > 0.

    Returns
    -------
    Distribution
        With density 1 / (x log(high / low)).
    """
    return dist.TransformedDistribution(
        dist.Uniform(math.log(low), math.log(high)), [ExpTransform()]
    )


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
"""Units and distributions of everything that shapes an image and that nobody records (see docs/physics.md)."""

CONCENTRATION = {
    "M": 20.0, "D_M": 1.5, "V_M": 0.3, "X_M": 0.3, "X2_M": 0.3, "X2": 20.0, "V_X": 2.0, "V_X2": 0.4, "O_X": 0.8,
    "Y_X": 0.4, "M_X": 0.3, "hollow": 20.0, "adatom_M": 0.3,
}  # fmt: skip
"""Dirichlet parameters of the abundance of the classes in a crystal."""


def quantile(
    value: object, u: Tensor, domain: tuple[float, float] = (-math.inf, math.inf)
) -> Tensor:
    """Quantiles of a number, of candidates or of a distribution.

    Parameters
    ----------
    value : float, tuple or Distribution
        What may occur; candidates are equally probable.
    u : Tensor
        Probabilities from 0 to 1.
    domain : tuple of float
        Bounds to which a distribution is truncated.

    Returns
    -------
    Tensor, of the shape and dtype of u
        Always finite: at 0 and 1 an unbounded distribution is at its quantiles of 2**-25 and
        1 - 2**-25. A distribution without ``icdf`` is tabulated, see ``truncation.Truncated``; the
        tables of the last 256 distributions are kept.

    Raises
    ------
    ValueError
        If a distribution has less than 1 % of its mass in the domain.
    """
    if isinstance(value, tuple):
        values = torch.tensor(value, dtype=u.dtype, device=u.device)
        return values[(u * len(value)).long().clamp(max=len(value) - 1)]
    if not isinstance(value, torch.distributions.Distribution):
        return torch.full_like(u, float(value))
    inside = _truncated(value, *domain)
    values = inside.icdf(u).to(u)
    if bool(values.isfinite().all()):
        return values
    bounded = inside.icdf(u.double().clamp(TINY, 1 - TINY)).to(u)
    return torch.where(values.isfinite(), values, bounded)


@functools.lru_cache(maxsize=256)
def _truncated(value: Distribution, low: float, high: float) -> Distribution:
    """A distribution within bounds, the same for the same object."""
    return truncate(value, low, high)[0]


def encode(value: object) -> object:
    """Write a number, candidates or a distribution as JSON values.

    Parameters
    ----------
    value : float, tuple or Distribution
        Uniform, Normal, HalfNormal or log-uniform.

    Returns
    -------
    object
        Read back by ``decode``.
    """
    if isinstance(value, dist.TransformedDistribution):
        base = value.base_dist
        return {"log_uniform": [math.exp(float(base.low)), math.exp(float(base.high))]}
    if isinstance(value, torch.distributions.Distribution):
        names = {"Uniform": ("low", "high"), "Normal": ("loc", "scale"), "HalfNormal": ("scale",)}[
            type(value).__name__
        ]
        return {type(value).__name__: [float(np.float32(getattr(value, n))) for n in names]}
    return list(value) if isinstance(value, tuple) else value


def decode(value: object) -> object:
    """Read a number, candidates or a distribution from JSON values.

    Parameters
    ----------
    value : object
        As returned by ``encode``.

    Returns
    -------
    float, tuple or Distribution
        The value.
    """
    if isinstance(value, Mapping):
        ((name, arguments),) = value.items()
        return log_uniform(*arguments) if name == "log_uniform" else getattr(dist, name)(*arguments)
    return tuple(value) if isinstance(value, list) else value

"""Noise as a function of normal variables, one per pixel: the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..defects import SPECIES
from ..prior import Prior

__all__ = ["MARGIN", "Noise", "draw_noise", "poisson_counts"]

MARGIN = 2  # pixels that the interpolation of a scan needs on either side

FEW = 4.0
"""Mean below which the distribution is inverted step by step; above, its expansion is closer than 8e-4 in total variation."""

FAR = 5.0  # standard deviations; beyond, single precision cannot tell a probability from one
MOST = 20  # P(counts > 20) is 1e-9 at a mean of 4, beyond what a normal variable in single precision reaches


@dataclass(frozen=True)
class Noise:
    """Random numbers of images, all standard normal.

    Attributes
    ----------
    deviation : Tensor, shape (image, species)
        Errors of additivity.
    jitter : Tensor, shape (image, patch, y)
        Of the scan rows.
    counts, readout : Tensor, shape (image, patch, y, x), or None
        Of the electrons that are counted and of the electronics; None leaves the expected counts and silent electronics.
    """

    deviation: Tensor
    jitter: Tensor
    counts: Tensor | None
    readout: Tensor | None


def draw_noise(
    rng: np.random.Generator,
    prior: Prior,
    num_images: int,
    num_patches: int,
    *,
    counting: bool = True,
) -> Noise:
    """Draw the random numbers of images.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        Gives the pixels of the patch, and whether the electronics have a noise.
    num_images, num_patches : int
        Number of images, and of patches in each.
    counting : bool
        Draw what counts need; without it they are the expected ones.

    Returns
    -------
    Noise
        The numbers.
    """

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    most = prior.num_pixels + 2 * MARGIN
    pixels = (num_images, num_patches, most, most)
    return Noise(
        deviation=normal(num_images, len(SPECIES)),
        jitter=normal(*pixels[:3]),
        counts=normal(*pixels) if counting else None,
        readout=normal(*pixels) if counting and prior.nuisances.get("readout", 0.0) else None,
    )


def poisson_counts(rate: Tensor, normal: Tensor) -> Tensor:
    """Poisson counts at the quantiles of normal variables.

    Parameters
    ----------
    rate : Tensor
        Expected counts, >= 0.
    normal : Tensor, of the shape of rate
        Standard normal variables.

    Returns
    -------
    Tensor, of the shape of rate
        Whole numbers: exactly Poisson up to a mean of 4, above it within 8e-4 in total variation with the mean right to
        7e-4 counts and the variance to 6e-4 of itself.

    References
    ----------
    Giles, ACM Trans. Math. Softw. 42, 7 (2016), doi:10.1145/2699466: the asymptotic expansion of the quantiles.
    """
    few = rate < FEW
    counts = _expand(rate.clamp(min=FEW), normal)
    if few.any():
        counts = torch.where(
            few, _invert(rate.clamp(max=FEW), torch.special.ndtr(normal.clamp(max=FAR))), counts
        )
    return counts


def _expand(rate: Tensor, normal: Tensor) -> Tensor:
    """Quantiles to third order in 1 / sqrt(rate)."""
    inverse = rate.rsqrt()
    square = normal**2
    third = (square * (square / 270 + 7 / 810) - 8 / 405) * inverse
    second = (third - normal * (square / 72 + 1 / 36)) * inverse
    return (rate + normal / inverse + square / 6 + 1 / 3 + second).floor().clamp(min=0)


def _invert(rate: Tensor, probability: Tensor) -> Tensor:
    """Smallest counts whose cumulative probability exceeds the given one."""
    term = torch.exp(-rate)
    left, counts, short = probability - term, torch.zeros_like(rate), torch.empty_like(rate)
    for k in range(1, MOST + 1):
        counts += torch.gt(left, 0, out=short)
        term *= rate
        term *= 1 / k
        left -= term
    return counts

"""Detector noise as a function of standard normal variables, one per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..defects import SPECIES
from ..prior import Prior

__all__ = ["MARGIN", "Noise", "draw_noise", "poisson_counts"]

MARGIN = 2  # scan pixels that the interpolation needs on either side of a patch

EXACT_RATE = 4.0
"""Mean up to which the distribution function is inverted; above it the expansion is accurate."""

MAX_NORMAL = 5.0  # standard deviations; above, a probability is one in single precision
MAX_COUNTS = 20  # P(counts > 20) = 1e-9 at a mean of 4, beyond the quantile of MAX_NORMAL


@dataclass(frozen=True)
class Noise:
    """Standard normal random numbers of a batch of images.

    Attributes
    ----------
    deviation : Tensor, shape (image, species)
        Errors of additivity.
    jitter : Tensor, shape (image, patch, y)
        Displacements of the scan rows.
    counts, readout : Tensor, shape (image, patch, y, x), or None
        Counting noise and readout noise; None for expected counts and for no readout noise.
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
    """Draw the random numbers of a batch of images.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        Defines the pixels of a patch, and whether there is readout noise.
    num_images, num_patches : int
        Number of images, and of patches per image.
    counting : bool
        Draw counting and readout noise; otherwise intensities are the expected ones.

    Returns
    -------
    Noise
        The random numbers.
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
    """Poisson counts at the quantiles of standard normal variables.

    Parameters
    ----------
    rate : Tensor
        Expected counts, >= 0.
    normal : Tensor, same shape as rate
        Standard normal variables.

    Returns
    -------
    Tensor, same shape as rate
        Whole numbers. Exactly Poisson up to a mean of 4; above it within 8e-4 in total variation,
        with a mean exact to 7e-4 counts and a variance to a relative error of 6e-4.

    Notes
    -----
    A function of the normal variable alone, so that counts do not depend on the machine or batch.

    References
    ----------
    Giles, ACM Trans. Math. Softw. 42, 7 (2016), doi:10.1145/2699466: asymptotic expansion of the
    quantiles.
    """
    exact = rate < EXACT_RATE
    counts = _expand(rate.clamp(min=EXACT_RATE), normal)
    if exact.any():
        probability = torch.special.ndtr(normal.clamp(max=MAX_NORMAL))
        counts = torch.where(exact, _invert(rate.clamp(max=EXACT_RATE), probability), counts)
    return counts


def _expand(rate: Tensor, normal: Tensor) -> Tensor:
    """Quantiles by the expansion to third order in 1 / sqrt(rate)."""
    inverse = rate.rsqrt()
    square = normal**2
    third = (square * (square / 270 + 7 / 810) - 8 / 405) * inverse
    second = (third - normal * (square / 72 + 1 / 36)) * inverse
    return (rate + normal / inverse + square / 6 + 1 / 3 + second).floor().clamp(min=0)


def _invert(rate: Tensor, probability: Tensor) -> Tensor:
    """Smallest counts whose cumulative probability exceeds the given one."""
    term = torch.exp(-rate)
    left, counts, short = probability - term, torch.zeros_like(rate), torch.empty_like(rate)
    for k in range(1, MAX_COUNTS + 1):
        counts += torch.gt(left, 0, out=short)
        term *= rate
        term *= 1 / k
        left -= term
    return counts

"""Log likelihood of patches given their nuisances, its gradient and information."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..simulation.rendering import AT_ONCE
from .expectation import FREE, Crystal

__all__ = ["Box", "log_density", "score"]

GAIN = FREE.index("gain")
STEPS = torch.tensor(
    [0.01, 0.02, 0.02, 0.02], dtype=torch.float32
)  # of the finite differences of a place


@dataclass(frozen=True)
class Box:
    """Bounds of the nuisances; one that is held has equal bounds.

    Attributes
    ----------
    low, high : Tensor, shape (nuisance,)
        In the order of ``FREE``, the gain by its logarithm.
    """

    low: Tensor
    high: Tensor

    @property
    def free(self) -> Tensor:
        """Which nuisances are integrated out, shape (nuisance,)."""
        return self.high > self.low

    def log_volume(self) -> float:
        """Log volume of what is integrated out."""
        return float((self.high - self.low)[self.free].log().sum())


def log_density(crystal: Crystal, column: Tensor, nuisances: Tensor, patches: Tensor) -> Tensor:
    """Log likelihood of patches.

    Parameters
    ----------
    crystal : Crystal
        Host and imaging condition.
    column : Tensor of int, shape (image,)
        What the centre holds, see ``Crystal.render``.
    nuisances : Tensor, shape (image, nuisance)
        In the order of ``FREE``, the gain by its logarithm.
    patches : Tensor, shape (image, y, x)
        Intensities.

    Returns
    -------
    Tensor, shape (image,)
        Log density in 1/intensity per pixel.

    Notes
    -----
    Intensity / gain - dark is a Poisson count with normal readout noise: the sum over the counts within four standard
    deviations, each term from the one before.
    """
    rows = torch.arange(len(column)).split(AT_ONCE)
    return torch.cat([_log_density(crystal, column[r], nuisances[r], patches[r]) for r in rows])


def _log_density(crystal: Crystal, column: Tensor, nuisances: Tensor, patches: Tensor) -> Tensor:
    """Log likelihood of a few patches."""
    mean, _, dark = _expect(crystal, column, nuisances)
    mean, width = mean.clamp(min=1e-6), crystal.readout
    reading = patches / nuisances[:, GAIN].exp()[:, None, None] - dark
    half = math.ceil(4 * width)
    count = (reading.floor() - half).clamp(min=0)
    beyond = reading - count
    term, total, shift = torch.ones_like(mean), torch.ones_like(mean), beyond / width**2
    for j in range(1, 2 * half + 2):
        # exp((2 j beyond - j²) / (2 width²)) over that of j - 1
        term = term * (mean / (count + j)) * torch.exp(shift - (j - 0.5) / width**2)
        total = total + term
    log_prob = (
        torch.xlogy(count, mean)
        - mean
        - torch.lgamma(count + 1)
        - 0.5 * beyond.square() / width**2
        + total.log()
    )
    constant = nuisances[:, GAIN].double() + math.log(width * math.sqrt(2 * math.pi))
    return log_prob.double().sum((-2, -1)) - patches[0].numel() * constant


def _expect(crystal: Crystal, column: Tensor, nuisances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Expected counts, shape (image, y, x), counts at the peak of the crystal and of the dark level, (image, 1, 1)."""
    clean = crystal.render(column, nuisances[:, :4])
    peak = clean.amax((-2, -1), keepdim=True) * crystal.exposure
    background, dark = (
        nuisances[:, FREE.index(n), None, None] for n in ("background", "dark_level")
    )
    return clean * crystal.exposure + background * peak, peak, dark * peak


def _slopes(
    crystal: Crystal, column: Tensor, nuisances: Tensor, box: Box
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of the intensities, shape (image, pixel), and their slopes, (image, nuisance, pixel)."""
    gain = nuisances[:, GAIN].exp()[:, None, None]
    expected, peak, dark = _expect(crystal, column, nuisances)
    mean, variance = gain * (expected + dark), gain**2 * (expected + crystal.readout**2)
    d_mean, d_variance = [], []
    for i, step in enumerate(STEPS):
        if not box.free[i]:
            d_mean.append(torch.zeros_like(mean))
            d_variance.append(torch.zeros_like(mean))
            continue
        # towards the inside of the box
        sign = torch.where(nuisances[:, i] + step > box.high[i], -step, step)
        moved = nuisances.clone()
        moved[:, i] += sign
        counts, _, shade = _expect(crystal, column, moved)
        d_mean.append((gain * (counts + shade) - mean) / sign[:, None, None])
        d_variance.append(gain**2 * (counts - expected) / sign[:, None, None])
    level, zero = gain * peak.expand_as(mean), torch.zeros_like(mean)
    d_mean += [level, mean, level]
    d_variance += [gain * level, 2 * variance, zero]
    flat = (torch.stack(d, 1).flatten(2) * box.free[:, None] for d in (d_mean, d_variance))
    return mean.flatten(1), variance.flatten(1), *flat


def score(
    crystal: Crystal, column: Tensor, nuisances: Tensor, patches: Tensor, box: Box
) -> tuple[Tensor, Tensor]:
    """Gradient and Fisher information of the log likelihood, intensities taken as normal.

    Parameters
    ----------
    crystal : Crystal
        Host and imaging condition.
    column : Tensor of int, shape (image,)
        What the centre holds.
    nuisances : Tensor, shape (image, nuisance)
        As for ``log_density``.
    patches : Tensor, shape (image, y, x)
        Intensities.
    box : Box
        Bounds of the nuisances; the width of the prior adds to the information.

    Returns
    -------
    gradient : Tensor, shape (image, nuisance)
        Double precision.
    information : Tensor, shape (image, nuisance, nuisance)
        Positive definite.
    """
    mean, variance, d_mean, d_variance = _slopes(crystal, column, nuisances, box)
    rest = patches.flatten(1) - mean
    by_mean, by_variance = d_mean / variance[:, None], d_variance / variance[:, None]
    gradient = (
        by_mean @ rest[..., None] + 0.5 * by_variance @ (rest.square() / variance - 1)[..., None]
    )[..., 0]
    information = by_mean @ d_mean.mT + 0.5 * by_variance @ by_variance.mT
    # the width of the prior, and one for what is held
    width = torch.where(box.free, (box.high - box.low).clamp(max=2.0), 1.0)
    return gradient.double(), information.double() + torch.diag(12 / width.double() ** 2)

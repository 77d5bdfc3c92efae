"""Expected images of a defect in a perfect crystal, and the likelihood of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..defects import SITES, SPECIES
from ..fourier import FWHM
from ..nuisances import NUISANCES
from ..optics import mode_orders
from ..prior import CONTINUOUS, Prior
from ..raster import synthesize
from ..simulation.rendering import AT_ONCE, BOX
from ..simulation.scene import KIND_OF_SPECIES, LATTICE_CONSTANTS, REACH, Scene, sites_around
from ..simulation.spectra import image_spectra, patch_spectra

__all__ = ["Box", "Crystal", "FREE", "held_nuisances", "log_density", "score"]

FREE = ("rotation", "offset_x", "offset_y", "source_size", "background", "gain", "dark_level")
"""The nuisances that are integrated out, in the order of every array over them; the prior fixes the
others at a number."""

STILL = (
    "phase_x", "phase_y", "drift_x", "drift_y", "line_jitter", "tilt", "relaxation", "disorder",
    "additivity",
)  # fmt: skip
"""The nuisances that must be zero: those of a distorted scan or crystal."""


def held_nuisances(prior: Prior) -> dict[str, float]:
    """Nuisances that the prior fixes at a number.

    Parameters
    ----------
    prior : Prior
        Prior of the patches.

    Returns
    -------
    dict of str to float
        By the names of ``nuisances.NUISANCES``.

    Raises
    ------
    ValueError
        If one that cannot be integrated out has a distribution, scan or crystal are distorted,
        there is no readout noise, the scan has other pixels than a patch, or neighbouring sites may
        be defects.
    """
    held = {name: prior.nuisances.get(name, 0.0) for name in NUISANCES if name not in FREE}
    spread = [name for name, value in held.items() if not isinstance(value, float | int)]
    if spread:
        raise ValueError(
            f"a number was expected for the nuisance {spread[0]}, got {held[spread[0]]}; "
            "see limit_prior()"
        )
    moving = [name for name in STILL if held[name]]
    if moving:
        raise ValueError(
            f"a perfect crystal was expected, got {moving[0]} = {held[moving[0]]}; "
            "see limit_prior()"
        )
    if not held["readout"] > 0:
        raise ValueError(
            f"readout noise above zero was expected, got {held['readout']}; set it, since without "
            "it intensities are multiples of the gain and the likelihood is no density"
        )
    if abs(held["scan_step"] / prior.sampling - 1) > 1e-6:
        raise ValueError(
            f"a scan_step of {prior.sampling} Å, the pixels of a patch, was expected, got "
            f"{held['scan_step']}; set it to prior.sampling"
        )
    perfect = {classes[0] for classes in SITES.values()}
    if any(prior.dirichlet_alpha[d] for d in prior.dirichlet_alpha if d not in perfect):
        raise ValueError(
            "a dirichlet_alpha of zero was expected for every defect, got "
            f"{dict(prior.dirichlet_alpha)}; the sites around the centre must be perfect, "
            "see limit_prior()"
        )
    return {name: float(value) for name, value in held.items()}


class Crystal:
    """Images of every defect in one host under one imaging condition.

    Parameters
    ----------
    prior : Prior
        Gives the fixed nuisances, see ``held_nuisances``, and the pixels.
    host : int
        Index into ``HOSTS``.
    dopants : sequence of int
        Indices into ``METALS``.
    context : mapping of str to float
        By the names of ``prior.CONTINUOUS``.

    Attributes
    ----------
    exposure : float
        Electrons per pixel.
    readout : float
        Readout noise in electrons.
    """

    def __init__(
        self, prior: Prior, host: int, dopants: Sequence[int], context: Mapping[str, float]
    ) -> None:
        held = held_nuisances(prior)
        source = prior.nuisances.get("source_size", 0.0)
        # spectra are computed for the smallest source; render blurs them to that of an image
        self.sharpest = (
            float(source.support.lower_bound)
            if isinstance(source, torch.distributions.Distribution)
            else source
        )
        count = len(dopants)
        nuisances = {
            n: torch.full((count,), held.get(n, 0.0), dtype=torch.float32) for n in NUISANCES
        } | {"source_size": torch.full((count,), self.sharpest, dtype=torch.float32)}
        image = {
            n: torch.full((count,), float(context[n]), dtype=torch.float32) for n in CONTINUOUS
        }
        image |= {"host": torch.full((count,), host), "dopant": torch.tensor(list(dopants))}
        spectra = image_spectra(
            image, nuisances, torch.zeros(count, len(SPECIES), dtype=torch.float32), cell=(BOX, BOX)
        )
        self.spectra = spectra.flatten(0, 1)[None]
        self.readout = held["readout"]
        self.exposure = float(context["dose"]) * prior.sampling**2
        self.axis = (
            (torch.arange(prior.num_pixels, dtype=torch.float32) - (prior.num_pixels - 1) / 2)
            * prior.sampling
        )[None, None]
        self.sites = sites_around()[:, :2] * (LATTICE_CONSTANTS[host] * (1 + held["strain"]))
        my, mx = (self.spectra.shape[-2] - 1) // 2, self.spectra.shape[-1] - 1
        self.qx2, self.qy2 = (
            (torch.arange(mx + 1, dtype=torch.float32) / BOX).square(),
            (mode_orders(my).float() / BOX).square(),
        )

    def render(self, column: Tensor, place: Tensor) -> Tensor:
        """Noise-free images without background.

        Parameters
        ----------
        column : Tensor of int, shape (image,)
            Column of the central site: index into ``SPECIES`` plus ``len(SPECIES)`` times the
            position of the dopant.
        place : Tensor, shape (image, 4)
            The first four of ``FREE``, in rad and Å.

        Returns
        -------
        Tensor, shape (image, y, x)
            Fraction of the beam.
        """
        rows = torch.arange(len(column)).split(AT_ONCE)
        return torch.cat([self._render(column[r], place[r]) for r in rows])

    def _render(self, column: Tensor, place: Tensor) -> Tensor:
        """Images of a few columns."""
        angle, offset, source = place[:, 0], place[:, 1:3], place[:, 3]
        turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).unflatten(
            -1, (2, 2)
        )
        sites = self.sites[KIND_OF_SPECIES[column % len(SPECIES)]]
        positions = (sites.flatten(1, 2) @ turn).unflatten(1, sites.shape[1:3]) + offset[
            :, None, None
        ]
        radius = sites.norm(dim=-1)
        inside = (positions.abs().amax(-1) < BOX / 2) & (radius < REACH) & (radius > 0.1)
        scene = Scene(
            positions=positions[None],
            weights=inside[None].float(),
            special_positions=offset[None, :, None],
            special_species=column[None, :, None],
            special_weights=torch.ones(1, len(column), 1, dtype=torch.float32),
        )
        blur = (-2 * math.pi**2 / FWHM**2) * (source.square() - self.sharpest**2)[:, None]
        along_y, along_x = torch.exp(blur * self.qy2), torch.exp(blur * self.qx2)
        spectrum = patch_spectra(self.spectra, scene, cell=(BOX, BOX)) * (
            along_y[..., None] * along_x[:, None]
        )
        return synthesize(spectrum, self.axis, self.axis, cell=(BOX, BOX))[0].clamp(min=0)


GAIN = FREE.index("gain")
# finite differences of rotation (rad), offsets and source size (Å)
STEPS = torch.tensor([0.01, 0.02, 0.02, 0.02], dtype=torch.float32)


@dataclass(frozen=True)
class Box:
    """Bounds of the nuisances; a fixed one has equal bounds.

    Attributes
    ----------
    low, high : Tensor, shape (nuisance,)
        In the order of ``FREE``, with the logarithm of the gain.
    """

    low: Tensor
    high: Tensor

    @property
    def free(self) -> Tensor:
        """Which nuisances are integrated out, shape (nuisance,)."""
        return self.high > self.low

    def log_volume(self) -> float:
        """Log volume of the free nuisances, rotation in rad, lengths in Å."""
        return float((self.high - self.low)[self.free].log().sum())


def log_density(crystal: Crystal, column: Tensor, nuisances: Tensor, patches: Tensor) -> Tensor:
    """Log likelihood of patches.

    Parameters
    ----------
    crystal : Crystal
        Host and imaging condition.
    column : Tensor of int, shape (image,)
        Column of the central site, see ``Crystal.render``.
    nuisances : Tensor, shape (image, nuisance)
        In the order of ``FREE``, with the logarithm of the gain.
    patches : Tensor, shape (image, y, x)
        Intensities.

    Returns
    -------
    Tensor, shape (image,)
        Log density in nats, of intensities in the unit of the patches; double precision.

    Notes
    -----
    Intensity / gain - dark level is a Poisson count with normal readout noise. The density is a sum
    over the counts within four standard deviations, each term computed from the one before.
    """
    rows = torch.arange(len(column)).split(AT_ONCE)
    return torch.cat([_log_density(crystal, column[r], nuisances[r], patches[r]) for r in rows])


def _log_density(crystal: Crystal, column: Tensor, nuisances: Tensor, patches: Tensor) -> Tensor:
    """Log likelihood of a few patches."""
    mean, _, dark = _expect(crystal, column, nuisances)
    mean, width = mean.clamp(min=1e-6), crystal.readout
    electrons = patches / nuisances[:, GAIN].exp()[:, None, None] - dark
    half = math.ceil(4 * width)
    count = (electrons.floor() - half).clamp(min=0)
    beyond = electrons - count
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
    """Expected counts (image, y, x), and counts of peak and dark level (image, 1, 1)."""
    clean = crystal.render(column, nuisances[:, :4])
    peak = clean.amax((-2, -1), keepdim=True) * crystal.exposure
    background, dark = (
        nuisances[:, FREE.index(n), None, None] for n in ("background", "dark_level")
    )
    return clean * crystal.exposure + background * peak, peak, dark * peak


def _slopes(
    crystal: Crystal, column: Tensor, nuisances: Tensor, box: Box
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance (image, pixel) of intensities, and slopes (image, nuisance, pixel)."""
    gain = nuisances[:, GAIN].exp()[:, None, None]
    expected, peak, dark = _expect(crystal, column, nuisances)
    mean, variance = gain * (expected + dark), gain**2 * (expected + crystal.readout**2)
    d_mean, d_variance = [], []
    for i, step in enumerate(STEPS):
        if not box.free[i]:
            d_mean.append(torch.zeros_like(mean))
            d_variance.append(torch.zeros_like(mean))
            continue
        # the step stays inside of the box
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
    """Gradient and Fisher information of the log likelihood, in the normal approximation.

    Parameters
    ----------
    crystal : Crystal
        Host and imaging condition.
    column : Tensor of int, shape (image,)
        Column of the central site, see ``Crystal.render``.
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
    # 12 / width² is the precision of a uniform prior; fixed nuisances need a positive one as well
    width = torch.where(box.free, (box.high - box.low).clamp(max=2.0), 1.0)
    return gradient.double(), information.double() + torch.diag(12 / width.double() ** 2)

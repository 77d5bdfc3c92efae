"""Images from Fourier coefficients: scan pixels, contamination, noise, pixels of a patch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..defects import SPECIES
from ..optics import mode_orders
from ..prior import Prior
from ..raster import synthesize
from ..tensors import interpolation_matrix, pick, pixel_axis
from .scene import Scene
from .spectra import image_bandwidth, image_spectra, patch_spectra

__all__ = [
    "BOX",
    "Extent",
    "MARGIN",
    "Noise",
    "detect",
    "draw_noise",
    "measure_extent",
    "poisson_counts",
    "render",
]

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


BOX = 18.5  # Å, period of the cell around a patch: 5 Å of crystal on either side
GROUP = (8, 64)  # largest numbers of images and patches that are rendered together on a CPU
LARGE_GROUP = (512, 8192)  # and on a GPU, where small calls take as long as their launch
AT_ONCE = 128  # patches of one image whose spectra fit into the cache


@dataclass(frozen=True)
class Extent:
    """Numbers of spatial frequencies and scan pixels that images need.

    Attributes
    ----------
    num_modes : Tensor of int, shape (image,)
        Largest order of the spatial frequencies along either axis.
    num_native : Tensor of int, shape (image,)
        Scan pixels along each side of a patch.
    between : Tensor of bool, shape (image,)
        Whether the pixels of a patch are interpolated from the scan pixels.
    """

    num_modes: Tensor
    num_native: Tensor
    between: Tensor


def detect(
    clean: Tensor,
    x: Tensor,
    y: Tensor,
    exposure: Tensor,
    nuisances: Mapping[str, Tensor],
    normal: Tensor | None = None,
    readout: Tensor | None = None,
) -> Tensor:
    """Detector: contamination, Poisson noise, readout noise, gain and dark level.

    Parameters
    ----------
    clean : Tensor, shape (image, patch, y, x)
        Noise-free fraction of the beam.
    x, y : Tensor, shapes (image, 1, x) and (image, 1, y)
        Pixel positions in Å.
    exposure : Tensor, shape (image, 1, 1, 1)
        Electrons per pixel.
    nuisances : mapping of str to Tensor, shape (image,) or (image, patch)
        By the names of ``nuisances.NUISANCES``.
    normal : Tensor, shape (image, patch, y, x), optional
        Standard normal variables, mapped to the quantiles of the Poisson counts. Default: expected
        counts.
    readout : Tensor, shape (image, patch, y, x), optional
        Standard normal variables of the readout noise. Default: no readout noise.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Gain times the sum of counts, readout noise and dark level.
    """
    clean = clean.clamp(min=0)
    peak = clean.amax((-3, -2, -1), keepdim=True)

    def of_patch(name: str) -> Tensor:
        value = nuisances[name]
        return value.reshape(value.shape + (1,) * (4 - value.ndim))

    slope = (
        of_patch("background_slope_x") * x[..., None, :]
        + of_patch("background_slope_y") * y[..., :, None]
    )
    film = of_patch("background") * peak * (1 + slope).clamp(min=0)
    expected = (clean + film) * exposure
    counts = expected if normal is None else poisson_counts(expected, normal)
    if readout is not None:
        counts = counts + of_patch("readout") * readout
    return of_patch("gain") * (counts + of_patch("dark_level") * peak * exposure)


def measure_extent(
    prior: Prior, image: Mapping[str, Tensor], nuisances: Mapping[str, Tensor], num_patches: int
) -> Extent:
    """Number of spatial frequencies and scan pixels that images need.

    Parameters
    ----------
    prior : Prior
        Defines the pixels of a patch.
    image, nuisances : mapping of str to Tensor, shape (image,)
        See ``render``.
    num_patches : int
        Patches per image.

    Returns
    -------
    Extent
        Equal for images with similar needs, which are rendered together.
    """
    needed, step = image_bandwidth(image, nuisances), _native_step(prior, nuisances)
    moved = (step != prior.sampling) | (nuisances["phase_x"] != 0) | (nuisances["phase_y"] != 0)
    num_modes, between = torch.zeros_like(image["host"]), torch.zeros_like(moved)
    num_native = torch.full_like(num_modes, prior.num_pixels)
    for group in needed.argsort().split(_num_together(GROUP, num_patches)):
        num_modes[group] = math.ceil(float(needed[group].max()) * BOX)
        if bool(moved[group].any()):
            between[group] = True
            num_native[group] = (
                math.ceil(prior.num_pixels * prior.sampling / float(step[group].min())) + 2 * MARGIN
            )
    return Extent(num_modes, num_native, between)


def _native_step(prior: Prior, nuisances: Mapping[str, Tensor]) -> Tensor:
    """Size in Å of the computed pixels; finer scan pixels are binned, adding their counts."""
    return nuisances["scan_step"].clamp(min=prior.sampling)


def _num_together(most: tuple[int, int], num_patches: int) -> int:
    """Number of images that are rendered together."""
    return max(1, min(most[0], most[1] // num_patches))


def render(
    prior: Prior,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    scene: Scene,
    noise: Noise,
    extent: Extent | None = None,
) -> Tensor:
    """Compute the noisy images of the patches of a scene.

    Parameters
    ----------
    prior : Prior
        Defines the pixels of a patch.
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image,) or (image, patch)
        By the names of ``nuisances.NUISANCES``.
    scene : Scene
        Positions and species of the columns.
    noise : Noise
        Random numbers.
    extent : Extent, optional
        Numbers of spatial frequencies and scan pixels, on the CPU. Default: ``measure_extent`` of
        these images.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Intensity on the pixels of a patch, interpolated from the scan pixels.

    Notes
    -----
    With the same ``extent`` an image is the same to rounding on any device and in any batch.
    """
    num_patches, device = scene.special_species.shape[1], scene.positions.device
    extent = extent or measure_extent(prior, image, nuisances, num_patches)
    most = GROUP if device.type == "cpu" else LARGE_GROUP
    order = extent.num_native.argsort(stable=True)
    order = order[extent.num_modes[order].argsort(stable=True)]
    rendered = []
    for group in order.split(_num_together(most, num_patches)):
        there = group.to(device)
        parts = (pick(record, there) for record in (image, nuisances, scene, noise))
        rendered.append(_render_group(prior, *parts, pick(extent, group)))
    return torch.cat(rendered)[order.argsort().to(device)]


def _render_group(
    prior: Prior,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    scene: Scene,
    noise: Noise,
    extent: Extent,
) -> Tensor:
    """Patches of images of similar extent, shape (image, patch, y, x)."""
    cell = (BOX, BOX)
    num_modes, num_native = int(extent.num_modes.max()), int(extent.num_native.max())
    spectra = image_spectra(
        image, nuisances, noise.deviation, cell=cell, num_modes=(num_modes, num_modes)
    )
    step = _native_step(prior, nuisances)
    middle = (extent.num_native.to(step)[:, None, None] - 1) / 2
    phase = torch.stack([nuisances["phase_x"], nuisances["phase_y"]])[..., None, None]
    native = (torch.arange(num_native, device=step.device) - middle - phase) * step[
        :, None, None
    ]  # (axis, image, 1, pixel)
    # a row that bins several scan rows has the mean of their jitter
    shift = (
        noise.jitter[..., :num_native]
        * (nuisances["line_jitter"] * (nuisances["scan_step"] / step).sqrt())[:, None, None]
    )
    clean, own_modes = [], _modes_of(extent)
    for part in (slice(first, first + AT_ONCE) for first in range(0, shift.shape[1], AT_ONCE)):
        spectrum = _keep(
            patch_spectra(spectra, pick(scene, (slice(None), part)), cell=cell), own_modes
        )
        clean.append(synthesize(spectrum, *native, cell=cell, row_shift=shift[:, part]))
    clean = _keep(torch.cat(clean, 1), _pixels_of(extent))
    exposure = (image["dose"] * step**2)[:, None, None, None]
    counts, readout = (
        None if n is None else n[..., :num_native, :num_native]
        for n in (noise.counts, noise.readout)
    )
    if readout is not None:
        readout = readout * (step / nuisances["scan_step"])[:, None, None, None]
    noisy = detect(clean, *native, exposure, nuisances, counts, readout)
    if not bool(extent.between.any()):
        return noisy
    return _resample(prior, noisy, step, middle, phase)


def _resample(prior: Prior, noisy: Tensor, step: Tensor, middle: Tensor, phase: Tensor) -> Tensor:
    """Interpolate scan pixels at the pixels of a patch, whose centre is at middle + phase."""
    target = pixel_axis(prior.num_pixels, prior.sampling, step.device)
    along_x, along_y = interpolation_matrix(
        target / step[:, None, None] + middle + phase,
        noisy.shape[-1],
        (prior.sampling / step)[:, None, None, None],
    )
    return along_y @ noisy @ along_x.mT


def _keep(values: Tensor, own: Tensor) -> Tensor:
    """Values where the mask is true and zero elsewhere."""
    return values if bool(own.all()) else values * own.to(values.device)


def _modes_of(extent: Extent) -> Tensor:
    """Mask of the modes within each image's own band limit, shape (image, 1, qy, qx)."""
    orders, most = (
        mode_orders(int(extent.num_modes.max())).abs(),
        extent.num_modes[:, None, None, None],
    )
    return (orders[:, None] <= most) & (orders[: len(orders) // 2 + 1] <= most)


def _pixels_of(extent: Extent) -> Tensor:
    """Mask of each image's own scan pixels, shape (image, 1, y, x)."""
    inside = torch.arange(int(extent.num_native.max())) < extent.num_native[:, None, None, None]
    return inside & inside.mT

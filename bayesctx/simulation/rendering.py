"""Fourier coefficients to counts: pixels, contamination, noise, gain, and the pixels of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fourier import synthesize
from ..optics import mode_orders
from ..prior import Prior
from ..tensors import interpolation_matrix, pick
from .detector import MARGIN, Noise, poisson_counts
from .scene import Scene
from .spectra import image_bandwidth, image_spectra, patch_spectra

__all__ = ["BOX", "Extent", "detect", "measure_extent", "render"]

BOX = 18.5  # Å, period of the cell around a patch: 5 Å of crystal on either side
GROUP = (
    8,
    64,
)  # most images and patches that are rendered together on a processor, of images that need like frequencies
LARGE_GROUP = (512, 8192)  # and elsewhere: a call costs its launch, however much it does
AT_ONCE = 128  # patches of one image whose spectra stay in the cache


@dataclass(frozen=True)
class Extent:
    """What it takes to compute images.

    Attributes
    ----------
    num_modes : Tensor of int, shape (image,)
        Largest order of the spatial frequencies along either axis.
    num_native : Tensor of int, shape (image,)
        Pixels of the scan along each side of a patch.
    between : Tensor of bool, shape (image,)
        Whether the pixels of the model lie between those of the scan.
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
    """Contamination, Poisson noise, readout noise, gain and dark level.

    Parameters
    ----------
    clean : Tensor, shape (image, patch, y, x)
        Noise-free fraction of the beam.
    x, y : Tensor, shapes (image, 1, x) and (image, 1, y)
        Pixel positions in Å.
    exposure : Tensor, shape (image, 1, 1, 1)
        Electrons per pixel.
    nuisances : mapping of str to Tensor, shape (image,) or (image, patch)
        See ``prior.NUISANCES``.
    normal : Tensor, shape (image, patch, y, x), optional
        Standard normal variables, whose quantiles the counts are; None leaves the expected counts.
    readout : Tensor, shape (image, patch, y, x), optional
        Standard normal variables of the electronics; None leaves them silent.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Counts and dark level times the gain.
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
    """Frequencies and pixels that images need.

    Parameters
    ----------
    prior : Prior
        Gives the pixels of the patch.
    image, nuisances : mapping of str to Tensor, shape (image,)
        See ``render``.
    num_patches : int
        Patches of an image.

    Returns
    -------
    Extent
        Images that need much the same get the same, so that they can be computed together.
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
    """Size of the pixels that are computed in Å: those finer than the model's are binned, their counts add up."""
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
    """Image the patches of a scene.

    Parameters
    ----------
    prior : Prior
        Gives the pixels of the patch.
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image,) or (image, patch)
        See ``prior.NUISANCES``.
    scene : Scene
        Where the columns are.
    noise : Noise
        Random numbers.
    extent : Extent, optional
        What it takes, on the processor. Default: ``measure_extent`` of these images.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Intensity: the scan's own pixels interpolated to those of the model. The same to rounding on any device and beside any
        other images, as long as its extent is the same.
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
    """Patches of images of like extent, shape (image, patch, y, x)."""
    cell = (BOX, BOX)
    num_modes, num_native = int(extent.num_modes.max()), int(extent.num_native.max())
    spectra = image_spectra(
        image, nuisances, noise.deviation, cell=cell, num_modes=(num_modes, num_modes)
    )
    step = _native_step(prior, nuisances)
    middle = (extent.num_native.to(step.device)[:, None, None] - 1) / 2
    phase = torch.stack([nuisances["phase_x"], nuisances["phase_y"]])[..., None, None]
    native = (torch.arange(num_native, device=step.device) - middle - phase) * step[
        :, None, None
    ]  # (axis, image, 1, pixel)
    # the jitter of rows that are binned averages
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
    # the pixels of a patch cut from a micrograph lie anywhere between those of the scan
    target = (
        torch.arange(prior.num_pixels, device=step.device) - (prior.num_pixels - 1) / 2
    ) * prior.sampling
    position = target / step[:, None, None] + middle + phase
    along_x, along_y = interpolation_matrix(
        position, num_native, (prior.sampling / step)[:, None, None, None]
    )
    return along_y @ noisy @ along_x.mT


def _keep(values: Tensor, own: Tensor) -> Tensor:
    """Values that are an image's own; images of one extent have no others."""
    return values if bool(own.all()) else values * own.to(values.device)


def _modes_of(extent: Extent) -> Tensor:
    """Whether a mode is one of the image, not of its company only, shape (image, 1, qy, qx)."""
    orders, most = (
        mode_orders(int(extent.num_modes.max())).abs(),
        extent.num_modes[:, None, None, None],
    )
    return (orders[:, None] <= most) & (orders[: len(orders) // 2 + 1] <= most)


def _pixels_of(extent: Extent) -> Tensor:
    """Whether a pixel is one of the image, not of its company only, shape (image, 1, y, x)."""
    inside = torch.arange(int(extent.num_native.max())) < extent.num_native[:, None, None, None]
    return inside & inside.mT

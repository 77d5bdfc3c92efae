"""Columns to counts: optics, contamination, Poisson noise, gain, and the pixels of the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..imaging import (
    FWHM,
    bandwidth,
    column_phases,
    column_spectra,
    interpolation_matrix,
    pair_overlap,
    structure_factor,
    synthesize,
)
from ..optics import ABERRATIONS, wavelength
from ..prior import Prior
from ..scattering import LookUp, load_table
from ..scattering.atoms import THERMAL_DISPLACEMENT
from ..structure import HOSTS, METALS, columns_of
from .noise import poisson_counts
from .scene import SPECIES, Scene, first_species

__all__ = ["BOX", "add_columns", "detect", "image_spectra", "patch_spectra", "render"]

BOX = 18.5  # Å, period of the cell around a patch: 5 Å of crystal on either side
TOLERANCE = 2e-3  # bound of the share of a peak beyond the frequencies of an image; measured, under 1e-3 of the range of a patch
GROUP = (8, 64)  # most images and patches that are rendered together, of images that need like frequencies
AT_ONCE = 128  # patches of one image whose spectra stay in the cache
SMALLEST_DISPLACEMENT = min(THERMAL_DISPLACEMENT.values()) / math.sqrt(2)  # Å, of the centre of a pair of the heaviest atoms
MARGIN = 2  # pixels that the interpolation needs on either side


PAIRS = torch.tensor([i for i, (d, v) in enumerate(SPECIES) if len(columns_of(d, "MoS2", "W")[v]) == 2])


@functools.cache
def _table(device: torch.device) -> LookUp:
    """Where the columns of every material stand in the table of responses, shape (host, dopant, column).

    First every species, then the upper atoms of the pairs, then the lower ones.
    """
    columns = []
    for host in HOSTS:
        for dopant in METALS:
            species = [columns_of(d, host, dopant)[v] for d, v in SPECIES]
            columns += species + [(species[i][side],) for side in (0, 1) for i in PAIRS]
    return load_table().look_up(columns).reshape(len(HOSTS), len(METALS), -1).to(device)


def _additivity_error(beam_energy: Tensor, inner_collection_angle: Tensor, tilt: Tensor) -> Tensor:
    """Relative rms error of the ratio of columns that are added without their interference (benchmarks/additivity.py).

    It fades with the spatial frequency of the innermost wave on the detector, and grows as a tilt shears the pairs.
    """
    frequency = inner_collection_angle * 1e-3 / wavelength(beam_energy)
    flat = 0.003 + 0.02 * torch.exp(-2 * (frequency - 1.2).clamp(min=0))
    return torch.hypot(flat, 0.03 * (tilt / 5) ** 2)


def image_spectra(
    image: Mapping[str, Tensor], nuisances: Mapping[str, Tensor], deviation: Tensor, *, cell: tuple[float, float]
) -> Tensor:
    """Fourier coefficients of the image of every species.

    Parameters
    ----------
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image,)
        See ``prior.NUISANCES``.
    deviation : Tensor, shape (image, species)
        Errors of additivity, in standard deviations.
    cell : tuple of float
        Periods (Lx, Ly) in Å.

    Returns
    -------
    Tensor, shape (image, species, qy, qx)
        Complex, as a fraction of the beam.
    """
    energy, inner, outer = (image[n] for n in ("beam_energy", "inner_collection_angle", "outer_collection_angle"))
    columns = _table(energy.device)[image["host"], image["dopant"]]
    azimuth = nuisances["tilt_azimuth"]
    slope = nuisances["tilt"].deg2rad().tan()[:, None] * torch.stack([azimuth.cos(), azimuth.sin()], -1)
    share = 1 + deviation * (_additivity_error(energy, inner, nuisances["tilt"]) * nuisances["additivity"])[:, None]
    tilted = bool(slope.any())
    if tilted:
        share = torch.cat([share, *_split(share, columns.height, slope.norm(dim=-1), energy, inner)], 1)
    else:
        columns = columns[:, : len(SPECIES)]
    spectra = column_spectra(
        load_table().coefficients(columns, energy, inner, outer) * share[..., None, None],
        columns.displacement * nuisances["vibration"][:, None],
        beam_energy=energy,
        convergence_semiangle=image["convergence_semiangle"],
        aberrations={n: nuisances[n] for n in ABERRATIONS if n != "C10"} | {"C10": -image["defocus"]},
        source_size=nuisances["source_size"],
        focal_spread=nuisances["focal_spread"],
        cell=cell,
        num_modes=tuple(math.ceil(float(_bandwidth(image, nuisances).max()) * length) for length in cell),
        positions=columns.height[..., None] * slope[:, None] if tilted else None,
    )
    species, atoms = spectra[:, : len(SPECIES)], spectra[:, len(SPECIES) :]
    return species.index_add(1, PAIRS.repeat(2).to(atoms.device), atoms) if tilted else species


def _split(share: Tensor, height: Tensor, slope: Tensor, beam_energy: Tensor, inner: Tensor) -> list[Tensor]:
    """Take from the pairs what their atoms scatter for themselves in a tilted crystal: the shares of both atoms."""
    upper, lower = height[:, len(SPECIES) :].unflatten(1, (2, -1)).unbind(1)
    slope, beam_energy, inner = (v[:, None] for v in (slope, beam_energy, inner))
    alone = share[:, PAIRS] * (1 - pair_overlap((lower - upper) * slope, lower - upper, beam_energy, inner))
    share[:, PAIRS] -= alone
    return [alone, alone]


def _bandwidth(image: Mapping[str, Tensor], nuisances: Mapping[str, Tensor]) -> Tensor:
    """Largest spatial frequency of every image in 1/Å."""
    smallest = SMALLEST_DISPLACEMENT * nuisances["vibration"]
    blur = torch.hypot(smallest, nuisances["source_size"] / FWHM)
    return bandwidth(image["beam_energy"], image["convergence_semiangle"], blur, tolerance=TOLERANCE)


def patch_spectra(spectra: Tensor, scene: Scene, *, cell: tuple[float, float]) -> Tensor:
    """Add up the columns of a scene.

    Parameters
    ----------
    spectra : Tensor, shape (image, species, qy, qx)
        Coefficients of one column of every species.
    scene : Scene
        Where the columns are.
    cell : tuple of float
        Periods in Å.

    Returns
    -------
    Tensor, shape (image, patch, qy, qx)
        Coefficients of every patch.
    """
    modes = (spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2)
    factors = structure_factor(scene.positions, scene.weights, cell=cell, num_modes=modes)
    metal, chalcogen = (spectra[:, None, first_species(defect)] for defect in ("M", "X2"))
    total = torch.addcmul(metal * factors[:, :, 0], chalcogen, factors[:, :, 1])
    return _add_special(total.flatten(0, 1), spectra, scene, cell).view(total.shape)


def _add_special(total: Tensor, spectra: Tensor, scene: Scene, cell: tuple[float, float]) -> Tensor:
    """Add the few columns that differ from the host, each with its own response, to spectra of shape (patch, qy, qx)."""
    modes = (spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2)
    species = scene.special_species + torch.arange(len(spectra), device=spectra.device)[:, None, None] * len(SPECIES)
    num_used = (scene.special_weights > 0).sum(-1).flatten()
    # patches with many such columns first: then the k-th column is that of the first patches
    order = num_used.argsort(descending=True, stable=True)
    species, positions = (v.flatten(0, 1)[order] for v in (species, scene.special_positions))
    at_x, at_y = column_phases(positions, cell=cell, num_modes=modes)
    responses, sums = spectra.flatten(0, 1), total[order]
    for k in range(int(num_used.max())):
        num = int((num_used > k).sum())
        response = responses[species[:num, k]]
        response *= at_y[:num, k, :, None]
        sums[:num].addcmul_(response, at_x[:num, k, None, :])
    return sums[order.argsort()]


def add_columns(spectra: Tensor, positions: Tensor, species: Tensor, *, cell: tuple[float, float]) -> Tensor:
    """Add up the columns of one large image.

    Parameters
    ----------
    spectra : Tensor, shape (species, qy, qx)
        Coefficients of one column of every species.
    positions : Tensor, shape (column, 2)
        In Å.
    species : Tensor of int, shape (column,)
        Index into ``SPECIES``.
    cell : tuple of float
        Periods in Å.

    Returns
    -------
    Tensor, shape (qy, qx)
        Coefficients of the image.
    """
    total, modes = torch.zeros_like(spectra[0]), (spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2)
    for kind in species.unique():
        at = positions[species == kind]
        total += spectra[kind] * structure_factor(at, torch.ones_like(at[:, 0]), cell=cell, num_modes=modes)
    return total


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

    slope = of_patch("background_slope_x") * x[..., None, :] + of_patch("background_slope_y") * y[..., :, None]
    film = of_patch("background") * peak * (1 + slope).clamp(min=0)
    expected = (clean + film) * exposure
    counts = expected if normal is None else poisson_counts(expected, normal)
    if readout is not None:
        counts = counts + of_patch("readout") * readout
    return of_patch("gain") * (counts + of_patch("dark_level") * peak * exposure)


def render(
    rng: np.random.Generator,
    prior: Prior,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    scene: Scene,
    *,
    noise: bool = True,
) -> Tensor:
    """Image the patches of a scene.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        Gives the pixels of the patch.
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image,) or (image, patch)
        See ``prior.NUISANCES``.
    scene : Scene
        Where the columns are.
    noise : bool
        Draw counts; otherwise they are the expected ones.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Intensity: the scan's own pixels interpolated to those of the model.
    """
    num_images, num_patches = scene.special_species.shape[:2]
    device = scene.positions.device
    most = prior.num_pixels + 2 * MARGIN
    # every random number before any arithmetic: rounding, which differs between machines, cannot shift them
    deviation = _normal(rng, num_images, len(SPECIES)).to(device)
    jitter = _normal(rng, num_images, num_patches, most).to(device)
    pixels = (num_images, num_patches, most, most)
    normal = _normal(rng, *pixels).to(device) if noise else None
    readout = _normal(rng, *pixels).to(device) if noise and prior.nuisances.get("readout", 0.0) else None
    groups = _bandwidth(image, nuisances).argsort().split(max(1, min(GROUP[0], GROUP[1] // num_patches)))
    rendered = [
        _render_group(
            prior,
            {n: v[g] for n, v in image.items()},
            {n: v[g] for n, v in nuisances.items()},
            scene[g],
            deviation[g],
            jitter[g],
            *(None if n is None else n[g] for n in (normal, readout)),
        )
        for g in groups
    ]
    return torch.cat(rendered)[torch.cat(groups).argsort()]


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal variables."""
    return torch.from_numpy(rng.standard_normal(shape, np.float32))


def _render_group(
    prior: Prior,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    scene: Scene,
    deviation: Tensor,
    jitter: Tensor,
    normal: Tensor | None,
    readout: Tensor | None,
) -> Tensor:
    """Patches of images of like bandwidth, shape (image, patch, y, x)."""
    cell = (BOX, BOX)
    spectra = image_spectra(image, nuisances, deviation, cell=cell)
    # pixels finer than the model's are binned: their counts add up, the jitter of their rows averages
    step = nuisances["scan_step"].clamp(min=prior.sampling)
    phase = torch.stack([nuisances["phase_x"], nuisances["phase_y"]])[..., None, None]
    same = bool((step == prior.sampling).all()) and not bool(phase.any())
    num_native = prior.num_pixels if same else math.ceil(prior.num_pixels * prior.sampling / float(step.min())) + 2 * MARGIN
    middle = (num_native - 1) / 2
    native = (torch.arange(num_native, device=step.device) - middle - phase) * step[:, None, None]  # (axis, image, 1, pixel)
    shift = jitter[..., :num_native] * (nuisances["line_jitter"] * (nuisances["scan_step"] / step).sqrt())[:, None, None]
    parts = [slice(first, first + AT_ONCE) for first in range(0, jitter.shape[1], AT_ONCE)]
    clean = torch.cat(
        [
            synthesize(patch_spectra(spectra, scene[:, part], cell=cell), *native, cell=cell, row_shift=shift[:, part])
            for part in parts
        ],
        1,
    )
    exposure = (image["dose"] * step**2)[:, None, None, None]
    drawn = [None if n is None else n[..., :num_native, :num_native] for n in (normal, readout)]
    if readout is not None:
        drawn[1] = drawn[1] * (step / nuisances["scan_step"])[:, None, None, None]
    noisy = detect(clean, *native, exposure, nuisances, *drawn)
    if same:
        return noisy
    # the pixels of a patch cut from a micrograph lie anywhere between those of the scan
    target = (torch.arange(prior.num_pixels, device=step.device) - (prior.num_pixels - 1) / 2) * prior.sampling
    position = target / step[:, None, None] + middle + phase
    along_x, along_y = interpolation_matrix(position, num_native, (prior.sampling / step)[:, None, None, None])
    return along_y @ noisy @ along_x.mT

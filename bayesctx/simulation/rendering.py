"""Columns to counts: optics, contamination, Poisson noise, gain, and the pixels of the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..imaging import FWHM, bandwidth, coherence_width, column_spectra, interpolation_matrix, phases, structure_factor, synthesize
from ..optics import ABERRATIONS
from ..prior import Prior
from ..scattering import LookUp, load_table
from ..structure import HOSTS, METALS, columns_of
from .noise import poisson_counts
from .scene import SPECIES, Scene, first_species

__all__ = ["BOX", "add_columns", "detect", "image_spectra", "patch_spectra", "render"]

BOX = 18.5  # Å, period of the cell around a patch: 5 Å of crystal on either side
TOLERANCE = 1e-3  # share of a peak that lies beyond the spatial frequencies of an image
MARGIN = 2  # pixels that the interpolation needs on either side


PAIRS = torch.tensor([i for i, (d, v) in enumerate(SPECIES) if len(columns_of(d, "MoS2", "W")[v]) == 2])


@functools.cache
def _table() -> LookUp:
    """Where the columns of every material stand in the table of responses, shape (host, dopant, column).

    First every species, then the upper atoms of the pairs, then the lower ones.
    """
    columns = []
    for host in HOSTS:
        for dopant in METALS:
            species = [columns_of(d, host, dopant)[v] for d, v in SPECIES]
            columns += species + [(species[i][side],) for side in (0, 1) for i in PAIRS]
    return load_table().look_up(columns).reshape(len(HOSTS), len(METALS), -1)


def _additivity_error(inner_collection_angle: Tensor) -> Tensor:
    """Relative rms error of adding the images of columns: 3 % at 40 mrad, under 1 % where only the cores scatter."""
    return 0.006 + 0.024 * (40.0 / inner_collection_angle).clamp(max=1.2) ** 3


def image_spectra(
    rng: np.random.Generator,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    *,
    cell: tuple[float, float],
) -> Tensor:
    """Fourier coefficients of the image of every species.

    Parameters
    ----------
    rng : Generator
        Draws the error of additivity.
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image,)
        See ``prior.NUISANCES``.
    cell : tuple of float
        Periods (Lx, Ly) in Å.

    Returns
    -------
    Tensor, shape (image, species, qy, qx)
        Complex, as a fraction of the beam.
    """
    slope = (nuisances["tilt"].deg2rad().tan() * v for v in (nuisances["tilt_azimuth"].cos(), nuisances["tilt_azimuth"].sin()))
    slope = torch.stack(list(slope), -1)
    columns = _table()[image["host"], image["dopant"]]
    if not slope.any():
        columns = columns[:, : len(SPECIES)]
    displacement = columns.displacement * nuisances["vibration"][:, None]
    angles = image["inner_collection_angle"], image["outer_collection_angle"]
    spectra = column_spectra(
        load_table().coefficients(columns, image["beam_energy"], *angles),
        displacement,
        beam_energy=image["beam_energy"],
        convergence_semiangle=image["convergence_semiangle"],
        aberrations={n: nuisances[n] for n in ABERRATIONS if n != "C10"} | {"C10": -image["defocus"]},
        source_size=nuisances["source_size"],
        focal_spread=nuisances["focal_spread"],
        cell=cell,
        num_modes=_num_modes(image, nuisances["source_size"], displacement, cell),
    )
    if slope.any():
        spectra = _shear(spectra, columns.height, slope, coherence_width(image["beam_energy"], angles[0]), cell=cell)
    spread = _additivity_error(image["inner_collection_angle"]) * nuisances["additivity"]
    error = torch.from_numpy(rng.standard_normal(spectra.shape[:2], np.float32)) * spread[:, None]
    return spectra * (1 + error)[..., None, None]


def _shear(spectra: Tensor, height: Tensor, slope: Tensor, width: Tensor, *, cell: tuple[float, float]) -> Tensor:
    """Spectra of the species of a tilted crystal, from those of upright columns and of the atoms of pairs."""
    moved = height[..., None] * slope[:, None]
    at_x, at_y = _shifts(moved, spectra, cell)
    spectra = spectra * at_y[..., :, None] * at_x[..., None, :]
    upper, lower = height[:, len(SPECIES) :].unflatten(1, (2, -1)).unbind(1)
    overlap = torch.exp(-0.5 * ((lower - upper) * slope.norm(dim=-1, keepdim=True) / width[:, None]) ** 2)[..., None, None]
    species, atoms = spectra[:, : len(SPECIES)], spectra[:, len(SPECIES) :].unflatten(1, (2, -1)).sum(1)
    return species.index_copy(1, PAIRS, overlap * species[:, PAIRS] + (1 - overlap) * atoms)


def _shifts(positions: Tensor, spectra: Tensor, cell: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Phases exp(-2 pi i Q.r) of single positions along x and along y, for the orders of spectra."""
    mx, my = spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2
    x, y = (phases(positions[..., i] * (-2 * math.pi / cell[i]), m) for i, m in ((0, mx), (1, my)))
    return x, torch.cat([y, y[..., 1:].conj()], -1)


def _num_modes(
    image: Mapping[str, Tensor], source_size: Tensor, displacement: Tensor, cell: tuple[float, float]
) -> tuple[int, int]:
    """Largest orders (mx, my) of the spatial frequencies that images need, shared by all of them."""
    smallest = torch.where(displacement > 0, displacement, torch.inf).amin(-1)  # the empty column has none
    blur = torch.hypot(smallest, source_size / FWHM)
    largest = bandwidth(image["beam_energy"], image["convergence_semiangle"], blur, tolerance=TOLERANCE).max()
    return tuple(math.ceil(float(largest) * length) for length in cell)


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
    total = 0
    for kind, defect in enumerate(("M", "X2")):
        at = scene.positions[:, :, kind], scene.weights[:, :, kind]
        total = total + spectra[:, None, first_species(defect)] * structure_factor(*at, cell=cell, num_modes=modes)
    # few columns differ from the host: one by one, each with its own response
    species = scene.special_species + torch.arange(len(spectra))[:, None, None] * len(SPECIES)
    species, positions, used = (v.flatten(0, 1) for v in (species, scene.special_positions, scene.special_weights > 0))
    at_x, at_y = _shifts(positions, spectra, cell)
    flat = total.flatten(0, 1)
    for k in range(used.shape[1]):
        patch = used[:, k].nonzero()[:, 0]
        response = spectra.flatten(0, 1)[species[patch, k]]
        flat.index_add_(0, patch, response * at_y[patch, k, :, None] * at_x[patch, k, None, :])
    return flat.view(total.shape)


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
    rng: np.random.Generator,
    clean: Tensor,
    x: Tensor,
    y: Tensor,
    exposure: Tensor,
    nuisances: Mapping[str, Tensor],
) -> Tensor:
    """Contamination, Poisson noise, gain and dark level.

    Parameters
    ----------
    rng : Generator
        Draws the counts.
    clean : Tensor, shape (image, patch, y, x)
        Noise-free fraction of the beam.
    x, y : Tensor, shapes (image, 1, x) and (image, 1, y)
        Pixel positions in Å.
    exposure : Tensor, shape (image, 1, 1, 1)
        Electrons per pixel.
    nuisances : mapping of str to Tensor, shape (image,) or (image, patch)
        See ``prior.NUISANCES``.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Counts times the gain, plus the dark level.
    """
    clean = clean.clamp(min=0)
    peak = clean.amax((-3, -2, -1), keepdim=True)

    def of_patch(name: str) -> Tensor:
        value = nuisances[name]
        return value.reshape(value.shape + (1,) * (4 - value.ndim))

    slope = of_patch("background_slope_x") * x[..., None, :] + of_patch("background_slope_y") * y[..., :, None]
    film = of_patch("background") * peak * (1 + slope).clamp(min=0)
    normal = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
    counts = poisson_counts((clean + film) * exposure, normal)
    return of_patch("gain") * (counts + of_patch("dark_level") * peak * exposure)


def render(
    rng: np.random.Generator, prior: Prior, image: Mapping[str, Tensor], nuisances: Mapping[str, Tensor], scene: Scene
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
    nuisances : mapping of str to Tensor
        See ``prior.NUISANCES``.
    scene : Scene
        Where the columns are.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Intensity: the scan's own pixels interpolated to those of the model.
    """
    cell = (BOX, BOX)
    spectrum = patch_spectra(image_spectra(rng, image, nuisances, cell=cell), scene, cell=cell)
    # pixels finer than the model's are binned: their counts add up, the jitter of their rows averages
    step = nuisances["scan_step"].clamp(min=prior.sampling)
    same = bool((step == prior.sampling).all())
    num_native = prior.num_pixels if same else math.ceil(prior.num_pixels * prior.sampling / float(step.min())) + 2 * MARGIN
    native = ((torch.arange(num_native) - (num_native - 1) / 2) * step[:, None])[:, None]
    jitter = nuisances["line_jitter"] * (nuisances["scan_step"] / step).sqrt()
    rows = torch.from_numpy(rng.standard_normal((*spectrum.shape[:2], num_native), np.float32))
    clean = synthesize(spectrum, native, native, cell=cell, row_shift=rows * jitter[:, None, None])
    exposure = (image["dose"] * step**2)[:, None, None, None]
    noisy = detect(rng, clean, native, native, exposure, nuisances)
    if same:
        return noisy
    target = (torch.arange(prior.num_pixels) - (prior.num_pixels - 1) / 2) * prior.sampling
    position = target / step[:, None] + (num_native - 1) / 2
    weights = interpolation_matrix(position, num_native, (prior.sampling / step)[:, None, None])[:, None]
    return weights @ noisy @ weights.mT

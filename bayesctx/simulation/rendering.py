"""Columns to counts: optics, contamination, Poisson noise, gain, and the pixels of the model."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..imaging import column_spectra, interpolation_matrix, structure_factors, synthesize
from ..optics import ABERRATIONS
from ..prior import Prior
from ..scattering import LookUp, load_table
from ..structure import HOSTS, METALS, columns_of
from .scene import NUM_SPECIAL, SPECIES, Scene, first_species

__all__ = ["BOX", "add_columns", "detect", "image_spectra", "patch_spectra", "render"]

BOX = 18.5  # Å, period of the cell around a patch: 5 Å of crystal on either side
MAX_FREQUENCY = 1.8  # 1/Å; what source and pixel leave of a patch beyond it is measured in the tests
MARGIN = 2  # pixels that the interpolation needs on either side


@functools.cache
def _species_table() -> LookUp:
    """Where the columns of every material stand in the table of responses, shape (host, dopant, species)."""
    columns = [columns_of(d, host, dopant)[v] for host in HOSTS for dopant in METALS for d, v in SPECIES]
    return load_table().look_up(columns).reshape(len(HOSTS), len(METALS), len(SPECIES))


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
    columns = _species_table()[image["host"], image["dopant"]]
    angles = image["inner_collection_angle"], image["outer_collection_angle"]
    spectra = column_spectra(
        load_table().coefficients(columns, image["beam_energy"], *angles),
        columns.displacement * nuisances["vibration"][:, None],
        beam_energy=image["beam_energy"],
        convergence_semiangle=image["convergence_semiangle"],
        aberrations={n: nuisances[n] for n in ABERRATIONS if n != "C10"} | {"C10": -image["defocus"]},
        source_size=nuisances["source_size"],
        focal_spread=nuisances["focal_spread"],
        cell=cell,
        num_modes=_num_modes(cell),
    )
    spread = _additivity_error(image["inner_collection_angle"]) * nuisances["additivity"]
    error = torch.from_numpy(rng.standard_normal(spectra.shape[:2], np.float32)) * spread[:, None]
    return spectra * (1 + error)[..., None, None]


def _num_modes(cell: tuple[float, float]) -> tuple[int, int]:
    """Largest orders (mx, my) of the spatial frequencies of a cell."""
    return tuple(int(MAX_FREQUENCY * length) for length in cell)


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
    modes = _num_modes(cell)
    total = 0
    for kind, defect in enumerate(("M", "X2")):
        rows, cols = structure_factors(scene.positions[:, :, kind], cell=cell, num_modes=modes)
        factor = (rows * scene.weights[:, :, kind, :, None]).mT @ cols
        total = total + spectra[:, None, first_species(defect)] * factor
    rows, cols = structure_factors(scene.special_positions, cell=cell, num_modes=modes)
    rows = rows * scene.special_weights[..., None]
    at = torch.arange(len(spectra))[:, None]
    for k in range(min(NUM_SPECIAL, rows.shape[2])):
        response = spectra[at, scene.special_species[..., k]]
        total = total + response * (rows[:, :, k, :, None] * cols[:, :, k, None, :])
    return total


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
    total = torch.zeros_like(spectra[0])
    for kind in species.unique():
        rows, cols = structure_factors(positions[species == kind], cell=cell, num_modes=_num_modes(cell))
        total += spectra[kind] * (rows.mT @ cols)
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
    counts = torch.from_numpy(rng.poisson(((clean + film) * exposure).double().numpy())).float()
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
    num_native = prior.num_pixels + 2 * MARGIN
    native = ((torch.arange(num_native) - (num_native - 1) / 2) * step[:, None])[:, None]
    jitter = nuisances["line_jitter"] * (nuisances["scan_step"] / step).sqrt()
    rows = torch.from_numpy(rng.standard_normal((*spectrum.shape[:2], num_native), np.float32))
    clean = synthesize(spectrum, native, native, cell=cell, row_shift=rows * jitter[:, None, None])
    exposure = (image["dose"] * step**2)[:, None, None, None]
    noisy = detect(rng, clean, native, native, exposure, nuisances)
    target = (torch.arange(prior.num_pixels) - (prior.num_pixels - 1) / 2) * prior.sampling
    position = target / step[:, None] + (num_native - 1) / 2
    weights = interpolation_matrix(position, num_native, (prior.sampling / step)[:, None, None])[:, None]
    return weights @ noisy @ weights.mT

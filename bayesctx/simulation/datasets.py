"""Simulated patches and micrographs as labelled Datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..checks import check_memory, check_number, check_seed, check_whole_number
from ..context import CONTEXT, NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, FIRST_SITE, SITES, SPECIES
from ..fourier import synthesize
from ..nuisances import NUISANCES
from ..prior import CONTINUOUS, Prior
from ..tensors import join, pixel_axis, take
from .latents import BLOCK, MAX_INDEX, draw_block, draw_centres, draw_images, generators
from .rendering import detect
from .scene import name_species, place_crystal
from .spectra import add_columns, image_spectra
from .stream import check_prior, check_size

__all__ = ["simulate", "simulate_micrograph"]


def simulate(
    prior: Prior,
    num_patches: int,
    *,
    seed: int,
    start: int = 0,
    noise: bool = True,
    progress: bool = False,
) -> xr.Dataset:
    """Simulate labelled patches, each from an image of its own.

    Parameters
    ----------
    prior : Prior
        Prior of the patches, e.g. ``tmd_prior()``.
    num_patches : int
        Number of patches, at most 1e6; ``write_shards`` writes more.
    seed : int
        Seed of the stream, >= 0. Patch i of a stream does not depend on how many are drawn.
    start : int
        Index of the first patch in the stream, >= 0.
    noise : bool
        Draw counts; otherwise ``intensity`` is the expected one.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension image
        ``intensity`` (image, y, x) in counts times the gain, the truth ``defect`` and ``species``,
        and every variable of the context and every nuisance by name. ``concentration`` (image,
        defect_class) is the share of a class among the sites of the first kind that can hold it.

    Raises
    ------
    TypeError
        If ``prior`` is no prior, or ``num_patches``, ``seed`` or ``start`` no integer.
    ValueError
        If a number is out of range, or the patches do not fit into memory.

    Examples
    --------
    >>> from bayesctx.prior import tmd_prior
    >>> data = simulate(tmd_prior(), 2, seed=0)
    >>> dict(data.intensity.sizes)
    {'image': 2, 'y': 32, 'x': 32}
    """
    check_seed(seed)
    num_patches = check_whole_number("num_patches", num_patches, 1, MOST_PATCHES)
    start = check_whole_number("start", start, 0, MAX_INDEX)
    check_size(prior, num_patches)
    first, last = start // BLOCK, -(-(start + num_patches) // BLOCK)
    blocks = [
        draw_block(prior, seed, b, noise=noise)
        for b in tqdm(range(first, last), disable=not progress, unit="block")
    ]
    skipped = start - first * BLOCK
    drawn = take(join(blocks), skipped, skipped + num_patches)
    host = np.array(list(HOSTS))[drawn.host.numpy()]
    dopant = np.array(METALS)[drawn.dopant.numpy()]
    label = dopant if prior.is_doped else np.full(num_patches, NO_DOPANT)
    sampling = {"sampling": torch.full((num_patches,), prior.sampling, dtype=torch.float64)}
    variables = {
        "intensity": (("image", "y", "x"), drawn.intensity[:, 0].numpy(), {"units": "counts"}),
        "defect": ("image", np.array(DEFECTS)[drawn.defect[:, 0].numpy()]),
        "species": ("image", name_species(drawn.species[:, 0].numpy(), host, dopant)),
        "host": ("image", host),
        "dopant": ("image", label),
    } | {
        name: ("image", value.reshape(num_patches).numpy(), attributes)
        for name, value, attributes in _image_variables(drawn.context | sampling, drawn.nuisances)
    }
    abundance = _shares(drawn.nuisances["concentration"])
    variables["concentration"] = (("image", "defect_class"), abundance, {"units": "1"})
    axis = (np.arange(prior.num_pixels) - (prior.num_pixels - 1) / 2) * prior.sampling
    coords = {
        "y": ("y", axis, {"units": "Å"}),
        "x": ("x", axis, {"units": "Å"}),
        "defect_class": list(DEFECTS),
    }
    return xr.Dataset(variables, coords, {"seed": seed, "start": start})


def _image_variables(
    context: Mapping[str, Tensor | float], nuisances: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor | float, dict[str, str]]]:
    """Name, value and attributes of the numbers of the context and of the nuisances."""
    for name in ("sampling", *CONTINUOUS):
        yield name, context[name], {"units": CONTEXT[name].unit}
    for name, (unit, _) in NUISANCES.items():
        yield name, nuisances[name], {"units": unit}


def _shares(abundance: Tensor) -> np.ndarray:
    """Share of every class on the first kind of site that can hold it, (image, defect_class)."""
    kinds = [SITES[FIRST_SITE[d]] for d in DEFECTS]
    is_same = abundance.new_tensor([[float(d in kind) for d in DEFECTS] for kind in kinds])
    return (abundance / (abundance @ is_same.T).clamp(min=SMALLEST)).numpy()


PADDING = 5.0  # Å of crystal around a micrograph
MAX_FIELD, MAX_PIXELS = 1000.0, 8192  # Å and pixels along each side of a micrograph
MOST_PATCHES = 10**6  # of simulate
BYTES_PER_PIXEL = 70  # of memory for a micrograph, measured
SMALLEST = 1e-38  # sum of abundances


@torch.no_grad()
def simulate_micrograph(
    prior: Prior, *, seed: int, num_pixels: int = 512, sampling: float = 0.2, index: int = 0
) -> xr.Dataset:
    """Simulate a whole micrograph with the truth of every site.

    Parameters
    ----------
    prior : Prior
        Prior of the image; ``prior.given(context)`` fixes what is known.
    seed : int
        Seed of the stream, >= 0.
    num_pixels : int
        Pixels along each side.
    sampling : float
        Size of a pixel in Å.
    index : int
        Index of the image in the stream, >= 0.

    Returns
    -------
    Dataset
        ``intensity`` (y, x) in counts times the gain; for every lattice site in the image
        ``site_y`` and ``site_x`` in pixels, ``defect`` and ``species`` over the dimension patch;
        context, nuisances and ``concentration`` without the dimension image.

    Raises
    ------
    TypeError
        If ``prior`` is no prior, ``seed``, ``num_pixels`` or ``index`` no integer, or ``sampling``
        no number.
    ValueError
        If ``seed`` or ``index`` is negative, or the image is smaller than a patch, larger than
        1000 Å or 8192 pixels, or does not fit into memory.
    """
    check_seed(seed)
    index = check_whole_number("index", index, 0, MAX_INDEX)
    num_pixels, sampling = _check_field(prior, num_pixels, sampling)
    rng = generators(seed, 0, index)
    image, nuisances = _draw_field(rng, prior, num_pixels * sampling)
    cell = (num_pixels * sampling + 2 * PADDING,) * 2
    sites, columns, species = place_crystal(rng[2], image["host"], nuisances, cell[0])
    intensity = _render_field(
        rng[3], image, nuisances, columns, species, pixel_axis(num_pixels, sampling), sampling, cell
    )
    pixels = sites / sampling + (num_pixels - 1) / 2
    inside = ((pixels > -0.5) & (pixels < num_pixels - 0.5)).all(-1)
    host, dopant = list(HOSTS)[int(image["host"])], METALS[int(image["dopant"])]
    found = species[inside].numpy()
    names = (np.full(len(found), name) for name in (host, dopant))
    variables = {
        "intensity": (("y", "x"), intensity.numpy(), {"units": "counts"}),
        "site_y": ("patch", pixels[inside, 1].numpy(), {"units": "px"}),
        "site_x": ("patch", pixels[inside, 0].numpy(), {"units": "px"}),
        "defect": ("patch", np.array([SPECIES[k].defect for k in found])),
        "species": ("patch", name_species(found, *names)),
        "host": host,
        "dopant": dopant if prior.is_doped else NO_DOPANT,
        "concentration": ("defect_class", _shares(nuisances["concentration"])[0], {"units": "1"}),
    } | {
        name: ((), float(value), attributes)
        for name, value, attributes in _image_variables(image | {"sampling": sampling}, nuisances)
    }
    return xr.Dataset(variables, {"defect_class": list(DEFECTS)}, {"seed": seed, "index": index})


def _check_field(prior: Prior, num_pixels: int, sampling: float) -> tuple[int, float]:
    """Pixels of a micrograph that is neither smaller than a patch nor too large to compute."""
    check_prior(prior)
    num_pixels = check_whole_number("num_pixels", num_pixels, 1, MAX_INDEX)
    sampling = check_number(sampling, CONTEXT["sampling"].label)
    least = prior.num_pixels * prior.sampling
    if not least <= num_pixels * sampling <= MAX_FIELD or num_pixels > MAX_PIXELS:
        raise ValueError(
            f"a field of at least {least:g} Å, at most {MAX_FIELD:g} Å and {MAX_PIXELS} pixels was "
            f"expected, got {num_pixels} pixels of {sampling} Å; change num_pixels or sampling"
        )
    check_memory(BYTES_PER_PIXEL * num_pixels**2, f"{num_pixels} x {num_pixels} pixels")
    return num_pixels, sampling


def _draw_field(
    rng: list[np.random.Generator], prior: Prior, extent: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Context and nuisances of one micrograph, shape (1,) or (1, 1)."""
    image, nuisances = draw_images(rng[0], prior, 1)
    _, _, own = draw_centres(rng[1], prior, 1, 1)
    # no site is at the centre, and the contamination varies over the image as over a patch
    ratio = prior.num_pixels * prior.sampling / extent
    return image, nuisances | {
        n: v * ratio if n.startswith("background") else v * (n == "rotation")
        for n, v in own.items()
    }


def _render_field(
    rng: np.random.Generator,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    columns: Tensor,
    species: Tensor,
    axis: Tensor,
    sampling: float,
    cell: tuple[float, float],
) -> Tensor:
    """Noisy image of the columns of one micrograph, shape (y, x)."""

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    spectra = image_spectra(image, nuisances, normal(1, len(SPECIES)), cell=cell)[0]
    spectrum = add_columns(spectra, columns, species, cell=cell)
    shift = normal(len(axis)) * nuisances["line_jitter"]
    clean = synthesize(spectrum, axis, axis, cell=cell, row_shift=shift)[None, None]
    exposure = (image["dose"] * sampling**2)[:, None, None, None]
    numbers = [normal(*clean.shape) for _ in range(2)]
    axis = axis[None, None]
    return detect(clean, axis, axis, exposure, nuisances, *numbers)[0, 0]

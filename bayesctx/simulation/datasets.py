"""Labelled patches as a Dataset."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..context import CONTEXT
from ..crystal import HOSTS
from ..defects import DEFECTS, SPECIES
from ..elements import METALS
from ..fourier import synthesize
from ..nuisances import NUISANCES
from ..prior import CONTINUOUS, Prior
from .latents import BLOCK, draw_block, draw_centres, draw_images, generators
from .rendering import detect
from .scene import name_species, place_crystal
from .spectra import add_columns, image_spectra

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
    """Draw labelled patches, each an image of its own.

    Parameters
    ----------
    prior : Prior
        What may occur, e.g. ``tmd_prior()``.
    num_patches : int
        Number of patches, > 0.
    seed : int
        Names the stream; patch i of a seed is the same however many are drawn.
    start : int
        Index of the first patch in the stream.
    noise : bool
        Draw counts; otherwise ``intensity`` is the expected one.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension image
        ``intensity`` (image, y, x) in counts times a free gain, the truth ``defect`` and ``species``, every variable of
        the context and every nuisance by name.

    Raises
    ------
    ValueError
        If ``num_patches`` is not positive, or ``seed`` or ``start`` is negative.

    Examples
    --------
    >>> from bayesctx.prior import tmd_prior
    >>> data = simulate(tmd_prior(), 2, seed=0)
    >>> dict(data.intensity.sizes)
    {'image': 2, 'y': 32, 'x': 32}
    """
    for name, value, least in (
        ("num_patches", num_patches, 1),
        ("seed", seed, 0),
        ("start", start, 0),
    ):
        if value < least:
            raise ValueError(f"{name} was expected to be at least {least}, got {value}")
    first, last = start // BLOCK, -(-(start + num_patches) // BLOCK)
    blocks = [
        draw_block(prior, seed, b, noise=noise)
        for b in tqdm(range(first, last), disable=not progress, unit="block")
    ]
    window = slice(start - first * BLOCK, start - first * BLOCK + num_patches)

    def gather(values: list[Tensor]) -> np.ndarray:
        return torch.cat(values)[window].numpy()

    host = np.array(list(HOSTS))[gather([b.host for b in blocks])]
    dopant = np.array(METALS)[gather([b.dopant for b in blocks])]
    variables = {
        "intensity": (
            ("image", "y", "x"),
            gather([b.intensity[:, 0] for b in blocks]),
            {"units": "counts"},
        ),
        "defect": ("image", np.array(DEFECTS)[gather([b.defect[:, 0] for b in blocks])]),
        "species": ("image", name_species(gather([b.species[:, 0] for b in blocks]), host, dopant)),
        "host": ("image", host),
        "dopant": ("image", dopant),
        "sampling": (
            "image",
            np.full(num_patches, prior.sampling),
            {"units": CONTEXT["sampling"].unit},
        ),
    }
    for name in CONTINUOUS:
        variables[name] = (
            "image",
            gather([b.context[name] for b in blocks]),
            {"units": CONTEXT[name].unit},
        )
    for name, (unit, _) in NUISANCES.items():
        variables[name] = (
            "image",
            gather([b.nuisances[name].reshape(BLOCK) for b in blocks]),
            {"units": unit},
        )
    abundance = gather([b.nuisances["concentration"] for b in blocks])
    variables["concentration"] = (("image", "defect_class"), abundance, {"units": "1"})
    axis = (np.arange(prior.num_pixels) - (prior.num_pixels - 1) / 2) * prior.sampling
    coords = {
        "y": ("y", axis, {"units": "Å"}),
        "x": ("x", axis, {"units": "Å"}),
        "defect_class": list(DEFECTS),
    }
    return xr.Dataset(variables, coords, {"seed": seed, "start": start})


PADDING = 5.0  # Å of crystal around a micrograph


@torch.no_grad()
def simulate_micrograph(
    prior: Prior, *, seed: int, num_pixels: int = 512, sampling: float = 0.2, index: int = 0
) -> xr.Dataset:
    """Draw a whole micrograph with the truth of every site.

    Parameters
    ----------
    prior : Prior
        What may occur; ``prior.given(context)`` fixes what is known.
    seed : int
        Names the stream.
    num_pixels : int
        Pixels along each side.
    sampling : float
        Size of a pixel in Å.
    index : int
        Which image of the stream.

    Returns
    -------
    Dataset
        ``intensity`` (y, x); for every lattice site in the image ``site_y``, ``site_x`` in pixels, ``defect`` and
        ``species`` over the dimension patch; context, nuisances and ``concentration`` as scalars.

    Raises
    ------
    ValueError
        If the image would be smaller than a patch.
    """
    extent = num_pixels * sampling
    if extent < prior.num_pixels * prior.sampling:
        raise ValueError(
            f"at least {prior.num_pixels * prior.sampling:g} Å were expected, got {num_pixels} pixels of {sampling} Å"
        )
    rng = generators(seed, 0, index)
    image, nuisances = draw_images(rng[0], prior, 1)
    _, _, own = draw_centres(rng[1], prior, 1, 1)
    # the crystal is not centred on a site, and the film varies over the image as it does over a patch
    ratio = prior.num_pixels * prior.sampling / extent
    nuisances |= {
        n: v * ratio if n.startswith("background") else v * (n == "rotation")
        for n, v in own.items()
    }
    cell = (extent + 2 * PADDING,) * 2
    sites, columns, species = place_crystal(rng[2], image["host"], nuisances, cell[0])
    deviation = torch.from_numpy(rng[3].standard_normal((1, len(SPECIES)), np.float32))
    spectra = image_spectra(image, nuisances, deviation, cell=cell)[0]
    spectrum = add_columns(spectra, columns, species, cell=cell)
    axis = (torch.arange(num_pixels) - (num_pixels - 1) / 2) * sampling
    shift = (
        torch.from_numpy(rng[3].standard_normal(num_pixels, np.float32)) * nuisances["line_jitter"]
    )
    clean = synthesize(spectrum, axis, axis, cell=cell, row_shift=shift)[None, None]
    exposure = (image["dose"] * sampling**2)[:, None, None, None]
    normal = [torch.from_numpy(rng[3].standard_normal(clean.shape, np.float32)) for _ in range(2)]
    intensity = detect(clean, axis[None, None], axis[None, None], exposure, nuisances, *normal)[
        0, 0
    ]

    pixels = sites / sampling + (num_pixels - 1) / 2
    inside = ((pixels > -0.5) & (pixels < num_pixels - 0.5)).all(-1)
    host, dopant = list(HOSTS)[int(image["host"])], METALS[int(image["dopant"])]
    found = species[inside].numpy()
    variables = {
        "intensity": (("y", "x"), intensity.numpy(), {"units": "counts"}),
        "site_y": ("patch", pixels[inside, 1].numpy(), {"units": "px"}),
        "site_x": ("patch", pixels[inside, 0].numpy(), {"units": "px"}),
        "defect": ("patch", np.array([SPECIES[k].defect for k in found])),
        "species": (
            "patch",
            name_species(found, np.full(len(found), host), np.full(len(found), dopant)),
        ),
        "host": host,
        "dopant": dopant,
        "sampling": ((), sampling, {"units": CONTEXT["sampling"].unit}),
        "concentration": ("defect_class", nuisances["concentration"][0].numpy(), {"units": "1"}),
    }
    for name in CONTINUOUS:
        variables[name] = ((), float(image[name]), {"units": CONTEXT[name].unit})
    for name, (unit, _) in NUISANCES.items():
        variables[name] = ((), float(nuisances[name]), {"units": unit})
    return xr.Dataset(variables, {"defect_class": list(DEFECTS)}, {"seed": seed, "index": index})

"""Whole simulated micrographs with the truth of every site."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ..context import CONTEXT
from ..imaging import synthesize
from ..prior import CONTINUOUS, NUISANCES, Prior
from ..structure import DEFECTS, HOSTS, METALS
from .rendering import detect
from .scene import SPECIES, name_species, place_crystal
from .spectra import add_columns, image_spectra
from .stream import draw_centres, draw_images, generators

__all__ = ["simulate_micrograph"]

PADDING = 5.0  # Å of crystal around a micrograph


@torch.no_grad()
def simulate_micrograph(prior: Prior, *, seed: int, num_pixels: int = 512, sampling: float = 0.2, index: int = 0) -> xr.Dataset:
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
    nuisances |= {n: v * ratio if n.startswith("background") else v * (n == "rotation") for n, v in own.items()}
    cell = (extent + 2 * PADDING,) * 2
    sites, columns, species = place_crystal(rng[2], image["host"], nuisances, cell[0])
    deviation = torch.from_numpy(rng[3].standard_normal((1, len(SPECIES)), np.float32))
    spectra = image_spectra(image, nuisances, deviation, cell=cell)[0]
    spectrum = add_columns(spectra, columns, species, cell=cell)
    axis = (torch.arange(num_pixels) - (num_pixels - 1) / 2) * sampling
    shift = torch.from_numpy(rng[3].standard_normal(num_pixels, np.float32)) * nuisances["line_jitter"]
    clean = synthesize(spectrum, axis, axis, cell=cell, row_shift=shift)[None, None]
    exposure = (image["dose"] * sampling**2)[:, None, None, None]
    normal = [torch.from_numpy(rng[3].standard_normal(clean.shape, np.float32)) for _ in range(2)]
    intensity = detect(clean, axis[None, None], axis[None, None], exposure, nuisances, *normal)[0, 0]

    pixels = sites / sampling + (num_pixels - 1) / 2
    inside = ((pixels > -0.5) & (pixels < num_pixels - 0.5)).all(-1)
    host, dopant = list(HOSTS)[int(image["host"])], METALS[int(image["dopant"])]
    found = species[inside].numpy()
    variables = {
        "intensity": (("y", "x"), intensity.numpy(), {"units": "counts"}),
        "site_y": ("patch", pixels[inside, 1].numpy(), {"units": "px"}),
        "site_x": ("patch", pixels[inside, 0].numpy(), {"units": "px"}),
        "defect": ("patch", np.array([SPECIES[k][0] for k in found])),
        "species": ("patch", name_species(found, np.full(len(found), host), np.full(len(found), dopant))),
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

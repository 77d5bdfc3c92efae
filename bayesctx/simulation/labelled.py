"""Labelled patches as a Dataset."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..context import CONTEXT
from ..prior import CONTINUOUS, NUISANCES, Prior
from ..structure import DEFECTS, HOSTS, METALS
from .scene import name_species
from .stream import BLOCK, draw_block

__all__ = ["simulate"]


def simulate(
    prior: Prior, num_patches: int, *, seed: int, start: int = 0, noise: bool = True, progress: bool = False
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
    for name, value, least in (("num_patches", num_patches, 1), ("seed", seed, 0), ("start", start, 0)):
        if value < least:
            raise ValueError(f"{name} was expected to be at least {least}, got {value}")
    first, last = start // BLOCK, -(-(start + num_patches) // BLOCK)
    blocks = [draw_block(prior, seed, b, noise=noise) for b in tqdm(range(first, last), disable=not progress, unit="block")]
    window = slice(start - first * BLOCK, start - first * BLOCK + num_patches)

    def gather(values: list[Tensor]) -> np.ndarray:
        return torch.cat(values)[window].numpy()

    host = np.array(list(HOSTS))[gather([b.host for b in blocks])]
    dopant = np.array(METALS)[gather([b.dopant for b in blocks])]
    variables = {
        "intensity": (("image", "y", "x"), gather([b.intensity[:, 0] for b in blocks]), {"units": "counts"}),
        "defect": ("image", np.array(DEFECTS)[gather([b.defect[:, 0] for b in blocks])]),
        "species": ("image", name_species(gather([b.species[:, 0] for b in blocks]), host, dopant)),
        "host": ("image", host),
        "dopant": ("image", dopant),
        "sampling": ("image", np.full(num_patches, prior.sampling), {"units": CONTEXT["sampling"].unit}),
    }
    for name in CONTINUOUS:
        variables[name] = ("image", gather([b.context[name] for b in blocks]), {"units": CONTEXT[name].unit})
    for name, (unit, _) in NUISANCES.items():
        variables[name] = ("image", gather([b.nuisances[name].reshape(BLOCK) for b in blocks]), {"units": unit})
    abundance = gather([b.nuisances["concentration"] for b in blocks])
    variables["concentration"] = (("image", "defect_class"), abundance, {"units": "1"})
    axis = (np.arange(prior.num_pixels) - (prior.num_pixels - 1) / 2) * prior.sampling
    coords = {"y": ("y", axis, {"units": "Å"}), "x": ("x", axis, {"units": "Å"}), "defect_class": list(DEFECTS)}
    return xr.Dataset(variables, coords, {"seed": seed, "start": start})

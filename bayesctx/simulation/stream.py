"""Streams of simulated patches, the same for the same seed and index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..context import CONTEXT
from ..prior import CONTINUOUS, MAX_TRIES, NUISANCES, Prior, quantile
from ..structure import DEFECTS, HOSTS, METALS, columns_of, species_of
from .rendering import BOX, render
from .scene import FIRST_SPECIES, NUM_ALTERNATIVES, SPECIES, place_columns

__all__ = ["Patches", "draw_block", "draw_centres", "draw_images", "generators", "name_species", "simulate"]

BLOCK = 256  # patches that are computed together, always whole: a patch does not depend on what was asked for

PER_PATCH = ("rotation", "offset_x", "offset_y", "background_slope_x", "background_slope_y")
"""Nuisances that are drawn for every patch; the others belong to the image."""


@dataclass(frozen=True)
class Patches:
    """A block of simulated patches: images that share a context, each with some patches.

    Attributes
    ----------
    intensity : Tensor, shape (image, patch, y, x)
        In counts times a free gain.
    defect, species : Tensor, shape (image, patch)
        Index into ``DEFECTS`` and into ``SPECIES``.
    host, dopant : Tensor, shape (image,)
        Index into ``HOSTS`` and into ``METALS``.
    context : mapping of str to Tensor, shape (image,)
        By the names of ``prior.CONTINUOUS``.
    nuisances : mapping of str to Tensor, shape (image, patch) or (image,)
        By the names of ``prior.NUISANCES``, and ``concentration``, shape (image, defect_class).
    """

    intensity: Tensor
    defect: Tensor
    species: Tensor
    host: Tensor
    dopant: Tensor
    context: Mapping[str, Tensor]
    nuisances: Mapping[str, Tensor]


@torch.no_grad()
def draw_block(
    prior: Prior,
    seed: int,
    block: int,
    *,
    patches_per_image: int = 1,
    noise: bool = True,
    device: str | torch.device = "cpu",
) -> Patches:
    """Draw one block of ``BLOCK`` patches.

    Parameters
    ----------
    prior : Prior
        What may occur.
    seed : int
        Names the stream, >= 0.
    block : int
        Position in the stream, >= 0.
    patches_per_image : int
        Patches that share host, dopant, context and optics; divides ``BLOCK``.
    noise : bool
        Draw counts; otherwise they are the expected ones.
    device : str or device
        Where the images are computed and the patches lie. Random numbers are drawn on the processor.

    Returns
    -------
    Patches
        The same for the same arguments, on another device to rounding.
    """
    num_images = BLOCK // patches_per_image
    rng = generators(seed, patches_per_image, block)
    image, nuisances = draw_images(rng[0], prior, num_images)
    defect, species, own = draw_centres(rng[1], prior, num_images, patches_per_image)
    nuisances = nuisances | own
    scene = place_columns(rng[2], image["host"], species, nuisances, BOX).to(device)
    image, nuisances = ({name: v.to(device) for name, v in values.items()} for values in (image, nuisances))
    intensity = render(rng[3], prior, image, nuisances, scene, noise=noise)
    context = {name: image[name] for name in CONTINUOUS}
    return Patches(intensity, defect.to(device), species.to(device), image["host"], image["dopant"], context, nuisances)


def generators(seed: int, stream: int, block: int) -> list[np.random.Generator]:
    """Independent sources for the parameters of images, those of patches, the scenes and the noise.

    Parameters
    ----------
    seed : int
        Names the stream, >= 0.
    stream : int
        Patches that share an image.
    block : int
        Position in the stream, >= 0.

    Returns
    -------
    list of Generator
        Four of them.
    """
    return [np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, i, block])) for i in range(4)]


def _uniform(rng: np.random.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return torch.from_numpy(rng.random(shape, np.float32))


def draw_images(rng: np.random.Generator, prior: Prior, num_images: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw host, dopant and continuous context of images, and the nuisances that belong to an image.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        What may occur.
    num_images : int
        Number of images.

    Returns
    -------
    image : dict of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : dict of str to Tensor, shape (image,)
        By the names of ``prior.NUISANCES``, and ``concentration``, shape (image, defect_class).
    """
    u = _uniform(rng, num_images, 2)
    hosts = list(HOSTS)
    names = [prior.hosts[i] for i in (u[:, 0] * len(prior.hosts)).long().tolist()]
    dopants = [prior.dopants[h][int(v * len(prior.dopants[h]))] for h, v in zip(names, u[:, 1].tolist(), strict=True)]
    image = {
        "host": torch.tensor([hosts.index(h) for h in names]),
        "dopant": torch.tensor([METALS.index(d) for d in dopants]),
    } | prior.first_possible(_uniform(rng, num_images, MAX_TRIES, 1 + len(CONTINUOUS)))
    shared = [name for name in NUISANCES if name not in PER_PATCH]
    values = _uniform(rng, num_images, len(shared))
    nuisances = {name: quantile(prior.nuisances.get(name, 0.0), values[:, i]) for i, name in enumerate(shared)}
    strength = np.array([prior.concentration[d] for d in DEFECTS])
    gamma = torch.from_numpy(rng.standard_gamma(strength, (num_images, len(DEFECTS)))).float()
    return image, nuisances | {"concentration": gamma / gamma.sum(-1, keepdim=True)}


def draw_centres(
    rng: np.random.Generator, prior: Prior, num_images: int, num_patches: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Draw class and species of the central sites, and the nuisances that belong to a patch.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        What may occur.
    num_images, num_patches : int
        Number of images, and of patches in each.

    Returns
    -------
    defect, species : Tensor of int, shape (image, patch)
        Index into ``DEFECTS`` and into ``SPECIES``.
    own : dict of str to Tensor, shape (image, patch)
        By the names of ``PER_PATCH``.
    """
    u = _uniform(rng, num_images, num_patches, 2 + len(PER_PATCH))
    allowed = torch.tensor([DEFECTS.index(d) for d in prior.defects])
    defect = allowed[(u[..., 0] * len(allowed)).long()]
    alternative = (u[..., 1] * NUM_ALTERNATIVES[defect]).long()
    own = {name: quantile(prior.nuisances.get(name, 0.0), u[..., 2 + i]) for i, name in enumerate(PER_PATCH)}
    return defect, FIRST_SPECIES[defect] + alternative, own


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


def name_species(species: np.ndarray, host: np.ndarray, dopant: np.ndarray) -> np.ndarray:
    """Name species by index.

    Parameters
    ----------
    species : ndarray of int, shape (site,)
        Index into ``SPECIES``.
    host, dopant : ndarray of str, shape (site,)
        Names.

    Returns
    -------
    ndarray of str, shape (site,)
        Chemical formulas.
    """
    names = [
        species_of(columns_of(defect, h, d)[alternative])
        for (defect, alternative), h, d in zip((SPECIES[s] for s in species), host, dopant, strict=True)
    ]
    return np.array(names)

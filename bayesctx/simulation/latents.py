"""Blocks of simulated patches, reproducible by seed and index: latent variables, then images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..abundance import Abundance
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, SITES
from ..distributions import quantile
from ..nuisances import NUISANCES
from ..parallel import single_threads
from ..prior import CONTINUOUS, MAX_TRIES, Prior
from ..tensors import move
from .codopants import check_one_dopant
from .rendering import BOX, Extent, Noise, draw_noise, measure_extent, render
from .scene import FIRST_SPECIES, NUM_ALTERNATIVES, Scene, place_columns

__all__ = [
    "Latents",
    "Patches",
    "draw_block",
    "draw_centres",
    "draw_images",
    "draw_latents",
    "generators",
    "render_patches",
]

BLOCK = 256  # patches that are drawn together, always all of them, so that patches are reproducible

MAX_INDEX = 2**62  # of a patch in a stream
LEAST = 1e-12  # ratio of abundances, nothing in single precision

PER_PATCH = ("rotation", "offset_x", "offset_y", "background_slope_x", "background_slope_y")
"""Nuisances that are drawn for every patch; the others are drawn once per image."""


@dataclass(frozen=True)
class Patches:
    """A batch of simulated patches: images that share a context, each with several patches.

    Attributes
    ----------
    intensity : Tensor, shape (image, patch, y, x)
        Counts times the gain.
    defect, species : Tensor, shape (image, patch)
        Index into ``DEFECTS`` and into ``SPECIES``.
    host, dopant : Tensor, shape (image,)
        Index into ``HOSTS`` and into ``METALS``.
    context : mapping of str to Tensor, shape (image,)
        By the names of ``prior.CONTINUOUS``.
    nuisances : mapping of str to Tensor, shape (image, patch) or (image,)
        By the names of ``nuisances.NUISANCES``, and ``concentration``, shape (image, defect_class).
    """

    intensity: Tensor
    defect: Tensor
    species: Tensor
    host: Tensor
    dopant: Tensor
    context: Mapping[str, Tensor]
    nuisances: Mapping[str, Tensor]


@dataclass(frozen=True)
class Latents:
    """Latent variables and random numbers of a batch of patches, from which the images follow.

    Attributes
    ----------
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image, patch) or (image,)
        As in ``Patches``.
    defect, species : Tensor, shape (image, patch)
        Index into ``DEFECTS`` and into ``SPECIES``.
    scene : Scene
        Positions and species of the columns.
    noise : Noise
        Random numbers of the noise.
    extent : Extent
        Numbers of spatial frequencies and scan pixels, on the CPU.
    """

    image: Mapping[str, Tensor]
    nuisances: Mapping[str, Tensor]
    defect: Tensor
    species: Tensor
    scene: Scene
    noise: Noise
    extent: Extent


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
        Prior of the patches.
    seed : int
        Seed of the stream, >= 0.
    block : int
        Position in the stream, >= 0.
    patches_per_image : int
        Patches that share host, dopant, context and optics; divides ``BLOCK``.
    noise : bool
        Draw counts; otherwise intensities are the expected ones.
    device : str or device
        Device on which the images are computed. Random numbers are drawn on the CPU.

    Returns
    -------
    Patches
        On ``device``; the same for the same arguments, between devices to rounding.
    """
    with single_threads():  # several would round differently, and are 6 % faster only
        return render_patches(
            prior,
            draw_latents(prior, seed, block, patches_per_image=patches_per_image, noise=noise),
            device,
        )


@torch.no_grad()
def draw_latents(
    prior: Prior, seed: int, block: int, *, patches_per_image: int = 1, noise: bool = True
) -> Latents:
    """Draw the latent variables and random numbers of one block of patches.

    This takes a seventh of the time of computing the images.

    Parameters
    ----------
    prior : Prior
        Prior of the patches.
    seed : int
        Seed of the stream, >= 0.
    block : int
        Position in the stream, >= 0.
    patches_per_image : int
        Patches that share host, dopant, context and optics; divides ``BLOCK``.
    noise : bool
        Draw random numbers for the counts; otherwise intensities are the expected ones.

    Returns
    -------
    Latents
        On the CPU.

    Raises
    ------
    ValueError
        If the crystals of the prior are co-doped.
    """
    check_one_dopant(prior)
    num_images = BLOCK // patches_per_image
    rng = generators(seed, patches_per_image, block)
    image, nuisances = draw_images(rng[0], prior, num_images)
    defect, species, own = draw_centres(rng[1], prior, num_images, patches_per_image)
    nuisances = nuisances | own
    scene = place_columns(rng[2], image["host"], species, nuisances, BOX)
    numbers = draw_noise(rng[3], prior, num_images, patches_per_image, counting=noise)
    return Latents(
        image,
        nuisances,
        defect,
        species,
        scene,
        numbers,
        measure_extent(prior, image, nuisances, patches_per_image),
    )


@torch.no_grad()
def render_patches(prior: Prior, latents: Latents, device: str | torch.device = "cpu") -> Patches:
    """Compute the images of patches from their latent variables.

    Parameters
    ----------
    prior : Prior
        The prior that the latent variables were drawn from.
    latents : Latents
        Any number of images, from one block or several.
    device : str or device
        Device on which the images are computed.

    Returns
    -------
    Patches
        On ``device``; every patch is the same to rounding on any device and in any batch.
    """
    # the extent stays on the CPU, where it determines the shapes of tensors
    extent, there = latents.extent, move(replace(latents, extent=None), device)
    intensity = render(prior, there.image, there.nuisances, there.scene, there.noise, extent)
    context = {name: there.image[name] for name in CONTINUOUS}
    return Patches(
        intensity,
        there.defect,
        there.species,
        there.image["host"],
        there.image["dopant"],
        context,
        there.nuisances,
    )


def generators(seed: int, stream: int, block: int) -> list[np.random.Generator]:
    """Independent random generators for images, patches, scenes and noise.

    Parameters
    ----------
    seed : int
        Seed of the stream, >= 0.
    stream : int
        Patches per image, which distinguishes streams of one seed.
    block : int
        Position in the stream, >= 0.

    Returns
    -------
    list of Generator
        Four generators, in this order.
    """
    return [
        np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, i, block]))
        for i in range(4)
    ]


def _uniform(rng: np.random.Generator, *shape: int) -> Tensor:
    """Uniform random numbers in [0, 1), single precision."""
    return torch.from_numpy(rng.random(shape, np.float32))


def draw_images(
    rng: np.random.Generator, prior: Prior, num_images: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw host, dopant, continuous context and the nuisances that belong to an image.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        Prior of the images.
    num_images : int
        Number of images.

    Returns
    -------
    image : dict of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context; of co-doped crystals also
        ``codopant`` and ``share_codopant``, its share among both dopants.
    nuisances : dict of str to Tensor, shape (image,)
        By the names of ``nuisances.NUISANCES``, and ``concentration``, shape (image, defect_class).
    """
    u = _uniform(rng, num_images, 2)
    hosts = list(HOSTS)
    names = [prior.hosts[i] for i in (u[:, 0] * len(prior.hosts)).long().tolist()]
    dopants = [
        prior.dopants[h][int(v * len(prior.dopants[h]))]
        for h, v in zip(names, u[:, 1].tolist(), strict=True)
    ]
    image = {
        "host": torch.tensor([hosts.index(h) for h in names]),
        "dopant": torch.tensor([METALS.index(d) for d in dopants]),
    }
    if prior.is_codoped:
        both = torch.tensor([[METALS.index(d) for d in prior.dopants[h]] for h in names])
        image |= {"dopant": both[:, 0], "codopant": both[:, 1], "share_codopant": u[:, 1]}
    image |= prior.first_possible(_uniform(rng, num_images, MAX_TRIES, 1 + len(CONTINUOUS)))
    shared = [name for name in NUISANCES if name not in PER_PATCH]
    values = _uniform(rng, num_images, len(shared))
    nuisances = {
        name: quantile(prior.nuisances.get(name, 0.0), values[:, i])
        for i, name in enumerate(shared)
    }
    strength = np.array([prior.dirichlet_alpha[d] for d in DEFECTS])
    gamma = torch.from_numpy(rng.standard_gamma(strength, (num_images, len(DEFECTS))))
    if prior.abundance:
        gamma = _draw_shares(rng, prior, gamma)
    gamma = gamma.float()
    return image, nuisances | {"concentration": gamma / gamma.sum(-1, keepdim=True)}


def _draw_shares(rng: np.random.Generator, prior: Prior, numbers: Tensor) -> Tensor:
    """Abundances (image, defect_class) with the shares of each kind of site under evidence."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    nothing = torch.zeros(len(numbers), len(SITES), len(DEFECTS), dtype=torch.float64)
    shares = Abundance.of(prior.dirichlet_alpha, prior.abundance).draw(nothing, generator)
    kinds = list(SITES)
    # a class on two kinds of site has one abundance: the other classes of one kind are scaled
    scale = torch.ones_like(shares[..., 0])
    for later, kind in enumerate(kinds):
        for earlier in range(later):
            both = [d for d in SITES[kind] if d in SITES[kinds[earlier]]]
            for i in map(DEFECTS.index, both):
                ratio = shares[:, earlier, i] / shares[:, later, i]
                scale[:, later] = scale[:, earlier] * ratio.nan_to_num(1.0).clamp(LEAST, 1 / LEAST)
    return (shares * scale[..., None]).amax(1)


def draw_centres(
    rng: np.random.Generator, prior: Prior, num_images: int, num_patches: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Draw class and species of the central sites, and the nuisances that belong to a patch.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    prior : Prior
        Prior of the patches.
    num_images, num_patches : int
        Number of images, and of patches per image.

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
    own = {
        name: quantile(prior.nuisances.get(name, 0.0), u[..., 2 + i])
        for i, name in enumerate(PER_PATCH)
    }
    return defect, FIRST_SPECIES[defect] + alternative, own

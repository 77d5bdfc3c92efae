"""Patches outside of the prior: bilayer, grain boundary, amorphous film, defocus, vacuum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..prior import Prior
from ..tensors import pixel_axis
from .latents import BLOCK, draw_centres, draw_images, generators
from .rendering import BOX, detect, draw_noise, render
from .scene import Scene, place_columns

__all__ = ["OUTLIERS", "draw_outliers"]

FAR_FOCUS = 500.0  # Å
VACUUM = 0.01  # fraction of the beam on the detector without a specimen
GAP = 0.3  # Å, empty on either side of a grain boundary


def draw_outliers(
    prior: Prior, seed: int, block: int, kind: str, *, patches_per_image: int = 16
) -> Tensor:
    """Draw one block of patches of a kind that the prior does not contain.

    Parameters
    ----------
    prior : Prior
        Prior of materials, context and nuisances of the patches.
    seed : int
        Seed of the stream, >= 0.
    block : int
        Position in the stream, >= 0.
    kind : str
        One of ``OUTLIERS``: ``bilayer``, two crystals with a random twist and shift;
        ``grain boundary``, two crystals that meet within 1.5 Å of the centre; ``amorphous film``,
        columns at random positions; ``out of focus``, a crystal at a defocus of 500 Å; ``vacuum``,
        a uniform weak intensity.
    patches_per_image : int
        Patches that share material, context and optics; divides ``BLOCK``.

    Returns
    -------
    Tensor, shape (image, patch, y, x)
        Intensity.

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if kind not in OUTLIERS:
        raise ValueError(
            f"a kind among {', '.join(OUTLIERS)} was expected, got {kind!r}; choose one"
        )
    rng = generators(seed, patches_per_image, block)
    image, nuisances = draw_images(rng[0], prior, BLOCK // patches_per_image)

    def crystal() -> tuple[Scene, dict[str, Tensor]]:
        _, species, own = draw_centres(rng[1], prior, len(image["host"]), patches_per_image)
        # the rotation of the prior may be fixed, but two crystals need independent ones
        own["rotation"] = own["rotation"] + 2 * math.pi * torch.from_numpy(
            rng[1].random(own["rotation"].shape, np.float32)
        )
        return place_columns(rng[2], image["host"], species, nuisances | own, BOX), own

    return OUTLIERS[kind](prior, rng, image, nuisances, crystal)


def _render(prior: Prior, rng: list, image: Mapping, nuisances: Mapping, scene: Scene) -> Tensor:
    """Noisy images of a scene."""
    return render(
        prior, image, nuisances, scene, draw_noise(rng[3], prior, *scene.special_species.shape[:2])
    )


def _bilayer(
    prior: Prior, rng: list, image: Mapping, nuisances: Mapping, crystal: Callable
) -> Tensor:
    """Two crystals on top of each other, with a random twist and shift."""
    (first, own), (second, _) = crystal(), crystal()
    shift = torch.from_numpy(rng[2].uniform(-2, 2, (*own["rotation"].shape, 2)).astype(np.float32))
    moved = replace(
        second,
        positions=second.positions + shift[..., None, None, :],
        special_positions=second.special_positions + shift[..., None, :],
    )
    return _render(prior, rng, image, nuisances | own, _join(first, moved))


def _grain_boundary(
    prior: Prior, rng: list, image: Mapping, nuisances: Mapping, crystal: Callable
) -> Tensor:
    """Two crystals, one on either side of a straight boundary."""
    (first, own), (second, _) = crystal(), crystal()
    shape = own["rotation"].shape
    angle, place = (
        torch.from_numpy(rng[2].uniform(*e, shape).astype(np.float32))
        for e in ((0, 2 * math.pi), (-1.5, 1.5))
    )
    normal = torch.stack([angle.cos(), angle.sin()], -1)

    def half(scene: Scene, sign: int) -> Scene:
        def beyond(positions: Tensor) -> Tensor:
            along = torch.einsum("np...i,npi->np...", positions, normal)
            return sign * (along - place.view(*place.shape, *[1] * (along.ndim - 2))) > GAP

        return replace(
            scene,
            weights=scene.weights * beyond(scene.positions),
            special_weights=scene.special_weights * beyond(scene.special_positions),
        )

    return _render(prior, rng, image, nuisances | own, _join(half(first, 1), half(second, -1)))


def _amorphous_film(
    prior: Prior, rng: list, image: Mapping, nuisances: Mapping, crystal: Callable
) -> Tensor:
    """The columns of a crystal at random positions."""
    scene, own = crystal()
    anywhere = torch.from_numpy(
        rng[2].uniform(-BOX / 2, BOX / 2, scene.positions.shape).astype(np.float32)
    )
    empty = torch.zeros_like(scene.special_weights)
    film = replace(
        scene, positions=anywhere, weights=torch.ones_like(scene.weights), special_weights=empty
    )
    return _render(prior, rng, image, nuisances | own, film)


def _out_of_focus(
    prior: Prior, rng: list, image: Mapping, nuisances: Mapping, crystal: Callable
) -> Tensor:
    """A crystal far above or below the focus."""
    scene, own = crystal()
    sign = torch.from_numpy(rng[2].choice(np.array([-1, 1], np.float32), len(image["host"])))
    return _render(prior, rng, image | {"defocus": FAR_FOCUS * sign}, nuisances | own, scene)


def _vacuum(
    prior: Prior, rng: list, image: Mapping, nuisances: Mapping, crystal: Callable
) -> Tensor:
    """A uniform intensity with noise."""
    _, own = crystal()
    axis = pixel_axis(prior.num_pixels, prior.sampling).expand(len(image["host"]), 1, -1)
    shape = (*own["rotation"].shape, prior.num_pixels, prior.num_pixels)
    clean = torch.full(shape, VACUUM, dtype=torch.float32)
    normal, readout = (
        torch.from_numpy(rng[3].standard_normal(clean.shape, np.float32)) for _ in range(2)
    )
    exposure = (image["dose"] * prior.sampling**2)[:, None, None, None]
    return detect(clean, axis, axis, exposure, nuisances | own, normal, readout)


OUTLIERS = {
    "bilayer": _bilayer,
    "grain boundary": _grain_boundary,
    "amorphous film": _amorphous_film,
    "out of focus": _out_of_focus,
    "vacuum": _vacuum,
}


def _join(first: Scene, second: Scene) -> Scene:
    """The columns of two scenes in one scene."""
    weights = torch.cat([first.special_weights, second.special_weights], -1)
    # slots in use come first, as in every scene
    order = weights.argsort(dim=-1, descending=True, stable=True)
    return Scene(
        torch.cat([first.positions, second.positions], -2),
        torch.cat([first.weights, second.weights], -1),
        torch.cat([first.special_positions, second.special_positions], -2).gather(
            -2, order[..., None].expand(*order.shape, 2)
        ),
        torch.cat([first.special_species, second.special_species], -1).gather(-1, order),
        weights.gather(-1, order),
    )

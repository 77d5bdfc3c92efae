"""Signal and film of one window of a scan."""

from __future__ import annotations

from dataclasses import replace

import torch

from .signal import WEAK
from .view import View
from .world import Scan, World

__all__ = ["draw_brightness"]

LEAST = 1e-7  # precision of the prior, over the mean of that by the pixels


def draw_brightness(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw signal and film given the errors of additivity.

    Parameters
    ----------
    scan : Scan
        A window, with its film.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new values.
    """
    columns = torch.einsum("dk,dkyx->dyx", 1 + world.errors[:, view.used], view.images).double()
    weight, film = (1 / view.variance).double(), scan.film
    cross = film.products(weight * columns)
    own = (weight * columns.square()).sum((-2, -1))
    top = torch.cat([own[:, None], cross], -1)[:, None]
    gram = torch.cat([top, torch.cat([cross[..., None], film.gram(weight)], -1)], -2)
    seen = weight * scan.image
    dot = torch.cat([(columns * seen).sum((-2, -1))[:, None], film.products(seen)], -1)
    # splines where no pixel is valid have a wide prior
    weak = WEAK + LEAST * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    factor = torch.linalg.cholesky(gram + weak * torch.eye(gram.shape[-1]))
    noise = torch.randn(*dot.shape, 1, generator=generator, dtype=torch.float64)
    values = torch.cholesky_solve(dot[..., None], factor)
    values = values + torch.linalg.solve_triangular(factor.mT, noise, upper=True)
    signal, drawn = values[..., 0].float().tensor_split([1], -1)
    return replace(world, signal=signal[:, 0], film=drawn)

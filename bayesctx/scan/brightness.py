"""Signal and film of one window of a scan."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .signal import NUM_FILM, WEAK
from .world import Scan, View, World

__all__ = ["draw_brightness"]


def draw_brightness(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw signal and film given the errors of additivity.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new values.
    """
    columns = torch.einsum("dk,dkyx->dyx", 1 + world.errors[:, view.used], view.images)
    film = scan.film_columns.expand(len(columns), -1, -1, -1)
    design = torch.cat([columns[:, None], film], 1).flatten(2).double()
    gram, dot = _normal_equations(scan, view, design)
    factor = torch.linalg.cholesky(gram + WEAK * torch.eye(1 + NUM_FILM))
    noise = torch.randn(*dot.shape, 1, generator=generator, dtype=torch.float64)
    values = torch.cholesky_solve(dot[..., None], factor)
    values = values + torch.linalg.solve_triangular(factor.mT, noise, upper=True)
    signal, film = values[..., 0].float().split([1, NUM_FILM], -1)
    return replace(world, signal=signal[:, 0], film=film)


def _normal_equations(scan: Scan, view: View, design: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrix and right-hand side of what is linear, of every detector."""
    weighted = design * (1 / view.variance).flatten(1)[:, None].double()
    return weighted @ design.mT, (weighted @ scan.image.flatten(1)[..., None].double())[..., 0]

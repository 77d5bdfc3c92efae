"""Rounds of transitions that leave the posterior of a whole scan invariant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..scan import Scan, World
from ..scan.view import spectra_of
from .linear_moves import draw_linear
from .row_moves import draw_noise, draw_rows
from .scale_moves import draw_given_columns, draw_scales
from .shared_moves import draw_dopant, draw_shared
from .site_moves import draw_sites
from .target import Target
from .tuning import Tuning

__all__ = ["Round", "advance_exactly"]


@dataclass(frozen=True, eq=False)
class Round:
    """What a round of transitions ends with.

    Attributes
    ----------
    scan : Scan
        With the dopant.
    world : World
        The world.
    probability : Tensor, shape (site, species)
        Of what each site holds, see ``draw_sites``.
    rates : dict of str to float
        Mean probability with which proposals of a kind are taken.
    """

    scan: Scan
    world: World
    probability: Tensor
    rates: dict[str, float]


def advance_exactly(
    scan: Scan,
    world: World,
    target: Target,
    tuning: Tuning,
    colours: Sequence[Tensor],
    generator: torch.Generator,
    dopants: Sequence[int] = (),
) -> Round:
    """Draw everything behind a scan once, each part given the rest.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Where.
    target : Target
        What stays invariant.
    tuning : Tuning
        What proposals are made by.
    colours : sequence of Tensor
        See ``Scan.colours``.
    generator : torch.Generator
        Source of randomness.
    dopants : sequence of int
        Metals that may be the dopant, equally probable; default: that of the scan.

    Returns
    -------
    Round
        If the world is a draw of the target, then so is the one that it ends with.

    Notes
    -----
    Each transition is a draw from a conditional distribution, or a proposal that is accepted by the
    density of the program (Metropolis-Hastings). The abundances, mean displacement, shares and
    which columns are displaced more are of the first kind.
    """
    given = target, tuning
    scan, world = draw_dopant(scan, world, target, dopants, generator)
    shared = spectra_of(scan, world.z)
    world, probability, of_sites = draw_sites(scan, world, shared, *given, colours, generator)
    world = draw_given_columns(scan, world, shared, target, generator)
    world, shared, of_shared = draw_shared(scan, world, shared, *given, generator)
    world, of_linear = draw_linear(scan, world, shared, *given, generator)
    world, of_rows = draw_rows(scan, world, shared, *given, generator)
    world, of_scales = draw_scales(scan, world, shared, target, generator)
    world = draw_noise(scan, world, shared, *given, generator)
    rates = {
        "sites": of_sites, "shared": of_shared, "linear": of_linear, "rows": of_rows,
        "scales": of_scales,
    }  # fmt: skip
    return Round(scan, world, probability, rates)

"""What sites hold, given what their columns look like: no column is believed without limit."""

from __future__ import annotations

from dataclasses import replace

import torch

from .chain import Draw
from .conditional import MISLEADING, log_share_of_species
from .world import Scan

__all__ = ["doubted"]


def doubted(scan: Scan, draw: Draw, generator: torch.Generator) -> Draw:
    """Draw what sites hold of which the columns look like something else.

    Parameters
    ----------
    scan : Scan
        Gives the kinds of the sites.
    draw : Draw
        Its species are what the columns look like.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Draw
        Its species, and their probabilities, are what the sites hold.

    Notes
    -----
    Under the contaminating law a site holds any species with its share, whatever its column looks
    like. What columns look like has the same law, so that all else that was drawn given it stays a
    draw of the posterior.

    References
    ----------
    Huber, The Annals of Mathematical Statistics 35, 73 (1964), doi:10.1214/aoms/1177703732:
    contaminated laws.
    """
    scan = replace(scan, material=draw.material)
    drawn = draw.probability.sum(-1) > 0
    share = log_share_of_species(scan, draw.world).softmax(-1)[scan.kind]
    share = share[:, : scan.material.num_species]
    probability = torch.lerp(draw.probability, share, MISLEADING * drawn[:, None])
    is_misleading = drawn & (torch.rand(len(drawn), generator=generator) < MISLEADING)
    other = torch.multinomial(share, 1, generator=generator)[:, 0]
    species = torch.where(is_misleading, other, draw.world.species)
    return replace(draw, world=replace(draw.world, species=species), probability=probability)

"""Tilt of the layer, together with the side on which the atoms of single columns are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .conditional import Sites
from .following import Joint
from .moves import log_density_along, moved
from .signal import accepts, arrive
from .view import View, look
from .world import APART, MIRROR, Scan, World

__all__ = ["Sides", "draw_tilt"]

# of a step, in standard deviations of the tilt while atoms stay on their sides
STEPS = 1.0, 4.0


@dataclass(frozen=True, eq=False)
class Sides:
    """What some sites may hold if nothing but the side of their atoms is open.

    Attributes
    ----------
    species : Tensor of int, shape (site, 2)
        What they hold now, and the same on the other side.
    log_prob : Tensor, shape (site, 2)
        Of these, displacement and excess of the column summed out.
    location : Tensor, shape (site, 2, unknown)
        Mean of the displacement from where the column is now, and of the excess.
    factor : Tensor, shape (site, 2, unknown, unknown)
        Lower Cholesky factors of their precision.
    """

    species: Tensor
    log_prob: Tensor
    location: Tensor
    factor: Tensor

    @classmethod
    def of(cls, scan: Scan, world: World, view: View, mine: Tensor) -> Sides:
        """Sides of some sites that do not overlap, given all else.

        Parameters
        ----------
        scan : Scan
            The scan.
        world, view : World, View
            The rest; whether columns are coarse, or displaced more, stays.
        mine : Tensor of int, shape (site,)
            The sites.

        Returns
        -------
        Sides
            As far as the image is linear in displacement and excess of a column.
        """
        given = Sites.of(scan, world, view).conditional(scan, mine)
        species = torch.stack([world.species[mine], MIRROR[world.species[mine]]], -1)
        at = (given.species[:, None] == species[..., None]).long().argmax(-1)
        here, component = torch.arange(len(mine))[:, None], world.is_coarse[mine].long()[:, None]
        log_prob, location, elements = (
            getattr(given, n)[here, component, at] for n in ("log_prob", "location", "factor")
        )
        num = location.shape[-1]
        factor = elements.new_zeros(*elements.shape[:-1], num, num)
        factor[..., *torch.tril_indices(num, num)] = elements
        return cls(species, log_prob.log_softmax(-1), location, factor)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw sides, displacements and excess.

        Parameters
        ----------
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        chosen : Tensor of int, shape (site,)
            Which of both species.
        values : Tensor, shape (site, unknown)
            Displacement from where the column is now, and excess.
        """
        chosen = torch.multinomial(self.log_prob.exp(), 1, generator=generator)[:, 0]
        here = torch.arange(len(chosen))
        noise = torch.randn(*self.location[:, 0].shape, 1, generator=generator)
        factor = self.factor[here, chosen].mT
        moved = torch.linalg.solve_triangular(factor, noise, upper=True)[..., 0]
        return chosen, self.location[here, chosen] + moved

    def log_density(self, chosen: Tensor, values: Tensor) -> float:
        """Log density of a draw.

        Parameters
        ----------
        chosen, values : Tensor, shapes (site,) and (site, unknown)
            As drawn.

        Returns
        -------
        float
            Of all sites together, up to a constant.
        """
        here = torch.arange(len(chosen))
        factor, away = self.factor[here, chosen], values - self.location[here, chosen]
        square = (factor.mT @ away[..., None]).double().square().sum()
        volume = factor.diagonal(dim1=-2, dim2=-1).double().log().sum()
        return float(self.log_prob[here, chosen].double().sum() + volume - 0.5 * square)


def draw_tilt(
    scan: Scan, world: World, view: View, near: Joint, generator: torch.Generator
) -> tuple[World, View]:
    """Draw the tilt, and on which side the atoms of columns are that have them on one.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    near : Joint
        Says how long steps are, and what follows them.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world, view : World, View
        After one Metropolis step, with signal, film and errors drawn anew, or as they were.

    Notes
    -----
    In a layer that is tilted a chalcogen above the metals is displaced against one below. Given the
    sides of all vacancies the tilt can hardly change, and given the tilt the sides: of an image of
    256 x 256 pixels at 1e6 e/Å² with 29 such columns chains stayed at a tilt of 0.6 or of 1.5
    degrees, whichever they began at. Here the sides are drawn anew, with displacement and excess of
    their columns, at the tilt that is proposed; the ratio of acceptance is that of the densities
    with these summed out. As in ``draw_occupation``, columns are taken to be linear in
    their displacement.
    """
    at = [k for k, n in enumerate(scan.coordinates.names) if n.startswith("tilt")]
    mine = _sites_with_sides(scan, world, generator)
    if not at or not len(mine):  # the tilt is known, or nothing holds it
        return world, view
    step = torch.randn(len(at), 1, generator=generator, dtype=torch.float64)
    step *= STEPS[int(torch.randint(len(STEPS), (1,), generator=generator))]
    change = torch.zeros(len(near.factor), dtype=torch.float64)
    root = torch.linalg.cholesky(near.hessian[at][:, at])
    change[at] = torch.linalg.solve_triangular(root.mT, step, upper=True)[:, 0]
    there = moved(scan, world, near, change)
    forth = Sides.of(scan, there, replace(look(scan, there), variance=view.variance), mine)
    chosen, values = forth.draw(generator)
    back, still = Sides.of(scan, world, view, mine), torch.zeros_like(chosen)
    stays = torch.cat([torch.zeros(len(mine), 2), world.excess[mine]], -1)
    log_ratio = back.log_density(still, stays) - forth.log_density(chosen, values)
    there = _with_sides(there, mine, forth.species[torch.arange(len(mine)), chosen], values)
    before, _ = log_density_along(scan, world, view, near)
    after, factors = log_density_along(scan, there, view, near)
    if not accepts(log_ratio + float(after - before), generator):
        return world, view
    return arrive(scan, there, view, generator, factors)


def _sites_with_sides(scan: Scan, world: World, generator: torch.Generator) -> Tensor:
    """Sites whose atoms are on one side, as many as do not overlap."""
    sided = (scan.updated & (MIRROR[world.species] != world.species)).nonzero()[:, 0]
    sided = sided[torch.randperm(len(sided), generator=generator)]
    if not len(sided):
        return sided
    points = scan.positions[sided].numpy()
    near = cKDTree(points).query_ball_point(points, APART)
    chosen = []
    for k, others in enumerate(near):
        if not set(others) & set(chosen):
            chosen.append(k)
    return sided[torch.tensor(chosen)]


def _with_sides(world: World, mine: Tensor, species: Tensor, values: Tensor) -> World:
    """A world in which some sites hold something else, somewhere else."""
    shift = world.shift.index_add(0, mine, values[:, :2])
    excess = world.excess.index_copy(0, mine, values[:, 2:])
    return replace(
        world, species=world.species.index_copy(0, mine, species), shift=shift, excess=excess
    )

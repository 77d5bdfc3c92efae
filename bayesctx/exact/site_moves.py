"""Transitions of single sites: species, displacement and amplitude, accepted one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..fourier import column_phases
from ..scan import Scan, World
from ..scan.conditional import HAS_ATOMS, KINDS, Sites
from ..scan.kernels import site_conditional
from ..scan.overlaps import overlaps_of
from ..scan.signal import accepts
from ..scan.view import View
from .target import Target, chance, log_prior_of_sites
from .tuning import Tuning

__all__ = ["draw_sites"]

NUM_STEPS = 3  # linearisations of every species, each where the one before says that it stands
LONGEST = 0.15  # Å, of one step between two of them, beyond which columns are not linear
FREEDOM = 8.0  # degrees of freedom of Student's t: proposals have wider tails than the posterior
UNIFORM = 0.02  # share of the proposals whose species is any of those that may be


@dataclass(frozen=True, eq=False)
class Columns:
    """What some sites hold.

    Attributes
    ----------
    species : Tensor of int, shape (site,)
        Index into ``COLUMNS``.
    is_coarse : Tensor of bool, shape (site,)
        See ``World``.
    shift : Tensor, shape (site, 2)
        Displacement in Å.
    excess : Tensor, shape (site, detector)
        Of the amplitudes.
    """

    species: Tensor
    is_coarse: Tensor
    shift: Tensor
    excess: Tensor

    @classmethod
    def of(cls, world: World, mine: Tensor) -> Columns:
        """Those of a world.

        Parameters
        ----------
        world : World
            The world.
        mine : Tensor of int, shape (site,)
            Which sites.

        Returns
        -------
        Columns
            Copies.
        """
        return cls(*(getattr(world, n)[mine] for n in ("species", "is_coarse", "shift", "excess")))

    def put(self, world: World, mine: Tensor) -> World:
        """Put them into a world.

        Parameters
        ----------
        world : World
            The world, which stays as it is.
        mine : Tensor of int, shape (site,)
            Which sites.

        Returns
        -------
        World
            With these columns.
        """
        parts = {}
        for name, value in vars(self).items():
            parts[name] = getattr(world, name).clone()
            parts[name][mine] = value
        return replace(world, **parts)


@dataclass(frozen=True, eq=False)
class _Proposal:
    """A law of what each of some sites holds, which does not depend on what they hold now.

    Species and component of the amplitude are categorical; displacement and amplitude, given these,
    have Student's t distribution.

    ``choices`` has the shape (site, choice), ``log_weight`` (site, choice, component), ``centre``
    the same with the unknowns (displacement, excess), ``factor`` a Cholesky factor of the precision
    for each.
    """

    choices: Tensor
    log_weight: Tensor
    centre: Tensor
    factor: Tensor

    def draw(self, generator: torch.Generator) -> Columns:
        """Draw from the law."""
        sites = torch.arange(len(self.choices))
        weight = self.log_weight.flatten(1).exp()
        picked = torch.multinomial(weight, 1, generator=generator)[:, 0]
        choice, component = picked // 2, picked % 2
        centre, factor = (v[sites, choice, component] for v in (self.centre, self.factor))
        noise = torch.randn(centre.shape, generator=generator)
        gamma = torch.full((len(sites),), FREEDOM / 2)
        chi = 2 * torch._standard_gamma(gamma, generator=generator)
        step = torch.linalg.solve_triangular(factor.mT, noise[..., None], upper=True)[..., 0]
        values = centre + step * (FREEDOM / chi).sqrt()[:, None]
        species = self.choices[sites, choice]
        return Columns(species, component == 1, values[:, :2], values[:, 2:])

    def log_prob(self, columns: Columns) -> Tensor:
        """Log density of columns, up to a constant, shape (site,)."""
        sites = torch.arange(len(self.choices))
        choice = (self.choices == columns.species[:, None]).long().argmax(1)
        at = sites, choice, columns.is_coarse.long()
        values = torch.cat([columns.shift, columns.excess], -1)
        centre, factor = self.centre[at].double(), self.factor[at].double()
        square = ((values - centre)[:, None] @ factor).square().sum((-2, -1))
        volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        tail = -0.5 * (FREEDOM + centre.shape[-1]) * (square / FREEDOM).log1p()
        return self.log_weight[at].double() + volume + tail


def draw_sites(
    scan: Scan,
    world: World,
    shared: tuple,
    target: Target,
    tuning: Tuning,
    colours: Sequence[Tensor],
    generator: torch.Generator,
) -> tuple[World, Tensor, float]:
    """Draw species, displacement and amplitude of every site by Metropolis-Hastings.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The rest.
    shared : tuple
        ``spectra_of`` its coordinates.
    target : Target
        What stays invariant.
    tuning : Tuning
        What proposals are made by.
    colours : sequence of Tensor
        See ``Scan.colours``.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world : World
        With the new values.
    probability : Tensor, shape (site, species)
        Of what each site holds after its step, over whether the proposal is taken; zero for sites
        that are not drawn.
    rate : float
        Mean probability with which proposals are taken.

    Notes
    -----
    The proposals of the sites of a colour come from the image without all columns of this colour,
    each species linearised where it fits best: they depend neither on what a site holds nor on what
    the others of its colour hold. Each is accepted or refused by the density of all pixels with the
    exact image of its column, in turn.

    References
    ----------
    Tierney, The Annals of Statistics 22, 1701 (1994), doi:10.1214/aos/1176325750: independence
    chains. Frenkel, PNAS 101, 17571 (2004), doi:10.1073/pnas.0407950101: averages over refused
    proposals.
    """
    view = tuning.see(scan, world, shared)
    sites, expected = Sites.of(scan, world, view), view.expected
    probability = torch.zeros(len(scan.kind), scan.material.num_species)
    prior, before, rates = log_prior_of_sites(scan, world), None, []
    for mine in colours:
        now = Columns.of(world, mine)
        own = _images(scan, world, view, now, mine, together=True)
        law = _propose(scan, sites, mine, scan.image - expected + own)
        there = law.draw(generator)
        changed = log_prior_of_sites(scan, there.put(world, mine))
        change = _images(scan, world, view, there, mine) - _images(scan, world, view, now, mine)
        log_ratio = (changed - prior)[mine] + law.log_prob(now) - law.log_prob(there)
        taken = torch.zeros(len(mine), dtype=torch.bool)
        before = target.log_pixels(scan, world, expected) if before is None else before
        for i, ratio in enumerate(log_ratio.tolist()):
            after = target.log_pixels(scan, world, expected + change[i])
            rate = chance(ratio + after - before)
            rates.append(rate)
            probability[mine[i], there.species[i]] += rate
            probability[mine[i], now.species[i]] += 1 - rate
            if accepts(ratio + after - before, generator):
                taken[i], expected, before = True, expected + change[i], after
        columns = {n: v[taken] for n, v in vars(there).items()}
        world = Columns(**columns).put(world, mine[taken])
        prior[mine[taken]] = changed[mine[taken]]
    return world, probability, sum(rates) / len(rates)


def _images(
    scan: Scan,
    world: World,
    view: View,
    columns: Columns,
    mine: Tensor,
    *,
    together: bool = False,
) -> Tensor:
    """Exact images of some columns, shape (site, detector, y, x), or of all of them together."""
    amplitude = world.amplitude[:, columns.species].mT
    amplitude = amplitude * (1 + columns.excess) * HAS_ATOMS[columns.species, None]
    cell, num_modes = scan.field.cell, scan.field.num_modes
    positions = scan.positions[mine] + columns.shift
    along_x, along_y = column_phases(positions, cell=cell, num_modes=num_modes)
    spectra = view.spectra[:, columns.species].transpose(0, 1)
    spectra = spectra * (amplitude[..., None, None] * along_y[:, None, :, None])
    spectra = spectra * along_x[:, None, None]
    return scan.field.images(spectra.sum(0) if together else spectra, world.row_shift)


def _propose(scan: Scan, sites: Sites, mine: Tensor, rest: Tensor) -> _Proposal:
    """Proposals of some sites given the image without their columns."""
    canvas = sites.canvas
    canvas.rest = canvas.pad_images(rest)
    choices = _choices(scan)[scan.kind[mine]]
    which, choice = (choices >= 0).nonzero(as_tuple=True)
    pairs, species = mine[which], choices[which, choice]
    shift, precision = sites.mean_shift[pairs], sites.prior.precision(mine)[which]
    for k in range(NUM_STEPS):
        columns, index = canvas.columns_at(
            scan, sites.kernels, scan.positions[pairs] + shift, species
        )
        columns = columns * sites.amplitude[:, species].mT[..., None, None]
        mean = torch.cat([sites.mean_shift[pairs] - shift, sites.mean_excess[pairs]], -1)
        seen = (canvas.at(v, index) for v in (canvas.rest, canvas.weight))
        found = site_conditional(*overlaps_of(columns[:, :, None], *seen), mean, precision)
        log_prob, location, factor = (v[:, :, 0] for v in found)
        log_prob = log_prob + sites.prior.log_share
        if k < NUM_STEPS - 1:
            step = location[torch.arange(len(pairs)), log_prob.argmax(1), :2]
            shift = shift + step.clamp(-LONGEST, LONGEST)
    log_prob = log_prob + sites.log_prior[scan.kind[pairs], species][:, None]
    centre = location + torch.nn.functional.pad(shift, (0, location.shape[-1] - 2))[:, None]
    num = location.shape[-1]
    lower = location.new_zeros(*location.shape, num)
    rows, places = torch.tril_indices(num, num)
    lower[..., rows, places] = factor
    shape = *choices.shape, 2
    weights = torch.full(shape, -math.inf).index_put((which, choice), log_prob)
    possible = (weights > -math.inf).float()
    uniform = possible / possible.sum((1, 2), keepdim=True)
    weights = (1 - UNIFORM) * weights.flatten(1).softmax(-1).view(shape) + UNIFORM * uniform
    centres = torch.zeros(*shape, num).index_put((which, choice), centre)
    factors = torch.zeros(*shape, num, num).index_put((which, choice), lower)
    return _Proposal(choices, weights.log(), centres, factors)


def _choices(scan: Scan) -> Tensor:
    """Species that each kind of site can hold, filled with -1, shape (kind, choice)."""
    allowed = [scan.allowed(kind) for kind in range(len(KINDS))]
    return torch.nn.utils.rnn.pad_sequence(allowed, batch_first=True, padding_value=-1)

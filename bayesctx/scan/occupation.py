"""What every site holds, where its column stands and how bright it is, given everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..defects import SPECIES
from .kernels import SLOPES_FIRST, Kernels, site_conditional, solve_upper
from .signal import draw_from
from .world import CLASS, UPDATED, Scan, View, World

__all__ = [
    "FIELD_PRECISION",
    "HAS_ATOMS",
    "SCATTER_SCALE",
    "Canvas",
    "draw_occupation",
    "log_evidence_of_sites",
    "log_occupation",
    "scales_of_sites",
]

WIDE = 0.1  # Å, displacement of columns beside defects
COARSE = 0.2  # relative excess of columns that are not what the simulator describes
DISORDER = torch.linspace(0.004, 0.1, 97)  # Å
SCATTER = torch.logspace(-3.2, -0.75, 100)
SCATTER_SCALE = 0.03  # of its half-normal prior
AT_ONCE = 256  # columns
LIMIT = torch.tensor([0.15, 0.15, 0.9])  # of one change of displacement (Å) and amplitude
RARE = torch.tensor([0.5, 50.0])  # Beta prior of the share of coarse columns
FREQUENT = torch.tensor([1.0, 5.0])  # and of that of columns that are displaced more
FIELD_PRECISION = 100.0  # Å^-2, of the coefficients of the mean displacement
ALLOWED = {
    kind: torch.tensor([i for i, s in enumerate(SPECIES) if s.site == kind])
    for kind in MONOLAYER_1H.sites
}
NUM_ALIKE = torch.tensor([
    sum((t.defect, t.site) == (s.defect, s.site) for t in SPECIES) for s in SPECIES
])  # fmt: skip
HAS_ATOMS = torch.tensor([bool(s.slots) for s in SPECIES])


@dataclass(eq=False)
class Canvas:
    """Residuals, weights and row shifts with a margin, in which windows are found by index.

    Attributes
    ----------
    rest, weight : Tensor, shape (pixel,)
        Image without what is expected, and inverse variance, with the margin.
    rows : Tensor, shape (row,)
        Displacement of the scan rows in Å.
    width, pad, half : int
        Pixels of a row, of the margin, and of half a window.
    """

    rest: Tensor
    weight: Tensor
    rows: Tensor
    width: int
    pad: int
    half: int

    @classmethod
    def of(cls, scan: Scan, world: World, view: View, half: int) -> Canvas:
        """Pad the image."""
        # windows of sites beyond the border, which may be displaced
        pad = 2 * half + math.ceil((UPDATED + 1.0) / scan.field.sampling)
        padded = [
            torch.nn.functional.pad(v, (pad,) * 4).flatten()
            for v in (scan.image - view.expected, 1 / view.variance)
        ]
        rows = torch.nn.functional.pad(world.row_shift, (pad, pad))
        return cls(*padded, rows, scan.image.shape[1] + 2 * pad, pad, half)

    def pad_images(self, images: Tensor) -> Tensor:
        """Images (image, y, x) with the margin, shape (image, pixel)."""
        return torch.nn.functional.pad(images, (self.pad,) * 4).flatten(1)

    def cut_images(self, padded: Tensor, shape: tuple[int, int]) -> Tensor:
        """Images (image, y, x) without the margin."""
        pad = self.pad
        return padded.unflatten(1, (-1, self.width))[:, pad : pad + shape[0], pad : pad + shape[1]]

    def windows(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the pixels around some pixels (x, y), and the row shift at each."""
        window = torch.arange(-self.half, self.half + 1)
        offsets = (window[:, None] * self.width + window).flatten()
        index = ((base[:, 1] + self.pad) * self.width + base[:, 0] + self.pad)[:, None] + offsets
        rows = self.rows[(base[:, 1] + self.pad)[:, None] + window]
        return index, rows.repeat_interleave(len(window), -1)

    def kernels_at(
        self, scan: Scan, world: World, kernels: Kernels, sites: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Columns of some species where some sites are, at a signal of one.

        Parameters
        ----------
        scan, world : Scan, World
            Positions and displacements.
        kernels : Kernels
            Tabulated columns.
        sites, species : Tensor of int, shapes (site,) and (species,)
            Which.

        Returns
        -------
        columns : Tensor, shape (site, species, 3, pixel)
            Value, and derivatives along x and y.
        index : Tensor of int, shape (site, pixel)
            Their pixels.
        """
        centre = (torch.tensor(scan.field.shape[::-1]) - 1) / 2
        place = (scan.positions[sites] + world.shift[sites]) / scan.field.sampling + centre
        columns, base = kernels.at(species, place)
        index, turn = self.windows(base)
        # a row that is displaced along x sees the column displaced the other way
        columns[:, :, 0] -= turn[:, None] * columns[:, :, 1]
        return columns, index

    def columns(
        self, scan: Scan, world: World, kernels: Kernels, sites: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Columns of what some sites hold, shape (site, 3, pixel), and their pixels."""
        held, which = world.species[sites].unique(return_inverse=True)
        columns, index = self.kernels_at(scan, world, kernels, sites, held)
        return columns[torch.arange(len(sites)), which], index


def draw_occupation(
    scan: Scan,
    world: World,
    view: View,
    colours: list[Tensor],
    generator: torch.Generator | None,
) -> tuple[World, Tensor]:
    """Draw species, displacement and amplitude of every site, then their scales and abundances.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    colours : list of Tensor
        See ``Scan.colours``.
    generator : torch.Generator or None
        Source of randomness; None takes the most probable species and leaves the scales.

    Returns
    -------
    world : World
        With the new values.
    probability : Tensor, shape (site, species)
        Of the species given the other sites.
    """
    kernels = Kernels.of(scan.field, view.values, scan.material)
    canvas = Canvas.of(scan, world, view, kernels.half)
    species, shift, excess = world.species.clone(), world.shift.clone(), world.excess.clone()
    is_coarse = world.is_coarse.clone()
    probability = torch.zeros(len(species), len(SPECIES))
    mean_shift, prior = scan.basis() @ world.drift, _Amplitudes.of(world)
    amplitude = world.signal * (1 + world.errors)
    log_share = world.abundance.clamp(min=1e-30).log()
    log_share = torch.where(scan.prior.mean > 0, log_share, -math.inf)
    log_prior = log_share[:, CLASS] - NUM_ALIKE.log()
    for colour in colours:
        for k, kind in enumerate(MONOLAYER_1H.sites):
            mine, allowed = colour[scan.kind[colour] == k], ALLOWED[kind]
            if not len(mine):
                continue
            columns, index = canvas.kernels_at(scan, world, kernels, mine, allowed)
            columns = columns * amplitude[allowed][:, None, None]
            sites = torch.arange(len(mine))
            now = (allowed == species[mine][:, None]).long().argmax(1)
            present = columns[sites, now, 0] * (1 + excess[mine])[:, None]
            mean = torch.cat([mean_shift[mine] - shift[mine], torch.zeros(len(mine), 1)], -1)
            log_prob, location, factor = site_conditional(
                columns, canvas.rest[index] + present, canvas.weight[index],
                mean, prior.precision(mine),
            )  # fmt: skip
            log_prob = log_prob + log_prior[k, allowed] + prior.log_share[:, None]
            found = log_prob.flatten(1).softmax(-1)
            probability[mine[:, None], allowed] = found.view_as(log_prob).sum(1)
            chosen, move = _choose(found, location.flatten(1, 2), factor.flatten(1, 2), generator)
            coarse, chosen = chosen >= len(allowed), chosen % len(allowed)
            value, along_x, along_y = columns[sites, chosen].unbind(1)
            made = value * (1 + move[:, 2:]) + along_x * move[:, :1] + along_y * move[:, 1:2]
            canvas.rest.index_add_(0, index.flatten(), (present - made).flatten())
            species[mine], is_coarse[mine] = allowed[chosen], coarse
            shift[mine] += move[:, :2]
            excess[mine] = move[:, 2]
    world = replace(world, species=species, shift=shift, excess=excess, is_coarse=is_coarse)
    return _draw_scales(scan, world, prior.spread, generator), probability


@dataclass(frozen=True, eq=False)
class _Amplitudes:
    """Prior of displacement and amplitude of every site: a fine and a coarse component."""

    spread: Tensor
    scatter: Tensor
    log_share: Tensor

    @classmethod
    def of(cls, world: World) -> _Amplitudes:
        """Under the scales of a world."""
        scatter = torch.tensor([world.scatter, math.hypot(world.scatter, COARSE)])
        share = torch.tensor([1 - world.share_coarse, world.share_coarse])
        return cls(_spread(world), scatter, share.log())

    def precision(self, sites: Tensor) -> Tensor:
        """Of displacement along x and y and of the excess, shape (site, component, 3)."""
        place = (self.spread[sites] ** -2)[:, None].expand(-1, 2)
        return torch.stack([place, place, (self.scatter**-2).expand(len(sites), 2)], -1)


def log_occupation(scan: Scan, world: World) -> float:
    """Log prior probability of what the sites hold, the abundances summed out.

    Parameters
    ----------
    scan : Scan
        Gives the prior.
    world : World
        The world.

    Returns
    -------
    float
        Of the sites in the image.
    """
    total = float(scan.prior.log_evidence(scan.counts(world.species)).sum())
    held = world.species[scan.inside]
    return total - float(NUM_ALIKE[held].double().log().sum())


def log_evidence_of_sites(scan: Scan, world: World, view: View) -> float:
    """Log prior of displacements and amplitudes, and the volume that the image leaves to them.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        A fitted world.

    Returns
    -------
    float
        Over all columns, each given the others: what Laplace's approximation adds to the log
        likelihood.
    """
    mine = (scan.updated & HAS_ATOMS[world.species]).nonzero()[:, 0]
    kernels = Kernels.of(scan.field, view.values, scan.material)
    canvas = Canvas.of(scan, world, view, kernels.half)
    spread, scatter = (scale[mine] for scale in scales_of_sites(world))
    amplitude = world.signal * (1 + world.errors[world.species[mine]])
    own = (world.shift - scan.basis() @ world.drift)[mine]
    scale = torch.stack([spread, spread, scatter], -1)
    values = torch.cat([own, world.excess[mine, None]], -1) / scale
    total = -0.5 * float(values.square().double().sum())
    for rows in torch.arange(len(mine)).split(AT_ONCE):
        columns, index = canvas.columns(scan, world, kernels, mine[rows])
        columns = columns[:, SLOPES_FIRST] * amplitude[rows, None, None] * scale[rows, :, None]
        gram = (columns * canvas.weight[index][:, None]) @ columns.mT
        total -= 0.5 * float(torch.logdet((gram + torch.eye(3)).double()).sum())
    return total


def _choose(
    probability: Tensor, location: Tensor, factor: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Component and species by position, and change of displacement and amplitude."""
    sites = torch.arange(len(probability))
    if generator is None:
        chosen = probability.argmax(-1)
        return chosen, location[sites, chosen].clamp(-LIMIT, LIMIT)
    chosen = torch.multinomial(probability, 1, generator=generator)[:, 0]
    noise = torch.randn(len(sites), 3, generator=generator)
    move = location[sites, chosen] + solve_upper(factor[sites, chosen], noise)
    return chosen, move.clamp(-LIMIT, LIMIT)


def _spread(world: World) -> Tensor:
    """Standard deviation of the displacements of every site along an axis, in Å."""
    wide = math.hypot(world.disorder, WIDE)
    return torch.where(world.is_wide, wide, world.disorder)


def scales_of_sites(world: World) -> tuple[Tensor, Tensor]:
    """Standard deviations of displacement, in Å, and of excess of every site.

    Parameters
    ----------
    world : World
        The world.

    Returns
    -------
    spread, scatter : Tensor, shape (site,)
        Under its scales.
    """
    coarse = math.hypot(world.scatter, COARSE)
    return _spread(world), torch.where(world.is_coarse, coarse, world.scatter)


def _draw_scales(
    scan: Scan, world: World, spread: Tensor, generator: torch.Generator | None
) -> World:
    """Mean displacement, scales of displacements and amplitudes, and abundances."""
    basis, counted = scan.basis(), HAS_ATOMS[world.species] & scan.updated
    weight = counted / spread**2
    gram = (basis.T * weight) @ basis + FIELD_PRECISION * torch.eye(basis.shape[1])
    factor = torch.linalg.cholesky(gram)
    drift = torch.cholesky_solve((basis.T * weight) @ world.shift, factor)
    if generator is not None:
        noise = torch.randn(drift.shape, generator=generator)
        drift = drift + torch.linalg.solve_triangular(factor.T, noise, upper=True)
    mean = basis @ drift
    shift = torch.where(scan.updated[:, None], world.shift, mean)
    world = replace(world, drift=drift, shift=shift, abundance=_abundance(scan, world, generator))
    if generator is None:
        return world
    square = (shift - mean).square().sum(-1)
    world = _draw_wide(world, square, counted, generator)
    calm = counted & ~world.is_wide
    log_prob = -2 * calm.sum() * DISORDER.log() - 0.5 * square[calm].sum() / DISORDER**2
    disorder = draw_from(DISORDER, log_prob, generator)
    fine = counted & ~world.is_coarse
    # the grid is even in the logarithm
    log_prob = (1 - fine.sum()) * SCATTER.log() - 0.5 * (SCATTER / SCATTER_SCALE) ** 2
    log_prob = log_prob - 0.5 * world.excess[fine].square().sum() / SCATTER**2
    scatter = draw_from(SCATTER, log_prob, generator)
    share = _draw_share(world.is_coarse, counted, RARE, generator)
    return replace(world, disorder=disorder, scatter=scatter, share_coarse=share)


def _draw_wide(world: World, square: Tensor, counted: Tensor, generator: torch.Generator) -> World:
    """Which columns are displaced more than by disorder, and their share."""
    wide = math.hypot(world.disorder, WIDE)
    log_odds = math.log(world.share_wide / (1 - world.share_wide))
    log_odds += 2 * math.log(world.disorder / wide)
    log_odds = log_odds + 0.5 * square * (world.disorder**-2 - wide**-2)
    is_wide = torch.rand(len(square), generator=generator) < torch.sigmoid(log_odds)
    share = _draw_share(is_wide, counted, FREQUENT, generator)
    return replace(world, is_wide=is_wide, share_wide=min(max(share, 1e-3), 0.6))


def _draw_share(is_so: Tensor, counted: Tensor, prior: Tensor, generator: torch.Generator) -> float:
    """Share of columns of a kind, given a Beta prior."""
    numbers = torch.stack([(is_so & counted).sum(), (~is_so & counted).sum()]) + prior
    gamma = torch._standard_gamma(numbers.double(), generator=generator)
    return float((gamma[0] / gamma.sum()).clamp(1e-6, 1 - 1e-6))


def _abundance(scan: Scan, world: World, generator: torch.Generator | None) -> Tensor:
    """Abundances on each kind of site: a draw, or the mean, given what the sites hold."""
    # a fit keeps to what is expected: counts of wrong classes would confirm themselves
    if generator is None:
        return scan.prior.mean.float()
    return scan.prior.draw(scan.counts(world.species), generator).float()

"""What a site may hold given everything else: likelihood and prior of its column."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..defects import CODOPED_SPECIES, DEFECTS, DOPED_SPECIES, SPECIES
from .canvas import Canvas
from .kernels import Kernels, site_conditional
from .view import View
from .world import CLASS, COLUMNS, Scan, World

__all__ = [
    "ALLOWED",
    "COARSE",
    "HAS_ATOMS",
    "IS_DOPED",
    "KINDS",
    "LEAST_SHARE",
    "MISLEADING",
    "NUM_ALIKE",
    "WIDE",
    "Conditional",
    "Sites",
    "covariance_of_excess",
    "log_share_of_class",
    "log_share_of_species",
    "precision_of_sites",
    "spread_of_sites",
    "sum_by_class",
]

WIDE = 0.1  # Å, displacement of columns beside defects
COARSE = 0.2  # relative excess, the same on all detectors, of columns that are not as simulated
# of the scatter on two detectors of one scan: that of the intensities of columns of two real images
# is 0.51 to 0.57 (docs/model.md)
CORRELATION = 0.5
# share of the sites whose column may look like any other: atoms that jump while the beam passes,
# or that lie on the layer
MISLEADING = 1e-3
LEAST_SHARE = 1e-30  # drawn shares underflow to zero
KINDS = MONOLAYER_1H.sites
ALLOWED = {
    kind: torch.tensor([i for i, s in enumerate(SPECIES) if s.site == kind]) for kind in KINDS
}
"""Species that each kind of site can hold if the crystal is not co-doped."""
NUM_ALIKE = torch.tensor([
    sum((t.defect, t.site) == (s.defect, s.site) for t in SPECIES) for s in COLUMNS
])  # fmt: skip
"""Species of the same class on the same kind of site, among which its abundance is divided.

Both dopants of a co-doped crystal have shares of their own, see ``log_share_of_class``.
"""
HAS_ATOMS = torch.tensor([bool(s.slots) for s in COLUMNS])
IS_DOPED = torch.tensor([s.holds_dopant for s in SPECIES])


@dataclass(frozen=True, eq=False)
class _Amplitudes:
    """Prior of displacement and amplitude of every site: a fine and a coarse component."""

    spread: Tensor
    covariance: Tensor
    log_share: Tensor

    @classmethod
    def of(cls, world: World) -> _Amplitudes:
        """Under the scales of a world."""
        share = torch.tensor([1 - world.share_coarse, world.share_coarse])
        covariance = covariance_of_excess(world.scatter, torch.tensor([False, True]))
        return cls(spread_of_sites(world), covariance, share.log())

    def precision(self, sites: Tensor) -> Tensor:
        """Of displacement and excess, shape (site, component, unknown, unknown)."""
        covariance = self.covariance.expand(len(sites), -1, -1, -1)
        return _precision(self.spread[sites, None].expand(-1, 2), covariance)


@dataclass(frozen=True, eq=False)
class Conditional:
    """What some sites of one kind hold given all else.

    Attributes
    ----------
    log_prob, location, factor : Tensor
        With the prior, see ``site_conditional``.
    columns : Tensor, shape (site, detector, species, 3, pixel)
        What may be there, and its derivatives.
    present : Tensor, shape (site, detector, pixel)
        What is there.
    index : Tensor of int, shape (site, pixel)
        Pixels of the canvas.
    """

    log_prob: Tensor
    location: Tensor
    factor: Tensor
    columns: Tensor
    present: Tensor
    index: Tensor


@dataclass(frozen=True, eq=False)
class Sites:
    """What the conditionals of sites need.

    Attributes
    ----------
    world : World
        Its arrays follow what is drawn.
    canvas : Canvas
        Likewise.
    kernels : Kernels
        Columns of every species.
    prior : _Amplitudes
        Of displacement and amplitude.
    mean_shift : Tensor, shape (site, 2)
        Mean displacement in Å.
    mean_excess : Tensor, shape (site, detector)
        Of the amplitudes.
    amplitude : Tensor, shape (detector, species)
        Signal with the error of additivity.
    log_prior : Tensor, shape (kind, species)
        Of what a site holds.
    """

    world: World
    canvas: Canvas
    kernels: Kernels
    prior: _Amplitudes
    mean_shift: Tensor
    mean_excess: Tensor
    amplitude: Tensor
    log_prior: Tensor

    @classmethod
    def of(cls, scan: Scan, world: World, view: View) -> Sites:
        """What follows from a world.

        Parameters
        ----------
        scan : Scan
            The scan.
        world, view : World, View
            The world; its arrays are copied.

        Returns
        -------
        Sites
            With its kernels.
        """
        kernels = Kernels.of(scan.field, view.values, scan.material)
        names = ("species", "shift", "excess", "is_coarse")
        own = replace(world, **{n: getattr(world, n).clone() for n in names})
        return cls(
            world=own,
            canvas=Canvas.of(scan, world, view, kernels.half),
            kernels=kernels,
            prior=_Amplitudes.of(world),
            mean_shift=scan.basis @ world.drift,
            mean_excess=scan.mean_excess(world.tone),
            amplitude=world.signal[:, None] * (1 + world.errors),
            log_prior=log_share_of_species(scan, world),
        )

    def present(self, scan: Scan, mine: Tensor) -> Tensor:
        """Columns that are there.

        Parameters
        ----------
        scan : Scan
            The scan.
        mine : Tensor of int, shape (site,)
            Some sites.

        Returns
        -------
        Tensor, shape (site, detector, pixel)
            In their windows.
        """
        columns, _ = self.canvas.columns_of(scan, self.world, self.kernels, mine)
        amplitude = self.amplitude[:, self.world.species[mine]].mT * (1 + self.world.excess[mine])
        return columns[:, :, 0] * amplitude[..., None]

    def conditional(
        self,
        scan: Scan,
        mine: Tensor,
        kind: int,
        present: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Conditional:
        """What some sites of one kind hold given all else.

        Parameters
        ----------
        scan : Scan
            The scan.
        mine : Tensor of int, shape (site,)
            The sites; those that do not overlap can be drawn together.
        kind : int
            Their kind.
        present : Tensor, shape (site, detector, pixel), optional
            The columns that are there; default: of these kernels.
        allowed : Tensor of int, shape (species,), optional
            Species to look at; default: those of the kind.

        Returns
        -------
        Conditional
            For each of these species.
        """
        world, allowed = self.world, scan.allowed(kind) if allowed is None else allowed
        columns, index = self.canvas.kernels_at(scan, world, self.kernels, mine, allowed)
        columns = columns * self.amplitude[:, allowed][..., None, None]
        if present is None:  # as ``present`` has it, from what is there already
            now = (allowed == world.species[mine][:, None]).long().argmax(1)
            present = columns[torch.arange(len(mine)), :, now, 0]
            present = present * (1 + world.excess[mine])[..., None]
        away = self.mean_shift[mine] - world.shift[mine]
        mean = torch.cat([away, self.mean_excess[mine]], -1)
        log_prob, location, factor = site_conditional(
            columns, self.canvas.at(self.canvas.rest, index) + present,
            self.canvas.at(self.canvas.weight, index), mean, self.prior.precision(mine),
        )  # fmt: skip
        log_prob = log_prob + self.log_prior[kind, allowed] + self.prior.log_share[:, None]
        return Conditional(log_prob, location, factor, columns, present, index)


def sum_by_class(log_prob: Tensor, allowed: Tensor) -> Tensor:
    """Sum probabilities of the species of each class.

    Parameters
    ----------
    log_prob : Tensor, shape (site, species)
        Their logarithms.
    allowed : Tensor of int, shape (species,)
        Which species these are.

    Returns
    -------
    Tensor, shape (site, defect_class)
        Logarithms; minus infinity for classes of which there is no species.
    """
    found, classes = log_prob.new_full((len(log_prob), len(DEFECTS)), -math.inf), CLASS[allowed]
    for defect in classes.unique().tolist():
        found[:, defect] = log_prob[:, classes == defect].logsumexp(-1)
    return found


def log_share_of_class(scan: Scan, world: World) -> Tensor:
    """Logarithm of the share of every species in its class on a kind of site.

    Parameters
    ----------
    scan, world : Scan, World
        Whether the crystal is co-doped, and the share of the second dopant.

    Returns
    -------
    Tensor, shape (column,)
        Of ``COLUMNS``; the last has none if there is one dopant.
    """
    found = -NUM_ALIKE.log()
    is_codoped = scan.material.codopant is not None
    found[CODOPED_SPECIES] = math.log(world.share_codopant) if is_codoped else -math.inf
    if is_codoped:
        found[DOPED_SPECIES] = math.log1p(-world.share_codopant)
    return found


def log_share_of_species(scan: Scan, world: World) -> Tensor:
    """Log prior of what a site of each kind holds, given the abundances.

    Parameters
    ----------
    scan, world : Scan, World
        The prior, abundances, and the share of the second dopant.

    Returns
    -------
    Tensor, shape (kind, column)
        Of ``COLUMNS``; minus infinity for those that a kind of site cannot hold.
    """
    # drawn shares underflow to zero, which excludes a class only where the prior does
    log_share = world.abundance.clamp(min=LEAST_SHARE).log()
    log_share = torch.where(scan.prior.mean > 0, log_share, -math.inf)[:, CLASS]
    can_be = torch.zeros(log_share.shape, dtype=torch.bool)
    for kind, row in enumerate(can_be):
        row[scan.allowed(kind)] = True
    return torch.where(can_be, log_share + log_share_of_class(scan, world), -math.inf)


def spread_of_sites(world: World) -> Tensor:
    """Standard deviation of the displacement of every site along an axis.

    Parameters
    ----------
    world : World
        The world.

    Returns
    -------
    Tensor, shape (site,)
        In Å.
    """
    wide = math.hypot(world.disorder, WIDE)
    return torch.where(world.is_wide, wide, world.disorder)


def covariance_of_excess(scatter: Tensor, is_coarse: Tensor) -> Tensor:
    """Prior covariance of the excess of columns on all detectors.

    Parameters
    ----------
    scatter : Tensor, shape (*batch, detector)
        Of the amplitudes.
    is_coarse : Tensor of bool, shape (*batch,)
        Whether a column is off by more.

    Returns
    -------
    Tensor, shape (*batch, detector, detector)
        A column that is covered, thinner or vibrates more is off on all detectors: the scatter has
        the correlation ``CORRELATION``, and what a coarse column has beside it is the same.
    """
    pairs = scatter[..., :, None] * scatter[..., None, :]
    own = torch.eye(scatter.shape[-1]).to(scatter)
    pairs = pairs * (CORRELATION + (1 - CORRELATION) * own)
    return pairs + (COARSE**2 * is_coarse)[..., None, None]


def precision_of_sites(world: World) -> Tensor:
    """Prior precision of displacement and excess of every site.

    Parameters
    ----------
    world : World
        The world.

    Returns
    -------
    Tensor, shape (site, unknown, unknown)
        Displacement along x and y, and excess on each detector.
    """
    covariance = covariance_of_excess(world.scatter, world.is_coarse)
    return _precision(spread_of_sites(world), covariance)


def _precision(spread: Tensor, covariance: Tensor) -> Tensor:
    """Precision of displacement and excess, shape (*batch, unknown, unknown)."""
    num = covariance.shape[-1]
    found = covariance.new_zeros(*spread.shape, 2 + num, 2 + num)
    found[..., 0, 0] = found[..., 1, 1] = spread**-2
    found[..., 2:, 2:] = torch.linalg.inv(covariance)
    return found

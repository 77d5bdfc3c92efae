"""What a site may hold given everything else: likelihood and prior of its column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..defects import CODOPED_SPECIES, DOPED_SPECIES, SPECIES
from .canvas import Canvas
from .kernels import Kernels, site_conditional
from .overlaps import Overlaps
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
    """What some sites hold given all else.

    Attributes
    ----------
    species : Tensor of int, shape (site, species)
        What each may hold.
    log_prob, location, factor : Tensor
        With the prior, see ``site_conditional``.
    present : Tensor, shape (site, detector, pixel)
        What is there.
    index : Tensor of int, shape (site, pixel)
        Pixels of the canvas.
    """

    species: Tensor
    log_prob: Tensor
    location: Tensor
    factor: Tensor
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
    allowed : Tensor of int, shape (kind, species)
        Species that each kind of site may hold, filled with others.
    overlaps : Overlaps
        Of the columns of these.
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
    allowed: Tensor
    overlaps: Overlaps
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
        allowed = [scan.allowed(kind) for kind in range(len(KINDS))]
        names = ("species", "shift", "excess", "is_coarse")
        own = replace(world, **{n: getattr(world, n).clone() for n in names})
        return cls(
            world=own,
            canvas=Canvas.of(scan, world, view, kernels.half),
            kernels=kernels,
            allowed=_filled(allowed),
            overlaps=Overlaps.of(kernels, allowed),
            prior=_Amplitudes.of(world),
            mean_shift=scan.basis @ world.drift,
            mean_excess=scan.mean_excess(world.tone),
            amplitude=world.amplitude,
            log_prior=log_share_of_species(scan, world),
        )

    def present(self, scan: Scan, mine: Tensor) -> Tensor:
        """Columns that are there, with the excess that they have.

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
        excess = self.world.excess[mine]
        still = excess.new_zeros(len(mine), 2)
        return self.moved(scan, mine, self.world.species[mine], torch.cat([still, excess], -1))

    def moved(self, scan: Scan, mine: Tensor, species: Tensor, move: Tensor) -> Tensor:
        """Columns of some species, displaced from where columns are.

        Parameters
        ----------
        scan : Scan
            The scan.
        mine, species : Tensor of int, shape (site,)
            Some sites, and species.
        move : Tensor, shape (site, unknown)
            Displacement along x and y in Å, in which the columns are linear, and excess on every
            detector.

        Returns
        -------
        Tensor, shape (site, detector, pixel)
            In their windows.
        """
        positions = scan.positions[mine] + self.world.shift[mine]
        columns, _ = self.canvas.columns_at(scan, self.kernels, positions, species)
        columns = columns * self.amplitude[:, species].mT[..., None, None]
        value, along_x, along_y = columns.unbind(2)
        along = along_x * move[:, :1, None] + along_y * move[:, 1:2, None]
        return value * (1 + move[:, 2:, None]) + along

    def gram(self, scan: Scan, mine: Tensor) -> Tensor:
        """Products of the columns that some sites may hold, where they are.

        Parameters
        ----------
        scan : Scan
            The scan.
        mine : Tensor of int, shape (site,)
            Some sites.

        Returns
        -------
        Tensor, shape (site, detector, species, 3, 3)
            See ``site_conditional``.
        """
        kind, canvas = scan.kind[mine], self.canvas
        positions = scan.positions[mine] + self.world.shift[mine]
        step, rest, index, turn = canvas.windows_at(scan, self.kernels, positions)
        found = self.overlaps.gram(kind, step, rest, canvas.at(canvas.weight, index), turn)
        return found * self.amplitude[:, self.allowed[kind], None, None].transpose(0, 1) ** 2

    def conditional(
        self,
        scan: Scan,
        mine: Tensor,
        present: Tensor | None = None,
        gram: Tensor | None = None,
    ) -> Conditional:
        """What some sites hold given all else.

        Parameters
        ----------
        scan : Scan
            The scan.
        mine : Tensor of int, shape (site,)
            The sites; those that do not overlap can be drawn together.
        present : Tensor, shape (site, detector, pixel), optional
            The columns that are there; default: of these kernels.
        gram : Tensor, shape (site, detector, species, 3, 3), optional
            If known, see ``gram``.

        Returns
        -------
        Conditional
            For each species; those with which a kind is filled have no probability.
        """
        kind, world, canvas = scan.kind[mine], self.world, self.canvas
        positions, species = scan.positions[mine] + world.shift[mine], self.allowed[kind]
        step, rest, index, turn = canvas.windows_at(scan, self.kernels, positions)
        present = self.present(scan, mine) if present is None else present
        seen = canvas.at(canvas.weight, index) * (canvas.at(canvas.rest, index) + present)
        dot = self.overlaps.dot(kind, step, rest, seen, turn)
        dot = dot * self.amplitude[:, species, None].transpose(0, 1)
        gram = self.gram(scan, mine) if gram is None else gram
        away = self.mean_shift[mine] - world.shift[mine]
        mean = torch.cat([away, self.mean_excess[mine]], -1)
        log_prob, *law = site_conditional(gram, dot, mean, self.prior.precision(mine))
        log_prior = self.log_prior[kind[:, None], species]
        log_prob = log_prob + log_prior[:, None] + self.prior.log_share[:, None]
        return Conditional(species, log_prob, *law, present, index)


def _filled(allowed: Sequence[Tensor]) -> Tensor:
    """Species of each kind of site, filled with one of another kind, shape (kind, species)."""
    most = max(len(mine) for mine in allowed)
    others = (allowed[k - 1][:1].expand(most - len(mine)) for k, mine in enumerate(allowed))
    return torch.stack([torch.cat(pair) for pair in zip(allowed, others, strict=True)])


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

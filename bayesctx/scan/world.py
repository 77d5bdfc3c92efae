"""One world behind the pixels of a scan: everything that a draw of the posterior fixes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..abundance import Abundance
from ..crystal import MONOLAYER_1H
from ..defects import DEFECTS, DOPED_SPECIES, SITES, SPECIES
from .coordinates import Coordinates
from .field import Field, Material
from .film import Film

__all__ = [
    "CLASS",
    "COLUMNS",
    "JITTERS",
    "MIRROR",
    "PERFECT",
    "TONE_SIZE",
    "Scan",
    "World",
    "begin",
]

KINDS = MONOLAYER_1H.sites
COLUMNS = (*SPECIES, SPECIES[DOPED_SPECIES])
"""All species, then that with the second dopant of a co-doped crystal, ``CODOPED_SPECIES``."""
CLASS = torch.tensor([DEFECTS.index(s.defect) for s in COLUMNS])
"""Class of every one of ``COLUMNS``."""
PERFECT = torch.tensor([
    next(i for i, s in enumerate(SPECIES) if s.defect == SITES[kind][0]) for kind in KINDS
])  # fmt: skip
MIRROR = torch.tensor([
    next((j for j, t in enumerate(SPECIES) if t is not s and t.is_mirror_of(s)), i)
    for i, s in enumerate(COLUMNS)
])  # fmt: skip
"""The species that is each one reflected in the plane of the layer."""

JITTERS = "jitter", "jitter_y", "slant"
"""Scales of the displacements of scan rows along x and along y, and of their slant."""

UPDATED = 4.0  # Å beyond the image up to which sites are drawn; those farther are perfect
APART = 6.1  # Å between sites that are drawn together
DEGREE = 3  # of the polynomials of the mean displacement
# Å between the knots of the film, and of the mean excess of the columns
FILM, TONE = 6.0, 25.0
TONE_SIZE = 0.05  # scale of the half-normal prior of the size of the latter
FIRST_FLOOR = 0.05  # of the variance of the image, before the noise is fitted
FIRST_SCATTER = 0.03  # of the amplitudes
FIRST_FILM = 0.1  # size of the film, in units of the image
FIRST_SIGNAL = 10.0  # before the signal is fitted: columns of a few per cent of the beam


@dataclass(frozen=True, eq=False)
class Scan:
    """What is given of a scan.

    Attributes
    ----------
    image : Tensor, shape (detector, y, x)
        Intensities of order one on every detector; any number where a pixel is not valid.
    field : Field
        Geometry and band limit.
    material : Material
        Host and dopants.
    coordinates : Coordinates
        Of the shared variables, with their prior and those of the scales.
    positions : Tensor, shape (site, 2)
        Sites (x, y) of the lattice in Å from the centre, also some beyond the border.
    kind : Tensor of int, shape (site,)
        Kind of site under the assignment.
    prior : Abundance, shape (kind, defect_class)
        Distribution of the abundances.
    log_dose : callable, optional
        Log prior density of the dose in e/Å².
    heat : float
        Factor of the variance of the noise: above one, chains leave modes more easily.
    valid : Tensor of bool, shape (y, x), optional
        Pixels that are looked at on all detectors; default: all.
    """

    image: Tensor
    field: Field
    material: Material
    coordinates: Coordinates
    positions: Tensor
    kind: Tensor
    prior: Abundance
    log_dose: Callable[[float], float] | None = None
    heat: float = 1.0
    valid: Tensor | None = None

    def seen(self, values: Tensor) -> Tensor:
        """Select the valid pixels.

        Parameters
        ----------
        values : Tensor, shape (*batch, y, x)
            Of all pixels.

        Returns
        -------
        Tensor, shape (*batch, pixel)
            In double precision.
        """
        return (values.flatten(-2) if self.valid is None else values[..., self.valid]).double()

    def counts(self, species: Tensor, among: Tensor) -> Tensor:
        """Count the sites that hold each class.

        Parameters
        ----------
        species : Tensor of int, shape (site,)
            What the sites hold.
        among : Tensor of bool, shape (site,)
            Sites to count.

        Returns
        -------
        Tensor, shape (kind, defect_class)
            Double precision.
        """
        held = CLASS[species[among]] + len(DEFECTS) * self.kind[among]
        shape = len(KINDS), len(DEFECTS)
        return torch.bincount(held, minlength=shape[0] * shape[1]).view(shape).double()

    def allowed(self, kind: int) -> Tensor:
        """Species that the sites of a kind can hold.

        Parameters
        ----------
        kind : int
            Index into the kinds of site.

        Returns
        -------
        Tensor of int, shape (species,)
            Index into ``COLUMNS``.
        """
        every = COLUMNS[: self.material.num_species]
        return torch.tensor([i for i, s in enumerate(every) if s.site == KINDS[kind]])

    @property
    def reach(self) -> Tensor:
        """Distance of the sites from the border along each axis, negative inside, (site, 2)."""
        return self.positions.abs() - torch.stack([a.abs().max() for a in self.field.axes])

    @property
    def inside(self) -> Tensor:
        """Sites whose centre is in the image, shape (site,)."""
        return (self.reach < 0.5 * self.field.sampling).all(-1)

    @property
    def updated(self) -> Tensor:
        """Sites that are drawn, shape (site,)."""
        return (self.reach < UPDATED).all(-1)

    def colours(self) -> list[Tensor]:
        """Sets of sites that are updated, far enough from each other to be drawn together."""
        chosen = np.full(len(self.positions), -1)
        points = self.positions.numpy()
        near = cKDTree(points).query_ball_point(points, APART)
        for i in self.updated.nonzero()[:, 0].tolist():
            taken = set(chosen[near[i]].tolist())
            chosen[i] = next(c for c in range(len(points)) if c not in taken)
        colour = torch.from_numpy(chosen)
        return [(colour == c).nonzero()[:, 0] for c in range(int(colour.max()) + 1)]

    @functools.cached_property
    def basis(self) -> Tensor:
        """Polynomials of the position, shape (site, term), the constant first."""
        scale = torch.stack([a.abs().max() for a in self.field.axes])
        x, y = (self.positions / scale).T
        powers = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
        return torch.stack([x**i * y**j for i, j in powers], -1)

    @functools.cached_property
    def film(self) -> Film:
        """What is under the columns."""
        return Film.of(self.field.axes, FILM)

    @functools.cached_property
    def tone_basis(self) -> Tensor:
        """Splines of the mean excess at the sites, shape (site, term)."""
        return Film.of(self.field.axes, TONE).at(self.positions)

    def mean_excess(self, tone: Tensor) -> Tensor:
        """Mean excess of the columns.

        Parameters
        ----------
        tone : Tensor, shape (kind, detector, term)
            Coefficients.

        Returns
        -------
        Tensor, shape (site, detector)
            Of every site.
        """
        return torch.einsum("st,sdt->sd", self.tone_basis, tone[self.kind])


@dataclass(frozen=True, eq=False)
class World:
    """Values of everything behind the pixels.

    Attributes
    ----------
    z : Tensor, shape (coordinate,)
        Coordinates of the shared variables.
    species : Tensor of int, shape (site,)
        What the sites hold, index into ``COLUMNS``.
    shift : Tensor, shape (site, 2)
        Displacement (x, y) of the columns in Å.
    excess : Tensor, shape (site, detector)
        Relative excess of their amplitudes.
    row_shift : Tensor, shape (y, 3)
        Displacement of the scan rows along x and y in Å, and their slant: the change of the latter
        along the row, per Å.
    errors : Tensor, shape (detector, species)
        Relative errors of additivity.
    drift : Tensor, shape (term, 2)
        Coefficients of the mean displacement, see ``Scan.basis``.
    is_wide : Tensor of bool, shape (site,)
        Columns that are displaced more than by disorder.
    is_coarse : Tensor of bool, shape (site,)
        Columns whose amplitudes are off by more than the scatter, by the same share on all
        detectors.
    abundance : Tensor, shape (kind, defect_class)
        Of the classes on each kind of site.
    film : Tensor, shape (detector, term)
        Coefficients of ``Scan.film``.
    film_size : Tensor, shape (detector,)
        Standard deviation of these coefficients around a plane.
    tone : Tensor, shape (kind, detector, term)
        Coefficients of the mean excess, see ``Scan.tone_basis``.
    tone_size : Tensor, shape (kind,)
        Standard deviation of these coefficients.
    signal : Tensor, shape (detector,)
        Intensity per fraction of the beam.
    floor, slope : Tensor, shape (detector,)
        Variance of the noise at zero intensity, and its increase with the intensity.
    scatter : Tensor, shape (detector,)
        Scale of the excess of the amplitudes.
    additivity, jitter, jitter_y, slant, disorder : float
        Scales of the errors of additivity, of the displacements of rows along x and along y in Å
        and of their slant, and of the displacements of columns in Å.
    share_wide, share_coarse : float
        Shares of the columns that are displaced more, and whose amplitude is off by more.
    share_codopant : float
        Share of the second dopant of a co-doped crystal among the sites that hold one of both.
    """

    z: Tensor
    species: Tensor
    shift: Tensor
    excess: Tensor
    row_shift: Tensor
    errors: Tensor
    drift: Tensor
    is_wide: Tensor
    is_coarse: Tensor
    abundance: Tensor
    film: Tensor
    film_size: Tensor
    tone: Tensor
    tone_size: Tensor
    signal: Tensor
    floor: Tensor
    slope: Tensor
    scatter: Tensor
    additivity: float = 0.5
    jitter: float = 0.05
    jitter_y: float = 0.05
    slant: float = 0.002
    disorder: float = 0.1
    share_wide: float = 0.1
    share_coarse: float = 0.01
    share_codopant: float = 0.5

    @property
    def amplitude(self) -> Tensor:
        """Intensity of the columns of every species, shape (detector, species)."""
        return self.signal[:, None] * (1 + self.errors)

    @property
    def jitters(self) -> Tensor:
        """Scales of the displacements of rows, in the order of ``JITTERS``, shape (3,)."""
        return torch.tensor([getattr(self, name) for name in JITTERS])


def begin(scan: Scan, z: Tensor, species: Tensor | None = None) -> World:
    """The simplest world: a perfect crystal, or given species, where the lattice is.

    Parameters
    ----------
    scan : Scan
        The scan.
    z : Tensor, shape (coordinate,)
        Coordinates of the shared variables.
    species : Tensor of int, shape (site,), optional
        Default: those of a perfect crystal.

    Returns
    -------
    World
        Signal, film and noise are not fitted yet; the floor of the noise is 5 % of the variance of
        the image, so that all of it is looked at.
    """
    num, num_detectors = len(scan.kind), len(scan.image)
    each = torch.ones(num_detectors)
    return World(
        z=z,
        species=PERFECT[scan.kind] if species is None else species,
        shift=torch.zeros(num, 2),
        excess=torch.zeros(num, num_detectors),
        row_shift=torch.zeros(scan.field.shape[0], len(JITTERS)),
        errors=torch.zeros(num_detectors, scan.material.num_species),
        drift=torch.zeros(scan.basis.shape[1], 2),
        is_wide=torch.zeros(num, dtype=torch.bool),
        is_coarse=torch.zeros(num, dtype=torch.bool),
        abundance=scan.prior.mean.float(),
        film=torch.zeros(num_detectors, scan.film.num_terms),
        film_size=FIRST_FILM * each,
        tone=torch.zeros(len(KINDS), num_detectors, scan.tone_basis.shape[1]),
        tone_size=torch.full((len(KINDS),), TONE_SIZE),
        floor=FIRST_FLOOR * scan.seen(scan.image).var(-1).float(),
        slope=torch.zeros(num_detectors),
        signal=FIRST_SIGNAL * each,
        scatter=FIRST_SCATTER * each,
    )

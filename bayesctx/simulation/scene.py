"""Positions and species of the columns of a patch: crystal, defects, relaxation, distortion."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..crystal import HOSTS, MONOLAYER_1H
from ..defects import DEFECTS, SITES, SPECIES, formula_of

__all__ = [
    "Scene",
    "draw_species",
    "name_species",
    "place_columns",
    "place_crystal",
    "sites_around",
]

KINDS = MONOLAYER_1H.sites
KIND_OF_SPECIES = torch.tensor([KINDS.index(s.site) for s in SPECIES])
IS_PERFECT = torch.tensor([s.defect == SITES[s.site][0] for s in SPECIES])
# index of the first species of each class, and number of species of each
FIRST_SPECIES = torch.tensor([[s.defect for s in SPECIES].index(d) for d in DEFECTS])
NUM_ALTERNATIVES = torch.tensor([sum(s.defect == d for s in SPECIES) for d in DEFECTS])
HOST_COLUMNS = tuple(i for i, s in enumerate(SPECIES) if IS_PERFECT[i] and s.slots)
"""The species of the columns of a perfect crystal, in the order of the kinds of site."""

LATTICE_CONSTANTS = torch.tensor([h.lattice_constant for h in HOSTS.values()], dtype=torch.float32)

REACH = 9.6  # Å, distance from the centre beyond which columns are left out
NEAR = 6.0  # Å, distance up to which neighbours may be defects
NUM_SPECIAL = 8  # columns that differ from the host: the centre and its nearest defects


@dataclass(frozen=True)
class Scene:
    """Columns of a block of patches, in Å from the centre of the patch.

    Attributes
    ----------
    positions : Tensor, shape (image, patch, 2, column, 2)
        Metal and chalcogen columns of the host.
    weights : Tensor, shape (image, patch, 2, column)
        One where the column of the host is present.
    special_positions : Tensor, shape (image, patch, special, 2)
        Columns that differ from the host, the centre first.
    special_species : Tensor of int, shape (image, patch, special)
        Index into ``SPECIES``.
    special_weights : Tensor, shape (image, patch, special)
        One where the slot is used; used slots come first.
    """

    positions: Tensor
    weights: Tensor
    special_positions: Tensor
    special_species: Tensor
    special_weights: Tensor


def draw_species(u: Tensor, kind: int, concentration: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the species of sites of one kind.

    Parameters
    ----------
    u : Tensor, shape (*batch, 2)
        In [0, 1).
    kind : int
        Index into ``SITES``.
    concentration : Tensor, shape (*batch, defect_class)
        Abundance of the classes; those that the site cannot hold are left out.

    Returns
    -------
    species : Tensor of int, shape (*batch,)
        Index into ``SPECIES``.
    altered : Tensor of bool, shape (*batch,)
        Whether the site differs from the perfect crystal.
    """
    of_kind = [(i, s.defect) for i, s in enumerate(SPECIES) if s.site == KINDS[kind]]
    classes = SITES[KINDS[kind]]
    members = [[i for i, d in of_kind if d == defect] for defect in classes]
    first, count = torch.tensor([m[0] for m in members]), torch.tensor([len(m) for m in members])
    edges = concentration[..., [DEFECTS.index(d) for d in classes]].cumsum(-1)
    chosen = (u[..., :1] * edges[..., -1:] > edges[..., :-1]).sum(-1)
    return first[chosen] + (u[..., 1] * count[chosen]).long(), chosen > 0


def name_species(species: np.ndarray, host: np.ndarray, dopant: np.ndarray) -> np.ndarray:
    """Chemical formulas of species by index.

    Parameters
    ----------
    species : ndarray of int, shape (site,)
        Index into ``SPECIES``.
    host, dopant : ndarray of str, shape (site,)
        Names.

    Returns
    -------
    ndarray of str, shape (site,)
        Chemical formulas.
    """
    names = [
        formula_of(SPECIES[k].column(h, d)) for k, h, d in zip(species, host, dopant, strict=True)
    ]
    return np.array(names)


@functools.cache
def sites_around() -> Tensor:
    """Sites around a site of each kind, by kind, nearest first.

    Returns
    -------
    Tensor, shape (centre, kind, site, 2)
        In lattice constants; kinds in the order of ``SITES``.
    """
    smallest = float(LATTICE_CONSTANTS.min())
    positions, sites = MONOLAYER_1H.sites_around(1.0, REACH / smallest + 2.0)
    xy, kind = torch.tensor(positions, dtype=torch.float32), np.array(sites)
    centres = [(0.0, 0.0), (0.0, 1 / math.sqrt(3)), (0.0, -1 / math.sqrt(3))]
    seen = []
    for centre in centres:
        for name in KINDS:
            moved = xy[kind == name] - torch.tensor(centre, dtype=torch.float32)
            seen.append(moved[moved.norm(dim=-1).argsort(stable=True)])
    count = min(int((s.norm(dim=-1) < REACH / smallest).sum()) for s in seen)
    return torch.stack([s[:count] for s in seen]).unflatten(0, (3, 3))


def place_columns(
    rng: np.random.Generator,
    host: Tensor,
    species: Tensor,
    nuisances: Mapping[str, Tensor],
    box: float,
) -> Scene:
    """Build the surroundings of central sites.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    host : Tensor of int, shape (image,)
        Index into ``HOSTS``.
    species : Tensor of int, shape (image, patch)
        Species of the central site, index into ``SPECIES``.
    nuisances : mapping of str to Tensor
        See ``nuisances.NUISANCES``, and ``concentration``.
    box : float
        Edge of the square in Å outside of which columns are left out.

    Returns
    -------
    Scene
        The columns of every patch.
    """
    centre = KIND_OF_SPECIES[species]
    lattice = (LATTICE_CONSTANTS[host] * (1 + nuisances["strain"]))[:, None, None, None, None]
    positions = sites_around()[centre] * lattice
    shape = positions.shape[:-1]
    u = torch.from_numpy(rng.random((*shape, 2), np.float32))
    concentration = nuisances["concentration"][:, None, None]
    drawn = [draw_species(u[:, :, k], k, concentration) for k in range(len(KINDS))]
    around, altered = (torch.stack(v, 2) for v in zip(*drawn, strict=True))
    radius = positions.norm(dim=-1)
    is_centre = radius < 0.1
    around = torch.where(is_centre, species[..., None, None], around)
    altered = (altered & (radius < NEAR)) | is_centre

    positions = _relax(rng, positions, altered, ~IS_PERFECT[species], nuisances, lattice)
    positions = _distort(positions, nuisances)

    chosen = torch.where(altered, -radius, -torch.inf).flatten(2).topk(NUM_SPECIAL, dim=-1).indices
    special = torch.zeros_like(altered).flatten(2).scatter(-1, chosen, True).view(shape) & altered
    present = (positions.abs().amax(-1) < box / 2) & (radius < REACH) & ~special
    return Scene(
        positions=positions[:, :, :2],
        weights=present[:, :, :2].float(),
        special_positions=positions.flatten(2, 3).gather(
            2, chosen[..., None].expand(-1, -1, -1, 2)
        ),
        special_species=around.flatten(2).gather(2, chosen),
        special_weights=special.flatten(2).gather(2, chosen).float(),
    )


def place_crystal(
    rng: np.random.Generator, host: Tensor, nuisances: Mapping[str, Tensor], box: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill a square with one crystal.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    host : Tensor of int, shape (1,)
        Index into ``HOSTS``.
    nuisances : mapping of str to Tensor, shape (1,) or (1, 1)
        See ``nuisances.NUISANCES``, and ``concentration``.
    box : float
        Edge of the square in Å.

    Returns
    -------
    sites, columns : Tensor, shape (site, 2)
        Positions in Å from the centre: of the lattice sites, and of the columns with relaxation and
        disorder.
    species : Tensor of int, shape (site,)
        Index into ``SPECIES``.
    """
    lattice = float(LATTICE_CONSTANTS[host] * (1 + nuisances["strain"]))
    positions, names = MONOLAYER_1H.sites_around(1.0, 0.75 * box / lattice)
    kind = torch.tensor([KINDS.index(n) for n in names])
    xy = torch.tensor(positions, dtype=torch.float32) * lattice
    u = torch.from_numpy(rng.random((len(kind), 2), np.float32))
    species, altered = torch.zeros_like(kind), torch.zeros_like(kind, dtype=torch.bool)
    for k in range(len(KINDS)):
        species[kind == k], altered[kind == k] = draw_species(
            u[kind == k], k, nuisances["concentration"].expand(int((kind == k).sum()), -1)
        )

    push = float(nuisances["relaxation"])
    moved = torch.from_numpy(rng.standard_normal((len(kind), 2), np.float32)) * (
        float(nuisances["disorder"]) + 0.3 * push * altered[:, None].float()
    )
    tree = cKDTree(xy.numpy())
    sign = rng.choice(np.array([-1.0, 1.0]), len(kind))
    for i in altered.nonzero()[:, 0].tolist():
        shell = [
            j
            for j in tree.query_ball_point(xy[i].numpy(), MONOLAYER_1H.first_shell * lattice)
            if j != i
        ]
        outward = xy[shell] - xy[i]
        moved[shell] += sign[i] * push * outward / outward.norm(dim=-1, keepdim=True)

    def distorted(points: Tensor) -> Tensor:
        return _distort(points[None, None, None], nuisances)[0, 0, 0]

    sites = distorted(xy)
    inside = (sites.abs() < box / 2).all(-1)
    return sites[inside], distorted(xy + moved)[inside], species[inside]


def _relax(
    rng: np.random.Generator,
    positions: Tensor,
    altered: Tensor,
    defective: Tensor,
    nuisances: Mapping[str, Tensor],
    lattice: Tensor,
) -> Tensor:
    """Displace the first shell around a defect radially, and every column by static disorder."""
    shape = positions.shape[:-1]
    relaxation, disorder = nuisances["relaxation"], nuisances["disorder"]
    sign = torch.from_numpy(rng.choice(np.array([-1, 1], np.float32), shape[:2]))
    amount = relaxation[:, None] * sign * defective
    radius = positions.norm(dim=-1, keepdim=True)
    first_shell = (radius > 0.1) & (radius < MONOLAYER_1H.first_shell * lattice)
    outward = positions / radius.clamp(min=0.1) * first_shell * amount[..., None, None, None]
    spread = (disorder[:, None, None, None] + 0.3 * relaxation[:, None, None, None] * altered)[
        ..., None
    ]
    return (
        positions
        + outward
        + torch.from_numpy(rng.standard_normal((*shape, 2), np.float32)) * spread
    )


def _distort(positions: Tensor, nuisances: Mapping[str, Tensor]) -> Tensor:
    """Rotate the crystal, shear it by the drift along the slow scan axis y, and shift it."""

    def of_patch(name: str) -> Tensor:
        value = nuisances[name]
        return value.reshape(value.shape + (1,) * (4 - value.ndim))

    angle = of_patch("rotation")
    x = positions[..., 0] * angle.cos() - positions[..., 1] * angle.sin()
    y = positions[..., 0] * angle.sin() + positions[..., 1] * angle.cos()
    x = x + of_patch("drift_x") * y + of_patch("offset_x")
    y = y + of_patch("drift_y") * y + of_patch("offset_y")
    return torch.stack([x, y], -1)

"""What every site holds given everything else: likelihood of the pixels around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..defects import SPECIES
from ..fourier import synthesize
from .field import Field, Material, frequencies

__all__ = ["Kernels", "Sites", "colours", "site_conditional"]

HALF = 3.0  # Å, half the width of the window around a site
ROOM = 10.0  # Å from the window to the periodic repetition of the column
STEPS = 4  # positions in a pixel, along each side, at which kernels are tabulated
APART = 6.1  # Å between sites that are updated together


@dataclass(frozen=True, eq=False)
class Kernels:
    """Images of one column of every species in a small window.

    Attributes
    ----------
    values : Tensor, shape (species, 3, step_y, step_x, pixel)
        Image, and its derivatives with respect to x and y of the column, for a signal of one.
    half : int
        The window has 2 half + 1 pixels along each side.
    sampling : float
        In Å.
    """

    values: Tensor
    half: int
    sampling: float

    @classmethod
    def of(cls, field: Field, values: dict[str, Tensor], material: Material) -> Kernels:
        """Tabulate the columns at one value of the shared variables."""
        s = field.sampling
        half = math.ceil(HALF / s)
        cell = (2 * half * s + 2 * ROOM,) * 2
        num_modes = tuple(
            math.ceil(m * cell[i] / field.cell[i]) for i, m in enumerate(field.num_modes)
        )
        spectra = field.spectra(values, material, cell, num_modes)[0]
        qx, qy = frequencies(cell, num_modes)
        # d/du of K(r - u)
        along = [spectra, spectra * (-2j * math.pi * qx), spectra * (-2j * math.pi * qy)[:, None]]
        offset = (torch.arange(STEPS) + 0.5) / STEPS - 0.5
        axis = (torch.arange(-half, half + 1) - offset[:, None]) * s  # (step, pixel)
        found = [
            synthesize(
                part[:, None, None].expand(-1, STEPS, STEPS, -1, -1),
                axis.expand(len(part), STEPS, -1, -1),
                axis[:, None].expand(len(part), -1, STEPS, -1),
                cell=cell,
            ).flatten(-2)
            for part in along
        ]
        return cls(torch.stack(found, 1), half, s)

    def at(self, species: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels of some species at sites.

        Parameters
        ----------
        species : Tensor of int, shape (species,)
            Which ones.
        place : Tensor, shape (site, 2)
            Position (x, y) of the columns in px.

        Returns
        -------
        kernels : Tensor, shape (site, species, 3, pixel)
            To first order in what is left of the position.
        base : Tensor of int, shape (site, 2)
            Pixel (x, y) at the middle of the window.
        """
        base = place.round()
        within = place - base
        step = ((within + 0.5) * STEPS).floor().long().clamp(0, STEPS - 1)
        rest = (within - ((step + 0.5) / STEPS - 0.5)) * self.sampling
        picked = self.values[species][:, :, step[:, 1], step[:, 0]].movedim(2, 0)
        value = (
            picked[:, :, 0]
            + rest[:, 0, None, None] * picked[:, :, 1]
            + rest[:, 1, None, None] * picked[:, :, 2]
        )
        return torch.cat([value[:, :, None], picked[:, :, 1:]], 2), base.long()


def colours(positions: Tensor) -> list[Tensor]:
    """Partition sites into sets whose members are far apart.

    Parameters
    ----------
    positions : Tensor, shape (site, 2)
        In Å.

    Returns
    -------
    list of Tensor of int
        Sites of every set.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(positions.numpy())
    near = tree.query_ball_point(positions.numpy(), APART)
    chosen = [-1] * len(positions)
    for i in range(len(positions)):
        taken = {chosen[j] for j in near[i]}
        chosen[i] = next(c for c in range(len(positions)) if c not in taken)
    colour = torch.tensor(chosen)
    return [(colour == c).nonzero()[:, 0] for c in range(int(colour.max()) + 1)]


@dataclass(eq=False)
class Sites:
    """What is known of the sites in one state of a chain.

    Attributes
    ----------
    positions : Tensor, shape (site, 2)
        (x, y) of the lattice in Å.
    kind : Tensor of int, shape (site,)
        Kind of site.
    species : Tensor of int, shape (site,)
        What they hold.
    shift : Tensor, shape (site, 2)
        Displacement of the columns in Å.
    excess : Tensor, shape (site,)
        Relative excess of their amplitude.
    """

    positions: Tensor
    kind: Tensor
    species: Tensor
    shift: Tensor
    excess: Tensor


def site_conditional(
    kernels: Tensor,
    rest: Tensor,
    weight: Tensor,
    mean: Tensor,
    precision: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihood of the species of sites, displacement and amplitude integrated out.

    Parameters
    ----------
    kernels : Tensor, shape (site, species, 3, pixel)
        Value of the column and derivatives along x and y.
    rest : Tensor, shape (site, pixel)
        Image without the column of the site.
    weight : Tensor, shape (site, pixel)
        Inverse variance of the pixels, zero beyond the image.
    mean, precision : Tensor, shape (site, 3)
        Prior of displacement along x and y from where the kernels stand, and of the relative
        excess of the amplitude.

    Returns
    -------
    log_prob : Tensor, shape (site, species)
        Up to a constant of the site.
    location : Tensor, shape (site, species, 3)
        Posterior mean of displacement and excess.
    factor : Tensor, shape (site, species, 3, 3)
        Cholesky factor of the posterior precision.
    """
    weighted = kernels * weight[:, None, None]
    gram = weighted @ kernels.mT
    dot = weighted @ rest[:, None, :, None]
    difference = dot[..., 0] - gram[..., 0]  # against what the column itself does not explain
    square = -2 * dot[:, :, 0, 0] + gram[:, :, 0, 0]
    order = torch.tensor([1, 2, 0])
    hessian = gram[..., order, :][..., order] + torch.diag_embed(precision)[:, None]
    gradient = difference[..., order] + (precision * mean)[:, None]
    factor = torch.linalg.cholesky(hessian)
    location = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    log_prob = -0.5 * square + 0.5 * (gradient * location).sum(-1)
    log_prob = log_prob - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return log_prob, location, factor


def allowed_species(kind: str) -> Tensor:
    """Species that a kind of site can hold."""
    return torch.tensor([i for i, s in enumerate(SPECIES) if s.site == kind])

"""What every site holds given everything else: likelihood of the pixels around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fourier import synthesize
from .field import Field, Material, frequencies

__all__ = ["SLOPES_FIRST", "Kernels", "site_conditional", "solve_upper"]

HALF = 3.0  # Å, half the width of the window around a site
ROOM = 10.0  # Å from the window to the periodic repetition of the column
SLOPES_FIRST = [1, 2, 0]  # displacement before amplitude
STEPS = 4  # positions in a pixel, along each side, at which kernels are tabulated


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
        """Tabulate the columns of every species.

        Parameters
        ----------
        field : Field
            Size of a pixel and band limit.
        values : dict of str to Tensor, shape (1,)
            Shared variables, see ``Coordinates.values``.
        material : Material
            Host and dopant.

        Returns
        -------
        Kernels
            In windows of ``HALF`` on each side.
        """
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
    mean : Tensor, shape (site, 3)
        Prior mean of the displacement along x and y from where the kernels stand, and of the
        relative excess of the amplitude.
    precision : Tensor, shape (site, component, 3)
        Prior precision of these under each component of a mixture.

    Returns
    -------
    log_prob : Tensor, shape (site, component, species)
        Up to a constant of the site.
    location : Tensor, shape (site, component, species, 3)
        Posterior mean of displacement and excess.
    factor : Tensor, shape (site, component, species, 6)
        Lower triangle of the Cholesky factor of the posterior precision, row by row.
    """
    weighted = kernels * weight[:, None, None]
    gram = weighted @ kernels.mT
    dot = (weighted @ rest[:, None, :, None])[..., 0]
    gradient = (dot - gram[..., 0])[:, :, SLOPES_FIRST]  # what the column does not explain itself
    square = gram[:, :, 0, 0] - 2 * dot[:, :, 0]
    hessian = gram[:, :, SLOPES_FIRST][..., SLOPES_FIRST]
    prior = precision[:, :, None]  # (site, component, 1, 3)
    gradient = gradient[:, None] + prior * mean[:, None, None]
    factor = _cholesky(hessian[:, None], prior)
    half = _solve_lower(factor, gradient)
    log_prob = 0.5 * (half.square().sum(-1) - square[:, None]) - factor[..., (0, 2, 5)].log().sum(
        -1
    )
    log_prob = log_prob + 0.5 * (prior.log() - prior * mean[:, None, None].square()).sum(-1)
    return log_prob, solve_upper(factor, half), factor


def _cholesky(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """Cholesky factor of 3 x 3 matrices plus a diagonal: in closed form, since they are many."""
    a = (matrix[..., 0, 0] + diagonal[..., 0]).sqrt()
    b, d = matrix[..., 1, 0] / a, matrix[..., 2, 0] / a
    c = (matrix[..., 1, 1] + diagonal[..., 1] - b.square()).sqrt()
    e = (matrix[..., 2, 1] - d * b) / c
    f = (matrix[..., 2, 2] + diagonal[..., 2] - d.square() - e.square()).sqrt()
    return torch.stack([a, b, c, d, e, f], -1)


def _solve_lower(factor: Tensor, vector: Tensor) -> Tensor:
    """Solve L x = v."""
    a, b, c, d, e, f = factor.unbind(-1)
    v = vector.unbind(-1)
    x = v[0] / a
    y = (v[1] - b * x) / c
    return torch.stack([x, y, (v[2] - d * x - e * y) / f], -1)


def solve_upper(factor: Tensor, vector: Tensor) -> Tensor:
    """Solve the transposed system of a Cholesky factor.

    Parameters
    ----------
    factor : Tensor, shape (*batch, 6)
        Lower triangle L of 3 x 3 matrices, row by row.
    vector : Tensor, shape (*batch, 3)
        Right-hand side v.

    Returns
    -------
    Tensor, shape (*batch, 3)
        x of L' x = v.
    """
    a, b, c, d, e, f = factor.unbind(-1)
    v = vector.unbind(-1)
    z = v[2] / f
    y = (v[1] - e * z) / c
    return torch.stack([(v[0] - b * y - d * z) / a, y, z], -1)

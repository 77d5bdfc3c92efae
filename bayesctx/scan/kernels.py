"""What every site holds given everything else: likelihood of the pixels around it.

The unknowns of a column are its displacement along x and y, and its relative excess on every
detector, in this order.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..raster import synthesize
from .field import Field, Material, frequencies

__all__ = ["STEPS", "Kernels", "gram_of_unknowns", "site_conditional", "solve_upper"]

HALF = 3.0  # Å, half the width of the window around a site
ROOM = 10.0  # Å from the window to the periodic repetition of the column
STEPS = 4  # positions in a pixel, along each side, at which kernels are tabulated


@dataclass(frozen=True, eq=False)
class Kernels:
    """Images of one column of every species in a small window.

    Attributes
    ----------
    values : Tensor, shape (step, detector, species, 3, pixel)
        Image, and its derivatives with respect to x and y of the column, for a signal of one; at
        ``STEPS`` positions in a pixel along y times as many along x.
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
        known = tuple((n, v.shape, tuple(v.flatten().tolist())) for n, v in values.items())
        return _tabulate(field, known, material)

    def locate(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the window of columns, and where they are in it.

        Parameters
        ----------
        place : Tensor, shape (site, 2)
            Position (x, y) of the columns in px.

        Returns
        -------
        base : Tensor of int, shape (site, 2)
            Pixel (x, y) at the middle of the window.
        step : Tensor of int, shape (site,)
            Position in a pixel that is tabulated.
        rest : Tensor, shape (site, 2)
            What is left of the position in Å.
        """
        base = place.round()
        within = place - base
        step = ((within + 0.5) * STEPS).floor().long().clamp(0, STEPS - 1)
        rest = (within - ((step + 0.5) / STEPS - 0.5)) * self.sampling
        return base.long(), step[:, 1] * STEPS + step[:, 0], rest

    def at(self, species: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels of single columns.

        Parameters
        ----------
        species : Tensor of int, shape (site,)
            Of every column.
        place : Tensor, shape (site, 2)
            Position (x, y) of the columns in px.

        Returns
        -------
        kernels : Tensor, shape (site, detector, 3, pixel)
            To first order in what is left of the position.
        base : Tensor of int, shape (site, 2)
            Pixel (x, y) at the middle of the window.
        """
        base, step, rest = self.locate(place)
        found = self.values[step, :, species]
        along_x, along_y = rest[:, None, None].unbind(-1)
        found[:, :, 0] += along_x * found[:, :, 1] + along_y * found[:, :, 2]
        return found, base


@functools.lru_cache(maxsize=2)  # every kind of draw of a round asks for those of one probe
def _tabulate(field: Field, known: tuple[tuple, ...], material: Material) -> Kernels:
    """Kernels at shared variables of which name, shape and numbers are given."""
    values = {n: torch.tensor(v, dtype=torch.float64).view(shape) for n, shape, v in known}
    s = field.sampling
    half = math.ceil(HALF / s)
    cell = (2 * half * s + 2 * ROOM,) * 2
    num_modes = tuple(math.ceil(m * cell[i] / field.cell[i]) for i, m in enumerate(field.num_modes))
    spectra = field.spectra(values, material, cell, num_modes)[0]  # of every detector
    qx, qy = frequencies(cell, num_modes)
    # d/du of K(r - u)
    along = [spectra, spectra * (-2j * math.pi * qx), spectra * (-2j * math.pi * qy)[:, None]]
    offset = (torch.arange(STEPS) + 0.5) / STEPS - 0.5
    axis = ((torch.arange(-half, half + 1) - offset[:, None]) * s).flatten()  # step, pixel
    found = synthesize(torch.stack(along, 2), axis, axis, cell=cell)
    found = found.unflatten(-1, (STEPS, -1)).unflatten(-3, (STEPS, -1)).transpose(-3, -2)
    steps = found.flatten(-2).flatten(-3, -2).movedim(-2, 0)
    return Kernels(steps.contiguous(), half, s)


def gram_of_unknowns(gram: Tensor) -> Tensor:
    """Products of the slopes of an image with what is unknown of a column.

    Parameters
    ----------
    gram : Tensor, shape (site, detector, *batch, 3, 3)
        On every detector, of its value and its derivatives along x and y.

    Returns
    -------
    Tensor, shape (site, *batch, unknown, unknown)
        The displacement is that on all detectors; of an excess only its own detector knows.
    """
    num = gram.shape[1]
    found = gram.new_zeros(len(gram), *gram.shape[2:-2], 2 + num, 2 + num)
    found[..., :2, :2] = gram[..., 1:, 1:].sum(1)
    for k, own in enumerate(gram.unbind(1), 2):
        found[..., k, :2] = found[..., :2, k] = own[..., 0, 1:]
        found[..., k, k] = own[..., 0, 0]
    return found


def site_conditional(
    gram: Tensor, dot: Tensor, mean: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihood of the species of sites, displacement and amplitude integrated out.

    Parameters
    ----------
    gram : Tensor, shape (site, detector, species, 3, 3)
        Products of the value of the column and of its derivatives along x and y with each other,
        summed over pixels with their inverse variance.
    dot : Tensor, shape (site, detector, species, 3)
        Products of these with the image without the column of the site.
    mean : Tensor, shape (site, unknown)
        Prior mean of the displacement along x and y from where the kernels stand, and of the
        relative excess of the amplitude on each detector.
    precision : Tensor, shape (site, component, unknown, unknown)
        Prior precision of these under each component of a mixture.

    Returns
    -------
    log_prob : Tensor, shape (site, component, species)
        Up to a constant of the site.
    location : Tensor, shape (site, component, species, unknown)
        Posterior mean of displacement and excess.
    factor : Tensor, shape (site, component, species, element)
        Lower triangle of the Cholesky factor of the posterior precision, row by row.
    """
    pull = dot - gram[..., 0]  # what the column does not explain itself
    gradient = torch.cat([pull[..., 1:].sum(1), pull[..., 0].movedim(1, -1)], -1)
    square = (gram[..., 0, 0] - 2 * dot[..., 0]).sum(1)
    held = (precision @ mean[:, None, :, None])[..., 0]  # (site, component, unknown)
    gradient = gradient[:, None] + held[:, :, None]
    factor = _cholesky(gram_of_unknowns(gram)[:, None] + precision[:, :, None])
    half = _solve_lower(factor, gradient)
    log_prob = 0.5 * (half.square().sum(-1) - square[:, None]) - _log_volume(factor)
    before = _log_volume(_cholesky(precision)) - 0.5 * (held * mean[:, None]).sum(-1)
    return log_prob + before[..., None], solve_upper(factor, half), factor


def _place(row: int, column: int) -> int:
    """Position of an element of a lower triangle."""
    return row * (row + 1) // 2 + column


def _log_volume(factor: Tensor) -> Tensor:
    """Half the log determinant of a matrix, from its Cholesky factor."""
    size = math.isqrt(2 * factor.shape[-1])
    return factor[..., [_place(i, i) for i in range(size)]].log().sum(-1)


def _cholesky(matrix: Tensor) -> Tensor:
    """Cholesky factor of small matrices: element by element, as they are many."""
    found = []
    for i in range(matrix.shape[-1]):
        for j in range(i + 1):
            value = matrix[..., i, j]
            for k in range(j):
                value = value - found[_place(i, k)] * found[_place(j, k)]
            found.append(value.sqrt() if i == j else value / found[_place(j, j)])
    return torch.stack(found, -1)


def _solve_lower(factor: Tensor, vector: Tensor) -> Tensor:
    """Solve L x = v."""
    elements, found = factor.unbind(-1), []
    for i, value in enumerate(vector.unbind(-1)):
        for k, known in enumerate(found):
            value = value - elements[_place(i, k)] * known
        found.append(value / elements[_place(i, i)])
    return torch.stack(found, -1)


def solve_upper(factor: Tensor, vector: Tensor) -> Tensor:
    """Solve the transposed system of a Cholesky factor.

    Parameters
    ----------
    factor : Tensor, shape (*batch, element)
        Lower triangle L of small matrices, row by row.
    vector : Tensor, shape (*batch, unknown)
        Right-hand side v.

    Returns
    -------
    Tensor, shape (*batch, unknown)
        x of L' x = v.
    """
    elements, found = factor.unbind(-1), list(vector.unbind(-1))
    for i in reversed(range(len(found))):
        for k in range(i + 1, len(found)):
            found[i] = found[i] - elements[_place(k, i)] * found[k]
        found[i] = found[i] / elements[_place(i, i)]
    return torch.stack(found, -1)

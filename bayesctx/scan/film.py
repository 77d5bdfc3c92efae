"""What varies smoothly over a window of a scan: film under the columns, and their brightness."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

__all__ = ["Film"]

DEGREE = 3
PLANE_SIZE = 10.0  # root mean square of a film that is a plane, in units of the image


@dataclass(frozen=True, eq=False)
class Film:
    """Products of cubic splines along both axes.

    Attributes
    ----------
    half : tuple of float
        Half of the extent along (x, y) in Å; beyond it splines are continued by their value there.
    number : tuple of int
        Splines along (x, y).
    along_y, along_x : Tensor, shapes (y, spline) and (x, spline)
        Splines at the pixels.
    """

    half: tuple[float, float]
    number: tuple[int, int]
    along_y: Tensor
    along_x: Tensor

    @classmethod
    def of(cls, axes: tuple[Tensor, Tensor], distance: float) -> Film:
        """Splines over some pixels.

        Parameters
        ----------
        axes : tuple of Tensor, shapes (x,) and (y,)
            Positions of the pixels in Å from the centre.
        distance : float
            Of the knots in Å, at most.

        Returns
        -------
        Film
            With as many splines as that takes.
        """
        half = tuple(float(a.abs().max()) for a in axes)
        number = tuple(math.ceil(2 * h / distance) + DEGREE for h in half)
        along = [_splines(a, h, n) for a, h, n in zip(axes, half, number, strict=True)]
        return cls(half, number, along[1], along[0])

    @property
    def num_terms(self) -> int:
        """Number of products."""
        return math.prod(self.number)

    @functools.cached_property
    def planes(self) -> Tensor:
        """Orthonormal coefficients of films that are planes, shape (term, 3)."""
        y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in reversed(self.number))
        y, x = torch.cartesian_prod(y, x).T
        found = torch.stack([torch.ones_like(x), x, y], -1)
        return found / found.norm(dim=0)

    @functools.cached_property
    def rough(self) -> Tensor:
        """Projection of coefficients on what is no plane, shape (term, term)."""
        return torch.eye(self.num_terms, dtype=torch.float64) - self.planes @ self.planes.mT

    def precision(self, size: Tensor) -> Tensor:
        """Prior precision of the coefficients.

        Parameters
        ----------
        size : Tensor, shape (*batch,)
            Standard deviation of what is no plane; a plane may be anything, see ``PLANE_SIZE``.

        Returns
        -------
        Tensor, shape (*batch, term, term)
            Double precision.
        """
        plane = self.planes @ self.planes.mT / (self.num_terms * PLANE_SIZE**2)
        return size.double()[..., None, None] ** -2 * self.rough + plane

    def log_volume(self, size: Tensor) -> Tensor:
        """Half the log of the determinant of ``precision``.

        Parameters
        ----------
        size : Tensor, shape (*batch,)
            As there.

        Returns
        -------
        Tensor, shape (*batch,)
            Double precision.
        """
        num = self.planes.shape[1]
        of_planes = num * math.log(self.num_terms**0.5 * PLANE_SIZE)
        return -(self.num_terms - num) * size.double().log() - of_planes

    def images(self, coefficients: Tensor) -> Tensor:
        """Films at the pixels.

        Parameters
        ----------
        coefficients : Tensor, shape (*batch, term)
            Of the products.

        Returns
        -------
        Tensor, shape (*batch, y, x)
            Their sum, in the precision of the coefficients.
        """
        grid = coefficients.unflatten(-1, self.number[::-1])
        return self.along_y.to(grid) @ grid @ self.along_x.mT.to(grid)

    def products(self, image: Tensor) -> Tensor:
        """Sums over the pixels of an image times every product.

        Parameters
        ----------
        image : Tensor, shape (*batch, y, x)
            Any.

        Returns
        -------
        Tensor, shape (*batch, term)
            In its precision.
        """
        return (self.along_y.mT.to(image) @ image @ self.along_x.to(image)).flatten(-2)

    def gram(self, weight: Tensor) -> Tensor:
        """Sums over the pixels of a weight times every pair of products.

        Parameters
        ----------
        weight : Tensor, shape (*batch, y, x)
            Of the pixels.

        Returns
        -------
        Tensor, shape (*batch, term, term)
            Symmetric.
        """
        y, x = self.along_y.to(weight), self.along_x.to(weight)
        pairs_y, pairs_x = ((v[:, :, None] * v[:, None]).flatten(1) for v in (y, x))
        found = pairs_y.mT @ weight @ pairs_x
        (nx, ny), batch = self.number, found.shape[:-2]
        found = found.view(*batch, ny, ny, nx, nx).transpose(-3, -2)
        return found.reshape(*batch, self.num_terms, self.num_terms)

    def at(self, positions: Tensor) -> Tensor:
        """Products at some places.

        Parameters
        ----------
        positions : Tensor, shape (place, 2)
            (x, y) in Å from the centre.

        Returns
        -------
        Tensor, shape (place, term)
            Single precision.
        """
        x, y = (
            _splines(p, h, n)
            for p, h, n in zip(positions.unbind(-1), self.half, self.number, strict=True)
        )
        return (y[:, :, None] * x[:, None]).flatten(1)


def _splines(places: Tensor, half: float, number: int) -> Tensor:
    """Values of equidistant cubic B-splines, which add up to one, shape (place, spline)."""
    step = 2 * half / (number - DEGREE)
    knots = -half + step * np.arange(-DEGREE, number + 1)
    inside = places.double().clamp(-half, half).numpy()
    return torch.from_numpy(BSpline.design_matrix(inside, knots, DEGREE).toarray()).float()

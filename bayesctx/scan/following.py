"""Linear maps from shared variables and drift to everything that follows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .conditional import covariance_of_excess
from .world import World

__all__ = ["FIRST_SIZE", "Joint", "averaged", "heated", "principal", "taken_by_excess"]

FIRST_SIZE = 0.3  # of the steps


@dataclass(frozen=True, eq=False)
class Joint:
    """A linear map from shared variables and drift to everything that follows them.

    Attributes
    ----------
    factor : Tensor, shape (parameter, direction)
        Principal directions of a Gaussian approximation of the posterior, one standard deviation
        long. Parameters are the coordinates without the common displacement, then the coefficients
        of the drift along x and y.
    own : Tensor, shape (site, 2, parameter)
        Slopes of the displacement of every column from the mean displacement, in Å.
    excess : Tensor, shape (site, detector, parameter)
        Slopes of the relative excess of its amplitudes, for a scatter without bounds; see
        ``excess_slopes``.
    known : Tensor, shape (site, detector)
        What the pixels say of the excess: its precision.
    rows : Tensor, shape (row, 3, parameter)
        Slopes of the displacement of the scan rows, see ``World``.
    signal : Tensor, shape (parameter, detector)
        Relative slopes of the signal.
    size : float
        Of the steps, in standard deviations.
    """

    factor: Tensor
    own: Tensor
    excess: Tensor
    known: Tensor
    rows: Tensor
    signal: Tensor
    size: float = FIRST_SIZE

    def excess_slopes(self, world: World) -> Tensor:
        """Slopes of the relative excess under the scatter of a world.

        Parameters
        ----------
        world : World
            Of the scan. Under a small scatter amplitudes can follow less.

        Returns
        -------
        Tensor, shape (site, detector, parameter)
            By parameter.
        """
        return taken_by_excess(world, self.known)[..., None] * self.excess

    @property
    def log_volume(self) -> float:
        """Log of the volume of one standard deviation along all directions."""
        return float(torch.linalg.slogdet(self.factor)[1])

    @property
    def hessian(self) -> Tensor:
        """Precision of the Gaussian approximation, shape (parameter, parameter)."""
        inverse = torch.linalg.inv(self.factor)
        return inverse.mT @ inverse


def averaged(joint: Joint, hessians: Sequence[Tensor]) -> Joint:
    """Set the directions to those between the mean of some precisions and that of some covariances.

    Parameters
    ----------
    joint : Joint
        Says how sites and rows follow.
    hessians : sequence of Tensor, shape (parameter, parameter)
        Where the posterior is not Gaussian, those of several worlds.

    Returns
    -------
    Joint
        Whose steps suit all of these worlds.

    Notes
    -----
    Where a posterior is thin and bent, a direction that is wide in one world is narrow in another.
    The mean precision makes it narrow, so that trajectories do not get far along the bend; the mean
    covariance makes it as wide as all draws are, and trajectories leave the bend. The geometric
    mean of the two covariances lies halfway (Bhatia, Positive Definite Matrices (2007), chapter 4).
    """
    narrow, _ = principal(sum(hessians) / len(hessians))
    wide = sum(torch.linalg.inv(hessian) for hessian in hessians) / len(hessians)
    inverse = torch.linalg.inv(narrow)
    ratio, turn = torch.linalg.eigh(inverse @ wide @ inverse.mT)
    return replace(joint, factor=narrow @ turn * ratio**0.25)


def heated(joint: Joint, factor: float) -> Joint:
    """Change the directions to those under another variance of the noise.

    Parameters
    ----------
    joint : Joint
        Under one variance.
    factor : float
        Of the variance.

    Returns
    -------
    Joint
        What the image says of a direction is divided by the factor, the prior stays.
    """
    width = joint.factor.norm(dim=0)
    by_image = (width**-2 - 1).clamp(min=0.0)
    return replace(joint, factor=joint.factor / (width * (1 + by_image / factor).sqrt()))


def principal(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Principal directions of a precision.

    Parameters
    ----------
    hessian : Tensor, shape (parameter, parameter)
        Symmetric and positive.

    Returns
    -------
    factor : Tensor, shape (parameter, direction)
        One standard deviation long.
    precision : Tensor, shape (direction,)
        Along them.
    """
    precision, vectors = torch.linalg.eigh(hessian)
    return vectors * precision.rsqrt(), precision


def taken_by_excess(world: World, known: Tensor) -> Tensor:
    """The part of a misfit of the amplitude that the excess takes.

    Parameters
    ----------
    world : World
        Gives the scatter.
    known : Tensor, shape (site, detector)
        What the pixels say of the excess: its precision.

    Returns
    -------
    Tensor, shape (site, detector)
        Between 0 and 1.
    """
    variance = covariance_of_excess(world.scatter, world.is_coarse).diagonal(dim1=-2, dim2=-1)
    return variance * known / (1 + variance * known)

"""What proposals are made by, which stays as it is while the posterior is sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..scan import Scan, World
from ..scan.following import Joint
from ..scan.noise import LEAST_SLOPE, WEAK_FLOOR, WEAK_SLOPE
from ..scan.view import View, look, variance_of

__all__ = ["Tuning"]

NO_WEIGHT = 1e-20  # of a pixel that is not valid


@dataclass(frozen=True, eq=False)
class Tuning:
    """What proposals are made by.

    Attributes
    ----------
    expected : Tensor, shape (detector, y, x)
        Intensities by which the variance of the noise is taken.
    signal : Tensor, shape (detector,)
        By which errors of additivity are scaled on a trajectory.
    noise : Tensor, shape (detector, 2, 2)
        Cholesky factors of a covariance of floor and logarithm of the slope of the noise.
    near : Joint
        Directions and size of the steps of trajectories, and what follows the shared variables.
    power : float
        Of the density of the pixels, see ``Target``.

    Notes
    -----
    Nothing of it depends on the world that a transition begins at, so that a proposal and the way
    back are made by the same numbers. It decides how many proposals are taken, not what the draws
    are of.
    """

    expected: Tensor
    signal: Tensor
    noise: Tensor
    near: Joint
    power: float = 1.0

    @classmethod
    def of(cls, scan: Scan, world: World, near: Joint, power: float = 1.0) -> Tuning:
        """Tune to a world.

        Parameters
        ----------
        scan : Scan
            The scan.
        world : World
            Such as one draw of the posterior.
        near : Joint
            Linearised at such worlds.
        power : float
            Of the density of the pixels.

        Returns
        -------
        Tuning
            For worlds around this one.
        """
        view = look(scan, world)
        noise = torch.stack([_noise_around(scan, world, view, k) for k in range(len(scan.image))])
        return cls(view.expected, world.signal, noise / power**0.5, near, power)

    def see(self, scan: Scan, world: World, shared: tuple | None = None) -> View:
        """View of a world with the variance that proposals are made by.

        Parameters
        ----------
        scan : Scan
            The scan.
        world : World
            Its noise counts, its expected intensities do not.
        shared : tuple, optional
            ``spectra_of`` its coordinates, if known.

        Returns
        -------
        View
            The variance is over the power.
        """
        return replace(look(scan, world, shared), variance=self.variance(scan, world))

    def variance(self, scan: Scan, world: World, expected: Tensor | None = None) -> Tensor:
        """Variance that proposals are made by.

        Parameters
        ----------
        scan : Scan
            The scan.
        world : World
            Gives the noise.
        expected : Tensor, shape (detector, y, x), optional
            Intensities; default: those of the tuning.

        Returns
        -------
        Tensor, shape (detector, y, x)
            Infinite where a pixel is not valid.
        """
        expected = self.expected if expected is None else expected
        return variance_of(scan, expected, world.floor, world.slope) / self.power

    def pixels_around(self, scan: Scan, world: World, expected: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels whose normal density is nearly that of the image around an expectation.

        Parameters
        ----------
        scan : Scan
            Gives the image.
        world : World
            Gives the noise.
        expected : Tensor, shape (detector, y, x)
            Intensities.

        Returns
        -------
        image, variance : Tensor, shape (detector, y, x)
            Of pixels with a variance that stays, for one step of Fisher's scoring: the variance
            of few electrons tells of them too. Large where a pixel is not valid.
        """
        variance, slope = self.variance(scan, world, expected), world.slope[:, None, None]
        rest = scan.image - expected
        weight = 1 / variance + 0.5 * (slope / variance).square() / self.power
        score = (rest / variance).square() / self.power - 1 / variance
        score = rest / variance + 0.5 * slope * score
        weight = weight.clamp(min=NO_WEIGHT)
        return expected + score / weight, 1 / weight


def _noise_around(scan: Scan, world: World, view: View, k: int) -> Tensor:
    """Cholesky factor of the covariance of floor and log slope of the noise of a detector."""
    mean = scan.seen(view.expected[k])
    slope = max(float(world.slope[k]), LEAST_SLOPE)
    change = torch.stack([torch.ones_like(mean), slope * mean]) / scan.seen(view.variance[k])
    information = 0.5 * change @ change.T + torch.diag(change.new_tensor([WEAK_FLOOR, WEAK_SLOPE]))
    return torch.linalg.cholesky(torch.linalg.inv(information))

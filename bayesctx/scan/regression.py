"""Linear regression of the images of a scan on columns and film."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .film import Film
from .world import Scan

__all__ = ["Equations", "Regression"]

TRIES = 20  # to draw a signal that is positive


@dataclass(frozen=True, eq=False)
class Regression:
    """Gaussian posterior of amplitudes and film.

    Attributes
    ----------
    evidence : Tensor, shape ()
        Log of the density of the images with these summed out, up to a constant.
    mean : Tensor, shape (detector, parameter)
        Amplitudes, then coefficients of the film; double precision.
    factor : Tensor, shape (detector, parameter, parameter)
        Cholesky factors of the precision.
    equations : Equations
        What was solved.
    """

    evidence: Tensor
    mean: Tensor
    factor: Tensor
    equations: Equations

    @property
    def expected(self) -> Tensor:
        """The images at the mean, shape (detector, y, x)."""
        columns, film = self.equations.columns, self.equations.film
        amplitudes, coefficients = self.mean.tensor_split([columns.shape[1]], -1)
        images = torch.einsum("dk,dkyx->dyx", amplitudes, columns) + film.images(coefficients)
        return images.float()

    @property
    def signal(self) -> Tensor:
        """Mean of the first amplitude, shape (detector,)."""
        return self.mean[:, 0].float()

    @property
    def size_of_signal(self) -> Tensor:
        """Root of the mean square of the first amplitude, shape (detector,): it is positive."""
        first = torch.zeros_like(self.mean)[..., None]
        first[:, 0] = 1.0
        white = torch.linalg.solve_triangular(self.factor, first, upper=False)
        variance = white.square().sum((-1, -2))
        return (self.mean[:, 0].square() + variance).sqrt().float()

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """Draw amplitudes and film, of which the signal is positive.

        Parameters
        ----------
        generator : torch.Generator or None
            Source of randomness; None takes the mean.

        Returns
        -------
        Tensor, shape (detector, parameter)
            As the mean.
        """
        for _ in range(TRIES if generator else 0):
            noise = torch.randn(*self.mean.shape, 1, generator=generator, dtype=torch.float64)
            change = torch.linalg.solve_triangular(self.factor.mT, noise, upper=True)[..., 0]
            drawn = self.mean + change
            if bool((drawn[:, 0] > 0).all()):
                return drawn
        # where the image is darker at columns, something small
        signal = self.mean[:, 0].where(self.mean[:, 0] > 0, self.size_of_signal.double())
        return torch.cat([signal[:, None], self.mean[:, 1:]], -1)

    def log_evidence(self, part: slice, projection: Tensor, now: Tensor, sizes: Tensor) -> Tensor:
        """Log evidence under other sizes of some parameters, with all parameters summed out.

        Parameters
        ----------
        part : slice
            Of the parameters, whose projection has a normal prior of one size.
        projection : Tensor, shape (parameter, parameter)
            Of these.
        now : Tensor, shape (detector, 1)
            Size at which this was fitted.
        sizes : Tensor, shape (detector, size)
            Others.

        Returns
        -------
        Tensor, shape (detector, size)
            Up to a constant.
        """
        covariance = torch.cholesky_inverse(self.factor)[:, part, part]
        root = torch.linalg.cholesky(covariance)
        # shares of the precision that the prior at the present size has along each direction
        share, turn = torch.linalg.eigh(root.mT @ projection @ root / now[..., None] ** 2)
        share = share.clamp(0, 1)[:, None]
        white = torch.linalg.solve_triangular(root, self.mean[:, part, None], upper=False)
        white = (turn.mT @ white)[..., 0][:, None]
        ratio = (now / sizes)[..., None]
        change = 1 - share + share * ratio**2  # of the precision
        log_evidence = white.square() / change - change.log()
        return 0.5 * log_evidence.sum(-1) + projection.trace() * ratio[..., 0].log()


@dataclass(frozen=True, eq=False)
class Equations:
    """Normal equations of some columns and the film, of which their priors are no part.

    Attributes
    ----------
    columns : Tensor, shape (detector, column, y, x)
        Images that are summed with some amplitudes.
    film : Film
        The film.
    gram : Tensor, shape (detector, parameter, parameter)
        Products of columns and film over the variance; double precision.
    dot : Tensor, shape (detector, parameter)
        Their products with the images.
    """

    columns: Tensor
    film: Film
    gram: Tensor
    dot: Tensor

    @classmethod
    def of(cls, scan: Scan, columns: Tensor, variance: Tensor) -> Equations:
        """The equations of a scan.

        Parameters
        ----------
        scan : Scan
            Gives the images and the film.
        columns : Tensor, shape (detector, column, y, x)
            Images that are summed.
        variance : Tensor, shape (detector, y, x)
            Of the noise.

        Returns
        -------
        Equations
            Of both.
        """
        film, columns, weight = scan.film, columns.double(), (1 / variance).double()
        weighted, seen = columns * weight[:, None], weight * scan.image
        cross, own = film.products(weighted), film.gram(weight)
        gram = torch.cat([weighted.flatten(2) @ columns.flatten(2).mT, cross], -1)
        gram = torch.cat([gram, torch.cat([cross.mT, own], -1)], -2)
        dot = (weighted.flatten(2) @ scan.image.flatten(1)[..., None].double())[..., 0]
        return cls(columns, film, gram, torch.cat([dot, film.products(seen)], -1))

    def solve(self, precision: Tensor, film_size: Tensor) -> Regression:
        """Fit amplitudes and film.

        Parameters
        ----------
        precision : Tensor, shape (detector, column)
            Of the prior of the amplitudes, the mean of which is zero.
        film_size : Tensor, shape (detector,)
            Of the prior of the film.

        Returns
        -------
        Regression
            Of both.
        """
        num, film = self.columns.shape[1], self.film
        pad, prior = torch.nn.functional.pad, torch.diag_embed(precision.double())
        known = pad(prior, (0, film.num_terms) * 2)
        known = known + pad(film.precision(film_size), (num, 0) * 2)
        factor = torch.linalg.cholesky(self.gram + known)
        mean = torch.cholesky_solve(self.dot[..., None], factor)[..., 0]
        evidence = 0.5 * (self.dot * mean).sum() - factor.diagonal(dim1=-2, dim2=-1).log().sum()
        evidence = evidence + 0.5 * precision.double().log().sum()
        return Regression(evidence + film.log_volume(film_size).sum(), mean, factor, self)

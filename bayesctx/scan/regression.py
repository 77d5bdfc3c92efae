"""Linear regression of the images of a scan on columns and film."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .world import Scan

__all__ = ["Regression", "regress"]


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
    expected : Tensor, shape (detector, y, x)
        The images at the mean.
    """

    evidence: Tensor
    mean: Tensor
    factor: Tensor
    expected: Tensor

    @property
    def signal(self) -> Tensor:
        """Mean of the first amplitude, shape (detector,)."""
        return self.mean[:, 0].float()

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw amplitudes and film.

        Parameters
        ----------
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor, shape (detector, parameter)
            As the mean.
        """
        noise = torch.randn(*self.mean.shape, 1, generator=generator, dtype=torch.float64)
        return self.mean + torch.linalg.solve_triangular(self.factor.mT, noise, upper=True)[..., 0]

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


def regress(
    scan: Scan, columns: Tensor, precision: Tensor, film_size: Tensor, variance: Tensor
) -> Regression:
    """Fit what the images are linear in: some columns, and the film.

    Parameters
    ----------
    scan : Scan
        Gives the images and the film.
    columns : Tensor, shape (detector, column, y, x)
        Images that are summed with some amplitudes.
    precision : Tensor, shape (detector, column)
        Of the prior of the amplitudes, the mean of which is zero.
    film_size : Tensor, shape (detector,)
        Of the prior of the film.
    variance : Tensor, shape (detector, y, x)
        Of the noise.

    Returns
    -------
    Regression
        Of both.
    """
    film, columns, weight = scan.film, columns.double(), (1 / variance).double()
    num = columns.shape[1]
    weighted, seen = columns * weight[:, None], weight * scan.image
    cross, own = film.products(weighted), film.gram(weight)
    gram = torch.cat([weighted.flatten(2) @ columns.flatten(2).mT, cross], -1)
    gram = torch.cat([gram, torch.cat([cross.mT, own], -1)], -2)
    dot = (weighted.flatten(2) @ scan.image.flatten(1)[..., None].double())[..., 0]
    dot = torch.cat([dot, film.products(seen)], -1)
    pad, prior = torch.nn.functional.pad, torch.diag_embed(precision.double())
    of_film = pad(film.precision(film_size), (num, 0, num, 0))
    rest = film.num_terms
    factor = torch.linalg.cholesky(gram + pad(prior, (0, rest, 0, rest)) + of_film)
    mean = torch.cholesky_solve(dot[..., None], factor)[..., 0]
    evidence = 0.5 * (dot * mean).sum() - factor.diagonal(dim1=-2, dim2=-1).log().sum()
    evidence = evidence + 0.5 * precision.double().log().sum() + film.log_volume(film_size).sum()
    amplitudes, coefficients = mean.tensor_split([num], -1)
    expected = torch.einsum("dk,dkyx->dyx", amplitudes, columns) + film.images(coefficients)
    return Regression(evidence, mean, factor, expected.float())

"""Scatter of the amplitudes, drawn with the excess of all columns summed out, and these given it.

Given the excess of some hundred columns their scatter is known to a few per cent, and given the
image alone within a factor of two: steps of one after the other would take a hundred rounds.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from scipy import sparse
from torch import Tensor

from .canvas import Canvas
from .conditional import covariance_of_excess
from .kernels import Kernels
from .signal import accepts
from .view import View, look
from .world import Scan, World

__all__ = ["draw_amplitudes"]

STEPS = 0.3, 1.0  # standard deviations of steps of the logarithm of the scatter


@dataclass(frozen=True, eq=False)
class _Quadratic:
    """Log likelihood of the excess beside its mean, quadratic as the image is linear in it.

    Attributes
    ----------
    gram : Tensor, shape (site, detector, site, detector)
        Its precision.
    pull : Tensor, shape (site, detector)
        Its slope where no column has any.
    """

    gram: Tensor
    pull: Tensor

    @classmethod
    def of(cls, scan: Scan, world: World, view: View, sites: Tensor, excess: Tensor) -> _Quadratic:
        """Around a world, in which some sites have some excess beside its mean."""
        kernels = Kernels.of(scan.field, view.values, scan.material)
        canvas = Canvas.of(scan, world, view, kernels.half)
        columns, index = canvas.slopes(scan, world, kernels, sites)
        ends = torch.arange(len(sites) + 1) * index.shape[1]
        gram = torch.zeros(*excess.shape, *excess.shape, dtype=torch.float64)
        pull = torch.zeros_like(excess)
        for d, (rest, weight) in enumerate(zip(canvas.rest, canvas.weight, strict=True)):
            values = columns[:, d, 0].double().flatten().numpy()
            design = sparse.csr_matrix((values, index.flatten(), ends), (len(sites), len(rest)))
            weighted = design.multiply(weight.double().numpy()).tocsr()
            gram[:, d, :, d] = torch.from_numpy((weighted @ design.T).toarray())
            pull[:, d] = torch.from_numpy(weighted @ rest.double().numpy())
        return cls(gram, pull + torch.tensordot(gram, excess))

    def log_likelihood(self, excess: Tensor) -> float:
        """Of some excess beside its mean, up to a constant."""
        return float((excess * (self.pull - 0.5 * torch.tensordot(self.gram, excess))).sum())

    def posterior(self, covariance: Tensor) -> _Posterior:
        """Given a prior covariance, shape (site, detector, detector)."""
        root = torch.linalg.cholesky(covariance)
        gram = torch.einsum("iab,iajc,jcd->ibjd", root, self.gram, root)
        size = self.pull.numel()
        gram = gram.reshape(size, size) + torch.eye(size, dtype=torch.float64)
        factor = torch.linalg.cholesky(gram)
        pull = torch.einsum("iab,ia->ib", root, self.pull).reshape(-1, 1)
        return _Posterior(root, factor, torch.linalg.solve_triangular(factor, pull, upper=False))


@dataclass(frozen=True, eq=False)
class _Posterior:
    """Gaussian posterior of the excess, in units in which its prior is standard normal.

    Attributes
    ----------
    root : Tensor, shape (site, detector, detector)
        Roots of the prior covariance.
    factor : Tensor, shape (unknown, unknown)
        Of the precision.
    white : Tensor, shape (unknown, 1)
        The mean in units of the posterior.
    """

    root: Tensor
    factor: Tensor
    white: Tensor

    @property
    def log_evidence(self) -> float:
        """With the excess summed out, up to a constant."""
        return float(0.5 * self.white.square().sum() - self.factor.diagonal().log().sum())

    def draw(self, generator: torch.Generator) -> Tensor:
        """Excess beside its mean, shape (site, detector)."""
        noise = torch.randn(self.white.shape, generator=generator, dtype=torch.float64)
        drawn = torch.linalg.solve_triangular(self.factor.mT, self.white + noise, upper=True)
        return torch.einsum("iab,ib->ia", self.root, drawn.view(self.root.shape[:2]))


def draw_amplitudes(
    scan: Scan, world: World, view: View, generator: torch.Generator
) -> tuple[World, View]:
    """Draw the scatter of the amplitudes on every detector, and the excess of every column.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world, view : World, View
        With the new values, or as they were: kernels end at their windows, so that a draw is taken
        by the ratio of the density of the whole image to theirs.
    """
    sites, mean = scan.updated.nonzero()[:, 0], scan.mean_excess(world.tone)
    now = (world.excess - mean)[sites].double()
    image = _Quadratic.of(scan, world, view, sites, now)

    def given(scatter: Tensor) -> _Posterior:
        is_coarse = world.is_coarse[sites]
        return image.posterior(covariance_of_excess(scatter.double(), is_coarse))

    prior, scatter = scan.coordinates.scale_priors["scatter"], world.scatter
    posterior = given(scatter)
    steps = list(itertools.product(range(len(scatter)), STEPS))
    if torch.rand(1, generator=generator) < 0.5:  # in either order, so that they are reversible
        steps.reverse()
    for k, size in steps:
        value, log_ratio = prior.step(float(scatter[k]), size, generator)
        if value == float(scatter[k]) or not log_ratio > -math.inf:
            continue
        other = scatter.index_fill(0, torch.tensor(k), value)
        there = given(other)
        if accepts(log_ratio + there.log_evidence - posterior.log_evidence, generator):
            scatter, posterior = other, there
    drawn = posterior.draw(generator)
    excess = world.excess.index_copy(0, sites, mean[sites] + drawn.float())
    other = replace(world, scatter=scatter, excess=excess)
    seen = look(scan, other, (view.values, view.spectra))
    log_ratio = _log_likelihood(scan, seen, view) - _log_likelihood(scan, view, view)
    log_ratio += image.log_likelihood(now) - image.log_likelihood(drawn)
    return (other, seen) if accepts(log_ratio, generator) else (world, view)


def _log_likelihood(scan: Scan, seen: View, view: View) -> float:
    """Of what is expected, at the variance of another view, up to a constant."""
    return -0.5 * float(((scan.image - seen.expected).square() / view.variance).double().sum())

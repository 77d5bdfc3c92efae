"""Priors of the scales that rows, columns and species of a scan share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import quantile
from ..evidence import Truncated, truncate
from ..nuisances import DOMAINS

__all__ = ["LEAST", "PER_DETECTOR", "SCATTER_SCALE", "ScalePrior", "scale_priors"]

NUM_NODES = 1024
NEGLIGIBLE = 0.02  # mass above the least value, of a distribution that is taken as this value
LEAST = 1e-3  # Å or relative: no image shows less, and a scale of zero has no finite precision
LEAST_SLANT = 1e-5  # the same
SCATTER_SCALE = 0.03  # of the half-normal prior of the scatter of amplitudes
LARGEST_SCATTER = 1.0
ACROSS = 0.1  # Å, of the half-normal prior of the jitter of rows across them
SLANT, LARGEST_SLANT = 0.005, 0.1  # scale of the half-normal prior of their slant
FILM_SCALE = 0.5  # of the half-normal prior of the size of the film, in units of the image
LARGEST_FILM = 5.0
PER_DETECTOR = "scatter", "film_size"
"""Scales of which every detector has its own."""
NUISANCE_OF = {"jitter": "line_jitter", "disorder": "disorder", "additivity": "additivity"}


@dataclass(frozen=True, eq=False)
class ScalePrior:
    """Prior of a standard deviation.

    Attributes
    ----------
    law : Distribution
        The prior: a density, or the points of a number or of candidates.
    nodes : Tensor, shape (node,)
        Values in double precision: these points, or values that are even in their logarithm.
    log_weight : Tensor, shape (node,)
        Log prior probability of the nodes, up to a constant.
    """

    law: dist.TorchDistribution
    nodes: Tensor
    log_weight: Tensor

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return bool((self.nodes != self.nodes[0]).any())

    def draw(
        self, log_likelihood: Tensor | float, generator: torch.Generator, num: int = 1
    ) -> Tensor:
        """Draw nodes.

        Parameters
        ----------
        log_likelihood : Tensor, shape (node,), or float
            Up to a constant; a number draws from the prior.
        generator : torch.Generator
            Source of randomness.
        num : int
            Independent draws.

        Returns
        -------
        Tensor, shape (num,)
            Double precision.
        """
        cumulative = (self.log_weight + log_likelihood).softmax(0).cumsum(0)
        u = torch.rand(num, generator=generator, dtype=torch.float64) * cumulative[-1]
        found = torch.searchsorted(cumulative, u, right=True)
        return self.nodes[found.clamp(max=len(self.nodes) - 1)]

    def step(self, value: float, size: float, generator: torch.Generator) -> tuple[float, float]:
        """Propose another value, of candidates any of them.

        Parameters
        ----------
        value : float
            Where.
        size : float
            Standard deviation of the change of the logarithm.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        value : float
            The proposal.
        log_ratio : float
            Of prior and proposal in the ratio of acceptance; not finite or NaN outside of the
            support.
        """
        if not isinstance(self.law, Truncated):
            return float(self.draw(0.0, generator)), 0.0
        change = size * float(torch.randn(1, generator=generator))
        there = value * math.exp(change)
        values = torch.tensor([value, there], dtype=torch.float64)
        before, after = self.law.log_prob(values).tolist()
        return there, after - before + change

    def tail(self, value: float) -> float:
        """Probability of this value or a larger one.

        Parameters
        ----------
        value : float
            Such as the one that fits an image.

        Returns
        -------
        float
            By the nodes.
        """
        return float(self.log_weight.softmax(0)[self.nodes >= value].sum())

    def at_least(self, value: float) -> float:
        """Smallest node from a value upwards, else the largest.

        Parameters
        ----------
        value : float
            Such as the one that fits prefer.

        Returns
        -------
        float
            What may be. Chains move from a scale that is too large to a smaller one, but not back
            from one so small that it holds all that it scales.
        """
        possible = self.nodes[self.log_weight > -math.inf]
        above = possible[possible >= value]
        return float(above.min() if len(above) else possible.max())


def scale_priors(nuisances: Mapping[str, object]) -> dict[str, ScalePrior]:
    """Priors of the scales of a scan.

    Parameters
    ----------
    nuisances : mapping of str to float, tuple of float or Distribution
        See ``Prior.nuisances``; what is missing is zero, as in the simulator.

    Returns
    -------
    dict of str to ScalePrior
        ``jitter`` of the rows along them and ``disorder`` of the columns along an axis, in Å;
        ``additivity``; and the jitter of the rows across them, ``jitter_y``, their ``slant``, the
        ``scatter`` of the amplitudes and ``film_size``, which the simulator does not have and whose
        priors are half-normal. All are at least ``LEAST``, the slant ``LEAST_SLANT``.
    """
    found = {
        name: _tabulate(nuisances.get(nuisance, 0.0), DOMAINS[nuisance][1])
        for name, nuisance in NUISANCE_OF.items()
    }
    across, slant, scatter, film = (
        dist.HalfNormal(torch.tensor(s)) for s in (ACROSS, SLANT, SCATTER_SCALE, FILM_SCALE)
    )
    return found | {
        "slant": _tabulate(slant, LARGEST_SLANT, LEAST_SLANT),
        "jitter_y": _tabulate(across, DOMAINS["line_jitter"][1]),
        "scatter": _tabulate(scatter, LARGEST_SCATTER),
        "film_size": _tabulate(film, LARGEST_FILM),
    }


def _tabulate(prior: object, high: float, least: float = LEAST) -> ScalePrior:
    """A prior between the least and a largest value."""
    ends = quantile(prior, torch.tensor([1 - NEGLIGIBLE], dtype=torch.float64))
    if isinstance(prior, torch.distributions.Distribution) and float(ends) > least:
        law, _ = truncate(prior, least, high)
        # the others raise an error outside of their support
        law = law if isinstance(law, Truncated) else Truncated(law, least, high)
        ends = law.icdf(torch.tensor([0.0, 1.0], dtype=torch.float64)).log().tolist()
        nodes = torch.linspace(*ends, NUM_NODES, dtype=torch.float64).exp()
        return ScalePrior(law, nodes, law.log_prob(nodes) + nodes.log())
    numbers = prior if isinstance(prior, tuple) else tuple(ends.tolist())
    nodes = torch.tensor(numbers, dtype=torch.float64).clamp(least, high)
    weight = torch.zeros_like(nodes)
    return ScalePrior(dist.Empirical(nodes.float(), weight.float()), nodes, weight)

"""What a site can hold and how probable its contrast is then, tabulated over materials and draws of the context."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..crystal import HOSTS
from ..defects import DEFECTS
from ..elements import METALS
from ..hypotheses import DOPED, HYPOTHESES, HYPOTHESIS_DEFECT
from ..likelihood import UNDERFLOW, log_sum_exp, mixture_log_prob, mixture_slopes
from ..prior import Prior

__all__ = ["Materials", "Outcomes", "outcome_classes"]

UNDOPED = [i for i in range(len(HYPOTHESES)) if i != DOPED]
UNDOPED_CLASSES = [DEFECTS.index(d) for d in DEFECTS if d != "D_M"]
MEMBERS = [[i for i, h in enumerate(UNDOPED) if HYPOTHESIS_DEFECT[h] == c] for c in UNDOPED_CLASSES]
ALTERNATIVES = [
    slice(members[0], members[-1] + 1) for members in MEMBERS
]  # neighbours in HYPOTHESES


@dataclass(frozen=True)
class Materials:
    """The hosts and dopants that a prior leaves open, as arrays.

    Attributes
    ----------
    host, dopant : Tensor of int, shapes (*batch, host) and (*batch, host, dopant)
        Index into ``HOSTS`` and ``METALS``.
    host_weight, dopant_weight : Tensor, of the same shapes
        Prior probability of the host, and of the dopant given the host.
    """

    host: Tensor
    dopant: Tensor
    host_weight: Tensor
    dopant_weight: Tensor

    def fields(self) -> tuple[Tensor, ...]:
        """Host, dopant and their weights."""
        return self.host, self.dopant, self.host_weight, self.dopant_weight

    def map(self, function: Callable[[Tensor], Tensor]) -> Materials:
        """Apply a function to every array.

        Parameters
        ----------
        function : callable
            Takes and returns a Tensor.

        Returns
        -------
        Materials
            With the results.
        """
        return Materials(*(function(f) for f in self.fields()))

    def row(self, i: int) -> Materials:
        """Materials of one image.

        Parameters
        ----------
        i : int
            Position along the leading dimension.

        Returns
        -------
        Materials
            Without it.
        """
        return self.map(lambda f: f[i])

    @classmethod
    def of(cls, prior: Prior) -> Materials:
        """List the materials of a prior.

        Parameters
        ----------
        prior : Prior
            Hosts and dopants with their weights.

        Returns
        -------
        Materials
            Each host once; hosts with fewer dopants are padded with dopants of no weight.
        """
        hosts = list(dict.fromkeys(prior.hosts))
        dopants = [list(dict.fromkeys(prior.dopants[h])) for h in hosts]
        most = max(map(len, dopants))
        index, weight = (
            torch.zeros(len(hosts), most, dtype=torch.long),
            torch.zeros(len(hosts), most),
        )
        for i, (host, names) in enumerate(zip(hosts, dopants, strict=True)):
            for j, name in enumerate(names):
                index[i, j] = METALS.index(name)
                weight[i, j] = prior.dopants[host].count(name) / len(prior.dopants[host])
        host_weight = torch.tensor([prior.hosts.count(h) / len(prior.hosts) for h in hosts])
        return cls(torch.tensor([list(HOSTS).index(h) for h in hosts]), index, host_weight, weight)


@dataclass(frozen=True)
class Outcomes:
    """Mixtures of everything that a site can hold, in every host and under every draw of the context.

    The outcomes of a site are the twelve classes without the dopant, then the dopant class once for every dopant.

    Attributes
    ----------
    log_weight : Tensor, shape (*batch, draw, host, hypothesis, component)
        Weights of the components, with those of alternative columns of one class.
    loc, scale : Tensor, shape (*batch, draw, host, hypothesis, component, feature)
        Of the Gaussians.
    """

    log_weight: Tensor
    loc: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        """Sizes (*batch, draw, host, hypothesis, component) of the table."""
        return self.log_weight.shape

    @functools.cached_property
    def slopes(self) -> Tensor:
        """Coefficients of the log density in the features, see ``mixture_slopes``."""
        return mixture_slopes(self.log_weight, self.loc, self.scale)

    def log_prob(self, features: Tensor) -> Tensor:
        """Log density of the features of patches under every outcome.

        Parameters
        ----------
        features : Tensor, shape (*batch, patch, feature)
            Contrast features.

        Returns
        -------
        Tensor, shape (*batch, patch, draw, host, outcome)
            Log density.
        """
        return _by_class(log_sum_exp(mixture_log_prob(features, self.slopes)), log_sum_exp)

    def density(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Density of the features over that of the best component, which inference sums instead of its logarithm.

        Parameters
        ----------
        features : Tensor, shape (*batch, patch, feature)
            Contrast features.

        Returns
        -------
        density : Tensor, shape (*batch, patch, draw, host, outcome)
            Density over exp(peak).
        peak : Tensor, shape (*batch, patch)
            Largest log density of a component.
        """
        components = mixture_log_prob(features, self.slopes)
        peak = components.flatten(features.ndim - 1).amax(-1)
        components -= peak.reshape(*peak.shape, *[1] * (components.ndim - peak.ndim))
        by_hypothesis = components.clamp_(min=UNDERFLOW).exp_().sum(-1)
        return _by_class(by_hypothesis, lambda values: values.sum(-1)), peak

    def map(self, function: Callable[[Tensor], Tensor]) -> Outcomes:
        """Apply a function of the leading dimensions to every array.

        Parameters
        ----------
        function : callable
            Takes and returns a Tensor.

        Returns
        -------
        Outcomes
            With the results.
        """
        return Outcomes(function(self.log_weight), function(self.loc), function(self.scale))

    def __getitem__(self, index: object) -> Outcomes:
        """Select by the leading dimensions."""
        return self.map(lambda v: v[index])


def _by_class(by_hypothesis: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
    """Outcomes of hypotheses: the alternatives of a class are added, each dopant stays what it is."""
    parts = (by_hypothesis[..., a] for a in ALTERNATIVES)
    classes = [add(part) if part.shape[-1] > 1 else part[..., 0] for part in parts]
    return torch.cat([torch.stack(classes, -1), by_hypothesis[..., len(UNDOPED) :]], -1)


def outcome_classes(num_dopants: int) -> Tensor:
    """Class of every outcome.

    Parameters
    ----------
    num_dopants : int
        Dopants that are enumerated.

    Returns
    -------
    Tensor of int, shape (outcome,)
        Index into ``DEFECTS``: the twelve classes without the dopant, then its class once for every dopant.
    """
    return torch.tensor([*UNDOPED_CLASSES, *[DEFECTS.index("D_M")] * num_dopants])

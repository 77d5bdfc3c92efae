"""The likelihood tabulated over outcomes, materials and draws of the context."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, DOPED, HYPOTHESES, UNDOPED, Species
from ..likelihood import UNDERFLOW, log_sum_exp, mixture_log_prob, mixture_slopes
from ..prior import Prior
from .mixing import SHARE_WEIGHT

__all__ = [
    "DOPED_HYPOTHESIS",
    "LikelihoodTable",
    "Materials",
    "NUM_PLAIN",
    "NUM_UNDOPED",
    "UNDOPED_HYPOTHESES",
    "add_alternatives",
    "class_members",
    "hypothesis_classes",
    "outcome_classes",
    "outcomes_of_hypotheses",
]


@dataclass(frozen=True)
class Materials:
    """Hosts and dopants to enumerate, as arrays.

    Attributes
    ----------
    host, dopant : Tensor of int, shapes (*batch, host) and (*batch, host, dopant)
        Index into ``HOSTS`` and ``METALS``.
    host_weight, dopant_weight : Tensor, of the same shapes
        Prior probability of the host, and of the dopant given the host.
    is_codoped : bool
        Whether both dopants of a host are in the same crystal; their weights are then those of
        one site of their class.
    """

    host: Tensor
    dopant: Tensor
    host_weight: Tensor
    dopant_weight: Tensor
    is_codoped: bool = False

    @property
    def composition_weight(self) -> Tensor:
        """Prior probability of what the dopants of an image are, (*batch, host, composition).

        One of the dopants, or in a co-doped crystal one of ``mixing.SHARES`` of both.
        """
        if not self.is_codoped:
            return self.dopant_weight
        return self.dopant_weight.sum(-1, keepdim=True) * SHARE_WEIGHT.to(self.dopant_weight)

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
        host, dopant, host_weight, dopant_weight = (function(f) for f in self.fields())
        return replace(
            self, host=host, dopant=dopant, host_weight=host_weight, dopant_weight=dopant_weight
        )

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
            torch.zeros(len(hosts), most, dtype=torch.float32),
        )
        for i, (host, names) in enumerate(zip(hosts, dopants, strict=True)):
            for j, name in enumerate(names):
                index[i, j] = METALS.index(name)
                weight[i, j] = prior.dopants[host].count(name) / len(prior.dopants[host])
        host_weight = torch.tensor(
            [prior.hosts.count(h) / len(prior.hosts) for h in hosts], dtype=torch.float32
        )
        host = torch.tensor([list(HOSTS).index(h) for h in hosts])
        return cls(host, index, host_weight, weight, prior.is_codoped)


NUM_PLAIN = len(UNDOPED)
"""Outcomes without the dopant, which come first."""

UNDOPED_HYPOTHESES = tuple(i for i, h in enumerate(HYPOTHESES) if not h.holds_dopant)
DOPED_HYPOTHESIS = next(i for i, h in enumerate(HYPOTHESES) if h.holds_dopant)
NUM_UNDOPED = len(UNDOPED_HYPOTHESES)
"""Hypotheses without the dopant, which come first; the doped one follows once for every dopant."""


def class_members(columns: Sequence[Species]) -> list[slice]:
    """Positions of the columns of each class without the dopant in a sequence of columns.

    Parameters
    ----------
    columns : sequence of Species
        Species or hypotheses in the order of ``DEFECTS``.

    Returns
    -------
    list of slice
        One for each of ``UNDOPED``, counted among the columns without the dopant.
    """
    classes = [c.defect for c in columns if not c.holds_dopant]
    starts = [classes.index(d) for d in UNDOPED]
    return [slice(s, s + classes.count(d)) for s, d in zip(starts, UNDOPED, strict=True)]


CLASS_MEMBERS = class_members(HYPOTHESES)


@dataclass(frozen=True)
class LikelihoodTable:
    """Densities of the features for every outcome, host and draw of the context.

    The outcomes of a site are the classes without the dopant, then the class of the dopant once for
    every dopant.

    Attributes
    ----------
    log_weight : Tensor, shape (*batch, draw, host, hypothesis, component)
        Log weights of the components; those of all columns of a class sum to one.
    loc, scale : Tensor, shape (*batch, draw, host, hypothesis, component, feature)
        Means and standard deviations of the Gaussians.
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
        return add_alternatives(
            log_sum_exp(mixture_log_prob(features, self.slopes)), CLASS_MEMBERS, log_sum_exp
        )

    def density(self, features: Tensor, *, by_hypothesis: bool = False) -> tuple[Tensor, Tensor]:
        """Density of the features relative to that of the best component of each patch.

        Parameters
        ----------
        features : Tensor, shape (*batch, patch, feature)
            Contrast features.
        by_hypothesis : bool
            Keep the hypotheses of a class apart; each is times its share of the class.

        Returns
        -------
        density : Tensor, shape (*batch, patch, draw, host, outcome or hypothesis)
            Density over exp(peak).
        peak : Tensor, shape (*batch, patch)
            Largest log density of a component.
        """
        components = mixture_log_prob(features, self.slopes)
        peak = components.flatten(features.ndim - 1).amax(-1)
        components -= peak.reshape(*peak.shape, *[1] * (components.ndim - peak.ndim))
        found = components.clamp_(min=UNDERFLOW).exp_().sum(-1)
        if by_hypothesis:
            return found, peak
        return add_alternatives(found, CLASS_MEMBERS, lambda v: v.sum(-1)), peak

    def map(self, function: Callable[[Tensor], Tensor]) -> LikelihoodTable:
        """Apply a function of the leading dimensions to every array.

        Parameters
        ----------
        function : callable
            Takes and returns a Tensor.

        Returns
        -------
        LikelihoodTable
            With the results.
        """
        return LikelihoodTable(function(self.log_weight), function(self.loc), function(self.scale))

    def __getitem__(self, index: object) -> LikelihoodTable:
        """Select by the leading dimensions."""
        return self.map(lambda v: v[index])


def add_alternatives(
    values: Tensor, members: Sequence[slice], add: Callable[[Tensor], Tensor]
) -> Tensor:
    """Combine the columns of each class.

    Parameters
    ----------
    values : Tensor, shape (*batch, column)
        Values of the columns without the dopant, then of the doped one for every dopant.
    members : sequence of slice
        From ``class_members``.
    add : callable
        Combines the columns of a class, along the last dimension: a sum, or a mean.

    Returns
    -------
    Tensor, shape (*batch, outcome)
        The classes without the dopant, then every dopant.
    """
    parts = (values[..., m] for m in members)
    classes = [add(part) if part.shape[-1] > 1 else part[..., 0] for part in parts]
    return torch.cat([torch.stack(classes, -1), values[..., members[-1].stop :]], -1)


def outcome_classes(num_dopants: int) -> Tensor:
    """Class of every outcome.

    Parameters
    ----------
    num_dopants : int
        Dopants that are enumerated.

    Returns
    -------
    Tensor of int, shape (outcome,)
        Index into ``DEFECTS``: the classes without the dopant, then its class for every dopant.
    """
    return torch.tensor([DEFECTS.index(d) for d in (*UNDOPED, *[DOPED] * num_dopants)])


def outcomes_of_hypotheses(num_dopants: int) -> Tensor:
    """Outcome of every hypothesis.

    Parameters
    ----------
    num_dopants : int
        Dopants that are enumerated.

    Returns
    -------
    Tensor of int, shape (hypothesis,)
        Of the hypotheses without the dopant, then of the doped one for every dopant.
    """
    plain = [UNDOPED.index(HYPOTHESES[i].defect) for i in UNDOPED_HYPOTHESES]
    return torch.tensor(plain + list(range(NUM_PLAIN, NUM_PLAIN + num_dopants)))


def hypothesis_classes(num_dopants: int) -> Tensor:
    """Class of every hypothesis.

    Parameters
    ----------
    num_dopants : int
        Dopants that are enumerated.

    Returns
    -------
    Tensor of int, shape (hypothesis,)
        Index into ``DEFECTS``, in the order of ``outcomes_of_hypotheses``.
    """
    return outcome_classes(num_dopants)[outcomes_of_hypotheses(num_dopants)]

"""Abundances of the classes on each kind of site: prior, evidence, counts and draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from .defects import DEFECTS, SITES
from .evidence import sticks_of

__all__ = ["Abundance"]

UNDERFLOW = 1e-290  # torch draws no Gamma variable below 1e-307
BEFORE = 1e-9  # share of the sites that counts as none


@dataclass(frozen=True, eq=False)
class Abundance:
    """Generalised Dirichlet distributions of the abundances of the classes on kinds of site.

    Attributes
    ----------
    order : Tensor of int, shape (*batch, kind, defect_class)
        The classes in the order in which they take their shares.
    fraction : Tensor of float64, shape (*batch, kind, defect_class)
        In this order: mean of the fraction that a class takes of what those before it leave.
    strength : Tensor of float64, shape (*batch, kind, defect_class)
        Sum of the two parameters of the Beta distribution of this fraction; infinite where it is
        known.

    Notes
    -----
    The share of the class at position j is v_j prod_{i<j} (1 - v_i), v_j ~ Beta(a_j, b_j)
    independently with a = fraction strength, b = (1 - fraction) strength. The last fraction is 1. A
    Dirichlet distribution with parameters alpha is the special case a_j = alpha_j, b_j = sum_{i>j}
    alpha_i. Counts n of classes are conjugate: a_j + n_j, b_j + sum_{i>j} n_i.

    References
    ----------
    Connor and Mosimann, J. Am. Stat. Assoc. 64, 194 (1969), 10.1080/01621459.1969.10500963.
    """

    order: Tensor
    fraction: Tensor
    strength: Tensor

    @classmethod
    def dirichlet(cls, alpha: Tensor) -> Abundance:
        """Dirichlet distributions.

        Parameters
        ----------
        alpha : Tensor, shape (*batch, kind, defect_class)
            Parameters; zero excludes a class.

        Returns
        -------
        Abundance
            The special case.
        """
        alpha = alpha.double()
        left = alpha.flip(-1).cumsum(-1).flip(-1)
        fraction = (alpha / left).nan_to_num(0.0)
        is_known = (alpha == 0) | (alpha == left)
        order = torch.arange(alpha.shape[-1]).expand(alpha.shape)
        return cls(order, fraction, left.masked_fill(is_known, torch.inf))

    @classmethod
    def of(
        cls, alpha: Mapping[str, float], shares: Mapping[str, float | Distribution] | None = None
    ) -> Abundance:
        """Abundances on the kinds of site of a lattice under evidence on some classes.

        Parameters
        ----------
        alpha : mapping of str to float
            Dirichlet parameters of the prior, for every class of ``DEFECTS``.
        shares : mapping of str to float or Distribution, optional
            Checked evidence, see ``evidence.check_shares``.

        Returns
        -------
        Abundance
            Kinds in the order of ``SITES``. The classes with evidence come first; what they leave
            is shared by the others as under the prior. A distribution is represented by its first
            two moments.

        Raises
        ------
        ValueError
            If the evidence leaves sites of a kind for which the prior has no class.
        """
        rows = [_row(alpha, shares or {}, kind) for kind in SITES]
        order, fraction, strength = zip(*rows, strict=True)
        doubles = (torch.tensor(v, dtype=torch.float64) for v in (fraction, strength))
        return cls(torch.tensor(order), *doubles)

    @property
    def mean(self) -> Tensor:
        """Expected shares, shape (*batch, kind, defect_class)."""
        return self.shares(self.fraction)

    @property
    def is_free(self) -> Tensor:
        """Which fractions are not known, shape (*batch, kind, defect_class), in the order."""
        return self.strength.isfinite()

    def shares(self, fraction: Tensor) -> Tensor:
        """Shares from the fractions.

        Parameters
        ----------
        fraction : Tensor, shape (*batch, kind, defect_class)
            In the order of the classes.

        Returns
        -------
        Tensor, of the same shape
            By class as in ``DEFECTS``; they add up to one.
        """
        return self._in_classes(fraction * _exclusive(1 - fraction))

    def posterior(self, counts: Tensor) -> Abundance:
        """Condition on counts.

        Parameters
        ----------
        counts : Tensor, shape (*batch, kind, defect_class)
            Numbers of sites, which need not be whole.

        Returns
        -------
        Abundance
            Given these counts.
        """
        order = self.order.expand(counts.shape)
        own, left = self._in_order(counts)
        strength = self.strength + left
        return Abundance(order, self.fraction + (own - self.fraction * left) / strength, strength)

    def draw(self, counts: Tensor, generator: torch.Generator) -> Tensor:
        """Draw shares given counts.

        Parameters
        ----------
        counts : Tensor, shape (*batch, kind, defect_class)
            Numbers of sites; one draw is made for each of the batch.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor of float64, of the same shape
            Shares.
        """
        given = self.posterior(counts)
        strength = torch.where(given.is_free, given.strength, 1.0)
        first, second = (
            torch._standard_gamma(f * strength, generator=generator)
            for f in (given.fraction, 1 - given.fraction)
        )
        u = torch.rand(strength.shape, generator=generator, dtype=torch.float64)
        # parameters so small that both numbers underflow leave a fraction of 0 or 1
        both = first + second
        drawn = torch.where(both > UNDERFLOW, first / both, (u < given.fraction).double())
        return self.shares(torch.where(given.is_free, drawn, given.fraction))

    def log_density(self, shares: Tensor) -> Tensor:
        """Log density of shares.

        Parameters
        ----------
        shares : Tensor, shape (*batch, kind, defect_class)
            Above zero where they are not known; those that are known do not count.

        Returns
        -------
        Tensor of float64, shape (*batch, kind)
            With respect to the shares that are not known, but the last one; up to a constant.
        """
        own, left = self._in_order(shares)
        strength = torch.where(self.is_free, self.strength, 2.0)
        # not the difference of the two, which rounding makes zero
        after = torch.cat([left[..., 1:], torch.zeros_like(left[..., :1])], -1)
        a, b = self.fraction * strength, (1 - self.fraction) * strength
        density = (a - 1) * (own / left).log() + (b - 1) * (after / left).log() - left.log()
        return torch.where(self.is_free, density, 0.0).sum(-1)

    def log_evidence(self, counts: Tensor) -> Tensor:
        """Log probability of what sites hold, the shares integrated out.

        Parameters
        ----------
        counts : Tensor, shape (*batch, kind, defect_class)
            Numbers of sites.

        Returns
        -------
        Tensor of float64, shape (*batch, kind)
            Of the classes of the sites in one sequence, in nats.
        """
        own, left = self._in_order(counts)
        is_free = self.is_free
        strength = torch.where(is_free, self.strength, 2.0)
        fraction = torch.where(is_free, self.fraction, 0.5)
        after = _log_beta(fraction * strength + own, (1 - fraction) * strength + left - own)
        before = _log_beta(fraction * strength, (1 - fraction) * strength)
        known = torch.where(is_free, 0.5, self.fraction)
        known = own.xlogy(known) + (left - own).xlogy(1 - known)
        return torch.where(is_free, after - before, known).sum(-1)

    def _in_order(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Counts in the order of the classes, and with those of all later classes."""
        own = counts.double().gather(-1, self.order.expand(counts.shape))
        return own, own.flip(-1).cumsum(-1).flip(-1)

    def _in_classes(self, values: Tensor) -> Tensor:
        """Values in the order of the classes as in ``DEFECTS``."""
        order = self.order.expand(values.shape)
        return torch.zeros_like(values).scatter(-1, order, values)


def _row(
    alpha: Mapping[str, float], shares: Mapping[str, float | Distribution], kind: str
) -> tuple[list[int], list[float], list[float]]:
    """Order, fractions and strengths of the classes on one kind of site."""
    sticks = sticks_of(shares, kind)
    rest = [d for d in SITES[kind] if d not in shares]
    left = 1.0
    for stick in sticks:
        left *= 1 - stick.mean
    if left > BEFORE and not sum(alpha[d] for d in rest) > 0:
        raise ValueError(
            f"shares of the {kind} sites that add up to 1 were expected, since the prior has no "
            f"other class than {', '.join(s.defect for s in sticks)} there, they leave {left:.4g}; "
            "correct them"
        )
    others = Abundance.dirichlet(torch.tensor([alpha[d] for d in rest], dtype=torch.float64))
    names = [s.defect for s in sticks] + rest
    absent = [d for d in DEFECTS if d not in names]
    return (
        [DEFECTS.index(d) for d in names + absent],
        [s.mean for s in sticks] + others.fraction.tolist() + [0.0] * len(absent),
        [s.strength for s in sticks] + others.strength.tolist() + [torch.inf] * len(absent),
    )


def _exclusive(left: Tensor) -> Tensor:
    """Product of what all classes before each one leave."""
    first = torch.ones_like(left[..., :1])
    return torch.cat([first, left[..., :-1].cumprod(-1)], -1)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Log of the Beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

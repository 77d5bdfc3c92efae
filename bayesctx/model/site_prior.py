"""Prior of the sites of an image: sublattices, kinds of site and abundances of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..abundance import Abundance
from ..crystal import MONOLAYER_1H
from ..defects import DEFECTS
from ..prior import Prior

__all__ = ["SitePrior"]


@dataclass(frozen=True)
class SitePrior:
    """Sublattices of the sites of one image, and the abundances on each kind of site.

    Attributes
    ----------
    sublattice : Tensor of int, shape (patch,)
        Sublattice of every site.
    assignments : Tensor of int, shape (assignment, sublattice)
        Kind of site of every sublattice under each assignment; all are equally probable.
    abundance : Abundance, shape (kind, defect_class)
        Distribution of the abundances of the classes on each kind of site.
    """

    sublattice: Tensor
    assignments: Tensor
    abundance: Abundance

    @property
    def kinds(self) -> Tensor:
        """Kind of every site under each assignment, shape (assignment, patch)."""
        return self.assignments[:, self.sublattice]

    @property
    def mean(self) -> Tensor:
        """Expected abundances in single precision, shape (kind, defect_class)."""
        return self.abundance.mean.float()

    def take(self, index: Tensor) -> SitePrior:
        """Select sites.

        Parameters
        ----------
        index : Tensor of int
            Positions of the sites.

        Returns
        -------
        SitePrior
            Of these sites.
        """
        return SitePrior(self.sublattice[index], self.assignments, self.abundance)

    def given(self, prior: Prior, context: Mapping[str, object]) -> SitePrior:
        """The same sites under what is known of the abundances.

        Parameters
        ----------
        prior : Prior
            That these sites are of.
        context : mapping
            A checked context with one value per variable, of which ``dopant`` and ``abundance``
            count.

        Returns
        -------
        SitePrior
            Of patches without the classes whose share is 0, of a lattice with all evidence.
        """
        names = [n for n in ("dopant", "abundance") if n in context]
        prior = prior.given({n: context[n] for n in names})
        if self.assignments.shape[1] == 1:
            return SitePrior.of_patches(prior, len(self.sublattice))
        return SitePrior.of_lattice(prior, self.sublattice)

    @classmethod
    def of_patches(cls, prior: Prior, num_patches: int) -> SitePrior:
        """Sites of unknown kind: patches whose central site may be of any class of the prior.

        Parameters
        ----------
        prior : Prior
            Its ``defects`` are equally probable, whatever is known of the abundances.
        num_patches : int
            Number of patches.

        Returns
        -------
        SitePrior
            With one kind of site.
        """
        alpha = torch.tensor([[float(d in prior.defects) for d in DEFECTS]], dtype=torch.float64)
        one = torch.zeros(1, 1, dtype=torch.long)
        return cls(torch.zeros(num_patches, dtype=torch.long), one, Abundance.dirichlet(alpha))

    @classmethod
    def of_lattice(cls, prior: Prior, sublattice: Tensor) -> SitePrior:
        """Sites of a lattice, whose sublattices are of different kinds.

        Parameters
        ----------
        prior : Prior
            Gives the abundances of the classes, see ``Prior.given`` for evidence on them.
        sublattice : Tensor of int, shape (patch,)
            Sublattice of every site.

        Returns
        -------
        SitePrior
            With every assignment of the kinds to the sublattices.
        """
        kinds = MONOLAYER_1H.sites
        assignments = [[kinds.index(k) for k in a] for a in MONOLAYER_1H.assignments]
        abundance = Abundance.of(prior.dirichlet_alpha, prior.abundance)
        return cls(sublattice, torch.tensor(assignments), abundance)

"""Prior of the sites of an image: sublattices, kinds of site and abundances of the classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..defects import DEFECTS, SITES
from ..prior import Prior

__all__ = ["SitePrior"]

IMPOSSIBLE = 1e-9  # Dirichlet parameter of a class that a site cannot hold


@dataclass(frozen=True)
class SitePrior:
    """Sublattices of the sites of one image, and the expected abundances on each kind of site.

    Attributes
    ----------
    sublattice : Tensor of int, shape (patch,)
        Sublattice of every site.
    assignments : Tensor of int, shape (assignment, sublattice)
        Kind of site of every sublattice under each assignment; all are equally probable.
    alpha : Tensor, shape (kind, defect_class)
        Dirichlet parameters of the abundances of the classes on each kind of site.
    """

    sublattice: Tensor
    assignments: Tensor
    alpha: Tensor

    @property
    def kinds(self) -> Tensor:
        """Kind of every site under each assignment, shape (assignment, patch)."""
        return self.assignments[:, self.sublattice]

    @property
    def mean(self) -> Tensor:
        """Expected abundances, shape (kind, defect_class)."""
        return self.alpha / self.alpha.sum(-1, keepdim=True)

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
        return SitePrior(self.sublattice[index], self.assignments, self.alpha)

    @classmethod
    def of_patches(cls, prior: Prior, num_patches: int) -> SitePrior:
        """Sites of unknown kind: patches whose central site may be of any class of the prior.

        Parameters
        ----------
        prior : Prior
            Its ``defects`` are equally probable.
        num_patches : int
            Number of patches.

        Returns
        -------
        SitePrior
            With one kind of site.
        """
        alpha = (
            torch.tensor([float(d in prior.defects) for d in DEFECTS], dtype=torch.float32)
            + IMPOSSIBLE
        )
        one = torch.zeros(1, 1, dtype=torch.long)
        return cls(torch.zeros(num_patches, dtype=torch.long), one, alpha[None])

    @classmethod
    def of_lattice(cls, prior: Prior, sublattice: Tensor) -> SitePrior:
        """Sites of a lattice, whose sublattices are of different kinds.

        Parameters
        ----------
        prior : Prior
            Gives the abundances of the classes.
        sublattice : Tensor of int, shape (patch,)
            Sublattice of every site.

        Returns
        -------
        SitePrior
            With every assignment of the kinds to the sublattices.
        """
        kinds = MONOLAYER_1H.sites
        alpha = [[prior.dirichlet_alpha[d] * (d in SITES[k]) for d in DEFECTS] for k in kinds]
        assignments = [[kinds.index(k) for k in a] for a in MONOLAYER_1H.assignments]
        return cls(sublattice, torch.tensor(assignments), torch.tensor(alpha, dtype=torch.float32))

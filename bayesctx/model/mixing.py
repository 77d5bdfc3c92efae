"""Shares of two dopants in a co-doped crystal, and the likelihood of either on a site."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..defects import UNDOPED

__all__ = ["EDGES", "SHARES", "SHARE_WEIGHT", "mix_dopants"]

NUM_SHARES = 16  # exact for products of the likelihoods of 31 sites
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(NUM_SHARES)
_SECOND = torch.from_numpy((_NODES + 1) / 2).float()
SHARE_WEIGHT = torch.from_numpy(_WEIGHTS / 2).float()
"""Weights of a Gauss-Legendre quadrature over the share of the second dopant, (composition,)."""
SHARES = torch.stack([1 - _SECOND, _SECOND], -1)
"""Its nodes: shares of both dopants among the sites of their class, (composition, dopant)."""
EDGES = torch.from_numpy(np.append(0.0, np.cumsum(_WEIGHTS / 2))).float()
"""Shares of the second dopant between which there is one node, (composition + 1,)."""


def mix_dopants(density: Tensor) -> Tensor:
    """Density under every composition of the dopants.

    Parameters
    ----------
    density : Tensor, shape (*batch, outcome)
        Of the classes without a dopant, then of that of the dopant for both metals.

    Returns
    -------
    Tensor, shape (*batch, outcome)
        Of the classes without a dopant, then of that of the dopant for every row of ``SHARES``.
    """
    plain, doped = density.tensor_split([len(UNDOPED)], -1)
    return torch.cat([plain, doped @ SHARES.to(doped).mT], -1)

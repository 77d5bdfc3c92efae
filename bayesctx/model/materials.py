"""The hosts and dopants that are enumerated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..crystal import HOSTS
from ..elements import METALS
from ..prior import Prior

__all__ = ["Materials"]


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
            torch.zeros(len(hosts), most, dtype=torch.float32),
        )
        for i, (host, names) in enumerate(zip(hosts, dopants, strict=True)):
            for j, name in enumerate(names):
                index[i, j] = METALS.index(name)
                weight[i, j] = prior.dopants[host].count(name) / len(prior.dopants[host])
        host_weight = torch.tensor(
            [prior.hosts.count(h) / len(prior.hosts) for h in hosts], dtype=torch.float32
        )
        return cls(torch.tensor([list(HOSTS).index(h) for h in hosts]), index, host_weight, weight)

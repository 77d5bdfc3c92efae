"""The encoder: contrast features of a patch that do not change when the crystal is turned or reflected."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Encoder", "ring_moments"]

MAX_ORDER = 18
BAND_LIMIT = 0.275  # cycles per pixel: what a probe passes, 1.1/Å at 0.25 Å
SPACING, RING_WIDTH = 1.2, 0.88  # distance and Gaussian width of the rings in pixels
REACH = 0.5625  # radius of the last ring over the width of the patch: a little into the corners


class Encoder(nn.Module):
    """Contrast features of a patch, blind to gain and offset and to turns and reflections of the crystal.

    Parameters
    ----------
    num_features : int
        Dimension of the features.
    num_pixels : int
        Pixels along each side of a patch.
    width : int
        Units of the two hidden layers.

    Notes
    -----
    The patch is read as Fourier moments on rings around its centre, one matrix product. Around a site of a crystal with a
    three-fold axis a learnt sum of its third moments tells how the crystal is turned, up to a third of a turn; every moment is
    turned back by it. Orders that are multiples of three (the crystal) are then settled, the others (neighbours' defects, drift,
    an offset) are known up to one of three turns. The first layer is evaluated for all three and their mirror images, the
    six elements of the crystal's point group, and averaged: what leaves it is the same for every one of them (a
    group convolution in the sense of Cohen and Welling).

    References
    ----------
    Cohen and Welling, Group equivariant convolutional networks, ICML (2016), arXiv 1602.07576.
    """

    def __init__(self, num_features: int = 32, num_pixels: int = 32, width: int = 640) -> None:
        super().__init__()
        basis, order = ring_moments(num_pixels)
        threefold = order % 3 == 0
        self.register_buffer("basis", torch.view_as_real(basis).flatten(1), persistent=False)
        self.register_buffer("order", order.float(), persistent=False)
        self.register_buffer("thirds", (order == 3).nonzero()[:, 0], persistent=False)
        self.register_buffer(
            "roots", torch.polar(torch.ones(3), torch.arange(3) * 2 * math.pi / 3), persistent=False
        )
        self.num_threefold = int(threefold.sum())
        num_others = len(order) - self.num_threefold
        self.direction = nn.Parameter(torch.randn(len(self.thirds)) / 10)
        # even and odd under reflection, of the moments that have the crystal's symmetry and of the others
        self.even, self.odd = (
            nn.Linear(self.num_threefold, width),
            nn.Linear(self.num_threefold, width, bias=False),
        )
        self.even_others, self.odd_others = (
            nn.Linear(num_others, width, bias=False) for _ in range(2)
        )
        self.layers = nn.Sequential(
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, num_features),
            # unit variance, so that a scale of the likelihood means the same for every feature
            nn.BatchNorm1d(num_features, affine=False, momentum=0.02),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Encode patches.

        Parameters
        ----------
        patches : Tensor, shape (*batch, y, x)
            Intensities in any unit.

        Returns
        -------
        Tensor, shape (*batch, feature)
            Contrast features.
        """
        return self.condense(self.invariants(patches))

    def invariants(self, patches: Tensor) -> Tensor:
        """What the first layer makes of patches, before it is condensed to features of their contrast.

        Parameters
        ----------
        patches : Tensor, shape (*batch, y, x)
            Intensities in any unit.

        Returns
        -------
        Tensor, shape (*batch, unit)
            Blind to the same things as the features.
        """
        flat = patches.flatten(0, -3) if patches.ndim > 3 else patches
        centred = flat - flat.mean((-2, -1), keepdim=True)
        scaled = centred / centred.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-12)
        moments = torch.view_as_complex((scaled.flatten(1) @ self.basis).unflatten(1, (-1, 2)))
        return self._average(self._turn_back(moments)).unflatten(0, patches.shape[:-2])

    def condense(self, invariants: Tensor) -> Tensor:
        """Features of what the first layer made of patches.

        Parameters
        ----------
        invariants : Tensor, shape (*batch, unit)
            From ``invariants``.

        Returns
        -------
        Tensor, shape (*batch, feature)
            Contrast features.
        """
        return self.layers(invariants.flatten(0, -2)).unflatten(0, invariants.shape[:-1])

    def _turn_back(self, moments: Tensor) -> Tensor:
        """Moments as if the crystal lay in one direction, up to a third of a turn, shape (patch, moment)."""
        third = (moments[:, self.thirds] * self.direction).sum(-1)
        # an angle of no length has no direction: keep its gradient finite
        angle = torch.atan2(third.imag, third.real + 1e-6) / 3
        turn = angle[:, None] * self.order
        return moments * torch.complex(turn.cos(), -turn.sin())

    def _average(self, moments: Tensor) -> Tensor:
        """The first layer, averaged over the point group, shape (patch, unit)."""
        threefold, others = moments.split(
            (self.num_threefold, len(self.order) - self.num_threefold), 1
        )
        even, odd = (
            torch.complex(part(others.real), part(others.imag))
            for part in (self.even_others, self.odd_others)
        )
        turns = self.roots[:, None, None]
        even, odd = (
            (turns * even).real + self.even(threefold.real),
            (turns * odd).imag + self.odd(threefold.imag),
        )
        return nn.functional.silu(torch.cat([even + odd, even - odd])).mean(0)


def ring_moments(num_pixels: int) -> tuple[Tensor, Tensor]:
    """Weights of the pixels in the Fourier moments of a patch on rings around its centre.

    Parameters
    ----------
    num_pixels : int
        Pixels along each side of the patch.

    Returns
    -------
    basis : Tensor of complex, shape (pixel, moment)
        A Gaussian ring times exp(-i order angle); higher moments, which are smaller, are made larger. A ring has the orders that
        a probe lets it have.
    order : Tensor of int, shape (moment,)
        Multiples of three first. The others are 3 k + 1 with negative k among them, so that a third of a turn does the same to
        all.
    """
    axis = torch.arange(num_pixels) - (num_pixels - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    columns, orders = [], []
    for radius in torch.arange(0, REACH * num_pixels + 1e-6, SPACING).tolist():
        ring = torch.exp(-((torch.hypot(x, y) - radius) ** 2) / (2 * RING_WIDTH**2))
        for m in range(min(MAX_ORDER, round(2 * math.pi * radius * BAND_LIMIT)) + 1):
            orders.append(-m if m % 3 == 2 else m)
            columns.append(
                3
                * math.sqrt(1 + m)
                * ring
                / ring.sum()
                * torch.exp(-1j * orders[-1] * torch.atan2(y, x))
            )
    basis, order = torch.stack(columns, -1).flatten(0, 1), torch.tensor(orders)
    first = (order % 3 != 0).long().argsort(stable=True)
    return basis[:, first], order[first]

"""Encoder: features of a patch, invariant under rotations and reflections of the crystal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .crystal import MONOLAYER_1H
from .tensors import pixel_axis

__all__ = ["Encoder", "ring_moments"]

SINGLE = {"dtype": torch.float32}  # whatever the default dtype of torch
FOLD = MONOLAYER_1H.rotation_order  # of the rotation axis of the crystal
MAX_ORDER = 18
BAND_LIMIT = 0.275  # cycles per pixel, largest frequency of a probe: 1.1/Å at 0.25 Å per pixel
SPACING, RING_WIDTH = 1.2, 0.88  # distance and Gaussian width of the rings in pixels
SCALE = 3.0  # of the moments, which brings them to order one
REACH = 0.5625  # radius of the largest ring over the width of the patch, beyond 0.5 for the corners


class Encoder(nn.Module):
    """Contrast features of a patch, invariant to gain, offset, rotation and reflection.

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
    One matrix product gives the Fourier moments of the patch on rings around its centre. A learnt
    sum of the moments of order three estimates the orientation of the crystal up to a third of a
    turn, and every moment is rotated back by it. This determines the moments whose order is a
    multiple of three, those of a crystal with a three-fold axis. The others (defects on
    neighbouring sites, drift, an offset) are known up to a rotation by a third of a turn. The first
    layer is therefore evaluated for the six elements of the point group (three rotations and their
    mirror images) and averaged over them, which makes its output invariant under the group (a group
    convolution in the sense of Cohen and Welling).

    References
    ----------
    Cohen and Welling, Group equivariant convolutional networks, ICML (2016), arXiv 1602.07576.
    """

    def __init__(self, num_features: int = 32, num_pixels: int = 32, width: int = 640) -> None:
        super().__init__()
        basis, order = ring_moments(num_pixels)
        symmetric = order % FOLD == 0
        self.register_buffer("basis", torch.view_as_real(basis).flatten(1), persistent=False)
        self.register_buffer("order", order.float(), persistent=False)
        # moments of the order of the axis, from which the orientation is estimated
        self.register_buffer("orienting", (order == FOLD).nonzero()[:, 0], persistent=False)
        turns = torch.arange(FOLD, **SINGLE) * 2 * math.pi / FOLD
        phases = torch.polar(torch.ones(FOLD, **SINGLE), turns)  # of the equivalent orientations
        self.register_buffer("phases", phases, persistent=False)
        self.num_symmetric = int(symmetric.sum())
        num_others = len(order) - self.num_symmetric
        self.direction = nn.Parameter(torch.randn(len(self.orienting), **SINGLE) / 10)
        # weights even and odd under reflection, for moments with the crystal's symmetry and others
        self.even, self.odd = (
            nn.Linear(self.num_symmetric, width, **SINGLE),
            nn.Linear(self.num_symmetric, width, bias=False, **SINGLE),
        )
        self.even_others, self.odd_others = (
            nn.Linear(num_others, width, bias=False, **SINGLE) for _ in range(2)
        )
        self.layers = nn.Sequential(
            nn.Linear(width, width, **SINGLE),
            nn.SiLU(),
            nn.Linear(width, num_features, **SINGLE),
            # unit variance, so that scales of the likelihood are comparable between features
            nn.BatchNorm1d(num_features, affine=False, momentum=0.02, **SINGLE),
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
        """Output of the first layer, averaged over the point group of the crystal.

        Parameters
        ----------
        patches : Tensor, shape (*batch, y, x)
            Intensities in any unit.

        Returns
        -------
        Tensor, shape (*batch, unit)
            Hidden units with the same invariances as the features.
        """
        flat = patches.flatten(0, -3) if patches.ndim > 3 else patches
        centred = flat - flat.mean((-2, -1), keepdim=True)
        scaled = centred / centred.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-12)
        moments = torch.view_as_complex((scaled.flatten(1) @ self.basis).unflatten(1, (-1, 2)))
        return self._average(self._turn_back(moments)).unflatten(0, patches.shape[:-2])

    def condense(self, invariants: Tensor) -> Tensor:
        """Features from the output of the first layer.

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
        """Moments rotated to a common orientation of the crystal, shape (patch, moment)."""
        vector = (moments[:, self.orienting] * self.direction).sum(-1)
        # the gradient of atan2 is not finite at zero
        angle = torch.atan2(vector.imag, vector.real + 1e-6) / FOLD
        turn = angle[:, None] * self.order
        return moments * torch.complex(turn.cos(), -turn.sin())

    def _average(self, moments: Tensor) -> Tensor:
        """First layer, averaged over the point group, shape (patch, unit)."""
        symmetric, others = moments.split(
            (self.num_symmetric, len(self.order) - self.num_symmetric), 1
        )
        even, odd = (
            torch.complex(part(others.real), part(others.imag))
            for part in (self.even_others, self.odd_others)
        )
        turns = self.phases[:, None, None]
        even, odd = (
            (turns * even).real + self.even(symmetric.real),
            (turns * odd).imag + self.odd(symmetric.imag),
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
        A Gaussian ring times exp(-i order angle), scaled by sqrt(1 + |order|) because moments of
        high order are small. The number of orders of a ring is limited by the bandwidth of the
        probe (``BAND_LIMIT``).
    order : Tensor of int, shape (moment,)
        Multiples of three first. The others are 3 k + 1, negative ones included, so that a rotation
        by a third of a turn multiplies all of them by the same phase.
    """
    axis = pixel_axis(num_pixels, 1.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    columns, orders = [], []
    for radius in torch.arange(0, REACH * num_pixels + 1e-6, SPACING, **SINGLE).tolist():
        ring = torch.exp(-((torch.hypot(x, y) - radius) ** 2) / (2 * RING_WIDTH**2))
        for m in range(min(MAX_ORDER, round(2 * math.pi * radius * BAND_LIMIT)) + 1):
            # 2 is -1 modulo three: with the other sign it belongs to the orders 3 k + 1
            orders.append(-m if m % FOLD == 2 else m)
            wave = torch.exp(-1j * orders[-1] * torch.atan2(y, x))
            columns.append(SCALE * math.sqrt(1 + m) * ring / ring.sum() * wave)
    basis, order = torch.stack(columns, -1).flatten(0, 1), torch.tensor(orders)
    first = (order % FOLD != 0).long().argsort(stable=True)
    return basis[:, first], order[first]

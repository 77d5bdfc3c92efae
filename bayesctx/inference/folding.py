"""Networks of the likelihood with those hidden units folded away that stay linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FoldedNetwork"]

TOLERANCE = 0.01  # of what a unit may add to the outputs by not being linear
ROWS_AT_ONCE = 1024  # whose hidden layers stay in the cache of the CPU
silu, linear = nn.functional.silu, nn.functional.linear


class FoldedNetwork(nn.Module):
    """A network of two hidden layers, evaluated faster and at several doses at once.

    Weight decay leaves most hidden units of a trained network so close to zero that their
    activation is a linear function of their input. Such units are replaced by the linear map
    that they are, which is folded into the next layer.

    Parameters
    ----------
    net : Sequential
        Three linear layers with SiLU between them.
    inputs : Tensor, shape (row, input)
        Rows that stand for all that the network will be given.
    direction : Tensor, shape (input,)
        What the inputs gain for every unit of log dose.

    Attributes
    ----------
    log_ratio : Tensor, shape (dose, *batch)
        Log doses at which the network is evaluated relative to those of the inputs, the batch
        dimensions as the leading ones of the inputs.

    Notes
    -----
    A unit is folded if its activation departs from a line by less than 0.01 over the norm of its
    weights in the next layer, for all rows.
    """

    def __init__(self, net: nn.Sequential, inputs: Tensor, direction: Tensor) -> None:
        super().__init__()
        first, second, third = (m for m in net if isinstance(m, nn.Linear))
        before = first(inputs)
        hidden = silu(before)
        slope, offset, kept = _straight(before, hidden, second.weight)
        # the second layer sees the units that were kept, and the inputs
        skip = (second.weight * (slope * ~kept)) @ first.weight
        shift = second.weight @ ((slope * first.bias + offset) * ~kept) + second.bias
        weight = torch.cat([second.weight[:, kept], skip], 1)

        before = second(hidden)
        slope, offset, kept_second = _straight(before, silu(before), third.weight)
        rest = third.weight * (slope * ~kept_second)
        last = torch.cat([third.weight[:, kept_second], rest @ weight], 1)
        bias = third.weight @ ((slope * shift + offset) * ~kept_second) + third.bias
        self.first = first.weight[kept], first.bias[kept]
        self.second = weight[kept_second], shift[kept_second]
        self.third = last, bias
        self.direction = direction
        self.log_ratio = direction.new_zeros(1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        inputs : Tensor, shape (*batch, *row, input)
            Inputs of the network.

        Returns
        -------
        Tensor, shape (dose, *batch, *row, output)
            Outputs at every dose.
        """
        ratio = self.log_ratio.view(
            *self.log_ratio.shape, *[1] * (inputs.ndim + 1 - self.log_ratio.ndim)
        )
        rows = inputs + ratio * self.direction
        parts = [self._evaluate(part) for part in rows.flatten(0, -2).split(ROWS_AT_ONCE)]
        return torch.cat(parts).view(*rows.shape[:-1], -1)

    def _evaluate(self, rows: Tensor) -> Tensor:
        """Outputs of some rows."""
        seen = torch.cat([silu(linear(rows, *self.first)), rows], -1)
        return linear(torch.cat([silu(linear(seen, *self.second)), seen], -1), *self.third)


def _straight(before: Tensor, after: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Line through the activations of each unit, and whether the unit departs too far from it."""
    mean, centred = after.mean(0), before - before.mean(0)
    slope = (centred * after).mean(0) / centred.square().mean(0).clamp(min=1e-12)
    offset = mean - slope * before.mean(0)
    departure = (after - slope * before - offset).abs().amax(0)
    return slope, offset, departure * weight.norm(dim=0) > TOLERANCE

"""Networks of the likelihood with those hidden units folded away that stay linear."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..likelihood import describe
from ..model import DefectModel
from .cases import Case

__all__ = ["fold_model"]

TOLERANCE = 0.01  # of what a unit may add to the outputs by not being linear
SAMPLE = 128  # draws, each in one material, that stand for all that the network will be given
ROWS_AT_ONCE = 1024  # whose hidden layers stay in the cache of the CPU
silu, linear = nn.functional.silu, nn.functional.linear


class _Folded(nn.Module):
    """Three linear layers with SiLU between them, without the units that stay linear for inputs.

    Weight decay leaves most hidden units of a trained network so close to zero that their
    activation is a linear function of their input. Those whose activation departs from a line by
    less than 0.01 over the norm of their weights in the next layer are folded into that layer.
    """

    def __init__(self, net: nn.Sequential, inputs: Tensor) -> None:
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

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the network, shape (*batch, output)."""
        parts = [self._evaluate(part) for part in inputs.flatten(0, -2).split(ROWS_AT_ONCE)]
        return torch.cat(parts).view(*inputs.shape[:-1], -1)

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


def fold_model(model: DefectModel, case: Case) -> DefectModel:
    """Copy a model with a network that is faster for what is drawn and enumerated in a case.

    Parameters
    ----------
    model : DefectModel
        The model.
    case : Case
        Context and materials that the network will be given.

    Returns
    -------
    DefectModel
        With the same encoder.
    """
    generator = torch.Generator().manual_seed(0)

    def some(size: int) -> Tensor:
        return torch.randint(size, (SAMPLE,), generator=generator)

    def pick(values: Tensor, *at: Tensor) -> Tensor:
        return values[(image % len(values), *at)]

    image, draw = some(len(case.images)), some(case.possible.shape[1])
    host, dopant = (some(n) for n in case.materials.dopant.shape[-2:])
    context = {n: pick(v, draw) for n, v in case.context.items()}
    materials = pick(case.materials.host, host), pick(case.materials.dopant, host, dopant)
    shared = (model.encoder, model.outliers)
    folded = copy.deepcopy(model, {id(m): m for m in shared})
    inputs = describe(*materials, context).flatten(0, 1)
    folded.likelihood.net = _Folded(model.likelihood.net, inputs)
    return folded

"""Sums over draws of the context, each hypothesis over as many as its share of the error needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..defects import DEFECTS
from ..likelihood import UNDERFLOW, describe, log_sum_exp, mixture_slopes
from ..model import NUM_UNDOPED, DefectModel, Materials, hypothesis_classes
from ..model.program import NUM_ALTERNATIVES
from ..model.table import DOPED_HYPOTHESIS, UNDOPED_HYPOTHESES
from .cases import Case

__all__ = ["Block", "SMALLEST", "Tally", "empty_tally", "fold_model", "log_prior_of", "weigh"]

ROWS_AT_ONCE = 2**13  # of the network: 6 MB of parameters
SMALLEST = 1e-38  # sums below are zero in single precision


@dataclass(frozen=True)
class Block:
    """Joint density of features, host, hypothesis and context under successive draws.

    Attributes
    ----------
    start : int
        Position of the first draw.
    active : Tensor of bool, shape (patch, host, hypothesis)
        Terms that were weighed.
    joint : Tensor, shape (term, draw)
        Of these terms in their order, over exp(log_peak) of the patch.
    log_peak : Tensor, shape (patch,)
        What the densities of a patch are relative to; -inf for patches without terms.
    """

    start: int
    active: Tensor
    joint: Tensor
    log_peak: Tensor

    @property
    def row(self) -> Tensor:
        """Row of ``joint`` of every patch, host and hypothesis; -1 without one."""
        row = self.active.flatten().cumsum(0).view(self.active.shape) - 1
        return row.masked_fill(~self.active, -1)


@dataclass(frozen=True)
class Tally:
    """Sums over the draws of the context.

    Attributes
    ----------
    log_peak : Tensor, shape (patch,)
        What the sums of a patch are relative to.
    count, total, square : Tensor, shape (patch, host, hypothesis)
        Draws under which a term was weighed, sum of its joint density and of the square.
    moments : Tensor, shape (patch, defect_class, defect_class)
        Sum of products of the joint densities of two classes under the same draw.
    """

    log_peak: Tensor
    count: Tensor
    total: Tensor
    square: Tensor
    moments: Tensor

    @property
    def share(self) -> Tensor:
        """Posterior probability of every host and hypothesis, shape (patch, host, hypothesis)."""
        return self._mean / self._evidence[:, None, None]

    @property
    def defect(self) -> Tensor:
        """Class probabilities, shape (patch, defect_class)."""
        share = self.share.sum(1)
        defect = torch.zeros(len(share), len(DEFECTS), dtype=torch.float32)
        return defect.index_add_(1, hypothesis_classes(share.shape[1] - NUM_UNDOPED), share)

    @property
    def ess(self) -> Tensor:
        """Effective number of draws, shape (patch,)."""
        total = self.total.sum((1, 2))
        return total.square() / self.moments.sum((1, 2)).clamp(min=SMALLEST)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the class probability that is known worst, shape (patch,)."""
        defect, moments = self.defect, self.moments
        variance = moments.diagonal(dim1=1, dim2=2) - 2 * defect * moments.sum(2)
        variance = variance + defect.square() * moments.sum((1, 2))[:, None]
        scale = self.count.amax((1, 2)) * self._evidence
        return variance.amax(1).clamp(min=0).sqrt() / scale

    @property
    def term_error(self) -> Tensor:
        """Standard error of every term over the evidence, shape (patch, host, hypothesis)."""
        scale = self.count.clamp(min=1) * self._evidence[:, None, None]
        return self.square.sqrt() / scale

    @property
    def _mean(self) -> Tensor:
        return self.total / self.count.clamp(min=1)

    @property
    def _evidence(self) -> Tensor:
        return self._mean.sum((1, 2)).clamp(min=SMALLEST)

    def add(self, block: Block) -> Tally:
        """Add further draws.

        Parameters
        ----------
        block : Block
            Of these draws.

        Returns
        -------
        Tally
            Of all draws.
        """
        peak = torch.maximum(self.log_peak, block.log_peak)
        old, new = ((v - peak).exp() for v in (self.log_peak, block.log_peak))
        patch, _, hypothesis = block.active.nonzero().T
        joint = block.joint * new[patch][:, None]
        total, square = self.total * old[:, None, None], self.square * old.square()[:, None, None]
        total[block.active] += joint.sum(1)
        square[block.active] += joint.square().sum(1)

        present, place = patch.unique(return_inverse=True)
        classes = hypothesis_classes(block.active.shape[2] - NUM_UNDOPED)[hypothesis]
        by_class = torch.zeros(len(present) * len(DEFECTS), joint.shape[1], dtype=torch.float32)
        by_class = by_class.index_add_(0, place * len(DEFECTS) + classes, joint)
        by_class = by_class.view(len(present), len(DEFECTS), -1)
        moments = self.moments * old.square()[:, None, None]
        moments[present] += by_class @ by_class.mT
        return Tally(peak, self.count + block.active * joint.shape[1], total, square, moments)


def empty_tally(*shape: int) -> Tally:
    """Sums over no draws.

    Parameters
    ----------
    *shape : int
        Numbers of patches, hosts and hypotheses.

    Returns
    -------
    Tally
        To which draws are added.
    """
    zeros = torch.zeros(shape, dtype=torch.float32)
    moments = torch.zeros(shape[0], len(DEFECTS), len(DEFECTS), dtype=torch.float32)
    peak = torch.full(shape[:1], -math.inf, dtype=torch.float32)
    return Tally(peak, zeros, zeros, zeros, moments)


def log_prior_of(materials: Materials, class_weight: Tensor) -> Tensor:
    """Log prior probability of hosts and hypotheses.

    Parameters
    ----------
    materials : Materials, shapes (*batch, host, ...)
        What is enumerated.
    class_weight : Tensor, shape (*batch or nothing, defect_class)
        Prior probability of the classes.

    Returns
    -------
    Tensor, shape (*batch, host, hypothesis)
        Log probability.
    """
    classes = hypothesis_classes(materials.dopant.shape[-1])
    weight = class_weight[..., None, classes].expand(*materials.host.shape, -1).clone()
    weight[..., NUM_UNDOPED:] *= materials.dopant_weight
    return (weight * materials.host_weight[..., None]).log()


def weigh(
    model: DefectModel,
    context: Mapping[str, Tensor],
    possible: Tensor,
    start: int,
    features: Tensor,
    materials: Materials,
    log_prior: Tensor,
    active: Tensor,
) -> Block:
    """Weigh some terms under further draws.

    Parameters
    ----------
    model : DefectModel
        The model.
    context : mapping of str to Tensor, shape (draw,)
        The draws.
    possible : Tensor of bool, shape (draw,)
        Which of them can be.
    start : int
        Position of the first.
    features : Tensor, shape (patch, feature)
        Contrast features.
    materials : Materials, shapes (1, host, ...)
        What is enumerated.
    log_prior : Tensor, shape (patch or 1, host, hypothesis)
        From ``log_prior_of``.
    active : Tensor of bool, shape (patch, host, hypothesis)
        Terms to weigh.

    Returns
    -------
    Block
        Of these draws.
    """
    rows = torch.cat([features.square(), features, torch.ones_like(features[:, :1])], -1)
    empty = torch.empty(0, len(context["dose"]), dtype=torch.float32)
    block = Block(start, active, empty, empty)
    row, patch = block.row, active.nonzero()[:, 0]
    joint = empty.new_empty(len(patch), empty.shape[1])
    for host in active.any(0).any(1).nonzero()[:, 0].tolist():
        hypotheses = active[:, host].any(0).nonzero()[:, 0].tolist()
        size = max(1, ROWS_AT_ONCE // len(hypotheses))
        for at in torch.arange(empty.shape[1]).split(size):
            draws = {n: v[at] for n, v in context.items()}
            slopes = _slopes(model, draws, materials.row(0).row(host), hypotheses)
            for hypothesis, of_hypothesis in zip(hypotheses, slopes, strict=True):
                own = active[:, host, hypothesis]
                components = rows[own] @ of_hypothesis.flatten(0, 1).mT
                components = components.unflatten(1, of_hypothesis.shape[:2]).transpose(1, 2)
                joint[row[own, host, hypothesis], at[0] : at[-1] + 1] = log_sum_exp(components)
    joint += log_prior.expand(active.shape)[active][:, None]
    joint.masked_fill_(~possible, -math.inf)
    peak = torch.full((len(rows),), -math.inf, dtype=torch.float32)
    peak = peak.scatter_reduce(0, patch, joint.amax(1), "amax")
    joint = joint.sub_(peak[patch][:, None]).clamp_(min=UNDERFLOW).exp_() * possible
    return Block(start, active, joint, peak)


def _slopes(
    model: DefectModel,
    context: Mapping[str, Tensor],
    materials: Materials,
    hypotheses: Sequence[int],
) -> Tensor:
    """Coefficients of the components in one host, shape (hypothesis, component, draw, -1)."""
    plain = [UNDOPED_HYPOTHESES[i] for i in hypotheses if i < NUM_UNDOPED]
    dopant = materials.dopant[[i - NUM_UNDOPED for i in hypotheses if i >= NUM_UNDOPED]]
    host, inputs = materials.host.view(1), []
    if plain:
        inputs.append(describe(host, materials.dopant[:1], context, plain))
    if len(dopant):
        each = {n: v[:, None] for n, v in context.items()}
        inputs.append(describe(host, dopant[None], each, [DOPED_HYPOTHESIS])[..., 0, :])
    parameters = model.likelihood.parameters_of(torch.cat(inputs, 1).transpose(0, 1))
    slopes = mixture_slopes(*(p.transpose(1, 2) for p in parameters))
    # the hypotheses of a class are equally probable
    counts = [NUM_ALTERNATIVES[h] for h in plain] + [1] * len(dopant)
    slopes[..., -1] -= torch.tensor(counts).to(slopes).log()[:, None, None]
    return slopes


TOLERANCE = 0.01  # of what a unit may add to the outputs by not being linear
SAMPLE = 128  # draws, each in one material, that stand for all that the network will be given
CACHED_ROWS = 1024  # whose hidden layers stay in the cache of the CPU
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
        parts = [self._evaluate(part) for part in inputs.flatten(0, -2).split(CACHED_ROWS)]
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

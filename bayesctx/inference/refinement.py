"""Posterior of patches over many draws of the context where few do not settle their class."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..defects import HYPOTHESES
from ..likelihood import UNDERFLOW, describe
from ..model import NUM_PLAIN, DefectModel, Materials, class_members, outcome_classes
from .cases import Case
from .folding import FoldedNetwork
from .terms import (
    Noise,
    PatchPosterior,
    Terms,
    draw_noise,
    draw_terms,
    join_patches,
    standard_error,
    summarise,
)

__all__ = ["Level", "fold_model", "levels_of", "refined_patches"]

TOLERANCE = 0.01  # standard error of a class probability that is settled
LEFT_OUT = 3e-3  # of the posterior of a patch: hypotheses that are not weighed again
SAMPLE = 128  # draws, each in one material, by which hidden units are found that stay linear
ROWS_AT_ONCE = 2**15  # of the network: 26 MB of parameters
PATCHES_AT_ONCE = 256
# outcome of every hypothesis without the dopant, in the order of a table
PLAIN_OUTCOMES = torch.cat([
    torch.full((m.stop - m.start,), i) for i, m in enumerate(class_members(HYPOTHESES))
])  # fmt: skip


@dataclass(frozen=True)
class Level:
    """Draws of the context, with the likelihood of every hypothesis in the hosts asked for so far.

    Attributes
    ----------
    base : dict of str to Tensor, shape (base,)
        Draws of the context.
    dose : Tensor, shape (dose, base)
        Doses with which every one of them is combined.
    slopes : dict of int to Tensor, shape (hypothesis, component * dose * base, 2 feature + 1)
        Coefficients of the log densities by position of the host, see ``mixture_slopes``.
    """

    base: Mapping[str, Tensor]
    dose: Tensor
    slopes: dict[int, Tensor] = field(default_factory=dict)

    @property
    def context(self) -> dict[str, Tensor]:
        """All draws of the context, shape (1, draw)."""
        draws = {n: v.repeat(len(self.dose))[None] for n, v in self.base.items()}
        return draws | {"dose": self.dose.reshape(1, -1)}


def levels_of(case: Case, num_first: int, num_doses: int) -> list[Level]:
    """Arrange the draws of a case: a few for all patches, all of them for those not settled.

    Parameters
    ----------
    case : Case
        Whose images share their draws.
    num_first : int
        Draws for all patches.
    num_doses : int
        Doses with which every draw is combined where all are used. The dose is then independent of
        the other variables given what is known.

    Returns
    -------
    list of Level
        One or two. The doses of a draw are its own and those of other draws, equally far apart
        in rank.
    """
    possible = case.possible[0]
    draws = {n: v[0, possible] for n, v in case.context.items()}
    dose = draws["dose"]
    rank = dose.argsort(stable=True).argsort()
    apart = torch.arange(num_doses)[:, None] * len(dose) // num_doses
    doses = dose.sort().values[(rank + apart) % len(dose)]
    first = Level({n: v[:num_first] for n, v in draws.items()}, dose[None, :num_first])
    return [first, Level(draws, doses)] if doses.numel() > first.dose.numel() else [first]


def fold_model(model: DefectModel, cases: Sequence[Case]) -> DefectModel:
    """Copy a model with a network that is faster and takes several doses.

    Parameters
    ----------
    model : DefectModel
        The model.
    cases : sequence of Case
        Contexts and materials that the network will be given.

    Returns
    -------
    DefectModel
        With the same encoder.
    """
    generator = torch.Generator().manual_seed(0)

    def some(size: int) -> int:
        return int(torch.randint(size, (1,), generator=generator))

    context, host, dopant = {n: [] for n in cases[0].context}, [], []
    for i in range(SAMPLE):
        case = cases[i * len(cases) // SAMPLE if len(cases) > SAMPLE else i % len(cases)]
        image, draw = some(len(case.possible)), some(case.possible.shape[1])
        at = some(case.materials.host.shape[1]), some(case.materials.dopant.shape[2])
        for name, values in case.context.items():
            context[name].append(values[image, draw])
        host.append(case.materials.host[0, at[0]])
        dopant.append(case.materials.dopant[0, at[0], at[1]])
    sample = {n: torch.stack(v) for n, v in context.items()}
    material = torch.stack(host), torch.stack(dopant)
    inputs = describe(*material, sample)
    brighter = describe(*material, sample | {"dose": sample["dose"] * math.e})
    shared = (model.encoder, model.outliers)
    folded = copy.deepcopy(model, {id(m): m for m in shared})
    direction = (brighter - inputs).flatten(0, 1).mean(0)
    folded.likelihood.net = FoldedNetwork(model.likelihood.net, inputs.flatten(0, 1), direction)
    return folded


def refined_patches(
    model: DefectModel,
    levels: Sequence[Level],
    features: Tensor,
    materials: Materials,
    class_weight: Tensor,
    *,
    num_draws: int,
    generator: torch.Generator,
) -> PatchPosterior:
    """Posterior of patches that are images of their own, refined where few draws do not settle it.

    Parameters
    ----------
    model : DefectModel
        From ``fold_model``.
    levels : sequence of Level
        From ``levels_of``.
    features : Tensor, shape (image, feature)
        Contrast features.
    materials : Materials, shapes (image or 1, host, ...)
        What was enumerated; all images have the same hosts and dopants in the same places, at
        weights of their own.
    class_weight : Tensor, shape (defect_class,)
        Prior probability of the classes.
    num_draws : int
        Joint draws to return.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    PatchPosterior
        For all patches; draws of the context by their positions in the last level.
    """
    rows = torch.cat([features.square(), features, torch.ones_like(features[:, :1])], -1)
    log_prior = _log_prior(materials, class_weight)
    parts = []
    for at in torch.arange(len(features)).split(PATCHES_AT_ONCE):
        own = materials.map(lambda f, at=at: f[at] if len(f) > 1 else f)
        prior = log_prior[at] if len(log_prior) > 1 else log_prior.expand(len(at), -1, -1)
        noise = draw_noise(len(at), num_draws, generator)
        parts.append(_solve_chunk(model, levels, rows[at], own, prior, num_draws, noise))
    return join_patches(parts)


def _solve_chunk(
    model: DefectModel,
    levels: Sequence[Level],
    rows: Tensor,
    materials: Materials,
    log_prior: Tensor,
    num_draws: int,
    noise: Noise,
) -> PatchPosterior:
    """Posterior of some patches by the first level, or by the second if that does not settle it."""
    active = log_prior > -math.inf
    terms = _weigh(model, levels[0], rows, materials, log_prior, active)
    found = summarise(terms, materials)
    if len(levels) == 1:
        return draw_terms(terms, found, materials, num_draws, noise)
    settled = standard_error(terms, found, materials.dopant.shape[-1]) <= TOLERANCE
    share = torch.zeros_like(log_prior)
    share[active] = found.share
    active &= _most_probable(share)
    parts = []
    for level, patches in zip(levels, (settled, ~settled), strict=True):
        own = materials.map(lambda f, patches=patches: f[patches] if len(f) > 1 else f)
        given = rows[patches], own, log_prior[patches], active[patches]
        weighed = terms.of(patches) if level is levels[0] else _weigh(model, level, *given)
        found = summarise(weighed, own)
        parts.append(draw_terms(weighed, found, own, num_draws, noise.of(patches)))
    order = torch.cat([settled.nonzero()[:, 0], (~settled).nonzero()[:, 0]]).argsort()
    return join_patches(parts, order)


def _log_prior(materials: Materials, class_weight: Tensor) -> Tensor:
    """Log prior probability of hosts and hypotheses, shape (image or 1, host, hypothesis)."""
    num_dopants = materials.dopant.shape[-1]
    outcome = _outcomes(num_dopants)
    weight = class_weight[outcome_classes(num_dopants)[outcome]].repeat(*materials.host.shape, 1)
    weight[..., len(PLAIN_OUTCOMES) :] *= materials.dopant_weight
    return (weight * materials.host_weight[..., None]).log()


def _outcomes(num_dopants: int) -> Tensor:
    """Outcome of every hypothesis of a table."""
    return torch.cat([PLAIN_OUTCOMES, NUM_PLAIN + torch.arange(num_dopants)])


def _most_probable(share: Tensor) -> Tensor:
    """Fewest hypotheses that hold nearly all of the posterior, shape (patch, host, hypothesis)."""
    ranked, order = share.flatten(1).sort(dim=1, descending=True)
    kept = ranked.cumsum(1) - ranked < 1 - LEFT_OUT
    return torch.zeros_like(kept).scatter(1, order, kept).view_as(share)


def _weigh(
    model: DefectModel,
    level: Level,
    rows: Tensor,
    materials: Materials,
    log_prior: Tensor,
    active: Tensor,
) -> Terms:
    """Terms of patches under the hypotheses that are not left out."""
    patch, host, hypothesis = active.nonzero().T
    _tabulate(model, level, host.unique().tolist(), materials)
    joint = torch.empty(len(patch), level.dose.numel(), dtype=torch.float32)
    log_peak = torch.empty(len(patch), dtype=torch.float32)
    pair = host * active.shape[2] + hypothesis
    order = pair.argsort(stable=True)
    for members in order.split(pair.bincount()[pair.unique()].tolist()):
        first = members[0]
        slopes = level.slopes[int(host[first])][hypothesis[first]]
        joint[members], log_peak[members] = _density(slopes, rows[patch[members]], joint.shape[1])
    log_scale = log_peak + log_prior[active]
    top = torch.full((len(rows),), -math.inf).scatter_reduce(0, patch, log_scale, "amax")
    joint *= (log_scale - top[patch]).exp()[:, None]
    return Terms(patch, host, _outcomes(materials.dopant.shape[-1])[hypothesis], joint, top)


def _density(slopes: Tensor, rows: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """Density under every draw relative to the best component, and the log of the latter."""
    components = rows @ slopes.mT
    peak = components.amax(1)
    components.sub_(peak[:, None]).clamp_(min=UNDERFLOW).exp_()
    first, *others = components.split(num_draws, 1)
    for other in others:
        first.add_(other)
    return first, peak


def _tabulate(model: DefectModel, level: Level, hosts: Sequence[int], materials: Materials) -> None:
    """Tabulate the likelihood of a level in the hosts that it lacks."""
    hosts = [h for h in hosts if h not in level.slopes]
    if not hosts:
        return
    own = materials.map(lambda f: f[:1, hosts])
    num_doses, num_base = level.dose.shape
    num_hypotheses = len(PLAIN_OUTCOMES) + own.dopant.shape[2]
    at_once = max(1, ROWS_AT_ONCE // (num_doses * len(hosts) * num_hypotheses))
    whole = None
    for at in torch.arange(num_base).split(at_once):
        base = {n: v[None, at] for n, v in level.base.items()}
        model.likelihood.net.log_ratio = (level.dose[:, at] / base["dose"]).log()[:, None]
        # (host, hypothesis, component, dose, base, coefficient)
        slopes = model.tabulate(base, own).slopes[:, 0].permute(2, 3, 4, 0, 1, 5)
        if whole is None:
            whole = slopes.new_empty(*slopes.shape[:4], num_base, slopes.shape[5])
        whole[..., at, :] = slopes
    level.slopes.update(zip(hosts, whole.flatten(2, 4), strict=True))

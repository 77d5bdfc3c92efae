"""Terms of the posterior of patches: hosts, outcomes and draws of the context, summed and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..defects import DEFECTS
from ..model import NUM_PLAIN, Materials, outcome_classes

__all__ = [
    "Noise",
    "PatchPosterior",
    "Summary",
    "Terms",
    "draw_noise",
    "draw_terms",
    "join_patches",
    "standard_error",
    "summarise",
]

NUM_RUNS = 8  # of the draws of the context, whose differences give the standard error
SMALLEST = 1e-38  # sums below are zero in single precision


@dataclass(frozen=True)
class PatchPosterior:
    """Posterior of patches that are images of their own.

    Attributes
    ----------
    defect : Tensor, shape (image, defect_class)
        Class probabilities.
    material : Tensor, shape (image, host, dopant)
        Probabilities of the materials that were enumerated.
    ess : Tensor, shape (image,)
        Effective number of draws of the context.
    draw, host, dopant, outcome : Tensor of int, shape (image, num_draws)
        Joint draws: index of the draw of the context, of the host, the dopant and the outcome.
    log_likelihood : Tensor, shape (image, num_draws)
        Log density of the contrast given the drawn host, dopant and context.
    """

    defect: Tensor
    material: Tensor
    ess: Tensor
    draw: Tensor
    host: Tensor
    dopant: Tensor
    outcome: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True)
class Terms:
    """Joint density of features, host, outcome and draw of the context for some patches.

    Attributes
    ----------
    patch, host, outcome : Tensor of int, shape (term,)
        Positions of the patch, in ascending order, of the host and of the outcome of each term.
    joint : Tensor, shape (term, draw)
        Prior probability times density of the features, over exp(log_peak) of the patch.
    log_peak : Tensor, shape (patch,)
        What the joint densities of a patch are relative to.
    """

    patch: Tensor
    host: Tensor
    outcome: Tensor
    joint: Tensor
    log_peak: Tensor

    def of(self, patches: Tensor) -> Terms:
        """Select some patches.

        Parameters
        ----------
        patches : Tensor of bool, shape (patch,)
            Which ones.

        Returns
        -------
        Terms
            Of these patches, numbered anew.
        """
        kept = patches[self.patch]
        patch = (patches.cumsum(0) - 1)[self.patch[kept]]
        own = self.host[kept], self.outcome[kept], self.joint[kept]
        return Terms(patch, *own, self.log_peak[patches])


@dataclass(frozen=True)
class Summary:
    """Posterior of patches, summed over their terms.

    Attributes
    ----------
    share : Tensor, shape (term,)
        Posterior probability of each term.
    defect : Tensor, shape (patch, defect_class)
        Class probabilities.
    material : Tensor, shape (patch, host, dopant)
        Probabilities of the materials.
    ess : Tensor, shape (patch,)
        Effective number of draws of the context.
    """

    share: Tensor
    defect: Tensor
    material: Tensor
    ess: Tensor


@dataclass(frozen=True)
class Noise:
    """Random numbers behind the joint draws of patches.

    Attributes
    ----------
    offset : Tensor, shape (patch,)
        Of the systematic resampling, in [0, 1).
    dopant : Tensor, shape (patch, num_draws)
        For the dopant where the drawn outcome does not hold it, in [0, 1).
    order : Tensor of int, shape (num_draws,)
        Order of the draws.
    """

    offset: Tensor
    dopant: Tensor
    order: Tensor

    def of(self, patches: Tensor) -> Noise:
        """Select some patches.

        Parameters
        ----------
        patches : Tensor of bool, shape (patch,)
            Which ones.

        Returns
        -------
        Noise
            Of these patches.
        """
        return Noise(self.offset[patches], self.dopant[patches], self.order)


def draw_noise(num_patches: int, num_draws: int, generator: torch.Generator) -> Noise:
    """Draw the random numbers behind the joint draws of patches.

    Parameters
    ----------
    num_patches, num_draws : int
        Numbers of patches and of joint draws of each.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Noise
        As many numbers whatever the posterior of the patches.
    """
    offset = torch.rand(num_patches, generator=generator, dtype=torch.float32)
    dopant = torch.rand(num_patches, num_draws, generator=generator, dtype=torch.float32)
    return Noise(offset, dopant, torch.randperm(num_draws, generator=generator))


def summarise(terms: Terms, materials: Materials) -> Summary:
    """Sum the terms of patches.

    Parameters
    ----------
    terms : Terms
        Of some patches.
    materials : Materials, shapes (patch or 1, host, ...)
        What was enumerated.

    Returns
    -------
    Summary
        Of these patches.
    """
    num_patches, num_dopants = len(terms.log_peak), materials.dopant.shape[-1]
    weight = _zeros(num_patches, terms.joint.shape[1]).index_add_(0, terms.patch, terms.joint)
    total = weight.sum(1).clamp(min=SMALLEST)
    share = terms.joint.sum(1) / total[terms.patch]
    defect = _zeros(num_patches * len(DEFECTS))
    defect.index_add_(0, _class_places(terms, num_dopants), share)
    return Summary(
        share=share,
        defect=defect.view(num_patches, len(DEFECTS)),
        material=_material(terms, share, materials),
        ess=total.square() / weight.square().sum(1).clamp(min=SMALLEST),
    )


def standard_error(terms: Terms, found: Summary, num_dopants: int) -> Tensor:
    """Estimate how well the draws of the context settle the class of patches.

    Parameters
    ----------
    terms : Terms
        Of some patches.
    found : Summary
        Of the same terms.
    num_dopants : int
        Dopants that were enumerated.

    Returns
    -------
    Tensor, shape (patch,)
        Standard error of the class probability that is known worst; infinite where the draws are
        too few to tell.

    Notes
    -----
    The draws are split into eight runs of the Sobol sequence. The spread of the runs tells the
    error also where it is smaller than that of as many random draws.
    """
    num_patches, num_draws = len(terms.log_peak), terms.joint.shape[1]
    num_runs = math.gcd(num_draws, NUM_RUNS)
    if num_runs == 1:
        return torch.full_like(terms.log_peak, math.inf)
    mass = _zeros(num_patches * len(DEFECTS), num_runs)
    runs = terms.joint.unflatten(1, (num_runs, -1)).sum(-1)
    mass = mass.index_add_(0, _class_places(terms, num_dopants), runs)
    mass = mass.view(num_patches, len(DEFECTS), num_runs)
    mass = mass / mass.sum((1, 2), keepdim=True).clamp(min=SMALLEST)
    moved = mass - found.defect[..., None] * mass.sum(1, keepdim=True)
    return (moved.square().sum(-1) * (num_runs / (num_runs - 1))).amax(1).sqrt()


def draw_terms(
    terms: Terms, found: Summary, materials: Materials, num_draws: int, noise: Noise
) -> PatchPosterior:
    """Draw from the posterior of patches.

    Parameters
    ----------
    terms : Terms
        Of some patches.
    found : Summary
        Of the same terms.
    materials : Materials, shapes (patch or 1, host, ...)
        What was enumerated.
    num_draws : int
        Joint draws of each patch.
    noise : Noise
        Random numbers of the patches.

    Returns
    -------
    PatchPosterior
        Of these patches.
    """
    num_patches, (num_hosts, num_dopants) = len(terms.log_peak), materials.dopant.shape[-2:]
    weights = materials.host_weight, materials.dopant_weight
    host_weight, dopant_weight = (w.expand(num_patches, *w.shape[1:]) for w in weights)
    at = torch.arange(num_patches)[:, None]

    term, draw = _systematic(terms, found.share, num_draws, noise)
    host, outcome = terms.host[term], terms.outcome[term]
    edges = dopant_weight.cumsum(-1)[at, host]
    dopant = (edges < noise.dopant[..., None] * edges[..., -1:]).sum(-1)
    dopant = torch.where(outcome >= NUM_PLAIN, outcome - NUM_PLAIN, dopant)

    is_plain = terms.outcome < NUM_PLAIN
    place = terms.patch * num_hosts + terms.host
    plain = _zeros(num_patches * num_hosts, terms.joint.shape[1])
    plain.index_add_(0, place[is_plain], terms.joint[is_plain])
    doped = torch.full((num_patches * num_hosts, num_dopants), -1)
    rest = (~is_plain).nonzero()[:, 0]
    doped[place[rest], terms.outcome[rest] - NUM_PLAIN] = rest
    place = at * num_hosts + host
    holding = doped[place, dopant]
    of_dopant = terms.joint[holding.clamp(min=0), draw] * (holding >= 0)
    of_dopant = of_dopant / dopant_weight[at, host, dopant].clamp(min=SMALLEST)
    given = ((plain[place, draw] + of_dopant) / host_weight[at, host]).clamp(min=SMALLEST)
    log_likelihood = given.log() + terms.log_peak[:, None]
    return PatchPosterior(
        found.defect, found.material, found.ess, draw, host, dopant, outcome, log_likelihood
    )


def join_patches(parts: Sequence[PatchPosterior], order: Tensor | None = None) -> PatchPosterior:
    """Put the posteriors of different patches together.

    Parameters
    ----------
    parts : sequence of PatchPosterior
        One after the other.
    order : Tensor of int, shape (image,), optional
        Where each patch of the result is among them. Default: as they come.

    Returns
    -------
    PatchPosterior
        Of all patches.
    """
    joined = (torch.cat([getattr(p, f.name) for p in parts]) for f in fields(PatchPosterior))
    return PatchPosterior(*(v if order is None else v[order] for v in joined))


def _zeros(*shape: int) -> Tensor:
    """Zeros in single precision, whatever the default of torch."""
    return torch.zeros(shape, dtype=torch.float32)


def _class_places(terms: Terms, num_dopants: int) -> Tensor:
    """Positions of the terms in a flattened array over patches and classes."""
    return terms.patch * len(DEFECTS) + outcome_classes(num_dopants)[terms.outcome]


def _material(terms: Terms, share: Tensor, materials: Materials) -> Tensor:
    """Probabilities of the materials, shape (patch, host, dopant)."""
    num_patches, (num_hosts, num_dopants) = len(terms.log_peak), materials.dopant.shape[-2:]
    place = terms.patch * num_hosts + terms.host
    is_plain = terms.outcome < NUM_PLAIN
    plain = _zeros(num_patches * num_hosts).index_add_(0, place[is_plain], share[is_plain])
    doped = _zeros(num_patches * num_hosts * num_dopants)
    at = (place * num_dopants + terms.outcome - NUM_PLAIN)[~is_plain]
    doped.index_add_(0, at, share[~is_plain])
    # the crystal has its dopant whether or not the central site holds it
    by_host = plain.view(num_patches, num_hosts, 1) * materials.dopant_weight
    return by_host + doped.view(num_patches, num_hosts, num_dopants)


def _systematic(terms: Terms, share: Tensor, num_draws: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw terms and draws of the context by systematic resampling, shapes (patch, num_draws)."""
    last = torch.ones_like(terms.patch, dtype=torch.bool)
    last[:-1] = terms.patch[1:] != terms.patch[:-1]
    first = last.roll(1)
    before = share.double().cumsum(0) - share
    start = before - before[first][terms.patch]
    until = (num_draws * (start + share) + noise.offset[terms.patch]).floor().long()
    until[last] = num_draws
    since = until.roll(1).masked_fill(first, 0)
    term = torch.repeat_interleave((until - since).clamp(min=0))
    term = term.view(len(terms.log_peak), num_draws)[:, noise.order]
    place = (noise.order + 1 - noise.offset[:, None]) / num_draws
    within = ((place - start[term]) / share[term]).float().clamp(0, 1)
    # the first draw of the context by which a fraction of the term is reached, by bisection
    cumulated, num_context = terms.joint.cumsum(1).view(-1), terms.joint.shape[1]
    begin, last_draw = term * num_context, num_context - 1
    target = within * cumulated[begin + last_draw]
    draw = torch.zeros_like(term)
    for step in (2**k for k in reversed(range(num_context.bit_length()))):
        further = (draw + (step - 1)).clamp_(max=last_draw)
        draw += step * (cumulated[begin + further] < target)
    return term, draw.clamp_(max=last_draw)

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
    "summarise",
]

NUM_BATCHES = 8  # of draws, whose differences give the standard error


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

    def of(self, chosen: Tensor) -> Terms:
        """Select some patches.

        Parameters
        ----------
        chosen : Tensor of bool, shape (patch,)
            Which ones.

        Returns
        -------
        Terms
            Of these patches, numbered anew.
        """
        kept = chosen[self.patch]
        patch = (chosen.cumsum(0) - 1)[self.patch[kept]]
        return Terms(
            patch, self.host[kept], self.outcome[kept], self.joint[kept], self.log_peak[chosen]
        )


@dataclass(frozen=True)
class Summary:
    """Sums over the terms of patches.

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
    error : Tensor, shape (patch,)
        Standard error of the class probability that is known worst, by the draws of the context;
        infinite where they are too few to tell.
    """

    share: Tensor
    defect: Tensor
    material: Tensor
    ess: Tensor
    error: Tensor


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

    def of(self, chosen: Tensor) -> Noise:
        """Select some patches.

        Parameters
        ----------
        chosen : Tensor of bool, shape (patch,)
            Which ones.

        Returns
        -------
        Noise
            Of these patches.
        """
        return Noise(self.offset[chosen], self.dopant[chosen], self.order)


def draw_noise(num_patches: int, num_draws: int, generator: torch.Generator) -> Noise:
    """Draw the random numbers for the joint draws of patches.

    Parameters
    ----------
    num_patches, num_draws : int
        Numbers of patches and of draws of each.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Noise
        The same whatever becomes of the patches.
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
    num_patches, num_draws = len(terms.log_peak), terms.joint.shape[1]
    weight = _zeros(num_patches, num_draws).index_add_(0, terms.patch, terms.joint)
    total = weight.sum(1).clamp(min=1e-38)
    share = terms.joint.sum(1) / total[terms.patch]
    classes = outcome_classes(materials.dopant.shape[-1])[terms.outcome]
    place = terms.patch * len(DEFECTS) + classes
    defect = _zeros(num_patches * len(DEFECTS)).index_add_(0, place, share)
    defect = defect.view(num_patches, -1)
    num_batches = math.gcd(num_draws, NUM_BATCHES)
    if num_batches > 1:
        # draws of one batch are a Sobol sequence of their own: how far batches differ tells the
        # error of the sum over all of them also where it is smaller than that of random draws
        batches = terms.joint.unflatten(1, (num_batches, -1)).sum(-1) / total[terms.patch, None]
        mass = _zeros(num_patches * len(DEFECTS), num_batches).index_add_(0, place, batches)
        mass = mass.view(num_patches, -1, num_batches)
        moved = mass - defect[..., None] * mass.sum(1, keepdim=True)
        variance = moved.square().sum(-1) * num_batches / (num_batches - 1)
        error = variance.amax(1).sqrt()
    else:
        error = torch.full_like(total, math.inf)
    ess = total.square() / weight.square().sum(1).clamp(min=1e-38)
    return Summary(share, defect, _material(terms, share, materials), ess, error)


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
    num_patches, num_context = len(terms.log_peak), terms.joint.shape[1]
    num_hosts, num_dopants = materials.dopant.shape[-2:]
    weights = materials.host_weight, materials.dopant_weight
    host_weight, dopant_weight = (w.expand(num_patches, *w.shape[1:]) for w in weights)
    at = torch.arange(num_patches)[:, None]

    term, draw = _systematic(terms, found.share, num_draws, noise.offset)
    term, draw = term[:, noise.order], draw[:, noise.order]
    host, outcome = terms.host[term], terms.outcome[term]
    edges = dopant_weight.cumsum(-1)[at, host]
    dopant = (edges < noise.dopant[..., None] * edges[..., -1:]).sum(-1)
    dopant = torch.where(outcome >= NUM_PLAIN, outcome - NUM_PLAIN, dopant)

    is_plain = terms.outcome < NUM_PLAIN
    place = (terms.patch * num_hosts + terms.host)[is_plain]
    plain = _zeros(num_patches * num_hosts, num_context).index_add_(0, place, terms.joint[is_plain])
    doped = torch.full((num_patches, num_hosts, num_dopants), -1)
    rest = (~is_plain).nonzero()[:, 0]
    doped[terms.patch[rest], terms.host[rest], terms.outcome[rest] - NUM_PLAIN] = rest
    found_doped = doped[at, host, dopant]
    of_dopant = terms.joint[found_doped.clamp(min=0), draw] * (found_doped >= 0)
    given = (
        plain[at * num_hosts + host, draw]
        + of_dopant / dopant_weight[at, host, dopant].clamp(min=1e-38)
    ) / host_weight[at, host]
    log_likelihood = given.clamp(min=1e-38).log() + terms.log_peak[:, None]
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


def _systematic(
    terms: Terms, share: Tensor, num_draws: int, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw terms and draws of the context by systematic resampling, shapes (patch, num_draws)."""
    last = torch.ones_like(terms.patch, dtype=torch.bool)
    last[:-1] = terms.patch[1:] != terms.patch[:-1]
    first = last.roll(1)
    edge = share.double().cumsum(0)
    start = edge - share
    start = start - start[first][terms.patch]
    place = num_draws * start + offset[terms.patch]
    until = (num_draws * (start + share) + offset[terms.patch]).floor().long()
    until[last] = num_draws
    since = until.roll(1)
    since[first] = 0
    chosen = (until > since).nonzero()[:, 0]
    since, until = since[chosen, None], until[chosen, None]
    # within a term the draws are counted off the same way, from where the term begins
    cumulated = terms.joint[chosen].cumsum(1)
    pace = num_draws * share[chosen, None] / cumulated[:, -1:]
    begun = (place[chosen, None] - since).float()
    counted = (cumulated * pace + begun).floor_().clamp_(min=0).int()
    counted = torch.minimum(counted, (until - since).int())
    counted[:, -1:] = (until - since).int()
    times = counted.diff(dim=1, prepend=torch.zeros_like(counted[:, :1]))
    cell = torch.repeat_interleave(torch.arange(times.numel()), times.flatten())
    cell = cell.view(-1, num_draws)
    return chosen[cell // times.shape[1]], cell % times.shape[1]

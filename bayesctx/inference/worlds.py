"""Posterior of a micrograph by all of its pixels, with the simulator as the likelihood."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ..checks import check_memory
from ..context import CONTEXT
from ..crystal import HOSTS, METALS
from ..defects import CODOPED_SPECIES, DEFECTS, DOPED_SPECIES
from ..exact import sample_exactly
from ..model import SitePrior
from ..prior import Prior
from ..scan import (
    CLASS,
    PAIRS,
    Coordinates,
    Draw,
    Sampled,
    Weight,
    fit_scan,
    sample_scan,
    sample_worlds,
)
from .arrays import Alternative, Posterior
from .candidates import Lattices, list_candidates
from .claims import weigh_lattices
from .convergence import diagnose_chains, errors_of_means
from .detectors import Rings
from .joint import KIND_OF_CLASS
from .misfit import misfit_of, signs_in_claims, signs_in_residuals, signs_in_scales
from .placement import Placement

__all__ = ["PixelReading", "solve_by_pixels"]

NUM_CHAINS = 4
BYTES_PER_SITE = 200  # of a draw
MANY = 10_000  # sites, of which more leave fewer draws: a round takes seconds
# draws that are asked for, per draw: each is a round over all variables; twice as many where it
# takes more than a second or so, or is many rounds of the exact model
THINNED, THINNED_MORE = 5, 10
SMALL = 400  # sites at most of an image of which a round takes a second
ENUMERATED = ("host", "dopant", "assignment")
SCALES = {
    "row_jitter": "jitter", "row_jitter_y": "jitter_y", "row_slant": "slant",
    "disorder": "disorder", "additivity": "additivity", "amplitude_scatter": "scatter",
}  # fmt: skip
"""Variables with a prior in ``Coordinates.scale_priors``, under its name there."""
OWN = ("sampling", "gain", "share_outlying")  # what else is no coordinate
PERIODS = {azimuth: 2 * math.pi / fold for azimuth, fold in PAIRS.values()}
AZIMUTH_OF = {azimuth: name for name, (azimuth, _) in PAIRS.items()}


@dataclass(frozen=True, eq=False)
class PixelReading:
    """A micrograph that was read by all of its pixels.

    Attributes
    ----------
    posterior : Posterior or None
        Of the sites with crystal. Draws are those of ``NUM_CHAINS`` chains, one after the other;
        ``diagnosis`` has effective numbers and r-hat of every continuous variable.
    conflict : dict of str to float
        Evidence against the claims, in nats.
    signs : tuple of str
        What tells that the simulator does not make the image, see ``misfit``.
    """

    posterior: Posterior | None
    conflict: dict[str, float]
    signs: tuple[str, ...]


def solve_by_pixels(
    placements: Sequence[Placement],
    readings: Sequence[Sequence[Alternative]],
    by_patches: Posterior,
    sites: SitePrior,
    rings: Rings,
    stated: float | None,
    prior: Prior,
    num_draws: int,
    seed: int,
    *,
    judge: Callable[[Weight], dict[str, float]],
    must: bool = True,
    progress: bool | None = None,
    exactly: bool = False,
) -> PixelReading:
    """Posterior of the sites of a micrograph and of all that they share.

    Parameters
    ----------
    placements : sequence of Placement
        Image of each detector, lattice and sites.
    readings : sequence of sequence of Alternative
        Of each detector the posterior by patches: together they leave out hosts and assignments
        that cannot be.
    by_patches : Posterior
        Of all alternatives of a detector: its draws from the prior are taken.
    sites : SitePrior
        Of the sites of the placement.
    rings : Rings
        What is known, of all and of each detector.
    stated : float, optional
        Size of a pixel in Å that the image states.
    prior : Prior
        Of the model.
    num_draws : int
        ``THINNED`` times the draws of all chains together, rounded up to whole draws of a chain; of
        more than ``SMALL`` sites, and by the exact model, ``THINNED_MORE`` times as many, and
        one for every ``MANY`` sites times that.
    seed : int
        Of the draws.
    judge : callable
        Evidence against the claims, from the weight of the context by the middle of the image, see
        ``claims.conflict_by_pixels``. The more the image speaks against them, the less certain
        hosts and assignments are.
    must : bool
        Draw worlds also of an image that the simulator does not make, as far as the claims and the
        residuals of the best fit tell.
    progress : bool, optional
        Show a progress bar of the draws; default: in a terminal.
    exactly : bool
        Draw by ``exact.sample_exactly``, whose transitions leave the posterior invariant.

    Returns
    -------
    PixelReading
        With a posterior unless it was left out.
    """
    lattices = list_candidates(placements, readings, sites, rings, stated, prior, seed)
    every = math.ceil(len(lattices.sites) / MANY)
    thinned = THINNED_MORE if exactly or len(lattices.sites) > SMALL else THINNED
    number = math.ceil(num_draws / thinned / NUM_CHAINS / every)
    _check_draws(number * NUM_CHAINS, lattices)
    hidden = None if progress is None else not progress
    with tqdm(total=number * NUM_CHAINS, desc="draws", disable=hidden) as bar:
        fitted = fit_scan(lattices.candidates, seed=seed)
        conflict = judge(weigh_lattices(lattices, fitted.weights))
        signs = signs_in_claims(conflict) + signs_in_residuals(fitted.correlation.numpy())
        if signs and not must:
            return PixelReading(None, conflict, signs)
        sampled = sample_scan(
            fitted,
            misfit=misfit_of(conflict),
            num_chains=NUM_CHAINS,
            num_draws=number,
            seed=seed,
            every=every,
            tick=lambda: bar.update(1),
            sample=sample_exactly if exactly else sample_worlds,
            jumps=not exactly,
        )
    worlds = [_World.of(c, d, lattices, placements) for c, d in itertools.chain(*sampled.chains)]
    posterior = _gather(worlds, sampled, lattices, by_patches, sites, rings, seed, exactly)
    coordinates = lattices.candidates[0].scan.coordinates
    return PixelReading(posterior, conflict, signs + signs_in_scales(posterior.draws, coordinates))


def _gather(
    worlds: Sequence[_World],
    sampled: Sampled,
    lattices: Lattices,
    by_patches: Posterior,
    sites: SitePrior,
    rings: Rings,
    seed: int,
    exactly: bool,
) -> Posterior:
    """Posterior of which worlds are draws."""
    candidates = [c for c, _ in itertools.chain(*sampled.chains)]
    weight = _weights(np.array(candidates), sampled.probability)
    free, latent = lattices.candidates[0].scan.coordinates, rings.latent()
    kept = [
        n
        for n in worlds[0].values
        if n in latent or n in OWN or (n not in CONTEXT and _is_free(free, n))
    ]
    draws = {n: np.array([w.values[n] for w in worlds], np.float32)[None] for n in kept}
    diagnosis = diagnose_chains(_by_detector(draws, rings.names), NUM_CHAINS)
    names = {n: np.array([getattr(w, n) for w in worlds], np.int8) for n in ENUMERATED}
    draws |= {n: v[None] for n, v in names.items() if n == "assignment" or n in latent}
    hosts = np.array([c.scan.material.host for c in lattices.candidates])
    assignments = np.array(lattices.assignments)
    finite = [ess for ess, _ in diagnosis.values() if np.isfinite(ess)]
    probability = np.stack([w.probability for w in worlds])
    return Posterior(
        images=np.zeros(1, int),
        defect=np.einsum("w,wpk->pk", weight, probability)[None],
        host=_share(hosts, len(HOSTS), sampled.probability),
        dopant=_dopants(worlds, weight),
        ess=np.array([min(finite) if finite else 1.0], np.float32),
        draws=draws,
        prior_draws=_draw_prior(lattices, kept, by_patches.prior_draws, len(worlds), seed),
        defect_draws=np.stack([w.defect for w in worlds]).astype(np.int8)[None],
        log_likelihood=np.array([w.log_likelihood for w in worlds], np.float32)[None],
        concentration=np.stack([w.concentration for w in worlds])[None],
        assignment=_share(assignments, len(sites.assignments), sampled.probability),
        **_joint_probabilities(worlds, weight, latent),
        defect_error=errors_of_means(probability, NUM_CHAINS)[None] if exactly else None,
        num_chains=NUM_CHAINS,
        diagnosis=diagnosis,
        residual_correlation=_correlations(worlds, rings.names),
    )


def _correlations(worlds: Sequence[_World], names: Sequence[str]) -> np.ndarray:
    """Correlations of the residuals of every draw, shape (1, draw, *detector, axis, lag)."""
    found = np.stack([w.correlation for w in worlds])[None].astype(np.float32)
    return found if names else found[:, :, 0]


def _by_detector(draws: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Draws of single numbers, those of a detector by its name."""
    found = {}
    for name, values in draws.items():
        if values.ndim == 2:
            found[name] = values[0]
        else:
            found |= {f"{name}[{d}]": values[0, :, k] for k, d in enumerate(names)}
    return found


def _check_draws(num: int, lattices: Lattices) -> None:
    """Raise for draws that do not fit into memory, before they are made."""
    num_sites = len(lattices.candidates[0].scan.kind)
    words = f"{num} draws of {num_sites} sites"
    check_memory(num * num_sites * BYTES_PER_SITE, words)


def _weights(candidate: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Weight of every draw: the draws of a candidate share its probability."""
    numbers = np.bincount(candidate, minlength=len(probability))
    share = np.where(numbers > 0, probability / np.maximum(numbers, 1), 0.0)[candidate]
    return share / share.sum()


def _joint_probabilities(
    worlds: Sequence[_World], weight: np.ndarray, latent: Sequence[str]
) -> dict[str, np.ndarray | None]:
    """Joint probabilities of class and host, and of dopant and site, of what is inferred."""
    shape = worlds[0].probability.shape
    by_host = np.zeros((*shape, len(HOSTS)), np.float32)
    by_dopant = np.zeros((shape[0], len(METALS)), np.float32)
    for world, share in zip(worlds, weight, strict=True):
        by_host[..., world.host] += world.probability * share
        for metal, held in zip(world.dopants, world.by_dopant.T, strict=True):
            by_dopant[:, metal] += held * share
    found = {"defect_host": by_host[None] if "host" in latent else None}
    if len(worlds[0].dopants) > 1:
        found["dopant_draws"] = np.stack([w.dopant_at_site for w in worlds]).astype(np.int8)[None]
        found["dopant_share"] = np.array([w.dopant_share for w in worlds], np.float32)[None]
    elif "dopant" not in latent:
        return found
    return found | {"dopant_at_site": by_dopant[None]}


def _dopants(worlds: Sequence[_World], weight: np.ndarray) -> np.ndarray:
    """Probabilities of the dopants, of co-doped crystals their expected shares, (1, dopant)."""
    found = np.zeros((1, len(METALS)), np.float32)
    for world, share in zip(worlds, weight, strict=True):
        found[0, list(world.dopants)] += share * world.dopant_share
    return found


@dataclass(frozen=True, eq=False)
class _World:
    """A draw in the terms of a result."""

    host: int
    dopants: tuple[int, ...]
    assignment: int
    values: dict[str, float | np.ndarray]
    probability: np.ndarray
    by_dopant: np.ndarray
    dopant_at_site: np.ndarray
    dopant_share: np.ndarray
    defect: np.ndarray
    concentration: np.ndarray
    log_likelihood: float
    correlation: np.ndarray

    @property
    def dopant(self) -> int:
        """The dopant, of a co-doped crystal the first."""
        return self.dopants[0]

    @classmethod
    def of(
        cls, candidate: int, draw: Draw, lattices: Lattices, placements: Sequence[Placement]
    ) -> _World:
        """Translate a draw of a candidate."""
        scan, world = lattices.candidates[candidate].scan, draw.world
        mine = lattices.sites[placements[0].crystal]
        by_class = torch.zeros(len(mine), len(DEFECTS))
        by_class.index_add_(1, CLASS[: scan.material.num_species], draw.probability[mine])
        dopants, held, shares = (draw.material.dopant,), [DOPED_SPECIES], (1.0,)
        if draw.material.codopant is not None:
            dopants, held = (*dopants, draw.material.codopant), [*held, CODOPED_SPECIES]
            shares = 1 - world.share_codopant, world.share_codopant
        each = draw.values | {
            "gain": world.slope.numpy(),
            "amplitude_scatter": world.scatter.numpy(),
        }
        each["gain"] = each["gain"] * np.array([p.unit for p in placements])
        several = bool(scan.coordinates.detectors)
        values = {
            n: np.asarray(v) if several or np.ndim(v) == 0 else v[0] for n, v in each.items()
        } | {
            "dose": draw.dose,
            "sampling": scan.field.sampling * (1 + draw.values["strain"]),
            "share_outlying": world.share_coarse,
        }
        values |= {n: getattr(world, s) for n, s in SCALES.items() if s != "scatter"}
        for name, period in PERIODS.items():
            values[name] = values[name] % period
        return cls(
            host=draw.material.host,
            dopants=dopants,
            assignment=lattices.assignments[candidate],
            values=values,
            probability=by_class.numpy(),
            by_dopant=draw.probability[mine][:, held].numpy(),
            dopant_at_site=np.select([world.species[mine] == k for k in held], dopants, -1),
            dopant_share=np.array(shares, np.float32),
            defect=CLASS[world.species[mine]].numpy(),
            concentration=world.abundance[KIND_OF_CLASS, torch.arange(len(DEFECTS))].numpy(),
            log_likelihood=draw.log_prob,
            correlation=draw.correlation.numpy(),
        )


def _is_free(coordinates: Coordinates, name: str) -> bool:
    """Whether a shared variable is inferred."""
    if name in SCALES:
        return coordinates.scale_priors[SCALES[name]].is_open
    return name in coordinates.free or AZIMUTH_OF.get(name) in coordinates.free


def _share(index: np.ndarray, num: int, weight: np.ndarray) -> np.ndarray:
    """Weight of each value, shape (1, num)."""
    return np.bincount(index, weight, minlength=num)[None].astype(np.float32)


def _draw_prior(
    lattices: Lattices,
    names: Sequence[str],
    by_patches: Mapping[str, np.ndarray],
    num_draws: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Draws from the prior: of the context as by patches, and of the rest that is shared."""
    coordinates = lattices.candidates[0].scan.coordinates
    generator = torch.Generator().manual_seed(seed)
    z = coordinates.draw(num_draws, generator)
    drawn = coordinates.values(z)
    if not coordinates.detectors:
        drawn |= {n: v[:, 0] for n, v in drawn.items() if v.ndim == 2}
    priors, num = coordinates.scale_priors, coordinates.num_detectors
    drawn |= {n: priors[s].draw(0.0, generator, len(z)) for n, s in SCALES.items()}
    if coordinates.detectors:
        scatter = priors["scatter"].draw(0.0, generator, len(z) * num).view(-1, num)
        drawn["amplitude_scatter"] = scatter
    state = {n: drawn[n].numpy().astype(np.float32)[None] for n in names if n in drawn}
    rows = np.arange(len(z))
    context = {n: v[:, rows % v.shape[1]] for n, v in by_patches.items() if n not in state}
    return state | context

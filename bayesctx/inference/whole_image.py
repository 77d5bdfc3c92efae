"""Posterior of a micrograph, by patches or by all pixels, and evidence against its claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..crystal import MONOLAYER_1H
from ..model import PatchModel, SitePrior
from ..scan import Weight, weigh_scan
from ..storage import warn
from .arrays import Alternative, Posterior, describe_image, latent_names, with_conflict
from .candidates import list_candidates
from .cases import encode, group_images, tabulate
from .choice import BY_PIXELS, Way, check_detectors, check_exact_size, is_by_pixels, refuse_pixels
from .claims import conflict_by_pixels, warn_of_claims, weigh_lattices
from .conflict import conflict_with, warn_of_conflict
from .convergence import warn_of_chains
from .detectors import Rings
from .domains import Domains, find_domains
from .image import log_density_of_kinds, one_image
from .inputs import Inputs
from .misfit import warn_of_misfit
from .placement import Placement, cut_patches, place_sites
from .scales import Scale, candidate_scales, conflict_of_size
from .tree import Sites, add_absent_sites
from .worlds import PixelReading, solve_by_pixels

__all__ = ["Micrograph", "solve_micrograph"]

UNSEEN = Way("network", progress=False)
STEPS = 3  # of progress for each pixel size
MOST_OPEN = 4  # pairs of host and assignment, of a context whose claims are left open


def solve_micrograph(
    inputs: Inputs, rings: Rings, model: PatchModel, num_draws: int, seed: int, way: Way
) -> tuple[Posterior, np.ndarray | None, Sites, Rings]:
    """Posterior of every site of a micrograph, over the pixel sizes that the hosts imply.

    Parameters
    ----------
    inputs : Inputs
        The image, or those of several detectors.
    rings : Rings
        What is known.
    model : PatchModel
        The network, and the prior of both ways.
    num_draws, seed : int
        Of the draws.
    way : Way
        By patches or by all pixels.

    Returns
    -------
    posterior : Posterior
        Also of the sites without crystal.
    surprise : ndarray, shape (1, patch) or (1, detector, patch), or None
        Of every site.
    sites : Sites
        Where they are.
    rings : Rings
        What is known, given the pixel size.

    Raises
    ------
    ValueError
        If the context has arrays, the image has no crystal, or several detectors are not to be
        read by the simulator.

    Warns
    -----
    UserWarning
        If the image speaks against the context, or chains have not mixed.
    """
    arrays = [n for own in rings.own for n, v in own.items() if isinstance(v, np.ndarray)]
    if arrays:
        raise ValueError(
            f"one value for the micrograph was expected for {arrays[0]}, got an array; call "
            "infer for each image"
        )
    check_detectors(way.likelihood, rings.names)
    image = Micrograph.of(inputs, rings, model, num_draws, seed)
    check_exact_size(way.likelihood, int(image.placements[0].crystal.sum()))
    readings = image.by_patches(rings, way)
    domains = image.find_domains(readings)
    if domains is not None:
        _warn_of_domains(domains)
        image = image.divided(domains)
        readings = image.by_patches(rings, way)
    best = [max(r, key=lambda reading: reading.alternative.log_posterior) for r in readings]
    first, sampling = [r.alternative for r in readings[0]], best[0].alternative.sampling
    rings = rings.settle(sampling)
    latent = latent_names(rings.own[0])
    posterior = describe_image(first, image.crystal, latent, num_draws, seed)
    conflicts = [image.conflict(*pair) for pair in zip(rings.own, best, strict=True)]
    doubts = dict.fromkeys(doubt for p in image.placements for doubt in p.doubts)
    by_pixels = None
    if rings.names or is_by_pixels(way.likelihood, posterior, rings.shared, doubts):
        by_pixels = image.by_pixels(rings, readings, posterior, way)
    if by_pixels is None:
        limit = float(model.card.get("conflict_limit", math.inf))
        warn_of_conflict(conflicts[0], rings.shared, limit, tuple(doubts))
    else:
        is_left = not _must(way, rings) and bool(by_pixels.signs)
        warn_of_claims(by_pixels.conflict, rings, tuple(doubts))
        warn_of_misfit(by_pixels.signs, is_left=is_left)
        conflicts = [conflict | by_pixels.conflict for conflict in conflicts]
        if not is_left:
            posterior = by_pixels.posterior
            warn_of_chains(posterior.diagnosis, posterior.defect_draws.shape[1])
    placement = image.placements[0]
    sites = Sites(
        positions=placement.positions,
        sublattice=placement.sublattice,
        crystal=placement.crystal,
        sampling=sampling,
        assignments=MONOLAYER_1H.assignments,
        domains=domains,
    )
    surprise = None
    if best[0].surprise is not None:
        surprise = np.stack([reading.surprise for reading in best])
        surprise = surprise[None] if rings.names else surprise
    posterior = with_conflict(posterior, _joined(conflicts) if rings.names else conflicts[0])
    solved = add_absent_sites(posterior, surprise, placement.crystal, image.every, seed)
    return *solved, sites, rings


def _must(way: Way, rings: Rings) -> bool:
    """Whether nothing but the simulator may read an image."""
    return bool(rings.names) or way.likelihood in BY_PIXELS


def _warn_of_domains(domains: Domains) -> None:
    """Say that there are several domains, of which the boundaries are not modelled."""
    sizes = np.bincount(domains.label).tolist()
    warn(
        f"one crystal was expected, got {len(sizes)} domains in which the sublattices hold other "
        f"kinds of site (of {' and '.join(map(str, sizes))} sites); constant_data.domain names "
        "that of every site, and classes beside the boundaries are not reliable"
    )


def _joined(conflicts: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Evidence against each claim, of each detector."""
    names = dict.fromkeys(n for conflict in conflicts for n in conflict)
    return {n: [conflict.get(n, math.nan) for conflict in conflicts] for n in names}


@dataclass(frozen=True, eq=False)
class _Reading:
    """Posterior of an image by patches, given its pixel size, and what patches show."""

    alternative: Alternative
    features: Tensor
    surprise: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Micrograph:
    """A micrograph, which is read under one context or another.

    Attributes
    ----------
    placements : list of Placement
        Its sites, with the image of each detector.
    every : SitePrior
        Prior of all of them.
    stated : float or None
        Size of a pixel in Å by the coordinates of the image.
    model : PatchModel
        The network, and the prior of both ways.
    num_draws, seed : int
        Of draws.
    """

    placements: list[Placement]
    every: SitePrior
    stated: float | None
    model: PatchModel
    num_draws: int
    seed: int

    @classmethod
    def of(
        cls, inputs: Inputs, rings: Rings, model: PatchModel, num_draws: int, seed: int
    ) -> Micrograph:
        """Place the sites of an image.

        Parameters
        ----------
        inputs : Inputs
            The image.
        rings : Rings
            What is known, of which the abundances are always taken.
        model : PatchModel
            The network.
        num_draws, seed : int
            Of draws.

        Returns
        -------
        Micrograph
            Its sites, with their prior.
        """
        placements = place_sites(inputs.values, inputs.valid)
        sublattice = torch.from_numpy(placements[0].sublattice).long()
        every = SitePrior.of_lattice(model.prior, sublattice).given(model.prior, rings.shared)
        return cls(placements, every, inputs.sampling, model, num_draws, seed)

    @property
    def crystal(self) -> SitePrior:
        """Prior of the sites with crystal."""
        return self.every.take(torch.from_numpy(self.placements[0].crystal))

    def by_patches(self, rings: Rings, way: Way = UNSEEN) -> list[list[_Reading]]:
        """Read by patches.

        Parameters
        ----------
        rings : Rings
            What is known.
        way : Way
            Whether progress is shown; default: not.

        Returns
        -------
        list of list of _Reading
            Of every detector, at the pixel sizes that the hosts imply.
        """
        scales = [
            candidate_scales(placement.lattice, known, self.stated, self.model.prior)
            for placement, known in zip(self.placements, rings.own, strict=True)
        ]
        found = []
        with way.bar(STEPS * sum(map(len, scales)), "sites", " steps") as bar:
            for k, (own, placement) in enumerate(zip(scales, self.placements, strict=True)):
                given = [(s, placement, rings.at(s.sampling).own[k]) for s in own]
                found.append([self._read_at(*of_scale, bar.update) for of_scale in given])
        return found

    def _read_at(
        self,
        scale: Scale,
        placement: Placement,
        known: Mapping[str, object],
        tick: Callable[[], object],
    ) -> _Reading:
        """Posterior given that the host is one of those that imply a pixel size."""
        model, seed = self.model, self.seed
        features, surprise = encode(cut_patches(placement, scale.sampling, model.prior), model)
        tick()
        context = {**known, "host": scale.hosts}
        (case,) = group_images(model.prior, context, 1, self.num_draws, seed)
        enumerated, table = (case.materials.row(0), case.possible[0]), tabulate(model, case)
        tick()
        found = one_image(table, features, *enumerated, self.crystal, float(model.correlation))
        tick()
        alternative = Alternative(case, found, scale.log_weight, scale.sampling)
        return _Reading(alternative, features, surprise)

    def find_domains(self, readings: Sequence[Sequence[_Reading]]) -> Domains | None:
        """Find regions in which the sublattices hold other kinds of site.

        Parameters
        ----------
        readings : sequence of sequence of _Reading
            Of every detector, by patches.

        Returns
        -------
        Domains or None
            None of a single crystal.
        """
        total = 0
        for own in readings:
            best = max(own, key=lambda reading: reading.alternative.log_posterior)
            total = total + log_density_of_kinds(best.alternative.found, self.crystal)
        place = self.placements[0]
        given = place.positions, place.sublattice, total.double().numpy()
        return find_domains(*given, self.every.assignments.numpy(), place.crystal)

    def divided(self, domains: Domains) -> Micrograph:
        """Name the sublattices by those of the largest domain that hold the same kind of site.

        Parameters
        ----------
        domains : Domains
            Of this micrograph.

        Returns
        -------
        Micrograph
            One assignment holds for all of its domains.
        """
        named = domains.relabel(self.placements[0].positions, self.placements[0].sublattice)
        placements = [replace(p, sublattice=named, domains=domains) for p in self.placements]
        every = replace(self.every, sublattice=torch.from_numpy(named).long())
        return replace(self, placements=placements, every=every)

    def conflict(self, known: Mapping[str, object], reading: _Reading) -> dict[str, float]:
        """Weigh the claims about the image of one detector by the network.

        Parameters
        ----------
        known : mapping
            The claims.
        reading : _Reading
            At the most probable pixel size.

        Returns
        -------
        dict of str to float
            See ``conflict_with``; of the host also by the size of the lattice.
        """
        found = conflict_with(known, reading.features, self.crystal, self.model, self.seed)
        if "host" in found:
            lattice = self.placements[0].lattice
            found["host"] += conflict_of_size(lattice, known, self.stated, self.model.prior)
        return found

    def by_pixels(
        self,
        rings: Rings,
        readings: Sequence[Sequence[_Reading]],
        posterior: Posterior,
        way: Way,
    ) -> PixelReading | None:
        """Read by all pixels.

        Parameters
        ----------
        rings : Rings
            What is known.
        readings, posterior : sequence of sequence of _Reading, Posterior
            By patches.
        way : Way
            Whether progress is shown.

        Returns
        -------
        PixelReading or None
            None if the simulator cannot be fitted.
        """
        given = self.placements, _alternatives(readings), posterior, self.every, rings, self.stated
        hidden = None if way.progress is None else not way.progress

        def judge(weight: Weight) -> dict[str, float]:
            with tqdm(desc="claims", unit=" contexts", disable=hidden) as bar:

                def weigh(*given: object) -> Weight:
                    found = self.weigh(*given)
                    bar.update()
                    return found

                return conflict_by_pixels(rings, weight, weigh, self.model.prior)

        try:
            return solve_by_pixels(
                *given, self.model.prior, self.num_draws, self.seed, judge=judge,
                must=_must(way, rings), progress=way.progress, exactly=way.likelihood == "exact",
            )  # fmt: skip
        except torch.linalg.LinAlgError as error:
            refuse_pixels(way, error, must=bool(rings.names))
            return None

    def weigh(self, rings: Rings, *near: Weight) -> Weight:
        """Weigh a context by the pixels in the middle of the image.

        Parameters
        ----------
        rings : Rings
            What is known.
        *near : Weight
            Of other contexts, at whose fits the search also begins.

        Returns
        -------
        Weight
            In nats, up to a constant of the image.
        """
        alternatives = _alternatives(self.by_patches(rings))
        given = self.placements, alternatives, self.every, rings, self.stated
        lattices = list_candidates(*given, self.model.prior, self.seed, MOST_OPEN, near)
        return weigh_lattices(lattices, weigh_scan(lattices.candidates, seed=self.seed))


def _alternatives(readings: Sequence[Sequence[_Reading]]) -> list[list[Alternative]]:
    """Posteriors of all detectors."""
    return [[reading.alternative for reading in own] for own in readings]

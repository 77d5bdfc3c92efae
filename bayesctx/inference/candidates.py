"""What may be behind the pixels of a micrograph: hosts, assignments and alternatives of context."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyro.distributions as dist
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..context import CALIBRATION_ERROR, CONTEXT
from ..crystal import HOSTS, METALS, MONOLAYER_1H
from ..defects import CODOPED_SPECIES, DEFECTS, DOPED_SPECIES, SPECIES
from ..distributions import quantile
from ..micrograph import find_sites
from ..model import SitePrior
from ..nuisances import nuisances_of_scan
from ..prior import Prior
from ..scan import CLASS, PERFECT, Candidate, Coordinates, Field, Material, Scan, Weight
from .arrays import Alternative
from .detectors import OF_DETECTOR, Rings
from .placement import Placement
from .scales import log_likelihood_of_size

__all__ = ["Lattices", "list_candidates"]

POSSIBLE = 1e-3  # probability, by patches, of a host or an assignment that the pixels decide on
MOST = 12  # candidates
BEYOND = 9.0  # Å beyond the border of the image up to which columns reach into it
DOSE_ERROR = 0.01  # relative, of a dose that is given as a number
STEP = 0.02  # of the logarithm of the dose, over which its prior is smoothed
NODES = 2049  # quantiles by which a prior is represented
FEW_NODES = 64  # and those of soft evidence on the size of a pixel
NEGLIGIBLE = 1e-9  # dose in e/Å², for finite logarithms
LEAST_DENSITY = 1e-30  # of a dose beyond its prior, and of a host that patches leave out
LEAST_VARIANCE = 1e-8  # of the relative size of a pixel that is known exactly
NUM_POINTS = 96  # at which the context is as patches say
# standard deviations from the middle of the prior at which images are sharper than most
SHARP = {"source_size": -1.3, "convergence_semiangle": 0.7, "focal_spread": 1.3}


@dataclass(frozen=True, eq=False)
class Lattices:
    """Candidates, and where the sites of the placement are among theirs.

    Attributes
    ----------
    candidates : list of Candidate
        For ``scan.sample_scan``.
    assignments : list of int
        Of each candidate.
    sites : ndarray of int, shape (patch,)
        Position of the sites of the placement among those of the scans.
    """

    candidates: list[Candidate]
    assignments: list[int]
    sites: np.ndarray


def list_candidates(
    placements: Sequence[Placement],
    readings: Sequence[Sequence[Alternative]],
    sites: SitePrior,
    rings: Rings,
    stated: float | None,
    prior: Prior,
    seed: int,
    most: int = MOST,
    near: Sequence[Weight] = (),
) -> Lattices:
    """List the hosts and assignments that patches leave possible, with their prior.

    Parameters
    ----------
    placements : sequence of Placement
        Image of each detector, lattice and sites.
    readings : sequence of sequence of Alternative
        Of each detector the posterior by patches, over the pixel sizes that the hosts imply.
    sites : SitePrior
        Of the sites of the placement.
    rings : Rings
        What is known, of all and of each detector.
    stated : float, optional
        Size of a pixel in Å that is stated, without that of the context.
    prior : Prior
        Of the model.
    seed : int
        Of the points at which the search begins.
    most : int
        Pairs of host and assignment at most.
    near : sequence of Weight
        Of other contexts, at whose fits the search also begins.

    Returns
    -------
    Lattices
        At least one candidate: the hosts and assignments above ``POSSIBLE``, and those of the fits
        that are near, each once for every combination of candidates of the context. Prior
        probabilities are those among all hosts.
    """
    # what one detector leaves, the pixels decide on: detectors are not independent of each other
    weight = torch.stack([_weight_by_patches(reading) for reading in readings]).mean(0)
    placement, known, names = placements[0], rings.shared, list(HOSTS)
    hosts = prior.given(_without(known, "sampling")).hosts
    held = [pair for pair in _pairs_of(near, readings) if names[pair[0]] in hosts]
    found, shape = list(dict.fromkeys([*_possible(weight, most), *held])), placement.image.shape
    valid = torch.from_numpy(np.isfinite(placement.image))
    image = torch.from_numpy(np.nan_to_num(np.stack([p.image for p in placements])))
    finest = min(_implied(placement, names[host]) for host, _ in found)
    positions, sublattice = _find_sites_beyond(placement, finest)
    _, nearest = cKDTree(positions).query(placement.positions)
    mine, size = nearest[placement.crystal], known.get("sampling", stated)
    candidates, assignments = [], []
    hints = _hints(weight)
    for host in dict.fromkeys(host for host, _ in found):
        sampling = _implied(placement, names[host])
        own = _of_host(prior, rings.at(sampling).shared, names[host])
        share = own.hosts.count(names[host]) / len(hosts)
        log_prior = math.log(share) + log_likelihood_of_size(size, sampling)
        material, dopants = _material(own, host, weight)
        nuisances = {**nuisances_of_scan(own.nuisances), "strain": _strain(size, sampling, own)}
        conditions = _alternatives(own.conditions)
        possible = list(itertools.product(conditions, _angles(rings, names[host], prior)))
        log_prior -= math.log(len(possible))
        for condition, angles in possible:
            coordinates = Coordinates(condition, nuisances, angles, rings.order)
            scan = Scan(
                image=image,
                field=Field(shape, sampling).limited(_sharp(coordinates), 1.0),
                material=material,
                coordinates=coordinates,
                positions=_centred(positions, shape) * sampling,
                kind=torch.from_numpy(sublattice).long(),
                prior=sites.abundance,
                log_dose=_log_dose(condition["dose"]),
                valid=None if bool(valid.all()) else valid,
            )
            points = _points_by_patches(readings, coordinates, seed)
            points = torch.cat([points, *(coordinates.of(w.values)[None] for w in near)])
            for assignment in (r for h, r in found if h == host):
                assigned = replace(scan, kind=sites.assignments[assignment][scan.kind])
                species = PERFECT[assigned.kind]
                species[mine] = _species_by_patches(readings, material, assigned.kind[mine])
                own = log_prior, float(hints[host, assignment]), points, species, near
                candidates.append(Candidate(assigned, dopants, *own))
                assignments.append(assignment)
    return Lattices(candidates, assignments, nearest)


def _pairs_of(
    near: Sequence[Weight], readings: Sequence[Sequence[Alternative]]
) -> list[tuple[int, int]]:
    """Host and assignment of fits, of hosts with which patches of every detector were read."""
    pairs = [(w.scan.material.host, w.assignment) for w in near if w.scan is not None]
    read = [[a.case.materials.row(0).host for a in own] for own in readings]
    return [(h, r) for h, r in pairs if all(any(h in hosts for hosts in own) for own in read)]


def _hints(weight: Tensor) -> Tensor:
    """Log probability of the assignments given the host, shape (host, assignment)."""
    return (weight.sum(1) / weight.sum((1, 2))[:, None].clamp(min=LEAST_DENSITY)).log()


def _find_sites_beyond(placement: Placement, sampling: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions in px and sublattices of the sites in an image and near its border."""
    margin = -BEYOND / sampling
    positions, sublattice = find_sites(placement.lattice, placement.image.shape, margin=margin)
    if placement.domains is not None:
        sublattice = placement.domains.relabel(positions, sublattice)
    return positions, sublattice


def _material(prior: Prior, host: int, weight: Tensor) -> tuple[Material, tuple[int, ...]]:
    """Host with the dopant that is most probable by patches, or both; and the possible dopants."""
    dopants = tuple(METALS.index(d) for d in prior.dopants[list(HOSTS)[host]])
    if prior.is_codoped:
        return Material(host, *dopants), dopants[:1]
    return Material(host, max(dopants, key=lambda d: float(weight[host, d].sum()))), dopants


def _angles(rings: Rings, host: str, prior: Prior) -> list[tuple[dict[str, object], ...]]:
    """Angles of all detectors, for every combination of their candidates; () for one detector."""
    choices = []
    for known in rings.own if rings.names else ():
        own = _of_host(prior, known, host)
        found = []
        for condition in _alternatives(own.conditions):
            angles = {n: condition[n] for n in OF_DETECTOR}
            if angles not in found:
                found.append(angles)
        choices.append(found)
    return list(itertools.product(*choices))


def _of_host(prior: Prior, known: Mapping[str, object], host: str) -> Prior:
    """Prior of the images of a host, of which the pixel size follows from its lattice."""
    return prior.given({**_without(known, "sampling"), "host": host})


def _without(known: Mapping[str, object], name: str) -> dict[str, object]:
    """A context without one variable."""
    return {n: v for n, v in known.items() if n != name}


def _weight_by_patches(alternatives: Sequence[Alternative]) -> Tensor:
    """Probability by patches, shape (host, dopant, assignment)."""
    log_weight = torch.tensor([a.log_posterior for a in alternatives], dtype=torch.float64)
    total = 0
    for share, alternative in zip(log_weight.softmax(0).tolist(), alternatives, strict=True):
        found, materials = alternative.found, alternative.case.materials.row(0)
        weight = torch.zeros(len(HOSTS), len(METALS), len(found.assignment), dtype=torch.float64)
        _, _, host, dopant = found.cells.index.T
        # of a co-doped crystal only the host and the assignment are asked for
        dopant = torch.zeros_like(dopant) if materials.is_codoped else dopant
        at = materials.host[host], materials.dopant[host, dopant], found.cells.index[:, 0]
        total = total + share * weight.index_put(at, found.weight.double(), accumulate=True)
    return total


def _points_by_patches(
    readings: Sequence[Sequence[Alternative]], coordinates: Coordinates, seed: int
) -> Tensor:
    """Points of the shared variables where the context is as patches of each detector say."""
    generator, found = torch.Generator().manual_seed(seed), []
    for alternatives in readings:
        best = max(alternatives, key=lambda a: a.log_posterior)
        weight = best.found.weight
        cell = torch.multinomial(weight, NUM_POINTS, replacement=True, generator=generator)
        draw = best.found.cells.index[cell, 1]
        found.append({n: v[0, draw] for n, v in best.case.context.items() if n != "dose"})
    angles = {n: torch.stack([v[n] for v in found], -1) for n in OF_DETECTOR if n in found[0]}
    points = []
    for values in found:
        shape = NUM_POINTS, len(coordinates.names)
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        z = coordinates.place(values | angles, coordinates.quantiles(u))
        points.append(z[coordinates.log_prior(z) > -math.inf])
    return torch.cat(points)


def _species_by_patches(
    readings: Sequence[Sequence[Alternative]], material: Material, kind: Tensor
) -> Tensor:
    """The most probable species that the kinds of site can hold, by patches of all detectors."""
    by_class, by_dopant = 0, 0
    for alternatives in readings:
        hosts = (a.case.materials.row(0).host.tolist() for a in alternatives)
        holding = [a for a, h in zip(alternatives, hosts, strict=True) if material.host in h]
        classes = max(holding, key=lambda a: a.log_posterior).found.classes
        by_class = by_class + torch.as_tensor(classes.defect) / len(readings)
        by_dopant = by_dopant + classes.dopant_at_site
    first = torch.full((len(MONOLAYER_1H.sites), len(DEFECTS)), -1)
    for k, site in enumerate(MONOLAYER_1H.sites):
        for index, species in reversed(list(enumerate(SPECIES))):
            if species.site == site:
                first[k, DEFECTS.index(species.defect)] = index
    allowed = first[kind] >= 0
    perfect = CLASS[PERFECT[kind]]
    share = by_class * allowed
    share[torch.arange(len(kind)), perfect] += 1e-9
    found = first[kind, share.argmax(-1)]
    if material.codopant is None:
        return found
    is_second = by_dopant[:, material.codopant] > by_dopant[:, material.dopant]
    return torch.where((found == DOPED_SPECIES) & is_second, CODOPED_SPECIES, found)


def _possible(weight: Tensor, most: int) -> list[tuple[int, int]]:
    """Hosts and assignments that patches leave, the most probable first."""
    joint = weight.sum(1)
    order = joint.flatten().argsort(descending=True)[:most].tolist()
    pairs = [divmod(k, joint.shape[1]) for k in order]
    return [(h, r) for h, r in pairs if joint[h, r] > POSSIBLE]


def _implied(placement: Placement, host: str) -> float:
    """Size of a pixel in Å if the crystal is not strained."""
    return HOSTS[host].lattice_constant / placement.lattice.lattice_constant


def _centred(positions: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Positions (x, y) in px from the centre of the image, from those (y, x)."""
    centre = (np.array(shape) - 1) / 2
    return torch.from_numpy((positions - centre)[:, ::-1].copy()).float()


def _strain(evidence: object, implied: float, prior: Prior) -> object:
    """Prior of the strain given what is stated of the size of a pixel, which strain enlarges."""
    strain = prior.nuisances.get("strain", 0.0)
    if evidence is None or isinstance(strain, float):
        return strain
    nodes = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    own, error = quantile(strain, nodes), CALIBRATION_ERROR
    if isinstance(evidence, torch.distributions.Distribution):
        evidence = quantile(evidence, nodes[:: NODES // FEW_NODES]).tolist()
        error = 0.0
    values = torch.tensor(evidence, dtype=torch.float64).reshape(-1) / implied - 1
    variance = max(error**2 + float(values.var(correction=0)), LEAST_VARIANCE)
    precision = 1 / float(own.var()) + 1 / variance
    mean = float(own.mean()) / float(own.var()) + float(values.mean()) / variance
    return dist.Normal(mean / precision, precision**-0.5)


def _alternatives(conditions: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Conditions without candidates but those of the dose: one for each combination of them."""
    found = []
    for condition in conditions:
        choices = {
            n: v if isinstance(v, tuple) and n != "dose" else (v,) for n, v in condition.items()
        }
        found += [dict(zip(choices, v, strict=True)) for v in itertools.product(*choices.values())]
    return found


def _sharp(coordinates: Coordinates) -> dict[str, Tensor]:
    """Values of the shared variables that give one of the sharper images."""
    z = torch.zeros(len(coordinates.names), dtype=torch.float64)
    for name, value in SHARP.items():
        if name in coordinates.names:
            z[coordinates.names.index(name)] = value
    return coordinates.values(z[None])


def _log_dose(prior: object) -> Callable[[float], float]:
    """Log prior density of the logarithm of the dose in e/Å², up to a constant."""
    if isinstance(prior, float):
        return lambda dose: -0.5 * (math.log(max(dose, NEGLIGIBLE) / prior) / DOSE_ERROR) ** 2
    u = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    logs = quantile(prior, u, CONTEXT["dose"].domain).log().numpy()

    def log_density(dose: float) -> float:
        middle = math.log(max(dose, NEGLIGIBLE))
        low, high = np.interp([middle - STEP, middle + STEP], logs, u.numpy(), left=0.0, right=1.0)
        return math.log(max(high - low, LEAST_DENSITY) / (2 * STEP))

    return log_density

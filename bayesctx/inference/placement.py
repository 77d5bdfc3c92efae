"""Where the sites of a micrograph are, and the pixel sizes that the hosts imply for its lattice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..context import CONTEXT
from ..crystal import HOSTS
from ..micrograph import (
    Lattice,
    extend_image,
    extract_patches,
    find_sites,
    fit_lattice,
    patch_margin,
)
from ..nuisances import quantile
from ..prior import Prior
from ..storage import warn

__all__ = ["Placement", "Scale", "candidate_scales", "cut_patches", "place_sites"]

AT_ONCE = 256  # patches whose layers stay in the cache: twice as fast as 1024
CALIBRATION_ERROR = 0.02  # relative rms error of the pixel size that a microscope states
STRAIN = 0.015  # relative rms deviation of a lattice constant from that of its host
SAME_SCALE = 0.012  # hosts whose lattice constants differ by less share a pixel size
PUT_ASIDE = 3.0  # standard deviations beyond which a stated pixel size is said to be put aside
IMPOSSIBLE = 6.0  # and beyond which it contradicts the lattice


@dataclass(frozen=True, eq=False)
class Placement:
    """The sites of a micrograph.

    Attributes
    ----------
    image : ndarray, shape (y, x)
        Intensities of unit scale.
    lattice : Lattice
        Fitted to the image.
    positions : ndarray, shape (patch, 2)
        Sites (y, x) in px.
    sublattice : ndarray of int, shape (patch,)
        Sublattice of every site.
    """

    image: np.ndarray
    lattice: Lattice
    positions: np.ndarray
    sublattice: np.ndarray


@dataclass(frozen=True)
class Scale:
    """A pixel size, and the hosts whose lattice constant implies it.

    Attributes
    ----------
    sampling : float
        In Å/px.
    hosts : tuple of str
        Hosts of about this lattice constant.
    log_weight : float
        Log of their prior probability times the likelihood of what is stated of the pixel size.
    """

    sampling: float
    hosts: tuple[str, ...]
    log_weight: float


def place_sites(image: np.ndarray) -> Placement:
    """Fit the lattice of a micrograph and list its sites.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities in any unit, in double precision.

    Returns
    -------
    Placement
        Every lattice site whose centre lies in the image.

    Raises
    ------
    ValueError
        If there is no hexagonal lattice in the image, see ``fit_lattice``.
    """
    lattice = fit_lattice(image)
    positions, sublattice = find_sites(lattice, image.shape, margin=0)
    centred = image - np.median(image)
    spread = np.abs(centred).mean()
    return Placement((centred / spread).astype(np.float32), lattice, positions, sublattice)


def cut_patches(placement: Placement, sampling: float, prior: Prior) -> Iterator[Tensor]:
    """Cut the patches around the sites, on the pixels of the model.

    Parameters
    ----------
    placement : Placement
        The sites.
    sampling : float
        Size of a pixel in Å.
    prior : Prior
        Gives the pixels of a patch.

    Yields
    ------
    Tensor, shape (patch, y, x)
        Some patches at a time.

    Raises
    ------
    ValueError
        If the image is smaller than two patches.
    """
    size = {"target_sampling": prior.sampling, "num_pixels": prior.num_pixels}
    margin = math.ceil(patch_margin(sampling, **size))
    shape = placement.image.shape
    if min(shape) <= 2 * margin:
        raise ValueError(
            f"an image wider than two patches of {prior.num_pixels * prior.sampling:g} Å was expected, "
            f"got {shape} pixels of {sampling:.3g} Å; record a larger field of view"
        )
    extended = torch.from_numpy(extend_image(placement.image, placement.lattice, margin))
    for centres in torch.from_numpy(placement.positions + margin).split(AT_ONCE):
        yield extract_patches(extended, centres, sampling=sampling, **size)


def candidate_scales(
    lattice: Lattice, known: Mapping[str, object], stated: float | None, prior: Prior
) -> list[Scale]:
    """List the pixel sizes that the hosts imply, weighed by what is stated of them.

    Parameters
    ----------
    lattice : Lattice
        Its lattice constant in px gives a pixel size for every host.
    known : mapping
        The checked context; ``sampling`` may be a number, which has the error of a calibration, candidates
        or a distribution.
    stated : float, optional
        Pixel size in Å by the coordinates of the image, used where the context has none.
    prior : Prior
        Gives the hosts, those of the context where it names any.

    Returns
    -------
    list of Scale
        The most probable first; those with less than 1e-6 of the weight are left out.

    Raises
    ------
    ValueError
        If no host fits what is stated of the pixel size.

    Warns
    -----
    UserWarning
        If a stated pixel size differs from that of the host by more than errors of calibration explain.

    Notes
    -----
    ln(sampling stated / sampling implied) is normal with a standard deviation of 2.5 %: 2 % for the
    calibration of the microscope and 1.5 % for strain.
    """
    hosts = prior.given({n: v for n, v in known.items() if n in ("host", "dopant")}).hosts
    evidence = known.get("sampling", stated)
    implied = {
        h: HOSTS[h].lattice_constant / lattice.lattice_constant for h in dict.fromkeys(hosts)
    }
    deviation = {h: _deviation(evidence, s) for h, s in implied.items()}
    nearest = min(deviation, key=deviation.get)
    if deviation[nearest] > IMPOSSIBLE:
        constants = sorted({HOSTS[h].lattice_constant for h in implied})
        ends = " to ".join(
            f"{a:g}"
            for a in (constants if len(constants) < 3 else constants[:: len(constants) - 1])
        )
        found = _middle(evidence) * lattice.lattice_constant
        raise ValueError(
            f"a lattice constant of {ends} Å was expected for {_listed(implied)}, got {found:.2f} Å with pixels of {_middle(evidence):.4g} Å; check the "
            f"sampling, {nearest} would imply {implied[nearest]:.4g} Å/px"
        )
    if deviation[nearest] > PUT_ASIDE:
        warn(
            f"the stated pixel size of {_middle(evidence):.4g} Å fits no host well and is put aside: the "
            f"lattice of {nearest} implies {implied[nearest]:.4g} Å/px; check sampling and host"
        )
    weight = {h: hosts.count(h) / len(hosts) * math.exp(-(deviation[h] ** 2) / 2) for h in implied}
    return _group(implied, weight)


def _deviation(evidence: object, implied: float) -> float:
    """How many standard deviations a pixel size is from what is stated of it."""
    if evidence is None:
        return 0.0
    spread = math.hypot(CALIBRATION_ERROR, STRAIN)
    if isinstance(evidence, float):
        return abs(math.log(evidence / implied)) / spread
    if isinstance(evidence, tuple):
        return min(_deviation(value, implied) for value in evidence)
    # the mean likelihood over the distribution, each value blurred by strain
    nodes = quantile(evidence, (torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    nodes = nodes.clamp(*CONTEXT["sampling"].domain)
    squares = (nodes / implied).log().square() / STRAIN**2
    return math.sqrt(max(0.0, -2 * float((-squares / 2).logsumexp(0) - math.log(len(nodes)))))


def _middle(evidence: object) -> float:
    """A typical value of what is stated."""
    if isinstance(evidence, float):
        return evidence
    if isinstance(evidence, tuple):
        return float(np.median(evidence))
    return float(quantile(evidence, torch.tensor([0.5], dtype=torch.float64)))


def _listed(hosts: Mapping[str, float]) -> str:
    """Some hosts by name."""
    names = list(hosts)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _group(implied: Mapping[str, float], weight: Mapping[str, float]) -> list[Scale]:
    """Join hosts of nearly one lattice constant, whose patches are cut at one pixel size."""
    total, groups = sum(weight.values()), []
    for host in sorted(implied, key=implied.get):
        if groups and implied[host] <= implied[groups[-1][0]] * (1 + SAME_SCALE):
            groups[-1].append(host)
        else:
            groups.append([host])
    scales = []
    for members in groups:
        share = sum(weight[h] for h in members) / total
        if share > 1e-6:
            mean = sum(implied[h] * weight[h] for h in members) / (share * total)
            scales.append(Scale(mean, tuple(members), math.log(share)))
    return sorted(scales, key=lambda s: -s.log_weight)

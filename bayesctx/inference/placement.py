"""Where the sites of a micrograph are, and the pixel sizes that the hosts imply for its lattice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..context import CALIBRATION_ERROR, CONTEXT
from ..crystal import HOSTS
from ..distributions import quantile
from ..micrograph import (
    Lattice,
    extend_image,
    extract_patches,
    find_sites,
    fit_lattice,
    patch_margin,
)
from ..prior import Prior
from ..storage import warn

__all__ = ["Placement", "Scale", "candidate_scales", "cut_patches", "place_sites"]

AT_ONCE = 256  # patches whose layers stay in the cache: twice as fast as 1024
STRAIN = 0.015  # relative rms deviation of a lattice constant from that of its host
FREEDOM = 4.0  # degrees of freedom of Student's t: some microscopes are calibrated badly
SAME_SCALE = 0.012  # hosts whose lattice constants differ by less share a pixel size
PUT_ASIDE, REFUSED = 0.04, 0.15  # relative deviations that are warned of, and that are refused
NEGLIGIBLE = 1e-6  # prior probability below which a pixel size is left out


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


def place_sites(image: np.ndarray, valid: np.ndarray) -> Placement:
    """Fit the lattice of a micrograph and list its sites.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities in any unit, in double precision.
    valid : ndarray of bool, shape (y, x)
        Pixels that are part of the image.

    Returns
    -------
    Placement
        Every lattice site whose centre lies in the image, a lattice constant or more from the nearest
        pixel that is not valid.

    Raises
    ------
    ValueError
        If there is no hexagonal lattice in the image, see ``fit_lattice``, or no site is left.
    """
    unit = np.ldexp(image, -np.frexp(np.abs(image).max())[1])  # exact, of any unit
    centred = unit - np.median(unit)
    scaled = centred / np.abs(centred).mean()
    lattice = fit_lattice(scaled)
    positions, sublattice = find_sites(lattice, image.shape, margin=0)
    near = _distance_to_invalid(valid, positions) < lattice.lattice_constant
    if near.all():
        raise ValueError(
            "sites a lattice constant away from masked pixels were expected, got none; mask less"
        )
    return Placement(scaled.astype(np.float32), lattice, positions[~near], sublattice[~near])


def _distance_to_invalid(valid: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Distance of sites to the nearest pixel that is not valid, in px."""
    if valid.all():
        return np.full(len(positions), np.inf)
    distance = ndimage.distance_transform_edt(valid)
    y, x = (
        np.rint(p).astype(int).clip(0, n - 1) for p, n in zip(positions.T, valid.shape, strict=True)
    )
    return distance[y, x]


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
        The most probable first; those of negligible weight are left out.

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
    The logarithm of the stated over the implied pixel size has Student's t distribution with four
    degrees of freedom and a scale of 2.5 %: 2 % for the calibration of the microscope and 1.5 % for
    strain. A distribution that is given instead of a number is blurred by strain alone.
    """
    hosts = prior.given({n: v for n, v in known.items() if n in ("host", "dopant")}).hosts
    evidence = known.get("sampling", stated)
    constant = lattice.lattice_constant
    implied = {h: HOSTS[h].lattice_constant / constant for h in dict.fromkeys(hosts)}
    if evidence is not None:
        _check_scale(evidence, implied, constant)
    weight = {
        h: hosts.count(h) * math.exp(_log_likelihood(evidence, s)) for h, s in implied.items()
    }
    return _group(implied, weight)


def _check_scale(evidence: object, implied: Mapping[str, float], lattice_constant: float) -> None:
    """Refuse a stated pixel size that fits no host, and warn of one that is put aside."""
    middle = _middle(evidence)
    values = evidence if isinstance(evidence, list) else (middle,)
    apart = {h: min(abs(math.log(v / s)) for v in values) for h, s in implied.items()}
    nearest = min(apart, key=apart.get)
    size = f"the lattice of {nearest} implies pixels of {implied[nearest]:.4g} Å"
    if apart[nearest] > REFUSED:
        constants = sorted({HOSTS[h].lattice_constant for h in implied})
        ends = " to ".join(f"{a:g}" for a in dict.fromkeys((constants[0], constants[-1])))
        raise ValueError(
            f"a lattice constant of {ends} Å was expected for {_listed(implied)}, got "
            f"{middle * lattice_constant:.2f} Å with pixels of {middle:.4g} Å; check sampling and "
            f"host, {size}"
        )
    if apart[nearest] > PUT_ASIDE:
        warn(
            f"the stated pixel size of {middle:.4g} Å is put aside, {size}; check sampling and host"
        )


def _log_likelihood(evidence: object, implied: float) -> float:
    """Log likelihood of a pixel size given what is stated of it, up to a constant."""
    if evidence is None:
        return 0.0
    if isinstance(evidence, float):
        scale = math.hypot(CALIBRATION_ERROR, STRAIN)
        square = (math.log(evidence / implied) / scale) ** 2
        return -(FREEDOM + 1) / 2 * math.log1p(square / FREEDOM)
    if isinstance(evidence, list):
        return max(_log_likelihood(value, implied) for value in evidence)
    # the mean likelihood over the distribution, each value blurred by strain
    nodes = quantile(evidence, (torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    squares = (nodes.clamp(*CONTEXT["sampling"].domain) / implied).log().square() / STRAIN**2
    return float((-squares / 2).logsumexp(0) - math.log(len(nodes)))


def _middle(evidence: object) -> float:
    """A typical value of what is stated."""
    if isinstance(evidence, float):
        return evidence
    if isinstance(evidence, list):
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
        if share > NEGLIGIBLE:
            mean = sum(implied[h] * weight[h] for h in members) / (share * total)
            scales.append(Scale(mean, tuple(members), math.log(share)))
    return sorted(scales, key=lambda s: -s.log_weight)

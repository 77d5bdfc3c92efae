"""The pixel sizes that the hosts imply for a lattice, weighed by what is stated of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp

from ..context import CALIBRATION_ERROR, CONTEXT
from ..crystal import HOSTS
from ..distributions import quantile
from ..micrograph import Lattice
from ..prior import Prior
from ..storage import warn

__all__ = ["Scale", "candidate_scales", "conflict_of_size", "log_likelihood_of_size"]

STRAIN = 0.015  # relative rms deviation of a lattice constant from that of its host
FREEDOM = 4.0  # degrees of freedom of Student's t: some microscopes are calibrated badly
SAME_SCALE = 0.012  # hosts whose lattice constants differ by less share a pixel size
PUT_ASIDE, REFUSED = 0.04, 0.15  # relative deviations that are warned of, and that are refused
NEGLIGIBLE = 1e-6  # prior probability below which a pixel size is left out


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


def candidate_scales(
    lattice: Lattice, known: Mapping[str, object], stated: float | None, prior: Prior
) -> list[Scale]:
    """List the pixel sizes that the hosts imply, weighed by what is stated of them.

    Parameters
    ----------
    lattice : Lattice
        Its lattice constant in px gives a pixel size for every host.
    known : mapping
        The checked context; ``sampling`` may be a number, which has the error of a calibration,
        candidates or a distribution.
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
        If a stated pixel size differs from that of the host by more than errors of calibration
        explain.

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
        h: hosts.count(h) * math.exp(log_likelihood_of_size(evidence, s))
        for h, s in implied.items()
    }
    return _group(implied, weight)


def conflict_of_size(
    lattice: Lattice, known: Mapping[str, object], stated: float | None, prior: Prior
) -> float:
    """Evidence of a stated pixel size against the claimed host.

    Parameters
    ----------
    lattice, known, stated, prior : Lattice, mapping, float, Prior
        As for ``candidate_scales``.

    Returns
    -------
    float
        Log Bayes factor, in nats, of leaving the host open; zero where no size is stated.
    """
    evidence = known.get("sampling", stated)
    if evidence is None:
        return 0.0

    def log_evidence(names: tuple[str, ...]) -> float:
        hosts = prior.given({n: known[n] for n in names if n in known}).hosts
        sizes = [HOSTS[h].lattice_constant / lattice.lattice_constant for h in hosts]
        return float(
            logsumexp([log_likelihood_of_size(evidence, s) for s in sizes]) - math.log(len(hosts))
        )

    return log_evidence(("dopant",)) - log_evidence(("host", "dopant"))


def _check_scale(evidence: object, implied: Mapping[str, float], lattice_constant: float) -> None:
    """Refuse a stated pixel size that fits no host, and warn of one that is put aside."""
    middle = _middle(evidence)
    values = evidence if isinstance(evidence, list) else (middle,)
    apart = {h: min(abs(math.log(v / s)) for v in values) for h, s in implied.items()}
    nearest = min(apart, key=apart.get)
    size = f"the lattice of {nearest} implies pixels of {implied[nearest]:.4g} Å"
    if apart[nearest] > REFUSED:
        _refuse_power_of_ten(middle, implied)
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


def _refuse_power_of_ten(stated: float, implied: Mapping[str, float]) -> None:
    """Raise for a pixel size whose decimal point is wrong."""
    power = round(math.log10(stated / min(implied.values())))
    meant = stated / 10.0**power
    host = min(implied, key=lambda h: abs(math.log(meant / implied[h])))
    if power == 0 or abs(math.log(meant / implied[host])) > REFUSED:
        return
    factor = f"{10.0 ** abs(power):g} times too {'large' if power > 0 else 'small'}"
    raise ValueError(
        f"pixels of {implied[host]:.4g} Å were expected by the lattice of {host}, the stated ones "
        f"of {stated:.4g} Å are {factor}, a known error of files of DigitalMicrograph; state "
        f"sampling={meant:.4g}"
    )


def log_likelihood_of_size(evidence: object, implied: float) -> float:
    """Log likelihood of a pixel size given what is stated of it, up to a constant.

    Parameters
    ----------
    evidence : float, list of float, Distribution or None
        What is stated.
    implied : float
        The size in Å.

    Returns
    -------
    float
        In nats; zero where nothing is stated.
    """
    if evidence is None:
        return 0.0
    if isinstance(evidence, float):
        scale = math.hypot(CALIBRATION_ERROR, STRAIN)
        square = (math.log(evidence / implied) / scale) ** 2
        return -(FREEDOM + 1) / 2 * math.log1p(square / FREEDOM)
    if isinstance(evidence, list):
        return max(log_likelihood_of_size(value, implied) for value in evidence)
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

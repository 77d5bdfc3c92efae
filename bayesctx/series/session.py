"""session_prior(): what a series tells of the instrument, as the prior of its next image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from scipy.optimize import least_squares
from scipy.special import ndtr, ndtri

from ..checks import check_known, check_number, check_sequence
from ..context import CONTEXT
from ..distributions import quantile
from ..evidence import truncate
from ..nuisances import DOMAINS, nuisances_of_scan
from ..prior import Prior
from .members import Results, members_of, prior_of

__all__ = ["Shared", "combine", "session_prior"]

CONSTANT = (
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
)
DRIFTING = ("source_size", "focal_spread", "C12", "C21", "C23", "C30")
SHARED = (*CONSTANT, *DRIFTING)
CHANGES = np.linspace(0.0, 0.98, 50)  # standard deviation between images, over that of the prior
LEAST_DRAWS = 5  # effective ones
NOTHING_LEARNED = 0.9  # of the variance of the prior
OUTSIDE = 1.9  # standard deviations by which the centre may lie outside of the prior
NOTHING = 1e-6  # of the precision of the prior
CORRELATION = 0.6
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Shared:
    """A normal distribution of the value that a further image has, in standard coordinates.

    Attributes
    ----------
    mean, variance : float
        Of the further image; 0 and 1 is the prior.
    change : float
        Mean of the standard deviation between images.
    """

    mean: float
    variance: float
    change: float


def combine(
    mean: np.ndarray,
    variance: np.ndarray,
    changes: np.ndarray = CHANGES,
    correlation: float = 0.0,
) -> Shared:
    """Combine the posteriors of images of one session, whose common prior is standard normal.

    Parameters
    ----------
    mean, variance : ndarray, shape (image,)
        Of the posterior of each image; variances are at most 1.
    changes : ndarray, shape (change,)
        Standard deviations t between images that are weighed, below 1; a single 0 if the value is
        the same in all images.
    correlation : float
        Correlation r of the errors of two images, from 0 to below 1.

    Returns
    -------
    Shared
        For a further image.

    Notes
    -----
    An image has the value x_i ~ N(c, t²) around that of the session, c ~ N(0, 1 - t²), so that the
    prior of a single image is N(0, 1) whatever t is. Its posterior N(m_i, v_i) contains this prior,
    which is divided out: the likelihood is normal with precision 1 / s_i = 1 / v_i - 1 around
    y_i = m_i / (1 - v_i), and the prior of the session enters once. The error of y_i has a part of
    variance (1 - r) s_i of its own, and one that all images share, b ~ N(0, r s) with the harmonic
    mean s of the s_i: y_i ~ N(c + b, (1 - r) s_i + t²). However many images there are, c is not
    known better than b. The prior density of t falls as 1 - t.
    """
    precision = np.maximum(1 / np.asarray(variance, float) - 1, 0.0)
    tells = precision > NOTHING
    if not tells.any():
        return Shared(0.0, 1.0, float("nan"))
    value = np.asarray(mean, float)[tells] / (1 - np.asarray(variance, float)[tells])
    spread = 1 / precision[tells]
    common = correlation / precision[tells].mean()
    found = [_given_change(value, (1 - correlation) * spread, common, float(t)) for t in changes]
    log_weight, centre, width = np.array(found).T
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mixed = float(weight @ centre)
    return Shared(mixed, float(weight @ (width + (centre - mixed) ** 2)), float(weight @ changes))


def _given_change(
    value: np.ndarray, spread: np.ndarray, common: float, change: float
) -> tuple[float, float, float]:
    """Log posterior density of a change, and mean and variance of a further image given it."""
    total, own = spread + change**2, 1 - change**2
    prior = own + common  # of what the values are around
    around = 1 / (1 / prior + (1 / total).sum())
    middle = around * (value / total).sum()
    # log density of all values, with what they are around integrated out
    log_density = 0.5 * (np.log(around / prior) + middle**2 / around)
    log_density -= 0.5 * (np.log(total).sum() + (value**2 / total).sum())
    share = own / prior
    variance = share**2 * around + share * common + change**2
    return log_density + np.log1p(-change), share * middle, variance


def session_prior(
    results: Results,
    prior: Prior | None = None,
    *,
    variables: Sequence[str] = SHARED,
    constant: Sequence[str] = CONSTANT,
    correlation: float = CORRELATION,
) -> Prior:
    """Learn the prior of a further image of the same session from a series.

    Parameters
    ----------
    results : path-like, DataTree, mapping or sequence of DataTree
        Images of one microscope and session, see ``summarise``.
    prior : Prior, optional
        Under which they were inferred; default: that in the folder, or the reference prior.
    variables : sequence of str
        What images of a session have in common; variables that the results do not infer are left
        as they are. The network infers beam energy and angles, the simulator also the probe.
    constant : sequence of str
        Those of them that are the same in all images; others change by an unknown amount, which is
        inferred.
    correlation : float
        Correlation of the errors of two images of a session, from 0 to 0.99. Images of one session
        have the same aberrations and the same faults of the model, so that their errors do not
        average out; the default is that of the network in simulated sessions
        (docs/benchmarks/series.md).

    Returns
    -------
    Prior
        ``prior`` with a truncated normal distribution for every variable of which something was
        learned. ``infer(image, context, model.with_prior(learned))`` uses it, and
        ``learned.to_dict()`` can be written as JSON. Host, dopant, abundances, defocus and dose
        keep their prior.

    Raises
    ------
    TypeError, ValueError
        If these are no results, a variable is unknown, or images were inferred with different
        evidence on a variable.

    Notes
    -----
    A variable is mapped to a standard normal one by the distribution function of its prior draws,
    and the posterior of an image is taken as normal there, with the variance of the predictive
    Student distribution of its effective draws. See ``combine`` for the rest. Correlations between
    variables are left out, since a prior has independent ones; an azimuth keeps its prior.

    Examples
    --------
    >>> learned = session_prior("results")  # doctest: +SKIP
    >>> infer(image, {"host": "WSe2"}, load_model().with_prior(learned))  # doctest: +SKIP
    """
    names = _check_names(variables, constant)
    correlation = check_number(correlation, "correlation", (0.0, 0.99))
    base = prior_of(results, prior)
    found: dict[str, list[_Draws]] = {name: [] for name in names}
    for image, result in members_of(results):
        for name in names:
            drawn = _draws_of(image, result, name)
            if drawn is not None:
                found[name].append(drawn)
    learned = {}
    for name, images in found.items():
        changes = np.zeros(1) if name in constant else CHANGES
        law = _learn(name, images, base, changes, correlation) if images else None
        if law is not None:
            learned[name] = law
    given = base.given({n: v for n, v in learned.items() if n in CONTEXT})
    own = {n: v for n, v in learned.items() if n not in CONTEXT}
    return replace(given, nuisances={**given.nuisances, **own})


def _check_names(variables: Sequence[str], constant: Sequence[str]) -> tuple[str, ...]:
    """Names of variables that a session may share."""
    for name in check_sequence(constant, "constant"):
        check_known(name, "variable of a session", SHARED)
    names = check_sequence(variables, "variables")
    for name in names:
        check_known(name, "variable of a session", SHARED)
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, eq=False)
class _Draws:
    """Draws of a variable from prior and posterior of an image, its evidence and effective size."""

    image: str
    posterior: np.ndarray
    prior: np.ndarray
    evidence: object
    ess: float


def _draws_of(image: str, result: xr.DataTree, name: str) -> _Draws | None:
    """Draws of a variable; None where it is known, or has too few effective draws."""
    posterior, prior = result["posterior"], result["prior"]
    if name not in posterior or name not in prior or "detector" in posterior[name].dims:
        return None
    statistics = result["sample_stats"].to_dataset()
    ess = float(np.min(statistics.ess.values))
    if "ess_bulk" in statistics and name in statistics["variable"].values:
        ess = float(statistics.ess_bulk.sel(variable=name))
    if not ess >= LEAST_DRAWS:
        return None
    stated = json.loads(result.attrs["context"]).get(name)
    values = (group[name].values.ravel().astype(float) for group in (posterior, prior))
    return _Draws(image, *values, stated, ess)


def _learn(
    name: str, images: Sequence[_Draws], prior: Prior, changes: np.ndarray, correlation: float
) -> torch.distributions.Distribution | None:
    """Distribution of a variable in a further image; None if nothing was learned."""
    for image in images:
        if image.evidence != images[0].evidence:
            raise ValueError(
                f"the same evidence on {name} was expected for all images of a session, "
                f"{images[0].image} has {images[0].evidence} and {image.image} {image.evidence}; "
                "leave it out of variables, or pass images with the same"
            )
    values, normal = _scale_of(np.concatenate([image.prior for image in images]))
    if not values[0] < values[-1]:
        return None
    mean, variance = [], []
    for image in images:
        z = np.interp(image.posterior, values, normal)
        mean.append(z.mean())
        # that of the predictive distribution of a normal sample
        n = image.ess
        variance.append(max(z.var(), 1e-8) * (n + 1) / (n - 3))
    capped = np.minimum(np.array(variance), 1.0)
    shared = combine(np.array(mean), capped, changes, correlation)
    if shared.variance > NOTHING_LEARNED:
        return None
    points = shared.mean + np.sqrt(shared.variance) * ndtri(np.array(LEVELS))
    return _fit(np.interp(points, normal, values), *_support(name, prior))


def _scale_of(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of a variable, and the standard normal ones with the same distribution function."""
    normal = np.linspace(-2.5, 2.5, 51)
    values = np.quantile(draws, np.concatenate([[0.0], ndtr(normal), [1.0]]))
    normal = np.concatenate([[-3.5], normal, [3.5]])
    # a grid of increasing values, also for candidates
    return np.maximum.accumulate(values), normal


def _support(name: str, prior: Prior) -> tuple[float, float]:
    """Smallest and largest value under the prior."""
    if name in CONTEXT:
        return prior.domain(name)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    low, high = quantile(nuisances_of_scan(prior.nuisances)[name], ends, DOMAINS[name]).tolist()
    return low, high


def _fit(points: np.ndarray, low: float, high: float) -> torch.distributions.Distribution:
    """Truncated normal distribution with the given quantiles."""
    size, levels = points[-1] - points[0], np.array(LEVELS)

    def parameters_of(free: np.ndarray) -> tuple[float, float]:
        scale = size * np.exp(free[1])
        # a normal distribution can be truncated only where it has mass
        loc = np.clip(points[2] + size * free[0], low - OUTSIDE * scale, high + OUTSIDE * scale)
        return float(loc), float(scale)

    def misfit(free: np.ndarray) -> np.ndarray:
        loc, scale = parameters_of(free)
        ends = ndtr(np.array([low - loc, high - loc]) / scale)
        p = np.clip(ends[0] + levels * (ends[1] - ends[0]), 1e-12, 1 - 1e-12)
        return (loc + scale * ndtri(p) - points) / size

    best = least_squares(misfit, [0.0, -1.0], bounds=([-3.0, -4.0], [3.0, 2.0])).x
    single = (torch.tensor(v, dtype=torch.float32) for v in parameters_of(best))
    return truncate(dist.Normal(*single), low, high)[0]

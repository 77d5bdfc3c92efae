"""summarise(): concentrations of the defect classes over a series of images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import betaln

from ..abundance import Abundance
from ..context import NO_DOPANT
from ..defects import DEFECTS
from ..distributions import decode
from ..prior import Prior
from ..tables.counting import LEVELS, interval
from ..tables.drawn import KIND_OF_CLASS, Worlds, read_worlds
from .members import Results, members_of, prior_of

__all__ = ["Evidence", "summarise", "weigh_mean_and_spread"]

Beta = tuple[float, float] | float
"""Parameters of the distribution of a concentration, or its value where it is known."""

NUM_DRAWS = 4000
FRACTIONS = 1 / (1 + np.exp(-np.linspace(-12, 12, 241)))  # means that are weighed
SPREADS = np.geomspace(0.01, 3.0, 40)  # over the mean, or over one minus it if that is less
WIDEST = 0.95  # intraclass correlation


@dataclass(frozen=True, eq=False)
class Evidence:
    """What images tell of the concentration of a class, their prior divided out.

    Attributes
    ----------
    with_class, without : ndarray, shape (image,)
        Numbers of sites with and without the class that would tell as much.
    prior : tuple of float
        Parameters of the Beta distribution of the concentration in one image.
    """

    with_class: np.ndarray
    without: np.ndarray
    prior: tuple[float, float]

    @classmethod
    def of(cls, mean: np.ndarray, variance: np.ndarray, prior: tuple[float, float]) -> Evidence:
        """Divide the prior out of posteriors.

        Parameters
        ----------
        mean, variance : ndarray, shape (image,)
            Of the posterior of each image.
        prior : tuple of float
            Parameters of the Beta distribution that each of them contains.

        Returns
        -------
        Evidence
            The posterior is taken as a Beta distribution, which it is where the class of every site
            is certain; its parameters less those of the prior are the counts.
        """
        strength = mean * (1 - mean) / variance - 1
        own = np.stack([mean * strength, (1 - mean) * strength])
        counts = np.maximum(own - np.array(prior)[:, None], 0.0)
        return cls(*counts, prior)


def weigh_mean_and_spread(
    evidence: Evidence, generator: np.random.Generator, num_draws: int = NUM_DRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw mean and spread of a concentration between images, and that of a further image.

    Parameters
    ----------
    evidence : Evidence
        Of all images.
    generator : numpy.random.Generator
        Source of randomness.
    num_draws : int
        How many.

    Returns
    -------
    mean, spread, further : ndarray, shape (sample,)
        Mean and standard deviation over images, and the concentration of a further image.

    Notes
    -----
    Concentrations of images are Beta distributed with mean m and intraclass correlation r, so that
    counts are beta-binomial: p(n_1 | m, r) = B(n_1 + m w, n_0 + (1 - m) w) / B(m w, (1 - m) w),
    w = 1/r - 1. The prior of m is that of a single image, taken once; the standard deviation over
    min(m, 1 - m) is half-normal with scale one. Both are weighed on a grid.
    """
    m, s = FRACTIONS[:, None], SPREADS[None]
    least, most = np.minimum(m, 1 - m), np.maximum(m, 1 - m)
    r = s**2 * least / most
    w = 1 / np.minimum(r, WIDEST) - 1
    a, b = m * w, (1 - m) * w
    first, second = evidence.prior
    # even steps of the logarithm of the odds and of that of the spread
    log_weight = first * np.log(m) + second * np.log1p(-m) - s**2 / 2 + np.log(s)
    log_weight = np.where(r < WIDEST, log_weight, -np.inf)
    log_weight = log_weight - len(evidence.with_class) * betaln(a, b)
    for n1, n0 in zip(evidence.with_class, evidence.without, strict=True):
        log_weight = log_weight + betaln(a + n1, b + n0)
    weight = np.exp(log_weight - log_weight.max()).ravel()
    cell = generator.choice(weight.size, num_draws, p=weight / weight.sum())
    mean = np.broadcast_to(m, w.shape).ravel()[cell]
    # anywhere in its cell
    step = np.log(FRACTIONS[1] / FRACTIONS[0]) * (generator.random(num_draws) - 0.5)
    mean = 1 / (1 + (1 / mean - 1) * np.exp(-step))
    w = w.ravel()[cell]
    spread = np.sqrt(mean * (1 - mean) / (1 + w))
    return mean, spread, generator.beta(mean * w, (1 - mean) * w)


def summarise(results: Results, prior: Prior | None = None, *, seed: int = 0) -> xr.Dataset:
    """Summarise the concentrations of the defect classes over a series of images.

    Parameters
    ----------
    results : path-like, DataTree, mapping or sequence of DataTree
        A folder of ``infer_series``, the tree of ``open_series``, or results of ``infer``, each of
        one micrograph.
    prior : Prior, optional
        Under which they were inferred; default: that in the folder, or the reference prior.
    seed : int
        Of the draws that give the intervals.

    Returns
    -------
    Dataset, dimensions defect_class and image
        Of every class, as shares of the sites of its kind, each with ``_50_low``, ``_50_high``,
        ``_90_low`` and ``_90_high``: ``mean`` over images, ``spread``, the standard deviation
        between images, ``further``, the concentration of a further image, ``pooled``, as if all
        images had the same concentration, and ``own`` (image, defect_class), that of each image by
        itself. ``effective_sites`` (image, defect_class): sites of known class that would tell as
        much as the image does. Without the dimension of images it is a table:
        ``summarise(results).drop_dims("image").to_dataframe()``.

    Raises
    ------
    TypeError, ValueError
        If these are no results of micrographs.

    Notes
    -----
    The concentration in an image is drawn given the classes of its sites in each joint draw.
    Every posterior contains the prior of the concentrations. Multiplying the posteriors of N images
    would count it N times, so that it is divided out of each and enters once, see
    ``weigh_mean_and_spread``. With few images the spread is known little, and ``mean`` and
    ``further`` are wider than ``pooled``, which is too narrow where images differ.

    References
    ----------
    Hogg, Myers and Bovy, Astrophys. J. 725, 2166 (2010), for hierarchical inference from the
    posteriors of single objects.

    Examples
    --------
    >>> summarise("results")["mean"].sel(defect_class="V_X")  # doctest: +SKIP
    """
    base, rng = prior_of(results, prior), np.random.default_rng(seed)
    names, means, variances, own, before = [], [], [], [], None
    for name, result in members_of(results):
        expected = _prior_of_image(base, json.loads(result.attrs["context"]))
        if before is not None and expected != before:
            raise ValueError(
                "images of a series with the same evidence on abundances were expected, got "
                f"another one for {name}; summarise them apart"
            )
        before = expected
        values = _draw_concentrations(read_worlds(result), expected, rng)
        names.append(name)
        means.append(values.mean(0))
        variances.append(values.var(0))
        own.append(_with_bounds(values))
    mean, variance = np.array(means), np.array(variances)
    columns = {n: _table(own, n) for n in own[0]}
    rows = [_summary_of(mean[:, k], variance[:, k], before[k], rng) for k in range(len(DEFECTS))]
    shared = {n: ("defect_class", np.array([row[n] for row in rows])) for n in rows[0]}
    sites = shared.pop("effective_sites")[1]
    shared["effective_sites"] = (("defect_class", "image"), sites)
    coordinates = {"defect_class": list(DEFECTS), "image": names}
    table = xr.Dataset(shared | columns, coordinates, {"num_images": len(names)})
    for variable in table.data_vars.values():
        variable.attrs["units"] = "1"
    return table


def _draw_concentrations(
    worlds: Worlds, prior: Sequence[Beta], rng: np.random.Generator
) -> np.ndarray:
    """Draws of the concentrations in an image given the classes of its sites, (sample, class)."""
    columns = []
    for k, law in enumerate(prior):
        is_site = worlds.kind == KIND_OF_CLASS[k]
        held = ((worlds.defect == k) & is_site).sum(1)
        if isinstance(law, float):
            columns.append(np.full(len(held), law))
        else:
            columns.append(rng.beta(law[0] + held, law[1] + is_site.sum(1) - held))
    return np.stack(columns, -1)


def _table(own: list[dict[str, np.ndarray]], name: str) -> tuple:
    """A variable of all images."""
    return ("image", "defect_class"), np.array([row[name] for row in own])


def _with_bounds(values: np.ndarray, name: str = "own") -> dict[str, np.ndarray]:
    """Mean and bounds of central intervals of draws, shape (sample, ...)."""
    found = {name: values.mean(0)}
    for level in LEVELS:
        for bound, value in zip(("low", "high"), interval(values, level), strict=True):
            found[f"{name}_{round(100 * level)}_{bound}"] = value
    return found


def _summary_of(
    mean: np.ndarray,
    variance: np.ndarray,
    prior: Beta,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Rows of a class."""
    if isinstance(prior, float):
        known, none = np.full((1, 1), prior), np.zeros((1, 1))
        draws, sites = (known, none, known, known), np.full(len(mean), np.nan)
    else:
        evidence = Evidence.of(mean, variance, prior)
        total = (evidence.with_class.sum(), evidence.without.sum())
        pooled = rng.beta(prior[0] + total[0], prior[1] + total[1], NUM_DRAWS)
        found = (*weigh_mean_and_spread(evidence, rng), pooled)
        draws, sites = [d[:, None] for d in found], evidence.with_class + evidence.without
    table = {"effective_sites": sites}
    for name, values in zip(("mean", "spread", "further", "pooled"), draws, strict=True):
        table |= {n: v[0] for n, v in _with_bounds(values, name).items()}
    return table


def _prior_of_image(prior: Prior, context: Mapping[str, object]) -> list[Beta]:
    """Prior of every class on its kind of site."""
    shares = {n: decode(v) for n, v in (context.get("abundance") or {}).items()}
    known: dict[str, object] = {"abundance": shares} if shares else {}
    if context.get("dopant", "") in (None, NO_DOPANT):
        known["dopant"] = None
    given = prior.given(known)
    abundance = Abundance.of(given.dirichlet_alpha, given.abundance)
    first, second = (_moments(abundance, power)[KIND_OF_CLASS] for power in (1, 2))
    index = np.arange(len(DEFECTS))
    mean, square = first[index, index], second[index, index]
    variance = square - mean**2
    return [
        (m * s, (1 - m) * s) if v > 1e-12 and (s := m * (1 - m) / v - 1) > 0 else m
        for m, v in zip(mean.tolist(), variance.tolist(), strict=True)
    ]


def _moments(abundance: Abundance, power: int) -> np.ndarray:
    """First or second moments of the shares, shape (kind, defect_class)."""
    f, s = abundance.fraction, abundance.strength
    if power == 1:
        return abundance.mean.numpy()
    own, left = (g * (g * s + 1) / (s + 1) for g in (f, 1 - f))
    known = ~s.isfinite()
    own, left = own.where(~known, f**2), left.where(~known, (1 - f) ** 2)
    before = left.roll(1, -1)
    before[..., 0] = 1.0
    return abundance._in_classes(own * before.cumprod(-1)).numpy()

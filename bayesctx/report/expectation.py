"""The image that the posterior of a micrograph expects, and the images of single columns in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from ..composition import CONTINUOUS
from ..context import NO_DOPANT
from ..crystal import HOSTS, METALS, MONOLAYER_1H
from ..defects import (
    CODOPED_SPECIES,
    DEFECTS,
    DOPED,
    DOPED_SPECIES,
    HYPOTHESES,
    SPECIES,
    formula_of,
)
from ..evidence import Codoped
from ..prediction import Columns, read_draw, render_draw

__all__ = ["Expectation", "Hypothesis", "expect_image"]

TRIED = 32  # draws that are compared with the middle of the image
CROP = 128  # px, of this middle
REACH = 4.5  # Å around a column, beyond which its image is neglected
STEP = 0.15  # Å between the points at which the image of a column is stored
LEAST_SHARE, MOST_DOPANTS = 0.05, 3  # probability and number of dopants whose columns are shown
KINDS = MONOLAYER_1H.sites
STILL = dict.fromkeys(("row_jitter", "row_jitter_y", "row_slant", "disorder", "additivity"), 0.0)


@dataclass(frozen=True)
class Hypothesis:
    """A column of atoms that a site may hold.

    Attributes
    ----------
    defect : str
        Class, one of ``DEFECTS``.
    site : str
        Kind of site.
    formula : str
        Of the column, a dash for none.
    """

    defect: str
    site: str
    formula: str


@dataclass(frozen=True, eq=False)
class Expectation:
    """Expected image of a micrograph, in the unit of the observed one.

    Attributes
    ----------
    image : ndarray, shape (detector, y, x)
        With the most probable class at every site.
    variance : ndarray, shape (detector, 3)
        Of the residual: a, b and least value of max(a + b intensity, least value).
    hypotheses : list of Hypothesis
        Of every kind of site.
    columns : ndarray, shape (detector, hypothesis, side, side)
        Image of each of them alone, without background, the column in the middle.
    step : float
        Distance of the points of ``columns`` in px.
    present : ndarray of int, shape (patch,)
        Hypothesis in ``image`` at every site; -1 without crystal.
    kinds : ndarray of str, shape (patch,)
        Kind of every site.
    explained : ndarray, shape (detector,)
        Share of the variance of the image on crystal.
    """

    image: np.ndarray
    variance: np.ndarray
    hypotheses: list[Hypothesis]
    columns: np.ndarray
    step: float
    present: np.ndarray
    kinds: np.ndarray
    explained: np.ndarray

    def residual(self, observed: np.ndarray, index: int) -> np.ndarray:
        """Observed minus expected image of a detector.

        Parameters
        ----------
        observed : ndarray, shape (y, x)
            Its image.
        index : int
            Which detector.

        Returns
        -------
        ndarray, shape (y, x)
            In standard deviations of the residual at the expected intensity.
        """
        constant, slope, least = self.variance[index]
        mean = self.image[index]
        return (observed - mean) / np.sqrt(np.maximum(constant + slope * mean, least))


def expect_image(result: xr.DataTree) -> Expectation:
    """Compute the image that a posterior expects.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.

    Returns
    -------
    Expectation
        At one joint draw: of ``TRIED`` draws with the most probable host and assignment the one
        that is closest to the middle of the image. By the network, which does not infer the probe
        but for its aperture and focus, each draw is joined with a probe from its prior.

    Raises
    ------
    ValueError
        If no site has crystal, or the result lacks a variable of the context.

    Notes
    -----
    Images of columns add up, so that another column at one site changes the image by the
    difference of two elements of ``columns``. Displacements of columns and of scan rows are zero.
    """
    drawn, known = result["posterior"], result["constant_data"]
    absent = [n for n in CONTINUOUS if n not in drawn and n not in known]
    if absent:
        raise ValueError(
            f"{', '.join(absent)} were expected in the result, got none of them; infer again"
        )
    crystal = Columns.of(result)
    observed = result["observed_data"].intensity.values.astype(float)
    observed = observed.reshape(-1, *observed.shape[-2:])
    if not len(crystal.inside):
        raise ValueError("sites with crystal were expected, got none; leave the image out")
    assignment = int(result["class_posterior"].assignment.values.argmax())
    kinds = crystal.kinds[assignment]
    species = _likely_columns(result, crystal, kinds)
    seed, values = _closest_draw(result, crystal, species, observed, assignment)
    clean = render_draw(values, crystal, species, observed.shape[-2:], np.random.default_rng(seed))
    image, gain, explained = _fit(clean, observed, crystal.near)
    hypotheses, columns, step = _columns(result, values, seed)
    at = {(h.defect, h.site): i for i, h in reversed(list(enumerate(hypotheses)))}
    num, inside = len(result["constant_data"].site_x), crystal.inside
    present, own = np.full(num, -1), np.full(num, "", object)
    of_species = {k: at.get((s.defect, s.site), -1) for k, s in enumerate(SPECIES)}
    if "codopant" in values:
        metals = {h.formula: i for i, h in enumerate(hypotheses) if h.defect == DOPED}
        pairs = (DOPED_SPECIES, "dopant"), (CODOPED_SPECIES, "codopant")
        of_species |= {k: metals[METALS[int(values[name])]] for k, name in pairs}
    for i, s, k in zip(inside, species.tolist(), kinds, strict=False):
        present[i], own[i] = of_species[s], KINDS[k]
    return Expectation(
        image=image,
        variance=_variance(observed, image, crystal.near),
        hypotheses=hypotheses,
        columns=columns * gain[:, None, None, None],
        step=step,
        present=present,
        kinds=own.astype(str),
        explained=explained,
    )


def _likely_columns(result: xr.DataTree, crystal: Columns, kinds: np.ndarray) -> np.ndarray:
    """First column of the most probable class of every site; perfect beyond the border."""
    best = result["class_posterior"].defect.values.argmax(-1)[crystal.inside]
    perfect = np.array([[s.site for s in SPECIES].index(k) for k in KINDS])[kinds]
    first = {}
    for i, s in reversed(list(enumerate(SPECIES))):
        first[DEFECTS.index(s.defect), s.site] = i
        first[DEFECTS.index(s.defect)] = i
    for i, (c, k) in enumerate(zip(best.tolist(), kinds.tolist(), strict=False)):
        # a class that the kind of site cannot hold is of another assignment
        perfect[i] = first.get((c, KINDS[k]), first[c])
    if "dopant_at_site" in result["posterior"]:
        shares = result["class_posterior"].dopant_at_site.values[crystal.inside]
        both = Codoped.parse(str(result["constant_data"].dopant.values)).metals
        held, other = (shares[:, METALS.index(metal)] for metal in both)
        own = perfect[: len(shares)]
        own[(own == DOPED_SPECIES) & (other > held)] = CODOPED_SPECIES
    return perfect


def _closest_draw(
    result: xr.DataTree,
    crystal: Columns,
    species: np.ndarray,
    observed: np.ndarray,
    assignment: int,
) -> tuple[int, dict[str, np.ndarray]]:
    """Seed and values of the draw whose image is closest to the middle of the observed one."""
    size = np.minimum(observed.shape[-2:], CROP)
    y, x = (np.array(observed.shape[-2:]) - size) // 2
    here = slice(y, y + size[0]), slice(x, x + size[1])
    places = crystal.places - (x, y)
    margin = REACH / float(result["constant_data"].sampling)
    used = ((places > -margin) & (places < size[::-1] + margin)).all(1)
    part = replace(crystal, places=places[used], kinds=crystal.kinds[:, used])
    shares = result["class_posterior"].to_dataset()
    number = result["posterior"].sizes["chain"] * result["posterior"].sizes["draw"]
    best, closest = -np.inf, None
    for seed, k in enumerate(np.linspace(0, number - 1, TRIED).round().astype(int).tolist()):
        values = read_draw(result, k) | STILL
        open_names = ("host",) if "codopant" in values else ("host", "dopant")
        values |= {n: int(shares[n].values.argmax()) for n in open_names}
        values["assignment"] = assignment
        image = render_draw(values, part, species[used], tuple(size), np.random.default_rng(seed))
        share = _fit(image, observed[:, *here], crystal.near[here])[2].mean()
        if share > best:
            best, closest = share, (seed, values)
    return closest


def _fit(
    clean: np.ndarray, observed: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images with gain, background and slopes of least squares; gains; explained variances."""
    y, x = np.indices(near.shape) / np.array(near.shape)[:, None, None] - 0.5
    images, gains, shares = [], [], []
    for mine, values in zip(clean, observed, strict=True):
        used = near & np.isfinite(values)
        terms = np.stack([mine, np.ones_like(mine), x, y], -1)
        found = np.linalg.lstsq(terms[used], values[used], rcond=None)[0]
        images.append(terms @ found)
        gains.append(found[0])
        rest, all_of_it = (values - images[-1])[used].var(), values[used].var()
        shares.append(1 - rest / all_of_it if all_of_it > 0 else 0.0)
    return np.stack(images), np.array(gains), np.array(shares)


def _variance(observed: np.ndarray, expected: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Variance of the residual, linear in the expected intensity: constant, slope, least value."""
    found = []
    for values, mean in zip(observed, expected, strict=True):
        used = near & np.isfinite(values)
        square = (values - mean)[used] ** 2
        kept = square <= np.quantile(square, 0.99)  # a defect that is missed is no noise
        terms = np.stack([np.ones(kept.sum()), mean[used][kept]], -1)
        fitted = np.linalg.lstsq(terms, square[kept], rcond=None)[0]
        found.append([*fitted, max(0.1 * square[kept].mean(), np.finfo(float).tiny)])
    return np.stack(found)


def _columns(
    result: xr.DataTree, values: Mapping[str, np.ndarray], seed: int
) -> tuple[list[Hypothesis], np.ndarray, float]:
    """Hypotheses, the image of a column of each, and the distance of its points in px."""
    sampling = float(values["sampling"])
    half = int(np.ceil(REACH / STEP))
    shape = (2 * half + 1, 2 * half + 1)
    empty = np.zeros((0, 2))
    alone = Columns(empty + half, np.zeros((1, 1), int), empty, np.ones(shape, bool))
    alone = replace(alone, places=np.full((1, 2), float(half)))
    fine = {**values, "sampling": np.float64(STEP)}
    host = list(HOSTS)[int(values["host"])]
    hypotheses, columns = [], []
    for h in HYPOTHESES:
        species = np.array([SPECIES.index(h)])
        for dopant in _dopants(result) if h.defect == DOPED else [int(values["dopant"])]:
            own = fine | {"dopant": dopant}
            name = formula_of(h.column(host, METALS[dopant]))
            hypotheses.append(Hypothesis(h.defect, h.site, name))
            image = render_draw(own, alone, species, shape, np.random.default_rng(seed))
            columns.append(image)
    return hypotheses, np.stack(columns, 1), STEP / sampling


def _dopants(result: xr.DataTree) -> list[int]:
    """Dopants that are probable, the most probable one first; one for an undoped crystal."""
    share = result["class_posterior"].dopant.values
    order = np.argsort(-share, kind="stable")
    known = result["constant_data"].to_dataset()
    if "dopant" in known and known.dopant.item() == NO_DOPANT:
        return []
    if "dopant_at_site" in result["posterior"]:
        return [int(k) for k in order[:2]]
    likely = [int(k) for i, k in enumerate(order) if i == 0 or share[k] >= LEAST_SHARE]
    return likely[:MOST_DOPANTS]

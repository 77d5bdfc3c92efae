"""counts(): numbers and densities of the classes and species of a result, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..context import NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, DOPED
from ..matching import positions_of
from .drawn import KIND_OF_CLASS, Worlds, check_result, read_worlds
from .spacing import measure_spacing
from .species import name_species

__all__ = ["LEVELS", "counts", "interval"]

LEVELS = (0.5, 0.9)
ALL = "all"


def interval(values: np.ndarray, level: float) -> np.ndarray:
    """Central interval of draws, between values that were drawn.

    Parameters
    ----------
    values : ndarray, shape (sample, ...)
        Draws; those that are not a number are left out.
    level : float
        Share of the draws that it holds at least.

    Returns
    -------
    ndarray, shape (2, ...)
        Lower and upper bound; not a number where no draw is a number.
    """
    found = np.full((2, *values.shape[1:]), np.nan)
    some = np.isfinite(values).any(0)
    # numbers of sites are whole: interpolated bounds would be numbers that nobody can count
    for k, (side, method) in enumerate(((-1, "lower"), (1, "higher"))):
        found[k, some] = np.nanquantile(
            values[:, some], 0.5 + side * level / 2, axis=0, method=method
        )
    return found


def counts(result: xr.DataTree) -> xr.Dataset:
    """Count the classes and species of a result, with intervals from its joint draws.

    Parameters
    ----------
    result : DataTree
        From ``infer``: a micrograph, patches of one image, or independent images, which are counted
        together. Sites without crystal are left out.

    Returns
    -------
    Dataset, dimension outcome
        A row for every class, and where draws of a class have several species, as those of the
        dopant class have while the dopant is open, one for each of them. ``defect_class`` and
        ``species`` name the row; the species of a row of the whole class is "all" if it has
        several. ``number``, of a
        micrograph ``density`` [nm⁻²], and ``fraction``: means of the draws, each with bounds of
        central intervals: ``number_50_low``, ``number_50_high``, ``number_90_low``,
        ``number_90_high`` ... ``to_dataframe()`` gives a pandas frame. Attributes: ``num_sites``,
        ``num_draws``, ``effective_draws``.

    Raises
    ------
    TypeError, ValueError
        If it is no result of ``infer``, or has no draws.

    Notes
    -----
    Each draw is one world: context, assignment, abundances and the class of every site together.
    The intervals therefore contain what the sites have in common; a sum over sites of independent
    probabilities would give too narrow ones. They can be no better than the draws: with few
    effective ones (``effective_draws``) they are too narrow.

    ``fraction`` is the number on sites of the first kind that can hold the class, over the number
    of those sites in the same draw; for adatom_M that is the share of the metal sites. Bounds of
    numbers are whole, so that an interval holds at least its level.

    Examples
    --------
    >>> counts(result).to_dataframe()[["number", "number_90_low"]]  # doctest: +SKIP
    """
    check_result(result)
    worlds = read_worlds(result)
    rows = [row for k in range(len(DEFECTS)) for row in _rows_of(worlds, k)]
    number = np.stack([r.number for r in rows], -1)
    columns = {"number": (number, "1")}
    if "site_x" in result["constant_data"]:
        columns["density"] = (number / _area(result, worlds), "nm-2")
    columns["fraction"] = (np.stack([r.fraction for r in rows], -1), "1")
    coordinates = {
        "outcome": [r.defect if r.is_whole else f"{r.defect}: {r.species}" for r in rows],
        "defect_class": ("outcome", [r.defect for r in rows]),
        "species": ("outcome", [r.species for r in rows]),
    }
    attributes = {
        "num_sites": len(worlds.site),
        "num_draws": len(worlds.defect),
        "effective_draws": worlds.ess,
    }
    table = {k: v for n, (d, unit) in columns.items() for k, v in _summary(n, d, unit).items()}
    return xr.Dataset(table, coordinates, attributes)


@dataclass(frozen=True, eq=False)
class _Row:
    """A class or a species: its number and fraction in every draw, shape (sample,)."""

    defect: str
    species: str
    is_whole: bool
    number: np.ndarray
    fraction: np.ndarray


def _rows_of(worlds: Worlds, index: int) -> list[_Row]:
    """Rows of a class: all of its species together, then each where there are several."""
    defect = DEFECTS[index]
    is_class = worlds.defect == index
    is_site = worlds.kind == KIND_OF_CLASS[index]
    num_sites = is_site.sum(1)
    codes, named = (
        (worlds.dopant, METALS)
        if defect == DOPED
        else (worlds.host, [name_species(defect, h) for h in HOSTS])
    )
    species: dict[str, list[int]] = {}
    for code in np.unique(codes[is_class] if is_class.any() else codes):
        if code >= 0:
            species.setdefault(named[code], []).append(code)
    several = len(species) > 1
    parts = [(ALL if several else next(iter(species), NO_DOPANT), True, is_class)]
    if several and is_class.any():
        parts += [(n, False, is_class & np.isin(codes, c)) for n, c in species.items()]
    with np.errstate(invalid="ignore"):
        return [
            _Row(defect, name, whole, here.sum(1), (here & is_site).sum(1) / num_sites)
            for name, whole, here in parts
        ]


def _area(result: xr.DataTree, worlds: Worlds) -> np.ndarray:
    """Area of the sites with crystal in nm² in every draw, shape (sample or 1, 1)."""
    area = measure_spacing(positions_of(result["constant_data"])).area
    return (len(worlds.site) * area * (worlds.sampling / 10) ** 2)[:, None]


def _summary(name: str, draws: np.ndarray, unit: str) -> dict[str, tuple]:
    """Mean and bounds of the intervals of draws, shape (sample, outcome)."""
    known = np.isfinite(draws)
    mean = np.full(draws.shape[1], np.nan)
    np.divide(np.where(known, draws, 0).sum(0), known.sum(0), where=known.any(0), out=mean)
    table = {name: ("outcome", mean, {"units": unit, "long_name": "mean of the draws"})}
    for level in LEVELS:
        for bound, found in zip(("low", "high"), interval(draws, level), strict=True):
            table[f"{name}_{round(100 * level)}_{bound}"] = ("outcome", found, {"units": unit})
    return table

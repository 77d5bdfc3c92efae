"""Names of the columns of atoms that the classes stand for, and the most probable of a site."""

from __future__ import annotations

from functools import cache

import numpy as np
import xarray as xr

from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, DOPED, HYPOTHESES, formula_of
from .drawn import KINDS, kinds_of, read_worlds

__all__ = ["likely_species", "name_species"]

DOPED_CLASS = DEFECTS.index(DOPED)
CERTAIN = 1 - 1e-4  # rounding of single precision explains the rest


@cache
def name_species(defect: str, host: str, dopant: str | None = None, site: str | None = None) -> str:
    """Name the column of atoms of a class in a material.

    Parameters
    ----------
    defect : str
        One of ``DEFECTS``.
    host : str
        A key of ``HOSTS``.
    dopant : str, optional
        Chemical symbol; needed for the class of the dopant.
    site : str, optional
        Kind of site, where the class can be on several.

    Returns
    -------
    str
        Chemical formula; several with a slash between where the class does not tell them apart, and
        a dash for a site without atoms.

    Examples
    --------
    >>> name_species("Y_X", "WSe2")
    'SSe/TeSe'
    >>> name_species("adatom_M", "WSe2", site="hollow")
    'W'
    """
    columns = [s for s in HYPOTHESES if s.defect == defect]
    here = [s for s in columns if s.site == site] or columns
    return "/".join(dict.fromkeys(formula_of(s.column(host, dopant or "")) for s in here))


def likely_species(result: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Most probable column of atoms of the most probable class of every site.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    names : ndarray of str, shape (..., patch)
        See ``name_species``.
    probability : ndarray, shape (..., patch)
        Of the class with this column: at most the probability of the class.

    Notes
    -----
    From the joint probabilities of class and host, and of the dopant at a site, where the result
    has them; of single patches whose host or dopant is inferred, frequencies in the joint draws.
    """
    defect = result["class_posterior"].defect.values
    shape, best = defect.shape[:-1], defect.argmax(-1).ravel()
    with_host, with_dopant = (v.reshape(len(best), *v.shape[len(shape) :]) for v in _joint(result))
    kinds = kinds_of(result)
    site = np.full(len(best), None)
    if kinds is not None:
        site = np.array(KINDS, object)[kinds[result["class_posterior"].assignment.values.argmax()]]
    names = np.full(len(best), "-", object)
    probability = np.zeros(len(best))
    for c, place in sorted(set(zip(best.tolist(), site.tolist(), strict=True)), key=str):
        here = np.flatnonzero((best == c) & (site == place))
        share = with_dopant[here] if c == DOPED_CLASS else with_host[here, c]
        columns = (
            METALS if c == DOPED_CLASS else [name_species(DEFECTS[c], h, site=place) for h in HOSTS]
        )
        unique = list(dict.fromkeys(columns))
        # several hosts may have the same column
        is_column = np.array([[n == u for u in unique] for n in columns], float)
        total = share @ is_column
        names[here] = np.array(unique, object)[total.argmax(-1)]
        probability[here] = total.max(-1)
    return names.astype(str).reshape(shape), probability.reshape(shape)


def _joint(result: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Joint probabilities of class and host, and of the dopant at a site, (..., patch, ...)."""
    found = result["class_posterior"].to_dataset()
    defect = found.defect.values
    host, dopant = found.host.values, found.dopant.values
    doped = defect[..., DOPED_CLASS, None]
    if "defect_host" in found:
        with_host = found.defect_host.values
    elif (host.max(-1) > CERTAIN).all():
        is_host = host == host.max(-1, keepdims=True)
        with_host = defect[..., None] * is_host[..., None, None, :]
    else:
        with_host = _frequencies(result)[0]
    if "dopant_at_site" in found:
        with_dopant = found.dopant_at_site.values
    elif ((dopant.max(-1) > CERTAIN) | (dopant.max(-1) == 0)).all():
        is_dopant = (dopant == dopant.max(-1, keepdims=True)) & (dopant > 0)
        with_dopant = doped * is_dopant[..., None, :]
    else:
        with_dopant = _frequencies(result)[1]
    return with_host, with_dopant


def _frequencies(result: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of class with host, and of the dopant at a site, in the joint draws."""
    shape = result["class_posterior"].defect.shape[:-1]
    worlds = read_worlds(result)
    with_host = np.zeros((int(np.prod(shape)), len(DEFECTS), len(HOSTS)), np.float32)
    with_dopant = np.zeros((len(with_host), len(METALS)), np.float32)
    for defect, host, dopant in zip(worlds.defect, worlds.host, worlds.dopant, strict=True):
        with_host[worlds.site, defect, host] += 1 / len(worlds.defect)
        at = np.flatnonzero(defect == DOPED_CLASS)
        with_dopant[worlds.site[at], dopant[at]] += 1 / len(worlds.defect)
    shaped = with_host.reshape(*shape, *with_host.shape[1:])
    return shaped, with_dopant.reshape(*shape, len(METALS))

"""sites(): one row for every site of a result."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..defects import DEFECTS
from ..information import entropy
from .drawn import KINDS, check_result, crystal_of, kinds_of, sampling_of
from .species import likely_species

__all__ = ["FLAGS", "sites"]

FLAGS = {
    "no crystal": "vacuum, a hole or amorphous material: the probabilities are those of the prior",
    "surprise": "surprise above its limit: the model does not describe the surroundings",
    "undecided": "no class has more than half of the probability",
}
"""The flags of a site, and what they mean."""


def sites(result: xr.DataTree) -> xr.Dataset:
    """Arrange the sites of a result as a table.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    Dataset, dimensions (patch,) or (image, patch)
        Of a micrograph the position ``x_px``, ``y_px`` [px] and ``x_nm``, ``y_nm`` [nm], the
        ``sublattice``, the ``domain`` of a crystal with several, and the most probable kind of
        site ``site`` with ``site_probability``;
        ``defect``, the most probable class, its ``probability``, and the probability of each class
        as ``p_M``, ``p_D_M`` ...; ``entropy`` of the classes [bit]; ``species``, the most probable
        column of atoms of this class, with ``species_probability`` of both; ``surprise`` [nat], of
        several detectors the largest; ``flag``, those of ``FLAGS`` that apply, with semicolons
        between. ``to_dataframe()`` gives a pandas frame with one row for every site.

    Raises
    ------
    TypeError, ValueError
        If it is no result of ``infer``.

    Notes
    -----
    Positions are those of the middle of a pixel: (0, 0) is the middle of the first one. Where the
    pixel size is inferred, nm are by its posterior median.

    Examples
    --------
    >>> frame = sites(result).to_dataframe()  # doctest: +SKIP
    >>> frame[(frame.defect == "V_X") & (frame.probability > 0.9)]  # doctest: +SKIP
    """
    check_result(result)
    found = result["class_posterior"].defect
    dims, values = found.dims[:-1], found.values
    table = _places(result)
    best = values.argmax(-1)
    # rounding may exceed 1
    largest = values.max(-1).clip(0, 1)
    table["defect"] = (dims, np.array(DEFECTS)[best], {"long_name": "most probable class"})
    table["probability"] = (dims, largest, {"units": "1", "long_name": "of this class"})
    bits = entropy(result).entropy.values
    table["entropy"] = (dims, bits, {"units": "bit", "long_name": "entropy of the class"})
    species, chance = likely_species(result)
    table["species"] = (dims, species, {"long_name": "most probable column of atoms of this class"})
    words = {"units": "1", "long_name": "of this class with this column"}
    table["species_probability"] = (dims, chance.clip(0, 1), words)
    for k, name in enumerate(DEFECTS):
        table[f"p_{name}"] = (dims, values[..., k], {"units": "1"})
    surprise, limit = _surprise(result)
    if surprise is not None:
        table["surprise"] = (dims, surprise, {"units": "nat", "limit": limit})
    is_so = {
        "no crystal": ~crystal_of(result),
        "surprise": np.zeros(best.shape, bool) if surprise is None else surprise > limit,
        "undecided": largest <= 0.5,
    }
    table["flag"] = (dims, _join(is_so), {"long_name": "; ".join(FLAGS)})
    attributes = {n: result.attrs[n] for n in ("version", "model", "context") if n in result.attrs}
    return xr.Dataset(table, attrs=attributes)


def _places(result: xr.DataTree) -> dict[str, tuple]:
    """Position, sublattice and kind of the sites of a micrograph; empty for patches."""
    constants = result["constant_data"].to_dataset()
    if "site_x" not in constants:
        return {}
    table, size = {}, sampling_of(result) / 10
    for unit, factor in (("px", 1.0), ("nm", size)):
        for axis in ("x", "y"):
            place = constants[f"site_{axis}"].values.astype(float) * factor
            table[f"{axis}_{unit}"] = ("patch", place, {"units": unit})
    table["sublattice"] = ("patch", constants.sublattice.values, {"units": "1"})
    if "domain" in constants:
        table["domain"] = ("patch", constants.domain.values, {"units": "1"})
    kinds = kinds_of(result)
    if kinds is not None:
        share = result["class_posterior"].assignment.values
        by_kind = np.stack([(share[:, None] * (kinds == k)).sum(0) for k in range(len(KINDS))])
        likely, chance = np.array(KINDS)[by_kind.argmax(0)], by_kind.max(0).clip(0, 1)
        table["site"] = ("patch", likely, {"long_name": "most probable kind of site"})
        table["site_probability"] = ("patch", chance, {"units": "1", "long_name": "of this kind"})
    return table


def _surprise(result: xr.DataTree) -> tuple[np.ndarray | None, float]:
    """Surprise of every site, of several detectors the largest, and its limit."""
    if "sample_stats" not in result.children or "surprise" not in result["sample_stats"]:
        return None, np.inf
    surprise = result["sample_stats"].surprise
    limit = float(surprise.attrs.get("limit", np.inf))
    return (surprise.max("detector") if "detector" in surprise.dims else surprise).values, limit


def _join(is_so: dict[str, np.ndarray]) -> np.ndarray:
    """Names of what is so at every site, with semicolons between."""
    code = sum(found.astype(int) << k for k, found in enumerate(is_so.values()))
    names = list(is_so)
    words = [
        "; ".join(n for k, n in enumerate(names) if c >> k & 1) for c in range(2 ** len(names))
    ]
    return np.array(words)[code]

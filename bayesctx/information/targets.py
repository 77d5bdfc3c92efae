"""What information is about: a class, a species, each with its host, or all of it together."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..context import NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS

__all__ = ["FIVE", "TARGETS", "Scored", "joined", "labels_of", "score"]

FIVE = ("M", "D_M", "X2", "V_X", "V_X2")
"""The classes of the target ``class_of_five``."""

TARGETS = {
    "class": ("class",),
    "species": ("species",),
    "class_host": ("class", "host"),
    "species_host": ("species", "host"),
    "species_host_dopant": ("species", "host", "dopant"),
    "class_of_five": ("class",),
    "whole": ("class", "species", "host", "dopant"),
}
"""Every target with the variables that it consists of.

The species is the chemical formula of the column of atoms on the site, whatever their heights and
whichever kind of site it is. The dopant is that of the crystal, also where the site does not hold
it. ``class_of_five`` leaves out images whose true class is none of ``FIVE`` and renormalises the
probabilities of these: it is the posterior under a prior of five equally probable classes.
"""

SMALLEST = 1e-38  # probability of a truth below which its log score is that of this
AT_ONCE = 2**22  # probabilities


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of a target in bits, not a number where the target does not exist.

    Attributes
    ----------
    entropy, log_score : ndarray, shape (image, patch)
        Entropy of the target, and log2 of the probability of its true value.
    is_right : ndarray, shape (image, patch)
        1 where the most probable value is the true one, 0 elsewhere.
    """

    entropy: np.ndarray
    log_score: np.ndarray
    is_right: np.ndarray


def score(result: xr.DataTree, truth: xr.Dataset, target: str) -> Scored:
    """Entropy and log score of a target.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    truth : Dataset
        With the variables of the target: ``defect``, ``species``, ``host`` and ``dopant``, as from
        ``simulate``, over image, patch, both or neither.
    target : str
        One of ``TARGETS``.

    Returns
    -------
    Scored
        Of every patch.

    Raises
    ------
    ValueError
        If the target is unknown or the result does not hold it, or the truth does not fit.
    """
    if target not in TARGETS:
        raise ValueError(f"a target among {', '.join(TARGETS)} was expected, got {target!r}")
    labels, probabilities, own = labels_of(result, target)
    true = _true_keys(truth, TARGETS[target], probabilities.shape[:2])
    keys = joined([labels[v] for v in TARGETS[target]])
    if target == "class_of_five":
        keep = np.isin(labels["class"], FIVE)
        keys, probabilities = keys[keep], probabilities[..., keep]
    names, place = np.unique(keys, return_inverse=True)
    order, sizes = np.argsort(place, kind="stable"), np.bincount(place)
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    index = np.searchsorted(names, true).clip(max=len(names) - 1)
    exists = names[index] == true
    found = np.empty((3, *true.shape))
    for rows in np.array_split(np.arange(len(true)), -(-true.shape[0] * keys.size // AT_ONCE)):
        joint = probabilities[rows] if own is None else probabilities[rows] * own[rows]
        values = np.add.reduceat(joint[..., order].astype(float), starts, -1)
        if target == "class_of_five":
            values /= values.sum(-1, keepdims=True).clip(min=SMALLEST)
        at_truth = np.take_along_axis(values, index[rows][..., None], -1)[..., 0]
        at_truth = np.where(exists[rows], at_truth, 0)
        # a certain value is rounded, to more than one as well
        found[0, rows] = (-_xlog2(values).sum(-1)).clip(min=0.0)
        found[1, rows] = np.log2(at_truth.clip(min=SMALLEST))
        found[2, rows] = (values.argmax(-1) == index[rows]) & exists[rows]
    if target == "class_of_five":
        found[:, ~exists] = np.nan
    return Scored(*found)


def labels_of(
    result: xr.DataTree, target: str
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Label what the variables of a target can be together.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    target : str
        One of ``TARGETS``.

    Returns
    -------
    labels : dict of str to ndarray of str, shape (value,)
        By the names of the variables; equal labels may repeat.
    probabilities : ndarray, shape (image, patch, value)
        Of the values.
    factors : ndarray, shape (image, 1, value), or None
        What the probabilities are to be multiplied by: those of the dopant given the rest.

    Raises
    ------
    ValueError
        If the result does not hold the joint probabilities.
    """
    posterior, variables = result["class_posterior"].to_dataset(), TARGETS[target]
    if "outcome" in posterior:
        names = {n: posterior[f"outcome_{n}"].values for n in ("class", "species", "host")}
        values, on_site = _by_image(posterior.outcome, 2), posterior.outcome_dopant.values
        if "dopant" not in variables:
            return names, values, None
        labels = {n: np.repeat(v, len(METALS) + 1) for n, v in names.items()}
        labels["dopant"] = np.tile([*METALS, NO_DOPANT], len(on_site))
        return labels, np.repeat(values, len(METALS) + 1, -1), _dopants(result, on_site)
    known_host = str(result["constant_data"].host.values) if _host_is_known(result) else None
    if variables == ("class",) or (variables == ("class", "host") and known_host is not None):
        values = posterior.defect.transpose(..., "patch", "defect_class")
        labels = {"class": posterior.defect_class.values.astype(str)}
        labels["host"] = np.full(values.sizes["defect_class"], known_host or "")
        return labels, _by_image(values, 2), None
    if variables == ("class", "host") and "defect_host" in posterior:
        values = posterior.defect_host.transpose(..., "patch", "defect_class", "host_class")
        labels = {
            "class": np.repeat(DEFECTS, values.sizes["host_class"]),
            "host": np.tile(posterior.host_class.values.astype(str), len(DEFECTS)),
        }
        flat = _by_image(values, 3)
        return labels, flat.reshape(*flat.shape[:2], -1), None
    raise ValueError(
        f"joint probabilities of {', '.join(variables)} were expected for the target {target!r}, "
        "the result has none; infer patches that are images of their own (image, y, x), or take "
        "the target 'class'"
    )


def _host_is_known(result: xr.DataTree) -> bool:
    """Whether one host is known of a result."""
    known = result.children.get("constant_data", {})
    return "host" in known and known["host"].ndim == 0


def _by_image(values: xr.DataArray, num_own: int) -> np.ndarray:
    """Values with a leading dimension over images."""
    return values.values if values.ndim > num_own else values.values[None]


def _dopants(result: xr.DataTree, on_site: np.ndarray) -> np.ndarray:
    """Probability of the dopants given each outcome, shape (image, 1, outcome * dopant)."""
    known = result["constant_data"].to_dataset()
    if "dopant_at_site" in result["posterior"]:
        raise ValueError(
            "a target without the dopant was expected of a co-doped crystal, got one with it; take "
            "'species_host' or another one"
        )
    before = _by_image(known.dopant_given_host, 2)
    undoped = np.zeros((len(before), 1), bool)
    if "dopant" in known:
        undoped |= np.asarray(known.dopant.values).reshape(-1, 1) == NO_DOPANT
    weight = np.concatenate([before * ~undoped[..., None], np.zeros((*before.shape[:2], 1))], -1)
    weight[..., -1] = undoped
    # the crystal has its dopant whether or not the site holds it
    by_outcome = np.repeat(weight, len(on_site) // len(HOSTS), 1)
    held = on_site[:, None] == np.array([*METALS, NO_DOPANT])
    by_outcome[:, on_site != ""] = held[on_site != ""]
    return by_outcome.reshape(len(before), 1, -1)


def _true_keys(truth: xr.Dataset, variables: Sequence[str], shape: tuple[int, int]) -> np.ndarray:
    """True values as keys, shape (image, patch)."""
    names = {"class": "defect"}
    columns = []
    for variable in variables:
        name = names.get(variable, variable)
        if name not in truth:
            raise ValueError(
                f"a truth with {name} was expected, got {', '.join(map(str, truth.data_vars))}; "
                "pass the Dataset of simulate, or take another target"
            )
        values = np.asarray(truth[name].values).astype(str)
        if values.size not in (1, shape[0], shape[0] * shape[1]):
            raise ValueError(
                f"a true {name} of each of {shape[0]} x {shape[1]} images and patches was "
                f"expected, got {values.shape}; give the truth of the images that were inferred"
            )
        values = values.reshape(shape if values.size == np.prod(shape) else (-1, 1))
        if variable == "species":
            values = np.vectorize(_sorted_formula, otypes=[str])(values)
        columns.append(np.broadcast_to(values, shape))
    return joined(columns)


@functools.cache
def _sorted_formula(formula: str) -> str:
    """The formula with its elements in alphabetical order, as in ``outcome_species``."""
    elements = sorted(re.findall(r"[A-Z][a-z]?\d?", formula))
    return "".join(elements) or "-"


def joined(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Join several labels of the same values into one key.

    Parameters
    ----------
    columns : sequence of ndarray of str, shape (*batch,)
        Labels.

    Returns
    -------
    ndarray of str, shape (*batch,)
        Keys, which are equal where all labels are.
    """
    return functools.reduce(lambda a, b: np.char.add(np.char.add(a, " "), b), columns)


def _xlog2(values: np.ndarray) -> np.ndarray:
    """Values times their binary logarithm, zero at zero."""
    return values * np.log2(values, out=np.zeros_like(values), where=values > 0)

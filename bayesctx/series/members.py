"""The results of a series, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import xarray as xr

from ..checks import shorten
from ..inference import load
from ..prior import Prior, reference_prior
from ..storage import as_path
from .ledger import DONE, read_ledger

__all__ = ["members_of", "prior_of"]

Results = str | os.PathLike | xr.DataTree | Mapping[str, xr.DataTree] | Sequence[xr.DataTree]


def members_of(results: Results) -> Iterator[tuple[str, xr.DataTree]]:
    """Yield the results of a series, of which one at a time is in memory.

    Parameters
    ----------
    results : path-like, DataTree, mapping or sequence of DataTree
        A folder of ``infer_series``, the tree of ``open_series``, or results of ``infer``.

    Yields
    ------
    str
        Name of the image.
    DataTree
        Its result.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If there is no result, or one is damaged.
    """
    if isinstance(results, str | os.PathLike):
        found = _of_folder(as_path(results))
    elif isinstance(results, xr.DataTree) and "class_posterior" not in results.children:
        found = iter(results.children.items())
    elif isinstance(results, Mapping) and not isinstance(results, xr.DataTree):
        found = iter(results.items())
    elif isinstance(results, Sequence):
        found = ((str(k), result) for k, result in enumerate(results))
    else:
        raise TypeError(
            f"a folder of results or several results were expected, got {shorten(results)}; pass "
            "the folder of infer_series, or a list of results"
        )
    any_found = False
    for name, result in found:
        any_found = True
        _check(name, result)
        yield str(name), result
    if not any_found:
        raise ValueError("results of a series were expected, got none; infer its images first")


def _of_folder(folder: Path) -> Iterator[tuple[str, xr.DataTree]]:
    """Results of a folder."""
    for name, record in read_ledger(folder)[1].items():
        if record.status == DONE:
            yield name, load(folder / f"{name}.nc")


def _check(name: str, result: object) -> None:
    """Raise for what is no result of one image of several sites."""
    groups = result.children if isinstance(result, xr.DataTree) else ()
    if "posterior" not in groups or "concentration" not in result["posterior"]:
        raise ValueError(
            f"results of micrographs were expected, {name} is {shorten(result)} without "
            "posterior.concentration; pass results of infer of whole images"
        )
    if "image" in result["class_posterior"].dims:
        raise ValueError(
            f"one image for each result was expected, {name} has a dimension of images; pass "
            "result.isel(image=k) for each"
        )


def prior_of(results: Results, prior: Prior | None) -> Prior:
    """Return the prior under which a series was inferred.

    Parameters
    ----------
    results : path-like, DataTree, mapping or sequence of DataTree
        See ``members_of``.
    prior : Prior or None
        As stated.

    Returns
    -------
    Prior
        The stated one, or that in the folder, or the reference prior.
    """
    if prior is not None:
        return prior
    if isinstance(results, str | os.PathLike):
        recorded = read_ledger(as_path(results))[0].prior
        if recorded:
            return Prior.from_dict(recorded)
    return reference_prior()

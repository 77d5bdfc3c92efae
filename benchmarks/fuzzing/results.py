"""Cases of results as files: damaged, edited, and saved where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import bayesctx as bc

from .case import Case, complaint_of_posterior
from .files import put, store
from .scenes import model_of
from .values import Rng, choose, hostile_object, maybe

__all__ = ["result_case"]


def result_case(rng: Rng, folder: Path) -> Case:
    """A damaged result, loaded, drawn and summed up; or a result saved where it cannot be.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For the file.

    Returns
    -------
    Case
        A success only with finite, normalised probabilities.
    """
    source = store() / str(choose(rng, ("patches.nc", "micrograph.nc")))
    kind = str(choose(rng, ("damaged", "damaged", "damaged", "edited", "saved")))
    if kind == "saved":
        return _saving(rng, source, folder)
    if kind == "edited":
        path = folder / source.name
        tree = bc.load(source)
        text = _edit_tree(rng, tree)
        tree.to_netcdf(path)
        tree.close()
        whole = None
    else:
        path, text = put(rng, source, folder)
        whole = None if text == "a file of another kind" else bc.load(source)

    def use() -> xr.DataTree:
        tree = bc.load(path)
        if maybe(rng, 0.3):
            bc.plot_defects(tree)
            bc.entropy(tree)
            plt.close("all")
        return tree

    def check(tree: xr.DataTree) -> str:
        if whole is not None and not _equal(tree, whole):
            return "damaged result unnoticed"
        return complaint_of_posterior(tree)

    return Case(f"result {source.name} {kind}: {text}", use, check)


def _equal(tree: xr.DataTree, other: xr.DataTree) -> bool:
    """Whether two results hold the same values."""
    try:
        return bool(tree.identical(other))
    except (ValueError, TypeError):
        return False


def _edit_tree(rng: Rng, tree: xr.DataTree) -> str:
    """Change something in a result, in place; say what."""
    kinds: dict[str, Callable[[], object]] = {
        "no mark": lambda: tree.attrs.pop("package"),
        "another mark": lambda: tree.attrs.update(package="other"),
        "no groups": lambda: [tree.children[n].orphan() for n in list(tree.children)],
        "a group too few": lambda: tree.children[str(choose(rng, list(tree.children)))].orphan(),
        "probabilities of NaN": lambda: tree["class_posterior"].defect.values.fill(np.nan),
        "probabilities above 1": lambda: tree["class_posterior"].defect.values.fill(0.7),
        "context that is no JSON": lambda: tree.attrs.update(context="{"),
        "version of tomorrow": lambda: tree.attrs.update(version="99.0"),
    }
    name = str(choose(rng, list(kinds)))
    kinds[name]()
    return name


def _saving(rng: Rng, source: Path, folder: Path) -> Case:
    """A result, or something else, saved somewhere."""
    tree = bc.load(source)
    (folder / "file").write_text("here")
    places = (
        folder / "none" / "r.nc", folder, folder / "file" / "r.nc", "", "x" * 300,
        folder / ("y" * 300), None, 3, Path("/proc/r.nc"), b"r.nc", folder / "r.nc", "r", "\0",
        "/dev/null/r.nc", hostile_object(rng),
    )  # fmt: skip
    place = choose(rng, places)
    what = choose(
        rng,
        (
            tree,
            tree,
            tree,
            tree["posterior"],
            xr.Dataset(),
            None,
            hostile_object(rng),
            xr.DataTree(),
        ),
    )
    action = str(choose(rng, ("save", "save", "save_model", "load", "load_model", "to_arviz")))
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: bc.save(what, place),
        "save_model": lambda: bc.save_model(choose(rng, (model_of("small"), what)), place),
        "load": lambda: bc.load(place),
        "load_model": lambda: None if place is None else bc.load_model(place),
        "to_arviz": lambda: bc.to_arviz(what),
    }
    words = f"{type(what).__name__} at {' '.join(repr(place).split())[-80:]}"
    return Case(f"result: {action} {words}", calls[action])

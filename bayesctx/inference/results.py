"""Results as files, and as what ArviZ works on."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import xarray as xr

from ..storage import replacing

__all__ = ["load", "save", "to_arviz"]


def to_arviz(tree: xr.DataTree) -> object:
    """Return a result as what the installed ArviZ works on.

    Parameters
    ----------
    tree : DataTree
        From ``infer``.

    Returns
    -------
    DataTree or arviz.InferenceData
        The tree itself for ArviZ 1 and later, its conversion for ArviZ 0.
    """
    if int(importlib.metadata.version("arviz").split(".")[0]) >= 1:
        return tree
    import arviz

    return arviz.InferenceData.from_datatree(tree)


def save(tree: xr.DataTree, path: str | os.PathLike) -> Path:
    """Write a result as netCDF; an existing file is replaced only by a whole one.

    Parameters
    ----------
    tree : DataTree
        From ``infer``.
    path : path-like
        The file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If it cannot be written; the old file stays as it was.
    """
    encoding = {
        f"/{name}": {
            v: {"zlib": True, "complevel": 1}
            for v in node.data_vars
            if node[v].dtype.kind in "fiu" and node[v].ndim
        }
        for name, node in tree.children.items()
    }
    with replacing(path) as temporary:
        tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding)
    return Path(path)


def load(path: str | os.PathLike) -> xr.DataTree:
    """Read a result.

    Parameters
    ----------
    path : path-like
        A file written by ``save``.

    Returns
    -------
    DataTree
        As it was saved.

    Raises
    ------
    ValueError
        If the file is truncated or not a result of this package.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"a result written by bayesctx was expected at {path}, there is no such file"
        )
    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            loaded = tree.load()
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"a result written by bayesctx was expected, {path} is truncated or foreign ({error}); infer it again"
        ) from error
    if loaded.attrs.get("package") != "bayesctx":
        raise ValueError(
            f"a result written by bayesctx was expected, {path} carries no such mark; infer it again"
        )
    return loaded

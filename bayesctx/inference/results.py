"""Results as netCDF files and as input of ArviZ."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ..context import NO_DOPANT
from ..storage import as_path, replacing
from .conversion import DEFAULT, arrange_for_arviz

if TYPE_CHECKING:
    import arviz

__all__ = ["load", "save", "to_arviz"]

SEAL = b"\nbayesctx sha256 "
"""Mark before the checksum, in hexadecimal digits, at the end of a file."""

SEAL_SIZE = len(SEAL) + 64
CHUNK = 2**20
UNNORMALISED = 1e-3  # departure of a sum of probabilities from one that rounding does not explain
GROUPS = (
    "posterior", "class_posterior", "log_likelihood", "prior", "sample_stats", "observed_data",
    "constant_data",
)  # fmt: skip


def to_arviz(
    tree: xr.DataTree,
    *,
    variables: str | Sequence[str] = DEFAULT,
    sites: Sequence[int] = (),
    num_predicted: int | None = None,
    as_quantiles: bool = False,
) -> arviz.InferenceData | xr.DataTree:
    """Convert a result for the installed version of ArviZ, with few variables and names as labels.

    Parameters
    ----------
    tree : DataTree
        From ``infer``; of independent images select one, ``result.isel(image=0)``.
    variables : str or sequence of str
        What ``posterior`` and ``prior`` hold: names of variables, or kinds of them: "context" (what
        is continuous), "material" (host, dopant and assignment), "abundance" (``concentration``).
        Default: these three. By the simulator also names such as "C12" or "tilt".
    sites : sequence of int
        Sites whose classes are added as ``defect`` (..., patch, site_class). The coordinate
        ``patch`` numbers the sites in all groups: ``constant_data`` has their positions.
    num_predicted : int, optional
        Number of images in ``posterior_predictive``, see ``predict_images``. Default: of a
        micrograph 10, fewer if it has more than 512 x 512 pixels; of patches none.
    as_quantiles : bool
        Give what is continuous as a quantile of its prior, 0.5 at the median: variables of all
        units then fit on one axis, and fill it from 0 to 1 where the image told nothing. What has
        no draws in ``prior`` (``sampling``) is left out.

    Returns
    -------
    DataTree or arviz.InferenceData
        DataTree for ArviZ 1 and later, InferenceData for ArviZ 0.

    Raises
    ------
    TypeError
        If it is no DataTree.
    ValueError
        For an unknown variable or site, or images that are predicted of patches.

    Notes
    -----
    What is enumerated (host, dopant, assignment, class) becomes indicators with names as
    coordinates, ``dopant[Ti]``: the mean is the probability. Names with less than 1 % of the draws
    are together "others". A variable of which all draws are equal is a constant and is moved to
    ``constant_data``.

    The network reads an image by draws from the prior, of which few carry the posterior
    (``sample_stats.ess``) and are repeated among its draws. Copies are put side by side here, so
    that ArviZ takes them for autocorrelated: ``ess_bulk`` and the errors of the means (``mcse``)
    then tell how many differ. Below some five effective draws ``ess_bulk`` is still too large.

    There is no ``log_likelihood``, since leave-one-out validation has no meaning for these results:
    patches of a micrograph overlap; patches of one image count with a power below one, which the
    importance weights of ``loo`` do not know; independent images and whole micrographs have one
    datum for each posterior.

    Examples
    --------
    >>> data = to_arviz(result)  # doctest: +SKIP
    >>> az.summary(data)  # doctest: +SKIP
    >>> az.plot_forest(data, var_names=["concentration"])  # doctest: +SKIP
    >>> quantiles = to_arviz(result, variables="context", as_quantiles=True)  # doctest: +SKIP
    >>> az.plot_forest(quantiles)  # doctest: +SKIP
    >>> az.plot_pair(data, var_names=["inner_collection_angle", "dose"])  # doctest: +SKIP
    """
    _check_tree(tree)
    arranged = arrange_for_arviz(tree, variables, sites, num_predicted, as_quantiles)
    if int(importlib.metadata.version("arviz").split(".")[0]) >= 1:
        return arranged
    import arviz

    return arviz.InferenceData.from_datatree(arranged)


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
    TypeError
        If it is no DataTree, or ``path`` is no path.
    OSError
        If it cannot be written; the old file stays as it was.

    Notes
    -----
    The SHA-256 of the file is appended to it, which readers of netCDF ignore.
    """
    _check_tree(tree)
    file = as_path(path)
    encoding = {
        f"/{name}": {
            v: {"zlib": True, "complevel": 1}
            for v in node.data_vars
            if node[v].dtype.kind in "fiu" and node[v].ndim
        }
        for name, node in tree.children.items()
    }
    with replacing(file) as temporary:
        tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding)
        seal = SEAL + _digest(temporary, temporary.stat().st_size)
        with temporary.open("ab") as end:
            end.write(seal)
    return file


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
    TypeError
        If ``path`` is no path.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, truncated or not a result of this package.
    """
    file = as_path(path)
    if not os.path.isfile(file):  # a path that is too long is none either
        raise FileNotFoundError(
            f"a result written by bayesctx was expected at {file}, there is no such file; "
            "check the path"
        )
    try:
        _check_seal(file)
        with xr.open_datatree(file, engine="netcdf4") as tree:
            loaded = tree.load()
        _check_content(loaded)
    except (OSError, RuntimeError, LookupError, AttributeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"a result written by bayesctx was expected, {file} is damaged, truncated or foreign "
            f"({reason}); infer it again"
        ) from error
    return loaded


def _check_tree(tree: object) -> None:
    """Raise for what is no DataTree."""
    if not isinstance(tree, xr.DataTree):
        raise TypeError(
            f"a DataTree was expected, got {type(tree).__name__}; pass what infer returned"
        )


def _digest(path: Path, size: int) -> bytes:
    """SHA-256 of the first bytes of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (chunk := file.read(min(size, CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest().encode()


def _check_seal(path: Path) -> None:
    """Raise if a file is not as it was saved, since a damaged one can crash HDF5."""
    # files of earlier versions, and those written by xarray, have no checksum
    size = max(0, path.stat().st_size - SEAL_SIZE)
    with path.open("rb") as file:
        file.seek(size)
        seal = file.read()
    if seal.startswith(SEAL) and seal != SEAL + _digest(path, size):
        raise ValueError("its checksum is another one")


def _check_content(tree: xr.DataTree) -> None:
    """Raise if a file holds no result of ``infer``."""
    if tree.attrs.get("package") != "bayesctx":
        raise ValueError("it carries no such mark")
    absent = [n for n in GROUPS if n not in tree.children]
    if absent:
        raise ValueError(f"it has no group {absent[0]}")
    shares = tree["class_posterior"].to_dataset()
    for name in ("defect", "host", "dopant"):
        values, total = shares[name].values, 1.0
        if name == "dopant" and name in tree["constant_data"]:
            # an undoped crystal has none
            total = tree["constant_data"][name].values != NO_DOPANT
        if not (np.abs(values.sum(-1) - total) < UNNORMALISED).all() or (values < 0).any():
            raise ValueError(f"the probabilities of {name} do not sum to one")

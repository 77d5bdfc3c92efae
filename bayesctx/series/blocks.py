"""infer_blocks(): a stack of images in blocks, lazily, by Dask."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from ..checks import shorten
from ..inference import infer
from ..inference.choice import check_likelihood
from ..model import PatchModel
from .job import ONE_AT_A_TIME, shipped

__all__ = ["infer_blocks"]

GROUPS = ("posterior", "class_posterior", "prior", "sample_stats", "constant_data")
MESSAGE = "sample_stats/message"
LONGEST_MESSAGE = 400  # characters


def infer_blocks(
    images: xr.DataArray,
    context: Mapping[str, object] | None = None,
    model: PatchModel | None = None,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    likelihood: str = "network",
) -> xr.DataTree:
    """Infer a stack of independent images block by block, when the result is computed.

    Parameters
    ----------
    images : DataArray, dimensions image, y and x
        Micrographs or patches of one size and session, as arrays of Dask: a block holds whole
        images and is the unit of work and of memory. An array in memory gets one image per block.
    context : mapping, optional
        What is known of all of them, see ``infer``.
    model : DefectModel, optional
        Default: the reference model.
    num_draws, seed : int
        See ``infer``.
    likelihood : {"network", "simulator", "exact"}
        See ``infer``; ``"auto"`` could choose differently for each image, and with it the variables
        of the result.

    Returns
    -------
    DataTree
        As from ``infer`` of independent images, with the dimension ``image`` and arrays of Dask.
        Micrographs differ in the number of their sites, so that what belongs to a site is left out
        of theirs: use ``infer_series`` to keep it. An image that is refused is NaN, -1 in integers,
        and ``sample_stats.message`` says why.

    Raises
    ------
    TypeError, ValueError
        For an array of other dimensions, or if the first image is refused.
    ImportError
        Without Dask.

    Notes
    -----
    The first image is inferred at once, since its result tells the variables. Within a process
    images are inferred one after the other: compute by the processes of
    ``distributed.LocalCluster(threads_per_worker=1)``, or with ``scheduler="processes"``.

    Examples
    --------
    >>> stack = xr.open_dataarray("stack.nc", chunks={"image": 1})  # doctest: +SKIP
    >>> infer_blocks(stack, {"host": "WSe2"})["posterior"].concentration.compute()  # doctest: +SKIP
    """
    _check(images, likelihood)
    stack = images.transpose("image", "y", "x")
    chunks = {"y": -1, "x": -1} if stack.chunks else {"image": 1}
    stack = stack.chunk(chunks).to_dataset(name="intensity")
    options = {
        "context": dict(context or {}),
        "model": model,
        "num_draws": num_draws,
        "seed": seed,
        "likelihood": likelihood,
    }
    first = stack.isel(image=[0]).compute()
    example = _flat(_infer(first.intensity[0], options))
    empty = _add_message(example, "").expand_dims(image=stack.sizes["image"])
    if "image" in stack.coords:
        empty = empty.assign_coords(image=stack.coords["image"])
    template = empty.chunk({"image": stack.chunks["image"]})
    found = xr.map_blocks(_Block(example, options), stack, template=template)
    groups: dict[str, dict] = {}
    for name, variable in found.data_vars.items():
        group, _, own = str(name).partition("/")
        groups.setdefault(group, {})[own] = variable
    return xr.DataTree.from_dict({group: xr.Dataset(own) for group, own in groups.items()})


class _Block:
    """The inference of a block, as map_blocks takes it; its arguments may be no Datasets."""

    def __init__(self, example: xr.Dataset, options: Mapping[str, object]) -> None:
        self.example, self.options = example, options

    def __call__(self, block: xr.Dataset) -> xr.Dataset:
        rows = [_row(image, self.example, self.options) for image in block.intensity]
        joined = xr.concat(rows, "image")
        own = [n for n in block.coords if n == "image"]
        return joined.assign_coords({n: block.coords[n] for n in own})


def _check(images: object, likelihood: str) -> None:
    """Raise for what is no stack of images, and without Dask."""
    if not isinstance(images, xr.DataArray) or set(images.dims) != {"image", "y", "x"}:
        what = dict(images.sizes) if isinstance(images, xr.DataArray) else shorten(images)
        raise TypeError(
            f"a DataArray with the dimensions image, y and x was expected, got {what}; name its "
            "dimensions, or call infer"
        )
    check_likelihood(likelihood)
    if likelihood == "auto":
        raise ValueError(
            "likelihood='network' or 'simulator' was expected for a stack, got 'auto', which may "
            "choose differently for each image; choose one"
        )
    if importlib.util.find_spec("dask") is None:
        raise ImportError(
            "dask was expected for a stack in blocks, it is not installed; run "
            "pip install 'bayesctx[dask]', or call infer"
        )


def _infer(image: xr.DataArray, options: Mapping[str, object]) -> xr.DataTree:
    """Result of one image."""
    context, model = options["context"], options["model"] or shipped()
    own = {n: options[n] for n in ("num_draws", "seed", "likelihood")} | {"progress": False}
    if image.sizes["y"] * image.sizes["x"] == 0:
        raise ValueError("an image with pixels was expected, got none; check the stack")
    with ONE_AT_A_TIME:
        try:
            return infer(image.drop_vars("image", errors="ignore"), context, model, **own)
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"an image of a crystal layer was expected ({error})") from error


def _flat(result: xr.DataTree) -> xr.Dataset:
    """What does not depend on the number of sites, in one Dataset with the groups in the names."""
    is_micrograph = "site_x" in result["constant_data"]
    variables = {}
    for group in GROUPS:
        for name, variable in result[group].data_vars.items():
            if not (is_micrograph and "patch" in variable.dims):
                variables[f"{group}/{name}"] = variable
    return xr.Dataset(variables)


def _row(image: xr.DataArray, example: xr.Dataset, options: Mapping[str, object]) -> xr.Dataset:
    """Result of an image, with the variables of the example; empty if it is refused."""
    try:
        found = _flat(_infer(image, options))
        return _add_message(xr.Dataset({n: found[n] for n in example.data_vars}), "")
    except (ValueError, KeyError) as error:
        return _add_message(example.map(_nothing), " ".join(str(error).split()))


def _add_message(row: xr.Dataset, message: str) -> xr.Dataset:
    """A row with the reason why it is empty."""
    text = np.array(message[:LONGEST_MESSAGE], f"<U{LONGEST_MESSAGE}")
    return row.assign({MESSAGE: ((), text)})


def _nothing(variable: xr.DataArray) -> xr.DataArray:
    """A variable of an image that was refused."""
    if variable.dtype.kind == "f":
        return xr.full_like(variable, np.nan)
    return xr.full_like(variable, "" if variable.dtype.kind == "U" else -1)

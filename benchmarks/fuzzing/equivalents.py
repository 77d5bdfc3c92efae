"""Cases of equal images: in another unit, type, layout or container, or under a mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import bayesctx as bc

from .case import Case, complaint_of_posterior
from .scenes import CONDITIONS, SIZES, micrograph, model_of, patches, truth_of_patches
from .values import Rng, choose, lay_out, maybe

__all__ = ["equivalent_case"]

LARGEST_CHANGE = 0.01  # of a probability: single precision gives some 1e-4
COUNTS = 4000


def equivalent_case(rng: Rng, folder: Path) -> Case:
    """An image, and another one that must have the same posterior.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        Holds the file of a memory map.

    Returns
    -------
    Case
        Both handed to ``infer``; a success only with equal probabilities.
    """
    if maybe(rng, 0.6):
        chosen = rng.integers(0, 32, int(choose(rng, (1, 2, 3))))
        values, truth = patches()[chosen], truth_of_patches(chosen)
        dims: tuple[str, ...] = ("image", "y", "x")
    else:
        values, truth = micrograph(
            int(rng.integers(len(CONDITIONS))), int(rng.integers(len(SIZES)))
        )
        cut = int(26 / truth["sampling"])
        values, dims = values[:cut, :cut], ("y", "x")
    share = float(choose(rng, (0.5, 1.0, 1.0)))
    context = {n: v for n, v in truth.items() if maybe(rng, share)}
    peak = values.max((-2, -1), keepdims=True)
    counts = np.rint(values / peak * COUNTS) if maybe(rng, 0.5) else values
    kinds = PLAIN | (MASKED if dims == ("y", "x") else {})
    name = str(choose(rng, list(kinds)))
    first, second = kinds[name](rng, counts, folder)
    model = model_of(str(choose(rng, ("small", "small", "reference"))))

    def use() -> tuple[xr.DataTree, xr.DataTree]:
        return tuple(
            bc.infer(
                image if isinstance(image, xr.DataArray) else _named(image, dims),
                context,
                model,
                num_draws=8,
                likelihood="network",
            )
            for image in (first, second)
        )

    return Case(f"{name} of {values.shape}; {context}"[:500], use, _complaint_of_difference)


def _named(image: object, dims: tuple[str, ...]) -> object:
    """Independent images by the name of their dimension; a micrograph as it is."""
    return image if dims == ("y", "x") else xr.DataArray(image, dims=dims)


def _complaint_of_difference(found: tuple[xr.DataTree, xr.DataTree]) -> str:
    """Say how two posteriors differ."""
    for tree in found:
        complaint = complaint_of_posterior(tree)
        if complaint:
            return complaint
    first, second = (t["class_posterior"].to_dataset() for t in found)
    for name in ("defect", "host", "dopant"):
        if first[name].shape != second[name].shape:
            return f"other shape of {name}: {first[name].shape} and {second[name].shape}"
        change = float(np.abs(first[name].values - second[name].values).max(initial=0.0))
        if change > LARGEST_CHANGE:
            return f"other probabilities of {name}: {change:.3f} apart"
    return ""


def _affine(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, object]:
    """In another unit, with another offset."""
    spread = float(values.std((-2, -1)).min())
    offset = spread * float(choose(rng, (0.0, 0.0, 1.0, 1e3, 5e6)))
    return values, (values + offset) * 10.0 ** rng.uniform(-290, 290)


def _integers(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, object]:
    """As integers of any type, from a large offset."""
    whole = np.rint(values / values.max((-2, -1), keepdims=True) * COUNTS)
    whole = whole - whole.min()
    dtype = np.dtype(str(choose(rng, ("u2", ">u2", "i4", ">i4", "u4", "i8", "u8", ">u8"))))
    room = min(float(np.iinfo(dtype).max), 2.0**52) - 4 * COUNTS
    offset = int(choose(rng, (0, room // 2, room)))
    return whole, whole.astype(dtype) + dtype.type(offset)


def _layout(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, object]:
    """In another layout of memory, or another precision."""
    dtype = str(choose(rng, ("f4", ">f4", "f8", ">f8", "g")))
    return values.astype("f4"), lay_out(rng, values.astype("f4").astype(dtype), folder)[0]


def _container(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, object]:
    """In another container."""
    kinds: tuple[Callable[[], object], ...] = (
        values.tolist,
        lambda: torch.from_numpy(values).requires_grad_(),
        lambda: np.ma.MaskedArray(values, np.zeros(values.shape, bool)),
        lambda: torch.from_numpy(values).mT.contiguous().mT,
    )
    held = choose(rng, kinds)()
    return values, held.detach().numpy() if isinstance(
        held, torch.Tensor
    ) and values.ndim > 2 else held


def _under_mask(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, object]:
    """With other numbers under a mask, or in pixels that are not valid."""
    mask = np.zeros(values.shape, bool)
    corner = rng.integers(0, np.array(values.shape) - 8)
    size = rng.integers(2, 1 + len(values) // 3)
    mask[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = True
    if maybe(rng, 0.3):
        mask[: int(rng.integers(1, 12))] = True
    filled = []
    for _ in range(2):
        other = values.copy()
        other[mask] = choose(rng, (0.0, np.nan, -1e9, np.inf, 1e300, float(values.max())))
        filled.append(np.ma.MaskedArray(other, mask))
    return filled[0], filled[1]


def _coordinates(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, object]:
    """With coordinates of the same pixel size in two units."""
    places = np.arange(max(values.shape)) * 0.25
    made = []
    for unit, factor in (("Å", 1.0), (str(choose(rng, ("nm", "pm", "m"))), None)):
        scale = {"nm": 0.1, "pm": 100.0, "m": 1e-10}.get(unit, factor)
        coords = {
            n: (n, places[:s] * scale, {"units": unit})
            for n, s in zip("yx", values.shape, strict=True)
        }
        made.append(xr.DataArray(values, coords, ("y", "x")))
    return made[0], made[1]


PLAIN: dict[str, Callable[[Rng, np.ndarray, Path], tuple[object, object]]] = {
    "unit": _affine,
    "integers": _integers,
    "layout": _layout,
    "container": _container,
}
MASKED = {"mask": _under_mask, "mask, again": _under_mask, "coordinates": _coordinates}

"""Cases of images: patches and micrographs in every form, under contexts that are mostly true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

import bayesctx as bc

from .case import Case, complaint_of_posterior
from .scenes import (
    CONDITIONS,
    NUM_PATCHES,
    SIZES,
    micrograph,
    model_of,
    patches,
    spoil,
    truth_of_patches,
)
from .values import Rng, cast, choose, contain, hostile_object, lay_out, maybe

__all__ = ["micrograph_case", "patch_case", "some_draws"]

UNITS = (
    "Å", "angstrom", "nm", "pm", "µm", "um", "m", "mm", "inch", "", "1", "px", "pixels", "1/nm",
    "NM", "A", "ångström", None, 5, ["nm"], "nm/px", "Angstroms", b"nm", "km",
)  # fmt: skip


def some_draws(rng: Rng) -> int:
    """Draw a small number of draws.

    Parameters
    ----------
    rng : Generator
        Of random numbers.

    Returns
    -------
    int
        From 1 to 32.
    """
    return int(choose(rng, (1, 2, 4, 8, 8, 16, 32)))


def patch_case(rng: Rng, folder: Path) -> Case:
    """Patches in every type, layout and container.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For files.

    Returns
    -------
    Case
        Handed to ``infer``.
    """
    chosen = rng.integers(0, NUM_PATCHES, int(choose(rng, (1, 1, 1, 2, 2, 3, 5, 5, 0))))
    values, done = patches()[chosen], []
    known = {} if not len(chosen) else truth_of_patches(chosen)
    with np.errstate(all="ignore"):
        if maybe(rng, 0.25):
            values, text = _reshaped(rng, values)
            done.append(text)
        if maybe(rng, 0.3):
            values = values * 10.0 ** rng.uniform(-300, 300) + choose(
                rng, (0.0, 0.0, 0.0, 1e3, -1e9, 1e15)
            )
            done.append("scaled")
        if maybe(rng, 0.08) and values.size:
            values = values.copy()
            values.flat[int(rng.integers(values.size))] = choose(
                rng, (np.nan, np.inf, -np.inf, 1e300, -1e300)
            )
            done.append("a flawed pixel")
    image, text = _in_some_form(rng, values, folder)
    is_series = isinstance(image, xr.DataArray) and image.dims[:1] == ("image",)
    context = _mostly_true(rng, {n: v if is_series else v[0] for n, v in known.items()})
    return _infer_case(rng, image, context, [f"patches {values.shape}", *done, text], "small")


def _reshaped(rng: Rng, values: np.ndarray) -> tuple[np.ndarray, str]:
    """Patches in another shape: fewer or more dimensions, pixels or none."""
    kinds = {
        "one patch": lambda: values[0] if len(values) else values,
        "four dimensions": lambda: values[None],
        "four dimensions, one patch each": lambda: values[:, None],
        "five dimensions": lambda: values[None, None],
        "one dimension": lambda: values.ravel()[:32],
        "a number": lambda: np.array(1.0),
        "no pixels": lambda: values[..., :0],
        "cut": lambda: values[..., : int(rng.integers(1, 32)), :],
        "colours": lambda: np.moveaxis(np.resize(values, (3, 32, 32)), 0, -1),
        "constant": lambda: np.full_like(values, choose(rng, (0.0, 1.0, -1.0))),
        "negative": lambda: -values,
        "larger": lambda: np.repeat(np.repeat(values, 2, -1), 2, -2),
        "transposed": lambda: np.moveaxis(values, 0, -1),
        "wide": lambda: np.tile(values, (1, 1, 20)),
        "zeros but one": lambda: np.eye(32)[None] * np.eye(32)[3],
    }
    name = str(choose(rng, list(kinds)))
    return kinds[name](), name


def _in_some_form(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, str]:
    """An array in some type, layout and container."""
    array, dtype = cast(rng, values, common=0.85)
    array, layout = lay_out(rng, array, folder)
    if maybe(rng, 0.25):
        held, container = contain(rng, array, folder)
        return held, f"{dtype}, {layout}, {container}"
    if maybe(rng, 0.5):
        held, names = _labelled(rng, array)
        return held, f"{dtype}, {layout}, {names}"
    return array, f"{dtype}, {layout}"


def _labelled(rng: Rng, array: np.ndarray) -> tuple[object, str]:
    """A DataArray with usual or unusual dimensions and coordinates."""
    usual = {2: ("y", "x"), 3: ("patch", "y", "x"), 4: ("image", "patch", "y", "x")}.get(array.ndim)
    dims = usual or tuple("abcdef"[: array.ndim])
    kind = str(
        choose(rng, (*["usual"] * 6, *["image"] * 3, "turned", "others", "detector", "numbers"))
    )
    if kind == "image" and array.ndim == 3:
        dims = ("image", "y", "x")
    if kind == "turned":
        dims = dims[::-1]
    if kind == "others":
        dims = tuple("abcdef"[: array.ndim])
    if kind == "detector" and array.ndim == 3:
        dims = ("detector", "y", "x")
    if kind == "numbers":
        dims = tuple(range(array.ndim))
    labelled = xr.DataArray(array, dims=dims)
    if maybe(rng, 0.5):
        for axis in (d for d in ("y", "x") if d in dims):
            if maybe(rng, 0.9):
                labelled = labelled.assign_coords(
                    {axis: _coordinate(rng, axis, labelled.sizes[axis])}
                )
    text = f"dims {dims}, coords " + ", ".join(
        f"{n}: {np.asarray(c.values).ravel()[:2]} {c.attrs.get('units')!r}"
        for n, c in labelled.coords.items()
    )
    return labelled, text


def _coordinate(rng: Rng, axis: str, size: int) -> tuple[str, object, dict[str, object]]:
    """A coordinate, mostly equally spaced, in some unit."""
    step = float(choose(rng, (0.25, 0.25, 0.025, 25.0, 2.5e-5, 2.5e-11, 1.0, 0.2, 1e-300, 0.0)))
    places = np.arange(size) * step
    if maybe(rng, 0.6):
        return axis, np.arange(size) * 0.25 + rng.normal(), {"units": "Å"}
    kinds = (
        lambda: places, lambda: places, lambda: places, lambda: places[::-1],
        lambda: places + 1e6, lambda: np.sort(rng.random(size)), lambda: np.full(size, np.nan),
        lambda: [f"p{i}" for i in range(size)], lambda: np.arange(size),
        lambda: places.astype("f2"), lambda: places * (1 + 1e-3 * np.arange(size)),
        lambda: np.arange(size).astype("M8[s]"), lambda: places + 0.25j,
        lambda: np.arange(size) > 3, lambda: -places - 5, lambda: np.zeros(size),
        lambda: places.astype(object),
    )  # fmt: skip
    unit = choose(rng, UNITS if maybe(rng, 0.5) else ("Å",))
    return axis, choose(rng, kinds)(), {} if unit is None else {"units": unit}


def micrograph_case(rng: Rng, folder: Path) -> Case:
    """Micrographs of crystals and of anything else.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For files.

    Returns
    -------
    Case
        Handed to ``infer``.
    """
    condition, size = int(rng.integers(len(CONDITIONS))), int(rng.integers(len(SIZES)))
    values, truth = micrograph(condition, size)
    if maybe(rng, 0.7):  # small ones take less time; seven cells are enough
        cut = int(rng.uniform(23, 30) / truth["sampling"])
        values = values[:cut, :cut]
    values, text = spoil(rng, values)
    image, form = (values, "f8") if maybe(rng, 0.4) else _in_some_form(rng, values, folder)
    context = _mostly_true(rng, truth)
    if "sampling" in context and maybe(rng, 0.3):
        context["sampling"] *= float(choose(rng, (0.5, 0.93, 1.07, 1.3, 1.732, 0.577)))
    words = [f"micrograph {condition}/{size} {values.shape}", text, form]
    return _infer_case(
        rng, image, context, words, str(choose(rng, ("small", "small", "reference")))
    )


def _mostly_true(rng: Rng, truth: dict[str, object]) -> dict[str, object]:
    """Nothing, a part, or all of what is true of an image."""
    share = float(choose(rng, (0.0, 0.3, 0.6, 1.0, 1.0)))
    return {n: v for n, v in truth.items() if maybe(rng, share)}


def _infer_case(rng: Rng, image: object, context: dict, words: list[str], model: str) -> Case:
    """Inference of an image; a quarter of them with pixels marked as valid."""
    options: dict[str, object] = {"num_draws": some_draws(rng)}
    if maybe(rng, 0.1):
        options["valid"] = _valid(rng, image)
        words.append("valid given")
    text = f"{'; '.join(words)}; {context}; {options}; {model} model"
    own = model_of(model)

    def check(tree: xr.DataTree) -> str:
        return complaint_of_posterior(tree) or (_complaint_of_file(tree) if is_saved else "")

    is_saved = maybe(rng, 0.2)
    return Case(text, lambda: bc.infer(image, context, own, likelihood="network", **options), check)


def _complaint_of_file(tree: xr.DataTree) -> str:
    """Say what is wrong with a result that was saved and loaded."""
    bc.save(tree, "result.nc")
    return "" if bc.load("result.nc").identical(tree) else "other result after it was saved"


def _valid(rng: Rng, image: object) -> object:
    """An array of bool of the shape of an image, or something else."""
    is_array = isinstance(image, np.ndarray | xr.DataArray) and image.ndim < 5
    shape = image.shape if is_array else (5, 5)
    kinds = (
        lambda: np.ones(shape, bool), lambda: rng.random(shape) < 0.99,
        lambda: rng.random(shape) < 0.5, lambda: np.zeros(shape, bool), lambda: np.ones(shape),
        lambda: np.ones(shape[:1], bool), lambda: np.ones(shape, bool).tolist(),
        lambda: xr.DataArray(np.ones(shape, bool)), lambda: hostile_object(rng), lambda: True,
    )  # fmt: skip
    return choose(rng, kinds)()

"""Patches side by side, each with its class and the probability of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ..defects import DEFECTS
from .keys import key_of_class, keys_of_certainty, place_legend
from .symbols import COLOURS, LEAST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_patches"]

MOST_PATCHES = 100


def draw_patches(
    ax: Axes,
    result: xr.DataTree,
    best: np.ndarray,
    certainty: np.ndarray,
    keep: np.ndarray,
    truth: Mapping[str, object] | xr.Dataset | None,
) -> None:
    """Draw patches on a grid, each with its own grey scale.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    result : DataTree
        From ``infer``.
    best : ndarray of str, shape (site,)
        Most probable class of every patch.
    certainty : ndarray, shape (site,)
        Its probability.
    keep : ndarray of bool, shape (site,)
        Which patches are drawn; at most the first 100 of them.
    truth : mapping or Dataset, optional
        True classes as ``defect``: a wrong patch names its own.

    Raises
    ------
    ValueError
        If the truth does not have one class for every patch.
    """
    true = _true_classes(truth, len(best))
    image = result["observed_data"].intensity.isel(detector=0, missing_dims="ignore")
    drawn = np.flatnonzero(keep)[:MOST_PATCHES]
    if not len(drawn):
        ax.set_title("no patch of these classes")
        return
    patches = image.values.reshape(-1, *image.shape[-2:])[drawn].astype(float)
    num_columns = int(np.ceil(np.sqrt(len(patches))))
    height, width = 1.35 * patches.shape[1], 1.1 * patches.shape[2]
    font = max(4, 9 - num_columns / 2)
    for i, (site, patch) in enumerate(zip(drawn, patches, strict=True)):
        top, left = (i // num_columns) * height, (i % num_columns) * width
        right, bottom = left + patch.shape[1], top + patch.shape[0]
        ax.imshow(patch, cmap="gray", extent=(left, right, bottom, top), interpolation="nearest")
        ax.plot(
            [left, right, right, left, left],
            [bottom, bottom, top, top, bottom],
            color=COLOURS[best[site]],
            alpha=max(float(certainty[site]), LEAST),
            linewidth=2.5,
            solid_joinstyle="miter",
        )
        text = f"{best[site]} {certainty[site]:.2f}"
        is_wrong = true is not None and true[site] != best[site]
        if is_wrong:
            text += f"\ntrue {true[site]}"
        style = {"ha": "center", "va": "bottom", "fontsize": font, "linespacing": 0.95}
        ax.text(
            (left + right) / 2, top - 1, text, color="#B00000" if is_wrong else "black", **style
        )
    num_rows = -(-len(patches) // num_columns)
    ax.set(
        xlim=(-2, num_columns * width),
        ylim=(num_rows * height, -0.3 * patches.shape[1]),
        aspect="equal",
    )
    ax.spines[:].set_visible(False)
    if keep.sum() > len(drawn):
        ax.set_title(f"the first {len(drawn)} of {keep.sum()} patches")
    seen = best[drawn].tolist()
    keys = [key_of_class(n, seen.count(n)) for n in DEFECTS if n in seen]
    place_legend(ax, [*keys, *keys_of_certainty()])


def _true_classes(truth: Mapping[str, object] | xr.Dataset | None, num: int) -> np.ndarray | None:
    """True class of every patch."""
    if truth is None:
        return None
    true = np.asarray(truth["defect"]).ravel().astype(str) if "defect" in truth else np.zeros(0)
    if len(true) != num:
        raise ValueError(
            f"a truth with a class of each of {num} patches as defect was expected, got "
            f"{len(true)}; give one class for every patch"
        )
    return true

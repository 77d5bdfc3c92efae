"""plot_defects(): the most probable class of every site or patch, over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

from ..defects import DEFECTS, SITES
from .figures import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "PERFECT", "on_crystal", "plot_defects"]

COLOURS = {
    "M": "#F27D52",
    "D_M": "#E69F00",
    "V_M": "#D01C1C",
    "X_M": "#E8B4CC",
    "X2_M": "#A61878",
    "X2": "#7FD6C8",
    "V_X": "#56B4E9",
    "V_X2": "#6F78F5",
    "O_X": "#238A5F",
    "Y_X": "#C6F5B8",
    "M_X": "#7020F0",
    "hollow": "#101010",
    "adatom_M": "#FFF45C",
}
"""The colour of each class in every plot; tests check that they differ for any colour vision."""

PERFECT = tuple(classes[0] for classes in SITES.values())
"""The classes of an undisturbed crystal, drawn as dots; the others are drawn as rings."""

MOST_PATCHES = 100


def on_crystal(result: xr.DataTree) -> np.ndarray:
    """Return which sites lie on crystal, and not in vacuum or in a hole.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    ndarray of bool, shape (site,)
        ``constant_data.crystal`` of all sites or patches in one row; all True where it is absent.
    """
    shape, constants = result["class_posterior"].defect.shape[:-1], result["constant_data"]
    crystal = constants.crystal.values if "crystal" in constants else True
    return np.broadcast_to(crystal, shape).astype(bool).ravel()


def plot_defects(
    result: xr.DataTree,
    *,
    ax: Axes | None = None,
    defects: Sequence[str] | None = None,
    size: float | None = None,
) -> Axes:
    """Draw the most probable class of every site over the image.

    The opacity of a symbol is the probability of the class. Sites without crystal are left out.

    Parameters
    ----------
    result : DataTree
        From ``infer``: a micrograph (the first detector of several), or patches, which are drawn
        side by side.
    ax : Axes, optional
        Where to draw; default: a new figure.
    defects : sequence of str, optional
        Classes to show, of ``DEFECTS``; default: all. The perfect M, X2 and hollow are small dots,
        the others rings.
    size : float, optional
        Diameter of the rings in px; default: 0.7 of the distance between neighbouring sites.

    Returns
    -------
    Axes
        With a legend that counts the sites of each class.

    Raises
    ------
    ValueError
        For a class that does not exist.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> ax = plot_defects(result, defects=["D_M", "V_X"])  # doctest: +SKIP
    """
    unknown = set(defects or ()) - set(DEFECTS)
    if unknown:
        raise ValueError(
            f"classes among {', '.join(DEFECTS)} were expected, got {sorted(unknown)[0]!r}"
        )
    shown = [d for d in DEFECTS if defects is None or d in defects]
    ax = new_axes((7, 5.6))[0] if ax is None else ax
    is_crystal = on_crystal(result)
    probabilities = result["class_posterior"].defect.values.reshape(-1, len(DEFECTS))[is_crystal]
    best = np.array(DEFECTS)[probabilities.argmax(-1)]
    # rounding may exceed 1, which matplotlib refuses as an opacity
    certainty = probabilities.max(-1).clip(0, 1)
    image = result["observed_data"].intensity.isel(detector=0, missing_dims="ignore")
    constants = result["constant_data"].to_dataset()
    ax.set_xticks([])
    ax.set_yticks([])
    if "site_x" in constants:
        sites = np.stack([constants.site_x.values, constants.site_y.values], -1)[is_crystal]
        _draw_image(ax, image.values)
        _draw_sites(ax, sites, best, certainty, shown, size)
        _draw_scale_bar(ax, image.sizes["x"], float(constants.sampling))
    else:
        keep = np.isin(best, shown)
        patches = image.values.reshape(-1, *image.shape[-2:])[is_crystal][keep]
        _draw_patches(ax, patches, best[keep], certainty[keep])
    _draw_legend(ax, best, shown)
    return ax


def _draw_image(ax: Axes, values: np.ndarray) -> None:
    """Draw a micrograph in grey, scaled to percentiles because of hot pixels; NaN is a gap."""
    low, high = np.nanpercentile(values, (0.5, 99.8))
    ax.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _draw_sites(
    ax: Axes,
    sites: np.ndarray,
    best: np.ndarray,
    certainty: np.ndarray,
    shown: Sequence[str],
    size: float | None,
) -> None:
    """Draw rings around defects and dots on perfect sites."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgba

    if size is None:
        nearest = cKDTree(sites).query(sites, k=2)[0][:, 1] if len(sites) > 1 else [10.0]
        size = 0.7 * float(np.median(nearest))
    for name in sorted(shown, key=lambda d: d not in PERFECT):
        mine = best == name
        colours = np.tile(to_rgba(COLOURS[name]), (int(mine.sum()), 1))
        colours[:, 3] = certainty[mine].clip(min=0.1)
        diameter = np.full(len(colours), size * (0.45 if name in PERFECT else 1))
        style = (
            {"facecolors": colours}
            if name in PERFECT
            else {"facecolors": "none", "edgecolors": colours}
        )
        width = 0 if name in PERFECT else float(np.clip(45 / np.sqrt(max(1, len(sites))), 0.7, 2.2))
        place = {"units": "xy", "offsets": sites[mine], "offset_transform": ax.transData}
        ax.add_collection(
            EllipseCollection(
                diameter, diameter, 0 * diameter, label=name, linewidths=width, **place, **style
            )
        )


def _draw_scale_bar(ax: Axes, num_pixels: int, sampling: float) -> None:
    """Draw a bar of a round length, at most a quarter of the image."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    longest = num_pixels * sampling / 4
    power = 10.0 ** np.floor(np.log10(longest))
    length = power * max(n for n in (1, 2, 5) if n * power <= longest)
    label = f"{length / 10:g} nm" if length >= 10 else f"{length:g} Å"
    style = {"pad": 0.3, "color": "white", "size_vertical": num_pixels / 120}
    bar = AnchoredSizeBar(ax.transData, length / sampling, label, "lower left", **style)
    bar.patch.set(facecolor="black", alpha=0.5, edgecolor="none")
    ax.add_artist(bar)


def _draw_patches(ax: Axes, patches: np.ndarray, best: np.ndarray, certainty: np.ndarray) -> None:
    """Draw patches on a grid, each with its own grey scale, its class and that probability."""
    num_all, patches = len(patches), patches[:MOST_PATCHES].astype(float)
    if not num_all:
        ax.set_title("no patch of these classes")
        return
    num_columns = int(np.ceil(np.sqrt(len(patches))))
    height, width = (1.35 * patches.shape[1], 1.1 * patches.shape[2])
    for i, patch in enumerate(patches):
        top, left = (i // num_columns) * height, (i % num_columns) * width
        box = (left, left + patch.shape[1], top + patch.shape[0], top)
        ax.imshow(patch, cmap="gray", extent=box, interpolation="nearest")
        edge = {
            "color": COLOURS[best[i]],
            "alpha": max(float(certainty[i]), 0.1),
            "linewidth": 2.5,
            "solid_joinstyle": "miter",
        }
        ax.plot(
            [box[0], box[1], box[1], box[0], box[0]],
            [box[2], box[2], box[3], box[3], box[2]],
            **edge,
        )
        text = f"{best[i]} {certainty[i]:.2f}"
        ax.text(
            left + patch.shape[1] / 2,
            top - 1,
            text,
            ha="center",
            va="bottom",
            fontsize=max(4, 9 - num_columns / 2),
        )
    rows = -(-len(patches) // num_columns)
    ax.set(
        xlim=(-2, num_columns * width),
        ylim=(rows * height, -0.3 * patches.shape[1]),
        aspect="equal",
    )
    ax.spines[:].set_visible(False)
    if num_all > len(patches):
        ax.set_title(f"the first {len(patches)} of {num_all} patches")


def _draw_legend(ax: Axes, best: np.ndarray, shown: Sequence[str]) -> None:
    """List the classes that occur, with the number of sites of which each is the most probable."""
    from matplotlib.lines import Line2D

    handles = []
    for name in shown:
        count = int((best == name).sum())
        if count:
            dot = (
                {"markersize": 4}
                if name in PERFECT
                else {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 2}
            )
            handles.append(
                Line2D(
                    [],
                    [],
                    linestyle="",
                    marker="o",
                    color=COLOURS[name],
                    label=f"{name}  {count}",
                    **dot,
                )
            )
    if not handles:
        return
    style = {
        "facecolor": "#404040",
        "framealpha": 1,
        "fontsize": "small",
        "borderpad": 0.7,
        "handletextpad": 0.3,
    }
    legend = ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, **style
    )
    for text in legend.get_texts():
        text.set_color("white")

"""plot_defects(): the most probable class of every site of a micrograph, over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

from ..checks import check_known
from ..defects import DEFECTS
from ..matching import positions_of
from ..tables import compare, crystal_of
from .figures import new_axes
from .keys import (
    follow_view,
    in_view,
    key,
    key_of_class,
    keys_of_certainty,
    place_legend,
    scale_bar,
)
from .patch_grid import draw_patches
from .symbols import PERFECT, outline, symbols_at

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["draw_image", "on_crystal", "plot_defects", "positions_in_image", "size_of_sites"]

MOST_DOTS = 2000  # more would hide the image
LEAST_SIZE = 1 / 60  # of the width of the image
MARKS = {"wrong": "8", "not found": "x"}
"""What is marked where the truth is known, as markers of matplotlib."""


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
    return crystal_of(result).ravel()


def plot_defects(
    result: xr.DataTree,
    *,
    ax: Axes | None = None,
    defects: Sequence[str] | None = None,
    size: float | None = None,
    truth: xr.Dataset | Mapping[str, object] | None = None,
) -> Axes:
    """Draw the most probable class of every site over the image.

    Each class has its own colour and shape; the opacity of a symbol is the probability of the
    class. Sites without crystal are left out. Legend and scale bar follow the limits of the axes.

    Parameters
    ----------
    result : DataTree
        From ``infer``: a micrograph (the first detector of several), or patches, which are drawn
        side by side.
    ax : Axes, optional
        Where to draw; default: a new figure.
    defects : sequence of str, optional
        Classes to show, of ``DEFECTS``; default: all, of more than 2000 sites all but the perfect
        M, X2 and hollow. These are small dots, the others outlines.
    size : float, optional
        Size of the outlines in px; default: 0.7 of the distance between neighbouring sites, but at
        least a sixtieth of the image.
    truth : Dataset, DataFrame or mapping, optional
        Known sites, as for ``compare``; of patches ``defect``, one class for each. Wrong sites of
        the classes that are shown get an octagon, known sites without a partner a cross.

    Returns
    -------
    Axes
        With a legend of the classes in view, their numbers of sites, and the opacity of some
        probabilities.

    Raises
    ------
    ValueError
        For a class that does not exist, or a truth that does not fit.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> ax = plot_defects(result, defects=["D_M", "V_X"])  # doctest: +SKIP
    >>> ax.set(xlim=(0, 100), ylim=(100, 0))  # doctest: +SKIP
    """
    for name in defects or ():
        check_known(name, "class", DEFECTS)
    shown = [d for d in DEFECTS if defects is None or d in defects]
    ax = new_axes((9, 5.6))[0] if ax is None else ax
    is_crystal = on_crystal(result)
    probabilities = result["class_posterior"].defect.values.reshape(-1, len(DEFECTS))
    best = np.array(DEFECTS)[probabilities.argmax(-1)]
    # rounding may exceed 1, which matplotlib refuses as an opacity
    certainty = probabilities.max(-1).clip(0, 1)
    ax.set_xticks([])
    ax.set_yticks([])
    if "site_x" not in result["constant_data"]:
        draw_patches(ax, result, best, certainty, is_crystal & np.isin(best, shown), truth)
        return ax
    sites = positions_in_image(result)
    if defects is None and is_crystal.sum() > MOST_DOTS:
        shown = [d for d in shown if d not in PERFECT]
    dot = size_of_sites(sites) if size is None else size
    draw_image(ax, result)
    size = max(dot, abs(np.subtract(*ax.get_xlim())) * LEAST_SIZE) if size is None else size
    keep = is_crystal & np.isin(best, shown)
    width = float(np.clip(45 / np.sqrt(max(1, is_crystal.sum())), 0.9, 2.0))
    for name in sorted(shown, key=lambda d: d not in PERFECT):
        mine = keep & (best == name)
        ax.add_collection(
            symbols_at(name, sites[mine], certainty[mine], dot if name in PERFECT else size, width),
            autolim=False,
        )
    marks = {} if truth is None else _mark(ax, result, truth, keep, size)
    sampling = float(result["constant_data"].sampling)

    def draw_keys() -> list[Artist | None]:
        seen = best[keep & in_view(ax, sites)].tolist()
        keys = [key_of_class(n, seen.count(n)) for n in shown if n in seen]
        keys += keys_of_certainty() if keys else []
        counts = {n: int(in_view(ax, p).sum()) for n, p in marks.items()}
        keys += [key(MARKS[n], f"{n}: {c}", short=f"{n}: {c}") for n, c in counts.items()]
        return [place_legend(ax, keys), scale_bar(ax, sampling)]

    follow_view(ax, draw_keys)
    return ax


def positions_in_image(result: xr.DataTree) -> np.ndarray:
    """Return the positions of all sites.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.

    Returns
    -------
    ndarray, shape (site, 2)
        (x, y) in px.
    """
    return positions_of(result["constant_data"])


def size_of_sites(sites: np.ndarray) -> float:
    """Return the default size of a symbol.

    Parameters
    ----------
    sites : ndarray, shape (site, 2)
        Positions in px.

    Returns
    -------
    float
        0.7 of the distance between neighbouring sites, in px.
    """
    nearest = cKDTree(sites).query(sites, k=2)[0][:, 1] if len(sites) > 1 else [10.0]
    return 0.7 * float(np.median(nearest))


def draw_image(ax: Axes, result: xr.DataTree) -> None:
    """Draw a micrograph in grey, scaled to percentiles because of hot pixels; NaN is a gap.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    result : DataTree
        From ``infer``; of several detectors the first is drawn.
    """
    values = result["observed_data"].intensity.isel(detector=0, missing_dims="ignore").values
    low, high = np.nanpercentile(values, (0.5, 99.8))
    ax.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _mark(
    ax: Axes,
    result: xr.DataTree,
    truth: xr.Dataset | Mapping[str, object],
    keep: np.ndarray,
    size: float,
) -> dict[str, np.ndarray]:
    """Mark wrong sites and known ones without a partner; return their positions."""
    from matplotlib.patheffects import withStroke

    found = compare(truth, result)
    wrong = found.in_result.values[found.true.values != found.found.values]
    places = {
        "wrong": positions_in_image(result)[wrong[keep[wrong]]],
        "not found": positions_of(truth)[found.unmatched_truth.values],
    }
    places = {n: p for n, p in places.items() if len(p)}
    effects = [withStroke(linewidth=3, foreground="black")]
    for name, at in places.items():
        if name == "wrong":
            corners = outline(MARKS["wrong"]) * 1.5 * size
            lines = (at[:, None] + corners).reshape(-1, 2)
            # a gap after every octagon
            lines = np.insert(lines, np.arange(1, len(at)) * len(corners), np.nan, axis=0)
            style = {"linestyle": "-", "linewidth": 1.3}
        else:
            lines, style = at, {"linestyle": "", "marker": "x", "markersize": 6}
        ax.plot(
            *lines.T,
            color="white",
            path_effects=effects,
            label=name,
            scalex=False,
            scaley=False,
            **style,
        )
    return places

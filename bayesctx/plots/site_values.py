"""plot_map() and plot_change(): a number at every site of a micrograph, over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ..checks import check_known
from ..defects import DEFECTS
from ..information import entropy, entropy_change
from ..tables import check_result
from .figures import new_axes
from .keys import follow_view, in_view, key, place_legend, scale_bar
from .site_map import draw_image, on_crystal, positions_in_image, size_of_sites
from .symbols import PERFECT, outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_change", "plot_map"]

QUANTITIES = ("defect", "entropy", *DEFECTS)
CHANGED = "another class"
PALEST = 0.3  # opacity of a tile
FILL = 1.15  # size of a tile in sizes of a symbol


def plot_map(result: xr.DataTree, quantity: str = "defect", *, ax: Axes | None = None) -> Axes:
    """Draw a probability, or the entropy, of every site over the image.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.
    quantity : str
        "defect", the probability that a site is not perfect; "entropy" of its class in bits; or a
        class of ``DEFECTS``, whose probability is drawn.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With a colour bar. Sites without crystal are left out.

    Raises
    ------
    TypeError, ValueError
        If it is no result of a micrograph, or for an unknown quantity.
    ImportError
        Without matplotlib.
    """
    check_result(result, micrograph=True)
    check_known(quantity, "quantity", QUANTITIES)
    shares = result["class_posterior"].defect
    if quantity == "entropy":
        values, label, most = entropy(result).entropy.values, "entropy of the class [bit]", None
    elif quantity == "defect":
        values = 1 - shares.sel(defect_class=list(PERFECT)).sum("defect_class").values
        label, most = "probability of a defect", 1.0
    else:
        values, label, most = (
            shares.sel(defect_class=quantity).values,
            f"probability of {quantity}",
            1.0,
        )
    keep = on_crystal(result)
    if most is None:
        most = max(float(values[keep].max(initial=0)), 0.1)
    return _draw(ax, result, values, label, "cividis", (0.0, most), keep)


def plot_change(before: xr.DataTree, after: xr.DataTree, *, ax: Axes | None = None) -> Axes:
    """Draw what additional context changed: the reduction of the entropy of every site.

    Parameters
    ----------
    before, after : DataTree
        From ``infer`` on the same micrograph, with less and with more context.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Sites of which the class became more certain in purple, those that became less certain in
        orange; a ring where the most probable class is another one.

    Raises
    ------
    TypeError, ValueError
        If they are no results of one micrograph.
    ImportError
        Without matplotlib.
    """
    check_result(before, micrograph=True)
    check_result(after, micrograph=True)
    bits = entropy_change(before, after)
    keep = on_crystal(before) & on_crystal(after)
    reach = max(float(np.abs(bits[keep]).max(initial=0)), 0.1)
    label = "reduction of the entropy [bit]"
    ax = _draw(ax, after, bits, label, "PuOr", (-reach, reach), keep)
    best = [r["class_posterior"].defect.values.argmax(-1) for r in (before, after)]
    changed = positions_in_image(after)[keep & (best[0] != best[1])]
    _outline(ax, changed, size_of_sites(positions_in_image(after)))

    def draw_keys() -> list:
        count = int(in_view(ax, changed).sum())
        label = f"{CHANGED}: {count}"
        return [place_legend(ax, [key("o", label, short=label)] if count else [], inside=True)]

    follow_view(ax, draw_keys)
    return ax


def _draw(
    ax: Axes | None,
    result: xr.DataTree,
    values: np.ndarray,
    label: str,
    colours: str,
    limits: tuple[float, float],
    keep: np.ndarray,
) -> Axes:
    """Draw a tile at every site that is kept."""
    from matplotlib.collections import PolyCollection

    ax = new_axes((7, 5.6))[0] if ax is None else ax
    draw_image(ax, result)
    ax.set(xticks=[], yticks=[])
    sites = positions_in_image(result)
    corners = outline("o") * FILL * size_of_sites(sites)
    tiles = PolyCollection(sites[keep][:, None] + corners, linewidths=0, cmap=colours)
    tiles.set_array(values[keep])
    tiles.set_clim(*limits)
    # the image shows where there is nothing to see
    tiles.set_alpha(PALEST + (0.9 - PALEST) * (np.abs(values[keep]) / limits[1]).clip(0, 1))
    ax.add_collection(tiles, autolim=False)
    bar = ax.figure.colorbar(tiles, ax=ax, shrink=0.8, label=label)
    bar.solids.set_alpha(1)
    sampling = float(result["constant_data"].sampling)
    follow_view(ax, lambda: [scale_bar(ax, sampling)])
    return ax


def _outline(ax: Axes, places: np.ndarray, size: float) -> None:
    """Draw rings around sites."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patheffects import withStroke

    rings = PolyCollection(
        places[:, None] + outline("o") * size * 1.3,
        facecolors="none",
        edgecolors="white",
        linewidths=1.2,
        label=CHANGED,
    )
    rings.set_path_effects([withStroke(linewidth=2.6, foreground="black")])
    ax.add_collection(rings, autolim=False)

"""Legends and scale bars that follow what of an image is in view."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .symbols import COLOURS, LEAST, MARKERS, PERFECT, TITLES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

__all__ = [
    "follow_view",
    "in_view",
    "key",
    "key_of_class",
    "keys_of_certainty",
    "place_legend",
    "scale_bar",
]

CERTAINTIES = (1.0, 0.7, 0.4)
FONT_SIZES = (8.5, 7.5, 6.5, 5.5, 4.5, 3.5)
LEGIBLE = FONT_SIZES[:3]  # in which words are still read; below, names are
LINE = 26  # characters of a line of a label where there is little room
BESIDE, INSIDE = (0.6, 1.0), (0.45, 0.6)
"""Shares of the width and height of a panel that a legend may take."""

MOST_UNBROKEN = 0.45  # of the width, by labels of one line: more would shrink the image

BACKGROUND = "#404040"


def key(
    marker: str,
    label: str,
    *,
    short: str,
    colour: str = "white",
    opacity: float = 1.0,
    is_dot: bool = False,
) -> Line2D:
    """Entry of a legend.

    Parameters
    ----------
    marker : str
        Of matplotlib.
    label, short : str
        The label, and the one where there is little room.
    colour : str
        Of the symbol.
    opacity : float
        From 0 to 1.
    is_dot : bool
        A small filled symbol instead of an outline.

    Returns
    -------
    Line2D
        A symbol without line.
    """
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        color=colour,
        alpha=opacity,
        markerfacecolor=colour if is_dot else "none",
        markersize=4 if is_dot else 8,
        markeredgewidth=0 if is_dot else 1.8,
        label=label,
        gid=short,
    )


def key_of_class(name: str, count: int) -> Line2D:
    """Entry of a class in a legend.

    Parameters
    ----------
    name : str
        The class.
    count : int
        Number of sites.

    Returns
    -------
    Line2D
        The symbol, labelled by the class in words, its name and the number.
    """
    label, short = f"{TITLES[name]} ({name}): {count}", f"{name}: {count}"
    is_dot = name in PERFECT
    return key(MARKERS[name], label, short=short, colour=COLOURS[name], is_dot=is_dot)


def keys_of_certainty() -> list[Line2D]:
    """Entries that say which opacity is which probability.

    Returns
    -------
    list of Line2D
        White symbols.
    """
    return [
        key("o", f"probability {p:g}", short=f"p = {p:g}", opacity=max(p, LEAST))
        for p in CERTAINTIES
    ]


def in_view(ax: Axes, places: np.ndarray) -> np.ndarray:
    """Return which places are within the limits of axes.

    Parameters
    ----------
    ax : Axes
        The axes.
    places : ndarray, shape (site, 2)
        (x, y).

    Returns
    -------
    ndarray of bool, shape (site,)
        True for those in view.
    """
    limits = np.sort([ax.get_xlim(), ax.get_ylim()])
    return ((places >= limits[:, 0]) & (places <= limits[:, 1])).all(-1)


def place_legend(ax: Axes, keys: Sequence[Line2D], *, inside: bool = False) -> Legend | None:
    """Draw a legend that lies within the figure.

    Parameters
    ----------
    ax : Axes
        The axes.
    keys : sequence of Line2D
        Its entries; the identifier of each (``gid``) is its short label.
    inside : bool
        Draw it inside of the axes in any case.

    Returns
    -------
    Legend or None
        Right of the axes where the layout of the figure makes room for it, else inside of the axes.
        Where there is little room labels are broken into lines, then in a smaller font, and at last
        short. None without entries.
    """
    if not keys:
        return None
    from matplotlib.transforms import TransformedBbox

    spec = ax.get_subplotspec()
    if inside or spec is None or ax.figure.get_layout_engine() is None:
        ax.apply_aspect()
        room, limits, place = ax.bbox, INSIDE, {"loc": "upper right"}
    else:
        room = TransformedBbox(spec.get_position(ax.figure), ax.figure.transSubfigure)
        limits = BESIDE
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
        # the layout makes room beside the cell of the image, which may be wider than the image
        ax.set_anchor("E")
    style = {"facecolor": BACKGROUND, "framealpha": 0.85, "borderpad": 0.6, "handletextpad": 0.4}
    words, names = [k.get_label() for k in keys], [k.get_gid() for k in keys]
    lines = [_break(word) for word in words]
    tried = [
        (labels, size, share)
        for size in LEGIBLE
        for labels, share in ((words, MOST_UNBROKEN), (lines, limits[0]))
    ]
    for labels, size, widest in tried + [(names, size, limits[0]) for size in FONT_SIZES]:
        legend = ax.legend(keys, labels, fontsize=size, labelcolor="white", **place, **style)
        extent = legend.get_window_extent()
        is_low = extent.height <= limits[1] * room.height
        if is_low and extent.width <= widest * room.width:
            break
    return legend


def _break(label: str) -> str:
    """Break a label into lines, but not between the name of a class and its number."""
    return textwrap.fill(label.replace(": ", ":\xa0"), LINE).replace("\xa0", " ")


def scale_bar(ax: Axes, sampling: float) -> Artist:
    """Draw a bar of a round length, at most a quarter of what is in view.

    Parameters
    ----------
    ax : Axes
        Of an image in px.
    sampling : float
        Size of a pixel in Å.

    Returns
    -------
    AnchoredSizeBar
        Of matplotlib.
    """
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    width = abs(np.subtract(*ax.get_xlim()))
    longest = width * sampling / 4
    power = 10.0 ** np.floor(np.log10(longest))
    length = power * max(n for n in (1, 2, 5) if n * power <= longest)
    label = f"{length / 10:g} nm" if length >= 10 else f"{length:g} Å"
    style = {"pad": 0.3, "color": "white", "size_vertical": width / 120}
    bar = AnchoredSizeBar(ax.transData, length / sampling, label, "lower left", **style)
    bar.patch.set(facecolor="black", alpha=0.5, edgecolor="none")
    ax.add_artist(bar)
    return bar


def follow_view(ax: Axes, draw: Callable[[], Sequence[Artist | None]]) -> None:
    """Draw what depends on the limits of axes, now and whenever they change.

    Parameters
    ----------
    ax : Axes
        The axes.
    draw : callable
        Draws, and returns what it drew.
    """
    drawn: list[Artist | None] = []

    def again(_: object = None) -> None:
        for artist in drawn:
            if artist in ax.get_children():
                artist.remove()
        drawn[:] = draw()

    again()
    for change in ("xlim_changed", "ylim_changed"):
        ax.callbacks.connect(change, again)

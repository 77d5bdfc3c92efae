"""Colour and shape of every class, the same in all plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..defects import CLASSES, SITES

if TYPE_CHECKING:
    from matplotlib.collections import PolyCollection

__all__ = ["COLOURS", "HALO", "MARKERS", "PERFECT", "TITLES", "outline", "symbols_at"]

COLOURS = {
    "M": "#BEFF8B",
    "D_M": "#E8A104",
    "V_M": "#D1261F",
    "X_M": "#FFC4EF",
    "X2_M": "#A51F78",
    "X2": "#91B9A5",
    "V_X": "#3194C0",
    "V_X2": "#977EFB",
    "O_X": "#F2F7CD",
    "Y_X": "#567D5F",
    "M_X": "#741FF1",
    "hollow": "#100A06",
    "adatom_M": "#53D685",
}
"""The colour of each class; a test holds that all differ for normal and colour-blind vision."""

MARKERS = {
    "M": "o",
    "D_M": "o",
    "V_M": "s",
    "X_M": "^",
    "X2_M": "v",
    "X2": "o",
    "V_X": "D",
    "V_X2": "p",
    "O_X": "<",
    "Y_X": ">",
    "M_X": "*",
    "hollow": "o",
    "adatom_M": "P",
}
"""The shape of each class as a marker of matplotlib; perfect sites are dots."""

PERFECT = tuple(classes[0] for classes in SITES.values())
"""The classes of an undisturbed crystal, drawn as small dots; the others are drawn as outlines."""

TITLES = {c.name: c.title for c in CLASSES}

DOT, LEAST = 0.32, 0.15  # size of a dot among outlines, and least opacity
HALO = (1.6, "#00000099")  # width in points and colour of the border of outlines


def outline(marker: str) -> np.ndarray:
    """Return the corners of a marker.

    Parameters
    ----------
    marker : str
        Of matplotlib.

    Returns
    -------
    ndarray, shape (corner, 2)
        Around zero, one high and wide, y downwards as in images.
    """
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle(marker)
    (corners,) = style.get_path().transformed(style.get_transform()).to_polygons()
    corners = corners - (corners.max(0) + corners.min(0)) / 2
    return corners / np.ptp(corners, axis=0).max() * (1, -1)


def symbols_at(
    name: str, places: np.ndarray, opacity: np.ndarray, size: float, width: float
) -> PolyCollection:
    """Return the symbols of one class, in the coordinates of an image.

    Parameters
    ----------
    name : str
        The class.
    places : ndarray, shape (site, 2)
        (x, y) in px.
    opacity : ndarray, shape (site,)
        From 0 to 1.
    size : float
        Height of an outline in px; dots are smaller.
    width : float
        Of the lines in points.

    Returns
    -------
    PolyCollection
        Labelled by the class.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patheffects import withStroke

    colours = np.tile(to_rgba(COLOURS[name]), (len(places), 1))
    colours[:, 3] = opacity.clip(LEAST, 1)
    is_dot = name in PERFECT
    corners = outline(MARKERS[name]) * size * (DOT if is_dot else 1)
    style = {"facecolors": colours} if is_dot else {"facecolors": "none", "edgecolors": colours}
    symbols = PolyCollection(
        places[:, None] + corners, label=name, linewidths=0 if is_dot else width, **style
    )
    if not is_dot:
        border, colour = HALO
        symbols.set_path_effects([withStroke(linewidth=width + border, foreground=colour)])
    return symbols

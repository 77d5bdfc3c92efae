"""Results as pictures in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from ..metrics import match_sites
from ..plots import new_figure, plot_context, plot_defects
from ..storage import replacing
from .summaries import score_matched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_demo", "draw_result", "save_figure"]


def draw_result(result: xr.DataTree) -> Figure:
    """Draw sites and context of a result.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    Figure
        Sites on the left, and for one image its context on the right.
    """
    if result["class_posterior"].sizes.get("image", 1) > 1:
        figure = new_figure((8, 7))
        plot_defects(result, ax=figure.subplots())
        return figure
    figure = new_figure((15, 6.5))
    left, right = figure.subfigures(1, 2)
    plot_defects(result, ax=left.subplots())
    axes = right.subplots(3, 3).ravel()
    for unused in axes[len(plot_context(result, axes=axes)) :]:
        unused.set_visible(False)
    return figure


def draw_demo(data: xr.Dataset, blind: xr.DataTree, aware: xr.DataTree) -> Figure:
    """Draw an image, its sites with little and with much context, and the inferred context.

    Parameters
    ----------
    data : Dataset
        From ``simulate_micrograph``.
    blind, aware : DataTree
        From ``infer`` with the host alone and with the recorded context.

    Returns
    -------
    Figure
        Pictures above, prior and posterior of the context below.
    """
    figure = new_figure((16, 7.4))
    above, below = figure.subfigures(2, 1, height_ratios=(2.1, 1))
    image, left, right = above.subplots(1, 3)
    plot_defects(blind, ax=image, defects=()).set_title("the image")
    matched, truth = match_sites(data, blind)
    labels = ("host given", "host, dopant, energy, angles given")
    for ax, result, label in zip((left, right), (blind, aware), labels, strict=True):
        accuracy = score_matched(result, matched, truth)[1]
        plot_defects(result, ax=ax).set_title(f"{label}: {accuracy:.1%} right")
    below.suptitle("the context as inferred from the image, its host given")
    angles = ("convergence_semiangle", "inner_collection_angle", "outer_collection_angle")
    shown = ["dopant", "beam_energy", *angles, "assignment"]
    plot_context(blind, variables=shown, truth=data, axes=below.subplots(1, len(shown)))
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture; an existing file is replaced only by a whole one.

    Parameters
    ----------
    figure : Figure
        The picture.
    path : Path
        The file; its suffix is the format.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)

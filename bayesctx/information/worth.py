"""The figure of what each variable of the context is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_attribution"]

# from "nothing else is known" to "all else is known"; told apart in print without colour as well
BAR, BAR_ERROR, FIRST, LAST = "#56B4E9", "#0072B2", "#D55E00", "#000000"
BESIDE = 0.17  # of the distance of two bars, between the marks and the middle of a bar


def plot_attribution(attributions: xr.Dataset | Mapping[str, xr.Dataset]) -> Figure:
    """Draw what each variable of the context is worth.

    Parameters
    ----------
    attributions : Dataset or mapping of str to Dataset
        From ``attribute_information``; of a mapping one panel each, with its name as title, such as
        the dose.

    Returns
    -------
    Figure
        Of matplotlib: one bar for each variable, its Shapley value with the standard error,
        between its information alone (open circle) and beside all others (filled diamond). The
        variables are in the order of their mean value over the panels.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install bayesctx[plot]") from error
    panels = {"": attributions} if isinstance(attributions, xr.Dataset) else dict(attributions)
    mean = sum(p.shapley for p in panels.values())
    names = mean["variable"].values[np.argsort(mean.values)]
    figure = Figure(
        figsize=(2.0 + 3.0 * len(panels), 1.4 + 0.36 * len(names)), layout="constrained"
    )
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    place = np.arange(len(names))
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        own = found.sel(variable=names)
        ax.barh(
            place, own.shapley, xerr=own.shapley_error, color=BAR, ecolor=BAR_ERROR, height=0.7,
            label="its fair share (Shapley value)",
        )  # fmt: skip
        marks = {"linestyle": "none", "elinewidth": 1.0}
        ax.errorbar(
            own.alone, place + BESIDE, xerr=own.alone_error, marker="o", mfc="white", color=FIRST,
            label="if nothing else is known", **marks,
        )  # fmt: skip
        ax.errorbar(
            own.given_others, place - BESIDE, xerr=own.given_others_error, marker="D", color=LAST,
            markersize=4, label="if all else is known", **marks,
        )  # fmt: skip
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_yticks(place, names)
        total = f"all together {float(found.total):.2f} ± {float(found.total_error):.2f} bit"
        ax.set_title(f"{title}\n{total}" if title else total, fontsize="medium")
    figure.supxlabel("information about the defect (bit per site)", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure

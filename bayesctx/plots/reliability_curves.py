"""Reliability curves: how often a class is right against its probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.stats import beta

from .figures import POSTERIOR, PRIOR, TRUTH, new_axes
from .site_map import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_class_reliability", "plot_reliability"]


def plot_reliability(table: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw how often the most probable class is right against its probability.

    Parameters
    ----------
    table : Dataset
        From ``reliability``.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Points on the diagonal are calibrated, points below it overconfident; error bars are 95 %
        Jeffreys intervals. The grey bars are the share of the patches.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    ax = new_axes((4, 4))[0] if ax is None else ax
    width = 1 / table.sizes["bin"]
    share = table["count"] / table["count"].sum()
    ax.bar(table["bin"], share, 0.95 * width, color=PRIOR, label="share of the patches")
    ax.plot([0, 1], [0, 1], color=TRUTH, linestyle=(0, (3, 2)), linewidth=1, label="calibrated")
    used = table.isel(bin=np.flatnonzero(table["count"].values))
    right = used.accuracy * used["count"]
    bounds = beta.ppf([[0.025], [0.975]], right + 0.5, used["count"] - right + 0.5)
    reach = np.abs(bounds - used.accuracy.values)
    ax.errorbar(
        used.confidence,
        used.accuracy,
        reach,
        fmt="o",
        color=POSTERIOR,
        markersize=5,
        capsize=2,
        label="accuracy",
    )
    error, accuracy = float(table.expected_calibration_error), float(table.accuracy_overall)
    ax.set_title(f"accuracy {accuracy:.3f}, calibration error {error:.3f}", fontsize="medium")
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        aspect="equal",
        xlabel="probability of the class",
        ylabel="how often it is right",
    )
    ax.legend(frameon=False, fontsize="small", loc="best")
    ax.spines[["right", "top"]].set_visible(False)
    return ax


def plot_class_reliability(table: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw how often a class is the true one against its probability, one line per class.

    Parameters
    ----------
    table : Dataset
        From ``class_reliability``.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Lines on the diagonal are calibrated; points of fewer than 30 patches are left out.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    ax = new_axes((4, 4))[0] if ax is None else ax
    ax.plot([0, 1], [0, 1], color=TRUTH, linestyle=(0, (3, 2)), linewidth=1, label="calibrated")
    (dim,) = (d for d in table["count"].dims if d != "bin")
    for name in table[dim].values:
        row = table.sel({dim: name})
        row = row.isel(bin=np.flatnonzero(row["count"].values >= 30))
        colour = COLOURS.get(str(name), POSTERIOR)
        ax.plot(
            row.confidence,
            row.accuracy,
            "o-",
            color=colour,
            markersize=3,
            linewidth=1,
            label=str(name),
        )
    worst = table.expected_calibration_error
    ax.set_title(
        f"largest calibration error {float(worst.max()):.3f} ({worst.idxmax(dim).item()})",
        fontsize="medium",
    )
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        aspect="equal",
        xlabel="probability of a class",
        ylabel="how often it is the true one",
    )
    ax.legend(frameon=False, fontsize="xx-small", loc="upper left", ncols=2)
    ax.spines[["right", "top"]].set_visible(False)
    return ax

"""Plots of the context and of reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.stats import beta

from ..context import CONTEXT
from .figures import POSTERIOR, PRIOR, TRUTH, new_axes
from .symbols import COLOURS, MARKERS, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_class_reliability", "plot_context", "plot_reliability"]

SHORT = {"metal": "M", "chalcogen": "X", "hollow": "–"}
MOST_BINS = 40
THOUSANDS = 1e4  # from where on the ticks of an axis are in thousands


def plot_context(
    result: xr.DataTree,
    *,
    variables: Sequence[str] | None = None,
    truth: Mapping[str, object] | xr.Dataset | None = None,
    axes: np.ndarray | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw prior and posterior of the context of one image.

    Parameters
    ----------
    result : DataTree
        From ``infer``; of independent images select one, and of several detectors,
        ``result.isel(image=0, missing_dims="ignore")``.
    variables : sequence of str, optional
        Names of ``CONTEXT``, or assignment; default: all that the result has.
    truth : mapping or Dataset, optional
        True values by name, marked where they are given.
    axes : array of Axes, optional
        One for each variable; default: a new figure.

    Returns
    -------
    ndarray of Axes, shape (variable,)
        Prior in grey, posterior in blue; a variable that was given is a line. Both densities have
        an area of one on the axis that is drawn, per decade where it is logarithmic; bins are as
        many as the effective number of draws supports.

    Raises
    ------
    ValueError
        For an unknown variable, more than one image or detector, or fewer axes than variables.
    ImportError
        Without matplotlib.
    """
    known, discrete = result["constant_data"].to_dataset(), result["class_posterior"].to_dataset()
    continuous = result["posterior"].to_dataset()
    num_images = discrete.sizes.get("image", 1)
    if num_images > 1:
        raise ValueError(
            f"one image was expected, got {num_images}; "
            "select one: result.isel(image=0, missing_dims='ignore')"
        )
    if "detector" in result["observed_data"].dims:
        raise ValueError(
            f"one detector was expected, got {result['observed_data'].sizes['detector']}; "
            "select one: result.isel(detector=0, missing_dims='ignore')"
        )
    available = [
        n
        for n in (*CONTEXT, "assignment")
        if n != "sampling" and (n in discrete or n in continuous or n in known)
    ]
    names = available if variables is None else list(variables)
    for name in names:
        if name not in available:
            raise ValueError(f"variables among {', '.join(available)} were expected, got {name!r}")
    axes = _grid(len(names)) if axes is None else np.asarray(axes, dtype=object).ravel()
    if len(axes) < len(names):
        raise ValueError(f"{len(names)} axes were expected for {', '.join(names)}, got {len(axes)}")
    for ax, name in zip(axes, names, strict=False):
        true = None if truth is None or name not in truth else np.asarray(truth[name]).item()
        if name in discrete:
            _draw_bars(ax, result, name, true)
        else:
            _draw_density(ax, result, name, true)
    if len(names):
        _draw_context_legend(axes[0], truth is not None)
    return axes[: len(names)]


def _grid(num: int) -> np.ndarray:
    """Return axes of a new figure in rows of three."""
    num_columns = max(1, min(num, 3))
    num_rows = max(1, -(-num // num_columns))
    axes = new_axes((3.2 * num_columns, 2.3 * num_rows), num_rows=num_rows, num_columns=num_columns)
    for unused in axes[num:]:
        unused.set_visible(False)
    return axes


def _draw_density(ax: Axes, result: xr.DataTree, name: str, true: float | None) -> None:
    """Draw densities of a continuous variable, or a line where it was given."""
    variable, known = CONTEXT[name], result["constant_data"].to_dataset()
    low, high = variable.domain
    if name in known:
        ax.axvline(float(known[name].squeeze()), color=POSTERIOR, linewidth=2.5)
    else:
        draws = result["posterior"][name].values.ravel().astype(float)
        before = result["prior"][name].values.ravel().astype(float)
        low, high = float(min(before.min(), draws.min())), float(max(before.max(), draws.max()))
    is_log = low > 0 and high > 100 * low
    if name not in known:
        effective = _effective_draws(result, name, draws.size)
        for values, num, colour, alpha in (
            (before, before.size, PRIOR, 1.0),
            (draws, effective, POSTERIOR, 0.6),
        ):
            density, edges = _histogram(np.log10(values) if is_log else values, num)
            edges = 10**edges if is_log else edges
            ax.stairs(density, edges, fill=True, color=colour, alpha=alpha)
    if true is not None:
        ax.axvline(true, color=TRUTH, linestyle=(0, (3, 2)), linewidth=1.5)
    if low == high:
        low, high = low - 0.5, high + 0.5
    unit = variable.unit
    ax.set(yticks=[], xlim=(low, high))
    ax.set_ylim(bottom=0)
    if is_log:
        ax.set_xscale("log")
    else:
        ax.locator_params("x", nbins=5)
        if max(-low, high) > THOUSANDS:
            # ticks stay short, without a factor in the corner of the axes
            ax.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
            unit = "keV" if unit == "eV" else f"10³ {unit}"
    ax.set_xlabel(f"{variable.title} [{unit}]")
    ax.spines[["left", "right", "top"]].set_visible(False)


def _effective_draws(result: xr.DataTree, name: str, most: int) -> float:
    """Effective number of draws of a variable, or else of the context."""
    statistics = result["sample_stats"].to_dataset() if "sample_stats" in result else xr.Dataset()
    found = np.nan
    if "ess_bulk" in statistics and name in statistics.variable.values:
        found = float(statistics.ess_bulk.sel(variable=name))
    elif "ess" in statistics:
        found = float(statistics.ess.values.ravel()[0])
    return min(found, most) if np.isfinite(found) else most


def _histogram(values: np.ndarray, effective: float) -> tuple[np.ndarray, np.ndarray]:
    """Density of draws, of area one, with as many bins as their effective number supports."""
    # Rice's rule; few effective draws in many bins would show peaks that are noise
    num_bins = int(np.clip(np.ceil(2 * effective ** (1 / 3)), 3, MOST_BINS))
    spread = np.ptp(values)
    # equal draws have a density of one bin around them
    reach = spread if spread > 0 else max(abs(values[0]) * 1e-3, 1e-6)
    middle = (values.min() + values.max()) / 2
    edges = np.linspace(middle - reach / 2, middle + reach / 2, num_bins + 1)
    edges[0], edges[-1] = min(edges[0], values.min()), max(edges[-1], values.max())
    return np.histogram(values, edges, density=True)


def _draw_bars(ax: Axes, result: xr.DataTree, name: str, true: str | None) -> None:
    """Draw probabilities of a variable whose values are names."""
    found = result["class_posterior"][name].squeeze()
    names = [str(n) for n in found[found.dims[0]].values]
    at = np.arange(len(names))
    if name in result["prior"]:
        before = np.bincount(result["prior"][name].values.ravel().astype(int), minlength=len(names))
        ax.bar(at, before / before.sum(), 0.9, color=PRIOR)
    elif name == "assignment":
        ax.bar(at, np.full(len(names), 1 / len(names)), 0.9, color=PRIOR)
    ax.bar(at, found.values, 0.6, color=POSTERIOR, alpha=0.8)
    if true in names:
        ax.plot(names.index(true), 1.06, marker="v", color=TRUTH, clip_on=False)
    if name == "assignment":
        names = [" ".join(SHORT[s] for s in n.split("-")) for n in names]
    title = CONTEXT[name].title if name in CONTEXT else "assignment of the sublattices"
    ax.set_xticks(at, names, rotation=90, fontsize="small")
    ax.set(
        xlabel=f"{title} (given)" if name in result["constant_data"] else title,
        ylim=(0, 1.05),
        yticks=[0, 1],
    )
    ax.spines[["right", "top"]].set_visible(False)


def _draw_context_legend(ax: Axes, has_truth: bool) -> None:
    """Say what grey, blue and the dashed line mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=PRIOR, label="prior"),
        Patch(color=POSTERIOR, label="posterior or given"),
    ]
    if has_truth:
        handles.append(Line2D([], [], color=TRUTH, linestyle=(0, (3, 2)), label="truth"))
    ax.legend(handles=handles, fontsize="x-small", frameon=False)


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
    ax = new_axes((8, 4.2))[0] if ax is None else ax
    ax.plot([0, 1], [0, 1], color=TRUTH, linestyle=(0, (3, 2)), linewidth=1, label="calibrated")
    (dim,) = (d for d in table["count"].dims if d != "bin")
    for name in table[dim].values:
        row = table.sel({dim: name})
        row = row.isel(bin=np.flatnonzero(row["count"].values >= 30))
        ax.plot(
            row.confidence,
            row.accuracy,
            color=COLOURS.get(str(name), POSTERIOR),
            marker=MARKERS.get(str(name), "o"),
            markersize=5,
            markeredgecolor="#404040",
            markeredgewidth=0.5,
            linewidth=1,
            label=TITLES.get(str(name), str(name)),
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
    if ax.figure.get_layout_engine() is None:
        ax.legend(frameon=False, fontsize="xx-small", loc="upper left", ncols=2)
    else:
        ax.set_anchor("E")
        ax.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    ax.spines[["right", "top"]].set_visible(False)
    return ax

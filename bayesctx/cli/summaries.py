"""What a command shows: tables for the terminal, pictures for a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ..context import CONTEXT
from ..defects import DEFECTS
from ..information import entropy, entropy_reduction
from ..metrics import MATCH, match_sites
from ..nuisances import NUISANCES
from ..plots import new_figure, on_crystal, plot_change, plot_context, plot_defects
from ..storage import replacing
from ..tables import counts
from .sources import wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "describe_demo",
    "describe_result",
    "draw_demo",
    "draw_result",
    "save_figure",
    "score_matched",
]


STATE = ("source_size", "focal_spread", "C12", "C21", "C23", "C30", "tilt", "vibration")
"""What the sites of a micrograph share and the simulator finds, besides the context."""


def describe_result(result: xr.DataTree) -> str:
    """Return the composition and the context of a result as a table.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    str
        Numbers of the classes over the sites where there is crystal: of most probable ones,
        expected, and the 90 % interval of the joint draws; then the context.
    """
    is_crystal = on_crystal(result)
    probabilities = result["class_posterior"].defect.values.reshape(-1, len(DEFECTS))[is_crystal]
    ess = float(np.median(result["sample_stats"].ess))
    num_draws = result["posterior"].sizes["chain"] * result["posterior"].sizes["draw"]
    support = (
        f"{ess:.0f} of {num_draws} draws of the context are effective"
        if result["prior"].data_vars
        else "the conditions are known"
    )
    number = counts(result)
    lines = [f"{len(probabilities)} sites; {support}"]
    if not is_crystal.all():
        lines.append(f"sites without crystal, left out of the counts: {(~is_crystal).sum()}")
    return "\n".join([*lines, "", *_composition(probabilities, number), "", *_context(result)])


def _composition(probabilities: np.ndarray, number: xr.Dataset) -> list[str]:
    """Rows of the classes that occur or are expected, with intervals of their numbers."""
    best = probabilities.argmax(-1)
    rows = [f"{'class':<10}{'sites':>8}{'expected':>11}{'90 %':>15}{'mean probability':>19}"]
    for i, name in enumerate(DEFECTS):
        mine, expected = best == i, probabilities[:, i].sum()
        if mine.any() or expected >= 0.5:
            certainty = f"{probabilities[mine, i].mean():.3f}" if mine.any() else "-"
            row = number.sel(outcome=name)
            span = f"{row.number_90_low.item():.0f} to {row.number_90_high.item():.0f}"
            rows.append(f"{name:<10}{mine.sum():>8}{expected:>11.1f}{span:>15}{certainty:>19}")
    return rows


def _context(result: xr.DataTree) -> list[str]:
    """Rows of the context of one image."""
    if result["class_posterior"].sizes.get("image", 1) > 1:
        return ["context: one posterior for each image, in the file"]
    names = (*CONTEXT, "assignment", *STATE)
    rows = {name: _describe_variable(result, name) for name in names}
    units = {n: f"{n} [{NUISANCES[n][0]}]" for n in STATE if NUISANCES[n][0] != "1"}
    labels = {n: CONTEXT[n].label if n in CONTEXT else units.get(n, n) for n in rows}
    given = json.loads(result.attrs["context"]).get("abundance", {})
    if given:
        shares = (f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in given.items())
        rows["abundance"], labels["abundance"] = f"{', '.join(shares)} (given)", "abundance"
    # wrapped as a whole: the column between label and text is kept
    return [
        f"{labels[name]:<32}" + wrap(" " * 32 + text, 32)[32:]
        for name, text in rows.items()
        if text
    ]


def _describe_variable(result: xr.DataTree, name: str) -> str:
    """One variable of the context in words; empty where the result does not have it."""
    known, shares = result["constant_data"], result["class_posterior"].to_dataset()
    held = [g[name] for g in (known, result["posterior"]) if name in g]
    if held and "detector" in held[0].dims:
        each = (
            f"{d}: {_describe_variable(result.isel(detector=k, missing_dims='ignore'), name)}"
            for k, d in enumerate(held[0].detector.values)
        )
        return "; ".join(each)
    if name in known:
        value = known[name].values.ravel()[0]
        text = value if isinstance(value, str) else format(value, ".6g")
        return f"{text} ({'by the lattice' if _is_measured(result, name, value) else 'given'})"
    if name in shares:
        values, names = shares[name].values.ravel(), shares[name][shares[name].dims[-1]].values
        likely = [i for i in np.argsort(-values)[:6] if values[i] >= 0.01]
        return ", ".join(f"{names[i]} {values[i]:.2f}" for i in likely)
    if name not in result["posterior"]:
        return ""
    draws, before = result["posterior"][name].values, result["prior"][name].values
    return f"{_spread(draws)} (prior {_spread(before)})"


def _is_measured(result: xr.DataTree, name: str, value: object) -> bool:
    """Whether the pixel size of a micrograph is the one that its lattice implies."""
    if name != "sampling" or "site_x" not in result["constant_data"]:
        return False
    told = json.loads(result.attrs["context"]).get("sampling")
    return not isinstance(told, float) or not np.isclose(value, told, rtol=1e-6)


def _spread(draws: np.ndarray) -> str:
    """Mean and standard deviation to two digits of the latter."""
    mean, deviation = float(draws.mean()), float(draws.std())
    digits = 1 - int(np.floor(np.log10(deviation))) if deviation > 0 else 3
    return " ± ".join(f"{round(v, digits):.{max(digits, 0)}f}" for v in (mean, deviation))


def score_matched(
    result: xr.DataTree, matched: np.ndarray, truth: np.ndarray
) -> tuple[xr.DataTree, float]:
    """Return the class probabilities of matched sites, and the share that is right.

    Parameters
    ----------
    result : DataTree
        From ``infer`` of a micrograph.
    matched : ndarray of bool, shape (patch,)
        Sites that lie on a true one.
    truth : ndarray of str, shape (matched patch,)
        Their true classes.

    Returns
    -------
    DataTree, float
        With ``class_posterior`` of the matched sites only; accuracy.
    """
    found = result["class_posterior"].to_dataset().isel(patch=matched)
    accuracy = (np.array(DEFECTS)[found.defect.values.argmax(-1)] == truth).mean()
    return xr.DataTree.from_dict({"class_posterior": found}), float(accuracy)


def describe_demo(data: xr.Dataset, blind: xr.DataTree, aware: xr.DataTree) -> str:
    """Return as a table what the recorded context was worth.

    Parameters
    ----------
    data : Dataset
        From ``simulate_micrograph``.
    blind, aware : DataTree
        From ``infer`` with the host alone and with the recorded context.

    Returns
    -------
    str
        Accuracy, log score and entropy of both, and their differences.
    """
    matched, truth = match_sites(data, blind)
    found = f"{matched.size} sites were found, {matched.mean():.1%} of them within {MATCH} Å"
    rows = [
        f"{found} of a true one",
        "",
        f"{'given':<30}{'accuracy':>10}{'log score [bit]':>20}{'entropy [bit]':>20}",
    ]
    trees = []
    for label, result in (("host", blind), ("host, dopant, energy, angles", aware)):
        tree, accuracy = score_matched(result, matched, truth)
        bits = entropy(tree, truth)
        score, width = _mean(bits.log_score), _mean(bits.entropy)
        rows.append(f"{label:<30}{accuracy:>10.1%}{score:>20}{width:>20}")
        trees.append(tree)
    gain = entropy_reduction(*trees, truth)
    score, width = _mean(gain.log_score_gain), _mean(gain.entropy_reduction)
    rows += [
        f"{'bits gained per site':<40}{score:>20}{width:>20}",
        "",
        "Mean ± standard error over the sites of this image, which share one context.",
        "Over many images the entropy of a calibrated posterior equals minus its log",
        "score; an entropy that falls while the log score does not rise shows",
        "overconfidence.",
    ]
    return "\n".join(rows)


def _mean(values: xr.DataArray) -> str:
    """Mean with its standard error."""
    return f"{float(values.mean()):.3f} ± {float(values.std()) / np.sqrt(values.size):.3f}"


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
    # on the left the height of the image, and its legend in words
    figure = new_figure((16.2, 6.5))
    left, right = figure.subfigures(1, 2, width_ratios=(8.7, 7.5))
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
        Pictures above, the last a map of what the context changed; prior and posterior of the
        context below.
    """
    figure = new_figure((23, 7.4))
    above, below = figure.subfigures(2, 1, height_ratios=(2.1, 1))
    image, left, right, change = above.subplots(1, 4)
    plot_defects(blind, ax=image, defects=()).set_title("the image")
    matched, truth = match_sites(data, blind)
    labels = ("host given", "host, dopant, energy, angles given")
    for ax, result, label in zip((left, right), (blind, aware), labels, strict=True):
        accuracy = score_matched(result, matched, truth)[1]
        plot_defects(result, ax=ax, truth=data).set_title(f"{label}: {accuracy:.1%} right")
    plot_change(blind, aware, ax=change).set_title("what the context changed")
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

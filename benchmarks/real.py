"""Accuracy on labelled real micrographs, without any training on real data."""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from report import FOLDER, table, write

import bayesctx as bc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KNOWN = {"host": "WSe2", "beam_energy": 80e3}
INNER = "inner_collection_angle"
# two rings at once: the inner one ends where the outer one begins
SOFT = {
    "ADF1": {INNER: dist.Uniform(60.0, 110.0)},
    "ADF2": {INNER: dist.Uniform(25.0, 55.0), "outer_collection_angle": dist.Uniform(55.0, 110.0)},
}
# the labels do not distinguish single and double chalcogen vacancies
LABELS = {"X2": ["X2"], "V_X": ["V_X", "V_X2"], "M": ["M"], "D_M": ["D_M"]}
MATCHED = 1.0  # Å between a label and its site
WINDOW = np.array([56, 66])  # px, what the figure shows
SYMBOL = 4.0  # px
SCORES = (
    "file", "detector", "labels matched", "M against X2", "accuracy", "balanced", "log score",
    "entropy", "calibration error",
)  # fmt: skip
ASSIGNMENTS = (
    "file",
    "detector",
    "angles known softly",
    "brightest is the metal",
    "three best assignments",
    "effective draws",
    "s",
)
METAL_FIRST = ("metal-chalcogen-hollow", "metal-hollow-chalcogen")

INTRODUCTION = """\
WSe2:Ti at 80 kV, two detectors at once (Random defect model data, MIT, (c) 2024 jiadongdan). Known:
host and beam energy, and as soft evidence that ADF1 starts between 60 and 110 mrad, and that ADF2
starts between 25 and 55 and ends where ADF1 starts. The dopant, the convergence, the outer angle of
ADF1, focus and dose are unknown. The images are read by the network. There was no training on real
data; the power of the counts of the abundances was chosen with knowledge of these results
(docs/model.md). Single and double chalcogen vacancies are one class, as in the labels, which were
made semi-automatically: their vacancies are uncertain to 10-50 %. Accuracies and calibration errors
in %, log score and entropy in bits per site.

"""


def group(result: xr.DataTree, sites: np.ndarray) -> xr.DataArray:
    """Posterior of the classes that the labels distinguish, and of any other class."""
    defect = result["class_posterior"].defect.isel(patch=sites)
    columns = [defect.sel(defect_class=classes).sum("defect_class") for classes in LABELS.values()]
    grouped = xr.concat([*columns, 1 - sum(columns)], "defect_class").clip(min=0)
    return grouped.assign_coords(defect_class=[*LABELS, "other"]).transpose("patch", "defect_class")


def score(result: xr.DataTree, truth: xr.Dataset) -> dict[str, object]:
    """Accuracies in %, log score in bits, calibration error in %, and the confusion."""
    found = bc.compare(truth, result, tolerance=MATCHED, labels=LABELS)
    grouped, label = group(result, found.in_result.values), found.true.values
    host = np.isin(label, ["M", "X2"])
    polarity = grouped.sel(defect_class="M").values > grouped.sel(defect_class="X2").values
    calibration = bc.reliability(grouped, xr.DataArray(label, dims="patch"))
    confusion = found.confusion.sel(truth=list(LABELS)).values
    return {
        "labels matched": f"{found.num_matched.item()} of {truth.sizes['site']}",
        "M against X2": 100 * np.mean(polarity[host] == (label[host] == "M")),
        "accuracy": 100 * found.accuracy.item(),
        "balanced": 100 * found.recall.sel(label=list(LABELS)).mean().item(),
        "log score": f"{found.log_score.item():.3f} ± {found.log_score_error.item():.3f}",
        "entropy": found.entropy.item(),
        "calibration error": 100 * float(calibration.expected_calibration_error),
        "confusion": [[name, *row] for name, row in zip(LABELS, confusion.tolist(), strict=True)],
    }


def read(
    image: xr.DataArray, context: dict, model: bc.DefectModel, num_draws: int
) -> tuple[xr.DataTree, float]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few effective draws are shown in the table
        result = bc.infer(image, context, model, num_draws=num_draws, likelihood="network")
    return result, time.perf_counter() - start


def window_of(results: dict[str, xr.DataTree]) -> tuple[float, float]:
    """Corner of the part of the image with most vacancies that both detectors show."""
    tables = [bc.sites(r) for r in results.values()]
    places = [np.stack([t.x_px, t.y_px], -1)[np.isin(t.defect, ["V_X", "V_X2"])] for t in tables]
    size = [
        n - w for n, w in zip(results["ADF1"]["observed_data"].intensity.shape, WINDOW, strict=True)
    ]
    corners = np.stack(np.meshgrid(np.arange(0, size[1], 4), np.arange(0, size[0], 4)), -1)

    def number(found: np.ndarray) -> np.ndarray:
        inside = (found > corners[..., None, :] + 3) & (
            found < corners[..., None, :] + WINDOW[::-1] - 3
        )
        return inside.all(-1).sum(-1)

    both = np.min([number(found) for found in places], 0)
    return tuple(corners.reshape(-1, 2)[both.argmax()].tolist())


def draw(results: dict[str, xr.DataTree], path: Path) -> None:
    """Figure of both detectors: a part of the image, its sites, an angle, and the numbers."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, 4, figsize=(15, 8.4), width_ratios=(1.1, 1.5, 0.6, 0.6), layout="constrained"
    )
    left, top = window_of(results)
    view = {"xlim": (left, left + WINDOW[1]), "ylim": (top + WINDOW[0], top)}
    for row, (detector, result) in zip(axes, results.items(), strict=True):
        bc.plot_defects(result, ax=row[0], defects=())
        angles = f"{SOFT[detector][INNER].low:g} to {SOFT[detector][INNER].high:g} mrad"
        row[0].set(**view, title=detector, anchor="E")
        bc.plot_defects(result, ax=row[1], defects=bc.DEFECTS, size=SYMBOL)
        row[1].set(**view, title="most probable class of every site")
        bc.plot_context(result, variables=[INNER], axes=row[2:3])
        row[2].set_title(f"known: {angles}", fontsize="medium")
        draw_numbers(row[3], result)
    figure.savefig(path, dpi=80)


def draw_numbers(ax: Axes, result: xr.DataTree) -> None:
    """Numbers of the defects of the whole image with 90 % intervals of the draws."""
    table = bc.counts(result)
    is_defect = ~np.isin(table.outcome, ["M", "X2", "hollow"]) & (table.number_90_high >= 5)
    shown = table.isel(outcome=np.flatnonzero(is_defect & (table.outcome == table.defect_class)))
    at = np.arange(shown.sizes["outcome"])[::-1]
    reach = np.abs([shown.number_90_low - shown.number, shown.number_90_high - shown.number])
    ax.errorbar(shown.number, at, xerr=reach, fmt="o", color="#0072B2", capsize=3, markersize=5)
    ax.set_yticks(at, [str(n) for n in shown.outcome.values])
    ax.set(xlim=(0, None), xlabel="sites in the image, 90 %", ylim=(-0.6, at.max() + 0.6))
    ax.spines[["right", "top"]].set_visible(False)


def evaluate(path: Path, model: bc.DefectModel, num_draws: int) -> tuple[list, list, list]:
    """Rows of the scores, of the assignments, and the confusions of one file."""
    truth = xr.load_dataset(path)
    truth["defect"] = "site", truth.label_name.values[truth.label.values]
    scores, assignments, confusions, pictures = [], [], [], {}
    for detector in SOFT:
        image = truth.image.sel(detector=detector, drop=True)
        for angles, extra in (
            ("both", SOFT[detector]),
            ("inner", {INNER: SOFT[detector][INNER]}),
            ("none", {}),
        ):
            if angles == "inner" and extra == SOFT[detector]:
                continue
            result, seconds = read(image, KNOWN | extra, model, num_draws)
            assignment = result["class_posterior"].assignment
            metal = assignment.sel(assignment_class=list(METAL_FIRST)).values.sum()
            order = " / ".join(f"{p:.3f}" for p in sorted(assignment.values, reverse=True)[:3])
            assignments.append(
                [
                    path.stem,
                    detector,
                    angles,
                    f"{metal:.3f}",
                    order,
                    f"{float(result['sample_stats'].ess):.1f}",
                    f"{seconds:.1f}",
                ]
            )
            if angles == "both":
                pictures[detector] = result
                found = score(result, truth)
                cells = [
                    f"{v:.2f}" if isinstance(v, float) else v
                    for k, v in found.items()
                    if k != "confusion"
                ]
                scores.append([path.stem, detector, *cells])
                confusions += [[path.stem, detector, *row] for row in found["confusion"]]
            print(assignments[-1], scores[-1], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw(pictures, FOLDER / f"{path.stem}.png")
    return scores, assignments, confusions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        help="labelled micrographs (netCDF) with detectors ADF1 and ADF2",
    )
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--num-draws", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model = bc.load_model(arguments.model)
    parts = [evaluate(path, model, arguments.num_draws) for path in arguments.files]
    scores, assignments, confusions = (sum((p[k] for p in parts), []) for k in range(3))
    body = (
        INTRODUCTION
        + table(SCORES, scores)
        + "\n\nLabels (rows) and most probable classes (columns):\n\n"
        + table(["file", "detector", "label", *LABELS, "other"], confusions)
        + "\n\nAssignments of the lattice. The detector determines which sublattice is the metal; "
        "with latent angles one detector alone is not sufficient.\n\n"
        + table(ASSIGNMENTS, assignments)
    )
    write("real", "Real micrographs", body, 0)


if __name__ == "__main__":
    main()

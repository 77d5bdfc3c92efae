"""What the labels of the real micrographs can tell, from the results that ``real.py`` keeps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from real import BOTH, LABELS, MATCHED, RUNS, SOFT, WAYS, labelled, result_of
from report import FOLDER, table, with_error, write
from scipy.ndimage import gaussian_filter, map_coordinates

import bayesctx as bc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 1.5  # px, standard deviation of the weights over which a column is averaged
NUM_PREDICTED = 4  # images
LEAST = 5  # columns of a group
COLOURS = {
    "X2": "#999999", "V_X": "#0072B2", "O_X": "#D55E00", "Y_X": "#009E73",
}  # fmt: skip
MARKERS = {"X2": "o", "V_X": "x"}
FIGURE = "labels.png"
INTRODUCTION = """\
The labels of the micrographs of [real](real.md) know four classes: columns of two chalcogens, of
one (or none), of the metal, and of the dopant. The posterior has thirteen, among them an oxygen
(O_X) or another chalcogen (Y_X) in the place of one of the two, which a label can only call X2 or
V_X. Scores in bits per site with standard errors over the sites, of all classes, and of the
posterior given that the class is one of those that are labelled.

"""
BRIGHTNESS = """

Is what is read as O_X what the label says? The brightness of these columns, in the image itself: a
Gaussian mean of {width} px around the column, 0 for columns that are labelled V_X and so read, 1
for X2. Means with standard errors of groups of at least {least} columns, as read by both detectors
together, and those of the same columns in images that the posterior predicts (`predict_images`,
{num} images). Y_X is sulphur, which is darker, or tellurium, which is brighter, and is predicted as
either.

"""
ENDING = """

![Brightness of chalcogen columns]({figure})

Both detectors of a column, by label (marker) and reading (colour)."""


def score(result: xr.DataTree, truth: xr.Dataset) -> list[str]:
    """Share right, log score and entropy, of all classes and of those that are labelled."""
    found = bc.compare(truth, result, tolerance=MATCHED, labels=LABELS)
    defect = result["class_posterior"].defect.isel(patch=found.in_result.values)
    parts = [defect.sel(defect_class=c).sum("defect_class") for c in LABELS.values()]
    grouped = xr.concat(parts, "defect_class").assign_coords(defect_class=list(LABELS))
    among = grouped.clip(min=1e-9) / grouped.clip(min=1e-9).sum("defect_class")
    true = xr.DataArray(found.true.values, dims="patch")
    right = among.idxmax("defect_class").values == true.values
    return [
        f"{100 * found.accuracy.item():.1f}",
        with_error(np.log2(found.probability.values), 3),
        f"{found.entropy.item():.3f}",
        f"{100 * right.mean():.2f}",
        with_error(np.log2(among.sel(defect_class=true).values), 3),
        f"{float(-(among * np.log2(among)).sum('defect_class').mean()):.3f}",
    ]


def brightness(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weighted mean of the pixels around each position."""
    return map_coordinates(gaussian_filter(image.astype(float), WIDTH), [y, x], order=1)


def columns_of(truth: xr.Dataset, result: xr.DataTree) -> xr.Dataset:
    """Label, reading and brightness of every labelled column, in the image and in predicted ones.

    Brightness is 0 at V_X and 1 at X2 (means of columns that are labelled and read so).
    """
    found = bc.compare(truth, result, tolerance=MATCHED, labels=LABELS)
    defect = result["class_posterior"].defect.isel(patch=found.in_result.values)
    label, read = found.true.values, defect.idxmax("defect_class").values
    place = truth.isel(site=found.in_truth.values)
    x, y = place.site_x.values, place.site_y.values
    predicted = bc.predict_images(result, num_draws=NUM_PREDICTED).mean(("chain", "draw"))
    ends = [(label == name) & (read == name) for name in ("V_X", "X2")]

    def scaled(image: np.ndarray) -> np.ndarray:
        values = brightness(image, x, y)
        low, high = (values[end].mean() for end in ends)
        return (values - low) / (high - low)

    kinds = {"observed": truth.image, "predicted": predicted}
    values = {
        name: (("detector", "column"), np.stack([scaled(image) for image in images.values]))
        for name, images in kinds.items()
    }
    names = {"label": ("column", label), "read": ("column", read)}
    return xr.Dataset(values | names, {"detector": list(SOFT)})


def groups(columns: xr.Dataset) -> Iterator[tuple[str, str, xr.Dataset]]:
    """Chalcogen columns of one label and one reading, where there are enough."""
    for label in MARKERS:
        for read in COLOURS:
            mine = (columns.label == label) & (columns.read == read)
            if mine.sum() >= LEAST:
                yield label, read, columns.isel(column=np.flatnonzero(mine))


def draw(columns: Mapping[str, xr.Dataset], path: Path) -> None:
    """Brightness in one detector against that in the other one."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(columns), figsize=(5.5 * len(columns), 5), layout="constrained", squeeze=False
    )
    for ax, (name, each) in zip(axes[0], columns.items(), strict=True):
        _scatter(ax, each)
        ax.set(title=name, xlabel=list(SOFT)[0], ylabel=list(SOFT)[1])
        ax.set(xlim=(-0.75, 1.75), ylim=(-0.4, 1.6))
    axes[0, 0].legend(fontsize="small", title="label, read as")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _scatter(ax: Axes, columns: xr.Dataset) -> None:
    """Points of the groups of one micrograph."""
    for label, read, mine in groups(columns):
        ax.scatter(
            *mine.observed.values, s=6 if label == read == "X2" else 22, linewidths=1,
            marker=MARKERS[label], color=COLOURS[read], label=f"{label}, {read}",
            alpha=0.15 if label == read == "X2" else 0.9,
        )  # fmt: skip
    ax.spines[["right", "top"]].set_visible(False)


def table_of(columns: Mapping[str, xr.Dataset]) -> str:
    """Mean brightness of the groups."""
    rows = []
    for name, each in columns.items():
        for label, read, mine in groups(each):
            cells = [name, label, read, str(mine.sizes["column"])]
            for detector in SOFT:
                own = mine.sel(detector=detector)
                cells += [with_error(own.observed.values, 2), f"{float(own.predicted.mean()):.2f}"]
            rows.append(cells)
    heads = [part for d in SOFT for part in (d, f"{d}, predicted")]
    return table(["file", "label", "read as", "columns", *heads], rows)


def body_of(files: Sequence[Path], runs: Path) -> str:
    """Both tables and the figure, of the results that are kept."""
    scores, columns = [], {}
    for path in files:
        truth = labelled(path)
        for detector in WAYS["simulator"]:
            kept = result_of(runs, path.stem, detector, "simulator")
            if kept.exists():
                result = bc.load(kept)
                scores.append([path.stem, detector, *score(result, truth)])
                if detector == BOTH:
                    columns[path.stem] = columns_of(truth, result)
    heads = ["right (%)", "log score", "entropy"]
    heads = [*heads, *(f"labelled classes: {head}" for head in heads)]
    body = INTRODUCTION + table(["file", "detector", *heads], scores)
    if columns:
        FOLDER.mkdir(parents=True, exist_ok=True)
        draw(columns, FOLDER / FIGURE)
        body += BRIGHTNESS.format(width=WIDTH, least=LEAST, num=NUM_PREDICTED)
        body += table_of(columns) + ENDING.format(figure=FIGURE)
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="those that real.py has read")
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args()
    body = body_of(arguments.files, arguments.runs)
    write("labels", "Labels of the real micrographs", body, 0)


if __name__ == "__main__":
    main()

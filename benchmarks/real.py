"""Accuracy on labelled real micrographs, without any training on real data.

Every reading is a unit of its own, which adds a row to runs/real.jsonl when it is finished; what
the file holds already is not done again. A whole micrograph by all pixels takes ten to thirty
minutes.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from report import FOLDER, commit, table, write
from rows import append_row, read_rows

import bayesctx as bc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNS = Path(__file__).parents[1] / "runs"
HOST = "WSe2"
INNER = "inner_collection_angle"
# two rings at once: the inner one ends where the outer one begins
SOFT = {
    "ADF1": {INNER: dist.Uniform(60.0, 110.0)},
    "ADF2": {INNER: dist.Uniform(25.0, 55.0), "outer_collection_angle": dist.Uniform(55.0, 110.0)},
}
BOTH = "both"
WAYS = {"simulator": (BOTH, "ADF1", "ADF2"), "network": ("ADF1", "ADF2")}
# the labels do not distinguish single and double chalcogen vacancies
LABELS = {"X2": ["X2"], "V_X": ["V_X", "V_X2"], "M": ["M"], "D_M": ["D_M"]}
MATCHED = 1.0  # Å between a label and its site
WINDOW = np.array([56, 66])  # px, what the figure shows
SYMBOL = 4.0  # px
CERTAIN = 0.95  # probability of another class than the label, from which a site is shown
THUMBNAIL, MOST_SHOWN = 13, 48  # px, and thumbnails in the figure
SHARED = {"dose": "e/Å²", "defocus": "Å", "C12": "Å", "C21": "Å", "C23": "Å"}  # by both detectors
SCORES = {
    "file": "", "detector": "", "way": "", "commit": "", "matched": "", "right": ".1f",
    "M against X2": ".2f", "vacancies found": ".0f", "of those named": ".0f", "log score": "",
    "entropy": ".3f", "calibration error": ".1f", "assignment": ".3f", "r_hat": ".2f", "s": ".0f",
}  # fmt: skip

INTRODUCTION = """\
WSe2:Ti at 80 kV, two detectors at once (Random defect model data, MIT, (c) 2024 jiadongdan). Known:
host and beam energy, and as soft evidence that ADF1 starts between 60 and 110 mrad, and that ADF2
starts between 25 and 55 and ends where ADF1 starts. The dopant, the convergence, the outer angle of
ADF1, focus and dose are unknown. Each is read by all pixels (`simulator`), each detector alone and
both together, and by the network. There was no training on real data; the power of the counts of
the abundances in the reading by the network, the priors of the abundances and the aberrations, and
how far film and brightness vary over a scan, were chosen with knowledge of these files
(docs/model.md). Single and double chalcogen vacancies are one class, as in
the labels, which were made semi-automatically: their vacancies are uncertain to 10-50 %. Shares and
calibration errors in %, log score and entropy in bits per site. "vacancies found": share of the
labelled ones; "of those named": share of those found that are labelled. Assignment: probability
that the metal is where the labels have it. r_hat: the largest of all variables.

Most of the loss is at columns that are read as O_X or Y_X, which the labels do not have
([labels](labels.md)).

"""


def group(result: xr.DataTree, sites: np.ndarray) -> xr.DataArray:
    """Posterior of the classes that the labels distinguish, and of any other class."""
    defect = result["class_posterior"].defect.isel(patch=sites)
    columns = [defect.sel(defect_class=classes).sum("defect_class") for classes in LABELS.values()]
    grouped = xr.concat([*columns, 1 - sum(columns)], "defect_class").clip(min=0)
    return grouped.assign_coords(defect_class=[*LABELS, "other"]).transpose("patch", "defect_class")


def score(result: xr.DataTree, truth: xr.Dataset) -> dict[str, object]:
    """Shares in %, log score in bits, calibration error in %, and the confusion."""
    found = bc.compare(truth, result, tolerance=MATCHED, labels=LABELS)
    grouped, label = group(result, found.in_result.values), found.true.values
    host = np.isin(label, ["M", "X2"])
    polarity = grouped.sel(defect_class="M").values > grouped.sel(defect_class="X2").values
    calibration = bc.reliability(grouped, xr.DataArray(label, dims="patch"))
    confusion = found.confusion.sel(truth=list(LABELS)).values
    return {
        "matched": f"{found.num_matched.item()} of {truth.sizes['site']}",
        "right": 100 * found.accuracy.item(),
        "M against X2": 100 * np.mean(polarity[host] == (label[host] == "M")),
        "vacancies found": 100 * found.recall.sel(label="V_X").item(),
        "of those named": 100 * found.precision.sel(label="V_X").item(),
        "log score": f"{found.log_score.item():.3f} ± {found.log_score_error.item():.3f}",
        "entropy": found.entropy.item(),
        "calibration error": 100 * float(calibration.expected_calibration_error),
        "confusion": [[name, *row] for name, row in zip(LABELS, confusion.tolist(), strict=True)],
    }


def read(truth: xr.Dataset, detector: str, way: str) -> tuple[xr.DataTree, dict[str, object]]:
    """Result of one reading, and what it says of itself."""
    image = truth.image if detector == BOTH else truth.image.sel(detector=detector, drop=True)
    angles = {"detector": SOFT} if detector == BOTH else SOFT[detector]
    energy = {"beam_energy": truth.beam_energy_eV} if "beam_energy_eV" in truth.attrs else {}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = bc.infer(image, {"host": HOST} | energy | angles, likelihood=way)
    seconds = time.perf_counter() - start
    statistics = result["sample_stats"].to_dataset()
    return result, {
        "assignment": assigned(result, truth),
        "r_hat": float(statistics.r_hat.max()) if "r_hat" in statistics else np.nan,
        "s": seconds,
        "warnings": sorted({str(w.message) for w in caught}),
    }


def assigned(result: xr.DataTree, truth: xr.Dataset) -> float:
    """Probability that the sites that are labelled as metal are metal sites."""
    found = bc.compare(truth, result, tolerance=MATCHED, labels=LABELS)
    metal = found.in_result.values[np.isin(found.true.values, ["M", "D_M"])]
    defect = result["class_posterior"].defect.isel(patch=metal)
    on_metal = [d for d in bc.defects.SITES["metal"] if d in defect.defect_class.values]
    return float(defect.sel(defect_class=on_metal).sum("defect_class").median())


def run(files: Sequence[Path], runs: Path) -> list[dict[str, object]]:
    """Read every file in every way; results and rows that exist are kept."""
    rows = runs / "real.jsonl"
    done = read_rows(rows)
    finished = {(r["file"], r["detector"], r["way"]) for r in done}
    (runs / "real").mkdir(parents=True, exist_ok=True)
    units = [(f, d, w) for w, ds in reversed(WAYS.items()) for d in ds for f in files]
    for path, detector, way in units:
        if (path.stem, detector, way) in finished:
            continue
        truth = labelled(path)
        recorded = truth.detector.values.tolist()
        if detector not in (recorded if len(recorded) == 1 else [*recorded, BOTH]):
            continue
        result, told = read(truth, detector, way)
        bc.save(result, result_of(runs, path.stem, detector, way))
        row = {"file": path.stem, "detector": detector, "way": way, "commit": commit()}
        done.append(row | score(result, truth) | told)
        append_row(rows, done[-1])
        print(done[-1], flush=True)
    return done


def labelled(path: Path) -> xr.Dataset:
    """A file with the names of its labels."""
    truth = xr.load_dataset(path)
    truth["defect"] = "site", truth.label_name.values[truth.label.values]
    if "image" not in truth:  # one detector, changed by those who recorded it
        truth["image"] = truth.image_adf2_tophat.expand_dims(detector=["ADF2"])
    truth["image"] = truth.image.astype("float32")
    return truth


def result_of(runs: Path, stem: str, detector: str, way: str) -> Path:
    """Where the result of a reading is kept."""
    return runs / "real" / f"{stem}-{detector}-{way}.nc"


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


def doubted(result: xr.DataTree, truth: xr.Dataset) -> list[tuple[float, str, str, np.ndarray]]:
    """Sites at which a result contradicts the label with certainty, the most certain first."""
    found = bc.compare(truth, result, tolerance=MATCHED, labels=LABELS)
    grouped = group(result, found.in_result.values)
    place = np.stack([truth.site_y, truth.site_x], -1)[found.in_truth.values]
    best = grouped.values.argmax(-1)
    names = (
        result["class_posterior"].defect.isel(patch=found.in_result.values).idxmax("defect_class")
    )
    sure, label = grouped.values.max(-1), found.true.values
    wrong = (grouped.defect_class.values[best] != label) & (sure > CERTAIN)
    order = np.flatnonzero(wrong)[np.argsort(-sure[wrong])]
    return [(float(sure[i]), str(label[i]), str(names.values[i]), place[i]) for i in order]


def draw_doubted(truth: xr.Dataset, found: Sequence[tuple], path: Path) -> None:
    """Thumbnails of both detectors around sites, with label and most probable class."""
    import matplotlib.pyplot as plt

    shown = found[:MOST_SHOWN]
    columns = 8
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=(10, 2.7 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    half = THUMBNAIL // 2
    for k, (_, label, named, (y, x)) in enumerate(shown):
        y, x = round(float(y)), round(float(x))
        for d, detector in enumerate(SOFT):
            image = truth.image.sel(detector=detector).values
            low, high = np.quantile(image, [0.01, 0.995])
            ax = axes[2 * (k // columns) + d, k % columns]
            part = np.pad(image, half, mode="edge")[y : y + THUMBNAIL, x : x + THUMBNAIL]
            ax.imshow(part, cmap="gray", vmin=low, vmax=high)
            if d == 0:
                ax.set_title(f"{label}: {named}", fontsize="small")
    figure.savefig(path, dpi=70)
    plt.close(figure)


def pictures(files: Sequence[Path], runs: Path) -> str:
    """Figures of the files whose results are there, and what is to be said of them."""
    text = ""
    for path in files:
        kept = {d: result_of(runs, path.stem, d, "simulator") for d in WAYS["simulator"]}
        if all(kept[d].exists() for d in SOFT):
            draw({d: bc.load(kept[d]) for d in SOFT}, FOLDER / f"{path.stem}.png")
        if not kept[BOTH].exists():
            continue
        truth = labelled(path)
        found = doubted(bc.load(kept[BOTH]), truth)
        name = f"{path.stem}_doubted.png"
        draw_doubted(truth, found, FOLDER / name)
        kinds = [f"{label} read as {named}" for _, label, named, _ in found]
        counted = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
        text += (
            f"\n\n{path.stem}, both detectors: {len(found)} labels are contradicted with more than "
            f"{100 * CERTAIN:.0f} % ({counted}). The {min(len(found), MOST_SHOWN)} most certain, "
            f"above ADF1, below ADF2, with label and reading:\n\n![Labels in doubt]({name})"
        )
    return text


def agreement(results: Mapping[str, xr.DataTree]) -> list[list[str]]:
    """What single detectors say of the beam that they share, and whether they agree.

    They do if zero is within the central 90 % of the differences of any two of their draws.
    """
    found = []
    for name, unit in SHARED.items():
        first, second = (r["posterior"][name].values.ravel() for r in results.values())
        told = [
            f"{np.median(v):.3g} ({np.quantile(v, 0.05):.3g} to {np.quantile(v, 0.95):.3g})"
            for v in (first, second)
        ]
        low, high = np.quantile(first[:, None] - second, [0.05, 0.95])
        found.append([name, unit, *told, "yes" if low <= 0 <= high else "no"])
    return found


def comparison(files: Sequence[Path], runs: Path) -> str:
    """Table of what detectors of one scan say of it when they are read apart."""
    rows = []
    for path in files:
        kept = {d: result_of(runs, path.stem, d, "simulator") for d in SOFT}
        if all(k.exists() for k in kept.values()):
            found = agreement({d: bc.load(k) for d, k in kept.items()})
            rows += [[path.stem, *row] for row in found]
    if not rows:
        return ""
    return (
        "\n\nWhat both detectors share, read from each alone: medians with central intervals of "
        "90 %. They agree if zero is in that of their difference:\n\n"
        + table(["file", "variable", "unit", *SOFT, "agree"], rows)
    )


def body_of(done: Sequence[Mapping[str, object]]) -> str:
    """Tables of the scores and of the confusions."""
    keys = {k: i for i, k in enumerate(itertools.chain(*WAYS.values()))}
    done = sorted(done, key=lambda r: (r["file"], r["way"] != "simulator", keys[r["detector"]]))
    scores = [[_cell(r.get(n, ""), f) for n, f in SCORES.items()] for r in done]
    confusions = [[r["file"], r["detector"], r["way"], *c] for r in done for c in r["confusion"]]
    warned = [
        f"- {r['file']}, {r['detector']}: {w}"
        for r in done
        for w in r["warnings"]
        if r["way"] == "simulator"
    ]
    return (
        INTRODUCTION
        + table(list(SCORES), scores)
        + "\n\nLabels (rows) and most probable classes (columns):\n\n"
        + table(["file", "detector", "way", "label", *LABELS, "other"], confusions)
        + "\n\nWarnings of the readings by all pixels:\n\n"
        + "\n".join(warned)
    )


def _cell(value: object, form: str) -> str:
    """A value in its format; nothing where there is none, as of chains by the network."""
    return "" if value != value else f"{value:{form}}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        help="labelled micrographs (netCDF) with detectors ADF1 and ADF2",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="write the page, read nothing")
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = [] if arguments.table else arguments.files
    done = run(files, arguments.runs)
    known = arguments.files, arguments.runs
    body = body_of(done) + comparison(*known) + pictures(*known)
    write("real", "Real micrographs", body, 0)


if __name__ == "__main__":
    main()

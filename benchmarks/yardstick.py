"""The fast reading of whole micrographs against the exact model.

Every reading is a row of its own in a file of JSON lines; what the file holds already is not done
again, so that a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import table, with_error, write
from rows import append_row, read_rows
from tqdm import tqdm

import bayesctx as bc

KNOWN = {
    "host": ("host",),
    "everything": (
        "host", "dopant", "beam_energy", "convergence_semiangle", "inner_collection_angle",
        "outer_collection_angle", "defocus", "dose",
    ),
}  # fmt: skip
DOSES = (1e4, 1e5)
GIVEN = {
    "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
}  # fmt: skip
READINGS = ("simulator", "exact")
QUANTILE = 0.9
WANTED = 0.02  # total variation at this quantile
DIGITS = 6  # of probabilities in the file
INTRODUCTION = """\
Simulated micrographs of {pixels} x {pixels} pixels of 0.2 Å, WSe2:Ti at 80 keV and 60 to 200 mrad,
all else drawn from `reference_prior()`; the pixel size (to 2 %) and the host, or the whole context,
are known. Each is read by `infer(..., likelihood="simulator")`, which samples with approximations,
and by `likelihood="exact"`, whose chains leave the posterior invariant
([the model](../model.md#the-exact-model-of-a-scan)).

Total variation: half of the sum over the classes of the absolute difference of their probabilities,
of every site with crystal. Expected: the same between the exact model and itself, from its Monte
Carlo standard errors (the mean of an absolute normal variable), averaged over the sites.
Differences of the continuous variables: mean of the fast reading minus that of the exact one, over
the standard deviation of the latter, and ratio of the standard deviations. Scores in nats per site.
Wanted: {wanted} at the {quantile:.0%} quantile over images.

"""


def read(data: xr.Dataset, known: Sequence[str], likelihood: str, num_draws: int) -> dict:
    """What one reading of an image says, and how well it has converged."""
    context = {n: data[n].item() for n in known} | {"sampling": float(data.sampling)}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = bc.infer(
            data.intensity.values, context, num_draws=num_draws, likelihood=likelihood
        )
    seconds = time.perf_counter() - start
    found, statistics = bc.compare(data, result), result["sample_stats"]
    probabilities, posterior = result["class_posterior"], result["posterior"]
    crystal = result["constant_data"].crystal.values == 1
    row = {
        "seconds": seconds,
        "log score": found.log_score.item() * np.log(2),
        "entropy": found.entropy.item() * np.log(2),
        "right": found.accuracy.item(),
        "assignment": probabilities.assignment.values.round(DIGITS).tolist(),
        "dopant": dict(zip(
            probabilities.dopant_class.values.tolist(),
            probabilities.dopant.values.round(DIGITS).tolist(), strict=True,
        )),
        "defect": probabilities.defect.values[crystal].round(DIGITS).tolist(),
        "draws": posterior.sizes["chain"] * posterior.sizes["draw"],
        "mean": {}, "sd": {},
        "r_hat": dict(zip(statistics["variable"].values.tolist(),
                          statistics.r_hat.values.round(4).tolist(), strict=True)),
    }  # fmt: skip
    for name in row["r_hat"]:
        values = posterior[name].values
        row["mean"][name], row["sd"][name] = float(values.mean()), float(values.std())
    if "defect_error" in probabilities:
        error = probabilities.defect_error.values[crystal]
        row["error"] = np.nan_to_num(error, nan=1.0).round(DIGITS).tolist()
    return row


def measure(arguments: argparse.Namespace) -> list[dict]:
    """Read every image in every way."""
    done = read_rows(arguments.file)
    names = "index", "dose", "known", "reading"
    indices = range(arguments.start, arguments.start + arguments.num_images)
    tasks = itertools.product(indices, arguments.known, arguments.doses, READINGS)
    finished = {tuple(row[n] for n in names) for row in done}
    for task in tqdm([t for t in tasks if t not in finished]):
        index, known, dose, reading = task[0], *task[1:]
        prior = bc.reference_prior().given(GIVEN | {"dose": dose})
        data = bc.simulate_micrograph(
            prior, seed=arguments.seed, index=index, num_pixels=arguments.num_pixels, sampling=0.2
        )
        row = dict(zip(names, (index, dose, known, reading), strict=True))
        row |= {"num_pixels": arguments.num_pixels}
        try:
            row |= read(data, KNOWN[known], reading, arguments.num_draws)
        except ValueError as error:  # no lattice is found
            row |= {"lost": str(error)[:100]}
        done.append(row)
        append_row(arguments.file, row)
    return done


def pairs_of(done: Sequence[Mapping]) -> list[tuple[dict, dict]]:
    """Both readings of every image that has both."""
    kept = {}
    for row in done:
        if "lost" not in row:
            kept[row["known"], row["dose"], row["index"], row["reading"]] = row
    keys = sorted({key[:3] for key in kept})
    found = [tuple(kept.get((*key, reading)) for reading in READINGS) for key in keys]
    return [pair for pair in found if None not in pair]


def total_variation(fast: Mapping, exact: Mapping) -> tuple[np.ndarray, float]:
    """Of every site, and the mean that the Monte Carlo error of the exact reading makes."""
    first, second = np.array(fast["defect"]), np.array(exact["defect"])
    expected = np.sqrt(2 / np.pi) * 0.5 * np.array(exact["error"]).sum(-1)
    return 0.5 * np.abs(first - second).sum(-1), float(expected.mean())


def rows_of(pairs: Sequence[tuple[dict, dict]]) -> list[list[str]]:
    """Rows of the table of images."""
    rows = []
    for fast, exact in pairs:
        apart, expected = total_variation(fast, exact)
        rows.append([
            fast["known"], f"{fast['dose']:.0e}", str(fast["index"]), str(len(apart)),
            f"{apart.mean():.4f}", f"{np.quantile(apart, QUANTILE):.4f}", f"{apart.max():.3f}",
            f"{expected:.4f}",
            *(f"{row['log score']:.4f} ({row['entropy']:.4f})" for row in (fast, exact)),
            *(f"{max(row['assignment']):.4f}" for row in (fast, exact)),
            *(f"{np.nanmax(list(row['r_hat'].values())):.2f}" for row in (fast, exact)),
            *(f"{row['seconds']:.0f}" for row in (fast, exact)),
        ])  # fmt: skip
    return rows


def variables_of(pairs: Sequence[tuple[dict, dict]]) -> list[list[str]]:
    """Rows of the table of continuous variables, over all images that have them."""
    rows = []
    for name in dict.fromkeys(n for _, exact in pairs for n in exact["mean"]):
        mine = [(f, e) for f, e in pairs if name in f["mean"] and e["sd"].get(name, 0) > 0]
        if not mine:
            continue
        shift = np.array([(f["mean"][name] - e["mean"][name]) / e["sd"][name] for f, e in mine])
        ratio = np.array([f["sd"][name] / e["sd"][name] for f, e in mine])
        r_hat = np.median([e["r_hat"][name] for _, e in mine])
        rows.append([
            name, str(len(mine)), f"{np.sqrt((shift**2).mean()):.2f}", f"{shift.mean():.2f}",
            f"{np.exp(np.log(np.maximum(ratio, 1e-3)).mean()):.2f}", f"{r_hat:.2f}",
        ])  # fmt: skip
    return rows


def summary_of(pairs: Sequence[tuple[dict, dict]]) -> str:
    """The number that is wanted, for each context and dose."""
    lines = []
    for known, dose in itertools.product(KNOWN, DOSES):
        mine = [p for p in pairs if p[0]["known"] == known and p[0]["dose"] == dose]
        if not mine:
            continue
        means = np.array([total_variation(*pair)[0].mean() for pair in mine])
        lines.append([
            known, f"{dose:.0e}", str(len(mine)), with_error(means),
            f"{np.quantile(means, QUANTILE):.4f}",
            *(with_error(np.array([p[k]["log score"] for p in mine])) for k in (0, 1)),
        ])  # fmt: skip
    header = [
        "known", "dose", "images", "mean total variation", f"{QUANTILE:.0%} quantile over images",
        "log score, fast", "log score, exact",
    ]  # fmt: skip
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=20, help="of each cell (default: 20)")
    parser.add_argument("--start", type=int, default=0, help="first image (default: 0)")
    parser.add_argument("--num-pixels", type=int, default=112, help="a side (default: 112)")
    parser.add_argument("--num-draws", type=int, default=1000, help="of infer (default: 1000)")
    parser.add_argument("--known", nargs="+", choices=KNOWN, default=list(KNOWN))
    parser.add_argument("--doses", nargs="+", type=float, choices=DOSES, default=list(DOSES))
    parser.add_argument("--seed", type=int, default=9000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="what the page says of this run")
    parser.add_argument("--only-page", action="store_true", help="write what the file holds")
    parser.add_argument(
        "--file", type=Path, default=Path("runs/yardstick.jsonl"), help="is gone on"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    done = read_rows(arguments.file) if arguments.only_page else measure(arguments)
    pairs = pairs_of(done)
    of_images = [
        "known", "dose", "image", "sites", "total variation, mean", f"{QUANTILE:.0%} of the sites",
        "largest", "expected", "log score (entropy), fast", "exact", "assignment, fast", "exact ",
        "largest r_hat, fast", "exact  ", "seconds, fast", "exact   ",
    ]  # fmt: skip
    of_variables = [
        "variable", "images", "rms difference of means", "mean difference", "ratio of sd",
        "median r_hat, exact",
    ]  # fmt: skip
    pixels = sorted({fast["num_pixels"] for fast, _ in pairs})
    body = INTRODUCTION.format(
        pixels=" or ".join(map(str, pixels)), wanted=WANTED, quantile=QUANTILE
    )
    body += f"{arguments.note}\n\n" if arguments.note else ""
    body += summary_of(pairs) + "\n\n## Images\n\n" + table(of_images, rows_of(pairs))
    body += "\n\n## Continuous variables\n\n" + table(of_variables, variables_of(pairs))
    write("yardstick", "The fast reading against the exact model", body, arguments.seed)


if __name__ == "__main__":
    main()

"""Whole micrographs by all pixels, by the network and by an oracle: scores, coverage, time."""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import table, with_error, write
from rows import append_row, read_rows
from tqdm import tqdm

import bayesctx as bc
from bayesctx.scan.coordinates import PAIRS, SHARED

CASES = {
    "WSe2:Ti, 80 keV, 60-200 mrad": {
        "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3,
        "inner_collection_angle": 60.0, "outer_collection_angle": 200.0,
    },
    "MoS2:W, 60 keV, 30-60 mrad": {
        "host": "MoS2", "dopant": "W", "beam_energy": 60e3,
        "inner_collection_angle": 30.0, "outer_collection_angle": 60.0,
    },
    "reference_prior()": {},
}  # fmt: skip
DOSES = (1e4, 1e5, 1e6)
KNOWN = {
    "host": ("host",),
    "everything": (
        "host", "dopant", "beam_energy", "convergence_semiangle", "inner_collection_angle",
        "outer_collection_angle", "defocus", "dose",
    ),
}  # fmt: skip
CONTINUOUS = (
    "beam_energy", "convergence_semiangle", "inner_collection_angle", "outer_collection_angle",
    "defocus", "dose", "source_size", "focal_spread", "vibration", "tilt", "C12", "sampling",
    "gain",
)  # fmt: skip
LEVELS = (0.5, 0.9)
ALL = "all"
READINGS = {
    "network, host known": ("host", "network"),
    "simulator, host known": ("host", "simulator"),
    "network, everything known": ("everything", "network"),
    "simulator, everything known": ("everything", "simulator"),
    "oracle": ("everything", "oracle"),
}
INTRODUCTION = """\
Simulated micrographs of {pixels} x {pixels} pixels of 0.2 Å, drawn from `reference_prior()` given
the case and the dose; the pixel size is stated (with an error of 2 %), and the host, or the
whole context, is known. Each is read by the network and by all pixels
(`infer(..., likelihood=...)`). The oracle is the reading by all pixels with the true probe, tilt,
source, vibration and strain given as well: what the sites themselves leave open. Scores in nats per
site, means with standard errors over the images; the log score of a calibrated posterior equals
minus its entropy. Below the oracle: mean over the images of the log score of the oracle minus that
of the reading. Assignment: which sublattice is the metal. Medians of the largest r_hat of all
variables and of the seconds, which are wall time, threads: {threads}.

"""


def read(data: xr.Dataset, known: tuple[str, ...], likelihood: str) -> dict[str, object]:
    """Scores of one image, and ranks of the true continuous variables among their draws."""
    context = {n: data[n].item() for n in known} | {"sampling": float(data.sampling)}
    model = bc.load_model()
    if likelihood == "oracle":
        model.prior = _told(model.prior, data)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        way = "network" if likelihood == "network" else "simulator"
        result = bc.infer(data.intensity.values, context, model, likelihood=way)
    seconds = time.perf_counter() - start
    found = bc.compare(data, result)
    posterior = result["posterior"].to_dataset()
    ranks = {
        name: float((posterior[name] < float(data[name])).mean())
        for name in CONTINUOUS
        if name in posterior and name in data
    }
    return {
        "log score": found.log_score.item() * np.log(2),
        "entropy": found.entropy.item() * np.log(2),
        "right": found.accuracy.item(),
        "assignment": is_assigned(result, found),
        "seconds": seconds,
        "r_hat": float(result["sample_stats"].r_hat.max()),
        "ranks": ranks,
    }


def is_assigned(result: xr.DataTree, found: xr.Dataset) -> bool:
    """Whether the sublattices hold the right kinds of site, by a comparison with the truth."""
    kinds, truth = bc.sites(result).site.values[found.in_result], found.true.values
    right = [t in bc.defects.SITES[k] for t, k in zip(truth, kinds, strict=True)]
    return bool(np.mean(right) > 0.5)


def _told(prior: bc.Prior, data: xr.Dataset) -> bc.Prior:
    """The prior of one who knows the shared nuisances of an image."""
    known = [*SHARED, *(azimuth for azimuth, _ in PAIRS.values())]
    return replace(prior, nuisances=dict(prior.nuisances) | {n: data[n].item() for n in known})


def measure(
    file: Path,
    num_images: int,
    num_pixels: int,
    seed: int,
    readings: list[str],
    cells: list[tuple[str, float]],
) -> list[dict[str, object]]:
    """Read every image in every way; what the file holds already is not done again."""
    done = read_rows(file)
    tasks = [(i, *cell, r) for i in range(num_images) for cell in cells for r in readings]
    names = "index", "case", "dose", "reading"
    finished = {tuple(row[n] for n in names) for row in done}
    for task in tqdm([t for t in tasks if t not in finished]):
        index, case, dose, reading = task
        prior = bc.reference_prior().given(CASES[case] | {"dose": dose})
        data = bc.simulate_micrograph(
            prior, seed=seed, index=index, num_pixels=num_pixels, sampling=0.2
        )
        row = dict(zip(names, task, strict=True))
        known, likelihood = READINGS[reading]
        try:
            row |= read(data, KNOWN[known], likelihood)
        except ValueError as error:  # no lattice is found
            row |= {"lost": str(error)[:100]}
        done.append(row)
        append_row(file, row)
    return done


def rows_of(done: list[dict[str, object]]) -> list[list[str]]:
    """Rows of the table of scores: each cell of case, dose and reading, and each reading."""
    kept = [r for r in done if "lost" not in r]
    images = "case", "dose", "index"
    oracle = {tuple(r[n] for n in images): r for r in kept if r["reading"] == "oracle"}
    rows = []
    cells = [*itertools.product(CASES, DOSES), (ALL, ALL)]
    for (case, dose), reading in itertools.product(cells, READINGS):
        mine = [
            r for r in kept
            if r["reading"] == reading and case in (r["case"], ALL) and dose in (r["dose"], ALL)
        ]  # fmt: skip
        if not mine:
            continue
        score, entropy = (np.array([r[n] for r in mine]) for n in ("log score", "entropy"))
        best = [oracle.get(tuple(r[n] for n in images)) for r in mine]
        below = [o["log score"] - r["log score"] for o, r in zip(best, mine, strict=True) if o]
        rows.append([
            case, dose if dose == ALL else f"{dose:.0e}", reading, str(len(mine)),
            with_error(score),
            f"{entropy.mean():.4f}",
            with_error(np.array(below)) if below else "",
            f"{100 * np.mean([r['right'] for r in mine]):.1f}",
            f"{sum(r['assignment'] for r in mine)} of {len(mine)}",
            f"{np.median([r['r_hat'] for r in mine]):.2f}",
            f"{np.median([r['seconds'] for r in mine]):.0f}",
        ])  # fmt: skip
    return rows


def coverage_of(done: list[dict[str, object]]) -> list[list[str]]:
    """Rows of the table of coverage."""
    rows = []
    for name in CONTINUOUS:
        cells = [name]
        for reading in READINGS:
            if reading == "oracle":
                continue
            ranks = np.array([
                r["ranks"][name]
                for r in done
                if r["reading"] == reading and name in r.get("ranks", {})
            ])  # fmt: skip
            for level in LEVELS:
                num = (np.abs(ranks - 0.5) <= level / 2).sum()
                cells.append(f"{num} of {len(ranks)}" if len(ranks) else "")
            cells.append(with_error(ranks, 2) if len(ranks) else "")
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=7, help="of each cell (default: 7)")
    parser.add_argument("--num-pixels", type=int, default=256, help="a side (default: 256)")
    parser.add_argument("--readings", nargs="+", choices=READINGS, default=list(READINGS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--doses", nargs="+", type=float, choices=DOSES, default=list(DOSES))
    parser.add_argument("--seed", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--file", type=Path, default=Path("runs/micrographs.jsonl"), help="is gone on"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    done = measure(
        arguments.file,
        arguments.num_images,
        arguments.num_pixels,
        arguments.seed,
        arguments.readings,
        list(itertools.product(arguments.cases, arguments.doses)),
    )
    header = [
        "case", "dose", "reading", "images", "log score", "entropy", "below the oracle",
        "right (%)", "assignment right", "largest r_hat", "s",
    ]  # fmt: skip
    body = INTRODUCTION.format(pixels=arguments.num_pixels, threads=arguments.threads)
    body += table(header, rows_of(done))
    body += (
        "\n\nImages whose central intervals of 50 and 90 % hold the true value, over all cells in "
        "which the variable is inferred, and mean rank of the true value among the draws (0.5 if "
        "calibrated):\n\n"
    )
    columns = [f"{100 * q:.0f} %" for q in LEVELS] + ["mean rank"]
    titles = [f"{r}, {column}" for r in READINGS if r != "oracle" for column in columns]
    body += table(["variable", *titles], coverage_of(done))
    write("micrographs", "Whole micrographs", body, arguments.seed)


if __name__ == "__main__":
    main()

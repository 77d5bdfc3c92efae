"""Micrographs read by all of their pixels, beside the network: scores, coverage, time."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import table, write
from tqdm import tqdm

import bayesctx as bc

CASES = {
    "WSe2:Ti, 80 keV, 60-200 mrad": {
        "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3,
        "inner_collection_angle": 60.0, "outer_collection_angle": 200.0,
    },
    "MoS2:W, 60 keV, 30-60 mrad": {
        "host": "MoS2", "dopant": "W", "beam_energy": 60e3,
        "inner_collection_angle": 30.0, "outer_collection_angle": 60.0,
    },
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
INTRODUCTION = """\
Simulated micrographs of {pixels} x {pixels} pixels of 0.2 Å, drawn from `reference_prior()` given
the case and the dose; the pixel size is stated (with an error of 2 %), and the host, or the
whole context, is known. Each is read by the network and by all pixels
(`infer(..., likelihood=...)`). Scores in nats per site, means with standard errors over the images;
the log score of a calibrated posterior equals minus its entropy. Assignment: which sublattice is
the metal. Seconds are wall time, threads: {threads}.

"""


def read(data: xr.Dataset, known: tuple[str, ...], likelihood: str) -> dict[str, object]:
    """Scores of one image, and which intervals of the continuous variables hold the truth."""
    context = {n: data[n].item() for n in known} | {"sampling": float(data.sampling)}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = bc.infer(data.intensity.values, context, likelihood=likelihood)
    seconds = time.perf_counter() - start
    found = bc.compare(data, result)
    kinds, truth = bc.sites(result).site.values[found.in_result], found.true.values
    read_right = np.mean([t in bc.defects.SITES[k] for t, k in zip(truth, kinds, strict=True)])
    posterior = result["posterior"].to_dataset()
    coverage = {
        name: [bool(_holds(posterior[name].values, float(data[name]), level)) for level in LEVELS]
        for name in CONTINUOUS
        if name in posterior and name in data
    }
    return {
        "log score": found.log_score.item() * np.log(2),
        "entropy": found.entropy.item() * np.log(2),
        "right": found.accuracy.item(),
        "assignment": bool(read_right > 0.5),
        "seconds": seconds,
        "coverage": coverage,
    }


def _holds(draws: np.ndarray, truth: float, level: float) -> bool:
    """Whether the central interval of some draws holds a value."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return low <= truth <= high


def measure(
    file: Path, num_images: int, num_pixels: int, seed: int, subsets: list[str]
) -> list[dict[str, object]]:
    """Read every image by both ways; what the file holds already is not done again."""
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    tasks = [
        (case, dose, index, known, likelihood)
        for index in range(num_images)
        for case in CASES
        for dose in DOSES
        for known in subsets
        for likelihood in ("network", "simulator")
    ]
    names = "case", "dose", "index", "known", "likelihood"
    finished = {tuple(row[n] for n in names) for row in done}
    for task in tqdm([t for t in tasks if t not in finished]):
        case, dose, index, known, likelihood = task
        prior = bc.reference_prior().given(CASES[case] | {"dose": dose})
        data = bc.simulate_micrograph(
            prior, seed=seed, index=index, num_pixels=num_pixels, sampling=0.2
        )
        row = dict(zip(names, task, strict=True))
        try:
            row |= read(data, KNOWN[known], likelihood)
        except ValueError as error:  # no lattice is found
            row |= {"lost": str(error)[:100]}
        done.append(row)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
    return done


def rows_of(done: list[dict[str, object]]) -> list[list[str]]:
    """Rows of the table of scores."""
    keys = dict.fromkeys(
        (r["case"], r["dose"], r["known"], r["likelihood"]) for r in done if "lost" not in r
    )
    rows = []
    for key in keys:
        mine = [
            r
            for r in done
            if (r["case"], r["dose"], r["known"], r["likelihood"]) == key and "lost" not in r
        ]
        score, entropy = (np.array([r[n] for r in mine]) for n in ("log score", "entropy"))
        rows.append([
            key[0], f"{key[1]:.0e}", key[2], key[3], str(len(mine)),
            _with_error(score),
            f"{np.median(score):.4f}",
            f"{entropy.mean():.4f}",
            f"{100 * np.mean([r['right'] for r in mine]):.1f}",
            f"{sum(r['assignment'] for r in mine)} of {len(mine)}",
            f"{np.median([r['seconds'] for r in mine]):.0f}",
        ])  # fmt: skip
    return rows


def _with_error(values: np.ndarray) -> str:
    """Mean, with its standard error where there are several values."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{values.mean():.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}"


def coverage_of(done: list[dict[str, object]]) -> list[list[str]]:
    """Rows of the table of coverage."""
    rows = []
    for name in CONTINUOUS:
        cells = [name]
        for likelihood in ("network", "simulator"):
            held = [
                r["coverage"][name]
                for r in done
                if r["likelihood"] == likelihood and name in r.get("coverage", {})
            ]
            counts = np.sum(held, 0) if held else ["", ""]
            cells += [f"{c} of {len(held)}" if held else "" for c in counts]
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=2, help="of each cell (default: 2)")
    parser.add_argument("--num-pixels", type=int, default=160, help="a side (default: 160)")
    parser.add_argument("--known", nargs="+", choices=KNOWN, default=list(KNOWN))
    parser.add_argument("--seed", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--file", type=Path, default=Path("runs/pixels.jsonl"), help="is gone on")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    done = measure(
        arguments.file, arguments.num_images, arguments.num_pixels, arguments.seed, arguments.known
    )
    header = [
        "case", "dose", "known", "read by", "images", "log score", "median", "entropy",
        "right (%)", "assignment right", "s",
    ]  # fmt: skip
    body = INTRODUCTION.format(pixels=arguments.num_pixels, threads=arguments.threads)
    body += table(header, rows_of(done))
    body += (
        "\n\nImages whose central intervals of 50 and 90 % hold the true value, over all cells in "
        "which the variable is inferred:\n\n"
    )
    body += table(
        ["variable", "network, 50 %", "network, 90 %", "simulator, 50 %", "simulator, 90 %"],
        coverage_of(done),
    )
    write("pixels", "Micrographs by all pixels", body, arguments.seed)


if __name__ == "__main__":
    main()

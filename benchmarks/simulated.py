"""Accuracy, entropy and log score on patches of the 576 cases, by known context."""

from __future__ import annotations

import argparse
import time

import numpy as np
import xarray as xr
from report import table, write

import bayesctx as bc
from bayesctx.information import entropy
from bayesctx.metrics import log_score, reliability

CONTEXT = tuple(name for name in bc.CONTEXT if name != "sampling")
ANGLES = ("inner_collection_angle", "outer_collection_angle")
SUBSETS = {
    "nothing": (),
    **{name: (name,) for name in CONTEXT},
    "detector": ANGLES,
    "host, dopant": ("host", "dopant"),
    "host, dopant, beam energy, detector": ("host", "dopant", "beam_energy", *ANGLES),
    "everything": CONTEXT,
}


def evaluate(
    data: xr.Dataset, known: tuple[str, ...], model: bc.DefectModel
) -> tuple[xr.Dataset, float]:
    """Score every patch."""
    start = time.perf_counter()
    result = bc.infer(data.intensity, data[list(known)], model, num_draws=128)
    seconds = time.perf_counter() - start
    scored = {
        "probabilities": result["class_posterior"].defect[:, 0],
        "entropy": entropy(result).entropy[:, 0],
    }
    return xr.Dataset(scored), seconds


def row(name: str, data: xr.Dataset, scored: xr.Dataset, seconds: float) -> list[str]:
    score = log_score(scored.probabilities, data.defect) / np.log(2)
    calibration = reliability(scored.probabilities, data.defect)

    def mean(values: xr.DataArray) -> str:
        return f"{float(values.mean()):.3f} ± {float(values.std()) / values.size**0.5:.3f}"

    right = scored.probabilities.argmax("defect_class") == np.array(
        [list(bc.DEFECTS).index(d) for d in data.defect.values]
    )
    return [
        name,
        str(data.sizes["image"]),
        f"{100 * float(right.mean()):.1f}",
        mean(scored.entropy),
        mean(score),
        f"{100 * float(calibration.expected_calibration_error):.1f}",
        f"{data.sizes['image'] / seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--model", help="default: the reference model")
    arguments = parser.parse_args()
    model = bc.load_model(arguments.model).with_prior(bc.tmd_prior())
    data = bc.simulate(bc.tmd_prior(), arguments.num_patches, seed=arguments.seed, progress=True)
    rows, high = [], []
    for name, known in SUBSETS.items():
        scored, seconds = evaluate(data, known, model)
        rows.append(row(name, data, scored, seconds))
        bright = np.flatnonzero(data.dose.values > 10**5.5)
        high.append(row(name, data.isel(image=bright), scored.isel(image=bright), seconds))
        print(rows[-1], high[-1], flush=True)
    header = [
        "known",
        "patches",
        "right (%)",
        "entropy (bits)",
        "log score (bits)",
        "calibration error (%)",
        "patches/s",
    ]
    body = (
        f"{arguments.num_patches} patches of `simulate(tmd_prior(), ..., seed={arguments.seed})`, "
        "thirteen equally probable classes, dose 10³ to 10⁶ e/Å², all nuisances. 128 to 8192 "
        "draws of the latent context. A calibrated posterior has a log score equal to minus its "
        "entropy.\n\n"
        + table(header, rows)
        + "\n\nThe same for doses above 10^5.5 e/Å²:\n\n"
        + table(header[:-1], [r[:-1] for r in high])
    )
    write("simulated", "Accuracy and information by known context", body, arguments.seed)


if __name__ == "__main__":
    main()

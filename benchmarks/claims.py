"""Evidence of simulated micrographs against wrong context: ``sample_stats.conflict``."""

from __future__ import annotations

import argparse
import math
import warnings

import numpy as np
import pyro.distributions as dist
from report import table, write
from tqdm import tqdm

import bayesctx as bc

KNOWN_SIZE = dist.Normal(0.25, 0.00125)  # Å, of a pixel
TRUTH = {
    "beam_energy": 80e3,
    "convergence_semiangle": 25.0,
    "inner_collection_angle": 70.0,
    "outer_collection_angle": 200.0,
}
MATERIALS = (("MoS2", "W"), ("WSe2", "Ti"), ("MoTe2", "Nb"), ("NbSe2", "Re"))
WRONG = {
    "beam energy 200 for 80 keV": ("beam_energy", {"beam_energy": 200e3}),
    "beam energy 60 for 80 keV": ("beam_energy", {"beam_energy": 60e3}),
    "detector 30-60 for 70-200 mrad": (
        "detector",
        {"inner_collection_angle": 30.0, "outer_collection_angle": 60.0},
    ),
    "detector 45-150 for 70-200 mrad": (
        "detector",
        {"inner_collection_angle": 45.0, "outer_collection_angle": 150.0},
    ),
    "host with Mo and W exchanged": (
        "host",
        {"host": {"MoS2": "WS2", "WSe2": "MoSe2", "MoTe2": "WTe2", "NbSe2": "TaSe2"}},
    ),
    "host with another chalcogen": (
        "host",
        {"host": {"MoS2": "MoTe2", "WSe2": "WS2", "MoTe2": "MoS2", "NbSe2": "NbS2"}},
    ),
}

INTRODUCTION = """\
{num} simulated micrographs of {pixels} x {pixels} pixels of 0.25 Å ({materials}; 80 keV, 25 mrad,
70-200 mrad, dose 10⁴ to 10⁶ e/Å², focus and all nuisances of `reference_prior()`); all of the
context but focus and dose is given, the size of a pixel to 0.5 %. Log Bayes factor in nats of
leaving a variable open against the given value. `infer` warns above {limit:.1f}, which one in a
hundred simulated images with the true context exceeds; inf: `infer` refused a host whose lattice
does not fit the sampling.

"""


def conflicts(image: object, claims: dict, model: bc.DefectModel) -> dict[str, float]:
    """Evidence against every claim."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = bc.infer(
            image, claims | {"sampling": KNOWN_SIZE}, model, num_draws=64, likelihood="network"
        )["sample_stats"].conflict
    return dict(zip(found.claim.values.tolist(), found.values.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=40)
    parser.add_argument("--num-pixels", type=int, default=160)
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--seed", type=int, default=2000)
    arguments = parser.parse_args()
    model = bc.load_model(arguments.model)
    limit = float(model.card["conflict_limit"])
    found: dict[str, list[float]] = {}
    for i in tqdm(range(arguments.num_images)):
        host, dopant = MATERIALS[i % len(MATERIALS)]
        claims = TRUTH | {"host": host, "dopant": dopant}
        prior = model.prior.given(claims | {"dose": bc.log_uniform(1e4, 1e6)})
        image = bc.simulate_micrograph(
            prior, seed=arguments.seed, index=i, num_pixels=arguments.num_pixels, sampling=0.25
        ).intensity
        for claim, value in conflicts(image, claims, model).items():
            found.setdefault(f"true {claim}", []).append(value)
        for name, (claim, wrong) in WRONG.items():
            told = {n: v[host] if isinstance(v, dict) else v for n, v in wrong.items()}
            # with another lattice constant the recorded pixel size would contradict the image
            try:
                found.setdefault(name, []).append(conflicts(image, claims | told, model)[claim])
            except ValueError:
                found[name].append(math.inf)
    rows = []
    for name, values in found.items():
        warned = np.mean(np.array(values) > limit)
        rows.append(
            [
                name,
                str(len(values)),
                *(f"{q:.1f}" for q in np.quantile(values, [0.1, 0.5, 0.9], method="lower")),
                f"{100 * warned:.0f}",
            ]
        )
    materials = ", ".join(f"{d} in {h}" for h, d in MATERIALS)
    body = INTRODUCTION.format(
        num=arguments.num_images, limit=limit, pixels=arguments.num_pixels, materials=materials
    )
    body += table(["claim", "images", "10 %", "median", "90 %", "warned of (%)"], rows)
    write("claims", "Evidence against wrong context", body, arguments.seed)


if __name__ == "__main__":
    main()

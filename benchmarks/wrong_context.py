"""Evidence of all pixels against wrong context: ``sample_stats.conflict`` by the simulator."""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from claims import KNOWN_SIZE, MATERIALS, TRUTH, WRONG
from report import table, write
from rows import append_row, read_rows
from tqdm import tqdm

import bayesctx as bc
from bayesctx.inference.claims import SCREENED
from bayesctx.inference.detectors import check_rings
from bayesctx.inference.inputs import read_inputs
from bayesctx.inference.whole_image import Micrograph
from bayesctx.scan import Weight

TRUE = "true context"
INTRODUCTION = """\
{num} simulated micrographs of {pixels} x {pixels} pixels of 0.25 Å ({materials}; 80 keV, 25 mrad,
70-200 mrad, dose 10⁴ to 10⁶ e/Å², focus and all nuisances of `reference_prior()`); all of the
context but focus and dose is given, the size of a pixel to 0.5 %. Nats that the log density at the
best fit of the pixels in the middle of the image gains if all that is given is left open. Above
{limit:.0f}, `infer` weighs the claims one by one and warns of one whose log Bayes factor exceeds as
much; inf: `infer` refused the context: a host whose lattice does not fit the pixel size, or whose
metal is the dopant.

"""


def contexts(host: str, dopant: str) -> dict[str, dict[str, object]]:
    """What is claimed, by name."""
    claims = TRUTH | {"host": host, "dopant": dopant}
    found = {TRUE: claims}
    for name, (_, wrong) in WRONG.items():
        told = {n: v[host] if isinstance(v, dict) else v for n, v in wrong.items()}
        found[name] = claims | told
    return found


def weigh(
    image: object, claims: dict[str, object], model: bc.DefectModel, *near: dict[str, float]
) -> Weight:
    """Weight of a context by the pixels; a log density of minus infinity if it is refused."""
    extent = model.prior.num_pixels * model.prior.sampling
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)
        try:
            rings = check_rings(claims | {"sampling": KNOWN_SIZE}, (), model.domains)
            inputs = read_inputs(image, None, extent, model.prior.num_pixels, KNOWN_SIZE)
            return Micrograph.of(inputs, rings, model, 256, 0).weigh(rings, *near)
        except ValueError:
            return Weight(-math.inf, 0.0)


def gain(image: object, claims: dict[str, object], model: bc.DefectModel) -> float:
    """Nats that the best fit gains where all claims are left open; infinite if they are refused."""
    given = weigh(image, claims, model)
    if given.log_density == -math.inf:
        return math.inf
    return weigh(image, {}, model, given.values).log_density - given.log_density


def measure(file: Path, num_images: int, num_pixels: int, seed: int) -> list[dict[str, object]]:
    """Weigh every context of every image; what the file holds already is not done again."""
    done = read_rows(file)
    model = bc.load_model().frozen()
    for i in tqdm(range(len(done), num_images)):
        host, dopant = MATERIALS[i % len(MATERIALS)]
        given = contexts(host, dopant)
        prior = model.prior.given(given[TRUE] | {"dose": bc.log_uniform(1e4, 1e6)})
        image = bc.simulate_micrograph(
            prior, seed=seed, index=i, num_pixels=num_pixels, sampling=0.25
        ).intensity
        done.append({name: gain(image, claims, model) for name, claims in given.items()})
        append_row(file, done[-1])
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--num-pixels", type=int, default=104)
    parser.add_argument("--seed", type=int, default=2100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/wrong_context.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    done = measure(arguments.file, arguments.num_images, arguments.num_pixels, arguments.seed)
    rows = []
    for name in done[0]:
        values = np.array([row[name] for row in done])
        rows.append([
            name,
            str(len(values)),
            *(f"{q:.1f}" for q in np.quantile(values, [0.0, 0.5, 1.0], method="lower")),
            f"{100 * np.mean(values > SCREENED):.0f}",
        ])  # fmt: skip
    materials = ", ".join(f"{d} in {h}" for h, d in MATERIALS[: len(done)])
    body = INTRODUCTION.format(
        num=len(done), pixels=arguments.num_pixels, materials=materials, limit=SCREENED
    )
    body += table(["claims", "images", "least", "median", "most", "weighed (%)"], rows)
    write("wrong_context", "Wrong context, by all pixels", body, arguments.seed)


if __name__ == "__main__":
    main()

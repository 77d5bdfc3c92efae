"""Effect of the interference between columns on their intensities, which a sum of images omits."""

from __future__ import annotations

import argparse
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from multislice import draw_case
from report import table, write
from tqdm import tqdm

import bayesctx as bc
from bayesctx.context import ANGLES
from bayesctx.optics import wavelength

EDGES = (0.0, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2, 3.0, 6.5)  # 1/Å
INTRODUCTION = """\
{} random defects under conditions of the reference prior, without tilt: the logarithm of the ratio
of peak intensities with and without interference, in %, by the spatial frequency (1/Å) of the
innermost wave on the detector. What all columns have in common is a gain; the nuisance `additivity`
of the simulator represents the change of the ratios.

"""


def draw_optics(rng: np.random.Generator) -> tuple[bc.Probe, bc.Detector]:
    """Probe and detector of the reference prior, without aberrations but defocus."""
    image = bc.simulate(bc.reference_prior(), 1, seed=int(rng.integers(2**31)), noise=False)
    names = ("beam_energy", *ANGLES, "defocus", "source_size", "focal_spread")
    values = {n: float(image[n][0]) for n in names}
    return bc.Probe.of(values), bc.Detector.of(values)


def evaluate(case: int, seed: int) -> tuple[float, list[float]]:
    """Innermost frequency; logarithms at the defect, the furthest metal and chalcogen column."""
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, case))
    columns, _, _, place, _ = draw_case(rng)
    probe, detector = draw_optics(rng)
    defect, cell = columns[-1], np.array(place["cell"])

    def distance(column: tuple) -> float:
        step = np.array(column[:2]) - defect[:2]
        return float(np.linalg.norm(step - np.round(step / cell) * cell))

    hosts = [
        max((c for c in columns[:-1] if len(c[2]) == number), key=distance) for number in (1, 2)
    ]
    change = []
    for x, y, _ in (defect, *hosts):
        at = {"x": np.array([x]), "y": np.array([y]), "cell": place["cell"]}
        with_, without = (
            float(bc.column_image(columns, probe, detector, **at, interference=i).item())
            for i in (True, False)
        )
        change.append(float(np.log(with_ / without)))
    return detector.inner_collection_angle * 1e-3 / wavelength(probe.beam_energy), change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-cases", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with get_context("spawn").Pool(arguments.jobs) as pool:
        cases = pool.imap(partial(evaluate, seed=arguments.seed), range(arguments.num_cases))
        frequency, change = (
            np.array(v)
            for v in zip(*tqdm(cases, total=arguments.num_cases, unit="case"), strict=True)
        )
    rows = []
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        chosen = 100 * change[(frequency >= low) & (frequency < high)]
        if len(chosen):
            values = chosen[:, 1], chosen[:, 0] - chosen[:, 1], chosen[:, 2] - chosen[:, 1]
            rows.append(
                [
                    f"{low:g}-{high:g}",
                    len(chosen),
                    *(f"{np.sqrt((v**2).mean()):.2f}" for v in values),
                ]
            )
    header = [
        "innermost wave",
        "cases",
        "metal, rms",
        "defect to metal, rms",
        "chalcogens to metal, rms",
    ]
    write(
        "additivity",
        "Interference between columns",
        INTRODUCTION.format(arguments.num_cases) + table(header, rows),
        arguments.seed,
    )


if __name__ == "__main__":
    main()

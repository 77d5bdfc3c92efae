"""Whether intervals of the numbers of defects hold the truth, by the network."""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from report import table, write
from tqdm import tqdm

import bayesctx as bc

COUNTED = ("D_M", "V_X", "O_X", "M_X")
KNOWN = (
    "host", "dopant", "beam_energy", "convergence_semiangle", "inner_collection_angle",
    "outer_collection_angle", "defocus", "dose",
)  # fmt: skip
LEVEL = 0.9
INTRODUCTION = """\
{num} simulated micrographs of 144 x 144 pixels of 0.25 Å, drawn from `reference_prior()`, read by
the network with the whole context known ({lost} more have no lattice that could be fitted). Images
whose central {percent:.0f} % interval of the number of sites of a class, by the joint draws, holds
the number of those sites; by a randomised rank as well, since intervals of whole numbers hold more
than they say. Log score in nats per site, mean with standard error over the images.

"""


def holds(drawn: np.ndarray, true: int, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether the interval of some drawn numbers holds the true one, and its randomised rank."""
    low, high = np.quantile(drawn, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    rank = np.mean(drawn < true) + rng.random() * np.mean(drawn == true)
    return bool(low <= true <= high), bool(abs(rank - 0.5) <= LEVEL / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=60, help="images (default: 60)")
    parser.add_argument("--seed", type=int, default=7000)
    arguments = parser.parse_args()
    rng, found, scores, lost = np.random.default_rng(arguments.seed), [], [], 0
    for index in tqdm(range(arguments.num_images)):
        data = bc.simulate_micrograph(
            bc.reference_prior(), seed=arguments.seed, index=index, num_pixels=144, sampling=0.25
        )
        context = {n: data[n].item() for n in KNOWN} | {"sampling": 0.25}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                result = bc.infer(data.intensity.values, context, likelihood="network")
        except ValueError:  # no lattice is found
            lost += 1
            continue
        matched = bc.compare(data, result)
        drawn = result["posterior"].defect.values[0][:, matched.in_result]
        truth = matched.true.values
        scores.append(matched.log_score.item() * np.log(2))
        found.append([
            holds((drawn == bc.DEFECTS.index(name)).sum(-1), int((truth == name).sum()), rng)
            for name in COUNTED
        ])  # fmt: skip
    held = np.array(found).sum(0)
    body = INTRODUCTION.format(num=len(found), lost=lost, percent=100 * LEVEL)
    rows = [
        [name, f"{a} of {len(found)}", f"{b} of {len(found)}"]
        for name, (a, b) in zip(COUNTED, held, strict=True)
    ]
    body += table(["class", "interval holds the number", "by randomised rank"], rows)
    error = np.std(scores, ddof=1) / len(scores) ** 0.5
    body += f"\n\nLog score: {np.mean(scores):.3f} ± {error:.3f}."
    write("counts", "Numbers of defects", body, arguments.seed)


if __name__ == "__main__":
    main()

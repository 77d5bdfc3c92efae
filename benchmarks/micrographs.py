"""Calibration of the posterior of the sites of whole micrographs, by the known context."""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pyro.distributions as dist
import xarray as xr
from report import table, write
from tqdm import tqdm

import bayesctx as bc

KNOWN_SIZE = dist.Normal(0.2, 0.001)  # Å, of a pixel
RECORDED = (
    "host",
    "dopant",
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
)
SUBSETS = {
    "nothing": (),
    "host": ("host",),
    "host, dopant, energy, angles": RECORDED,
    "everything": (*RECORDED, "defocus", "dose"),
}

INTRODUCTION = """\
{num} simulated micrographs of {pixels} x {pixels} pixels of 0.2 Å, everything drawn from
`reference_prior()`, read by the network; the sampling is always known to 0.5 %. The lattice of
{lost} more could not be fitted ({doses} e/Å²). Bits per site, means over the images with standard
errors: the sites of an image share its context and are not independent. Assignment: which
sublattice is the metal; an image with a wrong assignment has a third of its sites right. The log
score of a calibrated posterior equals minus its entropy. Medians over the images are given as well,
since few of them contribute most of the loss.

"""


def scores(data: xr.Dataset, known: tuple[str, ...], model: bc.DefectModel) -> list[float]:
    """Accuracy, entropy and log score (bits) of the sites; whether the assignment is right."""
    context = {name: data[name].item() for name in known} | {"sampling": KNOWN_SIZE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = bc.infer(data.intensity, context, model, num_draws=256, likelihood="network")
    found = bc.compare(data, result)
    kinds, truth = bc.sites(result).site.values[found.in_result], found.true.values
    read = np.mean([t in bc.defects.SITES[k] for t, k in zip(truth, kinds, strict=True)]) > 0.5
    return [found.accuracy.item(), found.entropy.item(), found.log_score.item(), read]


def rows_of(name: str, values: np.ndarray) -> list[str]:
    """One row of the table from the scores of every image, shape (image, 4)."""
    error = values.std(0) / len(values) ** 0.5
    cells = [f"{values[:, i].mean():.3f} ± {error[i]:.3f}" for i in (1, 2)]
    medians = [f"{np.median(values[:, i]):.3f}" for i in (1, 2)]
    return [
        name,
        f"{100 * values[:, 0].mean():.1f}",
        f"{100 * values[:, 3].mean():.0f}",
        *cells,
        *medians,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-images", type=int, default=100, help="images to simulate (default: 100)"
    )
    parser.add_argument(
        "--num-pixels", type=int, default=256, help="pixels along each side (default: 256)"
    )
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--seed", type=int, default=5000)
    arguments = parser.parse_args()
    model, found, lost = bc.load_model(arguments.model), {name: [] for name in SUBSETS}, []
    for i in tqdm(range(arguments.num_images)):
        data = bc.simulate_micrograph(
            bc.reference_prior(),
            seed=arguments.seed,
            index=i,
            num_pixels=arguments.num_pixels,
            sampling=0.2,
        )
        try:
            of_image = {name: scores(data, known, model) for name, known in SUBSETS.items()}
        except ValueError:
            lost.append(float(data.dose))
            continue
        for name, values in of_image.items():
            found[name].append(values)
    doses = ", ".join(f"{d:.0e}" for d in sorted(lost))
    num = arguments.num_images - len(lost)
    body = INTRODUCTION.format(num=num, lost=len(lost), doses=doses, pixels=arguments.num_pixels)
    header = [
        "known",
        "right (%)",
        "assignment right (%)",
        "entropy",
        "log score",
        "median entropy",
        "median log score",
    ]
    body += table(header, [rows_of(name, np.array(v, float)) for name, v in found.items()])
    write("micrographs", "Whole micrographs", body, arguments.seed)


if __name__ == "__main__":
    main()

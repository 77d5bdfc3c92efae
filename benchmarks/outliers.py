"""Detection of patches outside the prior by ``sample_stats.surprise``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import table, write
from scipy.stats import mannwhitneyu
from tqdm import tqdm

import bayesctx as bc
from bayesctx.simulation import BLOCK, OUTLIERS, draw_block, draw_outliers
from bayesctx.training import fit_outliers

BANDS = ((1e3, 1e4), (1e4, 1e5), (1e5, 1e6))
SEED = 12_345  # of the patches that are scored: another than that of any fit

INTRODUCTION = """\
`sample_stats.surprise` of {num} patches of each kind, all nuisances and any context of
`reference_prior()`, 16 patches for each image, against {usual} patches of the prior itself. Area
under the receiver operating characteristic by the dose in e/Å², and the percentage of patches
beyond the limit, which 5 % of the patches of the prior exceed over all doses.

"""


def surprise_of(
    model: bc.DefectModel, kind: str | None, prior: bc.Prior, num_blocks: int
) -> np.ndarray:
    """Surprise of patches of a kind, or of the prior."""
    found = []
    for block in range(num_blocks):
        if kind is None:
            patches = draw_block(prior, SEED, block, patches_per_image=16).intensity
        else:
            patches = draw_outliers(prior, SEED, block, kind)
        found.append(model.encode(patches.flatten(0, 1))[1])
    return torch.cat(found).numpy()


def area(strange: np.ndarray, usual: np.ndarray) -> float:
    """Probability that a patch of a kind has a larger surprise than one of the prior."""
    return float(mannwhitneyu(strange, usual).statistic) / (len(strange) * len(usual))


def rows_of_kinds(model: bc.DefectModel, num_blocks: int) -> list[list[str]]:
    """Areas of every kind at every dose, and what is caught."""
    priors = [model.prior.given({"dose": bc.log_uniform(*band)}) for band in BANDS]
    usual = [surprise_of(model, None, prior, 2 * num_blocks) for prior in priors]
    limit = float(model.card["surprise_limit"])
    rows = [
        [
            "of the prior",
            "",
            *[""] * len(BANDS),
            *[f"{100 * (u > limit).mean():.1f}" for u in usual],
        ]
    ]
    for kind in tqdm(OUTLIERS):
        strange = [surprise_of(model, kind, prior, num_blocks) for prior in priors]
        areas = [area(np.concatenate(strange), np.concatenate(usual)), *map(area, strange, usual)]
        rows.append(
            [
                kind,
                *(f"{a:.3f}" for a in areas),
                *(f"{100 * (s > limit).mean():.1f}" for s in strange),
            ]
        )
    return rows


def rows_left_out(path: str | None, num_patches: int) -> list[list[str]]:
    """Every kind as seen by a model that learnt of the others alone."""
    rows = []
    for kind in OUTLIERS:
        model = bc.load_model(path)
        others = tuple(k for k in OUTLIERS if k != kind)
        found = fit_outliers(
            model, num_patches=num_patches, seed=1, kinds=others, progress=False
        ).sel(kind=kind)
        rows.append([kind, f"{float(found.area):.3f}", f"{100 * float(found.caught):.1f}"])
    return rows


def rows_of_files(files: list[Path], model: bc.DefectModel) -> list[list[str]]:
    """Share of the sites of real micrographs beyond the limit."""
    rows = []
    for file in files:
        data = xr.load_dataset(file)
        for detector in data.detector.values:
            image = data.image.sel(detector=detector, drop=True)
            found = bc.infer(
                image,
                {"host": "WSe2", "beam_energy": 80e3},
                model,
                num_draws=256,
                likelihood="network",
            )["sample_stats"].surprise
            share = float((found > found.attrs["limit"]).mean())
            rows.append(
                [
                    file.stem,
                    str(detector),
                    str(found.size),
                    f"{float(found.median()):.1f}",
                    f"{100 * share:.1f}",
                ]
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-patches",
        type=int,
        default=4096,
        help=f"of each kind and dose, in blocks of {BLOCK} (default: 4096)",
    )
    parser.add_argument(
        "--left-out",
        type=int,
        default=100_000,
        help="patches to fit without each kind; 0: not (default: 1e5)",
    )
    parser.add_argument(
        "--files",
        type=Path,
        nargs="*",
        default=[],
        help="labelled micrographs of WSe2 at 80 keV, netCDF",
    )
    parser.add_argument("--model", help="default: the reference model")
    arguments = parser.parse_args()
    model = bc.load_model(arguments.model)
    num_blocks = arguments.num_patches // BLOCK
    doses = [f"{low:.0e}-{high:.0e}" for low, high in BANDS]
    header = ["kind", "area", *(f"area, {d}" for d in doses), *(f"caught (%), {d}" for d in doses)]
    with torch.no_grad():
        rows = rows_of_kinds(model, num_blocks)
    body = INTRODUCTION.format(num=3 * BLOCK * num_blocks, usual=6 * BLOCK * num_blocks) + table(
        header, rows
    )
    if arguments.left_out:
        body += "\n\nEvery kind under a model that was trained on the other four kinds only"
        body += f" ({arguments.left_out} patches):\n\n"
        body += table(
            ["kind", "area", "caught (%)"], rows_left_out(arguments.model, arguments.left_out)
        )
    if arguments.files:
        body += "\n\nSites of real micrographs beyond the limit:\n\n"
        body += table(
            ["file", "detector", "sites", "median (nats)", "beyond (%)"],
            rows_of_files(arguments.files, model),
        )
    write("outliers", "Detection of outliers", body, SEED)


if __name__ == "__main__":
    main()

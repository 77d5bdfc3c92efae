"""Difference between exact and neural log score by training patches and size of the network."""

from __future__ import annotations

import argparse
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from bayes_limit import BLOCKS, SUBSETS, exact_blocks, neural_of, posterior
from report import MODELS, table, write

import bayesctx as bc

SIZES = {
    "a fourth": {"width": 160, "hidden": 80},
    "default": {},
    "double": {"width": 1280, "hidden": 640},
}
NUM_PATCHES = {100_000: tuple(SIZES), 300_000: tuple(SIZES), 1_000_000: ("a fourth", "default")}
KNOWN = ("everything", "host", "nothing")

INTRODUCTION = """\
Log score of the exact posterior minus that of a neural one, in nats with standard errors, on the
{num} patches of [bayes_limit](bayes_limit.md), by number of training patches of `limit_prior()` and
by size of the networks (units of the encoder and of the likelihood). The last row is `{model}`,
whose training began with the weights of earlier ones (docs/model.md).

"""


def fitted(run: tuple[str, int], folder: Path) -> Path:
    """Train a model, or find it in the folder."""
    torch.set_num_threads(1)
    size, num_patches = run
    file = folder / f"{size.replace(' ', '-')}-{num_patches}.safetensors"
    if not file.exists():
        model = bc.DefectModel(bc.limit_prior(), **SIZES[size])
        bc.train(
            model,
            num_patches=num_patches,
            num_workers=0,
            checkpoint=file.with_suffix(".pt"),
            progress=False,
        )
        bc.save_model(model, file)
        print(f"{size}, {num_patches} patches: {file}", flush=True)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-patches", type=int, default=2048, help="of the comparison (default: 2048)"
    )
    parser.add_argument(
        "--num-draws", type=int, default=128, help="of the exact model (default: 128)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/scaling"), help="where models are kept"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=MODELS / "limit.safetensors",
        help="of the default size after a longer training, to add",
    )
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    data = exact_blocks(arguments.num_patches, arguments.seed, arguments.num_draws, BLOCKS, jobs=2)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = [(size, num) for num, sizes in NUM_PATCHES.items() for size in sizes]
    with get_context("spawn").Pool(2) as pool:
        files = pool.map(partial(fitted, folder=arguments.folder), runs, chunksize=1)
    training = bc.load_model(arguments.model).card["training"]
    runs.append(
        ("default, trained before" if "start" in training else "default", training["num_patches"])
    )
    files.append(arguments.model)
    rows, truth = [], data["defect"][:, None]
    for (size, num), file in zip(runs, files, strict=True):
        model = bc.load_model(file)
        found = {
            "exact": data["log_evidence"],
            "neural": neural_of(model, arguments.num_patches, arguments.seed),
        }
        cells = []
        for known in KNOWN:
            score = [
                posterior(v, data, SUBSETS[known]).gather(1, truth).clamp(min=1e-12).log()
                for v in found.values()
            ]
            gap = score[0] - score[1]
            cells.append(f"{gap.mean():.3f} ± {gap.std() / len(gap) ** 0.5:.3f}")
        rows.append([f"{num:.0e}", size, f"{sum(p.numel() for p in model.parameters()):,}", *cells])
    body = INTRODUCTION.format(num=len(truth), model=arguments.model.name) + table(
        ["patches", "network", "parameters", *KNOWN], rows
    )
    write("scaling", "Training patches and size of the networks", body, arguments.seed)


if __name__ == "__main__":
    main()

"""Generalisation: two models, one trained without a host and a dopant, on the same patches."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import table, write

import bayesctx as bc

KNOWN = [name for name in bc.CONTEXT if name != "sampling"]

INTRODUCTION = """\
Two models after {num} patches of `reference_prior()`, one of which was trained without the host
{host} and the dopant {dopant}. The whole context of the patches is known, the class is inferred.
Log score in nats, and the loss of the second model, with standard errors. Elements enter the
likelihood by their scattering, so that elements outside the training data are described like all
others.

"""


def without(host: str, dopant: str) -> bc.Prior:
    """The reference prior without a host and a dopant."""
    prior = bc.reference_prior()
    dopants = {
        h: tuple(d for d in names if d != dopant) for h, names in prior.dopants.items() if h != host
    }
    return replace(prior, hosts=tuple(h for h in prior.hosts if h != host), dopants=dopants)


def fitted(name: str, *, host: str, dopant: str, num_patches: int, folder: Path) -> Path:
    """Train a model, or find it in the folder."""
    torch.set_num_threads(1)
    file = folder / f"{name}-{num_patches}.safetensors"
    if not file.exists():
        model = bc.DefectModel(bc.reference_prior() if name == "all" else without(host, dopant))
        bc.train(
            model,
            num_patches=num_patches,
            num_workers=0,
            checkpoint=file.with_suffix(".pt"),
            progress=name == "all",
        )
        bc.save_model(model, file)
    return file


def scores(file: Path, data: xr.Dataset) -> np.ndarray:
    """Log score of every patch."""
    model = bc.load_model(file).with_prior(bc.reference_prior())
    found = bc.infer(data.intensity, data[KNOWN], model, num_draws=1)["class_posterior"].defect[
        :, 0
    ]
    return bc.log_score(found, data.defect).values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-patches",
        type=lambda v: int(float(v)),
        default=1_000_000,
        help="of the training (default: 1e6)",
    )
    parser.add_argument(
        "--held-out", type=int, default=20_000, help="patches to score (default: 20000)"
    )
    parser.add_argument("--host", default="MoSe2")
    parser.add_argument("--dopant", default="Nb")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/left-out"), help="where models are kept"
    )
    parser.add_argument("--seed", type=int, default=3000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    options = {n: getattr(arguments, n) for n in ("host", "dopant", "num_patches", "folder")}
    with get_context("spawn").Pool(2) as pool:
        files = pool.map(partial(fitted, **options), ("all", "some"))
    data = bc.simulate(bc.reference_prior(), arguments.held_out, seed=arguments.seed, progress=True)
    every, some = (scores(f, data) for f in files)
    of_host, of_dopant = data.host.values == arguments.host, data.dopant.values == arguments.dopant
    doped = data.defect.values == "D_M"
    groups = {
        "of what both saw": ~of_host & ~of_dopant,
        f"{arguments.host}, any class": of_host & ~of_dopant,
        f"doped with {arguments.dopant}, the dopant": of_dopant & ~of_host & doped,
        f"doped with {arguments.dopant}, other classes": of_dopant & ~of_host & ~doped,
        f"{arguments.host} doped with {arguments.dopant}, the dopant": of_host & of_dopant & doped,
    }
    rows = []
    for name, chosen in groups.items():
        loss = (every - some)[chosen]
        means = (f"{v[chosen].mean():.4f}" for v in (every, some))
        rows.append(
            [
                name,
                str(chosen.sum()),
                *means,
                f"{loss.mean():.4f} ± {loss.std() / len(loss) ** 0.5:.4f}",
            ]
        )
    body = INTRODUCTION.format(
        num=arguments.num_patches, host=arguments.host, dopant=arguments.dopant
    )
    body += table(["patches", "number", "saw all", "saw neither", "loss"], rows)
    write("left_out", "A host and a dopant outside of the training", body, arguments.seed)


if __name__ == "__main__":
    main()

"""Neural against exact likelihood for imaging conditions between those of the 576 cases."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from report import MODELS, table, write

import bayesctx as bc

ANGLES = [
    (convergence, inner) for convergence in (22.0, 27.0, 35.0) for inner in (45.0, 70.0, 100.0)
]
CONDITIONS = (
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
    "defocus",
    "dose",
)
SUBSETS = {"everything": ("host", "dopant", *CONDITIONS), "the conditions": CONDITIONS}

INTRODUCTION = """\
{num} patches of `limit_prior()` under conditions that are none of the 576 cases: 120 keV,
convergence 22, 27 and 35 mrad, detectors from 45, 70 and 100 to 200 mrad; 1e4, 1e5 and 1e6 e/Å².
Exact: the likelihood of the simulator, {draws} draws. Neural: `{name}`, trained on any condition
between the cases (`--prior between`). Log scores in nats.

"""


def places() -> bc.Prior:
    """The prior of the conditions that are compared."""
    prior = bc.limit_prior()
    probe = {n: prior.conditions[0][n] for n in ("defocus", "dose")} | {
        "beam_energy": 120e3,
        "outer_collection_angle": 200.0,
    }
    angles = (
        dict(zip(("convergence_semiangle", "inner_collection_angle"), a, strict=True))
        for a in ANGLES
    )
    return replace(prior, conditions=tuple(probe | a for a in angles))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        default=MODELS / "between.safetensors",
        help="trained with --prior between",
    )
    parser.add_argument("--num-patches", type=int, default=900)
    parser.add_argument(
        "--num-open",
        type=int,
        default=90,
        help="of them with a latent material too, 10 s each (default: 90)",
    )
    parser.add_argument("--num-draws", type=int, default=256)
    parser.add_argument("--seed", type=int, default=4000)
    arguments = parser.parse_args()
    data = bc.simulate(places(), arguments.num_patches, seed=arguments.seed)
    models = (
        bc.ExactModel(places(), num_draws=arguments.num_draws, progress=True),
        bc.load_model(arguments.model).with_prior(places()),
    )
    inner, convergence = data.inner_collection_angle.values, data.convergence_semiangle.values
    groups = {"all": np.full(len(inner), True)}
    groups |= {f"convergence {c:g} mrad": convergence == c for c in np.unique(convergence)}
    groups |= {f"inner angle {i:g} mrad": inner == i for i in np.unique(inner)}
    rows = []
    for known, names in SUBSETS.items():
        part, scores = (
            data.isel(
                image=slice(arguments.num_patches if "host" in names else arguments.num_open)
            ),
            [],
        )
        for model in models:
            found = bc.infer(part.intensity, part[list(names)], model, num_draws=1)[
                "class_posterior"
            ].defect[:, 0]
            scores.append(bc.log_score(found, part.defect).values)
        for name, chosen in groups.items():
            chosen = chosen[: part.sizes["image"]]
            gap = scores[0][chosen] - scores[1][chosen]
            means = (f"{score[chosen].mean():.4f}" for score in scores)
            rows.append(
                [
                    known,
                    name,
                    str(len(gap)),
                    *means,
                    f"{gap.mean():.4f} ± {gap.std() / len(gap) ** 0.5:.4f}",
                ]
            )
    body = INTRODUCTION.format(
        num=arguments.num_patches, draws=arguments.num_draws, name=arguments.model.name
    )
    body += table(["known", "patches", "number", "exact", "neural", "exact - neural"], rows)
    write("between", "Conditions between the cases", body, arguments.seed)


if __name__ == "__main__":
    main()

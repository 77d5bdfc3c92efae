"""Neural against exact likelihood on the same patches, for several amounts of known context."""

from __future__ import annotations

import argparse
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from report import MODELS, table, write
from tqdm import tqdm

import bayesctx as bc
from bayesctx.defects import SPECIES
from bayesctx.exact import Crystal, evidence
from bayesctx.exact.exact_model import columns_of_outcomes, mean_of_alternatives
from bayesctx.model import Materials, add_alternatives, class_members, outcome_classes
from bayesctx.prior import CONTINUOUS
from bayesctx.simulation import BLOCK, draw_block

SUBSETS = {
    "nothing": (),
    "host": ("host",),
    "dopant": ("dopant",),
    "beam energy": ("beam_energy",),
    "detector": ("detector",),
    "host, dopant": ("host", "dopant"),
    "beam energy, detector": ("beam_energy", "detector"),
    "everything": ("host", "dopant", "beam_energy", "detector"),
}
AT_ONCE = 128  # patches that share their templates
BLOCKS = (
    Path(__file__).parent / "exact"
)  # evidence of finished blocks: a quarter of an hour of a core for each

INTRODUCTION = """\
{} patches of `limit_prior()`: a defect in a perfect crystal, 576 cases, 1e4, 1e5 and 1e6 e/Å², 28
mrad, in focus; dose and probe are always known. Rotation, offset, source size, background, gain and
dark level are unknown to both. Exact: the likelihood of the simulator, {} draws for every column
and mode (effective number {:.0f} in the median over the best columns, {:.0f} at the 1st
percentile). Neural: `{}`, trained on the same prior. Log scores in nats of the class in the centre,
with the entropies.

"""


def patches_of(seed: int, block: int, dose: float) -> tuple[torch.Tensor, ...]:
    """Patches of one block at one dose: intensity, class, host, dopant, condition."""
    prior = bc.limit_prior()
    drawn = draw_block(prior, seed, block)
    chosen = drawn.context["dose"] == dose
    keys = ("beam_energy", "inner_collection_angle", "outer_collection_angle")
    rows = torch.stack([drawn.context[k] for k in keys], -1)
    cases = torch.tensor([[c[k] for k in keys] for c in prior.conditions])
    condition = (rows[:, None] == cases).all(-1).long().argmax(-1)
    return tuple(
        v[chosen]
        for v in (drawn.intensity[:, 0], drawn.defect[:, 0], drawn.host, drawn.dopant, condition)
    )


def exact(block: int, *, seed: int, num_draws: int, folder: Path) -> Path:
    """Log evidence of all cases and classes for the patches of one block, cached in a file."""
    torch.set_num_threads(1)
    file = folder / f"block-{seed}-{block}-{num_draws}.npz"
    if file.exists():
        return file
    model, found = bc.ExactModel(num_draws=num_draws), {}
    prior, materials = model.prior, Materials.of(model.prior)
    columns = columns_of_outcomes(materials.dopant.shape[1])
    for dose in prior.conditions[0]["dose"]:
        intensity, *truth = patches_of(seed, block, dose)
        crystals = [
            Crystal(
                prior,
                int(h),
                d.tolist(),
                {n: dose if n == "dose" else float(c[n]) for n in CONTINUOUS},
            )
            for c in prior.conditions
            for h, d in zip(materials.host, materials.dopant, strict=True)
        ]
        parts = [
            evidence(crystals, columns, p, model.box, num_draws=num_draws, seed=block)
            for p in intensity.split(AT_ONCE)
        ]
        by_column = torch.cat([p.log_evidence for p in parts]).unflatten(
            1, (len(prior.conditions), -1)
        )
        ess = torch.cat([p.ess for p in parts]).flatten(1)
        best = by_column.flatten(1).argmax(1, keepdim=True)
        found[dose] = (
            add_alternatives(by_column, class_members(SPECIES), mean_of_alternatives),
            ess.gather(1, best)[:, 0],
            *truth,
        )
    values = [torch.cat(v).numpy() for v in zip(*found.values(), strict=True)]
    doses = np.concatenate([np.full(len(v[0]), d) for d, v in found.items()])
    names = ("log_evidence", "ess", "defect", "host", "dopant", "condition")
    with open(file.with_suffix(".part"), "wb") as part:
        np.savez_compressed(part, dose=doses, **dict(zip(names, values, strict=True)))
    file.with_suffix(".part").replace(file)
    return file


@torch.no_grad()
def neural(model: bc.DefectModel, intensity: torch.Tensor, dose: float) -> torch.Tensor:
    """Log density of the features for all cases, shape (patch, condition, host, outcome)."""
    conditions = bc.limit_prior().conditions
    context = {
        n: torch.tensor([[dose if n == "dose" else float(c[n]) for c in conditions]])
        for n in CONTINUOUS
    }
    materials = Materials.of(bc.limit_prior()).map(lambda f: f[None])
    outcomes = model.tabulate(context, materials)
    return torch.cat([outcomes.log_prob(model.encoder(p)[None])[0] for p in intensity.split(256)])


def exact_blocks(
    num_patches: int, seed: int, num_draws: int, folder: Path, jobs: int
) -> dict[str, torch.Tensor]:
    """Evidence and truth of all blocks, computed where they are not in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = range(num_patches // BLOCK)
    with get_context("spawn").Pool(jobs) as pool:
        work = pool.imap(partial(exact, seed=seed, num_draws=num_draws, folder=folder), blocks)
        arrays = [np.load(f) for f in tqdm(work, total=len(blocks), unit="block")]
    return {n: torch.from_numpy(np.concatenate([a[n] for a in arrays])) for n in arrays[0].files}


def neural_of(model: bc.DefectModel, num_patches: int, seed: int) -> torch.Tensor:
    """Log density of the features of the patches of all blocks, in their order."""
    doses = bc.limit_prior().conditions[0]["dose"]
    return torch.cat(
        [
            neural(model, patches_of(seed, b, d)[0], d)
            for b in range(num_patches // BLOCK)
            for d in doses
        ]
    )


def posterior(log_likelihood: torch.Tensor, data: dict, known: tuple[str, ...]) -> torch.Tensor:
    """Class probabilities given a part of the context, shape (patch, defect_class)."""
    prior = bc.limit_prior()
    materials, num = Materials.of(prior), len(log_likelihood)
    energy, inner = (
        torch.tensor([float(c[n]) for c in prior.conditions])
        for n in ("beam_energy", "inner_collection_angle")
    )
    condition = torch.ones(num, len(prior.conditions))
    if "beam_energy" in known:
        condition *= energy == energy[data["condition"]][:, None]
    if "detector" in known:
        condition *= inner == inner[data["condition"]][:, None]
    dopant = materials.dopant_weight.expand(num, -1, -1) * materials.host_weight[:, None]
    if "host" in known:
        dopant = dopant * (materials.host == data["host"][:, None])[..., None]
    if "dopant" in known:
        dopant = dopant * (materials.dopant == data["dopant"][:, None, None])
    num_plain = len(bc.DEFECTS) - 1
    weight = torch.cat([dopant.sum(-1, keepdim=True).expand(-1, -1, num_plain), dopant], -1)
    joint = log_likelihood.double() + (weight[:, None] * condition[:, :, None, None]).double().log()
    probability = joint.flatten(1, 2).logsumexp(1).softmax(-1)
    return (
        torch.zeros(num, len(bc.DEFECTS))
        .double()
        .index_add_(1, outcome_classes(dopant.shape[-1]), probability)
    )


def rows_of(found: dict[str, torch.Tensor], data: dict, chosen: torch.Tensor) -> list[list[str]]:
    """Rows of the table for some of the patches."""
    rows = []
    for name, known in SUBSETS.items():
        scores, cells = {}, []
        for which in ("exact", "neural"):
            p = posterior(found[which], data, known)[chosen]
            truth = data["defect"][chosen]
            scores[which] = p.gather(1, truth[:, None])[:, 0].clamp(min=1e-12).log()
            entropy = -torch.xlogy(p, p).sum(-1).mean()
            right = 100 * (p.argmax(-1) == truth).double().mean()
            cells += [f"{scores[which].mean():.4f}", f"{entropy:.4f}", f"{right:.1f}"]
        gap = scores["exact"] - scores["neural"]
        rows.append([name, *cells, f"{gap.mean():.4f} ± {gap.std() / len(gap) ** 0.5:.4f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        default=MODELS / "limit.safetensors",
        help="trained with --prior limit",
    )
    parser.add_argument(
        "--num-patches", type=int, default=2048, help=f"multiple of {BLOCK} (default: 2048)"
    )
    parser.add_argument(
        "--num-draws", type=int, default=128, help="draws of the nuisances (default: 128)"
    )
    parser.add_argument(
        "--folder", type=Path, default=BLOCKS, help="where finished blocks are kept"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    data = exact_blocks(
        arguments.num_patches, arguments.seed, arguments.num_draws, arguments.folder, arguments.jobs
    )
    model, doses = bc.load_model(arguments.model), bc.limit_prior().conditions[0]["dose"]
    found = {
        "exact": data["log_evidence"],
        "neural": neural_of(model, arguments.num_patches, arguments.seed),
    }
    header = [
        "known",
        "exact: log score",
        "entropy",
        "right (%)",
        "neural: log score",
        "entropy",
        "right (%)",
        "exact - neural",
    ]
    ess = data["ess"].double()
    body = INTRODUCTION.format(
        len(ess),
        arguments.num_draws,
        float(ess.median()),
        float(ess.quantile(0.01)),
        arguments.model.name,
    )
    body += table(header, rows_of(found, data, torch.ones(len(ess), dtype=torch.bool)))
    for dose in doses:
        body += f"\n\nAt {dose:.0e} e/Å²:\n\n" + table(
            header, rows_of(found, data, data["dose"] == dose)
        )
    body += f"\n\nAll of it in {time.perf_counter() - start:.0f} s."
    write("bayes_limit", "The Bayes limit and the neural likelihood", body, arguments.seed)


if __name__ == "__main__":
    main()

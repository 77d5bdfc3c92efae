"""How much the class probabilities of single patches change with the seed, and what that costs."""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np
import torch
from report import table, write

import bayesctx as bc
from bayesctx.inference import patches

CONTEXTS = {
    "nothing": {},
    "host, beam energy": {"host": "WSe2", "beam_energy": 80e3},
}

NOTE = """Differences of the class probabilities between two seeds: quantiles over the patches of
the largest over the classes, then over patches and classes. The first row of each pair
ends after the draws that every patch gets. CPU seconds of one run with 1000 returned
draws; the ratio is to the first row."""


def class_probabilities(
    images: object, context: dict, seeds: range
) -> tuple[list[np.ndarray], float]:
    """Class probabilities under every seed, and the CPU seconds of one run."""
    start = time.process_time()
    found = [
        bc.infer(images, context, seed=s)["class_posterior"].defect.values[:, 0] for s in seeds
    ]
    return found, (time.process_time() - start) / len(seeds)


def row(name: str, found: list[np.ndarray], seconds: float, unit: float) -> list[str]:
    """Differences between seeds: the largest of each patch, and that of all classes."""
    pairs = [(a, b) for i, a in enumerate(found) for b in found[:i]]
    gaps = np.stack([np.abs(a - b) for a, b in pairs])
    changed = np.mean([(a.argmax(-1) != b.argmax(-1)).sum() for a, b in pairs])
    largest = np.quantile(gaps.max(-1), (0.5, 0.9, 0.99))
    numbers = *largest, np.quantile(gaps, 0.9)
    return [
        name,
        *(f"{v:.3f}" for v in numbers),
        f"{changed:.1f} of {len(found[0])}",
        f"{seconds:.2f}",
        f"{seconds / unit:.1f}",
    ]


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--num-seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for num_patches in args.num_patches:
        images = bc.simulate(bc.reference_prior(), num_patches, seed=args.seed)["intensity"]
        bc.infer(images[:2], num_draws=50)  # tables and weights are loaded
        for known, context in CONTEXTS.items():
            seeds = range(args.num_seeds)
            with mock.patch.object(patches, "ALL", patches.FIRST):
                before, unit = class_probabilities(images, context, seeds)
            after, seconds = class_probabilities(images, context, seeds)
            case = f"{known} known, {num_patches} patches"
            rows.append(row(f"{case}: 128 draws", before, unit, unit))
            rows.append(row(f"{case}: up to {patches.ALL}", after, seconds, unit))
    head = ["context", "median", "90 %", "99 %", "90 % of all classes"]
    body = table([*head, "classes changed", "CPU s", "ratio"], rows)
    body += f"\n\n{NOTE}"
    write("seeds", "Class probabilities under different seeds", body, seed=args.seed)


if __name__ == "__main__":
    main()

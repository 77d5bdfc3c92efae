"""Patches by the number of known variables, from the exact evidence that is kept."""

from __future__ import annotations

import itertools

import bayes_limit
import numpy as np
import torch

import bayesctx as bc
from bayesctx.simulation import BLOCK

from .patches import EXACT, LIMIT, NUM_DRAWS, SHIPPED, network_of
from .scoring import Points, score

FINISHED = 2048  # patches of benchmarks/exact
VARIABLES = ("host", "dopant", "beam_energy", "detector")


def curves_of_context(num_patches: int) -> dict[float, Points]:
    """Points by the number of known variables for every dose, means over the sets of that size."""
    seed, blocks = 1000, range(num_patches // BLOCK)  # the finished blocks of bayes_limit.py
    files = [
        bayes_limit.exact(b, seed=seed, num_draws=NUM_DRAWS, folder=bayes_limit.BLOCKS)
        for b in blocks
    ]
    arrays = [np.load(f) for f in files]
    data = {n: torch.from_numpy(np.concatenate([a[n] for a in arrays])) for n in arrays[0].files}
    evidences = {EXACT: data["log_evidence"]} | {
        r: bayes_limit.neural_of(network_of(r).with_prior(bc.limit_prior()), num_patches, seed)
        for r in (LIMIT, SHIPPED)
    }
    points: dict[float, Points] = {float(d): {} for d in data["dose"].unique()}
    for reading, log_evidence in evidences.items():
        for size in range(len(VARIABLES) + 1):
            scores = np.mean([
                score(bayes_limit.posterior(log_evidence, data, known), data["defect"])
                for known in itertools.combinations(VARIABLES, size)
            ], 0)  # fmt: skip
            for dose in points:
                points[dose][reading, size] = scores[:, (data["dose"] == dose).numpy()]
    return points

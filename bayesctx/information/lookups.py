"""Expected information of looking up one variable of the context."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..inference.cases import draw_context
from ..prior import Prior
from .state import State, entropy_of, weigh_draws
from .targets import TARGETS, labels_of

__all__ = ["look_up"]

STRATA = 12  # values that a continuous variable is looked up at
BATCHES = 4  # of the draws, by which the Monte Carlo error is estimated
TRIED = 4096  # draws of the prior whose quantiles are the values


def look_up(
    result: xr.DataTree, state: State, target: str, name: str, num_draws: int, seed: int
) -> tuple[float, float]:
    """Expected information of a variable about the target, and its Monte Carlo error, in bits.

    Parameters
    ----------
    result : DataTree
        Of one patch.
    state : State
        Of it.
    target : str
        That of the state.
    name : str
        Variable of the context.
    num_draws : int
        Draws of the rest of the context at every value.
    seed : int
        Of the draws.

    Returns
    -------
    information, error : float
        Of host and dopant the sum is exact given the result, and the error zero.
    """
    if name in ("host", "dopant"):
        return _of_material(result, target, name), 0.0
    values, weight = _values(state.prior, name, seed)
    if len(values) == 1:
        return 0.0, 0.0
    # the same points of the sequence for all values, so that their noise does not look like
    # information
    drawn = [draw_context(state.prior.given({name: v}), num_draws, seed) for v in values]
    context = {n: torch.cat([d[n] for d in drawn]) for n in drawn[0]}
    joint = weigh_draws(state, context).joint.double().unflatten(1, (len(values), -1, BATCHES))
    whole = _information(state, joint.sum((2, 3)), weight)
    parts = [_information(state, p, weight) for p in joint.sum(2).unbind(-1)]
    return float(whole), float(torch.stack(parts).std() / BATCHES**0.5)


def _information(state: State, joint: Tensor, weight: Tensor) -> Tensor:
    """Information in bits from the joint density of term and value of the variable."""
    found = state.by_value(joint.T)  # (looked up, value)
    probability = joint.sum(0) * weight
    probability = probability / probability.sum()
    return entropy_of(probability @ found) - probability @ entropy_of(found)


def _values(prior: Prior, name: str, seed: int) -> tuple[list[float], Tensor]:
    """Values that a variable can have, and their prior probabilities."""
    drawn = draw_context(prior, TRIED, seed)[name].double()
    distinct, counts = drawn.unique(return_counts=True)
    if len(distinct) <= STRATA:
        return distinct.tolist(), counts / counts.sum()
    middle = (torch.arange(STRATA, dtype=torch.float64) + 0.5) / STRATA
    return drawn.quantile(middle).tolist(), torch.full_like(middle, 1 / STRATA)


def _of_material(result: xr.DataTree, target: str, name: str) -> float:
    """Mutual information of the target and host or dopant, from the joint probabilities."""
    labels, probabilities, factors = labels_of(result, "whole")
    keys = [np.unique(labels[v], return_inverse=True)[1] for v in (*TARGETS[target], name)]
    shape = [k.max() + 1 for k in keys]
    value = np.ravel_multi_index(keys[:-1], shape[:-1])
    table = np.zeros((np.prod(shape[:-1]), shape[-1]))
    np.add.at(table, (value, keys[-1]), (probabilities * factors).ravel())
    table = torch.from_numpy(table / table.sum())
    return float(entropy_of(table.sum(1)) + entropy_of(table.sum(0)) - entropy_of(table.flatten()))

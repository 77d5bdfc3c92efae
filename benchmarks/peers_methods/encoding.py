"""The context as numbers, with a mask of what is known."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bayesctx.crystal import HOSTS, METALS
from bayesctx.prior import CONTINUOUS

from .stream import KNOWN, Labelled

__all__ = ["COLUMNS", "NUM_COLUMNS", "as_columns", "draw_known", "known_columns", "subset"]

LOGARITHMIC = ("beam_energy", "inner_collection_angle", "outer_collection_angle", "dose")
SIZES = {"host": len(HOSTS), "dopant": len(METALS)} | dict.fromkeys(CONTINUOUS, 1)
COLUMNS = np.repeat(np.arange(len(KNOWN)), [SIZES[n] for n in KNOWN])
"""Index into ``KNOWN`` of every column."""
NUM_COLUMNS = len(COLUMNS)


def as_columns(patches: Labelled, *, one_hot: bool = True) -> np.ndarray:
    """Numbers of the whole context; energy, collection angles and dose as logarithms.

    Parameters
    ----------
    patches : Labelled
        With the context.
    one_hot : bool
        Host and dopant as indicators; otherwise as one index each.

    Returns
    -------
    ndarray of float32, shape (patch, column)
        By ``COLUMNS`` if ``one_hot``, otherwise by ``KNOWN``.
    """
    values = patches.context.astype(np.float64)
    for i, name in enumerate(CONTINUOUS):
        if name in LOGARITHMIC:
            values[:, i] = np.log(values[:, i])
    if one_hot:
        names = [np.eye(SIZES[n])[getattr(patches, n)] for n in ("host", "dopant")]
    else:
        names = [patches.host[:, None], patches.dopant[:, None]]
    return np.concatenate([*names, values], -1).astype(np.float32)


def draw_known(rng: np.random.Generator, num_patches: int) -> np.ndarray:
    """Draw which variables are known of each patch, as ``bayesctx.train`` does, or everything.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    num_patches : int
        How many.

    Returns
    -------
    ndarray of bool, shape (patch, variable)
        By ``KNOWN``: none with a probability of 0.1, otherwise each with a probability that is
        uniform.
    """
    share = rng.random((num_patches, 1)) * (rng.random((num_patches, 1)) > 0.1)
    return rng.random((num_patches, len(KNOWN))) < share


def known_columns(known: np.ndarray) -> np.ndarray:
    """Mask of the columns from that of the variables, shape (..., column)."""
    return known[..., COLUMNS]


def subset(known: Collection[str]) -> np.ndarray:
    """Mask of the variables from their names, shape (variable,)."""
    return np.array([n in known for n in KNOWN])

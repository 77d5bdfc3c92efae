"""Gradient-boosted trees (LightGBM) on Zernike moments, with the context as further columns."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache
from pathlib import Path

import numpy as np

from bayesctx import DEFECTS

from .budget import Clock
from .encoding import as_columns, draw_known, subset
from .stream import KNOWN, Labelled, Stream

__all__ = ["Trees", "fit_trees", "zernike_moments"]

DEGREE = 16  # of the moments
REFERENCE = 3  # order of the axis of the crystal
SIMULATED = 0.3  # share of the budget for patches
ROUNDS = 100_000  # never reached: the budget ends the boosting
SETTINGS = {
    "objective": "multiclass", "num_class": len(DEFECTS), "num_leaves": 31, "max_bin": 63,
    "min_data_in_leaf": 50, "feature_fraction": 0.3, "bagging_fraction": 0.5, "bagging_freq": 1,
    "num_threads": 1, "verbosity": -1, "deterministic": True, "force_col_wise": True,
}  # fmt: skip


@cache
def _basis(num_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Conjugate Zernike polynomials on the inscribed disc, and their orders."""
    axis = (np.arange(num_pixels) - (num_pixels - 1) / 2) / (num_pixels / 2)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    inside = radius <= 1
    waves, orders = [], []
    for n in range(1, DEGREE + 1):
        for m in range(n % 2, n + 1, 2):
            terms = [
                (-1) ** k * math.comb(n - k, k) * math.comb(n - 2 * k, (n - m) // 2 - k)
                * radius ** (n - 2 * k)
                for k in range((n - m) // 2 + 1)
            ]  # fmt: skip
            wave = sum(terms) * np.exp(-1j * m * angle) * inside * (n + 1) / np.pi
            waves.append(wave.ravel() * 4 / num_pixels**2)
            orders.append(m)
    return np.stack(waves, -1).astype(np.complex64), np.array(orders)


def zernike_moments(image: np.ndarray) -> np.ndarray:
    """Invariants of the Zernike moments of patches under rotation.

    Parameters
    ----------
    image : ndarray, shape (patch, y, x)
        Of mean zero and mean square one.

    Returns
    -------
    ndarray of float32, shape (patch, feature)
        Absolute values up to degree 16, and the moments of orders 3, 6 ... 15 rotated back by the
        phase of the largest one of order 3.
    """
    basis, orders = _basis(image.shape[-1])
    moments = image.reshape(len(image), -1).astype(np.float32) @ basis
    third = moments[:, orders == REFERENCE]
    largest = third[np.arange(len(third)), np.abs(third).argmax(-1)]
    turn = np.exp(-1j * np.angle(largest) / REFERENCE)[:, None]
    folded = (orders % REFERENCE == 0) & (orders > 0)
    turned = moments[:, folded] * turn ** orders[folded]
    return np.concatenate([np.abs(moments), turned.real, turned.imag], -1).astype(np.float32)


class Trees:
    """A booster with the columns that it takes.

    Parameters
    ----------
    booster : lightgbm.Booster
        The trained trees.
    """

    def __init__(self, booster: object) -> None:
        self.booster = booster

    def predict(self, patches: Labelled, known: Collection[str]) -> np.ndarray:
        """Logarithms of the class probabilities, shape (patch, class)."""
        told = np.broadcast_to(subset(known), (len(patches), len(KNOWN)))
        return np.log(self.booster.predict(_table(patches, told), num_threads=1).clip(min=1e-38))


def _table(patches: Labelled, known: np.ndarray) -> np.ndarray:
    """Moments and context, where what is not known is not a number."""
    context = np.where(known, as_columns(patches, one_hot=False), np.nan)
    return np.concatenate([zernike_moments(patches.image), context], -1)


def fit_trees(
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[Trees, int]:
    """Boost trees until the budget is spent; every fourth patch has the whole context.

    Parameters
    ----------
    stream : Stream
        Of the patches.
    clock : Clock
        With the budget.
    learning_rate : float
        Shrinkage of every tree.
    seed : int
        Of the missing context, and of the bagging.
    checkpoint : Path, optional
        Is not used: an interrupted run starts anew.

    Returns
    -------
    model : Trees
        The trees.
    num_patches : int
        Number of patches.
    """
    import lightgbm

    data = stream.load(max(4096, int(SIMULATED * clock.left / stream.cost())))
    rng = np.random.default_rng(seed)
    known = draw_known(rng, len(data)) | (rng.random((len(data), 1)) < 0.25)
    rows = lightgbm.Dataset(
        _table(data, known), data.defect, params=SETTINGS,
        categorical_feature=[zernike_moments(data.image[:1]).shape[1] + i for i in (0, 1)],
    )  # fmt: skip

    def stop(state: object) -> None:
        if clock.left <= 0:
            raise lightgbm.callback.EarlyStopException(state.iteration, [])

    settings = SETTINGS | {"learning_rate": learning_rate, "seed": seed}
    booster = lightgbm.train(settings, rows, ROUNDS, callbacks=[stop])
    return Trees(booster), len(data)

"""What each variable of the context is worth: alone, beside all others, and its Shapley value."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from tqdm import tqdm

from ..checks import check_seed, check_whole_number
from ..context import CONTEXT
from ..inference import infer
from ..model import PatchModel
from .resampling import NUM_RESAMPLES, bootstrap
from .targets import TARGETS, score

__all__ = ["PLAYERS", "attribute_information"]

PLAYERS = {
    "host": ("host",),
    "dopant": ("dopant",),
    "beam energy": ("beam_energy",),
    "convergence": ("convergence_semiangle",),
    "detector": ("inner_collection_angle", "outer_collection_angle"),
    "defocus": ("defocus",),
    "dose": ("dose",),
}
"""The variables of the context; both angles of the detector are looked up together."""

EXACT = 4  # groups up to which all subsets are inferred for every image


def attribute_information(
    data: xr.Dataset,
    model: PatchModel | None = None,
    *,
    groups: Mapping[str, Sequence[str]] = PLAYERS,
    target: str = "class",
    num_draws: int = 128,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Divide the information of the context among its variables.

    Parameters
    ----------
    data : Dataset, dimension image
        From ``simulate``: patches with their truth and context.
    model : DefectModel or ExactModel, optional
        Default: the reference model.
    groups : mapping of str to sequence of str
        Variables of the context that are known together, by name of the group. A variable in none
        of them is never known.
    target : str
        One of ``TARGETS``.
    num_draws : int
        Of ``infer``.
    num_resamples : int
        Resamples of the bootstrap over images.
    seed : int
        Of the permutations, of the draws and of the resamples.
    progress : bool
        Show a progress bar over the subsets.

    Returns
    -------
    Dataset, dimension variable
        In bits, of every group: ``alone``, the information of it if nothing else is known,
        ``given_others``, that beside all others, and ``shapley``, its Shapley value; each with its
        standard error ``*_error`` and its counterpart by the entropy ``*_entropy``. ``total``, the
        information of all of them, is the sum of the Shapley values.

    Raises
    ------
    ValueError
        If there is no group, one names an unknown variable, or ``data`` lacks a variable.

    Notes
    -----
    The worth of a subset is the mean log score of the target with the subset known. The Shapley
    value is the mean gain of a group over all orders in which the groups become known. Up to four
    groups all subsets are inferred for every image, and the values are exact for these images.
    Otherwise every image has two opposite orders of its own (antithetic sampling), which are
    balanced over the images so that each group has every place equally often. The values of all
    groups of an image add up to its total, and the errors, which are those of a bootstrap over the
    images, hold the sampling of the orders as well.

    References
    ----------
    Shapley, Contributions to the Theory of Games II (1953). Castro, Gómez and Tejada, Comput. Oper.
    Res. 36, 1726 (2009). Mitchell, Cooper, Frank and Holmes, J. Mach. Learn. Res. 23, 43 (2022).
    """
    names = _check_groups(groups, data)
    if target not in TARGETS:
        raise ValueError(f"a target among {', '.join(TARGETS)} was expected, got {target!r}")
    check_whole_number("num_draws", num_draws, 1, 10**6)
    num_images, num = data.sizes["image"], len(names)
    rng = np.random.default_rng(check_seed(seed))
    orders = _all_orders(num, num_images) if num <= EXACT else _balanced(num, num_images, rng)
    wanted = _subsets(orders)  # subset -> images
    worth = _infer(wanted, data, model, groups, target, num_draws, seed, progress)
    every, rows = 2**num - 1, np.arange(num_images)
    alone = np.stack([worth[1 << k][rows] - worth[0][rows] for k in range(num)], 1)
    last = np.stack([worth[every][rows] - worth[every ^ (1 << k)][rows] for k in range(num)], 1)
    shapley = _mean_gains(orders, worth)
    total = worth[every] - worth[0]
    # (image, statistic, group, score or entropy)
    found = np.stack([alone, last, shapley], 1)
    flat = np.concatenate([found.reshape(num_images, -1), total], 1)
    estimate, error = bootstrap(flat, num_resamples=num_resamples, seed=seed)
    return _arranged(names, estimate, error)


def _check_groups(groups: Mapping[str, Sequence[str]], data: xr.Dataset) -> list[str]:
    """Names of the groups."""
    if not groups:
        raise ValueError("one group of variables or more was expected, got none; name them")
    for name, variables in groups.items():
        for variable in variables:
            if variable not in CONTEXT or variable == "sampling":
                raise ValueError(
                    f"variables among {', '.join(n for n in CONTEXT if n != 'sampling')} were "
                    f"expected, got {variable!r} in the group {name!r}; correct the name"
                )
            if variable not in data:
                raise ValueError(
                    f"data with {variable} was expected, it is missing; pass the Dataset of "
                    "simulate, or leave the group out"
                )
    return list(groups)


def _all_orders(num: int, num_images: int) -> np.ndarray:
    """Every order of the groups for every image, shape (image, order, group)."""
    every = np.array(list(itertools.permutations(range(num))))
    return np.broadcast_to(every, (num_images, *every.shape))


def _balanced(num: int, num_images: int, rng: np.random.Generator) -> np.ndarray:
    """Two opposite orders of each image, shape (image, 2, group)."""
    # the rotations of an order have every group at every place once
    first = [rng.permutation(num) for _ in range(-(-num_images // num))]
    orders = np.array([np.roll(o, k) for o in first for k in range(num)])[:num_images]
    return np.stack([orders, orders[:, ::-1]], 1)


def _subsets(orders: np.ndarray) -> dict[int, np.ndarray]:
    """Images that need each subset (as bits): nothing, one, all but one, all, and on the way."""
    num_images, _, num = orders.shape
    every = 2**num - 1
    needed = {s: np.ones(num_images, bool) for s in (0, every)}
    for k in range(num):
        needed |= {1 << k: needed[0], every ^ (1 << k): needed[0]}
    on_the_way = np.cumsum(1 << orders, -1)
    for subset in np.unique(on_the_way).tolist():
        images = (on_the_way == subset).any((1, 2))
        needed[subset] = needed.get(subset, False) | images
    return {s: np.flatnonzero(images) for s, images in sorted(needed.items())}


def _infer(
    wanted: Mapping[int, np.ndarray],
    data: xr.Dataset,
    model: PatchModel | None,
    groups: Mapping[str, Sequence[str]],
    target: str,
    num_draws: int,
    seed: int,
    progress: bool,
) -> dict[int, np.ndarray]:
    """Log score and minus entropy of the target under each subset, shape (image, 2)."""
    worth = {}
    for subset, images in tqdm(wanted.items(), disable=not progress, unit="subset"):
        chosen = data.isel(image=images)
        known = [v for k, g in enumerate(groups.values()) if subset >> k & 1 for v in g]
        context = {v: chosen[v] for v in known}
        own = {"num_draws": num_draws, "seed": seed, "progress": False}
        result = infer(chosen.intensity, context, model, **own)
        scored = score(result, chosen, target)
        worth[subset] = np.full((data.sizes["image"], 2), np.nan)
        worth[subset][images] = np.stack([scored.log_score, -scored.entropy], -1)[:, 0]
    return worth


def _mean_gains(orders: np.ndarray, worth: Mapping[int, np.ndarray]) -> np.ndarray:
    """Mean gain of every group over the orders, shape (image, group, 2)."""
    num_images, num_orders, num = orders.shape
    subsets = np.array(list(worth))
    table = np.stack([worth[s] for s in subsets])
    after = np.cumsum(1 << orders, -1)
    before = after - (1 << orders)
    rows = np.arange(num_images)[:, None, None]
    gain = table[np.searchsorted(subsets, after), rows]
    gain = gain - table[np.searchsorted(subsets, before), rows]
    found = np.zeros((num_images, num, 2))
    np.add.at(found, (rows, orders), gain)
    return found / num_orders


def _arranged(names: list[str], estimate: np.ndarray, error: np.ndarray) -> xr.Dataset:
    """A Dataset of the statistics."""
    variables = {"total": ((), estimate[-2]), "total_error": ((), error[-2]),
                 "total_entropy": ((), estimate[-1])}  # fmt: skip
    shape = 3, len(names), 2
    values, errors = (v[:-2].reshape(shape) for v in (estimate, error))
    for i, name in enumerate(("alone", "given_others", "shapley")):
        variables[name] = ("variable", values[i, :, 0])
        variables[f"{name}_error"] = ("variable", errors[i, :, 0])
        variables[f"{name}_entropy"] = ("variable", values[i, :, 1])
    found = xr.Dataset(variables, {"variable": names})
    return found.map(lambda v: v.assign_attrs(units="bit"))

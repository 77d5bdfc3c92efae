"""pair_correlations(): how often two classes stand at a distance, against a random arrangement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from ..checks import check_known, check_number, check_seed
from ..defects import DEFECTS
from ..matching import positions_of
from .counting import LEVELS, interval
from .drawn import KINDS, check_result, crystal_of, read_worlds, sampling_of
from .spacing import SHELLS, measure_spacing, shell_of

__all__ = ["PAIRS", "pair_correlations"]

VACANCIES = ("V_M", "V_X", "V_X2")
PAIRS = {"dopant-vacancy": (("D_M",), VACANCIES), "dopant-dopant": (("D_M",), ("D_M",))}
"""The pairs of classes that are counted by default."""

NUM_NULL = 1000  # random arrangements, at least
FARTHEST = 5.0  # nm; beyond it the shells of a strained lattice cannot be told apart
Pairs = Mapping[str, tuple[Sequence[str], Sequence[str]]]


def pair_correlations(
    result: xr.DataTree, pairs: Pairs | None = None, *, max_distance: float = 0.8, seed: int = 0
) -> xr.Dataset:
    """Count pairs of defects by their distance, and compare with a random arrangement.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.
    pairs : mapping of str to (sequence of str, sequence of str), optional
        The classes of either partner, by the name of the pair; default: ``PAIRS``, dopants with
        vacancies and dopants with dopants.
    max_distance : float
        Largest distance in nm.
    seed : int
        Of the random arrangements.

    Returns
    -------
    Dataset, dimensions (pair, shell)
        ``distance`` [nm] of the shell in the mean lattice; ``number`` of pairs, means of the draws;
        ``expected`` number in a random arrangement; ``ratio`` of the two means, not a number where
        none is expected. ``number_90_low`` ... and ``ratio_90_low`` ... are bounds of intervals of
        the draws: what is not known of the classes. ``null_90_low`` ... are those of the ratio of
        random arrangements of the same draws. ``p_value`` is the probability that a random
        arrangement has as many pairs or more (half of the ties are counted).

    Raises
    ------
    TypeError, ValueError
        If it is no result of a micrograph, for an unknown class or a distance without pairs.

    Notes
    -----
    The null: in every draw the classes are permuted among the sites of each kind (metal,
    chalcogen, hollow) that lie on crystal, so that numbers, shape of the crystal and border stay.
    Its expectation is exact (hypergeometric), its intervals are those of at least 1000
    permutations. Sites are independent in the prior and patches in the network; where classes are
    uncertain, the ratio of a true correlation is therefore drawn towards one, and errors of
    neighbouring sites that have a common cause can show as a correlation.

    Examples
    --------
    >>> oxygen = {"oxygen-vacancy": (["O_X"], ["V_X", "V_X2"])}
    >>> pair_correlations(result, oxygen, max_distance=1.0)  # doctest: +SKIP
    """
    check_result(result, micrograph=True)
    pairs, seed = _check_pairs(PAIRS if pairs is None else pairs), check_seed(seed)
    worlds, size = read_worlds(result), sampling_of(result) / 10
    positions = positions_of(result["constant_data"])
    spacing = measure_spacing(positions)
    distance = np.sqrt(SHELLS) * spacing.neighbour * size
    limit = check_number(max_distance, "max_distance", (0.0, FARTHEST))
    num_shells = int((distance < limit).sum())
    if not num_shells:
        raise ValueError(
            f"max_distance from {distance[0]:.2g} nm, that of neighbouring sites, was expected, "
            f"got {limit:g}; enlarge it"
        )
    crystal = crystal_of(result)
    constants = result["constant_data"].to_dataset()
    sublattice = constants.get("lattice_site", constants.sublattice).values[crystal]
    near = _adjacency(positions[crystal], spacing.metric, sublattice, num_shells)
    rng = np.random.default_rng(seed)
    found = [_compare(worlds.defect, worlds.kind, near, *p, rng) for p in pairs.values()]
    table = {
        k: (("pair", "shell"), np.stack([f[k] for f in found]), {"units": "1"}) for k in found[0]
    }
    coordinates = {
        "pair": list(pairs),
        "shell": np.arange(num_shells),
        "distance": ("shell", distance[:num_shells], {"units": "nm"}),
    }
    attributes = {"num_draws": len(worlds.defect), "effective_draws": worlds.ess, "seed": seed}
    return xr.Dataset(table, coordinates, attributes)


def _check_pairs(pairs: Pairs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Index of the classes of both partners of every pair."""
    example = 'such as {"oxygen-vacancy": (["O_X"], ["V_X", "V_X2"])}'
    if not isinstance(pairs, Mapping) or not pairs:
        raise TypeError(
            f"a mapping of names to pairs of lists of classes was expected, got {pairs!r:.80}; "
            f"give one {example}"
        )
    found = {}
    for name, pair in pairs.items():
        is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not is_pair or any(isinstance(p, str) or not isinstance(p, Sequence) for p in pair):
            raise TypeError(
                f"two lists of classes were expected for {name!r}, got {pair!r:.80}; give them "
                f"{example}"
            )
        for defect in (d for p in pair for d in p):
            check_known(defect, "class", DEFECTS)
        found[str(name)] = tuple(np.array([DEFECTS.index(d) for d in p], int) for p in pair)
    return found


def _adjacency(
    positions: np.ndarray, metric: np.ndarray, sublattice: np.ndarray, num_shells: int
) -> list[csr_array]:
    """Which sites stand at the distance of each shell, as symmetric matrices."""
    # in these coordinates neighbours have a distance of one
    tree = cKDTree(positions @ np.linalg.cholesky(metric))
    reach = (np.sqrt(SHELLS[num_shells - 1]) + 1) if num_shells < len(SHELLS) else 8.0
    first, second = tree.query_pairs(reach, output_type="ndarray").T
    squared = ((tree.data[first] - tree.data[second]) ** 2).sum(-1)
    shell = shell_of(squared, sublattice[first] == sublattice[second])
    matrices = []
    for k in range(num_shells):
        i, j = first[shell == k], second[shell == k]
        rows, columns = np.concatenate([i, j]), np.concatenate([j, i])
        matrices.append(
            csr_array((np.ones(len(rows), np.int32), (rows, columns)), (len(positions),) * 2)
        )
    return matrices


def _compare(
    defect: np.ndarray,
    kind: np.ndarray,
    near: list[csr_array],
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Numbers of pairs of every shell in the draws, their expectation, and the null."""
    # bit 1: one of the first classes, bit 2: one of the second
    label = np.isin(defect, first) + 2 * np.isin(defect, second).astype(np.int8)
    # a pair of two sites that both have both classes is one pair and not two
    shared = 0.5 if set(first.tolist()) == set(second.tolist()) else 1.0
    number = shared * _count(label, near)
    expected = shared * _expect(label, kind, near)
    repeats = -(-NUM_NULL // len(label))
    null = shared * np.stack([_count(_permute(label, kind, rng), near) for _ in range(repeats)])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(expected > 0, number / expected, np.nan)
        random = np.where(expected > 0, null / expected, np.nan).reshape(-1, len(near))
        table = {
            "number": number.mean(0),
            "expected": expected.mean(0),
            "ratio": number.mean(0) / expected.mean(0),
        }
    for name, draws in (("number", number), ("ratio", ratio), ("null", random)):
        for level in LEVELS:
            low, high = interval(draws, level)
            table[f"{name}_{round(100 * level)}_low"] = low
            table[f"{name}_{round(100 * level)}_high"] = high
    exceeds = ((null > number) + 0.5 * (null == number)).mean((0, 1))
    table["p_value"] = np.where(expected.any(0), exceeds, np.nan)
    return table


def _count(label: np.ndarray, near: list[csr_array]) -> np.ndarray:
    """Ordered pairs of a first and a second class of every draw and shell, (sample, shell)."""
    first = csr_array((label & 1).T.astype(np.int32))
    second = csr_array((label >> 1).T.astype(np.int32))
    return np.stack([first.multiply(m @ second).sum(0) for m in near], -1)


def _expect(label: np.ndarray, kind: np.ndarray, near: list[csr_array]) -> np.ndarray:
    """Expected number of ordered pairs if classes are permuted among sites of a kind."""
    found = np.zeros((len(label), len(near)))
    orders, which = np.unique(kind, axis=0, return_inverse=True)  # one for every assignment
    for k, order in enumerate(orders):
        mine = which.ravel() == k
        member = np.array([order == i for i in range(len(KINDS))], np.int64)
        sites = member.sum(1)
        # sites of two kinds: all combinations; of one kind: two different ones
        ways = sites[:, None] * sites - np.diag(sites)
        a, b, both = (
            (bits @ member.T) for bits in (label[mine] & 1, label[mine] >> 1, label[mine] == 3)
        )
        chosen = a[:, :, None] * b[:, None, :] - both[:, :, None] * np.eye(len(KINDS))
        for s, matrix in enumerate(near):
            pairs = member @ (matrix @ member.T)
            share = np.divide(pairs, ways, where=ways > 0, out=np.zeros(ways.shape))
            found[mine, s] = (chosen * share).sum((1, 2))
    return found


def _permute(label: np.ndarray, kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute the labels of every draw among the sites of each kind."""
    permuted = label.copy()
    orders, which = np.unique(kind, axis=0, return_inverse=True)
    for k, order in enumerate(orders):
        mine = np.flatnonzero(which.ravel() == k)
        for i in range(len(KINDS)):
            here = np.ix_(mine, np.flatnonzero(order == i))
            permuted[here] = rng.permuted(label[here], axis=1)
    return permuted

"""A result in the form that ArviZ plots and summarises: names instead of codes, few variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ..checks import check_known, check_sequence, check_whole_number, shorten
from ..context import CONTEXT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS
from ..prediction import predict_images

__all__ = ["DEFAULT", "arrange_for_arviz"]

ENUMERATED = {"host": tuple(HOSTS), "dopant": tuple(METALS), "assignment": (), "defect": DEFECTS}
KINDS = {
    "context": tuple(n for n in CONTEXT if n not in ENUMERATED),
    "material": ("host", "dopant", "assignment"),
    "abundance": ("concentration", "dopant_share"),
}
DEFAULT = tuple(KINDS)
# the size of a pixel follows from the host
DRAWN_FROM_PRIOR = tuple(n for n in KINDS["context"] if n != "sampling")
OTHERS = "others"
SITE_CLASS = "site_class"  # not defect_class: the abundances may be of other classes
NUM_PREDICTED = 10
PREDICTED_PIXELS = NUM_PREDICTED * 2**18  # some seconds
RARE = 0.01  # of the draws: what is rarer is put together, so that plots stay few


def arrange_for_arviz(
    tree: xr.DataTree,
    variables: str | Sequence[str],
    sites: Sequence[int],
    num_predicted: int | None,
    as_quantiles: bool = False,
) -> xr.DataTree:
    """Choose the variables of a result, and replace codes by indicators of names.

    Parameters
    ----------
    tree : DataTree
        From ``infer``.
    variables : str or sequence of str
        Variables of ``posterior``, or kinds of them, see ``to_arviz``.
    sites : sequence of int
        Sites whose classes are added.
    num_predicted : int, optional
        Images of ``posterior_predictive``; default: see ``to_arviz``.
    as_quantiles : bool
        Numbers as quantiles of their prior.

    Returns
    -------
    DataTree
        With the groups of ArviZ, without ``log_likelihood``.

    Raises
    ------
    TypeError, ValueError
        For an unknown variable or site.
    """
    if isinstance(sites, str) or not isinstance(sites, Sequence | np.ndarray):
        raise TypeError(
            f"a sequence of numbers of sites was expected, got {shorten(sites)}; write [site]"
        )
    posterior, before = _with_copies_together(tree), tree["prior"].to_dataset()
    names = _choose(posterior, variables)
    drawn, expected, constants = _by_name(tree, posterior, names)
    if as_quantiles:
        drawn, expected = _as_quantiles(drawn, before), _as_quantiles(expected, before)
    if len(sites) or "defect" in names:
        drawn["defect"] = _classes_of(posterior.defect, sites)
    groups = {n: c.to_dataset() for n, c in tree.children.items() if n != "log_likelihood"} | {
        "posterior": xr.Dataset(drawn),
        "prior": xr.Dataset(expected),
        "constant_data": tree["constant_data"].to_dataset().assign(constants),
    }
    if num_predicted is None:
        num_predicted = _num_predicted(tree)
    if number := check_whole_number("num_predicted", num_predicted, 0, 1000):
        groups["posterior_predictive"] = predict_images(tree, num_draws=number).to_dataset()
    arranged = xr.DataTree.from_dict({n: _number_sites(group) for n, group in groups.items()})
    arranged.attrs = dict(tree.attrs)
    return arranged


def _by_name(
    tree: xr.DataTree, posterior: xr.Dataset, names: Sequence[str]
) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray], dict[str, object]]:
    """Draws of posterior and prior with names instead of codes, and what does not vary."""
    before = tree["prior"].to_dataset()
    drawn, expected, constants = {}, {}, {}
    for name in (n for n in names if n != "defect"):
        values = posterior[name]
        if name not in ENUMERATED:
            if _is_constant(values):
                constants[name] = values.isel(chain=0, draw=0, drop=True)
                continue
            drawn[name] = _varying(values)
            if name in before:
                expected[name] = before[name]
            continue
        labels = _labels(tree, name)
        kept = _frequent(values.values, len(labels))
        if len(kept) == 1 and (values.values == kept[0]).all():
            constants[name] = labels[kept[0]]
            continue
        drawn[name] = _indicate(values, f"{name}_class", labels, kept)
        if name in before:
            expected[name] = _indicate(before[name], f"{name}_class", labels, kept)
    return drawn, expected, constants


def _with_copies_together(tree: xr.DataTree) -> xr.Dataset:
    """Posterior in which draws of the same context follow each other, but for Markov chains."""
    posterior = tree["posterior"].to_dataset()
    names = [n for n in DRAWN_FROM_PRIOR if n in posterior]
    is_markov = posterior.sizes["chain"] > 1 or "r_hat" in tree["sample_stats"]
    if is_markov or not names or posterior[names[0]].dims != ("chain", "draw"):
        return posterior
    # few draws of the prior carry the posterior, each many times; in random order ArviZ takes the
    # copies for independent draws, side by side for the autocorrelated ones that they are
    values = np.stack([posterior[n].values[0] for n in names], -1)
    group = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
    place = np.random.default_rng(0).permutation(group.max() + 1)[group]
    order = np.argsort(place, kind="stable")
    # without their coordinates, so that the draws are still numbered from 0
    return posterior.assign({n: v.variable.isel(draw=order) for n, v in posterior.items()})


def _num_predicted(tree: xr.DataTree) -> int:
    """Number of images by default: none of patches, fewer of large micrographs."""
    if "site_x" not in tree["constant_data"]:
        return 0
    return int(np.clip(PREDICTED_PIXELS // tree["observed_data"].intensity.size, 1, NUM_PREDICTED))


def _choose(posterior: xr.Dataset, variables: str | Sequence[str]) -> list[str]:
    """Names of variables; a kind stands for those of it that the result has."""
    asked = (variables,) if isinstance(variables, str) else check_sequence(variables, "variables")
    names = []
    for name in asked:
        check_known(name, "variable or kind of variables", [*KINDS, *map(str, posterior.data_vars)])
        found = [n for n in KINDS[name] if n in posterior] if name in KINDS else [name]
        names += [n for n in found if n not in names]
    return names


def _as_quantiles(drawn: Mapping[str, xr.DataArray], before: xr.Dataset) -> dict[str, xr.DataArray]:
    """Numbers as quantiles of their prior, without those that have none; shares as they are."""
    found = {}
    for name, draws in drawn.items():
        if name in ENUMERATED or name in KINDS["abundance"]:
            found[name] = draws
        elif name in before:
            found[name] = xr.apply_ufunc(
                _share_below,
                draws,
                before[name].rename(chain="prior_chain", draw="prior_draw"),
                input_core_dims=[["chain", "draw"], ["prior_chain", "prior_draw"]],
                output_core_dims=[["chain", "draw"]],
                vectorize=True,
            )
            found[name] = found[name].transpose(*draws.dims).assign_attrs(units="1")
    return found


def _share_below(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Share of draws of the prior below each value, interpolated: one half at their median."""
    share = (np.arange(before.size) + 0.5) / before.size
    return np.interp(values, np.sort(before.ravel()), share)


def _labels(tree: xr.DataTree, name: str) -> tuple[str, ...]:
    """Names of the values of an enumerated variable."""
    if name == "assignment":
        return tuple(map(str, tree["class_posterior"].assignment_class.values))
    return ENUMERATED[name]


def _is_constant(variable: xr.DataArray) -> bool:
    """Whether all draws of a single number are equal."""
    return variable.dims == ("chain", "draw") and bool(variable.min() == variable.max())


def _varying(variable: xr.DataArray) -> xr.DataArray:
    """Draws of a variable, without the classes of which no draw differs: they have no density."""
    if "defect_class" not in variable.dims:
        return variable
    values = variable.transpose("defect_class", ...).values.reshape(variable.defect_class.size, -1)
    return variable.isel(defect_class=np.flatnonzero(values.min(1) < values.max(1)))


def _frequent(codes: np.ndarray, num: int) -> np.ndarray:
    """Codes that are not rare among the draws; the most frequent one where all are."""
    share = np.bincount(codes.astype(int).ravel(), minlength=num) / codes.size
    return np.flatnonzero(share >= min(RARE, share.max()))


def _indicate(
    codes: xr.DataArray, dim: str, labels: Sequence[str], kept: np.ndarray
) -> xr.DataArray:
    """Whether each draw has each name: the mean of it is the probability of the name."""
    code = codes.values[..., None].astype(int)
    found, names = code == kept, [labels[k] for k in kept]
    if not found.any(-1).all():
        found = np.concatenate([found, ~found.any(-1, keepdims=True)], -1)
        names.append(OTHERS)
    return xr.DataArray(
        found.astype(int), codes.coords, (*codes.dims, dim), attrs={"units": "1"}
    ).assign_coords({dim: names})


def _number_sites(group: xr.Dataset) -> xr.Dataset:
    """Give the sites their position in the result as coordinate, the same in all groups."""
    if "patch" not in group.dims or "patch" in group.coords:
        return group
    return group.assign_coords(patch=np.arange(group.sizes["patch"]))


def _classes_of(draws: xr.DataArray, sites: Sequence[int]) -> xr.DataArray:
    """Indicators of the classes of some sites, or of all."""
    num = draws.sizes["patch"]
    chosen = [check_whole_number("sites", s, 0, num - 1) for s in sites] or list(range(num))
    draws = draws.isel(patch=chosen).assign_coords(patch=chosen)
    return _indicate(draws, SITE_CLASS, DEFECTS, np.unique(draws.values))

"""Entropy and log score of every target, and what further context adds, with errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from .resampling import NUM_RESAMPLES, bootstrap
from .targets import Scored, score

__all__ = ["measure_information"]

BITS = ("entropy", "log_score", "entropy_reduction", "log_score_gain", "overconfidence")
SHARES = ("accuracy", "entropy_removed", "log_score_removed")


def measure_information(
    results: Mapping[str, xr.DataTree],
    truth: xr.Dataset,
    *,
    targets: Sequence[str] = ("class",),
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Entropy and log score of posteriors, and the information that further context adds.

    Parameters
    ----------
    results : mapping of str to DataTree
        From ``infer`` on the same images, by what is known; the first is the reference.
    truth : Dataset
        From ``simulate`` or with the variables of the targets, over the images.
    targets : sequence of str
        Of ``TARGETS``.
    num_resamples : int
        Resamples of the paired bootstrap over images; over sites where there is one image.
    seed : int
        Of the resamples.

    Returns
    -------
    Dataset, dimensions (known, target)
        Means over the images, each with its standard error ``*_error``. In bits: ``entropy``,
        ``log_score``; against the reference ``entropy_reduction``, ``log_score_gain``, and
        ``overconfidence``, the reduction minus the gain. Shares: ``accuracy``, and
        ``entropy_removed`` and ``log_score_removed``, the reduction and the gain over the entropy
        and minus the log score of the reference.

    Raises
    ------
    ValueError
        If there is no result, they are not of the same images, or the truth does not fit.

    Notes
    -----
    The mean ``log_score_gain`` estimates the conditional mutual information I(target; context |
    image): it equals it where both posteriors are exact. Where they are not, both log scores are
    too low. ``entropy_reduction`` equals it as well for exact posteriors, whose mean entropy is
    minus their mean log score; ``overconfidence`` is that part of it which the truth does not
    confirm. The errors are those of the images; they do not hold the Monte Carlo error of a
    posterior. Of images of several patches values are averaged over the patches first.

    References
    ----------
    Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), doi:10.1198/016214506000001437.

    Examples
    --------
    >>> import bayesctx as bc
    >>> data = bc.simulate(bc.tmd_prior(), 4, seed=0)
    >>> known = [name for name in bc.CONTEXT if name != "sampling"]
    >>> results = {
    ...     "all but the host": bc.infer(data.intensity, data[known].drop_vars("host")),
    ...     "everything": bc.infer(data.intensity, data[known]),
    ... }
    >>> bits = measure_information(results, data, targets=["class", "species_host"])
    >>> dict(bits.log_score_gain.sizes)
    {'known': 2, 'target': 2}
    """
    if not results:
        raise ValueError("one result or more was expected, got none; pass those of infer by name")
    found = [_measure(results, truth, t, num_resamples, seed) for t in targets]
    estimate, error = np.stack(found, -1)  # (statistic, known, target)
    variables = {}
    for i, name in enumerate((*BITS, *SHARES)):
        units = {"units": "bit" if name in BITS else "1"}
        variables[name] = (("known", "target"), estimate[i], units)
        variables[f"{name}_error"] = (("known", "target"), error[i], units)
    return xr.Dataset(variables, {"known": list(results), "target": list(targets)})


def _measure(
    results: Mapping[str, xr.DataTree],
    truth: xr.Dataset,
    target: str,
    num_resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Means and errors of one target, shapes (statistic, known)."""
    scored = [score(r, truth, target) for r in results.values()]
    shapes = {s.entropy.shape for s in scored}
    if len(shapes) > 1:
        raise ValueError(
            f"results on the same images were expected, got {' and '.join(map(str, shapes))} "
            "images and patches; infer all from the same ones"
        )
    columns = np.concatenate([_of_images(s, target) for s in scored], 1)

    def statistic(mean: np.ndarray) -> np.ndarray:
        return _statistics(mean.reshape(*mean.shape[:-1], len(scored), 3))

    estimate, error = bootstrap(
        columns, statistic=statistic, num_resamples=num_resamples, seed=seed
    )
    return estimate.reshape(-1, len(scored)), error.reshape(-1, len(scored))


def _of_images(scored: Scored, target: str) -> np.ndarray:
    """Entropy, log score and whether it is right, shape (image, 3); over sites of one image."""
    values = np.stack([scored.entropy, scored.log_score, scored.is_right], -1)
    return values[0] if len(values) == 1 else values.mean(1)


def _statistics(mean: np.ndarray) -> np.ndarray:
    """All statistics from the means (..., known, 3), flattened from (statistic, known)."""
    entropy, score, accuracy = np.moveaxis(mean, -1, 0)
    reduction, gain = entropy[..., :1] - entropy, score - score[..., :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        removed = reduction / entropy[..., :1], gain / -score[..., :1]
    all_of_them = [entropy, score, reduction, gain, reduction - gain, accuracy, *removed]
    stacked = np.stack(all_of_them, -2)
    return stacked.reshape(*stacked.shape[:-2], -1)

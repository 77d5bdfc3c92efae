"""compare(): scores of a result against sites whose classes are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ..checks import check_known, check_number
from ..defects import DEFECTS
from ..matching import MATCH, pair_positions, positions_of
from ..metrics import confusion, log_score
from .drawn import check_result, crystal_of, sampling_of

__all__ = ["compare"]

OTHER = "other"
NEIGHBOUR = 1.8  # Å, least distance of neighbouring sites: farther pairs are other sites


def compare(
    truth: xr.Dataset | Mapping[str, object],
    result: xr.DataTree,
    *,
    tolerance: float = MATCH,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """Score a micrograph whose sites are known: simulated, or labelled by hand.

    Parameters
    ----------
    truth : Dataset, DataFrame or mapping
        Known sites of the same image: positions ``site_x`` and ``site_y`` (or ``x_px`` and
        ``y_px``) in px, and names of their classes as ``defect``. For example what
        ``simulate_micrograph`` returned.
    result : DataTree
        From ``infer`` on this image.
    tolerance : float
        Largest distance of a known and a found site in Å, at most 1.8; default 0.7, about a third
        of the distance of neighbouring sites.
    labels : mapping of str to sequence of str, optional
        The classes that each label of ``truth`` stands for, where it is coarser than ``DEFECTS``,
        e.g. ``{"vacancy": ["V_X", "V_X2"], "X2": ["X2"]}``. Classes without a label count as
        "other".

    Returns
    -------
    Dataset
        Scalars: ``accuracy``; means over the matched sites with their standard errors of the log
        score, ``log_score`` and ``log_score_error``, and of the entropy, ``entropy`` and
        ``entropy_error`` [bit]; ``num_matched``, ``num_unmatched_truth``, ``num_unmatched_result``.
        By label (dimension ``label``): ``recall``, the share of the true ones that is found;
        ``precision``, the share of the found ones that is true; ``num_true``, ``num_found``, and
        ``num_lost``, the true ones without a partner. ``confusion`` (truth, prediction). By matched
        site (dimension ``match``): ``in_truth`` and ``in_result``, positions among the sites of
        either; ``distance`` [Å], ``true``, ``found`` and ``probability`` of the true label.
        ``unmatched_truth`` and ``unmatched_result`` list the others.

    Raises
    ------
    TypeError, ValueError
        If it is no result of a micrograph, or truth has no positions, no classes, or unknown ones.

    Notes
    -----
    Sites are matched one to one, nearest first. Sites of the result without crystal make no claim
    and are left out; known sites there count as lost. Standard errors take sites as independent,
    which those of one image are not: they share its context. The mean log score of a calibrated
    posterior is minus its mean entropy.

    Examples
    --------
    >>> scores = compare(data, infer(data.intensity, {"host": "WSe2"}))  # doctest: +SKIP
    >>> scores[["recall", "precision"]].to_dataframe()  # doctest: +SKIP
    """
    check_result(result, micrograph=True)
    reach = check_number(tolerance, "tolerance", (0.0, NEIGHBOUR))
    grouped = _group(result["class_posterior"].defect, labels)
    names = [str(n) for n in grouped.label.values]
    known, true = _read_truth(truth, [n for n in names if labels is None or n in labels])
    sites = np.flatnonzero(crystal_of(result))
    places = positions_of(result["constant_data"])[sites]
    in_places, in_truth = pair_positions(places, known, reach / sampling_of(result))
    matched = grouped.isel(patch=sites[in_places])
    is_matched, is_partner = np.zeros(len(known), bool), np.zeros(len(sites), bool)
    is_matched[in_truth], is_partner[in_places] = True, True
    offset = np.linalg.norm(places[in_places] - known[in_truth], axis=-1) * sampling_of(result)
    found = xr.Dataset({
        "in_truth": ("match", in_truth),
        "in_result": ("match", sites[in_places]),
        "distance": ("match", offset, {"units": "Å"}),
        "unmatched_truth": ("lost", np.flatnonzero(~is_matched)),
        "unmatched_result": ("spurious", sites[~is_partner]),
        "num_matched": len(in_truth),
        "num_unmatched_truth": int((~is_matched).sum()),
        "num_unmatched_result": int((~is_partner).sum()),
    })  # fmt: skip
    scored = _score(matched, true[in_truth])
    lost = [int((true[~is_matched] == n).sum()) for n in names]
    return found.merge(scored).assign(num_lost=("label", lost)).assign_attrs(tolerance=reach)


def _group(defect: xr.DataArray, labels: Mapping[str, Sequence[str]] | None) -> xr.DataArray:
    """Probabilities of the labels, and of what has none."""
    if labels is None:
        return defect.rename(defect_class="label").transpose("patch", "label")
    if not isinstance(labels, Mapping) or any(isinstance(v, str) for v in labels.values()):
        raise TypeError(
            f"labels was expected as a mapping of labels to lists of classes, got {labels!r:.80}; "
            'give it such as {"vacancy": ["V_X", "V_X2"]}'
        )
    used = [d for classes in labels.values() for d in classes]
    for name in used:
        check_known(name, "class", DEFECTS)
    twice = sorted({d for d in used if used.count(d) > 1})
    if twice:
        raise ValueError(
            f"each class under one label was expected, got {twice[0]!r} under several; remove one"
        )
    parts = [defect.sel(defect_class=list(c)).sum("defect_class") for c in labels.values()]
    names, rest = [*labels], [d for d in DEFECTS if d not in used]
    if rest and OTHER not in labels:
        parts.append(defect.sel(defect_class=rest).sum("defect_class"))
        names.append(OTHER)
    return xr.concat(parts, "label").assign_coords(label=names).transpose("patch", "label")


def _read_truth(truth: object, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Positions (x, y) in px and labels of the known sites."""
    if not hasattr(truth, "keys"):
        raise TypeError(
            f"a Dataset, a DataFrame or a mapping was expected as truth, got "
            f"{type(truth).__name__}; give site_x, site_y and defect"
        )
    positions = positions_of(truth)
    if "defect" not in truth:
        raise ValueError(
            "the classes of the known sites were expected as defect, got none; add their names"
        )
    true = np.asarray(truth["defect"]).ravel().astype(str)
    if len(true) != len(positions) or not np.isfinite(positions).all():
        raise ValueError(
            f"a finite position and a class of every known site were expected, got "
            f"{np.isfinite(positions).all(-1).sum()} positions and {len(true)} classes; "
            "drop incomplete rows"
        )
    unknown = sorted(set(true.tolist()) - set(names))
    if unknown:
        raise ValueError(
            f"classes among {', '.join(names)} were expected, got {unknown[0]!r}; rename it, or "
            "say by labels what it stands for"
        )
    return positions, true


def _score(probabilities: xr.DataArray, true: np.ndarray) -> xr.Dataset:
    """Scores of the matched sites."""
    names = np.array([str(n) for n in probabilities.label.values])
    values = probabilities.values.clip(0, 1)
    found = names[values.argmax(-1)]
    bits = log_score(probabilities, true, dim="label").values / np.log(2)
    entropy = -(values * np.log2(values.clip(1e-38))).sum(-1)
    table = confusion(probabilities, true, dim="label")
    right, num_true, num_found = np.diag(table), table.sum("prediction"), table.sum("truth")
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = {
            "accuracy": ((), np.divide(right.sum(), len(true)), {"units": "1"}),
            "recall": ("label", right / num_true.values, {"units": "1"}),
            "precision": ("label", right / num_found.values, {"units": "1"}),
        }
    for name, each in (("log_score", bits), ("entropy", entropy)):
        mean, error = _mean(each)
        scores[name] = ((), mean, {"units": "bit"})
        scores[f"{name}_error"] = ((), error, {"units": "bit", "long_name": "standard error"})
    scores |= {
        "num_true": ("label", num_true.values),
        "num_found": ("label", num_found.values),
        "confusion": (("truth", "prediction"), table.values),
        "true": ("match", true),
        "found": ("match", found),
        "probability": ("match", np.exp2(bits), {"units": "1", "long_name": "of the true label"}),
    }
    return xr.Dataset(scores, {"label": names, "truth": names, "prediction": names})


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error; not numbers where there are too few values."""
    if not len(values):
        return np.nan, np.nan
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(values.mean()), float(error)

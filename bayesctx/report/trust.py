"""Checks of a result that a reader needs before its numbers, each with what it means."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..inference.claims import PIXEL_LIMIT, SCREENED
from ..inference.convergence import LARGEST_RHAT, LEAST_SHARE
from ..model import load_model
from ..tables import crystal_of

__all__ = ["Check", "check_trust", "is_by_simulator", "likelihood_of"]

LOW_ESS = 20.0
MOST_STRANGE = 0.5  # share of outliers from which infer warns
EXPECTED_STRANGE = 0.05  # share of the patches of the prior above the limit
NAMED = 6  # variables or claims in a sentence


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    status : str
        "good", "doubt" or "unknown".
    title, text : str
        What is checked, and what was found, with its limit.
    """

    status: str
    title: str
    text: str


def is_by_simulator(result: xr.DataTree) -> bool:
    """Whether a micrograph was read by all of its pixels.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    bool
        False for the network.
    """
    return "sample_stats" in result.children and "r_hat" in result["sample_stats"]


def likelihood_of(result: xr.DataTree) -> str:
    """Name the likelihood of a result.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    str
        In words.
    """
    if "defect_error" in result["class_posterior"]:
        return "exact model (all pixels at once, without approximations)"
    if is_by_simulator(result):
        return "simulator (all pixels at once)"
    if "site_x" in result["constant_data"]:
        return "network (the patch around every site)"
    return "model of patches (by default the network)"


def check_trust(result: xr.DataTree) -> list[Check]:
    """Check what speaks against a result, as far as it holds what that takes.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    list of Check
        In the order in which they matter.
    """
    statistics = result["sample_stats"].to_dataset() if "sample_stats" in result.children else None
    if statistics is None:
        return [Check("unknown", "Diagnosis", "The result has no group sample_stats.")]
    found = [*_claims(result, statistics), *_surprise(result, statistics)]
    if is_by_simulator(result):
        found += _chains(result, statistics)
    else:
        found += _draws(statistics)
    return found + list(_sites(result))


def _draws(statistics: xr.Dataset) -> Iterator[Check]:
    """Effective draws of the context by the network."""
    if "ess" not in statistics:
        return
    ess = np.atleast_1d(statistics.ess.values.astype(float))
    low = (ess < LOW_ESS).sum()
    if len(ess) > 1:
        text = f"{low} of {len(ess)} images have fewer than {LOW_ESS:.0f} effective draws"
    else:
        text = f"{ess[0]:.0f} effective draws of the context; fewer than {LOW_ESS:.0f} are doubtful"
    advice = ": intervals are rough; give more of the context or raise num_draws." if low else "."
    yield Check("doubt" if low else "good", "Effective draws", text + advice)


def _chains(result: xr.DataTree, statistics: xr.Dataset) -> Iterator[Check]:
    """Mixing of the chains of the simulator."""
    rhat, ess = statistics.r_hat.values, statistics.ess_bulk.values
    names = statistics.variable.values.astype(str)
    if not np.isfinite(rhat).any():
        text = (
            "The chains are too short for r-hat (four draws of each are needed): raise num_draws."
        )
        yield Check("doubt", "Mixing of the chains", text)
        return
    number = result["posterior"].sizes["chain"] * result["posterior"].sizes["draw"]
    poor = np.flatnonzero((rhat >= LARGEST_RHAT) | (ess < LEAST_SHARE * number))
    order = poor[np.argsort(-rhat[poor])]
    text = f"r-hat up to {np.nanmax(rhat):.2f} (good: below {LARGEST_RHAT}), "
    text += f"at least {np.nanmin(ess):.0f} effective of {number} draws"
    if len(poor):
        more = f" and {len(order) - NAMED} more" if len(order) > NAMED else ""
        listed = ", ".join(names[order[:NAMED]])
        text += f"; not mixed: {listed}{more}. Their intervals are rough: raise num_draws"
    yield Check("doubt" if len(poor) else "good", "Mixing of the chains", text + ".")


def _claims(result: xr.DataTree, statistics: xr.Dataset) -> Iterator[Check]:
    """Evidence against what was claimed."""
    title = "Does the image agree with the given context?"
    if "conflict" not in statistics:
        yield Check("unknown", title, "Not checked: no single value was given for this image.")
        return
    values = statistics.conflict
    # of several images or detectors the worst
    values = values.max([d for d in values.dims if d != "claim"]).values.astype(float)
    names = statistics.claim.values.astype(str)
    by_pixels = "context" in names and bool(values[names == "context"][0] > SCREENED)
    limit = PIXEL_LIMIT if by_pixels else _network_limit(str(result.attrs.get("model", "")))
    own = [(v, n) for v, n in zip(values, names, strict=True) if n not in ("context", "several")]
    own = sorted((p for p in own if np.isfinite(p[0])), reverse=True)
    listed = "; ".join(f"{n} {_signed(v)}" for v, n in own[:NAMED])
    worst = " (largest of the images)" if "image" in statistics.conflict.dims else ""
    text = f"Gain in nats if a claim is left open{worst}: {listed}"
    text = text if own else "No claim was weighed"
    if "context" in names:
        text += f". The best fit of the pixels gains {_signed(values[names == 'context'][0])} nats"
        text += f" without any claim (weighed one by one above {SCREENED:.0f})"
    if limit is None:
        text += ". The limit belongs to the model, which is not the one of this package."
        yield Check("unknown", title, text)
        return
    wrong = [n for v, n in own if v > limit]
    text += f". A claim is doubtful above {limit:.1f}"
    text += f": check {', '.join(wrong)}, or leave it out." if wrong else "."
    yield Check("doubt" if wrong else "good", title, text)


def _signed(value: float) -> str:
    """A number with its sign, a minus and no hyphen."""
    return f"{value:+.1f}".replace("-", "−")


@functools.cache
def _network_limit(name: str) -> float | None:
    """Limit of the conflict by the network, where the model is the shipped one."""
    model = load_model()
    if model.hash() != name or "conflict_limit" not in model.card:
        return None
    return float(model.card["conflict_limit"])


def _surprise(result: xr.DataTree, statistics: xr.Dataset) -> Iterator[Check]:
    """Share of the sites that the model does not describe."""
    title = "Does the model describe the image?"
    if "surprise" not in statistics:
        yield Check("unknown", title, "Not checked: the model has no detector of outliers.")
        return
    surprise = statistics.surprise
    surprise = surprise.max("detector") if "detector" in surprise.dims else surprise
    limit = float(surprise.attrs.get("limit", np.inf))
    here = surprise.values[crystal_of(result)]
    share = float((here > limit).mean()) if here.size else 0.0
    text = (
        f"{100 * share:.1f} % of the sites look unlike anything in the training of the network "
        f"(surprise above {limit:.1f} nats; of simulated images {100 * EXPECTED_STRANGE:.0f} %)"
    )
    is_bad = share > MOST_STRANGE
    text += (
        ": their classes mean little; check pixel size, focus, and that it is one layer."
        if is_bad
        else "."
    )
    yield Check("doubt" if is_bad else "good", title, text)


def _sites(result: xr.DataTree) -> Iterator[Check]:
    """Sites without crystal, and sites without a class of more than one half."""
    crystal = crystal_of(result)
    largest = result["class_posterior"].defect.values.max(-1)[crystal]
    if not crystal.all():
        text = f"{(~crystal).sum()} sites lie in vacuum, a hole or amorphous material and are left "
        yield Check("unknown", "Sites without crystal", text + "out of all counts.")
    if largest.size:
        share = float((largest <= 0.5).mean())
        text = "Every site has a class with more than half of the probability."
        if share:
            text = f"At {100 * share:.1f} % of the sites no class has more than half of the "
            text += "probability."
        yield Check("doubt" if share > 0.1 else "good", "Undecided sites", text)

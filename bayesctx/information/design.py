"""What to look up or to record next: the expected information of each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xarray as xr

from ..checks import check_seed, check_whole_number
from ..context import CONTEXT
from ..model import DefectModel
from .lookups import look_up
from .recordings import check_settings, record
from .state import context_of, read_state

__all__ = ["expected_information_gain"]

Candidate = str | Mapping[str, float]


@torch.no_grad()
def expected_information_gain(
    result: xr.DataTree,
    candidates: Sequence[Candidate] | Mapping[str, Candidate],
    model: DefectModel | None = None,
    *,
    target: str = "class",
    num_draws: int = 512,
    num_outcomes: int = 128,
    seed: int = 0,
) -> xr.Dataset:
    """Expected information of what could be looked up or recorded next, for one patch.

    Parameters
    ----------
    result : DataTree
        From ``infer`` with a ``DefectModel``, of one patch that is an image of its own.
    candidates : sequence or mapping
        Each a variable of the context to look up, such as ``"dose"``, or the settings in which a
        further recording of the same site differs from the first, such as
        ``{"inner_collection_angle": 40.0, "outer_collection_angle": 80.0}`` or
        ``{"beam_energy": 200e3}``. The keys of a mapping name them.
    model : DefectModel, optional
        That of the result; default: the reference model.
    target : {"class", "species", "class_host", "species_host"}
        What is to be found out.
    num_draws : int
        Draws of what is not known of the context, for a look-up at each of 12 values.
    num_outcomes : int
        Simulated outcomes of a further recording.
    seed : int
        Of all draws.

    Returns
    -------
    Dataset, dimension candidate
        ``information`` in bits, its Monte Carlo standard error ``error``, and ``kind``: "look up"
        or "record"; the most informative candidate first.

    Raises
    ------
    ValueError
        If it is no result of one patch by this model, or a candidate is unknown, already known or
        cannot be.

    Notes
    -----
    The expected information of a candidate y is I(target; y | image) = H(target | image) -
    E H(target | image, y) (Lindley 1956), with everything else that is unknown integrated out.

    Look up: host and dopant are sums over the enumerated posterior of the result, without error. A
    continuous variable is looked up at the medians of 12 strata of equal prior probability (at each
    value where it has at most as many); p(target | image, value) and the probability of the value
    are sums over quasi-random draws of the rest of the context from its prior, the same for all
    values. This is a ratio estimator with a positive bias of the order of one over the effective
    number of draws, and the strata resolve a value to a twelfth of its prior.

    Record: nested Monte Carlo. World (context, host, dopant, hypothesis) and outcome are drawn from
    the posterior and from the neural likelihood of features under the new settings; log2 q(target |
    image, outcome) - log2 p(target | image) is averaged over the outcomes, where q is the estimate
    of the posterior by draws of the context other than those which made the outcome, each half of
    the draws in turn. Since no log score is larger in expectation than that of the true posterior,
    this estimate is biased downwards (Barber and Agakov 2003; Foster et al. 2019), while nested
    Monte Carlo with shared draws is biased upwards; the bias vanishes with the number of draws
    (Rainforth et al. 2018), and there is none where the whole context is known. Two recordings are
    independent given world and settings: source size, aberrations and noise are taken as those of
    two separate scans.

    References
    ----------
    Lindley, Ann. Math. Stat. 27, 986 (1956). Barber and Agakov, NIPS 16 (2003). Rainforth, Cornish,
    Yang, Warrington and Wood, ICML (2018), arXiv 1709.06181. Foster et al., NeurIPS (2019), arXiv
    1903.05480. Foster, Jankowiak, O'Meara, Teh and Rainforth, AISTATS (2020), arXiv 1911.00294.

    Examples
    --------
    >>> import bayesctx as bc
    >>> patch = bc.simulate(bc.tmd_prior().given({"host": "MoS2", "dose": 1e5}), 1, seed=0)
    >>> known = ["host", "beam_energy", "convergence_semiangle", "defocus", "dose"]
    >>> result = bc.infer(patch.intensity, patch[known])
    >>> bits = expected_information_gain(result, ["dopant", {"beam_energy": 60e3}])
    >>> sorted(bits.candidate.values.tolist())
    ['beam_energy 60000', 'dopant']
    """
    check_whole_number("num_draws", num_draws, 8, 10**6)
    check_whole_number("num_outcomes", num_outcomes, 4, 10**6)
    check_seed(seed)
    named = _named(candidates)
    state, known = read_state(result, model, target), context_of(result)
    found = []
    for candidate in named.values():
        if isinstance(candidate, str):
            _check_open(candidate, known)
            found.append(look_up(result, state, target, candidate, num_draws, seed))
        else:
            settings = check_settings(state, candidate)
            found.append(record(state, settings, num_draws, num_outcomes, seed))
    information, error = zip(*found, strict=True)
    kinds = ["look up" if isinstance(c, str) else "record" for c in named.values()]
    bits = {"units": "bit"}
    return xr.Dataset(
        {
            "information": ("candidate", list(information), bits),
            "error": ("candidate", list(error), bits),
            "kind": ("candidate", kinds),
        },
        {"candidate": list(named)},
    ).sortby("information", ascending=False)


def _named(candidates: Sequence[Candidate] | Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Candidates by name."""
    if isinstance(candidates, str) or not len(candidates):
        raise ValueError(
            f"a list of candidates was expected, got {candidates!r}; name variables of the "
            "context, or give settings of a further recording"
        )
    if isinstance(candidates, Mapping):
        return dict(candidates)
    return {c if isinstance(c, str) else _text(c): c for c in candidates}


def _text(settings: Mapping[str, float]) -> str:
    """Settings in words."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def _check_open(name: str, known: Mapping[str, object]) -> None:
    """Raise for a variable that cannot be looked up."""
    names = [n for n in CONTEXT if n != "sampling"]
    if name not in names:
        raise ValueError(
            f"a variable among {', '.join(names)} was expected as a candidate, got {name!r}; "
            "settings of a further recording are a mapping"
        )
    if name in known and isinstance(known[name], float | str | None):
        raise ValueError(
            f"variables that are not known were expected as candidates, got {name}, which is "
            f"{known[name]}; leave it out"
        )

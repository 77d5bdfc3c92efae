"""A further recording of the same site, with another detector or another voltage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checks import check_seed, check_whole_number
from ..context import ADF_RULE, CONTEXT, Detector, is_annular_dark_field
from ..inference.cases import draw_context
from ..inference.refinement import weigh
from ..likelihood import describe
from ..model import NUM_UNDOPED, DefectModel
from ..model.program import NUM_ALTERNATIVES
from ..model.table import DOPED_HYPOTHESIS, UNDOPED_HYPOTHESES
from ..prior import CONTINUOUS
from .state import State, read_state, weigh_draws

__all__ = ["check_settings", "class_given_recordings", "record"]

DEFENSIVE = 0.01  # share of the prior in an estimated posterior, which bounds its log score
UNLIKELY = 1e-7  # share of the posterior that a further recording does not bring back
FEW = 256  # draws by which a detector is checked


def record(
    state: State,
    settings: Mapping[str, float],
    num_draws: int,
    num_outcomes: int,
    seed: int,
) -> tuple[float, float]:
    """Expected information of a further recording about the target, in bits.

    Parameters
    ----------
    state : State
        The patch and what is known of it.
    settings : mapping of str to float
        Variables of the context that differ from those of the first recording.
    num_draws : int
        Draws of the context.
    num_outcomes : int
        Recordings that are simulated.
    seed : int
        Of all draws.

    Returns
    -------
    information, error : float
        Mean over the simulated recordings and its standard error.
    """
    first, (second,), possible = _contexts(state, [settings], num_draws, seed)
    joint = weigh_draws(state, first, possible).joint.double()
    joint = joint / joint.sum()
    halves = [torch.arange(joint.shape[1])] * 2
    if joint.shape[1] > 1:
        halves = [torch.arange(i, joint.shape[1], 2) for i in range(2)]
    before = state.by_value(joint.sum(1))
    gains = []
    generator = torch.Generator().manual_seed(seed)
    for own, others in (halves, halves[::-1]):
        term, draw = _choose(joint[:, own], num_outcomes // 2, generator)
        features = _simulate(state, second, term, own[draw], generator)
        inner = {n: v[others] for n, v in second.items()}
        after = _posterior(state, inner, features, joint[:, others], before)
        value = state.value[term]
        gains.append((after.gather(1, value[:, None])[:, 0] / before[value]).log2())
    gain = torch.cat(gains)
    return float(gain.mean()), float(gain.std() / len(gain) ** 0.5)


@torch.no_grad()
def class_given_recordings(
    result: xr.DataTree,
    recordings: Sequence[tuple[Mapping[str, float], xr.DataArray | np.ndarray]],
    model: DefectModel | None = None,
    *,
    num_draws: int = 1024,
    seed: int = 0,
) -> xr.DataArray:
    """Class probabilities of a patch given further recordings of the same site.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on the first recording, of one patch.
    recordings : sequence of (mapping, array of shape (y, x))
        Of each further recording the settings that differ from the first one, such as
        ``{"inner_collection_angle": 40.0, "outer_collection_angle": 80.0}``, and its patch, on the
        pixels of the model.
    model : DefectModel, optional
        That of the result; default: the reference model.
    num_draws : int
        Draws of what is not known of the context.
    seed : int
        Of the draws.

    Returns
    -------
    DataArray, dimension defect_class
        Probabilities. Host, dopant and context are shared by the recordings. Source size,
        aberrations, background and noise are integrated out for each recording by itself, although
        detectors of one scan share the probe.

    Raises
    ------
    ValueError
        If it is no result of one patch, or a setting cannot be.
    """
    check_whole_number("num_draws", num_draws, 1, 10**6)
    state = read_state(result, model, "class", least=UNLIKELY)
    settings = [check_settings(state, s) for s, _ in recordings]
    first, others, possible = _contexts(state, settings, num_draws, check_seed(seed))
    total = weigh_draws(state, first, possible).joint.double().log()
    for context, (_, patch) in zip(others, recordings, strict=True):
        pixels = torch.as_tensor(np.asarray(patch), dtype=torch.float32)
        num = state.model.prior.num_pixels
        if pixels.shape != (num, num):
            raise ValueError(
                f"a patch of {num} x {num} pixels was expected of a recording, got "
                f"{tuple(pixels.shape)}; cut it on the pixels of the model"
            )
        total += _log_density(state, context, state.model.encode(pixels[None])[0])[0]
    weight = (total - total.max()).exp().sum(1)
    classes = result["class_posterior"].defect_class.values
    found = xr.DataArray(np.zeros(len(classes)), {"defect_class": classes}, ("defect_class",))
    found.loc[{"defect_class": state.names}] = state.by_value(weight).numpy()
    return found.assign_attrs(units="1")


def check_settings(state: State, settings: Mapping[str, float]) -> dict[str, float]:
    """Check the settings of a further recording.

    Parameters
    ----------
    state : State
        The patch and what is known of it.
    settings : mapping of str to float
        By names of the continuous context.

    Returns
    -------
    dict of str to float
        The settings.

    Raises
    ------
    ValueError
        If there is none, a name is unknown, a value is outside of the model, or the detector does
        not go with the probe.
    """
    if not settings:
        raise ValueError("one setting or more was expected of a recording, got none; name them")
    checked = {}
    for name, value in settings.items():
        if name not in CONTINUOUS:
            raise ValueError(
                f"settings among {', '.join(CONTINUOUS)} were expected, got {name!r}; "
                "host and dopant are the same in all recordings"
            )
        low, high = state.model.domains[name]
        if not low <= value <= high:
            raise ValueError(
                f"{CONTEXT[name].label} from {low:g} to {high:g} was expected, which the model "
                f"covers, got {value:g}; choose a setting in this range"
            )
        checked[name] = float(value)
    context = draw_context(state.prior, FEW, 0)
    if not _is_possible(_replaced(context, checked)).any():
        raise ValueError(
            f"a detector with {ADF_RULE} was expected, got {checked} beside what is known; change "
            "its angles"
        )
    return checked


def _replaced(context: Mapping[str, Tensor], settings: Mapping[str, float]) -> dict[str, Tensor]:
    """The context with some settings in all draws."""
    return {n: torch.full_like(v, settings[n]) if n in settings else v for n, v in context.items()}


def _is_possible(context: Mapping[str, Tensor]) -> Tensor:
    """Draws whose detector goes with the probe."""
    return is_annular_dark_field(context["convergence_semiangle"], Detector.of(context))


def _contexts(
    state: State, settings: Sequence[Mapping[str, float]], num_draws: int, seed: int
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], Tensor]:
    """Contexts of the first recording and of others, and which draws are possible in all."""
    context = draw_context(state.prior, num_draws, seed)
    if all(len(v.unique()) == 1 for v in context.values()):
        context = {n: v[:1] for n, v in context.items()}
    others = [_replaced(context, s) for s in settings]
    return context, others, torch.stack([_is_possible(c) for c in (context, *others)]).all(0)


def _log_density(state: State, context: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Log density of features, (patch, term, draw), up to a constant of each patch."""
    active = state.active.expand(len(features), -1, -1)
    possible = torch.ones_like(context["dose"], dtype=torch.bool)
    # the share of a hypothesis of its class is part of the prior, not of a further recording
    counts = [NUM_ALTERNATIVES[h] for h in UNDOPED_HYPOTHESES]
    shares = torch.zeros(state.active.shape, dtype=torch.float32)
    shares[..., :NUM_UNDOPED] = torch.tensor(counts).float().log()
    block = weigh(state.model, context, possible, 0, features, state.materials, shares, active)
    joint = block.joint.double().unflatten(0, (len(features), -1))
    return joint.clamp(min=1e-300).log()


def _posterior(
    state: State,
    context: Mapping[str, Tensor],
    features: Tensor,
    weight: Tensor,
    before: Tensor,
) -> Tensor:
    """Probabilities of the target given simulated recordings, shape (recording, value)."""
    log_density = _log_density(state, context, features)
    after = state.by_value((log_density.exp() * weight).sum(-1))
    return (1 - DEFENSIVE) * after + DEFENSIVE * before


def _choose(weight: Tensor, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw terms and draws of the context by their weight, systematically."""
    edges = weight.flatten().cumsum(0)
    place = (torch.arange(num) + torch.rand(1, generator=generator).double()) / num * edges[-1]
    chosen = torch.searchsorted(edges, place).clamp(max=len(edges) - 1)
    return chosen // weight.shape[1], chosen % weight.shape[1]


def _simulate(
    state: State,
    context: Mapping[str, Tensor],
    term: Tensor,
    draw: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw features of recordings from the neural likelihood, shape (recording, feature)."""
    _, host, hypothesis = state.active.nonzero().T[:, term]
    features = torch.empty(len(term), state.features.shape[1])
    for each in hypothesis.unique().tolist():
        own = (hypothesis == each).nonzero()[:, 0]
        at_host = host[own]
        index = max(0, each - NUM_UNDOPED)
        number = DOPED_HYPOTHESIS if each >= NUM_UNDOPED else UNDOPED_HYPOTHESES[each]
        materials = state.materials.row(0)
        inputs = describe(
            materials.host[at_host],
            materials.dopant[at_host, index],
            {n: v[draw[own]] for n, v in context.items()},
            [number],
        )
        log_weight, loc, scale = (p[:, 0] for p in state.model.likelihood.parameters_of(inputs))
        component = torch.multinomial(log_weight.exp(), 1, generator=generator)[:, 0]
        rows = torch.arange(len(own))
        noise = torch.randn(loc.shape[0], loc.shape[-1], generator=generator)
        features[own] = loc[rows, component] + scale[rows, component] * noise
    return features

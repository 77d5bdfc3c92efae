"""What a result tells of one patch: features, prior under what is known, and terms that count."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..context import CONTEXT, NO_DOPANT
from ..distributions import decode
from ..inference.inputs import read_inputs, resample_patches
from ..inference.outcomes import by_outcome, outcome_labels
from ..inference.refinement import Block, log_prior_of, weigh
from ..model import NUM_UNDOPED, DefectModel, Materials, SitePrior, load_model
from ..prior import Prior
from .targets import TARGETS, joined

__all__ = ["State", "context_of", "entropy_of", "read_state", "weigh_draws"]

LEAST_SHARE = 1e-4  # of the posterior
KEYS = ("class", "species", "class_host", "species_host")
"""Targets that are sums over the outcomes of a site."""


@dataclass(frozen=True, eq=False)
class State:
    """One patch and what is known of it.

    Attributes
    ----------
    model : DefectModel
        The model of the result.
    prior : Prior
        Under what is known.
    features : Tensor, shape (1, feature)
        Of the patch.
    materials : Materials, shapes (1, host, ...)
        Hosts and dopants that are enumerated.
    active : Tensor of bool, shape (1, host, hypothesis)
        Terms with a share of the posterior.
    value : Tensor of int, shape (term,)
        Value of the target of every active term, in their order.
    names : ndarray of str, shape (value,)
        Of these values.
    """

    model: DefectModel
    prior: Prior
    features: Tensor
    materials: Materials
    active: Tensor
    value: Tensor
    names: np.ndarray

    def by_value(self, weight: Tensor) -> Tensor:
        """Normalised probabilities of the values of the target.

        Parameters
        ----------
        weight : Tensor, shape (*batch, term)
            Of the active terms.

        Returns
        -------
        Tensor, shape (*batch, value)
            They add up to one.
        """
        found = torch.zeros(*weight.shape[:-1], len(self.names), dtype=torch.float64)
        found.index_add_(-1, self.value, weight.double())
        return found / found.sum(-1, keepdim=True).clamp(min=1e-300)


def read_state(
    result: xr.DataTree, model: DefectModel | None, target: str, *, least: float = LEAST_SHARE
) -> State:
    """Read one patch off a result.

    Parameters
    ----------
    result : DataTree
        From ``infer``, of one patch.
    model : DefectModel, optional
        That the result was inferred with; default: the reference model.
    target : str
        One of ``KEYS``.
    least : float
        Share of the posterior of a host and hypothesis below which it is left out.

    Returns
    -------
    State
        Of the patch.

    Raises
    ------
    ValueError
        If it is no result of one patch by this model, or the target cannot be summed.
    """
    if target not in KEYS:
        raise ValueError(f"a target among {', '.join(KEYS)} was expected, got {target!r}")
    found = result["class_posterior"].to_dataset()
    if "outcome" not in found or found.outcome.size != found.sizes["outcome"]:
        num = found.defect.size // found.sizes["defect_class"]
        raise ValueError(
            f"the result of one patch was expected, got {num} sites; infer patches that are "
            "images of their own, and select one: result.isel(image=0, missing_dims='ignore')"
        )
    model = (_reference() if model is None else model).frozen()
    if not isinstance(model, DefectModel) or model.hash() != result.attrs["model"]:
        raise ValueError(
            f"the DefectModel of the result was expected ({result.attrs['model']}), got "
            f"{type(model).__name__} {model.hash()}; pass the model that infer was given"
        )
    known = context_of(result)
    prior = model.prior.given({n: v for n, v in known.items() if n != "sampling"})
    materials = Materials.of(prior).map(lambda f: f[None])
    labels = outcome_labels()
    keys = joined([labels[f"outcome_{v}"] for v in TARGETS[target]])
    place, share = _outcomes_of(materials), found.outcome.values.ravel()
    active = torch.from_numpy(share[place] > least)
    names, value = np.unique(keys[place][active.numpy()], return_inverse=True)
    features = model.encode(_patch(result, known, model.prior))[0]
    return State(model, prior, features, materials, active, torch.from_numpy(value), names)


@functools.cache
def _reference() -> DefectModel:
    """The model that is shipped."""
    return load_model()


def context_of(result: xr.DataTree) -> dict[str, object]:
    """Read what is known of one image off its result.

    Parameters
    ----------
    result : DataTree
        From ``infer``, of one image.

    Returns
    -------
    dict
        Context as ``infer`` takes it.

    Raises
    ------
    ValueError
        If a distribution was given that files cannot hold.
    """
    constants = result["constant_data"].to_dataset()
    known = {n: constants[n].values.ravel()[0] for n in CONTEXT if n in constants}
    known = {n: str(v) if CONTEXT[n].is_name else float(v) for n, v in known.items()}
    if known.get("dopant") == NO_DOPANT:
        known["dopant"] = None
    for name, value in json.loads(result.attrs["context"]).items():
        if name in known:
            continue
        if isinstance(value, str):
            raise ValueError(
                f"evidence on {name} of a family that results can hold was expected, got {value}; "
                "infer with Uniform, Normal, HalfNormal, Beta or log_uniform"
            )
        decoded = {n: decode(v) for n, v in value.items()} if name == "abundance" else decode(value)
        known[name] = list(decoded) if isinstance(decoded, tuple) else decoded
    return known


def weigh_draws(
    state: State, context: Mapping[str, Tensor], possible: Tensor | None = None
) -> Block:
    """Joint density of the patch, host and hypothesis under draws of the context.

    Parameters
    ----------
    state : State
        The patch.
    context : mapping of str to Tensor, shape (draw,)
        The draws.
    possible : Tensor of bool, shape (draw,), optional
        Which of them can be; default: all.

    Returns
    -------
    Block
        ``joint`` has the shape (term, draw).
    """
    if possible is None:
        possible = torch.ones_like(context["dose"], dtype=torch.bool)
    weights = SitePrior.of_patches(state.prior, 1).mean
    log_prior = log_prior_of(state.materials, weights)
    given = context, possible, 0, state.features, state.materials, log_prior, state.active
    return weigh(state.model, *given)


def entropy_of(probabilities: Tensor) -> Tensor:
    """Entropy in bits along the last dimension.

    Parameters
    ----------
    probabilities : Tensor, shape (*batch, value)
        They add up to one.

    Returns
    -------
    Tensor, shape (*batch,)
        In bits.
    """
    return -torch.xlogy(probabilities, probabilities).sum(-1) / np.log(2)


def _outcomes_of(materials: Materials) -> np.ndarray:
    """Position of every host and hypothesis among the outcomes, shape (1, host, hypothesis)."""
    one = materials.row(0)
    num_hosts, num_dopants = one.dopant.shape
    size = num_hosts * (NUM_UNDOPED + num_dopants)
    each = torch.eye(size).view(size, num_hosts, -1)
    return by_outcome(materials, each).argmax(1).reshape(1, num_hosts, -1)


def _patch(result: xr.DataTree, known: Mapping[str, object], prior: Prior) -> Tensor:
    """The patch on the pixels of the model, shape (1, y, x)."""
    image = result["observed_data"].intensity
    sampling, extent = known.get("sampling"), prior.num_pixels * prior.sampling
    plain = xr.DataArray(image.values.reshape(1, *image.shape[-2:]), dims=("image", "y", "x"))
    inputs = read_inputs(plain, None, extent, prior.num_pixels, sampling)
    return torch.cat(list(resample_patches(inputs, known, prior)))

"""Cases of contexts: every kind of value for every variable, alone and in combinations."""

from __future__ import annotations

import math
import types
import warnings
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr

import bayesctx as bc

from .case import Case, complaint_of_posterior
from .images import some_draws
from .scenes import CONDITIONS, micrograph, model_of, patches
from .values import Rng, choose, hostile_number, hostile_object, maybe

__all__ = ["context_case", "context_of"]

NAMES = tuple(bc.CONTEXT)
OTHER_NAMES = (
    "Host", "hosts", "doze", "dose ", "energy", "voltage", "", "host\n", "beam energy", 3, None,
    ("host",), b"host", "defocus_nm", "x" * 3000, np.str_("hos"), "sampling_y", 1.5,
)  # fmt: skip
MODES = ("patch", "patch", "patch", "patches of an image", "images", "images", "micrograph")
NUM_IMAGES = 3


def context_case(rng: Rng, folder: Path) -> Case:
    """A context for a patch, for patches of an image, for independent images or for a micrograph.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        Unused.

    Returns
    -------
    Case
        Handed to ``infer``.
    """
    mode = str(choose(rng, MODES))
    truth = dict(CONDITIONS[int(rng.integers(len(CONDITIONS)))])
    values: object = patches()[0]
    if mode == "micrograph":
        values, truth = micrograph(0, 0)
    elif mode == "patches of an image":
        values = patches()[:NUM_IMAGES]
    elif mode == "images":
        values = xr.DataArray(patches()[:NUM_IMAGES], dims=("image", "y", "x"))
    context = context_of(rng, truth)
    draws, kind = some_draws(rng), str(choose(rng, ("small", "small", "reference")))
    text = f"{mode}; {_words(context)}; {draws} draws; {kind} model"
    own = model_of(kind)
    options = {"num_draws": draws, "likelihood": "network"}
    return Case(text, lambda: bc.infer(values, context, own, **options), complaint_of_posterior)


def _words(context: object) -> str:
    """A context in words."""
    try:
        return " ".join(str(context).split())[:450]
    except Exception as error:  # noqa: BLE001 (a distribution on no device has no words)
        return f"{type(context).__name__} without words ({error})"


def context_of(rng: Rng, truth: dict[str, object]) -> object:
    """A part of what is true, with one or more values that are not plain numbers.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    truth : dict
        By the names of the context.

    Returns
    -------
    object
        Mostly a mapping.
    """
    share = float(choose(rng, (0.0, 0.3, 0.8, 1.0)))
    context: dict[object, object] = {n: v for n, v in truth.items() if maybe(rng, share)}
    for _ in range(int(choose(rng, (1, 1, 1, 2, 4)))):
        name = str(choose(rng, NAMES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context[name] = _value(rng, name, truth.get(name))
    if maybe(rng, 0.06):
        context[choose(rng, OTHER_NAMES)] = choose(rng, (1.0, "WSe2", None))
    if maybe(rng, 0.15):
        context |= _contradiction(rng)
    if maybe(rng, 0.15):
        context["abundance"] = hostile_object(rng) if maybe(rng, 0.1) else _shares(rng)
    if maybe(rng, 0.1):
        context["dopant"] = choose(rng, (None, "none", np.array([None, "V", "none"]), ["V", None]))
    return _contained(rng, context) if maybe(rng, 0.1) else context


def _shares(rng: Rng) -> dict[object, object]:
    """Shares of defect classes, of any kind."""
    kinds = (
        lambda: 0,
        lambda: 0.0,
        lambda: float(10 ** rng.uniform(-6, 0)),
        lambda: tuple(rng.uniform(0.0, 0.3, 2).tolist()),
        lambda: dist.Beta(*(10 ** rng.uniform(-2, 3, 2)).tolist()),
        lambda: dist.Normal(float(rng.uniform(0, 0.5)), float(10 ** rng.uniform(-9, 0))),
        lambda: hostile_number(rng),
        lambda: hostile_object(rng),
    )
    names = [choose(rng, bc.DEFECTS) for _ in range(int(choose(rng, (1, 1, 2, 5))))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: choose(rng, kinds)() for name in names}


def _value(rng: Rng, name: str, true: object) -> object:
    """A value of a variable, of any kind."""
    kinds = (_true, _true, _true, _plain, _number_near, _candidates, _candidates, _array, _hostile)
    if bc.CONTEXT[name].is_name:
        return choose(rng, (*kinds, _spelled, _spelled))(rng, name, true)
    return choose(rng, (*kinds, _distribution, _distribution, _distribution))(rng, name, true)


def _hostile(rng: Rng, name: str, true: object) -> object:
    """What stands for no value."""
    return hostile_number(rng) if maybe(rng, 0.6) else hostile_object(rng)


def _plain(rng: Rng, name: str, true: object) -> object:
    """A value in the domain."""
    variable = bc.CONTEXT[name]
    if variable.is_name:
        return choose(rng, variable.domain)
    if true is not None and maybe(rng, 0.5):
        return true
    low, high = variable.domain
    if maybe(rng, 0.8):  # most in the narrower domain of the model
        low, high = model_of("small").domains.get(name, (low, high))
    value = (
        math.exp(rng.uniform(math.log(low), math.log(high))) if low > 0 else rng.uniform(low, high)
    )
    return float(value)


def _true(rng: Rng, name: str, true: object) -> object:
    """A value in the domain, in some type."""
    value = _plain(rng, name, true)
    if isinstance(value, str):
        return choose(rng, (np.str_, np.array, lambda v: [v], lambda v: xr.DataArray(v), str))(
            value
        )
    forms = (
        float, np.float32, np.float64, np.float16, np.longdouble, np.array, torch.tensor, int,
        str, lambda v: Decimal(repr(v)), Fraction, lambda v: [v], lambda v: np.array([v]),
        xr.DataArray, lambda v: torch.tensor(v, requires_grad=True), lambda v: complex(v),
        lambda v: np.int64(v), lambda v: torch.tensor([v]), lambda v: f"{v} eV",
        lambda v: np.array(v, ">f4"),
    )  # fmt: skip
    return choose(rng, forms)(value)


def _number_near(rng: Rng, name: str, true: object) -> object:
    """A number at the edge of the domain, beyond it, or in another unit."""
    variable = bc.CONTEXT[name]
    if variable.is_name:
        return choose(rng, (0, 1, -1, 10**6))
    low, high = variable.domain
    factors = [f for _, f in variable.slips] + [1e3, 1e-3]
    edge = float(choose(rng, (low, high)))
    kinds = (
        lambda: edge, lambda: np.nextafter(edge, np.inf), lambda: np.nextafter(edge, -np.inf),
        lambda: edge * (1 + float(choose(rng, (1e-7, 1e-4, 0.01, 0.098, 0.3, 2.0, -0.01)))),
        lambda: _plain(rng, name, true) / float(choose(rng, factors)), lambda: -edge,
        lambda: int(edge), lambda: edge * 1e30,
    )  # fmt: skip
    return choose(rng, kinds)()


def _candidates(rng: Rng, name: str, true: object) -> object:
    """Several values in some container, at times with one that is none."""
    values = [_plain(rng, name, true) for _ in range(int(choose(rng, (1, 2, 2, 3, 40))))]
    if maybe(rng, 0.1):
        values.insert(int(rng.integers(len(values) + 1)), _hostile(rng, name, true))
    if maybe(rng, 0.1):
        values = values * 300
    containers = (
        list, tuple, list, list, list, list, list, set, lambda v: [v, v], lambda v: iter(v),
        lambda v: dict.fromkeys(map(str, v)), lambda v: {str(x) for x in v},
        lambda v: range(0, 90000, 30000), lambda v: OrderedDict(enumerate(v)),
        lambda v: np.array(v, object), lambda v: tuple(map(str, v)), lambda v: v[:1] + [v],
    )  # fmt: skip
    return choose(rng, containers)(values)


def _array(rng: Rng, name: str, true: object) -> object:
    """One value for each image, for too few or for too many."""
    length = int(choose(rng, (NUM_IMAGES, NUM_IMAGES, NUM_IMAGES, 1, 2, 0, 5)))
    values = np.array([_plain(rng, name, true) for _ in range(length)])
    if maybe(rng, 0.2) and length and values.dtype.kind == "f":
        values[0] = choose(rng, (np.nan, np.inf, -1.0, 1e300))
    forms = (
        lambda: values, lambda: values, lambda: values,
        lambda: xr.DataArray(values, dims="image"), lambda: xr.DataArray(values, dims="sample"),
        lambda: values[None], lambda: values.astype(object), lambda: values.tolist(),
        lambda: torch.tensor(values) if values.dtype.kind == "f" else values,
        lambda: np.ma.MaskedArray(values, np.arange(length) == 0), lambda: values.astype("S8"),
        lambda: values.astype("f4") if values.dtype.kind == "f" else values[::-1],
        lambda: xr.DataArray(values[None], dims=("image", "patch")[:2]),
    )  # fmt: skip
    return choose(rng, forms)()


def _distribution(rng: Rng, name: str, true: object) -> object:
    """Soft evidence of any family and shape, inside of the domain, across its border, far off."""
    low, high = bc.CONTEXT[name].domain
    at, width = float(_plain(rng, name, true)), float(high - low)
    at += float(choose(rng, (0.0, 0.0, 0.0, width, -width, 100 * width)))
    spread = width * float(choose(rng, (1e-12, 1e-3, 0.03, 0.3, 3.0, 1e6)))
    positive = max(abs(at), 1e-3)
    scale = torch.tensor(spread)
    kinds = (
        lambda: dist.Normal(at, spread),
        lambda: dist.Normal(at, spread),
        lambda: dist.Uniform(at - spread, at + spread),
        lambda: dist.Uniform(low, high),
        lambda: dist.Uniform(-1e30, 1e30),
        lambda: torch.distributions.Normal(at, spread),
        lambda: torch.distributions.Uniform(at - spread, at + spread),
        lambda: bc.log_uniform(positive, positive * (1 + spread / width)),
        lambda: dist.LogNormal(float(np.log(positive)), min(spread / width, 50.0)),
        lambda: dist.Cauchy(at, spread),
        lambda: dist.StudentT(2.0, at, spread),
        lambda: dist.HalfNormal(spread),
        lambda: dist.HalfCauchy(spread),
        lambda: dist.Exponential(1 / positive),
        lambda: dist.Gamma(2.0, 2.0 / positive),
        lambda: dist.Beta(2.0, 2.0),
        lambda: dist.Delta(torch.tensor(at)),
        lambda: dist.Laplace(at, spread),
        lambda: dist.Gumbel(at, spread),
        lambda: dist.Pareto(positive, 1.0),
        lambda: dist.Poisson(min(positive, 1e6)),
        lambda: dist.Bernoulli(0.5),
        lambda: dist.Categorical(torch.ones(3)),
        lambda: dist.Normal(torch.full((2,), at), scale),
        lambda: torch.distributions.Normal(torch.full((NUM_IMAGES,), at), scale),
        lambda: dist.Normal(torch.full((1,), at), scale),
        lambda: dist.MultivariateNormal(torch.full((2,), at), torch.eye(2)),
        lambda: dist.Normal(torch.full((2,), at), scale).to_event(1),
        lambda: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([at, low]), scale)
        ),
        lambda: dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(at, spread)]
        ),
        lambda: dist.Normal(torch.tensor(at, requires_grad=True), scale),
        lambda: dist.Normal(
            torch.tensor(at, dtype=torch.float64), torch.tensor(spread, dtype=torch.float64)
        ),
        lambda: dist.Normal(torch.tensor(float("nan")), 1.0, validate_args=False),
        lambda: dist.Normal(at, torch.tensor(-1.0), validate_args=False),
        lambda: dist.Uniform(torch.tensor(at + 1), torch.tensor(at), validate_args=False),
        lambda: dist.Normal(
            torch.tensor(at, device="meta"), torch.tensor(1.0, device="meta"), validate_args=False
        ),
        lambda: dist.ImproperUniform(dist.constraints.real, (), ()),
        lambda: dist.Unit(torch.tensor(0.0)),
        lambda: dist.VonMises(0.0, 1.0),
        lambda: dist.Empirical(torch.tensor([at, low, high]), torch.zeros(3)),
        lambda: dist.Normal(at, spread).mask(False),
        lambda: dist.Logistic(at, spread),
        lambda: dist.Weibull(positive, 1.5),
        lambda: dist.Normal,
        lambda: "Normal(0, 1)",
    )
    try:
        return choose(rng, kinds)()
    except (ValueError, AttributeError, NotImplementedError):  # not a distribution at all
        return dist.Normal(at, max(spread, 1e-6))


def _spelled(rng: Rng, name: str, true: object) -> object:
    """A name that is slightly wrong."""
    right = str(choose(rng, bc.CONTEXT[name].domain))
    forms = (
        str.lower, str.upper, lambda s: s + " ", lambda s: s[:-1], lambda s: s * 200,
        lambda s: s.encode(), lambda s: s.replace("2", "₂"), lambda s: f"2H-{s}",
        lambda s: [s, s.lower()], lambda s: (s, None), lambda s: {s},
        lambda s: np.array([s] * NUM_IMAGES), lambda s: np.array([s.encode()] * NUM_IMAGES),
        lambda s: np.array([s] * NUM_IMAGES, object),
        lambda s: xr.DataArray([s] * NUM_IMAGES, dims="image"), lambda s: {s: 0.5},
        lambda s: torch.tensor(0),
        lambda s: choose(rng, ("graphene", "hBN", "Xx", "He", "C", "")),
    )  # fmt: skip
    return choose(rng, forms)(right)


def _contradiction(rng: Rng) -> dict[str, object]:
    """Values that exclude each other, or nearly."""
    inner = float(rng.uniform(25, 100))
    kinds = (
        lambda: {
            "inner_collection_angle": inner,
            "outer_collection_angle": inner * float(choose(rng, (0.9, 1.0, 1.0001, 1.03))),
        },
        lambda: {
            "convergence_semiangle": 40.0,
            "inner_collection_angle": float(choose(rng, (25.0, 39.999, 40.0, 40.001))),
        },
        lambda: {
            "convergence_semiangle": dist.Uniform(30.0, 40.0),
            "inner_collection_angle": dist.Uniform(25.0, 30.0),
        },
        lambda: {"inner_collection_angle": [100.0, 150.0], "outer_collection_angle": [60.0, 99.0]},
        lambda: {
            "inner_collection_angle": dist.Normal(200.0, 1.0),
            "outer_collection_angle": dist.Normal(100.0, 1.0),
        },
        lambda: {"host": "WSe2", "dopant": "W"},
        lambda: {"host": ["WSe2", "WS2"], "dopant": ["W"]},
        lambda: {"host": np.array(["WSe2"] * NUM_IMAGES), "dopant": np.array(["W", "Ti", "V"])},
        lambda: {"host": np.array(["WSe2", "MoS2", "WS2"]), "dopant": "W"},
        lambda: {
            "outer_collection_angle": np.array([30.0, 200.0, 300.0]),
            "inner_collection_angle": 60.0,
        },
        lambda: {
            "dose": np.geomspace(1e3, 1e6, NUM_IMAGES),
            "defocus": np.linspace(-50, 50, NUM_IMAGES),
        },
        lambda: {
            "sampling": float(choose(rng, (0.02, 0.05, 0.6))),
            "host": choose(rng, ("WSe2", ["MoS2", "MoTe2"])),
        },
        lambda: {"dopant": [str(m) for m in bc.CONTEXT["dopant"].domain]},
    )
    return choose(rng, kinds)()


def _contained(rng: Rng, context: dict) -> object:
    """A context in another container, or something that is none."""

    def dataset() -> object:
        return xr.Dataset({str(n): v for n, v in context.items() if isinstance(v, float | str)})

    kinds = (
        dataset, lambda: OrderedDict(context), lambda: types.MappingProxyType(context),
        lambda: list(context.items()), lambda: str(context), lambda: None,
        lambda: hostile_object(rng), lambda: hostile_number(rng), lambda: set(map(str, context)),
        lambda: bc.reference_prior(),
        lambda: dataset().to_array() if dataset().data_vars else None,
    )  # fmt: skip
    try:
        return choose(rng, kinds)()
    except (ValueError, TypeError):
        return context

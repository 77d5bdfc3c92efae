"""Cases of everything that ``infer`` takes besides image and context, and of priors."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr

import bayesctx as bc

from .case import Case, complaint_of_posterior
from .scenes import CONDITIONS, micrograph, model_of, patches
from .values import Rng, choose, hostile_number, hostile_object, maybe

__all__ = ["option_case", "prior_case"]


def option_case(rng: Rng, folder: Path) -> Case:
    """A seed, a number of draws, a model or surroundings that are not the usual ones.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        Of files.

    Returns
    -------
    Case
        Handed to ``infer``, or another verb that takes a seed.
    """
    kind = str(choose(rng, ("seed", "num_draws", "model", "model", "surroundings", "simulate")))
    image: object = choose(rng, (patches()[0], patches()[:2], micrograph(1, 0)[0]))
    context = dict(CONDITIONS[1]) if maybe(rng, 0.5) else {"host": "MoS2"}
    options: dict[str, object] = {
        "num_draws": 8, "model": model_of("small"), "likelihood": "network",
    }  # fmt: skip
    if kind in ("seed", "num_draws"):
        options[kind] = _whole_number(rng)
    if kind == "model":
        words, options["model"] = _model(rng, folder)
    elif kind == "surroundings":
        words, around = _surroundings(rng)
        return Case(
            f"{kind} {words}; {np.shape(image)}; {context}",
            around(lambda: bc.infer(image, context, **options)),
            complaint_of_posterior,
        )
    elif kind == "simulate":
        return _simulation(rng)
    else:
        words = f"{options[kind]!r}"[:200]
    text = f"{kind} {words}; {np.shape(image)}; {context}"
    return Case(text, lambda: bc.infer(image, context, **options), complaint_of_posterior)


def _whole_number(rng: Rng) -> object:
    """What somebody may write for a whole number."""
    usual = (
        np.int64(3), np.int8(8), np.uint64(2**64 - 1), -1, 0, 1, 2**31, 2**32, 2**63, 2**63 - 1,
        2**64, 3.0, 3.5, True, "3", None, 10**400, np.array(3), np.array([3]), torch.tensor(3),
        1e3, 10**6 + 1, np.float64(3), float("nan"), np.bool_(True), 2,
    )  # fmt: skip
    kinds = (
        lambda: choose(rng, usual),
        lambda: choose(rng, usual),
        lambda: hostile_number(rng),
        lambda: hostile_object(rng),
    )
    return choose(rng, kinds)()


def _simulation(rng: Rng) -> Case:
    """Simulation with numbers of any kind."""
    name = str(choose(rng, ("seed", "start", "num_patches", "index", "num_pixels", "sampling")))
    value = _whole_number(rng)
    prior = bc.reference_prior().given({"host": "WSe2"})
    text = f"simulate {name} {value!r}"[:300]
    if name in ("index", "num_pixels", "sampling"):
        sizes: dict[str, object] = {"num_pixels": 32, "seed": 0} | {name: value}
        return Case(text, lambda: bc.simulate_micrograph(prior, **sizes), _complaint_of_simulation)
    numbers: dict[str, object] = {"num_patches": 2, "seed": 0} | {name: value}
    return Case(text, lambda: bc.simulate(prior, **numbers), _complaint_of_simulation)


def _complaint_of_simulation(data: xr.Dataset) -> str:
    """Say what is wrong with simulated images."""
    finite = bool(np.isfinite(data.intensity.values).all())
    return "" if finite and data.intensity.size else "intensity is not finite or empty"


def _model(rng: Rng, folder: Path) -> tuple[str, object]:
    """A model in an unusual state, or what is none."""

    def changed(change: Callable[[bc.DefectModel], object]) -> bc.DefectModel:
        model = copy.deepcopy(model_of("small"))
        change(model)
        return model

    def fill(value: float) -> Callable[[bc.DefectModel], object]:
        def change(model: bc.DefectModel) -> None:
            with torch.no_grad():
                parameters = list(model.parameters())
                parameters[int(rng.integers(len(parameters)))].fill_(value)

        return change

    kinds = {
        "path": lambda: folder / "x.safetensors",
        "name": lambda: "x.safetensors",
        "class": lambda: bc.DefectModel,
        "prior": bc.tmd_prior,
        "module": lambda: torch.nn.Linear(3, 3),
        "object": lambda: hostile_object(rng),
        "train mode": lambda: changed(lambda m: m.train()),
        "double precision": lambda: changed(lambda m: m.double()),
        "half precision": lambda: changed(lambda m: m.half()),
        "bfloat16": lambda: changed(lambda m: m.bfloat16()),
        "meta": lambda: changed(lambda m: m.to("meta")),
        "NaN weights": lambda: changed(fill(float("nan"))),
        "infinite weights": lambda: changed(fill(float("inf"))),
        "huge weights": lambda: changed(fill(1e30)),
        "zero weights": lambda: changed(fill(0.0)),
        "NaN correlation": lambda: changed(lambda m: m.correlation.fill_(float("nan"))),
        "correlation 2": lambda: changed(lambda m: m.correlation.fill_(2.0)),
        "empty card": lambda: changed(lambda m: setattr(m, "card", {})),
        "no gradients": lambda: changed(lambda m: m.requires_grad_(False)),
        "other prior": lambda: model_of("small").with_prior(bc.tmd_prior()),
        "narrow prior": lambda: model_of("small").with_prior(
            bc.reference_prior().given({"host": "WS2"})
        ),
        "exact": bc.ExactModel,
        "untrained": lambda: bc.DefectModel(
            bc.limit_prior(), num_features=2, num_components=1, hidden=4, width=4
        ),
    }
    name = str(choose(rng, list(kinds)))
    return name, kinds[name]()


def _surroundings(rng: Rng) -> tuple[str, Callable[[Callable], Callable]]:
    """Global settings of a user, in which the package works and which it leaves alone."""

    def dtype(call: Callable) -> Callable:
        def run() -> object:
            before = torch.get_default_dtype()
            torch.set_default_dtype(choose(rng, (torch.float64, torch.float16, torch.bfloat16)))
            inside = torch.get_default_dtype()
            try:
                result = call()
                if torch.get_default_dtype() != inside:
                    raise RuntimeError("the default dtype was changed")
                return result
            finally:
                torch.set_default_dtype(before)

        return run

    def within(manager: Callable) -> Callable[[Callable], Callable]:
        def around(call: Callable) -> Callable:
            def run() -> object:
                with manager():
                    return call()

            return run

        return around

    def seeded(call: Callable) -> Callable:
        def run() -> object:
            usual = random.getstate()
            random.seed(1)
            before = random.getstate(), torch.get_rng_state()
            try:
                result = call()
                after = random.getstate(), torch.get_rng_state()
            finally:
                random.setstate(usual)
            if after[0] != before[0] or not torch.equal(after[1], before[1]):
                raise RuntimeError("a global generator was used")
            return result

        return run

    kinds = {
        "default dtype": dtype,
        "inference mode": within(torch.inference_mode),
        "gradients": within(torch.enable_grad),
        "no gradients": within(torch.no_grad),
        "no validation": within(lambda: dist.validation_enabled(False)),
        "errors of numpy ignored": within(lambda: np.errstate(all="ignore")),
        "attributes dropped": within(lambda: xr.set_options(keep_attrs=False)),
        "attributes kept": within(lambda: xr.set_options(keep_attrs=True)),
        "arithmetic by exact labels": within(lambda: xr.set_options(arithmetic_join="exact")),
        "a seed": seeded,
    }
    name = str(choose(rng, list(kinds)))
    return name, kinds[name]


def prior_case(rng: Rng, folder: Path) -> Case:
    """A prior with a wrong name or value, drawn from.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        Unused.

    Returns
    -------
    Case
        Made, drawn from, written and read.
    """
    base = bc.reference_prior() if maybe(rng, 0.5) else bc.tmd_prior()
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    name = str(choose(rng, list(fields)))
    fields[name] = _field(rng, name, fields[name])
    if (
        name == "num_pixels"
        and isinstance(fields[name], int | np.integer)
        and 64 < fields[name] < 4096
    ):
        fields[name] = 48  # allowed, and slow

    def use() -> object:
        prior = bc.Prior(**fields)
        again = bc.Prior.from_dict(prior.to_dict())
        return bc.simulate(again.given({}), 2, seed=0)

    return Case(
        f"prior with {name} = {' '.join(repr(fields[name]).split())[:300]}",
        use,
        _complaint_of_simulation,
    )


def _value_of_prior(rng: Rng) -> object:
    """A number, candidates or a distribution, rarely a good one."""
    kinds = (
        lambda: hostile_number(rng), lambda: hostile_object(rng), lambda: float(rng.normal()),
        lambda: dist.Normal(0.0, 1.0), lambda: dist.Uniform(0.0, 1.0),
        lambda: dist.Cauchy(0.0, 1.0), lambda: dist.Normal(torch.zeros(2), 1.0),
        lambda: (1.0, 2.0), lambda: (), lambda: [1.0], lambda: dist.Delta(torch.tensor(1.0)),
        lambda: 1e30, lambda: -1.0, lambda: dist.Normal(float("nan"), 1.0, validate_args=False),
        lambda: dist.Uniform(-1e30, 1e30), lambda: bc.log_uniform(1e-30, 1e30),
        lambda: float("nan"),
    )  # fmt: skip
    return choose(rng, kinds)()


def _field(rng: Rng, name: str, value: object) -> object:
    """Another value of a field of a prior."""
    if maybe(rng, 0.15):
        return hostile_object(rng) if maybe(rng, 0.5) else hostile_number(rng)
    if isinstance(value, dict):
        value = value or {"V_X": 0.1}
        changed, key = dict(value), str(choose(rng, list(value)))
        if maybe(rng, 0.3):
            changed[choose(rng, ("source_siez", "Xx", "", 3, None, "WSe3"))] = choose(
                rng, list(value.values())
            )
        elif maybe(rng, 0.3):
            del changed[key]
        elif name == "dopants":
            changed[key] = choose(
                rng, (("Xx",), (), ("W", "W"), "Ti", None, ("Mo",), [1.0], ("Ti", 3))
            )
        else:
            changed[key] = _value_of_prior(rng)
        return changed
    if name == "conditions":
        condition, key = dict(value[0]), str(choose(rng, list(value[0])))
        if maybe(rng, 0.3):
            del condition[key]
        elif maybe(rng, 0.3):
            condition[choose(rng, ("dosis", "host", "sampling", 3))] = 1.0
        else:
            condition[key] = _value_of_prior(rng)
        return choose(
            rng, ((condition,), [condition], (), condition, (condition, None), (*value, condition))
        )
    if isinstance(value, tuple):
        return choose(
            rng,
            (
                (),
                ("Xx",),
                value[:1],
                value * 3,
                "WSe2",
                (*value, None),
                (value,),
                list(value),
                (value[0], 3),
            ),
        )
    if name == "num_pixels":
        return choose(rng, (0, -1, 1, 2, 31, 33, 1.5, "32", None, 10**9, np.int64(32), True, 32.0))
    return choose(
        rng,
        (
            0.0,
            -0.25,
            1e-9,
            1e9,
            "0.25",
            None,
            float("nan"),
            float("inf"),
            np.float32(0.25),
            True,
            0.3,
        ),
    )

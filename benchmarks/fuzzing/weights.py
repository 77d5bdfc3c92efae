"""Cases of models and checkpoints as files: weights damaged, cards edited."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import bayesctx as bc

from .case import Case, complaint_of_posterior
from .files import KNOWN, RUN, edited, put, store
from .scenes import model_of, patches
from .values import Rng, choose, maybe

__all__ = ["card_case", "checkpoint_case", "weight_case"]


def weight_case(rng: Rng, folder: Path) -> Case:
    """Damaged weights, loaded.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For the file.

    Returns
    -------
    Case
        A success only where the model is the whole one.
    """
    name = str(choose(rng, ("small", "small", "reference")))
    source = store() / f"{name}.safetensors"
    path, text = put(rng, source, folder)
    whole = bc.load_model(source)

    def check(model: bc.DefectModel) -> str:
        if text == "a file of another kind":  # perhaps another model, whole
            return ""
        same = model.hash() == whole.hash() and model.card == whole.card
        return "" if same else "damaged weights unnoticed"

    return Case(f"weights of the {name} model: {text}", lambda: bc.load_model(path), check)


def _rewritten(source: Path, path: Path, card: str, drop: str = "", cast: str = "") -> None:
    """A file of safetensors with another card, without a tensor or with one of another type."""
    header_size = int.from_bytes(source.read_bytes()[:8], "little")
    content = source.read_bytes()
    header = json.loads(content[8 : 8 + header_size])
    header["__metadata__"]["card"] = card
    header.pop(drop, None)
    if cast in header:
        header[cast]["dtype"] = "I32"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + header_size :])


def card_case(rng: Rng, folder: Path) -> Case:
    """A model with an edited card: in the file, or before it was saved.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For the file.

    Returns
    -------
    Case
        Loaded, and used where that succeeds.
    """
    path, small = folder / "model.safetensors", copy.deepcopy(model_of("small"))
    is_saved = maybe(rng, 0.5)
    if is_saved:
        # fields that training writes, so that the check of them is reached
        card = {"surprise_limit": 1.0, "conflict_limit": 5.0, "training": {"seed": 1}} | (
            {"prior": small.prior.to_dict()} if maybe(rng, 0.7) else {}
        )
        card, text = edited(rng, card)
        small.card = card if isinstance(card, dict) else {}
    else:
        header = (store() / "small.safetensors").read_bytes()
        size = int.from_bytes(header[:8], "little")
        card = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["card"])
        if maybe(rng, 0.7):  # without a checksum, as of an earlier version, it comes to the checks
            card = {n: v for n, v in card.items() if n != "sha256"} | {"format": "bayesctx 1"}
        card, text = edited(rng, card)
        names = [n for n in small.state_dict()]
        drop = str(choose(rng, names)) if maybe(rng, 0.05) else ""
        other = str(choose(rng, names)) if maybe(rng, 0.05) else ""
        written = (
            json.dumps(card)
            if maybe(rng, 0.95)
            else str(choose(rng, ("{", "null", "[]", "3", '{"a": 1}')))
        )
        _rewritten(store() / "small.safetensors", path, written, drop, other)
        text += f" without {drop}" * bool(drop) + f" with {other} as integers" * bool(other)

    def use() -> object:
        if is_saved:
            bc.save_model(small, path)
        return bc.infer(patches()[:2], KNOWN, bc.load_model(path), num_draws=4)

    return Case(
        f"card {'saved' if is_saved else 'in the file'}: {text}", use, complaint_of_posterior
    )


def checkpoint_case(rng: Rng, folder: Path) -> Case:
    """A damaged checkpoint, from which training goes on.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For the file.

    Returns
    -------
    Case
        A success only where the weights are those that were saved.
    """
    model, run = copy.deepcopy(model_of("small")), dict(RUN)
    kind = str(choose(rng, ("damaged", "damaged", "damaged", "edited", "another run")))
    content = (store() / "run").read_bytes()
    start = content.index(b"\n") + 1 + hashlib.sha256().digest_size
    whole = torch.load(io.BytesIO(content[start:]), weights_only=True)
    if kind == "damaged":
        path, text = put(rng, store() / "run", folder)
        if text == "absent":  # then training starts anew
            path.mkdir()
    else:
        path = folder / "run"
        state = copy.deepcopy(whole)
        if kind == "edited":
            text = _edit_state(rng, state)
        else:
            name = str(choose(rng, list(RUN)[:2]))
            run[name] = choose(rng, (96, -1, 0, 33, 64.0, "64", None, True, np.int64(64)))
            text = f"{name} = {run[name]!r}"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        digest = hashlib.sha256(buffer.getvalue()).digest()
        magic = content[: start - len(digest)]
        path.write_bytes(magic + digest + buffer.getvalue())

    def use() -> bc.DefectModel:
        bc.train(model, checkpoint=path, **run)
        return model

    def check(trained: bc.DefectModel) -> str:
        if kind != "damaged":
            return ""
        state = trained.state_dict()
        same = all(torch.equal(v, state[n]) for n, v in whole["model"].items() if n in state)
        return "" if same else "damaged checkpoint unnoticed"

    return Case(f"checkpoint {kind}: {text}", use, check)


def _edit_state(rng: Rng, state: dict) -> str:
    """Change something in the state of a run, in place; say what."""
    key = str(choose(rng, list(state)))
    kinds: dict[str, Callable[[], object]] = {
        "removed": lambda: state.pop(key),
        "another object": lambda: state.update(
            {key: choose(rng, (None, 3, "x", [], {}, torch.zeros(3)))}
        ),
        "a weight too few": lambda: state["model"].pop(str(choose(rng, list(state["model"])))),
        "a weight of another shape": lambda: state["model"].update(
            {str(choose(rng, list(state["model"]))): torch.zeros(7)}
        ),
        "an unknown weight": lambda: state["model"].update(unknown=torch.zeros(1)),
        "NaN in a weight": lambda: (
            state["model"][str(choose(rng, list(state["model"])))].fill_(float("nan"))
            if state["model"]
            else None
        ),
        "history too long": lambda: state.update(history=torch.zeros(1000, 3)),
        "history of another shape": lambda: state.update(history=torch.zeros(3)),
        "run that is no JSON": lambda: state.update(run="{"),
        "optimizer empty": lambda: state.update(optimizer={}),
    }
    name = str(choose(rng, list(kinds)))
    kinds[name]()
    return f"{name} ({key})"

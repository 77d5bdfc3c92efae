"""Checkpoints: the state of a training run as a file with a checksum."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path

import torch

from ..model import DefectModel
from ..storage import existing_file, parse_json, replacing

__all__ = ["resume", "write_checkpoint"]

MAGIC = b"bayesctx checkpoint 2\n"  # followed by the SHA-256 of the rest, which torch.save wrote


def write_checkpoint(
    path: Path, model: DefectModel, optimizer: object, schedule: object, run: dict, history: list
) -> None:
    """Write the state of a run; the old file is replaced when the new one is complete.

    Parameters
    ----------
    path : Path
        The file.
    model : DefectModel
        The model.
    optimizer, schedule : object
        With a ``state_dict``.
    run : dict
        Settings of the run, as JSON values.
    history : list
        Loss and log scores of every step.

    Raises
    ------
    OSError
        If it cannot be written; the old file stays as it was.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "run": json.dumps(_settings(model, run)),
        "history": torch.tensor(history),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    with replacing(path) as temporary:
        temporary.write_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)


def resume(
    path: Path, model: DefectModel, optimizer: object, schedule: object, run: dict
) -> list[tuple[float, ...]]:
    """Read the state of a run.

    Parameters
    ----------
    path : Path
        The file.
    model : DefectModel
        Is set to the state.
    optimizer, schedule : object
        Likewise.
    run : dict
        Settings that the run must have.

    Returns
    -------
    list
        Loss and log scores of every step so far.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If the file is damaged, foreign or of another run.
    """
    state = _read(path)
    try:
        found, history = parse_json(state["run"]), [*map(tuple, state["history"].tolist())]
        expected = json.loads(json.dumps(_settings(model, run)))
        differing = [name for name in found | expected if found.get(name) != expected.get(name)]
        if not differing:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _refuse(path, f"its content is that of another version, {error!r}") from error
    if differing:
        raise ValueError(
            f"a checkpoint of this run was expected, {path} is of one with another {differing[0]}; "
            "name another file"
        )
    return history


def _settings(model: DefectModel, run: dict) -> dict[str, object]:
    """Everything that a run depends on, as JSON values."""
    return run | {"sizes": model.sizes, "prior": model.prior.to_dict()}


def _read(path: Path) -> dict[str, object]:
    """State in a file whose checksum is right."""
    with open(existing_file(path, "a checkpoint of a training run"), "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise _refuse(path, "it does not begin like one")
        digest, payload = file.read(hashlib.sha256().digest_size), file.read()
    if hashlib.sha256(payload).digest() != digest:
        raise _refuse(path, "its checksum is wrong")
    try:
        # a run on a GPU may go on without one
        return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise _refuse(path, "its content is that of another version") from error


def _refuse(path: Path, reason: str) -> ValueError:
    """The error for a file that is no checkpoint."""
    return ValueError(
        f"a checkpoint of a training run was expected, {path} is truncated or foreign ({reason}); "
        "remove it to begin anew"
    )

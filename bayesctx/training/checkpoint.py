"""The state of a training run as a file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch

from ..model import DefectModel
from ..storage import replacing

__all__ = ["resume", "write_checkpoint"]


def write_checkpoint(
    path: Path, model: DefectModel, optimizer: object, schedule: object, run: dict, history: list
) -> None:
    """Write the state of a run; the old state stands until the new one is whole.

    Parameters
    ----------
    path : Path
        The file.
    model : DefectModel
        The model.
    optimizer, schedule : object
        With a ``state_dict``.
    run : dict
        Settings of the run.
    history : list
        Loss and log scores of every step.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "run": json.dumps(run | {"prior": model.prior.to_dict()}),
        "history": torch.tensor(history),
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


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
        History of the run.

    Raises
    ------
    ValueError
        If the file is truncated, foreign or of another run.
    """
    try:
        state = torch.load(
            path, weights_only=True, map_location="cpu"
        )  # a run on a GPU may go on without one
        found = json.loads(state["run"])
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"a checkpoint of a training run was expected, {path} is truncated or foreign; remove it"
        ) from error
    expected = json.loads(json.dumps(run | {"prior": model.prior.to_dict()}))
    differing = [name for name in found | expected if found.get(name) != expected.get(name)]
    if differing:
        raise ValueError(
            f"a checkpoint of this run was expected, {path} is of one with another {differing[0]}; name another file"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return [tuple(row) for row in state["history"].tolist()]

"""Models as files: safetensors with a JSON card inside."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..prior import Prior
from ..storage import replacing
from .program import DefectModel

__all__ = ["load_model", "save_model"]


def save_model(model: DefectModel, path: str | os.PathLike) -> Path:
    """Write a model as safetensors with its card as JSON inside; an existing file is replaced only by a whole one.

    Parameters
    ----------
    model : DefectModel
        The model.
    path : path-like
        The file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If it cannot be written; the old file stays as it was.
    """
    card = model.card | {
        "format": "bayesctx 1",
        "sizes": model.sizes,
        "prior": model.card.get("prior", model.prior.to_dict()),
    }
    with replacing(path) as temporary:
        save_file(
            {n: v.contiguous() for n, v in model.state_dict().items()},
            temporary,
            {"card": json.dumps(card)},
        )
    return Path(path)


def load_model(path: str | os.PathLike | None = None) -> DefectModel:
    """Read a model.

    Parameters
    ----------
    path : path-like, optional
        A file written by ``save_model``. Default: the reference model shipped with the package.

    Returns
    -------
    DefectModel
        Ready for inference.

    Raises
    ------
    ValueError
        If the file is truncated or not a model of this package.
    """
    if path is None:
        with resources.as_file(
            resources.files("bayesctx").joinpath("reference.safetensors")
        ) as shipped:
            return load_model(shipped)
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get("card", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(
            f"a model written by bayesctx was expected, {path} is truncated or foreign ({error}); write it again"
        ) from error
    if not str(card.get("format", "")).startswith("bayesctx"):
        raise ValueError(
            f"a model written by bayesctx was expected, {path} carries no card; write it with save_model"
        )
    model = DefectModel(Prior.from_dict(card["prior"]), **card["sizes"])
    model.load_state_dict(state)
    model.card = card
    return model.eval()

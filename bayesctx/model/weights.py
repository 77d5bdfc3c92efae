"""Model files: safetensors with a JSON card and a checksum in its metadata."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..checks import check_keys, check_mapping, check_number, check_whole_number, shorten
from ..encoder import BAND_LIMIT, MAX_ORDER, REACH, SPACING
from ..prior import Prior
from ..storage import (
    add_checksum,
    existing_file,
    parse_json,
    replacing,
    split_checksum,
    warn,
)
from .program import DefectModel

__all__ = ["load_model", "save_model"]

FORMAT = "bayesctx 2"
OLD_FORMAT = "bayesctx 1"  # without a checksum
SIZES = ("num_features", "num_components", "hidden", "width")
LIMITS = ("conflict_limit", "surprise_limit")  # numbers of the card that inference uses
DTYPES = ("F32", "I64")


def save_model(model: DefectModel, path: str | os.PathLike) -> Path:
    """Write a model to a safetensors file; an existing file is replaced when it is complete.

    Parameters
    ----------
    model : DefectModel
        The model. Its card, sizes and prior are written as JSON into the metadata of the file.
    path : path-like
        The file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError
        If it is not a ``DefectModel``.
    OSError
        If it cannot be written; the old file stays as it was.

    Notes
    -----
    The first entry of the card, ``sha256``, is the checksum of the rest of the card's text and of
    name, type, shape and bytes of every tensor.
    """
    if not isinstance(model, DefectModel):
        raise TypeError(f"a DefectModel was expected, got {shorten(model)}; train or load one")
    card = model.card | {
        "format": FORMAT,
        "sizes": model.sizes,
        "prior": model.card.get("prior") or model.prior.to_dict(),
    }
    tensors = {n: v.detach().cpu().contiguous() for n, v in model.state_dict().items()}
    body = json.dumps(card)
    text = add_checksum(body, _digest(tensors, body))
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {"card": text}))
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
        In evaluation mode, on the CPU.

    Raises
    ------
    TypeError
        If ``path`` is no path.
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If the file is damaged or not a model of this package.

    Warns
    -----
    UserWarning
        If the file is from a version of this package that wrote no checksum.
    """
    if path is None:
        with resources.as_file(
            resources.files("bayesctx").joinpath("reference.safetensors")
        ) as shipped:
            return load_model(shipped)
    path = existing_file(path, "a model written by bayesctx")
    try:
        text, state = _read(path)
        card = _check_card(text, state)
        prior = Prior.from_dict(card["prior"])
        _check_shapes(card["sizes"], prior, state)
        model = DefectModel(prior, **card["sizes"])
        model.load_state_dict(state)
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"a model written by bayesctx was expected, {path} is truncated or foreign "
            f"({' '.join(str(error).split())}); write it again with save_model"
        ) from error
    except OSError as error:
        raise OSError(
            f"a model written by bayesctx was expected, {path} cannot be read ({error}); "
            "copy it again"
        ) from error
    if card["format"] == OLD_FORMAT:
        warn(f"{path} has no checksum, so damage cannot be noticed; write it again with save_model")
    model.card = card
    return model.eval()


def _read(path: str | os.PathLike) -> tuple[str, dict[str, Tensor]]:
    """Text of the card and tensors of a safetensors file."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("card")
        if text is None:
            raise ValueError("it carries no card")
        names = file.keys()
        types = {name: file.get_slice(name).get_dtype() for name in names}
        foreign = [name for name in names if types[name] not in DTYPES]
        if foreign:
            raise ValueError(f"tensor {foreign[0]!r} is of type {types[foreign[0]]}")
        return text, {name: file.get_tensor(name) for name in names}


def _digest(tensors: Mapping[str, Tensor], body: str) -> str:
    """Checksum of the text of a card, and of name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(body.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _check_card(text: str, state: Mapping[str, Tensor]) -> dict[str, object]:
    """The card of a file whose checksum is right, without the checksum."""
    body, checksum = split_checksum(text)
    if checksum is not None and _digest(state, body) != checksum:
        raise ValueError("its checksum is wrong: bits were changed since it was written")
    card = parse_json(body)
    if card.get("format") != (OLD_FORMAT if checksum is None else FORMAT):
        raise ValueError("its card is of another format")
    for name in ("prior", "sizes"):
        check_mapping(card.get(name), f"{name} in the card")
    check_mapping(card.get("training", {}), "training in the card")
    for name in LIMITS:
        check_number(card.get(name, 0.0), f"{name} in the card")
    return card


def _check_shapes(sizes: object, prior: Prior, state: Mapping[str, Tensor]) -> None:
    """Raise unless the sizes of the card, which determine memory, are those of the tensors."""
    check_keys(sizes, "size of a model", SIZES)
    features, components, hidden, width = (
        check_whole_number(name, sizes[name], 1, 10**6) for name in SIZES
    )
    shapes = {
        "encoder.layers.0.weight": (width, width),
        "encoder.layers.2.weight": (features, width),
        "likelihood.net.2.weight": (hidden, hidden),
        "likelihood.net.4.weight": (components * (2 * features + 1), hidden),
    }
    for name, shape in shapes.items():
        if name not in state or tuple(state[name].shape) != shape:
            raise ValueError(
                f"the sizes of the card ask for {name} of shape {shape}, "
                f"there is {tuple(state[name].shape) if name in state else 'none'}"
            )
    parts = [state.get(f"encoder.{n}.weight") for n in ("even", "even_others")]
    found = sum(p.shape[-1] for p in parts if p is not None and p.ndim)
    if found != _num_moments(prior.num_pixels):
        raise ValueError(
            f"its prior is of other patches than the weights: {prior.num_pixels} pixels"
        )
    infinite = [name for name, value in state.items() if not value.isfinite().all()]
    if infinite:
        raise ValueError(f"tensor {infinite[0]!r} is not finite")


def _num_moments(num_pixels: int) -> int:
    """Number of moments that ``ring_moments`` makes of a patch."""
    radii = torch.arange(0, REACH * num_pixels + 1e-6, SPACING).tolist()
    return sum(min(MAX_ORDER, round(2 * math.pi * r * BAND_LIMIT)) + 1 for r in radii)

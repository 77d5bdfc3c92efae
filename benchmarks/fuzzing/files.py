"""Whole files, and what disks, editors and other programs make of them."""

from __future__ import annotations

import atexit
import copy
import functools
import os
import shutil
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr

import bayesctx as bc
from bayesctx.archive import write_shards

from .scenes import CONDITIONS, micrograph, model_of, patches
from .values import Rng, choose, maybe

__all__ = ["KNOWN", "NUM_SHARDED", "RUN", "SHARD_SIZE", "damaged", "edited", "put", "store"]

KNOWN = CONDITIONS[1]


RUN = {"num_patches": 64, "batch_size": 32, "num_held_out": 0, "num_workers": 0, "progress": False}


NUM_SHARDED, SHARD_SIZE = 512, 256


@functools.cache
def store() -> Path:
    """Whole files of this process, which cases copy.

    Returns
    -------
    Path
        The folder.
    """
    matplotlib.use("Agg")
    whole = Path(os.environ.get("FUZZ_FOLDER", "nowhere")) / "whole"
    if whole.is_dir():
        return whole
    if "FUZZ_FOLDER" in os.environ:
        folder = whole
        folder.mkdir()
    else:
        folder = Path(tempfile.mkdtemp(prefix="whole-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    small = model_of("small")
    bc.save_model(small, folder / "small.safetensors")
    shutil.copy(Path(bc.__file__).parent / "reference.safetensors", folder)
    bc.save(bc.infer(patches()[:3], KNOWN, small, num_draws=8), folder / "patches.nc")
    image = xr.DataArray(micrograph(1, 0)[0], dims=("y", "x"), name="intensity")
    bc.save(
        bc.infer(image, {"host": "MoS2"}, small, num_draws=8, likelihood="network"),
        folder / "micrograph.nc",
    )
    image.to_netcdf(folder / "image.nc")
    np.save(folder / "image.npy", image.values)
    np.save(folder / "patch.npy", patches()[0])
    xr.Dataset({"adf": image, "haadf": image * 2}).to_netcdf(folder / "two.nc")
    bc.train(copy.deepcopy(small), checkpoint=folder / "run", **RUN)
    write_shards(
        bc.reference_prior(), NUM_SHARDED, folder / "shards", seed=0, shard_size=SHARD_SIZE
    )
    return folder


def damaged(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """Damage a file, or put another one in its place.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    content : bytes
        Of the file.

    Returns
    -------
    content : bytes
        After the damage.
    text : str
        What was done.
    """

    def flipped(count: int, reach: int) -> bytes:
        changed = bytearray(content)
        for at in rng.integers(0, min(reach, len(content)), count):
            changed[int(at)] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    def block(value: bytes | None) -> bytes:
        size = int(choose(rng, (1, 64, 4096)))
        at = int(rng.integers(len(content)))
        filled = rng.bytes(size) if value is None else value * size
        return (content[:at] + filled + content[at + size :])[: len(content)]

    kinds = {
        "a flipped bit": lambda: flipped(1, len(content)),
        "a flipped bit at the start": lambda: flipped(1, 3000),
        "twenty flipped bits": lambda: flipped(20, len(content)),
        "twenty at the start": lambda: flipped(20, 3000),
        "truncated": lambda: content[: int(rng.integers(len(content)))],
        "almost whole": lambda: content[: -int(rng.integers(1, 20))],
        "a block of zeros": lambda: block(b"\0"),
        "a block of noise": lambda: block(None),
        "longer": lambda: content + rng.bytes(int(rng.integers(1, 5000))),
        "halves exchanged": lambda: content[len(content) // 2 :] + content[: len(content) // 2],
        "empty": lambda: b"",
        "noise": lambda: rng.bytes(1000),
        "text": lambda: b"not a file of this kind\n" * 20,
        "a file of another kind": lambda: Path(
            store()
            / str(
                choose(
                    rng,
                    (
                        "small.safetensors",
                        "patches.nc",
                        "patch.npy",
                        "run",
                        "image.nc",
                        "shards/manifest.json",
                    ),
                )
            )
        ).read_bytes(),
    }
    weights = (*kinds, *list(kinds)[:4] * 3)
    name = str(choose(rng, weights))
    return kinds[name](), name


def put(rng: Rng, source: Path, folder: Path) -> tuple[Path, str]:
    """Put a damaged copy of a file somewhere.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    source : Path
        The whole file.
    folder : Path
        Where to.

    Returns
    -------
    path : Path
        The copy, which is not always there.
    text : str
        What was done.
    """
    path = folder / source.name
    content = source.read_bytes()
    if maybe(rng, 0.04):
        kind = str(
            choose(
                rng,
                ("absent", "a folder", "in no folder", "no permission to read", "a broken link"),
            )
        )
        if kind == "a folder":
            path.mkdir()
        if kind == "a broken link":
            path.symlink_to(folder / "nowhere")
        if kind == "no permission to read":
            path.write_bytes(b"")
            path.chmod(0)
        return folder / "none" / source.name if kind == "in no folder" else path, kind
    changed, text = damaged(rng, content)
    path.write_bytes(changed)
    return path, text


def edited(rng: Rng, value: object) -> tuple[object, str]:
    """Change something in JSON values, anywhere.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    value : object
        Mapping, list or scalar.

    Returns
    -------
    value : object
        A changed copy.
    text : str
        Where and how.
    """
    if isinstance(value, dict) and value and maybe(rng, 0.9):
        key = choose(rng, list(value))
        if maybe(rng, 0.12):
            return {k: v for k, v in value.items() if k != key}, f"without {key}"
        if maybe(rng, 0.1):
            name = choose(rng, ("unknown", "enable_validation", "__class__", "Normal", "", "WSe2"))
            return value | {
                str(name): choose(rng, ([False], 1.0, "x", {}, value[key]))
            }, f"with {name}"
        if maybe(rng, 0.05):
            return {("Delta" if k == key else k): v for k, v in value.items()}, f"{key} renamed"
        changed, text = edited(rng, value[key])
        return value | {key: changed}, f"{key}.{text}"
    if isinstance(value, list) and value and maybe(rng, 0.85):
        at = int(rng.integers(len(value)))
        if maybe(rng, 0.15):
            return value[:at] + value[at + 1 :], f"without [{at}]"
        changed, text = edited(rng, value[at])
        return [*value[:at], changed, *value[at + 1 :]], f"[{at}].{text}"
    others = (
        None, True, 0, -1, 1, 2, 20000, 10**9, 10**30, 0.5, -0.25, 1e300, float("nan"),
        float("inf"), "", "x", "WSe3", "../x", [], {}, [1, 2], {"enable_validation": [False]},
        {"Normal": [0.0, 1.0]}, {"Normal": [0.0, -1.0]}, {"log_uniform": [0, 1]},
        {"Uniform": [1.0, 0.0]}, {"Normal": ["a"]}, {"Delta": [1.0]}, {"Uniform": []}, "x" * 5000,
        "bayesctx 2",
    )  # fmt: skip
    other = choose(rng, others)
    if isinstance(value, int | float) and not isinstance(value, bool) and maybe(rng, 0.4):
        other = choose(rng, (value + 1, value * 2, -value, value * 1000, str(value), [value]))
    return other, f"= {str(other)[:40]}"

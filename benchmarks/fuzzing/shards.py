"""Cases of folders of shards: manifests edited, files damaged or removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

import bayesctx as bc
from bayesctx.archive import open_shards, write_shards

from .case import Case
from .files import NUM_SHARDED, SHARD_SIZE, damaged, edited, store
from .values import Rng, choose, hostile_number, maybe

__all__ = ["manifest_case"]


def manifest_case(rng: Rng, folder: Path) -> Case:
    """A folder of shards with an edited manifest or damaged files, read or gone on with.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        For the copy.

    Returns
    -------
    Case
        A success only with finite patches; after a repair with those that were written.
    """
    copied = folder / "shards"
    shutil.copytree(store() / "shards", copied)
    (copied / ".notes.tmp").write_text("of the user")
    manifest, shard = copied / "manifest.json", copied / "shard-00001.nc"
    kind = str(
        choose(
            rng,
            (
                "manifest edited",
                "manifest edited",
                "manifest damaged",
                "shard damaged",
                "window",
                "shard removed",
            ),
        )
    )
    verify, window = maybe(rng, 0.7), {}
    if kind == "manifest edited":
        changed, text = edited(rng, json.loads(manifest.read_text()))
        manifest.write_text(json.dumps(changed))
    elif kind == "manifest damaged":
        content, text = damaged(rng, manifest.read_bytes())
        manifest.write_bytes(content)
    elif kind == "shard damaged":
        content, text = damaged(rng, shard.read_bytes())
        shard.write_bytes(content)
        verify = True  # sizes alone cannot tell, and the documentation says so
    elif kind == "shard removed":
        shard.unlink()
        text = ""
    else:
        name = str(choose(rng, ("start", "stop", "batch_size")))
        value = choose(
            rng,
            (
                0,
                -1,
                1,
                256,
                511,
                512,
                513,
                2**63,
                1.0,
                "0",
                True,
                np.int64(256),
                None,
                hostile_number(rng),
            ),
        )
        window, text = {name: value}, f"{name} = {value!r}"
    if maybe(rng, 0.25):
        options = {"seed": 0, "shard_size": SHARD_SIZE, "verify": verify}

        def go_on() -> object:
            write_shards(bc.reference_prior(), NUM_SHARDED, copied, **options)
            return list(open_shards(copied, verify=True))

        return Case(f"shards gone on with, {kind}: {text}", go_on, _complaint_of_batches)
    return Case(
        f"shards read, {kind}: {text}, verify {verify}, {window}",
        lambda: list(open_shards(copied, verify=verify, **window)),
        _complaint_of_batches,
    )


def _complaint_of_batches(batches: list) -> str:
    """Say what is wrong with patches that were read."""
    finite = all(bool(torch.isfinite(b.intensity).all()) for b in batches)
    return "" if finite else "intensity is not finite"

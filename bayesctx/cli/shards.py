"""The part of the verb simulate that writes a folder of shards, or says what that would take."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..archive import ShardPlan, plan_shards, write_shards
from ..prior import Prior
from .options import FOLDER_FLAGS

__all__ = ["refuse_shard_options", "simulate_shards"]

SHARD_SIZE = 65536
MOST_SHARDS = 100_000  # their names have five digits


def refuse_shard_options(arguments: argparse.Namespace) -> None:
    """Raise for options of a folder where one file is written.

    Parameters
    ----------
    arguments : Namespace
        Of the verb.

    Raises
    ------
    ArgumentTypeError
        If there are any.
    """
    for name, flag in FOLDER_FLAGS.items():
        if hasattr(arguments, name):
            raise argparse.ArgumentTypeError(
                f"{flag} belongs to a folder of patches, got one file, {arguments.out}; "
                "leave it out"
            )


def simulate_shards(arguments: argparse.Namespace, prior: Prior) -> str:
    """Write a folder of shards, or find out what that would take.

    Parameters
    ----------
    arguments : Namespace
        Of the verb.
    prior : Prior
        What may occur.

    Returns
    -------
    str
        What was done, or would be.

    Raises
    ------
    ArgumentTypeError
        If there would be too many shards.
    """
    out: Path = arguments.out
    options = {n: getattr(arguments, n) for n in FOLDER_FLAGS if hasattr(arguments, n)}
    is_dry = options.pop("dry_run", False)
    num_shards = -(-arguments.num_patches // options.get("shard_size", SHARD_SIZE))
    if num_shards > MOST_SHARDS:
        raise argparse.ArgumentTypeError(
            f"at most {MOST_SHARDS} shards were expected, {arguments.num_patches} patches would be "
            f"{num_shards}; write fewer patches, or larger shards by --shard-size"
        )
    workers = {"num_workers": os.cpu_count() or 1}
    options = {"seed": arguments.seed, "start": arguments.start} | workers | options
    size = f"{arguments.num_patches} patches of {prior.num_pixels} x {prior.num_pixels} px"
    if is_dry:
        plan = plan_shards(prior, arguments.num_patches, out, **options)
        return f"{size}: {out}\n{_describe_plan(plan, options['num_workers'])}"
    write_shards(prior, arguments.num_patches, out, **options, progress=True)
    return f"{size} in {len(list(out.glob('shard-*.nc')))} shards: {out}"


def _describe_plan(plan: ShardPlan, num_workers: int) -> str:
    """What is left to do."""
    room = "which is enough" if plan.fits else "which is TOO LITTLE"
    busy = max(1, min(num_workers, plan.num_shards))
    processes = "1 process" if busy == 1 else f"{busy} processes"
    rate = f"{plan.patches_per_second:.0f} patches/s each, if every one has a core of its own"
    rows = (
        f"to write  {plan.num_patches} patches in {plan.num_shards} shards",
        f"size      {plan.num_bytes / 1e9:.2f} GB, {plan.bytes_per_patch:.0f} bytes per patch",
        f"disk      {plan.free_bytes / 1e9:.2f} GB free, {room}",
        f"time      {_clock(plan.seconds)} by {processes}, {rate}",
    )
    return "\n".join(rows)


def _clock(seconds: float) -> str:
    """A time to two or three digits."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"

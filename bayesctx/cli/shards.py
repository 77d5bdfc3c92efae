"""The part of the verb simulate that writes a folder of shards, or says what that would take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from ..archive import ShardPlan, plan_shards, write_shards
from ..prior import Prior
from .arguments import count, index

__all__ = ["refuse_shard_options", "shard_options", "simulate_shards"]

FLAGS = {
    "patches_per_image": "--patches-per-image", "shard_size": "--shard-size", "num_workers": "--workers", "verify": "--verify",
    "dry_run": "--dry-run",
}  # fmt: skip


def shard_options(add: Callable) -> None:
    """Add the options that belong to a folder of shards; those that are not given are left to the function.

    Parameters
    ----------
    add : callable
        ``add_argument`` of the parser.
    """
    folder = {"default": argparse.SUPPRESS}
    add(
        "--patches-per-image",
        type=count,
        metavar="N",
        **folder,
        help="patches of a folder that share a context (default: 1)",
    )
    add(
        "--shard-size",
        type=count,
        metavar="N",
        **folder,
        help="patches per file of a folder (default: 65536)",
    )
    add(
        "--workers",
        type=index,
        dest="num_workers",
        metavar="N",
        **folder,
        help="processes (default: one per core)",
    )
    add(
        "--verify",
        action="store_true",
        **folder,
        help="compare the checksums of the files that are there, not only their sizes",
    )
    add(
        "--dry-run",
        action="store_true",
        **folder,
        help="write nothing: say size and time, from a sample of some seconds",
    )


def refuse_shard_options(arguments: argparse.Namespace) -> None:
    """Raise for options of a folder where one file is written.

    Parameters
    ----------
    arguments : Namespace
        Of the verb.

    Raises
    ------
    ValueError
        If there are any.
    """
    for name, flag in FLAGS.items():
        if hasattr(arguments, name):
            raise ValueError(
                f"{flag} belongs to a folder of patches, got one file, {arguments.out}; leave it out"
            )


def simulate_shards(arguments: argparse.Namespace, prior: Prior) -> None:
    """Write a folder of shards, or print what that would take.

    Parameters
    ----------
    arguments : Namespace
        Of the verb.
    prior : Prior
        What may occur.

    Raises
    ------
    ValueError
        If the folder is a file.
    """
    out: Path = arguments.out
    if out.exists() and not out.is_dir():
        raise ValueError(
            f"a folder, or a file that ends in .nc, was expected, {out} is another file; name another one"
        )
    options = {name: getattr(arguments, name) for name in FLAGS if hasattr(arguments, name)}
    is_dry = options.pop("dry_run", False)
    options = {
        "seed": arguments.seed,
        "start": arguments.start,
        "num_workers": os.cpu_count() or 1,
    } | options
    size = f"{arguments.num_patches} patches of {prior.num_pixels} x {prior.num_pixels} px"
    if is_dry:
        print(f"{size}: {out}")
        _print_plan(
            plan_shards(prior, arguments.num_patches, out, **options), options["num_workers"]
        )
    else:
        write_shards(prior, arguments.num_patches, out, **options, progress=True)
        print(f"{size} in {len(list(out.glob('shard-*.nc')))} shards: {out}")


def _print_plan(plan: ShardPlan, num_workers: int) -> None:
    """Print what is left to do."""
    room = "which is enough" if plan.fits else "which is TOO LITTLE"
    busy = max(1, min(num_workers, plan.num_shards))
    processes = "1 process" if busy == 1 else f"{busy} processes"
    rate = f"{plan.patches_per_second:.0f} patches/s each, if every one has a core of its own"
    print(f"to write  {plan.num_patches} patches in {plan.num_shards} shards")
    print(f"size      {plan.num_bytes / 1e9:.2f} GB, {plan.bytes_per_patch:.0f} bytes per patch")
    print(f"disk      {plan.free_bytes / 1e9:.2f} GB free, {room}")
    print(f"time      {_clock(plan.seconds)} by {processes}, {rate}")


def _clock(seconds: float) -> str:
    """A time to two or three digits."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"

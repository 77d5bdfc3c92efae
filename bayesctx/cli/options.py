"""The options of every verb; nothing here needs torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .arguments import file_to_write, number, picture_to_write, stream_to_write, whole_number

__all__ = ["FOLDER_FLAGS", "OPTIONS"]

PRIORS = ("reference", "tmd", "limit", "between")

# Limits, so that a slip of the keyboard is refused at once instead of filling memory or the process
# table; they are far above what is useful. A pixel or draw beyond its limit takes more than 4 GB.
PATCHES = whole_number(1, 10**12)
POSITION = whole_number(0, 10**12)
SEED = whole_number(0, 2**32 - 1)
PROCESSES = whole_number(0, 1024)
THREADS = whole_number(1, 1024)
DRAWS = whole_number(1, 20_000)
PIXELS = whole_number(1, 4096)

CONTEXT = {"nargs": "+", "action": "extend", "metavar": "NAME=VALUE"}
MODEL = {"type": Path, "metavar": "FILE"}

FOLDER_FLAGS = {
    "patches_per_image": "--patches-per-image",
    "shard_size": "--shard-size",
    "num_workers": "--workers",
    "verify": "--verify",
    "dry_run": "--dry-run",
}
"""Flags that belong to a folder of shards, by the name of the argument."""


def _simulate(add: Callable) -> None:
    """Options of simulate."""
    add("--num-patches", type=PATCHES, default=1000, metavar="N", help="number (default: 1000)")
    add("--seed", type=SEED, default=0, metavar="N", help="names the stream (default: 0)")
    where = "first patch, or which micrograph, of the stream (default: 0)"
    add("--start", type=POSITION, default=0, metavar="I", help=where)
    add("--prior", choices=PRIORS, default="reference", help="what may occur (default: reference)")
    add("--context", **CONTEXT, help="what is fixed, as for infer")
    add("--micrograph", action="store_true", help="a whole image instead of patches")
    side = "pixels along each side of the micrograph (default: 512)"
    add("--num-pixels", type=PIXELS, default=512, metavar="N", help=side)
    pixel = "pixel size of the micrograph in Å (default: 0.2)"
    add("--sampling", type=number(0.02, 0.6), default=0.2, metavar="A", help=pixel)
    _folder(add)
    out = "netCDF file, or folder of them, to write; see above"
    add("--out", type=stream_to_write, required=True, metavar="FILE", help=out)


def _folder(add: Callable) -> None:
    """Options of simulate for a folder of shards; those not given are left to the library."""
    absent = {"default": argparse.SUPPRESS}
    counts = {
        "patches_per_image": (whole_number(1, 2**16), "patches that share a context (default: 1)"),
        "shard_size": (whole_number(1, 10**9), "patches per file of a folder (default: 65536)"),
        "num_workers": (PROCESSES, "processes that write a folder (default: one per core)"),
    }
    for name, (kind, text) in counts.items():
        add(FOLDER_FLAGS[name], type=kind, dest=name, metavar="N", **absent, help=text)
    check = "compare the checksums of the files that are there, not only their sizes"
    add("--verify", action="store_true", **absent, help=check)
    dry = "write nothing: print size and time, from a sample of some seconds"
    add("--dry-run", action="store_true", **absent, help=dry)


def _train(add: Callable) -> None:
    """Options of train."""
    length = "length of the stream, e.g. 10e6"
    add("--num-patches", type=PATCHES, required=True, metavar="N", help=length)
    add("--prior", choices=PRIORS, default="reference", help="what may occur (default: reference)")
    add("--model", **MODEL, help="from train: the weights to start from (default: random ones)")
    seed = "of random weights and of the stream (default: 0)"
    add("--seed", type=SEED, default=0, metavar="N", help=seed)
    batch = "patches per step, a multiple of 16 (default: 512)"
    add("--batch-size", type=whole_number(1, 2**20), default=512, metavar="N", help=batch)
    contrast = "images among which the right one is asked for (default: 16)"
    add("--contrast", type=whole_number(1, 2**16), default=16, metavar="N", help=contrast)
    rate = "peak of the schedule (default: 5e-3)"
    add("--learning-rate", type=number(1e-9, 1.0), default=5e-3, metavar="RATE", help=rate)
    state = "holds the state of the run; if it exists the run continues from it"
    add("--checkpoint", type=file_to_write(), metavar="FILE", help=state)
    add("--threads", type=THREADS, metavar="N", help="threads of torch (default: torch's choice)")
    workers = "processes that simulate (default: 1)"
    add("--workers", type=PROCESSES, default=1, metavar="N", help=workers)
    device = "where to learn, e.g. cuda; random numbers are drawn on the CPU (default: cpu)"
    add("--device", default="cpu", metavar="NAME", help=device)
    held_out = "patches for correlation and scores (default: 9600)"
    add("--held-out", type=whole_number(0, 10**7), default=9600, metavar="N", help=held_out)
    out = file_to_write(".safetensors")
    add("--out", type=out, required=True, metavar="FILE", help="safetensors file to write")


def _infer(add: Callable) -> None:
    """Options of infer."""
    add("image", type=Path, help="netCDF or .npy file")
    variable = "variable of the netCDF file, where several have dimensions y and x"
    add("--variable", metavar="NAME", help=variable)
    select = "one element of a dimension, e.g. detector=ADF1"
    add("--select", nargs="+", action="extend", metavar="DIM=VALUE", help=select)
    add("--context", **CONTEXT, help="what is known; see above")
    add("--model", **MODEL, help="from train (default: the reference model of the package)")
    draws = "draws of the latent context (default: 1000)"
    add("--num-draws", type=DRAWS, default=1000, metavar="N", help=draws)
    add("--seed", type=SEED, default=0, metavar="N", help="of the draws (default: 0)")
    out = file_to_write(".nc")
    add("--out", type=out, required=True, metavar="FILE", help="netCDF file to write (.nc)")
    plot = "picture of sites and context to write, e.g. result.png"
    add("--plot", type=picture_to_write, metavar="FILE", help=plot)


def _demo(add: Callable) -> None:
    """Options of demo."""
    folder = "folder of demo.nc and demo.png (default: this one)"
    add("--out-dir", type=Path, default=Path(), metavar="DIR", help=folder)
    add("--model", **MODEL, help="from train (default: the reference model of the package)")


OPTIONS = {"simulate": _simulate, "train": _train, "infer": _infer, "demo": _demo}

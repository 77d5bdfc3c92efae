"""Speed, size and memory of simulating, writing and reading patches."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from report import table, write
from torch.utils.data import DataLoader

from bayesctx.archive import open_shards

COMMAND = "import sys; from bayesctx.cli import main; sys.exit(main(sys.argv[1:]))"
GOAL = 55_000_000


def simulate(out: Path, num_patches: int, options: list[str]) -> tuple[float, float]:
    """Seconds of the command, and the resident size in MiB of its largest process."""
    start = time.perf_counter()
    words = ["simulate", "--num-patches", str(num_patches), *options, "--out", str(out)]
    with subprocess.Popen([sys.executable, "-c", COMMAND, *words]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bayesctx {' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def read(folder: Path, batch_size: int, num_workers: int) -> float:
    """Patches per second that a loader delivers."""
    start = time.perf_counter()
    loader = DataLoader(open_shards(folder, batch_size=batch_size), None, num_workers=num_workers)
    count = sum(batch.defect.numel() for batch in loader)
    return count / (time.perf_counter() - start)


def clock(seconds: float) -> str:
    """A time in hours, or minutes below two hours."""
    return f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.1f} min"


def measure(folder: Path, arguments: argparse.Namespace) -> str:
    """Write a tenth and the whole, read the whole back, and describe it."""
    options = [
        "--seed",
        str(arguments.seed),
        "--prior",
        arguments.prior,
        "--workers",
        str(arguments.workers),
    ]
    options += ["--patches-per-image", str(arguments.patches_per_image)]
    rows = []
    for count in (arguments.num_patches // 10 // 256 * 256, arguments.num_patches):
        out = folder / str(count)
        seconds, memory = simulate(out, count, options)
        size = sum(p.stat().st_size for p in out.iterdir())
        rows.append(
            [
                count,
                f"{seconds:.1f}",
                f"{count / seconds:.0f}",
                f"{size / count:.0f}",
                f"{memory:.0f}",
            ]
        )
    start = time.perf_counter()
    open_shards(out, verify=True)
    verified = size / (time.perf_counter() - start)
    scale = GOAL / arguments.num_patches
    speeds = [[b, w, f"{read(out, b, w):.0f}"] for b, w in ((512, 0), (4096, 0), (512, 2))]
    return (
        f"`bayesctx simulate`, prior {arguments.prior}, {arguments.patches_per_image} patches per "
        f"image, {arguments.workers} processes; the time is that of the whole command, memory that "
        f"of its largest process.\n\n"
        + table(["patches", "s", "patches/s", "bytes per patch", "memory (MiB)"], rows)
        + f"\n\nAt this rate {GOAL / 1e6:.0f} million patches take {clock(seconds * scale)} and "
        f"{size * scale / 1e9:.0f} GB.\n\nReading them back with `open_shards` (the files may be "
        "in the cache of the system):\n\n"
        + table(["batch size", "workers of the loader", "patches/s"], speeds)
        + f"\n\nComparing the checksums: {verified / 1e9:.2f} GB/s, "
        f"{clock(size * scale / verified)} for {GOAL / 1e6:.0f} million patches."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=float, default=1e6)
    parser.add_argument("--patches-per-image", type=int, default=64)
    parser.add_argument("--prior", default="reference")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to keep the patches (default: nowhere)")
    arguments = parser.parse_args()
    arguments.num_patches = int(arguments.num_patches)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        body = measure(arguments.out or Path(scratch), arguments)
    write("stream", "Writing and reading patches", body, arguments.seed)


if __name__ == "__main__":
    main()

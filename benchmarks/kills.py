"""Compare runs that are killed at random moments and resumed with one that is not interrupted."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from report import table, write

TRAIN = """
import sys
import torch
import bayesctx as bc
torch.set_num_threads(1)
sizes = {"num_features": 4, "num_components": 1, "hidden": 8, "width": 8}
model = bc.DefectModel(bc.tmd_prior(), **sizes)
print("ready", flush=True)
options = {"batch_size": 64, "checkpoint_interval": 1, "num_workers": 0, "progress": False}
options["num_held_out"] = 0
bc.train(model, num_patches=64 * 60, checkpoint=sys.argv[1] + "/run.checkpoint", **options)
bc.save_model(model, sys.argv[1] + "/model.safetensors")
"""

SIMULATE = """
import sys
import torch
from bayesctx.cli import main
torch.set_num_threads(1)
print("ready", flush=True)
words = "simulate --num-patches 6144 --shard-size 256 --patches-per-image 16 --prior tmd --seed 0"
sys.exit(main([*words.split(), "--workers", "2", "--out", sys.argv[1] + "/shards"]))
"""

INTRODUCTION = """\
`bc.train` of a tiny model (60 steps of 64 patches, a checkpoint after every step) and
`bayesctx simulate` (24 shards of 256 patches by two workers) are ended by SIGKILL at random
moments after their imports, and given again until they are finished; then the next run begins,
until {kills} kills each. Of `simulate` all processes are killed, or only the first one. The files
of every run are compared byte by byte with those of one that was not interrupted.

"""


@dataclass
class Count:
    """What the kills of one command met."""

    kills: int = 0
    runs: int = 0
    unfinished: int = 0  # kills that left a temporary file
    differing: int = 0  # runs


def start(script: str, folder: Path) -> subprocess.Popen:
    """Start a command in a session of its own, and wait for its imports."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if process.stdout.readline() != b"ready\n":
        raise SystemExit(process.communicate()[1].decode())
    return process


def finish(process: subprocess.Popen) -> None:
    """Wait for the end of a command."""
    error = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {error.decode()}")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, once the workers of killed processes are gone."""
    until = time.monotonic() + 20
    while any(folder.rglob(".*.tmp")) and time.monotonic() < until:
        time.sleep(0.1)
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def end(process: subprocess.Popen, everyone: bool) -> bool:
    """Kill a command; whether it was still running."""
    if process.poll() is not None:
        finish(process)
        return False
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()  # workers that are left keep the other ends open
    process.stderr.close()
    return process.returncode == -signal.SIGKILL


def measure(script: str, folder: Path, kills: int, rng: random.Random) -> Count:
    """Kill a command a number of times, and compare every run that was resumed to its end."""
    whole = folder / "whole"
    whole.mkdir()
    began = start(script, whole)
    at = time.monotonic()
    finish(began)
    longest = (time.monotonic() - at) / 2
    expected, count, out = digests(whole), Count(), folder / "killed"
    while count.kills < kills:
        out.mkdir()
        while count.kills < kills:
            process = start(script, out)
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, longest))
            if not end(process, rng.random() < 0.5):
                break
            count.kills += 1
            count.unfinished += any(out.rglob(".*.tmp"))
        finish(start(script, out))
        count.runs += 1
        count.differing += digests(out) != expected
        shutil.rmtree(out)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for name, script in (("train", TRAIN), ("simulate", SIMULATE)):
        with tempfile.TemporaryDirectory() as scratch:
            rng = random.Random(arguments.seed)
            found = measure(script, Path(scratch), arguments.kills, rng)
        print(name, found, flush=True)
        rows.append([name, found.kills, found.runs, found.unfinished, found.differing])
    header = ["command", "kills", "runs", "kills that left an unfinished file", "runs that differ"]
    body = INTRODUCTION.format(kills=arguments.kills) + table(header, rows)
    write("kills", "Killed runs", body, arguments.seed)


if __name__ == "__main__":
    main()

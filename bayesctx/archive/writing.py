"""write_shards(): a stream as a folder of files that a killed run goes on with."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from ..prior import Prior
from ..simulation import BLOCK, Patches, PatchStream
from ..tensors import join
from .manifest import Archive, find_records, write_manifest
from .shard import write_shard

__all__ = ["ShardPlan", "plan_shards", "write_shards"]

SHARD_SIZE = 65536  # patches: some 150 MB
STRIDE = BLOCK * max(
    1, 2048 // BLOCK
)  # patches between two marks of the progress bar; memory holds these
MARGIN = 2**26  # bytes of the disk that are left to others
SAMPLE = 3.0  # s that are measured for a plan


@dataclass(frozen=True)
class ShardPlan:
    """What it takes to write a folder of shards.

    Attributes
    ----------
    num_shards, num_patches : int
        That are not there yet.
    bytes_per_patch : float
        Of a shard of full size.
    num_bytes, free_bytes : int
        That will be written, and that the disk has.
    patches_per_second : float
        Of one process, measured.
    seconds : float
        Time that it will take if every worker has a core of its own.
    """

    num_shards: int
    num_patches: int
    bytes_per_patch: float
    num_bytes: int
    free_bytes: int
    patches_per_second: float
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the disk can hold it."""
        return _with_margin(self.num_bytes) <= self.free_bytes


def write_shards(
    prior: Prior,
    num_patches: int,
    path: str | os.PathLike,
    *,
    seed: int,
    start: int = 0,
    patches_per_image: int = 1,
    shard_size: int = SHARD_SIZE,
    num_workers: int = 0,
    verify: bool = False,
    progress: bool = False,
) -> Path:
    """Write patches of a stream as a folder of netCDF files; a run that was killed goes on when it is repeated.

    Parameters
    ----------
    prior : Prior
        What may occur.
    num_patches : int
        Number of patches, a multiple of ``patches_per_image``.
    path : path-like
        The folder: new, empty, or begun with the same settings.
    seed : int
        Names the stream.
    start : int
        First patch of the stream.
    patches_per_image : int
        Patches that share host, dopant, context and optics; divides ``BLOCK``.
    shard_size : int
        Patches per file; one takes about 2300 bytes.
    num_workers : int
        Processes that write, a shard each; 0 writes in this one.
    verify : bool
        Compare the checksums of the files that are there; without it their sizes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder: ``manifest.json``, with the settings, the prior, and size and SHA-256 of every shard, and the shards.

    Raises
    ------
    ValueError
        If a number is out of range, or the folder holds something else.
    OSError
        If the disk cannot hold what is missing, or a file cannot be written.

    Notes
    -----
    Whatever kills a run costs it the shards in work. A damaged file is written anew.
    """
    folder = Path(path)
    archive = Archive(prior, seed, start, num_patches, patches_per_image, shard_size)
    records = find_records(folder, archive, verify=verify, progress=progress)
    missing = {n: w for n, w in archive.shards().items() if n not in records}
    if missing:
        _check_disk(folder, _total_bytes(archive, missing, *_measure_bytes(archive, folder)))
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    write_manifest(folder, archive, records)
    # for the sake of a common order of events the workers may be some strides apart
    ahead = (
        {"num_workers": min(num_workers, len(missing)), "prefetch_factor": 8}
        if num_workers and missing
        else {}
    )
    done = sum(r["count"] for r in records.values())
    bar = tqdm(total=num_patches, initial=done, disable=not progress, unit="patch", unit_scale=True)
    with bar:
        # its own generator: the global one is left as found
        for event in DataLoader(
            _Writing(folder, archive, missing), None, generator=torch.Generator(), **ahead
        ):
            if isinstance(event, OSError):
                raise event
            if isinstance(event, int):
                bar.update(event)
            else:
                records[event["name"]] = event
                write_manifest(folder, archive, records)
    return folder


def plan_shards(
    prior: Prior,
    num_patches: int,
    path: str | os.PathLike,
    *,
    seed: int,
    start: int = 0,
    patches_per_image: int = 1,
    shard_size: int = SHARD_SIZE,
    num_workers: int = 0,
    verify: bool = False,
) -> ShardPlan:
    """Find out what ``write_shards`` would take, from a sample of some seconds; nothing is left behind.

    Parameters
    ----------
    prior : Prior
        What may occur.
    num_patches : int
        Number of patches.
    path : path-like
        The folder, for what is there already and for the space on its disk.
    seed, start, patches_per_image, shard_size, num_workers, verify : int
        As for ``write_shards``.

    Returns
    -------
    ShardPlan
        Numbers, size and time of what is missing.

    Raises
    ------
    ValueError
        If ``write_shards`` would refuse the settings or the folder.
    """
    folder = Path(path)
    archive = Archive(prior, seed, start, num_patches, patches_per_image, shard_size)
    records = find_records(folder, archive, verify=verify)
    missing = {n: w for n, w in archive.shards().items() if n not in records}
    per_shard, per_patch = _measure_bytes(archive, folder)
    count, rate = (
        sum(last - first for first, last in missing.values()),
        _measure_rate(archive, folder),
    )
    return ShardPlan(
        num_shards=len(missing),
        num_patches=count,
        bytes_per_patch=per_patch + per_shard / shard_size,
        num_bytes=_total_bytes(archive, missing, per_shard, per_patch),
        free_bytes=shutil.disk_usage(_existing(folder)).free,
        patches_per_second=rate,
        seconds=_rounds(len(missing), num_workers) * count / rate,
    )


class _Writing(IterableDataset):
    """The writing of shards as events: a number of patches, the record of a whole shard, or what went wrong."""

    def __init__(self, folder: Path, archive: Archive, missing: dict[str, tuple[int, int]]) -> None:
        self.folder, self.archive, self.missing = folder, archive, missing

    def __iter__(self) -> Iterator[int | dict[str, object] | OSError]:
        """Write the shards of this worker."""
        worker = get_worker_info()
        own = (
            list(self.missing.items())[worker.id :: worker.num_workers]
            if worker
            else list(self.missing.items())
        )
        for name, (first, last) in own:
            try:
                record = yield from _write(self.folder / name, self.archive, first, last)
            except OSError as error:
                yield error
                return
            yield record | {"start": first, "count": last - first}


def _write(path: Path, archive: Archive, first: int, last: int) -> Iterator[int]:
    """Draw and write a window of the stream."""
    stream = PatchStream(
        archive.prior, seed=archive.seed, patches_per_image=archive.patches_per_image
    )
    borders = [first, *range((first // STRIDE + 1) * STRIDE, last, STRIDE), last]
    batches = stream.draw(zip(borders, borders[1:], strict=False))
    return (
        yield from write_shard(
            path, batches, (last - first) // archive.patches_per_image, _attributes(archive, first)
        )
    )


def _attributes(archive: Archive, first: int) -> dict[str, object]:
    """What a shard says of itself."""
    return {"seed": archive.seed, "start": first, "sampling": archive.prior.sampling}


def _measure_bytes(archive: Archive, folder: Path) -> tuple[float, float]:
    """Bytes that a shard takes, and that each patch adds, from the first block."""
    stream = PatchStream(
        archive.prior, seed=archive.seed, patches_per_image=archive.patches_per_image
    )
    (block,) = stream.draw([(0, BLOCK)])
    with tempfile.TemporaryDirectory(dir=_existing(folder)) as scratch:
        few, many = (_size(Path(scratch) / "sample.nc", archive, join([block] * n)) for n in (1, 9))
    per_patch = (many - few) / (8 * BLOCK)
    return few - BLOCK * per_patch, per_patch


def _size(path: Path, archive: Archive, batch: Patches) -> int:
    """Bytes of a shard."""
    for _ in write_shard(path, [batch], len(batch.host), _attributes(archive, 0)):
        pass
    return path.stat().st_size


def _measure_rate(archive: Archive, folder: Path) -> float:
    """Patches per second that one process draws and writes, once warm."""
    count, seconds = BLOCK, 0.0
    with tempfile.TemporaryDirectory(dir=_existing(folder)) as scratch:
        while True:
            began = time.perf_counter()
            for _ in _write(Path(scratch) / "sample.nc", archive, 0, count):
                pass
            seconds = time.perf_counter() - began
            if seconds > SAMPLE / 2:
                return count / seconds
            count = BLOCK * math.ceil(count / BLOCK * min(SAMPLE / seconds, 16))


def _rounds(num_shards: int, num_workers: int) -> float:
    """Time that workers need, as a share of what one process would."""
    return math.ceil(num_shards / max(1, num_workers)) / max(1, num_shards)


def _total_bytes(
    archive: Archive, missing: dict[str, tuple[int, int]], per_shard: float, per_patch: float
) -> int:
    """Bytes of the shards that are missing."""
    return math.ceil(
        sum(per_shard + per_patch * (last - first) for first, last in missing.values())
    )


def _with_margin(num_bytes: int) -> int:
    """Bytes that must be free for a number of them."""
    return num_bytes + num_bytes // 100 + MARGIN


def _check_disk(folder: Path, num_bytes: int) -> None:
    """Raise if the disk cannot hold so much."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < _with_margin(num_bytes):
        raise OSError(
            f"{_with_margin(num_bytes) / 1e9:.1f} GB of free disk were expected for {folder}, "
            f"there are {free / 1e9:.1f}; make room, or write fewer patches"
        )


def _existing(folder: Path) -> Path:
    """The folder, or the one that it will be in."""
    return folder if folder.is_dir() else folder.absolute().parent

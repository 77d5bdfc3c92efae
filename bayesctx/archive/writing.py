"""write_shards(): write a stream of patches as a folder of files; killed runs can be resumed."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from ..checks import check_workers
from ..prior import Prior
from ..simulation import BLOCK, Patches, PatchStream
from ..storage import as_path, explain, make_folder, remove_stale, scratch_file
from ..tensors import join
from .manifest import Archive, find_records, write_manifest
from .shard import write_shard

__all__ = ["ShardPlan", "plan_shards", "write_shards"]

SHARD_SIZE = 65536  # patches: some 150 MB
STRIDE = BLOCK * max(1, 2048 // BLOCK)  # patches that are drawn and written at once
MARGIN = 2**26  # bytes of the disk that are left free
SAMPLE = 3.0  # s that are measured for a plan


@dataclass(frozen=True)
class ShardPlan:
    """Size and time of writing a folder of shards.

    Attributes
    ----------
    num_shards, num_patches : int
        Not written yet.
    bytes_per_patch : float
        Of a shard of full size.
    num_bytes, free_bytes : int
        To be written, and free on the disk.
    patches_per_second : float
        Of one process, measured.
    seconds : float
        Duration if every worker has a core of its own.
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
        """Whether the disk has room for it."""
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
    """Write patches of a stream as a folder of netCDF files.

    Parameters
    ----------
    prior : Prior
        Prior of the patches.
    num_patches : int
        Number of patches, a multiple of ``patches_per_image``.
    path : path-like
        The folder: new, empty, or begun with the same settings.
    seed : int
        Seed of the stream.
    start : int
        First patch of the stream.
    patches_per_image : int
        Patches that share host, dopant, context and optics; divides ``BLOCK``.
    shard_size : int
        Patches per file; one takes about 2300 bytes.
    num_workers : int
        Processes that write, a shard each; 0 writes in this one.
    verify : bool
        Compare the checksums of existing files, not only their sizes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder. It holds the shards and ``manifest.json``, with the settings, the prior, and
        size and SHA-256 of every shard.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a number is out of range, or the folder holds something else.
    OSError
        If the disk has no room for the missing shards, or a file cannot be written.

    Notes
    -----
    The same call resumes a run that was killed, of which only the unfinished shards are lost.
    Damaged files are written again.
    """
    archive = Archive(prior, seed, start, num_patches, patches_per_image, shard_size)
    folder, num_workers = _check_folder(path), check_workers(num_workers)
    records = find_records(folder, archive, verify=verify, progress=progress)
    missing = {n: w for n, w in archive.shards().items() if n not in records}
    if missing:
        _check_disk(folder, _total_bytes(missing, *_measure_bytes(archive, folder)))
    remove_stale(make_folder(folder))
    write_manifest(folder, archive, records)
    done = sum(r["count"] for r in records.values())
    bar = tqdm(total=num_patches, initial=done, disable=not progress, unit="patch", unit_scale=True)
    try:
        with bar:
            for event in _events(_Writing(folder, archive, missing), num_workers):
                if isinstance(event, OSError):
                    raise event
                if isinstance(event, int):
                    bar.update(event)
                else:
                    records[event["name"]] = event
                    write_manifest(folder, archive, records)
    finally:
        multiprocessing.active_children()  # joins the workers that have ended
        remove_stale(folder)
    return folder


def _check_folder(path: str | os.PathLike) -> Path:
    """A folder that exists, or one that can be made in an existing folder."""
    folder = as_path(path)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"a folder was expected, {folder} is a file; name another one")
    if not os.path.isdir(folder.absolute().parent):
        raise explain(FileNotFoundError(errno.ENOENT, ""), folder)
    return folder


def _events(writing: _Writing, num_workers: int) -> Iterator[int | dict[str, object] | OSError]:
    """Events of all workers."""
    # workers may be some strides apart, as their events are put into a common order
    num_workers = min(num_workers, len(writing.missing))
    ahead = {"num_workers": num_workers, "prefetch_factor": 8} if num_workers else {}
    # its own generator: the global one is left as found
    events = iter(DataLoader(writing, None, generator=torch.Generator(), **ahead))
    try:
        yield from events
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # an error of the program
            raise
        raise OSError(
            f"{num_workers} processes were expected to write, one was ended from outside, perhaps "
            "for want of memory; repeat the command with fewer workers"
        ) from error
    finally:
        if num_workers:  # the traceback of an error would keep them running
            events._shutdown_workers()


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
    """Estimate size and time of ``write_shards`` from a sample of some seconds.

    Parameters
    ----------
    prior : Prior
        Prior of the patches.
    num_patches : int
        Number of patches.
    path : path-like
        The folder. Existing shards and the space on its disk are considered; nothing is written.
    seed, start, patches_per_image, shard_size, num_workers, verify : int
        As for ``write_shards``.

    Returns
    -------
    ShardPlan
        Numbers, size and time of the missing shards.

    Raises
    ------
    TypeError, ValueError, OSError
        If ``write_shards`` would refuse the settings or the folder.
    """
    archive = Archive(prior, seed, start, num_patches, patches_per_image, shard_size)
    folder, num_workers = _check_folder(path), check_workers(num_workers)
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
        num_bytes=_total_bytes(missing, per_shard, per_patch),
        free_bytes=shutil.disk_usage(_existing(folder)).free,
        patches_per_second=rate,
        seconds=_rounds(len(missing), num_workers) * count / rate,
    )


class _Writing(IterableDataset):
    """Writes shards; yields a number of patches, the record of a shard, or an error."""

    def __init__(self, folder: Path, archive: Archive, missing: dict[str, tuple[int, int]]) -> None:
        self.folder, self.archive, self.missing = folder, archive, missing

    def __iter__(self) -> Iterator[int | dict[str, object] | OSError]:
        """Write the shards of this worker."""
        worker, own = get_worker_info(), list(self.missing.items())
        if worker is not None:
            own = own[worker.id :: worker.num_workers]
            # a loader ends slow workers by this signal: exit so that the unfinished file is removed
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
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
    """Attributes of a shard."""
    return {"seed": archive.seed, "start": first, "sampling": archive.prior.sampling}


def _measure_bytes(archive: Archive, folder: Path) -> tuple[float, float]:
    """Bytes that a shard takes, and that each patch adds, from the first block."""
    stream = PatchStream(
        archive.prior, seed=archive.seed, patches_per_image=archive.patches_per_image
    )
    (block,) = stream.draw([(0, BLOCK)])
    with _scratch(folder) as file:
        few, many = (_size(file, archive, join([block] * n)) for n in (1, 9))
    per_patch = (many - few) / (8 * BLOCK)
    return few - BLOCK * per_patch, per_patch


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A file on the disk of a folder that is removed at the end; errors name the folder."""
    try:
        with scratch_file(_existing(folder)) as file:
            yield file
    except OSError as error:
        if error.filename is not None:  # not from the writing of this file
            raise
        raise explain(error, folder) from error


def _size(path: Path, archive: Archive, batch: Patches) -> int:
    """Bytes of a shard."""
    for _ in write_shard(path, [batch], len(batch.host), _attributes(archive, 0)):
        pass
    return path.stat().st_size


def _measure_rate(archive: Archive, folder: Path) -> float:
    """Patches per second that one process draws and writes, once warm."""
    count, seconds = BLOCK, 0.0
    with _scratch(folder) as file:
        while True:
            began = time.perf_counter()
            for _ in _write(file, archive, 0, count):
                pass
            seconds = time.perf_counter() - began
            if seconds > SAMPLE / 2:
                return count / seconds
            count = BLOCK * math.ceil(count / BLOCK * min(SAMPLE / seconds, 16))


def _rounds(num_shards: int, num_workers: int) -> float:
    """Duration with workers, as a share of that with one process."""
    return math.ceil(num_shards / max(1, num_workers)) / max(1, num_shards)


def _total_bytes(missing: dict[str, tuple[int, int]], per_shard: float, per_patch: float) -> int:
    """Bytes of the shards that are missing."""
    return math.ceil(
        sum(per_shard + per_patch * (last - first) for first, last in missing.values())
    )


def _with_margin(num_bytes: int) -> int:
    """Bytes that must be free to write a number of them."""
    return num_bytes + num_bytes // 100 + MARGIN


def _check_disk(folder: Path, num_bytes: int) -> None:
    """Raise if the disk has no room for so many bytes."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < _with_margin(num_bytes):
        raise OSError(
            errno.ENOSPC,
            f"{_with_margin(num_bytes) / 1e9:.1f} GB of free disk were expected for {folder}, "
            f"there are {free / 1e9:.1f}; free some space, or write fewer patches",
        )


def _existing(folder: Path) -> Path:
    """The folder, or the one that it will be made in."""
    return folder if os.path.isdir(folder) else folder.absolute().parent

"""open_shards(): read a folder of shards as a stream of patches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import IterableDataset

from ..checks import check_whole_number
from ..simulation import Patches, rank_of_process
from ..simulation.stream import check_size, check_window, deal
from ..storage import as_path
from ..tensors import join
from .manifest import Archive, damaged, read_manifest
from .shard import open_shard, read_images

__all__ = ["ShardStream", "open_shards"]


class ShardStream(IterableDataset):
    """Patches of a folder in batches, divided among ranks and workers as by ``PatchStream``.

    Parameters
    ----------
    folder : Path
        The folder.
    archive : Archive
        What the folder holds; ``archive.prior`` is the prior.
    start, stop : int
        First patch, and the one after the last, by their index in the stream.
    batch_size : int
        Patches per batch.
    """

    def __init__(
        self, folder: Path, archive: Archive, start: int, stop: int, batch_size: int
    ) -> None:
        self.folder, self.archive, self.rank = folder, archive, None
        self.start, self.stop, self.batch_size = start, stop, batch_size

    def __iter__(self) -> Iterator[Patches]:
        """Yield the batches of this rank and worker."""
        name, file = "", None
        try:
            for first, last in deal(
                self.start, self.stop, self.batch_size, self.rank or rank_of_process()
            ):
                parts = []
                for wanted, window in self._pieces(first, last):
                    if wanted != name:
                        if file is not None:
                            file.close()
                        name, file = wanted, open_shard(self.folder / wanted)
                    parts.append(read_images(file, *window))
                yield join(parts)
        finally:
            if file is not None:
                file.close()

    def __getstate__(self) -> dict[str, object]:
        """Store the rank, since a spawned worker of a loader has no process group."""
        return self.__dict__ | {"rank": self.rank or rank_of_process()}

    def _pieces(self, first: int, last: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Shards of a window, and the images of each that belong to it."""
        archive = self.archive
        size, images = archive.shard_size, archive.patches_per_image
        begin, end = (first - archive.start) // size, -(-(last - archive.start) // size)
        for name, start, stop in map(archive.shard, range(begin, end)):
            borders = max(first, start) - start, min(last, stop) - start
            yield name, (borders[0] // images, borders[1] // images)


def open_shards(
    path: str | os.PathLike,
    *,
    start: int | None = None,
    stop: int | None = None,
    batch_size: int = 512,
    verify: bool = False,
    progress: bool = False,
) -> ShardStream:
    """Open a folder written by ``write_shards``.

    Parameters
    ----------
    path : path-like
        The folder.
    start, stop : int, optional
        First patch, and the one after the last, by their index in the stream. Default: all.
    batch_size : int
        Patches per batch, a multiple of the patches per image.
    verify : bool
        Compare the checksums of all shards, not only their sizes.
    progress : bool
        Show a progress bar while checksums are compared.

    Returns
    -------
    ShardStream
        An ``IterableDataset`` of ``Patches`` as they were simulated, except that intensity is
        rounded to 16 bits. Files are read during iteration.

    Raises
    ------
    TypeError
        If ``path`` is no path, or a number of another type.
    ValueError
        If the folder holds no shards, is incomplete or damaged, or does not hold these patches, or
        if a batch does not fit into memory.
    """
    folder = as_path(path)
    archive, records, _ = read_manifest(folder)
    first, last = (
        end if value is None else check_whole_number(name, value, 0, 2**53)
        for name, value, end in (("start", start, archive.start), ("stop", stop, archive.stop))
    )
    batch_size = check_whole_number("batch_size", batch_size, 1, 2**53)
    check_window(archive.seed, first, last, archive.patches_per_image, batch_size=batch_size)
    check_size(archive.prior, min(batch_size, archive.num_patches))
    if first < archive.start or last > archive.stop:
        raise ValueError(
            f"patches from {archive.start} to {archive.stop} were expected, got {first} to {last}; "
            f"{folder} has no others"
        )
    missing = [name for name in archive.shards() if name not in records]
    names = missing + damaged(folder, records, verify=verify, progress=progress)
    if names:
        raise ValueError(
            f"{archive.num_shards} whole shards were expected in {folder}, {len(names)} are absent "
            f"or damaged, the first is {names[0]}; write them by repeating the command"
            f"{' with --verify' if verify else ''}"
        )
    return ShardStream(folder, archive, first, last, batch_size)

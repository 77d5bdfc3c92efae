"""open_shards(): a folder of shards as the stream that it was written from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import netCDF4
from torch.utils.data import IterableDataset

from ..prior import Prior
from ..simulation import Patches, rank_of_process
from ..simulation.stream import check_window, deal
from ..tensors import join
from .manifest import Archive, damaged, read_manifest
from .shard import read_images

__all__ = ["ShardStream", "open_shards"]


class ShardStream(IterableDataset):
    """Patches of a folder in batches, dealt to ranks and workers as those of a ``PatchStream``.

    Parameters
    ----------
    folder : Path
        The folder.
    archive : Archive
        What it holds; ``archive.prior`` is the prior.
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
                        name, file = wanted, netCDF4.Dataset(self.folder / wanted)
                    parts.append(read_images(file, *window))
                yield join(parts)
        finally:
            if file is not None:
                file.close()

    def __getstate__(self) -> dict[str, object]:
        """Fix the rank: a spawned worker of a loader has no process group to ask."""
        return self.__dict__ | {"rank": self.rank or rank_of_process()}

    def _pieces(self, first: int, last: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Shards of a window, and the images of each that belong to it."""
        archive, shards = self.archive, list(self.archive.shards().items())
        size = archive.shard_size
        for name, (start, stop) in shards[
            (first - archive.start) // size : -(-(last - archive.start) // size)
        ]:
            borders = max(first, start) - start, min(last, stop) - start
            yield (
                name,
                (borders[0] // archive.patches_per_image, borders[1] // archive.patches_per_image),
            )


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
        Compare the checksums of all shards; without it their sizes.
    progress : bool
        Show a progress bar while they are compared.

    Returns
    -------
    ShardStream
        An ``IterableDataset`` of ``Patches``, as they were simulated but for the rounding of intensity to 16 bits. It reads
        while it is iterated.

    Raises
    ------
    ValueError
        If the folder is none of shards, not complete, or damaged, or does not hold the patches that are asked for.
    """
    folder = Path(path)
    found = read_manifest(folder)
    numbers = {
        n: found[n] for n in ("seed", "start", "num_patches", "patches_per_image", "shard_size")
    }
    archive = Archive(Prior.from_dict(found["prior"]), **numbers)
    first, last = archive.start if start is None else start, archive.stop if stop is None else stop
    check_window(archive.seed, first, last, archive.patches_per_image, batch_size=batch_size)
    if first < archive.start or last > archive.stop:
        raise ValueError(
            f"patches from {archive.start} to {archive.stop} were expected, got {first} to {last}; {folder} has no others"
        )
    there = {r["name"] for r in found["shards"]}
    names = [n for n in archive.shards() if n not in there] + damaged(
        folder, found["shards"], verify=verify, progress=progress
    )
    if names:
        raise ValueError(
            f"{len(archive.shards())} whole shards were expected in {folder}, {len(names)} are absent or damaged, "
            f"the first is {names[0]}; write them by repeating the command{' with --verify' if verify else ''}"
        )
    return ShardStream(folder, archive, first, last, batch_size)

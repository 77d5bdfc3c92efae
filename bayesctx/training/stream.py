"""Simulated patches as batches of blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset

from ..prior import Prior
from ..simulation import Patches, draw_block

__all__ = ["PatchStream", "first_images", "join"]

PATCHES_PER_IMAGE = 16


class PatchStream(IterableDataset):
    """Blocks of simulated patches, in order, shared out among the workers of a loader.

    Parameters
    ----------
    prior : Prior
        What may occur.
    seed : int
        Names the stream.
    start, stop : int
        First block, and the one after the last.
    patches_per_image : int
        Patches that share a context.
    """

    def __init__(self, prior: Prior, *, seed: int, start: int, stop: int, patches_per_image: int = PATCHES_PER_IMAGE) -> None:
        self.prior, self.seed, self.start, self.stop = prior, seed, start, stop
        self.patches_per_image = patches_per_image

    def __iter__(self) -> Iterator[Patches]:
        """Yield the blocks of this worker."""
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        for block in range(self.start + first, self.stop, step):
            yield draw_block(self.prior, self.seed, block, patches_per_image=self.patches_per_image)


def join(blocks: list[Patches]) -> Patches:
    """Put several blocks together as one batch.

    Parameters
    ----------
    blocks : list of Patches
        Of equal numbers of patches per image.

    Returns
    -------
    Patches
        Without the nuisances.
    """
    fields = {f: torch.cat([getattr(b, f) for b in blocks]) for f in ("intensity", "defect", "species", "host", "dopant")}
    context = {n: torch.cat([b.context[n] for b in blocks]) for n in blocks[0].context}
    return Patches(**fields, context=context, nuisances={})


def first_images(batch: Patches, count: int) -> Patches:
    """Take the first images of a batch.

    Parameters
    ----------
    batch : Patches
        A batch.
    count : int
        Number of images.

    Returns
    -------
    Patches
        Without the nuisances.
    """
    fields = {f: getattr(batch, f)[:count] for f in ("intensity", "defect", "species", "host", "dopant")}
    return Patches(**fields, context={n: v[:count] for n, v in batch.context.items()}, nuisances={})

"""Batches of a stream of simulated patches, divided among processes and workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from ..checks import check_memory, check_seed, check_whole_number, shorten
from ..prior import Prior
from ..tensors import join, take
from .codopants import check_one_dopant
from .latents import BLOCK, MAX_INDEX, Latents, Patches, draw_block, draw_latents, render_patches

__all__ = [
    "PatchStream",
    "check_prior",
    "check_size",
    "check_window",
    "deal",
    "rank_of_process",
]

COPIES = 3  # of the patches of a batch while its blocks are joined and the last one is cut


class PatchStream(IterableDataset):
    """The patches from ``start`` to ``stop`` of a stream, in batches.

    Patch i depends on prior, seed, ``patches_per_image`` and i only: not on the batch size, the
    number of processes or the worker that draws it. Batches are assigned in turn to the ranks of
    ``torch.distributed`` and, within a rank, to the workers of a
    ``DataLoader(stream, batch_size=None, num_workers=...)``, which returns them in order.

    Parameters
    ----------
    prior : Prior
        Prior of the patches.
    seed : int
        Seed of the stream, >= 0.
    start : int
        First patch, >= 0, a multiple of ``patches_per_image``.
    stop : int, optional
        The patch after the last one, a multiple of ``patches_per_image``. Default: no end.
    batch_size : int
        Patches per batch, a multiple of ``patches_per_image``; the last batch may be smaller.
        Patches are computed in whole blocks, so that multiples of ``BLOCK``, from a ``start`` that
        is one as well, are the most efficient.
    patches_per_image : int
        Patches that share host, dopant, context and optics; divides ``BLOCK``.
    rank : tuple of int, optional
        Rank of this process and number of processes; (0, 1) gives all patches to this process.
        Default: those of ``torch.distributed``.
    device : str or device, optional
        Device on which the images are computed and the batches lie. Default: CPU. Other devices
        agree with it to rounding; random numbers are drawn on the CPU in any case. With None the
        batches are ``Latents`` objects, from which ``render_patches`` computes the images. Workers
        of a loader then need no GPU, and one process computes the images of all workers.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is out of range, an image would be divided, or a batch does not fit into memory.

    Notes
    -----
    All ranks take the same number of batches only if their number divides the number of batches;
    choose ``stop`` accordingly where ranks wait for each other. Patches are bit-identical for one
    version of torch on one type of CPU, with any number of threads; others round differently.

    Examples
    --------
    >>> from bayesctx.prior import tmd_prior
    >>> stream = PatchStream(tmd_prior(), seed=0, start=100, stop=130, batch_size=20)
    >>> [len(batch.host) for batch in stream]
    [20, 10]
    """

    def __init__(
        self,
        prior: Prior,
        *,
        seed: int,
        start: int = 0,
        stop: int | None = None,
        batch_size: int = 512,
        patches_per_image: int = 1,
        rank: tuple[int, int] | None = None,
        device: str | torch.device | None = "cpu",
    ) -> None:
        check_window(seed, start, stop, patches_per_image, batch_size=batch_size)
        check_size(prior, batch_size)
        if rank is not None and not 0 <= rank[0] < rank[1]:
            raise ValueError(
                f"a rank below the number of ranks was expected, got {rank}; count from 0"
            )
        self.prior, self.seed, self.patches_per_image = prior, seed, patches_per_image
        self.start, self.stop, self.batch_size = start, stop, batch_size
        self.rank, self.device = rank, None if device is None else torch.device(device)

    def __iter__(self) -> Iterator[Patches | Latents]:
        """Yield the batches of this rank and worker."""
        return self.draw(
            deal(self.start, self.stop, self.batch_size, self.rank or rank_of_process())
        )

    def __getstate__(self) -> dict[str, object]:
        """Store the rank, since a spawned worker of a loader has no process group."""
        return self.__dict__ | {"rank": self.rank or rank_of_process()}

    def draw(self, windows: Iterable[tuple[int, int]]) -> Iterator[Patches | Latents]:
        """Draw windows of the stream.

        Parameters
        ----------
        windows : iterable of tuple of int
            First patch, and the one after the last, of every window.

        Yields
        ------
        Patches or Latents
            One batch per window.
        """
        blocks: dict[int, Patches | Latents] = {}
        here = self.device == torch.device("cpu")
        # CPU: block by block, which fits into the cache; GPU: all images of a batch at once
        draw = draw_block if here else draw_latents
        for first, last in windows:
            needed = range(first // BLOCK, -(-last // BLOCK))
            # the last block may overlap the next window
            blocks = {
                b: blocks[b]
                if b in blocks
                else draw(self.prior, self.seed, b, patches_per_image=self.patches_per_image)
                for b in needed
            }
            origin = needed.start * BLOCK
            images = (
                (first - origin) // self.patches_per_image,
                (last - origin) // self.patches_per_image,
            )
            batch = take(join(list(blocks.values())), *images)
            if not here and self.device is not None:
                batch = render_patches(self.prior, batch, self.device)
            yield batch


def rank_of_process() -> tuple[int, int]:
    """Rank of this process and number of processes.

    Returns
    -------
    tuple of int
        (0, 1) if ``torch.distributed`` is not initialised.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def check_prior(prior: object) -> None:
    """Raise for what is no prior.

    Parameters
    ----------
    prior : object
        What should be a prior.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(prior, Prior):
        raise TypeError(
            f"a Prior was expected, got {shorten(prior)}; use reference_prior() or another one"
        )


def check_size(prior: Prior, num_patches: int) -> None:
    """Raise for more patches than memory can hold.

    Parameters
    ----------
    prior : Prior
        Defines the pixels of a patch.
    num_patches : int
        Patches that are held at once.

    Raises
    ------
    TypeError
        If ``prior`` is no prior.
    ValueError
        If they take more than the memory of this machine, or the crystals are co-doped.
    """
    check_prior(prior)
    check_one_dopant(prior)
    pixels = prior.num_pixels
    what = f"{num_patches} patches of {pixels} x {pixels} pixels"
    check_memory(COPIES * num_patches * pixels**2 * 4, what)  # in single precision


def deal(
    start: int, stop: int | None, batch_size: int, rank: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Windows of the batches that belong to this rank and this worker of a loader.

    Parameters
    ----------
    start : int
        First patch.
    stop : int, optional
        The one after the last.
    batch_size : int
        Patches per batch.
    rank : tuple of int
        Rank and number of ranks.

    Yields
    ------
    tuple of int
        First patch of a batch, and the one after its last.
    """
    worker = get_worker_info()
    own, num_ranks = rank
    turn, step = (
        (own, num_ranks)
        if worker is None
        else (own + num_ranks * worker.id, num_ranks * worker.num_workers)
    )
    for first in itertools.count(start + turn * batch_size, step * batch_size):
        if stop is not None and first >= stop:
            return
        yield first, first + batch_size if stop is None else min(first + batch_size, stop)


def check_window(
    seed: int, start: int, stop: int | None, patches_per_image: int, **sizes: int
) -> None:
    """Raise for a window of a stream that cannot be drawn.

    Parameters
    ----------
    seed : int
        Seed of the stream.
    start : int
        First patch.
    stop : int, optional
        The one after the last.
    patches_per_image : int
        Patches that share a context.
    **sizes : int
        Numbers of patches of a batch or file, by name.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is out of range, or an image would be divided.
    """
    check_seed(seed)
    check_whole_number("start", start, 0, MAX_INDEX)
    for name, value in {"patches_per_image": patches_per_image, **sizes}.items():
        check_whole_number(name, value, 1, MAX_INDEX)
    if stop is not None:
        check_whole_number("stop", stop, 0, MAX_INDEX)
    if stop is not None and stop < start:
        raise ValueError(
            f"stop was expected to be at least start={start}, got {stop}; "
            "leave it out for a stream without an end"
        )
    if BLOCK % patches_per_image:
        raise ValueError(
            f"patches_per_image was expected to divide {BLOCK}, got {patches_per_image}; "
            "use a power of two"
        )
    for name, value in {"start": start, "stop": stop or 0, **sizes}.items():
        if value % patches_per_image:
            raise ValueError(
                f"whole images of {patches_per_image} patches were expected, "
                f"got {name}={value}; round it to a multiple of {patches_per_image}"
            )

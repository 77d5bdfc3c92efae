"""Work in threads: chains and fits that do not need each other run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

__all__ = ["side_by_side", "single_threads"]


@contextmanager
def single_threads() -> Iterator[int]:
    """Let every thread of Python use one core, and say how many there may be.

    Yields
    ------
    int
        Threads that torch was set to use, which is restored at the end.

    Notes
    -----
    Operations on small tensors are slower on several cores than on one.
    """
    num = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield num
    finally:
        torch.set_num_threads(num)


def side_by_side(function: Callable, values: Iterable, num_workers: int) -> list:
    """Map in threads.

    Parameters
    ----------
    function : callable
        Of one value; nothing that it changes is shared.
    values : iterable
        Its arguments.
    num_workers : int
        Workers at most.

    Returns
    -------
    list
        In the order of the values.
    """
    if num_workers == 1:
        return [torch.no_grad()(function)(value) for value in values]
    with ThreadPoolExecutor(num_workers) as pool:
        # gradients are switched off by thread
        return list(pool.map(torch.no_grad()(function), values))

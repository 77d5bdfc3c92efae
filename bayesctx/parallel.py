"""Work side by side: chains and fits that do not need each other, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import torch
from loky import get_reusable_executor

__all__ = ["side_by_side", "single_threads"]

MOST = 8  # processes: each takes some 0.4 GB, and there are few chains
IDLE = 300.0  # s, after which a process without work ends
# of these processes: numbers of large images stay in memory, which loky would take for a leak
SETTINGS = {"OMP_NUM_THREADS": "1", "LOKY_MAX_MEMORY_LEAK_SIZE": "1e12"}
INTERVAL = 0.2  # s, between two looks at what other processes count


@contextmanager
def single_threads() -> Iterator[int]:
    """Let every operation of torch use one core, and say how many there may be.

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


def side_by_side(
    function: Callable,
    values: Iterable,
    num_workers: int,
    tick: Callable[[], object] | None = None,
) -> list:
    """Map in processes, without gradients.

    Parameters
    ----------
    function : callable
        Of one value, and of ``tick`` if there is one. It may be a closure: it is sent to a process
        with everything that it refers to.
    values : iterable
        Its arguments.
    num_workers : int
        Processes at most. They are kept for the next call, for some minutes. With one, or one
        value, the work is done in this process.
    tick : callable, optional
        What functions call when a part of their work is done. It is called in this process, in
        another thread.

    Returns
    -------
    list
        In the order of the values.

    Notes
    -----
    Threads are of little use here: operations on small tensors are half in Python, so that two
    threads do 1.4 times the work of one, and two processes twice.
    """
    values = list(values)
    # a process that ends with its parent, as the workers of Dask, may have none of its own
    is_bound = multiprocessing.current_process().daemon
    if is_bound or min(num_workers, len(values)) < 2:
        given = () if tick is None else (tick,)
        return [torch.no_grad()(function)(value, *given) for value in values]
    pool = get_reusable_executor(
        min(num_workers, MOST), timeout=IDLE, env=SETTINGS, initializer=_prepare,
        initargs=(os.getpid(),),
    )  # fmt: skip
    with _heard(tick) as given:
        tasks = [pool.submit(_alone, function, value, *given) for value in values]
        try:
            return [task.result() for task in tasks]
        except Exception:
            for task in tasks:
                task.cancel()
            raise
        except BaseException:  # nobody waits for what is running
            pool.shutdown(kill_workers=True)
            raise


def _prepare(parent: int) -> None:
    """Set up a process, which is to end with its parent, also if that is killed."""
    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Wait for the end of the parent, then end this process."""
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)


def _alone(function: Callable, *given: object) -> object:
    """Call a function without gradients."""
    return torch.no_grad()(function)(*given)


@dataclass(frozen=True)
class _Tick:
    """Something that is counted, by the length of a file that processes append to."""

    path: Path

    def __call__(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(b".")


@contextmanager
def _heard(tick: Callable[[], object] | None) -> Iterator[tuple[_Tick, ...]]:
    """What other processes call for a function to be called in this one."""
    if tick is None:
        yield ()
        return
    with tempfile.TemporaryDirectory() as folder:
        path, ended = Path(folder) / "ticks", Event()
        path.touch()
        listener = Thread(target=_listen, args=(path, tick, ended), daemon=True)
        listener.start()
        try:
            yield (_Tick(path),)
        finally:
            ended.set()
            listener.join()


def _listen(path: Path, tick: Callable[[], object], ended: Event) -> None:
    """Call a function for everything that is counted, until the end."""
    heard, is_last = 0, False
    while not is_last:
        is_last = ended.wait(INTERVAL)
        counted = path.stat().st_size
        for _ in range(counted - heard):
            tick()
        heard = counted

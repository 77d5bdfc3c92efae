"""Processes that share the images of a series: this one, local ones, or those of Dask."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from ..model import PatchModel
from .job import Job, infer_file
from .ledger import FAILED, Record
from .listing import Image

__all__ = ["infer_files"]


def infer_files(
    job: Job,
    images: Sequence[Image],
    model: PatchModel | None,
    num_workers: int,
    scheduler: str | None,
) -> Iterator[Record]:
    """Infer the images of a series.

    Parameters
    ----------
    job : Job
        What is done with each.
    images : sequence of Image
        The files.
    model : PatchModel, optional
        Default: the reference model, which every process reads for itself.
    num_workers : int
        Local processes; 0 infers in this one.
    scheduler : str, optional
        Address of a scheduler of Dask, whose workers are used instead.

    Yields
    ------
    Record
        Of an image, in the order in which they are done.

    Raises
    ------
    OSError
        If a result cannot be written, the scheduler does not answer, or a local process was ended
        from outside.
    ImportError
        If a scheduler is given, and distributed is not installed here, or this package is not
        installed where its workers are.
    """
    if scheduler is not None:
        with _dask(scheduler, model) as (pool, shared):
            yield from _results(pool, infer_file, job, images, shared)
    elif num_workers and images:
        with _processes(min(num_workers, len(images))) as pool:
            yield from _results(pool, _infer_or_end, job, images, model)
    else:
        for image in images:
            yield infer_file(job, image, model)


def _results(
    pool: Executor, work: Callable, job: Job, images: Sequence[Image], model: object
) -> Iterator[Record]:
    """Records of images as they are done."""
    waiting = {pool.submit(work, job, image, model): image for image in images}
    for future in as_completed(waiting):
        yield _record(future, waiting.pop(future))


def _record(future: Future, image: Image) -> Record:
    """What became of an image, also if its worker has died."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "processes that infer images were expected to run, one was ended from outside, perhaps "
            "for want of memory; repeat the command with fewer workers"
        ) from error
    except ImportError as error:
        raise ImportError(
            f"bayesctx was expected where the workers of Dask run, it is absent ({error}); install "
            "the same version there"
        ) from error
    except OSError:  # a result cannot be written
        raise
    except Exception as error:  # Dask gives up an image that has ended several of its workers
        reason = " ".join(str(error).split())[:200]
        return Record(image.name, FAILED, f"its worker has ended ({reason})", source=image.state())


@contextmanager
def _processes(number: int) -> Iterator[Executor]:
    """Local processes, which share the cores."""
    threads = max(1, (os.cpu_count() or 1) // number)
    before = set(multiprocessing.active_children())
    # a fork would copy the threads of torch in an unknown state
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _prepare, (threads,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _infer_or_end(job: Job, image: Image, model: PatchModel | None) -> Record:
    """Infer an image; a process that was told to end does so, and takes no further image."""
    try:
        return infer_file(job, image, model)
    except SystemExit:  # the pool would ignore it
        os._exit(1)


def _prepare(threads: int) -> None:
    """Set up a local process: it ends with its parent, and removes what it has half written."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the end of the parent, which may be killed, then end this process."""
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def _dask(address: str, model: PatchModel | None) -> Iterator[tuple[Executor, object]]:
    """The workers of a scheduler of Dask, and the model where they are."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError(
            f"distributed was expected for the scheduler {address}, it is not installed; run "
            "pip install 'bayesctx[dask]', or give a number of workers instead"
        ) from error
    try:
        client = distributed.Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise OSError(
            f"a scheduler of Dask was expected at {address}, none answers ({error}); give the "
            "address that dask scheduler prints, such as tcp://127.0.0.1:8786"
        ) from error
    with client:
        shared = None if model is None else client.scatter(model, broadcast=True)
        pool = client.get_executor(pure=False)
        try:
            yield pool, shared
        finally:
            pool.shutdown(wait=False)

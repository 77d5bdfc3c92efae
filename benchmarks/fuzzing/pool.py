"""Processes that run inputs, with a limit of time and memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from .case import Outcome
from .files import store
from .kinds import run_input

__all__ = ["LIMIT", "run_inputs"]

LIMIT = 20.0  # s that an input may take
MEMORY = 6 * 2**30  # bytes of address space of a process
START = 120.0  # s that a process may take to start, with another input's time on top
PATIENCE = 6.0  # times the limit that may pass on a busy machine before a process is ended
Input = tuple[str, int]


@dataclass
class Worker:
    """A process, the pipe to it, and the input that it works at."""

    process: multiprocessing.Process
    pipe: Connection
    now: Input | None = None
    since: float = 0.0
    is_fresh: bool = True


def run_inputs(
    inputs: Sequence[Input],
    seed: int,
    num_workers: int,
    folder: Path,
    *,
    log: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Input, Outcome]]:
    """Run inputs in processes that are replaced when they hang, die, or are no longer as they were.

    Parameters
    ----------
    inputs : sequence of (str, int)
        Kind and index.
    seed : int
        Of all inputs.
    num_workers : int
        Number of processes.
    folder : Path
        For their files.
    log : callable
        Takes what happens to the processes.

    Yields
    ------
    (str, int), Outcome
        An input and what became of it, in the order in which they end.
    """
    os.environ["FUZZ_FOLDER"] = str(folder)
    store()  # made once for all processes
    waiting = list(reversed(inputs))
    workers = [_start(seed, folder) for _ in range(min(num_workers, len(waiting)))]
    try:
        for worker in workers:
            _hand(worker, waiting)
        while any(w.now is not None for w in workers):
            ready = wait([w.pipe for w in workers if w.now is not None], timeout=0.5)
            for i, worker in enumerate(workers):
                outcome = None
                if worker.now is None:
                    continue
                if worker.pipe in ready:
                    outcome = _receive(worker)
                elif time.monotonic() - worker.since > PATIENCE * LIMIT + START * worker.is_fresh:
                    outcome = Outcome(
                        "hang",
                        "hang",
                        f"no answer within {PATIENCE * LIMIT:.0f} s",
                        PATIENCE * LIMIT,
                    )
                if outcome is None:
                    continue
                done, worker.is_fresh = worker.now, False
                if outcome.verdict in ("hang", "died", "state"):
                    log(f"process {worker.process.pid} replaced after {done}: {outcome.verdict}")
                    worker.now = None if outcome.verdict == "state" else done
                    _end(worker)
                    workers[i] = worker = _start(seed, folder)
                _hand(worker, waiting)
                yield done, outcome
    finally:
        for worker in workers:
            _end(worker)


def _hand(worker: Worker, waiting: list[Input]) -> None:
    """Give the next input to a process."""
    worker.now, worker.since = (waiting.pop() if waiting else None), time.monotonic()
    if worker.now is not None:
        worker.pipe.send(worker.now)


def _receive(worker: Worker) -> Outcome:
    """Read the answer of a process, which may be that it died."""
    try:
        outcome = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join(10)
        code = worker.process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return Outcome("died", f"died: {name}", f"the process died: {name}")
    slow = outcome.seconds > LIMIT and not outcome.is_fault
    return (
        replace(outcome, verdict="slow", where="slow", message=f"{outcome.seconds:.0f} s")
        if slow
        else outcome
    )


def _start(seed: int, folder: Path) -> Worker:
    """Start a process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, seed, str(folder)), daemon=False)
    process.start()
    theirs.close()
    return Worker(process, ours)


def _end(worker: Worker) -> None:
    """End a process and all that it started; one that waits for an input ends by itself."""
    worker.pipe.close()
    if worker.now is None:
        worker.process.join(10)
    if worker.process.is_alive():
        try:
            os.killpg(worker.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it did not come to form its group
            worker.process.kill()
    worker.process.join()


def _work(pipe: Connection, seed: int, folder: str) -> None:
    """Run inputs until there are no more."""
    os.setsid()
    os.environ["TMPDIR"] = folder
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            kind, index = pipe.recv()
        except EOFError:
            return
        try:
            outcome = run_input(kind, seed, index)
        except MemoryError as error:
            outcome = Outcome("died", "died: memory", str(error))
        pipe.send(outcome)

"""CPU seconds of this process and its children, with a charge for simulated patches."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bayesctx.storage import replacing

__all__ = ["Clock", "cpu_seconds"]


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Clock:
    """The CPU seconds that a method has spent of its budget.

    Parameters
    ----------
    budget : float
        CPU seconds for simulation and training together.
    path : Path, optional
        File that keeps what was spent, so that a resumed run goes on from there.
    read : callable
        The CPU seconds so far, for tests.

    Attributes
    ----------
    charged : float
        Seconds for patches that were simulated earlier, for all methods.
    """

    def __init__(
        self,
        budget: float,
        path: Path | None = None,
        read: Callable[[], float] = cpu_seconds,
    ) -> None:
        self.budget, self.path, self.read = budget, path, read
        self.before, self.charged = 0.0, 0.0
        if path is not None and path.exists():
            kept = json.loads(path.read_text())
            self.before, self.charged = kept["own"], kept["charged"]
        self.start = read()

    @property
    def own(self) -> float:
        """CPU seconds of the method itself, those of earlier processes included."""
        return self.before + self.read() - self.start

    @property
    def spent(self) -> float:
        """CPU seconds with those that are charged."""
        return self.own + self.charged

    @property
    def share(self) -> float:
        """Share of the budget that is spent, at most 1."""
        return min(1.0, self.spent / self.budget)

    @property
    def left(self) -> float:
        """CPU seconds that are left, at least 0."""
        return max(0.0, self.budget - self.spent)

    def save(self) -> None:
        """Write what was spent."""
        if self.path is not None:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps({"own": self.own, "charged": self.charged}))

    @contextmanager
    def saving(self, seconds: float = 20.0) -> Iterator[None]:
        """Save every so many seconds inside, for trainings that cannot call ``save``."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(seconds):
                self.save()

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.save()

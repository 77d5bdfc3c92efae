"""The inference of one file of a series, in whichever process it runs."""

from __future__ import annotations

import functools
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files import read
from ..inference import infer, save
from ..model import PatchModel, load_model
from .ledger import DONE, FAILED, REFUSED, Record
from .listing import Image

__all__ = ["ONE_AT_A_TIME", "Job", "infer_file", "shipped"]

ONE_AT_A_TIME = threading.Lock()
"""Held while an image is inferred: a worker of Dask has several threads, warnings are global."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is done with every image.

    Attributes
    ----------
    folder : Path
        Of the results, absolute.
    context : mapping
        What is stated.
    num_draws, seed : int
        Of ``infer``.
    likelihood : str
        One of ``context.LIKELIHOODS``.
    variable : str or None
        Of ``read``.
    select : mapping of str to str
        Of ``read``.
    """

    folder: Path
    context: Mapping[str, object]
    num_draws: int
    seed: int
    likelihood: str
    variable: str | None
    select: Mapping[str, str]


@functools.cache
def shipped() -> PatchModel:
    """Read the reference model, once in each process.

    Returns
    -------
    PatchModel
        The same one at every call.
    """
    return load_model()


def infer_file(job: Job, image: Image, model: PatchModel | None = None) -> Record:
    """Read an image, infer it, and write its result.

    Parameters
    ----------
    job : Job
        What is done.
    image : Image
        The file.
    model : PatchModel, optional
        Default: the reference model.

    Returns
    -------
    Record
        Also of an image that was refused.

    Raises
    ------
    OSError
        If the result cannot be written: the next image would fail likewise.
    """
    began, state = time.perf_counter(), image.state()
    with ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status, message, size = _solve(job, image, model or shipped())
    # those of libraries are of no use to the user
    told = dict.fromkeys(
        " ".join(str(w.message).split()) for w in caught if w.category is UserWarning
    )
    seconds = round(time.perf_counter() - began, 3)
    return Record(image.name, status, message, list(told), seconds, state, size)


def _solve(job: Job, image: Image, model: PatchModel) -> tuple[str, str, int]:
    """Status, message and size of the result."""
    try:
        found = read(image.path, variable=job.variable, select=job.select)
        result = infer(
            found,
            dict(job.context),
            model,
            num_draws=job.num_draws,
            seed=job.seed,
            likelihood=job.likelihood,
            progress=False,
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        return REFUSED, " ".join(str(error).split()), 0
    except MemoryError as error:
        return FAILED, f"more memory was expected, there is too little ({error})", 0
    except Exception:  # one image must not end the work on the others
        return FAILED, traceback.format_exc(limit=-3), 0
    path = save(result, job.folder / image.result)
    return DONE, "", path.stat().st_size

"""infer_series(): the images of a folder, one result each; killed runs can be resumed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from ..checks import check_seed, check_whole_number, check_workers
from ..distributions import encode
from ..evidence import Codoped, check_context
from ..inference import load
from ..inference.choice import check_likelihood
from ..model import PatchModel, load_model
from ..storage import as_path, make_folder, remove_stale
from .job import Job
from .ledger import DONE, Record, Settings, begin, is_done, read_ledger, write_ledger
from .listing import list_images
from .workers import infer_files

__all__ = ["infer_series", "open_series"]

MOST_DRAWS = 1_000_000
OF_DETECTORS = ("detector", "detector_order")  # checked with each image, which names them


def infer_series(
    images: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    context: Mapping[str, object] | None = None,
    model: PatchModel | None = None,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    likelihood: str = "auto",
    variable: str | None = None,
    select: Mapping[str, object] | None = None,
    num_workers: int = 0,
    scheduler: str | None = None,
    progress: bool | None = None,
) -> list[Record]:
    """Infer every image of a folder, and write one result for each.

    Parameters
    ----------
    images : path-like or sequence of path-like
        A folder, whose files with the ending of an image format are taken (not those of folders in
        it), or the files.
    out : path-like
        Folder of the results: new, empty, or begun with the same settings.
    context : mapping, optional
        What is known of all images, see ``infer``. What a file records of its own image is added.
    model : DefectModel, optional
        Default: the reference model.
    num_draws, seed, likelihood : int, int, str
        See ``infer``. Every image has the same seed, so that its result does not depend on the
        others.
    variable, select : str, mapping
        See ``read``.
    num_workers : int
        Processes on this machine, an image each at a time; 0 infers in this process. A script that
        uses them needs ``if __name__ == "__main__":``.
    scheduler : str, optional
        Address of a scheduler of Dask, such as ``tcp://127.0.0.1:8786``, whose workers infer the
        images. They must see the same files; needs the extra ``dask``.
    progress : bool, optional
        Show a progress bar; default: in a terminal.

    Returns
    -------
    list of Record
        What became of every image, in the order of the images: ``status`` is ``"done"``,
        ``"refused"`` (no image that can be read or inferred; ``message`` says why) or ``"failed"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, the folder has no images, or ``out`` holds something else.
    OSError
        If a result cannot be written, or workers have ended.
    ImportError
        If a scheduler is given without the extra ``dask``.

    Notes
    -----
    The folder holds ``NAME.nc`` for every image NAME, as ``save`` writes it, and ``series.json``
    with the settings and the records. Every file is written completely or not at all. The same call
    resumes a run that was killed: of it only the images in work are lost. Images that have changed
    since, results that were removed, and images that were refused are inferred again. Memory does
    not grow with the number of images.

    Examples
    --------
    >>> infer_series("scans", "results", {"host": "WSe2"}, num_workers=4)  # doctest: +SKIP
    """
    found = list_images(images)
    chosen = load_model() if model is None else model
    settings = _settings(context, chosen, num_draws, seed, likelihood, variable, select)
    folder, num_workers = as_path(out).absolute(), check_workers(num_workers)
    if any(image.path.parent == folder for image in found):
        raise ValueError(
            f"another folder than that of the images was expected for the results, got {out}; "
            "name a new one"
        )
    records = begin(folder, settings)
    remove_stale(make_folder(folder))
    missing = [image for image in found if not is_done(folder, image, records)]
    write_ledger(folder, settings, records)
    job = Job(
        folder, dict(context or {}), settings.num_draws, settings.seed, likelihood, variable,
        settings.select,
    )  # fmt: skip
    shown = None if progress is None else not progress
    bar = tqdm(total=len(found), initial=len(found) - len(missing), disable=shown, unit="image")
    with bar:
        for record in infer_files(job, missing, model, num_workers, scheduler):
            records[record.image] = record
            write_ledger(folder, settings, records)
            bar.update()
            if record.status != DONE and not bar.disable:
                last = record.message.strip().splitlines()[-1]  # the error of a traceback
                bar.write(f"{record.image}: {record.status}: {last}", file=sys.stderr)
    return [records[image.name] for image in found]


def _settings(
    context: Mapping[str, object] | None,
    model: PatchModel,
    num_draws: int,
    seed: int,
    likelihood: str,
    variable: str | None,
    select: Mapping[str, object] | None,
) -> Settings:
    """Settings of a run, checked before the first image is read."""
    check_likelihood(likelihood)
    stated = dict(context or {})
    shared = check_context({n: v for n, v in stated.items() if n not in OF_DETECTORS})
    arrays = [n for n, v in shared.items() if isinstance(v, np.ndarray)]
    if arrays:
        raise ValueError(
            f"one value of {arrays[0]} for all images was expected, got an array; infer images of "
            "different values into different folders"
        )
    try:
        prior = model.prior.to_dict()
    except ValueError:  # a distribution that cannot be written
        prior = {}
    return Settings(
        context=json.loads(json.dumps(stated, default=_plain)),
        model=model.hash(),
        num_draws=check_whole_number("num_draws", num_draws, 1, MOST_DRAWS),
        seed=check_seed(seed),
        likelihood=likelihood,
        variable=variable,
        select={str(n): str(v) for n, v in (select or {}).items()},
        prior=prior,
    )


def _plain(value: object) -> object:
    """A value of the context as JSON."""
    if isinstance(value, torch.distributions.Distribution):
        try:
            return encode(value)
        except ValueError:  # of another family
            return " ".join(str(value).split())
    if isinstance(value, Codoped):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return value.tolist() if hasattr(value, "tolist") else list(value)


def open_series(folder: str | os.PathLike, *, in_memory: bool = False) -> xr.DataTree:
    """Open the results of a series as one tree with a group for each image.

    Parameters
    ----------
    folder : path-like
        Written by ``infer_series``.
    in_memory : bool
        Read all results, and check that they are whole. By default variables are read when they are
        used, so that a series may be larger than the memory; close the tree at the end.

    Returns
    -------
    DataTree
        Its children are the results, as ``infer`` returned them, by the names of the images.
        Attributes: the settings of the series.

    Raises
    ------
    ValueError
        If it is no folder of results, or a result is missing or damaged.

    Examples
    --------
    >>> series = open_series("results")  # doctest: +SKIP
    >>> {name: counts(result) for name, result in series.items()}  # doctest: +SKIP
    """
    path = as_path(folder)
    settings, records = read_ledger(path)
    groups = {
        name: _open(path / f"{name}.nc", in_memory)
        for name, record in records.items()
        if record.status == DONE
    }
    series = xr.DataTree(children=groups)
    series.attrs = {
        "package": "bayesctx",
        "settings": json.dumps({n: getattr(settings, n) for n in settings.__dataclass_fields__}),
    }
    return series


def _open(path: Path, in_memory: bool) -> xr.DataTree:
    """A result, in memory or not."""
    if in_memory:
        return load(path)
    try:
        return xr.open_datatree(path, engine="netcdf4")
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"a result written by infer_series was expected at {path}, it is missing or damaged "
            f"({' '.join(str(error).split())[:120]}); infer the series again"
        ) from error

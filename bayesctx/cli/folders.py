"""What infer runs for a folder of images, and what summarise runs."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ..context import CONTEXT
from ..distributions import quantile
from ..model import PatchModel, load_model
from ..nuisances import NUISANCES
from ..prior import CONTINUOUS, Prior
from ..series import Record, infer_series, session_prior, summarise
from ..series.members import prior_of
from ..storage import existing_file, parse_json, replacing
from .answer import Answer, propose
from .arguments import RESULTS, SERIES_FLAGS
from .sources import read_choice, read_context, wrap

__all__ = [
    "OF_ONE_IMAGE",
    "infer_folder",
    "read_model",
    "refuse_series_options",
    "summarise_folder",
]

SOME_REFUSED = 3  # exit code
OF_ONE_IMAGE = {"plot": "--plot", "report": "--report"}
"""Flags of files that show one image, by the name of the argument."""

SHOWN = 20  # images that are listed


def read_model(arguments: argparse.Namespace) -> PatchModel:
    """Read the model, under the prior of a session if one is named.

    Parameters
    ----------
    arguments : Namespace
        With ``model`` and ``session``.

    Returns
    -------
    PatchModel
        To infer with.

    Raises
    ------
    ValueError, TypeError, OSError
        If a file cannot be read.
    """
    model = load_model(arguments.model)
    if arguments.session is None:
        return model
    path = existing_file(arguments.session, "a prior written by bayesctx summarise --session")
    try:
        prior = Prior.from_dict(parse_json(path.read_bytes().decode()))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"a prior written by bayesctx summarise --session was expected, {path} is damaged or "
            f"another file ({' '.join(str(error).split())[:120]}); write it again"
        ) from error
    return model.with_prior(prior)


def refuse_series_options(arguments: argparse.Namespace) -> None:
    """Raise for options of a folder of images, and for a folder to write, where one image is read.

    Parameters
    ----------
    arguments : Namespace
        Of infer.

    Raises
    ------
    ArgumentTypeError
        If there are any.
    """
    for name, flag in SERIES_FLAGS.items():
        if getattr(arguments, name) is not None:
            raise argparse.ArgumentTypeError(
                f"{flag} belongs to a folder of images, got one image, {arguments.image[0]}; leave "
                "it out"
            )
    for out in arguments.out:
        if out.suffix.lower() not in RESULTS:
            raise argparse.ArgumentTypeError(
                f"a file that ends in {', '.join(RESULTS)} was expected for one image, got "
                f"{str(out)!r}; change its ending, or name a folder of images"
            )


def infer_folder(arguments: argparse.Namespace) -> Answer:
    """Infer every image of a folder.

    Parameters
    ----------
    arguments : Namespace
        Of infer, whose image is a folder.

    Returns
    -------
    Answer
        With the exit code 3 if images were refused.

    Raises
    ------
    ArgumentTypeError
        For options of a single image.
    ValueError, TypeError, OSError, ImportError
        See ``infer_series``.
    """
    if len(arguments.image) > 1 or len(arguments.out) > 1:
        raise argparse.ArgumentTypeError(
            f"one folder of images and one of results were expected, got {len(arguments.image)} "
            f"and {len(arguments.out)}; repeat the command for each"
        )
    (images,), (out,) = arguments.image, arguments.out
    if out.suffix.lower() in RESULTS:
        raise argparse.ArgumentTypeError(
            f"a folder was expected as --out for the folder {images}, got {str(out)!r}; name one "
            "without an ending"
        )
    for name, flag in OF_ONE_IMAGE.items():
        if getattr(arguments, name, None) is not None:
            raise argparse.ArgumentTypeError(
                f"{flag} belongs to one image, got the folder {images}; leave it out, and repeat "
                "the command for an image of interest"
            )
    began = time.perf_counter()
    records = infer_series(
        images,
        out,
        read_context(arguments.context),
        read_model(arguments) if arguments.model or arguments.session else None,
        num_draws=arguments.num_draws,
        seed=arguments.seed,
        likelihood=arguments.likelihood,
        variable=arguments.variable,
        select=read_choice(arguments.select),
        num_workers=0 if (arguments.num_workers or 1) == 1 else arguments.num_workers,
        scheduler=arguments.scheduler,
    )
    seconds = time.perf_counter() - began
    bad = [r for r in records if r.status != "done"]
    data = {"results": str(out), "seconds": seconds, "images": [asdict(r) for r in records]}
    return Answer(_describe(records, out, seconds), data, SOME_REFUSED if bad else 0)


def _describe(records: Sequence[Record], out: Path, seconds: float) -> str:
    """Summary of a run."""
    bad = [r for r in records if r.status != "done"]
    num_done = len(records) - len(bad)
    lines = [f"{num_done} of {len(records)} images inferred, {seconds:.0f} s"]
    if bad:
        lines += ["", f"{len(bad)} left out:"]
        lines += [wrap(f"  {r.image}: {_reason(r)}", 4) for r in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more, see {out / 'series.json'}")
    kinds: dict[str, str] = {}
    told = Counter()
    for warning in (w for r in records for w in r.warnings):
        kind = re.sub(r"[\d.]+", "#", warning)
        kinds.setdefault(kind, warning)
        told[kind] += 1
    if told:
        lines += ["", "warnings, by the number of images:"]
        lines += [wrap(f"  {n:>4}  {kinds[kind]}", 8) for kind, n in told.most_common(SHOWN)]
    lines += ["", f"results: {out} ({num_done} files .nc, and series.json)"]
    if bad:
        lines.append(
            "next: mend these files and repeat the command, which infers only what is left"
        )
    if num_done:
        options = shlex.quote(str(out)), "--out series.csv", "--session session.json"
        lines.append(f"next: {propose('summarise', *options)}")
        lines.append(f'      in Python: bayesctx.open_series("{out}")')
    return "\n".join(lines)


def _reason(record: Record) -> str:
    """Why an image was left out; of a fault of the program its last line."""
    last = record.message.strip().splitlines()[-1]
    return last if record.status == "refused" else f"{record.status}, {last}"


def summarise_folder(arguments: argparse.Namespace) -> Answer:
    """Summarise the results of a folder, and write the prior of its session.

    Parameters
    ----------
    arguments : Namespace
        Of summarise.

    Returns
    -------
    Answer
        The concentrations, and what was learned of the instrument.

    Raises
    ------
    ValueError, TypeError, OSError
        If these are no results, or a file cannot be written.
    """
    table = summarise(arguments.results)
    before = prior_of(arguments.results, None)
    learned = session_prior(arguments.results)
    frame = table.drop_dims("image").to_dataframe()
    if arguments.out is not None:
        with replacing(arguments.out) as temporary:
            if arguments.out.suffix.lower() == ".nc":
                table.to_netcdf(temporary, engine="netcdf4")
            else:
                frame.to_csv(temporary, float_format="%.6g", lineterminator="\n")
    if arguments.session is not None:
        with replacing(arguments.session) as temporary:
            temporary.write_text(json.dumps(learned.to_dict(), indent=1) + "\n")
    changed = _changes(before, learned)
    data = {
        "num_images": table.attrs["num_images"],
        "concentrations": frame.to_dict("index"),
        "instrument": {n: dict(zip(("low", "median", "high"), v, strict=True))
                       for n, (_, v) in changed.items()},
    }  # fmt: skip
    return Answer(_describe_summary(table, changed, arguments), data)


def _describe_summary(table: xr.Dataset, changed: dict, arguments: argparse.Namespace) -> str:
    """Concentrations of a series, and what it tells of the instrument."""
    lines = [
        f"{table.attrs['num_images']} images; concentrations in % of the sites of their kind,",
        "with 90 % intervals",
        "",
        f"{'class':<10}{'mean':>8}{'':>17}{'spread':>10}{'a further image':>22}",
    ]
    for name in table.defect_class.values:
        row = 100 * table.drop_dims("image").sel(defect_class=name)
        spans = [
            f"{row[f'{n}_90_low'].item():.2f} to {row[f'{n}_90_high'].item():.2f}"
            for n in ("mean", "further")
        ]
        mean, spread = f"{row['mean'].item():.2f}", f"{row['spread'].item():.2f}"
        lines.append(f"{name:<10}{mean:>8}{spans[0]:>17}{spread:>10}{spans[1]:>22}")
    lines += ["", "the instrument in a further image of the session, median and 90 % interval:"]
    for name, (old, new) in changed.items():
        unit = CONTEXT[name].unit if name in CONTEXT else NUISANCES[name][0]
        now, prior = (f"{m:.4g} ({low:.4g} to {high:.4g})" for low, m, high in (new, old))
        lines.append(wrap(f"  {f'{name} [{unit}]':<30}{now}, prior {prior}", 32))
    if not changed:
        lines.append("  nothing was learned: all of it is known, or the images say too little")
    lines += ["", *(f"written: {p}" for p in (arguments.out, arguments.session) if p is not None)]
    if arguments.session is None:
        results = shlex.quote(str(arguments.results))
        lines.append(f"next: {propose('summarise', results, '--session session.json')}")
        further = propose("infer", "IMAGE", "--session session.json", "--out next.nc")
        lines += ["      then, for further images of this session:", f"      {further}"]
    else:
        session = f"--session {shlex.quote(str(arguments.session))}"
        lines.append(f"next: {propose('infer', 'IMAGE', session, '--out next.nc')}")
    return "\n".join(lines)


def _changes(before: Prior, after: Prior) -> dict[str, tuple[list[float], list[float]]]:
    """Quantiles of 5, 50 and 95 % of the variables whose prior has changed, before and after."""
    found = {}
    for name in (*CONTINUOUS, *NUISANCES):
        ranges = [_quantiles(prior, name) for prior in (before, after)]
        if not np.allclose(*ranges):
            found[name] = tuple(ranges)
    return found


def _quantiles(prior: Prior, name: str) -> list[float]:
    """Quantiles of 5, 50 and 95 % of a variable under all conditions of a prior."""
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    laws = (
        [c[name] for c in prior.conditions] if name in CONTEXT else [prior.nuisances.get(name, 0.0)]
    )
    values = torch.cat([quantile(law, u) for law in laws])
    return np.quantile(values.numpy(), [0.05, 0.5, 0.95]).tolist()

"""What each verb runs. Every verb writes its files first and returns the text to print."""

from __future__ import annotations

import argparse
import itertools
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ..archive import ShardPlan, plan_shards, write_shards
from ..files import read
from ..inference import infer, save
from ..model import DefectModel, load_model, save_model
from ..prior import Prior, limit_prior, reference_prior, tmd_prior
from ..simulation import rank_of_process, simulate, simulate_micrograph
from ..simulation.datasets import MOST_PATCHES
from ..storage import make_folder
from ..tables import check_format, export
from ..training import process_group, train
from .answer import Answer, propose
from .arguments import FOLDER_FLAGS, file_to_write, picture_to_write
from .folders import OF_ONE_IMAGE, infer_folder, read_model, refuse_series_options, summarise_folder
from .numbers import list_numbers
from .reports import heard_warnings, report_result
from .sources import describe_source, read_choice, read_context
from .summaries import describe_demo, describe_result, draw_demo, draw_result, save_figure

__all__ = ["VERBS", "refuse_shard_options", "simulate_shards"]

PRIORS = {
    "reference": reference_prior,
    "tmd": tmd_prior,
    "limit": limit_prior,
    "between": partial(limit_prior, between=True),
}

# the context of the demo, and the variables of it that are recorded with the image
DEMO = {
    "host": "WSe2",
    "dopant": "Ti",
    "beam_energy": 80e3,
    "convergence_semiangle": 25.0,
    "inner_collection_angle": 35.0,
    "outer_collection_angle": 90.0,
    "defocus": 0.0,
    "dose": 1e4,
}
DEMO_IMAGE = {"seed": 5, "num_pixels": 256, "sampling": 0.2}  # one with dopants and vacancies
# with 1000 draws about 10 carry the posterior given the host alone: too few, and infer would warn
DEMO_DRAWS = 4000
RECORDED = tuple(name for name in DEMO if name not in ("defocus", "dose"))


def _simulate(arguments: argparse.Namespace) -> str:
    """Write patches in one file or in a folder of shards, or a micrograph."""
    context = read_context(arguments.context)
    if "sampling" in context:
        raise ValueError(
            "a context without sampling was expected for a simulation, got it in --context; give "
            "--sampling for a micrograph, patches have that of the prior"
        )
    is_file = arguments.out.suffix.lower() == ".nc"
    if arguments.micrograph and not is_file:
        raise argparse.ArgumentTypeError(
            f"a file that ends in .nc was expected for a micrograph, got {str(arguments.out)!r}; "
            "change --out"
        )
    prior = PRIORS[arguments.prior]().given(context)
    if not is_file:
        return simulate_shards(arguments, prior)
    refuse_shard_options(arguments)
    if arguments.micrograph:
        size = {"num_pixels": arguments.num_pixels, "sampling": arguments.sampling}
        data = simulate_micrograph(prior, seed=arguments.seed, index=arguments.start, **size)
        what = f"a micrograph of {data.sizes['patch']} sites"
    else:
        data = _simulate_patches(arguments, prior)
        what = f"{data.sizes['image']} patches"
    save(xr.DataTree(data), arguments.out)
    return f"{what} of {data.sizes['y']} x {data.sizes['x']} px: {arguments.out}"


def _simulate_patches(arguments: argparse.Namespace, prior: Prior) -> xr.Dataset:
    """Draw patches for one file."""
    if arguments.num_patches > MOST_PATCHES:
        raise argparse.ArgumentTypeError(
            f"at most {MOST_PATCHES} patches were expected in one file, "
            f"got {arguments.num_patches}; name a folder"
        )
    window = {"seed": arguments.seed, "start": arguments.start}
    return simulate(prior, arguments.num_patches, **window, progress=True)


def _train(arguments: argparse.Namespace) -> str | None:
    """Train and calibrate a model; only the first process writes."""
    if arguments.checkpoint is not None and arguments.checkpoint == arguments.out:
        raise argparse.ArgumentTypeError(
            f"two files were expected as --checkpoint and --out, got {arguments.out} twice; "
            "change one"
        )
    device = _usable_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    prior = PRIORS[arguments.prior]()
    model = (
        load_model(arguments.model).with_prior(prior)
        if arguments.model
        else DefectModel(prior, seed=arguments.seed)
    ).to(device)
    names = ("num_patches", "seed", "batch_size", "learning_rate", "checkpoint")
    options = {name: getattr(arguments, name) for name in names}
    options |= {"num_workers": arguments.workers, "contrast_images": arguments.contrast}
    options["num_held_out"] = arguments.held_out
    with process_group():
        history = train(model, **options)
        if rank_of_process()[0]:
            return None
    save_model(model, arguments.out)
    last = history.log_score[-max(1, len(history.log_score) // 10) :]
    score = f"log score {float(last.mean()) / np.log(2):.3f} bit per patch, everything known"
    return f"{_table_of_scores(model)}{score}, in the last tenth: {arguments.out}"


def _table_of_scores(model: DefectModel) -> str:
    """Scores on the card of a model as a table; empty where it was not calibrated."""
    if "scores" not in model.card:
        return ""
    return f"{xr.Dataset.from_dict(model.card['scores']).to_dataframe().round(3)}\n"


def _usable_device(name: str) -> torch.device:
    """Return a device that computes; torch raises various errors for one that does not."""
    try:
        device = torch.device(name)
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(
            f"a device of torch that is usable here, such as cpu, was expected, got {name!r} "
            f"({reason}); change --device"
        ) from error
    return device


def _infer(arguments: argparse.Namespace) -> Answer:
    """Infer an image; the result and the picture are written before anything is printed."""
    if any(path.is_dir() for path in arguments.image):
        return infer_folder(arguments)
    refuse_series_options(arguments)
    for out, path in itertools.product(map(check_format, arguments.out), arguments.image):
        if out.exists() and path.exists() and out.samefile(path):
            raise argparse.ArgumentTypeError(
                f"another file than the image was expected as --out, got {out}; change it"
            )
    context = read_context(arguments.context)
    choice = read_choice(arguments.select)
    with heard_warnings() as notes:
        image = read(arguments.image, variable=arguments.variable, select=choice)
        model = read_model(arguments)
        result = infer(
            image,
            context,
            model,
            num_draws=arguments.num_draws,
            seed=arguments.seed,
            likelihood=arguments.likelihood,
        )
    for out in arguments.out:
        export(result, out)
    if arguments.plot:
        save_figure(draw_result(result), arguments.plot)
    if arguments.report:
        report_result(arguments.report, image, context, model, result, notes)
    parts = (describe_source(image), describe_result(result), describe_files(arguments))
    data = {"written": list(map(str, _written(arguments)))} | list_numbers(result)
    return Answer("\n\n".join(filter(None, parts)), data)


def _demo(arguments: argparse.Namespace) -> Answer:
    """Simulate a micrograph and infer it with the host and with the recorded context."""
    folder = make_folder(arguments.out_dir)
    out = file_to_write(".nc")(str(folder / "demo.nc"))
    picture = picture_to_write(str(folder / "demo.png"))
    model = load_model(arguments.model)
    data = simulate_micrograph(reference_prior().given(DEMO), **DEMO_IMAGE)
    given = {"sampling": 0.2} | {name: DEMO[name] for name in RECORDED}
    host = {name: given[name] for name in ("host", "sampling")}
    options = {"likelihood": "network", "num_draws": DEMO_DRAWS}
    blind = infer(data.intensity, host, model, **options)
    aware = infer(data.intensity, given, model, **options)
    save(aware, out)
    save_figure(draw_demo(data, blind, aware), picture)
    options = ("--likelihood network", "--out result.nc", "--plot result.png", "--report scan.html")
    written = (
        f"the posterior with the context: {out}\nthe picture: {picture}\n"
        f"next: {propose('infer', 'YOUR_IMAGE', '--context host=WSe2', *options)}"
    )
    numbers = {"written": [str(out), str(picture)]}
    numbers |= {n: list_numbers(r) for n, r in (("host", blind), ("recorded_context", aware))}
    return Answer(f"{describe_demo(data, blind, aware)}\n\n{written}", numbers)


def describe_files(arguments: argparse.Namespace) -> str:
    """Say what infer has written, and what to do next.

    Parameters
    ----------
    arguments : Namespace
        Of infer.

    Returns
    -------
    str
        Some lines.
    """
    lines = [f"written: {path}" for path in _written(arguments)]
    whole = next((out for out in arguments.out if out.suffix.lower() == ".nc"), None)
    name = repr(str(whole or "result.nc"))
    lines.append(f"next: result = bayesctx.load({name}); bayesctx.sites(result)")
    if not whole:
        lines.append("      add --out result.nc for the whole posterior")
    if not arguments.plot:
        lines.append("      add --plot result.png for a picture")
    return "\n".join(lines)


def _written(arguments: argparse.Namespace) -> list[Path]:
    """Files that infer has written."""
    others = (getattr(arguments, name, None) for name in OF_ONE_IMAGE)
    return [*arguments.out, *(path for path in others if path is not None)]


VERBS = {
    "simulate": lambda arguments: _answer(_simulate(arguments)),
    "train": lambda arguments: _answer(_train(arguments)),
    "infer": _infer,
    "summarise": summarise_folder,
    "demo": _demo,
}


def _answer(text: str | None) -> Answer | None:
    """A text that is printed, or nothing."""
    return None if text is None else Answer(text)


def refuse_shard_options(arguments: argparse.Namespace) -> None:
    """Raise for options of a folder where one file is written.

    Parameters
    ----------
    arguments : Namespace
        Of the verb.

    Raises
    ------
    ArgumentTypeError
        If there are any.
    """
    for name, flag in FOLDER_FLAGS.items():
        if hasattr(arguments, name):
            raise argparse.ArgumentTypeError(
                f"{flag} belongs to a folder of patches, got one file, {arguments.out}; "
                "leave it out"
            )


def simulate_shards(arguments: argparse.Namespace, prior: Prior) -> str:
    """Write a folder of shards, or plan it.

    Parameters
    ----------
    arguments : Namespace
        Of the verb.
    prior : Prior
        Prior of the patches.

    Returns
    -------
    str
        Summary of what was written, or the plan of it.

    Raises
    ------
    TypeError, ValueError, OSError
        See ``archive.write_shards``.
    """
    out: Path = arguments.out
    options = {n: getattr(arguments, n) for n in FOLDER_FLAGS if hasattr(arguments, n)}
    is_dry = options.pop("dry_run", False)
    workers = {"num_workers": os.cpu_count() or 1}
    options = {"seed": arguments.seed, "start": arguments.start} | workers | options
    size = f"{arguments.num_patches} patches of {prior.num_pixels} x {prior.num_pixels} px"
    if is_dry:
        plan = plan_shards(prior, arguments.num_patches, out, **options)
        return f"{size}: {out}\n{_describe_plan(plan, options['num_workers'])}"
    write_shards(prior, arguments.num_patches, out, **options, progress=True)
    return f"{size} in {len(list(out.glob('shard-*.nc')))} shards: {out}"


def _describe_plan(plan: ShardPlan, num_workers: int) -> str:
    """Numbers, size and time of the shards that are missing."""
    room = "which is enough" if plan.fits else "which is TOO LITTLE"
    busy = max(1, min(num_workers, plan.num_shards))
    processes = "1 process" if busy == 1 else f"{busy} processes"
    rate = f"{plan.patches_per_second:.0f} patches/s each, if every one has a core of its own"
    rows = (
        f"to write  {plan.num_patches} patches in {plan.num_shards} shards",
        f"size      {plan.num_bytes / 1e9:.2f} GB, {plan.bytes_per_patch:.0f} bytes per patch",
        f"disk      {plan.free_bytes / 1e9:.2f} GB free, {room}",
        f"time      {_clock(plan.seconds)} by {processes}, {rate}",
    )
    return "\n".join(rows)


def _clock(seconds: float) -> str:
    """A time to two or three digits."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"

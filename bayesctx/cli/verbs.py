"""What each verb runs. Every verb writes its files first and returns the text to print."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
import xarray as xr

from ..inference import infer, save
from ..model import DefectModel, load_model, save_model
from ..prior import Prior, limit_prior, reference_prior, tmd_prior
from ..simulation import rank_of_process, simulate, simulate_micrograph
from ..training import process_group, train
from .arguments import file_to_write, picture_to_write
from .pictures import draw_demo, draw_result, save_figure
from .shards import refuse_shard_options, simulate_shards
from .sources import read_context, read_image
from .summaries import describe_demo, describe_result

__all__ = ["VERBS"]

MOST_IN_ONE_FILE = 1_000_000  # patches: 4 GB, held in memory
LONGEST_SIDE = 1000.0  # Å of a micrograph: simulating more takes over 4 GB

PRIORS = {
    "reference": reference_prior,
    "tmd": tmd_prior,
    "limit": limit_prior,
    "between": partial(limit_prior, between=True),
}

# the demo: what is true, and what of it is told with the image
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
RECORDED = tuple(name for name in DEMO if name not in ("defocus", "dose"))


def _simulate(arguments: argparse.Namespace) -> str:
    """Write patches in one file or in a folder of shards, or a micrograph."""
    context = read_context(arguments.context)
    if "sampling" in context:
        raise ValueError(
            "sampling is no context of a simulation; a micrograph takes --sampling, "
            "a patch has that of the prior"
        )
    is_file = arguments.out.suffix.lower() == ".nc"
    if arguments.micrograph and not is_file:
        raise argparse.ArgumentTypeError(
            f"a file that ends in .nc was expected for a micrograph, got {str(arguments.out)!r}"
        )
    prior = PRIORS[arguments.prior]().given(context)
    if not is_file:
        return simulate_shards(arguments, prior)
    refuse_shard_options(arguments)
    if arguments.micrograph:
        data = _simulate_micrograph(arguments, prior)
        what = f"a micrograph of {data.sizes['patch']} sites"
    else:
        data = _simulate_patches(arguments, prior)
        what = f"{data.sizes['image']} patches"
    save(xr.DataTree(data), arguments.out)
    return f"{what} of {data.sizes['y']} x {data.sizes['x']} px: {arguments.out}"


def _simulate_micrograph(arguments: argparse.Namespace, prior: Prior) -> xr.Dataset:
    """Draw a micrograph of a size that memory can hold."""
    side = arguments.num_pixels * arguments.sampling
    if side > LONGEST_SIDE:
        raise argparse.ArgumentTypeError(
            f"a micrograph of at most {LONGEST_SIDE:g} Å was expected, {arguments.num_pixels} "
            f"pixels of {arguments.sampling:g} Å are {side:g} Å; use fewer by --num-pixels"
        )
    size = {"num_pixels": arguments.num_pixels, "sampling": arguments.sampling}
    return simulate_micrograph(prior, seed=arguments.seed, index=arguments.start, **size)


def _simulate_patches(arguments: argparse.Namespace, prior: Prior) -> xr.Dataset:
    """Draw patches, so many that memory can hold them."""
    if arguments.num_patches > MOST_IN_ONE_FILE:
        raise argparse.ArgumentTypeError(
            f"at most {MOST_IN_ONE_FILE} patches were expected in one file, "
            f"got {arguments.num_patches}; name a folder"
        )
    window = {"seed": arguments.seed, "start": arguments.start}
    return simulate(prior, arguments.num_patches, **window, progress=True)


def _train(arguments: argparse.Namespace) -> str | None:
    """Train a model and fit to it what follows training; only the first process writes."""
    if arguments.checkpoint is not None and arguments.checkpoint == arguments.out:
        raise argparse.ArgumentTypeError(
            f"two files were expected as --checkpoint and --out, got {arguments.out} twice"
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
            f"({reason})"
        ) from error
    return device


def _infer(arguments: argparse.Namespace) -> str:
    """Infer an image; the posterior and the picture are written before anything is printed."""
    if arguments.out.exists() and arguments.image.exists():
        if arguments.out.samefile(arguments.image):
            raise argparse.ArgumentTypeError(
                f"another file than the image was expected as --out, got {arguments.out}"
            )
    context = read_context(arguments.context)
    image = read_image(arguments.image, arguments.variable, arguments.select)
    model = load_model(arguments.model)
    result = infer(image, context, model, num_draws=arguments.num_draws, seed=arguments.seed)
    save(result, arguments.out)
    if arguments.plot:
        save_figure(draw_result(result), arguments.plot)
    return describe_result(result)


def _demo(arguments: argparse.Namespace) -> str:
    """Simulate a micrograph and infer it with little and with much context."""
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    out = file_to_write(".nc")(str(arguments.out_dir / "demo.nc"))
    picture = picture_to_write(str(arguments.out_dir / "demo.png"))
    model = load_model(arguments.model)
    data = simulate_micrograph(reference_prior().given(DEMO), seed=0, num_pixels=256, sampling=0.2)
    given = {"sampling": 0.2} | {name: DEMO[name] for name in RECORDED}
    blind = infer(data.intensity, {name: given[name] for name in ("host", "sampling")}, model)
    aware = infer(data.intensity, given, model)
    save(aware, out)
    save_figure(draw_demo(data, blind, aware), picture)
    written = f"the posterior with the context: {out}\nthe picture: {picture}"
    return f"{describe_demo(data, blind, aware)}\n\n{written}"


VERBS = {"simulate": _simulate, "train": _train, "infer": _infer, "demo": _demo}

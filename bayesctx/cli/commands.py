"""The verbs of the command line: what each takes, and the few lines that it runs."""

from __future__ import annotations

import argparse
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Never

import numpy as np
import torch
import xarray as xr

from ..context import CONTEXT
from ..evidence import check_context
from ..inference import infer, save
from ..model import DefectModel, load_model, save_model
from ..prior import limit_prior, reference_prior, tmd_prior
from ..simulation import rank_of_process, simulate, simulate_micrograph
from ..training import (
    process_group,
    train,
)
from .arguments import count, destination, index, picture, read_context, read_image, target
from .folders import refuse_shard_options, shard_options, simulate_shards
from .summaries import draw_demo, draw_result, print_demo, print_result, save_figure

__all__ = ["main"]

MOST_IN_ONE_FILE = 1_000_000  # 4 GB, held in memory

PRIORS = {
    "reference": reference_prior,
    "tmd": tmd_prior,
    "limit": limit_prior,
    "between": partial(limit_prior, between=True),
}

UNITS = textwrap.fill(
    "Variables and units: " + ", ".join(v.label for v in CONTEXT.values()) + ".", 110
)

HELP = {
    "bayesctx": f"""Posteriors of defects in STEM images of doped two-dimensional materials:
what is given is conditioned on, what is left out is inferred.

{UNITS}

examples:
  bayesctx demo
  bayesctx infer scan.nc --context host=WSe2 beam_energy=80e3 --out result.nc
  bayesctx infer --help""",
    "simulate": f"""Simulate labelled patches, or a whole labelled micrograph, and write them as netCDF.

Everything is drawn from a prior: 'reference' has beam energy and angles vary freely, 'tmd' has the 576 cases. What
--context fixes is not drawn. Patch i of a seed is always the same: --start goes on where another run ended.

--out FILE.nc is one file. Any other name is a folder: shards of 65536 patches (150 MB) and manifest.json, with the prior and
the checksum of every shard. A run that was killed goes on when the same command is given again; one that the disk cannot hold
does not begin. --dry-run says size and time. bayesctx.simulation.open_shards reads the folder.
{UNITS}

examples:
  bayesctx simulate --num-patches 1000 --seed 0 --out patches.nc
  bayesctx simulate --num-patches 1000 --start 1000 --prior tmd --context host=WSe2 beam_energy=80e3 --out more.nc
  bayesctx simulate --num-patches 55e6 --patches-per-image 16 --out patches --dry-run
  bayesctx simulate --micrograph --num-pixels 512 --sampling 0.2 --context host=MoS2 dopant=V,Nb --out image.nc""",
    "train": """Train a model on patches that are simulated while it learns, and write it as safetensors.

--checkpoint names a file that holds the state of the run: a run that was killed goes on when the same command is given
again. The loss is minus the log probability of the true class, in nats, over random subsets of known context.
At the end patches that were not trained on tell how much those of one image repeat each other, and score the model.
Several processes started by torchrun share every batch, and take the steps that one would; --batch-size is that of all.

examples:
  bayesctx train --num-patches 10e6 --out model.safetensors --checkpoint run.checkpoint
  bayesctx train --num-patches 1e6 --prior tmd --model model.safetensors --learning-rate 1e-3 --out tmd.safetensors
  torchrun --nproc-per-node 2 --no-python bayesctx train --num-patches 10e6 --workers 0 --threads 1 --out model.safetensors
  bayesctx train --num-patches 55e6 --device cuda --workers 8 --batch-size 4096 --contrast 256 --out model.safetensors""",
    "infer": f"""Infer the defects of an image and what is not known of its context; print a summary, write the posterior.

The image is a netCDF or .npy file: a micrograph (y, x), or patches (patch, y, x) or (image, y, x). A context value is
  a number or a name   observed                   host=WSe2 beam_energy=80e3
  a comma list         one of these               dopant=Ti,V
  low..high            anywhere between the two   inner_collection_angle=60..110
and a variable that is left out is inferred. A micrograph needs host or sampling.
{UNITS}

examples:
  bayesctx infer image.nc --context host=WSe2 --out result.nc --plot result.png
  bayesctx infer scan.nc --select detector=ADF1 --context host=WSe2 inner_collection_angle=60..110 --out result.nc
  bayesctx infer image.npy --context sampling=0.2 dopant=Ti,V --num-draws 4000 --out result.nc""",
    "demo": """Simulate a micrograph, infer its defects twice, and compare both with the truth.

WSe2 doped with Ti, with a detector (35-90 mrad) to which a pair of selenium is brighter than tungsten. The defects are
inferred with the host alone, and with the recorded context; entropies and log scores are in bits per site.
Writes demo.nc, the posterior with the context, and demo.png.

examples:
  bayesctx demo
  bayesctx demo --out-dir results --model model.safetensors""",
}  # fmt: skip

DEMO = {
    "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "convergence_semiangle": 25.0,
    "inner_collection_angle": 35.0, "outer_collection_angle": 90.0, "defocus": 0.0, "dose": 1e4,
}  # fmt: skip
RECORDED = (
    "host",
    "dopant",
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 0, 2 for bad input, 130 for an interrupt.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(
            f"bayesctx: warning: {message}", file=sys.stderr
        )
        try:
            arguments = _parser().parse_args(argv)
            arguments.run(arguments)
        except (ValueError, TypeError, OSError, ImportError, argparse.ArgumentTypeError) as error:
            print("bayesctx: error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("bayesctx: interrupted", file=sys.stderr)
            return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs; its errors are ValueErrors."""
    plain = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("bayesctx", description=HELP["bayesctx"], **plain)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    found = {
        name: verbs.add_parser(
            name, description=HELP[name], help=HELP[name].partition("\n")[0], **plain
        )
        for name in PARTS
    }
    for name, verb in found.items():
        options, run = PARTS[name]
        options(verb.add_argument)
        verb.set_defaults(run=run)
    for each in (parser, *found.values()):
        each.error = _refuse
    return parser


def _refuse(message: str) -> Never:
    """Answer arguments that argparse does not accept."""
    raise ValueError(f"{message}; see bayesctx --help")


def _simulate_options(add: Callable) -> None:
    add(
        "--num-patches",
        type=count,
        default=1000,
        metavar="N",
        help="number of patches (default: 1000)",
    )
    add("--seed", type=int, default=0, help="names the stream (default: 0)")
    add(
        "--start",
        type=index,
        default=0,
        metavar="I",
        help="first patch, or which micrograph, of the stream (default: 0)",
    )
    add("--prior", choices=PRIORS, default="reference", help="what may occur (default: reference)")
    add(
        "--context",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="what is fixed, as for infer",
    )
    add("--micrograph", action="store_true", help="a whole image instead of patches")
    add(
        "--num-pixels",
        type=count,
        default=512,
        metavar="N",
        help="pixels along each side of the micrograph (default: 512)",
    )
    add(
        "--sampling",
        type=float,
        default=0.2,
        metavar="A",
        help="pixel of the micrograph in Å (default: 0.2)",
    )
    shard_options(add)
    add(
        "--out",
        type=destination,
        required=True,
        metavar="FILE",
        help="netCDF file, or folder of them, to write; see above",
    )


def _simulate(arguments: argparse.Namespace) -> None:
    context = read_context(arguments.context)
    if "sampling" in context:
        raise ValueError(
            "sampling is no context of a simulation; a micrograph takes --sampling, a patch has that of the prior"
        )
    prior = PRIORS[arguments.prior]().given(context)
    if not arguments.micrograph and arguments.out.suffix != ".nc":
        return simulate_shards(arguments, prior)
    refuse_shard_options(arguments)
    target(arguments.out)
    if arguments.micrograph:
        size = {"num_pixels": arguments.num_pixels, "sampling": arguments.sampling}
        data = simulate_micrograph(prior, seed=arguments.seed, index=arguments.start, **size)
        what = f"a micrograph of {data.sizes['patch']} sites"
    else:
        if arguments.num_patches > MOST_IN_ONE_FILE:
            raise ValueError(
                f"at most {MOST_IN_ONE_FILE} patches were expected in one file, got {arguments.num_patches}; name a folder"
            )
        data = simulate(
            prior, arguments.num_patches, seed=arguments.seed, start=arguments.start, progress=True
        )
        what = f"{data.sizes['image']} patches"
    save(xr.DataTree(data), arguments.out)
    print(f"{what} of {data.sizes['y']} x {data.sizes['x']} px: {arguments.out}")


def _train_options(add: Callable) -> None:
    add(
        "--num-patches",
        type=count,
        required=True,
        metavar="N",
        help="length of the stream, e.g. 10e6",
    )
    add("--prior", choices=PRIORS, default="reference", help="what may occur (default: reference)")
    add(
        "--model",
        type=Path,
        metavar="FILE",
        help="from train: the weights to start from (default: random ones)",
    )
    add("--seed", type=int, default=0, help="of random weights and of the stream (default: 0)")
    add(
        "--batch-size",
        type=count,
        default=512,
        metavar="N",
        help="patches per step, a multiple of 16 (default: 512)",
    )
    add(
        "--contrast",
        type=count,
        default=16,
        metavar="N",
        help="images among which the right one is asked for (default: 16)",
    )
    add(
        "--learning-rate",
        type=float,
        default=5e-3,
        metavar="RATE",
        help="peak of the schedule (default: 5e-3)",
    )
    add(
        "--checkpoint",
        type=target,
        metavar="FILE",
        help="holds the state of the run; if it exists the run goes on from it",
    )
    add("--threads", type=count, metavar="N", help="threads of torch (default: torch's own choice)")
    add(
        "--workers", type=index, default=1, metavar="N", help="processes that simulate (default: 1)"
    )
    add(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where to learn, e.g. cuda; workers draw random numbers (default: cpu)",
    )
    add(
        "--held-out",
        type=index,
        default=9600,
        metavar="N",
        help="patches for correlation and scores (default: 9600)",
    )
    add("--out", type=target, required=True, metavar="FILE", help="safetensors file to write")


def _train(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    prior = PRIORS[arguments.prior]()
    model = (
        load_model(arguments.model).with_prior(prior)
        if arguments.model
        else DefectModel(prior, seed=arguments.seed)
    )
    model = model.to(arguments.device)
    options = {
        name: getattr(arguments, name)
        for name in ("num_patches", "seed", "batch_size", "learning_rate", "checkpoint")
    }
    with process_group():
        history = train(
            model,
            num_workers=arguments.workers,
            contrast_images=arguments.contrast,
            num_held_out=arguments.held_out,
            **options,
        )
        if rank_of_process()[0]:
            return
    if arguments.held_out:
        print(xr.Dataset.from_dict(model.card["scores"]).to_dataframe().round(3))
    save_model(model, arguments.out)
    last = history.log_score[-max(1, len(history.log_score) // 10) :]
    print(
        f"log score {float(last.mean()) / np.log(2):.3f} bit per patch, everything known, in the last tenth: {arguments.out}"
    )


def _infer_options(add: Callable) -> None:
    add("image", type=Path, help="netCDF or .npy file")
    add(
        "--variable",
        metavar="NAME",
        help="variable of the netCDF file, where several have dimensions y and x",
    )
    add(
        "--select",
        nargs="+",
        action="extend",
        metavar="DIM=VALUE",
        help="one element of a dimension, e.g. detector=ADF1",
    )
    add(
        "--context",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="what is known; see above",
    )
    add(
        "--model",
        type=Path,
        metavar="FILE",
        help="from train (default: the reference model of the package)",
    )
    add(
        "--num-draws",
        type=count,
        default=1000,
        metavar="N",
        help="draws of the latent context (default: 1000)",
    )
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add("--out", type=target, required=True, metavar="FILE", help="netCDF file to write")
    add(
        "--plot",
        type=picture,
        metavar="FILE",
        help="picture of sites and context to write, e.g. result.png",
    )


def _infer(arguments: argparse.Namespace) -> None:
    context = check_context(read_context(arguments.context))
    image = read_image(arguments.image, arguments.variable, arguments.select)
    result = infer(
        image,
        context,
        load_model(arguments.model),
        num_draws=arguments.num_draws,
        seed=arguments.seed,
    )
    print_result(result)
    save(result, arguments.out)
    if arguments.plot:
        save_figure(draw_result(result), arguments.plot)


def _demo_options(add: Callable) -> None:
    add(
        "--out-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder of demo.nc and demo.png (default: this one)",
    )
    add(
        "--model",
        type=Path,
        metavar="FILE",
        help="from train (default: the reference model of the package)",
    )


def _demo(arguments: argparse.Namespace) -> None:
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    model, drawing = load_model(arguments.model), picture(arguments.out_dir / "demo.png")
    data = simulate_micrograph(reference_prior().given(DEMO), seed=0, num_pixels=256, sampling=0.2)
    given = {"sampling": 0.2} | {name: DEMO[name] for name in RECORDED}
    blind = infer(data.intensity, {name: given[name] for name in ("host", "sampling")}, model)
    aware = infer(data.intensity, given, model)
    print_demo(data, blind, aware)
    out = save(aware, arguments.out_dir / "demo.nc")
    save_figure(draw_demo(data, blind, aware), drawing)
    print(f"\nthe posterior with the context: {out}\nthe picture: {drawing}")


PARTS = {
    "simulate": (_simulate_options, _simulate),
    "train": (_train_options, _train),
    "infer": (_infer_options, _infer),
    "demo": (_demo_options, _demo),
}

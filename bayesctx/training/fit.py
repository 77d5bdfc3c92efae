"""train(): fit encoder and likelihood to streamed patches."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..checks import (
    MAX_SEED,
    check_memory,
    check_number,
    check_whole_number,
    check_workers,
    shorten,
)
from ..model import DefectModel
from ..simulation import BLOCK, Latents, Patches, PatchStream, rank_of_process, render_patches
from ..simulation.rendering import LARGE_GROUP
from ..storage import as_path
from ..tensors import join, pick, take
from .calibration import MOST_HELD_OUT, calibrate
from .checkpoint import resume, write_checkpoint
from .distributed import average, together
from .objective import (
    ask,
    conditional_log_score,
    generative_log_score,
    log_scores_among_images,
    random_subset,
)

__all__ = ["train"]

PATCHES_PER_IMAGE = 16
OPEN_HOST = 4  # of steps with a part known, if the host is not: every fourth image is used
MEMORY = 2**16  # patches from which those that are used again are drawn, 4 kB each
MOST_PASSES = 64
MOST_PATCHES, MOST_BATCH = 10**12, 2**20  # of a stream, and of a step
BYTES_PER_PATCH = 400_000  # of memory in a step on the CPU, measured with the default sizes


def train(
    model: DefectModel,
    *,
    num_patches: int,
    seed: int = 0,
    batch_size: int = 512,
    learning_rate: float = 5e-3,
    context_weight: float = 3.0,
    contrast_images: int = 16,
    generative_weight: float = 0.02,
    partly_known: float = 0.25,
    num_passes: int = 1,
    num_held_out: int = 9600,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_interval: int = 200,
    num_workers: int = 1,
    progress: bool = True,
) -> xr.Dataset:
    """Fit a model to patches streamed from its prior, then calibrate it.

    Parameters
    ----------
    model : DefectModel
        Changed in place, starting from its weights: random ones, or those of
        ``load_model().with_prior(prior)``. The card of an earlier training is replaced. The model
        is in evaluation mode afterwards.
    num_patches : int
        Length of the stream, at most 1e12.
    seed : int
        Seed of the stream.
    batch_size : int
        Patches per step, a multiple of 16: patches come in images of 16.
    learning_rate : float
        Peak of the one-cycle schedule of AdamW.
    context_weight : float
        Weight of the joint log score of the class and the context, where the candidates for the
        context are those of several images.
    contrast_images : int
        Number of these images, consecutive ones of a batch; the whole batch if its size is not a
        multiple. More of them distinguish finer differences of the context, and take more time.
    generative_weight : float
        Weight of the log density of the features.
    partly_known : float
        Share of the steps that score with a random part of the context known as well, in [0, 1].
        They take twice the time of the others.
    num_passes : int
        How often a patch is used on average, at most 64. With more than one, every batch has
        ``batch_size / num_passes`` new patches, whose number is a multiple of 16, and others of
        the last 65 536: worth it where the simulation is slower than the steps.
    num_held_out : int
        Patches for the calibration that follows, see ``calibrate``, at most 1e6; 0 leaves it out.
    checkpoint : path-like, optional
        File of the state of the run. If it exists the run is continued.
    checkpoint_interval : int
        Steps between checkpoints, which are the most that a killed run loses.
    num_workers : int
        Processes that simulate; 0 simulates in this one. With a model on a GPU they draw the random
        numbers, and the images are computed on the GPU.
    progress : bool
        Show a progress bar with loss and rate.

    Returns
    -------
    Dataset, dimension step
        ``loss``, and in nats ``log_score`` of the class with everything known and ``joint_score``
        of the class together with the image.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If a number is out of range, the batch does not consist of whole images or does not fit into
        memory, or the checkpoint is foreign or of another run.
    OSError
        If the checkpoint cannot be read or written.

    Notes
    -----
    Where ``torch.distributed`` is initialised every rank computes its share of each batch, and the
    steps are those of one process up to the order of sums. The first rank writes the checkpoint,
    which all must be able to read, and calibrates the model.
    """
    loss = _check_loss(context_weight, contrast_images, generative_weight, partly_known)
    run = _check_run(model, seed, num_patches, batch_size, learning_rate, loss)
    seed, batch_size = run["seed"], run["batch_size"]
    num_new = batch_size // _check_passes(num_passes, batch_size)
    if num_new < batch_size:
        run["num_passes"] = batch_size // num_new
    num_workers = check_workers(num_workers)
    num_held_out = check_whole_number("num_held_out", num_held_out, 0, MOST_HELD_OUT)
    interval = check_whole_number("checkpoint_interval", checkpoint_interval, 1, MAX_SEED)
    checkpoint = None if checkpoint is None else as_path(checkpoint)
    if "training" in model.card:
        run["start"] = model.card["training"]
    num_steps = max(1, run["num_patches"] // num_new)
    optimizer, schedule = _optimizer(model, run["learning_rate"], num_steps)
    history: list[tuple[float, float, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = resume(checkpoint, model, optimizer, schedule, run)
    first, leads = len(history), rank_of_process()[0] == 0
    loader = _batches(model, seed, first, num_steps, num_new, batch_size, num_workers)
    model.train()
    model.likelihood.width.fill_(1.0)
    size = {"total": num_steps * batch_size, "initial": first * batch_size}
    shown = progress and leads
    with tqdm(**size, disable=not shown, unit="patch", unit_scale=True) as bar, together(model):
        for step, batch in enumerate(loader, first):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % MAX_SEED)
            history.append(_step(model, batch, optimizer, generator, **loss))
            schedule.step()
            bar.update(batch_size)
            recent = np.mean(history[-100:], 0)
            bar.set_postfix(loss=f"{recent[0]:.3f}", log_score=f"{recent[1]:.3f}", refresh=False)
            is_due = (step + 1) % interval == 0 or step + 1 == num_steps
            if checkpoint is not None and leads and is_due:
                write_checkpoint(checkpoint, model, optimizer, schedule, run, history)
    model.eval()
    model.card = {"prior": model.prior.to_dict(), "training": run}
    if num_held_out and leads:
        _calibrate_on_cpu(model, num_held_out, seed + 1, progress)
    return _as_dataset(history)


def _as_dataset(history: list[tuple[float, float, float]]) -> xr.Dataset:
    """Loss and log scores of every step."""
    columns = zip(("loss", "log_score", "joint_score"), np.array(history).T, strict=True)
    return xr.Dataset({n: ("step", v, {"units": "nat"}) for n, v in columns})


def _optimizer(
    model: DefectModel, learning_rate: float, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a one-cycle schedule, for encoder and likelihood."""
    parameters = [*model.encoder.parameters(), *model.likelihood.parameters()]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=num_steps + 1, pct_start=0.1
    )
    return optimizer, schedule


def _calibrate_on_cpu(model: DefectModel, num_patches: int, seed: int, progress: bool) -> None:
    """Calibrate a model, which lies on the CPU meanwhile."""
    device = next(model.parameters()).device
    calibrate(model.cpu(), num_patches=num_patches, seed=seed, progress=progress)
    model.to(device)


def _check_passes(num_passes: int, batch_size: int) -> int:
    """Passes that leave whole new images for a batch of one process."""
    num_passes = check_whole_number("num_passes", num_passes, 1, MOST_PASSES)
    if batch_size % (num_passes * PATCHES_PER_IMAGE):
        raise ValueError(
            f"a batch_size that is a multiple of {PATCHES_PER_IMAGE} num_passes was expected, got "
            f"{batch_size} for {num_passes} passes; use another number of them"
        )
    if num_passes > 1 and rank_of_process()[1] > 1:
        raise ValueError(
            f"num_passes=1 was expected with several processes, got {num_passes}; leave it out, or "
            "train in one process"
        )
    return num_passes


def _check_loss(
    context_weight: float, contrast_images: int, generative_weight: float, partly_known: float
) -> dict[str, float]:
    """The settings of the loss."""
    return {
        "partly_known": check_number(partly_known, "partly_known", (0.0, 1.0)),
        "context_weight": check_number(context_weight, "context_weight", (0.0, 1e6)),
        "contrast_images": check_whole_number("contrast_images", contrast_images, 1, MOST_BATCH),
        "generative_weight": check_number(generative_weight, "generative_weight", (0.0, 1e6)),
    }


def _check_run(
    model: DefectModel,
    seed: int,
    num_patches: int,
    batch_size: int,
    learning_rate: float,
    loss: dict[str, float],
) -> dict[str, object]:
    """The settings of a run, which its checkpoint and the card of the model hold."""
    if not isinstance(model, DefectModel):
        raise TypeError(
            f"a DefectModel was expected, got {shorten(model)}; create one, see DefectModel"
        )
    batch_size = _check_batch(batch_size, loss["contrast_images"])
    if next(model.parameters()).device.type == "cpu":
        check_memory(batch_size * BYTES_PER_PATCH, f"batches of {batch_size} patches")
    return {
        "seed": check_whole_number("seed", seed, 0, MAX_SEED - 2),  # the calibration takes the next
        "num_patches": check_whole_number("num_patches", num_patches, 1, MOST_PATCHES),
        "batch_size": batch_size,
        "learning_rate": check_number(learning_rate, "learning_rate", (1e-12, 100.0)),
        **loss,
    }


def _check_batch(batch_size: int, contrast_images: int) -> int:
    """A batch of whole images, and with several processes of whole blocks."""
    batch_size = check_whole_number("batch_size", batch_size, PATCHES_PER_IMAGE, MOST_BATCH)
    if batch_size % PATCHES_PER_IMAGE:
        raise ValueError(
            f"a batch of whole images of {PATCHES_PER_IMAGE} patches was expected, got "
            f"{batch_size}; round it to a multiple"
        )
    _, ranks = rank_of_process()
    whole = math.lcm(BLOCK, contrast_images * PATCHES_PER_IMAGE)
    if ranks > 1 and batch_size % (ranks * whole):
        raise ValueError(
            f"a batch of whole blocks of {whole} for each of {ranks} processes was expected, got "
            f"{batch_size}; use a multiple of {ranks * whole}"
        )
    return batch_size


def _load(
    model: DefectModel, seed: int, start: int, stop: int, batch_size: int, num_workers: int
) -> Iterator[Patches]:
    """Shares that belong to this rank of the batches of a stream, drawn in whole blocks."""
    rank, ranks = rank_of_process()
    share = batch_size // ranks
    device = next(model.parameters()).device
    here = device.type == "cpu"
    size = math.lcm(share, BLOCK)
    # a GPU computes images of many patches at once in hardly more time than those of a few
    size *= 1 if here else max(1, LARGE_GROUP[1] // size)
    origin = start // (size * ranks) * size * ranks
    window = {"start": origin, "stop": stop, "batch_size": size, "rank": (rank, ranks)}
    # workers cannot share a GPU: they draw random numbers, this process computes the images
    stream = PatchStream(
        model.prior,
        seed=seed,
        patches_per_image=PATCHES_PER_IMAGE,
        device=device if here else None,
        **window,
    )
    prefetch = (4 if here else 2) if num_workers else None
    # its own generator: the global one is left as found
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        stream,
        None,
        collate_fn=_without_nuisances,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        generator=generator,
    )
    images = share // PATCHES_PER_IMAGE
    # with several ranks a batch is a window, and nothing is skipped
    skipped = (start - origin) // PATCHES_PER_IMAGE
    for drawn in (
        batch if here else render_patches(model.prior, batch, device) for batch in loader
    ):
        for first in range(skipped, len(drawn.host), images):
            yield take(drawn, first, first + images)
        skipped = 0


def _batches(
    model: DefectModel,
    seed: int,
    first: int,
    num_steps: int,
    num_new: int,
    batch_size: int,
    num_workers: int,
) -> Iterator[Patches]:
    """Batches from the first one on, of which ``num_new`` patches are new."""
    again = num_new < batch_size
    start = max(0, first - MEMORY // num_new) if again else first
    loader = _load(model, seed, start * num_new, num_steps * num_new, num_new, num_workers)
    if not again:
        return loader
    return _reuse(loader, batch_size // num_new, MEMORY // num_new, start, first, seed)


def _reuse(
    batches: Iterator[Patches], num_passes: int, size: int, start: int, first: int, seed: int
) -> Iterator[Patches]:
    """Join every batch from the first one on with earlier ones, drawn from the last ``size``."""
    memory: deque[Patches] = deque(maxlen=max(1, size))
    for step, new in enumerate(batches, start):
        if step >= first:
            rng = np.random.default_rng([seed, step])
            again = rng.permutation(len(memory))[: num_passes - 1]
            chosen = join([new, *(memory[i] for i in again)])
            # images that are compared with each other are new ones and old ones
            yield pick(chosen, torch.from_numpy(rng.permutation(len(chosen.host))))
        memory.append(new)


def _without_nuisances(batch: Patches | Latents) -> Patches | Latents:
    """Drop the nuisances, which the loss does not use: every tensor takes a file descriptor."""
    return replace(batch, nuisances={}) if isinstance(batch, Patches) else batch


def _step(
    model: DefectModel,
    batch: Patches,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    context_weight: float,
    contrast_images: int,
    generative_weight: float,
    partly_known: float,
) -> tuple[float, float, float]:
    """One step of the optimizer: loss, log score of the class, and of class and image."""
    features = model.encoder(batch.intensity)
    # with everything known tables are small, so that all patches are used in every step
    of_class, of_both = (
        s.mean() for s in log_scores_among_images(model, features, batch, contrast_images)
    )
    loss = -of_class / 2 - context_weight * of_both
    loss = loss - generative_weight * generative_log_score(model, features, batch).mean()
    if float(torch.rand((), generator=generator, dtype=torch.float32)) < partly_known:
        loss = loss - _score_partly_known(model, features, batch, generator) / 2
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    result = torch.stack([loss.detach(), of_class.detach(), of_both.detach()])
    parameters = optimizer.param_groups[0]["params"]
    average([p.grad for p in parameters] + [result])
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    return tuple(result.cpu().tolist())


def _score_partly_known(
    model: DefectModel, features: Tensor, batch: Patches, generator: torch.Generator
) -> Tensor:
    """Mean log score of the class where a random part of the context is known."""
    known = random_subset(generator)
    # an image with unknown host and its own context needs a large table: some images are left out
    stride = 1 if not known or "host" in known else OPEN_HOST
    asked = take(batch, 0, len(features), stride)
    question = ask(
        asked, model.prior, known, generator, num_draws=4 if known else 24, rank=rank_of_process()
    )
    return conditional_log_score(model, features[::stride], asked.defect, question).mean()

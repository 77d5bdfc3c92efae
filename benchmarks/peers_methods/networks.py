"""Convolutional networks in plain torch: on the image alone, and with the context concatenated."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bayesctx import DEFECTS
from bayesctx.simulation import BLOCK
from bayesctx.storage import replacing

from .budget import Clock
from .encoding import NUM_COLUMNS, as_columns, draw_known, known_columns, subset
from .stream import KNOWN, Labelled, Stream

__all__ = ["Classifier", "augmented", "convolutions", "fit_network", "shuffled"]

BATCH = 256
AT_ONCE = 2000  # patches at inference
CHECKPOINT = 60.0  # CPU seconds between checkpoints
TRIAL = 16  # steps that measure the rate
RESERVE = 0.98  # of the budget that is planned for
FEATURES = 256
SMALLEST = 64 * BATCH  # patches of a training
MORE = 4  # times the planned epochs are prepared, in case that the rate was underestimated


def convolutions(width: int) -> nn.Sequential:
    """Three convolutions of stride two and one hidden layer, with batch normalisation."""
    layers = [nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width)]
    for size in (width, 2 * width):
        layers += [nn.ReLU(inplace=True), nn.Conv2d(size, 2 * size, 3, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(2 * size)]
    layers += [nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64 * width, FEATURES, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True))


class Classifier(nn.Module):
    """Classes of a patch, from its image or from image and context.

    Parameters
    ----------
    context : {"none", "mean", "mask"}
        Whether the context is used, and what stands for a variable that is missing: its mean, or
        zero with an indicator.
    width : int
        Channels of the first layer.
    """

    def __init__(self, context: str, width: int = 32) -> None:
        super().__init__()
        self.context = context
        inputs = {"none": 0, "mean": NUM_COLUMNS, "mask": 2 * NUM_COLUMNS}[context]
        self.body = convolutions(width).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Linear(FEATURES + inputs, 256), nn.ReLU(inplace=True), nn.Linear(256, len(DEFECTS))
        )
        self.register_buffer("mean", torch.zeros(NUM_COLUMNS))
        self.register_buffer("scale", torch.ones(NUM_COLUMNS))

    def standardise(self, patches: Labelled) -> None:
        """Take mean and scale of the context from some patches."""
        columns = as_columns(patches)
        self.mean.copy_(torch.from_numpy(columns.mean(0)))
        self.scale.copy_(torch.from_numpy(columns.std(0).clip(1e-3)))

    def forward(self, image: Tensor, columns: Tensor, known: Tensor) -> Tensor:
        """Logits of the classes.

        Parameters
        ----------
        image : Tensor, shape (patch, y, x)
            Patches.
        columns : Tensor, shape (patch, column)
            The whole context.
        known : Tensor of bool, shape (mask, patch, column)
            What is known of it.

        Returns
        -------
        Tensor, shape (mask, patch, class)
            Logits.
        """
        features = self.body(image[:, None])
        if self.context == "none":
            return self.head(features)[None]
        value = (columns - self.mean) / self.scale * known  # zero is the mean
        parts = [value] if self.context == "mean" else [value, known.float()]
        return self.head(torch.cat([features.expand(len(known), -1, -1), *parts], -1))

    def loss(self, batch: Labelled, rng: np.random.Generator) -> Tensor:
        """Cross-entropy; with masks once with the whole context and twice with random parts."""
        everything = np.ones((1, len(batch), len(KNOWN)), bool)
        if self.context == "mask":
            parts = [draw_known(rng, len(batch)) for _ in range(2)]
            everything = np.concatenate([everything, parts])
        known = torch.from_numpy(known_columns(everything))
        columns = torch.from_numpy(as_columns(batch))
        logits = self(augmented(batch.image, rng), columns, known)
        target = torch.from_numpy(batch.defect).expand(len(logits), -1)
        return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())

    @torch.no_grad()
    def predict(self, patches: Labelled, known: Collection[str]) -> np.ndarray:
        """Logits of the classes, shape (patch, class)."""
        self.eval()
        mask, found = subset(known), []
        for first in range(0, len(patches), AT_ONCE):
            some = patches.take(slice(first, first + AT_ONCE))
            told = np.broadcast_to(mask, (1, len(some), len(KNOWN)))
            found.append(self(
                torch.from_numpy(some.image.astype(np.float32)),
                torch.from_numpy(as_columns(some)),
                torch.from_numpy(known_columns(told)),
            )[0].numpy())  # fmt: skip
        return np.concatenate(found)


def augmented(image: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Patches of a batch, mirrored at random along either axis."""
    axes = [a for a in (1, 2) if rng.random() < 0.5]
    return torch.from_numpy(np.flip(image, axes).astype(np.float32))


def shuffled(num_patches: int, epochs: int, seed: int) -> np.ndarray:
    """Order of the patches in all epochs, shape (step, BATCH); what is left over is dropped."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(num_patches) for _ in range(epochs)]
    return np.concatenate(orders)[: num_patches * epochs // BATCH * BATCH].reshape(-1, BATCH)


def fit_network(
    net: Classifier,
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    epochs: int,
    seed: int,
    until: float | None = None,
    skipped: int = 0,
    checkpoint: Path | None = None,
) -> int:
    """Train a network until the budget is spent: AdamW, a linear rise, and half a cosine.

    Parameters
    ----------
    net : Classifier
        Is changed in place, and is in evaluation mode afterwards.
    stream : Stream
        Of which as many patches are used as the budget allows.
    clock : Clock
        With the budget.
    learning_rate : float
        Its peak.
    epochs : int
        How often every patch is used.
    seed : int
        Of the order and the augmentation.
    until : float, optional
        CPU seconds on the clock at which the training ends. Default: those of the budget.
    skipped : int
        Patches at the start of the stream that are not used.
    checkpoint : Path, optional
        Of a run that may be continued.

    Returns
    -------
    int
        Number of different patches.
    """
    optimizer = torch.optim.AdamW(net.parameters(), learning_rate, weight_decay=1e-2)
    until = clock.budget if until is None else until
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        num_patches, first, allowed = (state[n] for n in ("num_patches", "step", "allowed"))
        stream.charged = max(stream.charged, -(-num_patches // BLOCK))
        data = stream.load(num_patches).take(slice(skipped, None))
    else:
        first, num_patches = 0, _plan(net, stream, clock, until, epochs, optimizer)
        data = stream.load(num_patches).take(slice(skipped, None))
        allowed = until - clock.spent
    net.train()
    saved, step = clock.own, first

    def save() -> None:
        if checkpoint is not None:
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"num_patches": num_patches, "step": step, "allowed": allowed}
            with replacing(checkpoint) as temporary:
                torch.save(state, temporary)
            clock.save()

    order = shuffled(len(data), MORE * epochs, seed)
    while step < len(order) and clock.spent < until:
        done = 1 - (until - clock.spent) / allowed
        rate = learning_rate * min(done / 0.05, 0.5 * (1 + math.cos(math.pi * done)))
        _step(net, optimizer, data.take(order[step]), rate, seed, step)
        step += 1
        if clock.own - saved > CHECKPOINT:
            saved = clock.own
            save()
    save()
    net.eval()
    return num_patches


def _plan(
    net: Classifier,
    stream: Stream,
    clock: Clock,
    until: float,
    epochs: int,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Number of patches whose simulation and use fill the time; measured with steps of size 0."""
    data = stream.load(SMALLEST)
    net.standardise(data)
    net.train()
    times = []
    for i in range(TRIAL):
        start = clock.own
        _step(net, optimizer, data.take(slice(i * BATCH, (i + 1) * BATCH)), 0.0, 0, i)
        times.append(clock.own - start)
    seconds = float(np.median(times)) / BATCH
    paid = stream.charged * BLOCK
    left = RESERVE * (until - clock.spent)
    if paid > SMALLEST and left < paid * epochs * seconds:
        return paid  # an earlier member has simulated enough
    num_patches = (left + paid * stream.cost()) / (stream.cost() + epochs * seconds)
    return max(SMALLEST, int(num_patches) // BLOCK * BLOCK)


def _step(
    net: Classifier,
    optimizer: torch.optim.Optimizer,
    batch: Labelled,
    learning_rate: float,
    seed: int,
    step: int,
) -> None:
    """One step of the optimizer."""
    optimizer.param_groups[0]["lr"] = learning_rate
    loss = net.loss(batch, np.random.default_rng([seed, step]))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()

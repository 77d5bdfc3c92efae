"""Libraries of simulation-based inference: sbi and BayesFlow, through their public interfaces."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from bayesctx import DEFECTS

from .budget import Clock
from .encoding import NUM_COLUMNS, as_columns, draw_known, known_columns, subset
from .networks import FEATURES, convolutions
from .stream import KNOWN, Labelled, Stream

__all__ = ["fit_bayesflow", "fit_sbi"]

EPOCHS = 4  # for which the number of patches is planned
FIRST = 8192  # patches that the rate is measured with
RESERVE = 0.95
WHOLE = 0.25  # share of the patches with the whole context known
AT_ONCE = 500


class Embedding(nn.Module):
    """The convolutions of the other networks on the image, with context and mask appended."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions(32).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(nn.Linear(FEATURES + 2 * NUM_COLUMNS, 256), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Features from rows of pixels, context and mask."""
        num = x.shape[-1] - 2 * NUM_COLUMNS
        side = round(num**0.5)
        image = x[..., :num].reshape(-1, 1, side, side)
        rest = x[..., num:].reshape(-1, 2 * NUM_COLUMNS)
        return self.head(torch.cat([self.body(image), rest], -1))


def conditions(patches: Labelled, known: np.ndarray, scale: tuple) -> np.ndarray:
    """Standardised context, zero where it is not known, and the mask."""
    mask = known_columns(known)
    values = (as_columns(patches) - scale[0]) / scale[1] * mask
    return np.concatenate([values, mask], -1).astype(np.float32)


def _scale(patches: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the context."""
    columns = as_columns(patches)
    return columns.mean(0), columns.std(0).clip(1e-3)


def _masks(num: int, seed: int) -> np.ndarray:
    """What is known of each patch of a fixed set of simulations."""
    rng = np.random.default_rng(seed)
    return draw_known(rng, num) | (rng.random((num, 1)) < WHOLE)


def _planned(stream: Stream, clock: Clock, seconds: float) -> int:
    """Number of patches for the planned epochs, at some seconds for one patch in one epoch."""
    left = RESERVE * clock.left + FIRST * stream.cost()
    return max(FIRST, int(left / (stream.cost() + EPOCHS * seconds)))


class SbiPosterior:
    """The estimator of sbi, evaluated for every class."""

    def __init__(self, estimator: nn.Module, scale: tuple) -> None:
        self.estimator, self.scale = estimator, scale

    @torch.no_grad()
    def predict(self, patches: Labelled, known: Collection[str]) -> np.ndarray:
        """Logarithms of the class probabilities, shape (patch, class)."""
        self.estimator.eval()
        classes = torch.arange(len(DEFECTS), dtype=torch.float32)[:, None, None]
        found = []
        for first in range(0, len(patches), AT_ONCE):
            x = _rows(patches.take(slice(first, first + AT_ONCE)), subset(known), self.scale)
            given = classes.expand(-1, len(x), 1)
            found.append(self.estimator.log_prob(given, x).T.numpy())
        return np.concatenate(found)


def _rows(patches: Labelled, known: np.ndarray, scale: tuple) -> Tensor:
    """Data for sbi: pixels, context and mask in one row."""
    told = np.broadcast_to(known, (len(patches), len(KNOWN)))
    pixels = patches.image.reshape(len(patches), -1).astype(np.float32)
    return torch.from_numpy(np.concatenate([pixels, conditions(patches, told, scale)], -1))


def fit_sbi(
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[SbiPosterior, int]:
    """NPE with the mass estimator of sbi for the class, trained epoch by epoch by its own loop.

    Parameters
    ----------
    stream : Stream
        Of the patches.
    clock : Clock
        With the budget.
    learning_rate : float
        Of Adam, constant, as the library has it.
    seed : int
        Of weights and masks.
    checkpoint : Path, optional
        Is not used: an interrupted run starts anew.

    Returns
    -------
    model : SbiPosterior
        The estimator.
    num_patches : int
        Number of patches.
    """
    from sbi.inference import NPE
    from sbi.neural_nets.net_builders.categorial import build_categoricalmassestimator

    torch.manual_seed(seed)

    def build(theta: Tensor, x: Tensor) -> nn.Module:
        return build_categoricalmassestimator(
            theta, x, z_score_y="none", num_hidden=128, num_layers=2,
            embedding_net=Embedding().eval(),  # it is called with one row before the training
            num_categories_per_variable=torch.tensor([len(DEFECTS)]),
        )  # fmt: skip

    def begin(patches: Labelled) -> object:
        scale = _scale(patches)
        x = _rows(patches, _masks(len(patches), seed), scale)
        theta = torch.from_numpy(patches.defect).float()[:, None]
        inference = NPE(prior=None, density_estimator=build, show_progress_bars=False)
        return inference.append_simulations(theta, x), scale

    def epoch(inference: object, number: int) -> nn.Module:
        return inference.train(
            training_batch_size=256, learning_rate=learning_rate, max_num_epochs=number,
            validation_fraction=0.05, resume_training=number > 1,
        )  # fmt: skip

    with warnings.catch_warnings(), TemporaryDirectory() as logs, contextlib.chdir(logs):
        warnings.simplefilter("ignore")
        trial, _ = begin(stream.load(FIRST))
        start = clock.own
        epoch(trial, 1)  # the library trains one more than its number
        seconds = (clock.own - start) / FIRST / 2
        num_patches = _planned(stream, clock, seconds)
        inference, scale = begin(stream.load(num_patches))
        number = 1
        # an epoch is begun only where it is expected to fit
        while number == 1 or clock.left > num_patches * seconds:
            start = clock.own
            estimator = epoch(inference, number)
            seconds = (clock.own - start) / num_patches / (2 if number == 1 else 1)
            number += 1
    return SbiPosterior(estimator, scale), num_patches


class BayesFlowPosterior:
    """The approximator of BayesFlow."""

    def __init__(self, approximator: object, scale: tuple) -> None:
        self.approximator, self.scale = approximator, scale

    def predict(self, patches: Labelled, known: Collection[str]) -> np.ndarray:
        """Logarithms of the class probabilities, shape (patch, class)."""
        found = []
        for first in range(0, len(patches), AT_ONCE):
            some = patches.take(slice(first, first + AT_ONCE))
            told = np.broadcast_to(subset(known), (len(some), len(KNOWN)))
            data = _named(some, told, self.scale)
            data.pop("model_indices")
            found.append(self.approximator.predict(conditions=data, probs=False))
        return np.concatenate(found)


def _named(patches: Labelled, known: np.ndarray, scale: tuple) -> dict[str, np.ndarray]:
    """Data for BayesFlow, by name."""
    return {
        "image": patches.image[..., None].astype(np.float32),
        "context": conditions(patches, known, scale),
        "model_indices": np.eye(len(DEFECTS), dtype=np.float32)[patches.defect],
    }


def fit_bayesflow(
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[BayesFlowPosterior, int]:
    """The model comparison of BayesFlow 2 with its convolutional summary network.

    Parameters
    ----------
    stream : Stream
        Of the patches.
    clock : Clock
        With the budget.
    learning_rate : float
        Peak of Adam with half a cosine.
    seed : int
        Of weights and masks.
    checkpoint : Path, optional
        Is not used: an interrupted run starts anew.

    Returns
    -------
    model : BayesFlowPosterior
        The approximator.
    num_patches : int
        Number of patches.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import bayesflow
    import keras

    keras.utils.set_random_seed(seed)
    adapter = (
        bayesflow.Adapter()
        .rename("model_indices", "inference_variables")
        .rename("image", "summary_variables")
        .rename("context", "inference_conditions")
    )

    class Limit(keras.callbacks.Callback):
        """Half a cosine over the budget, which ends the training."""

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.end, self.seconds = clock.own + seconds, seconds

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            done = min(1.0, 1 - (self.end - clock.own) / self.seconds)
            rate = learning_rate * 0.5 * (1 + np.cos(np.pi * done))
            self.model.optimizer.learning_rate = rate
            self.model.stop_training = done >= 1
            if done >= 1:
                raise StopIteration

    def approximator() -> object:
        made = bayesflow.approximators.ModelComparisonApproximator(
            num_models=len(DEFECTS),
            classifier_network=bayesflow.networks.MLP(widths=(256, 256)),
            summary_network=bayesflow.networks.ConvolutionalNetwork(
                summary_dim=128, widths=(16, 32, 64), blocks_per_stage=1
            ),
            adapter=adapter,
        )
        made.compile(optimizer=keras.optimizers.Adam(learning_rate))
        return made

    def train(model: object, patches: Labelled, scale: tuple, seconds: float) -> None:
        data = _named(patches, _masks(len(patches), seed), scale)
        dataset = bayesflow.datasets.OfflineDataset(data, 256, adapter)
        try:
            model.fit(dataset=dataset, epochs=100, callbacks=[Limit(seconds)], verbose=0)
        except StopIteration:
            pass

    some = stream.load(FIRST)
    scale = _scale(some)
    train(approximator(), some.take(slice(0, 2560)), scale, 1e-3)  # one step, with building it
    trial = approximator()
    train(trial, some.take(slice(0, 2560)), scale, 3.0)
    seconds = 3.0 / (256 * max(1, int(trial.optimizer.iterations)))
    num_patches = _planned(stream, clock, seconds)
    model = approximator()
    train(model, stream.load(num_patches), scale, clock.left)
    return BayesFlowPosterior(model, scale), num_patches

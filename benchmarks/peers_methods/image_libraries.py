"""AtomAI and pyroVED: classifiers of the image alone, through their public interfaces."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bayesctx import DEFECTS

from .budget import Clock
from .networks import convolutions
from .stream import Labelled, Stream

__all__ = ["declare_operators", "fit_atomai", "fit_pyroved"]

FIRST = 8192  # patches that the rate is measured with
EPOCHS = 4  # for which the number of patches is planned
RESERVE = 0.9
AT_ONCE = 2000
TRIAL = 20  # cycles of AtomAI that measure the rate
BATCH = 128
PIECE = 512  # patches between two looks at the clock, of pyroVED, and that measure its rate

_declared: list[torch.library.Library] = []


def declare_operators() -> None:
    """Declare two operators of torchvision, without which it cannot be imported.

    The registry holds torchvision for torch with CUDA only: beside a torch without it, its compiled
    part is not loaded. AtomAI and pyroVED take a network and a grid of pictures from its Python
    part, which needs none of them.
    """
    if _declared:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    _declared.append(library)
    with contextlib.suppress(RuntimeError):  # a torchvision that fits torch has declared them
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the libraries print, and the files that they write."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            yield


class ImageClassifier:
    """A network of a library that takes images."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network

    @torch.no_grad()
    def predict(self, patches: Labelled, known: Collection[str]) -> np.ndarray:
        """Logarithms of the class probabilities, shape (patch, class)."""
        image = torch.from_numpy(patches.image)
        return torch.cat([
            self.network(image[i : i + AT_ONCE].float()) for i in range(0, len(image), AT_ONCE)
        ]).numpy()  # fmt: skip


def fit_atomai(
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[ImageClassifier, int]:
    """Train AtomAI's ``Classifier`` with its MobileNet.

    Parameters
    ----------
    stream : Stream
        Of the patches.
    clock : Clock
        With the budget.
    learning_rate : float
        Of Adam.
    seed : int
        Of weights and batches.
    checkpoint : Path, optional
        Is not used: an interrupted run starts anew.

    Returns
    -------
    model : ImageClassifier
        Its network; ``predict`` of the library gives no probabilities.
    num_patches : int
        Number of patches.
    """
    declare_operators()
    import atomai

    def fit(patches: Labelled, cycles: int) -> object:
        image = patches.image[:, None].astype(np.float32)
        model = atomai.models.Classifier("mobilenet", nb_classes=len(DEFECTS), seed=seed)
        test = slice(0, BATCH)
        model.fit(
            image[BATCH:], patches.defect[BATCH:], image[test], patches.defect[test],
            training_cycles=cycles, batch_size=BATCH, full_epoch=False,
            optimizer=lambda p: torch.optim.Adam(p, learning_rate), print_loss=10**9,
            plot_training_history=False, memory_alloc=1e-3,
        )  # fmt: skip
        return model

    with _quiet():
        some = stream.load(FIRST)
        fit(some, 1)
        start = clock.own
        fit(some, TRIAL)
        seconds = (clock.own - start) / TRIAL
        left = RESERVE * clock.left + FIRST * stream.cost()
        num = max(FIRST, int(left / (stream.cost() + EPOCHS * seconds / BATCH)))
        data = stream.load(num)
        model = fit(data, max(TRIAL + 1, int(RESERVE * clock.left / seconds)))
    model.net.eval()
    return ImageClassifier(lambda x: model.net(x[:, None])), len(data)


class _Softmax(nn.Module):
    """The convolutions of the other networks with probabilities, as pyroVED asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions(32).to(memory_format=torch.channels_last)
        self.head = nn.LazyLinear(len(DEFECTS))

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities of the classes of images of shape (patch, pixel)."""
        return self.head(self.body(image.reshape(-1, 1, 32, 32))).softmax(-1)


def fit_pyroved(
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[ImageClassifier, int]:
    """Train pyroVED's ``ssiVAE`` with rotational invariance and a convolutional classifier.

    Parameters
    ----------
    stream : Stream
        Of the patches: every second batch is shown with labels.
    clock : Clock
        With the budget.
    learning_rate : float
        Of its trainer.
    seed : int
        Of the weights.
    checkpoint : Path, optional
        Is not used: an interrupted run starts anew.

    Returns
    -------
    model : ImageClassifier
        Its classifier.
    num_patches : int
        Number of patches.
    """
    declare_operators()
    import pyroved

    def begin() -> tuple[object, object]:
        model = pyroved.models.ssiVAE(
            (32, 32), latent_dim=5, num_classes=len(DEFECTS), invariances=["r"],
            sampler_d="gaussian", sigmoid_d=False, seed=seed,
        )  # fmt: skip
        classifier = _Softmax()
        classifier(torch.zeros(2, 1024))
        model.set_classifier(classifier)
        trainer = pyroved.trainers.auxSVItrainer(model, lr=learning_rate, seed=seed)
        return model, trainer

    def run(trainer: object, patches: Labelled) -> None:
        image = torch.from_numpy(patches.image.astype(np.float32)).flatten(1)
        label = torch.nn.functional.one_hot(torch.from_numpy(patches.defect), len(DEFECTS)).float()
        loaders = pyroved.utils.init_ssvae_dataloaders(
            image, (image, label), (image[:2], label[:2]), batch_size=BATCH
        )
        trainer.step(*loaders[:2], aux_loss_multiplier=50)

    with _quiet():
        some = stream.load(FIRST)
        model, trainer = begin()
        run(trainer, some.take(slice(0, 2 * BATCH)))
        start = clock.own
        run(trainer, some.take(slice(0, PIECE)))
        seconds = (clock.own - start) / PIECE
        left = RESERVE * clock.left + FIRST * stream.cost()
        num = max(FIRST, int(left / (stream.cost() + EPOCHS * seconds)))
        data = stream.load(num)
        model, trainer = begin()
        rng = np.random.default_rng(seed)
        while clock.left > PIECE * seconds:
            run(trainer, data.take(rng.choice(len(data), PIECE, replace=False)))
    model.eval()
    return ImageClassifier(lambda x: model.encoder_y(x.flatten(1)).clamp(min=1e-38).log()), len(
        data
    )

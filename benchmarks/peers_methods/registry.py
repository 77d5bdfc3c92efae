"""Every method: how it is trained, which settings are tried, and what it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .budget import Clock
from .ensemble import fit_ensemble
from .image_libraries import fit_atomai, fit_pyroved
from .networks import Classifier, fit_network
from .own import fit_own, load_shipped
from .simulation_based import fit_bayesflow, fit_sbi
from .stream import Stream
from .trees import fit_trees

__all__ = ["METHODS", "Method", "is_installed"]

RATES = (3e-3, 1e-2)  # 1e-3 was tried: 0.11 nats worse with everything known after 60 s


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes
    ----------
    title : str
        In the table.
    fit : callable
        Takes (stream, clock, seed, checkpoint, **settings) and returns a predictor and the number
        of patches. ``predict`` of the predictor returns log probabilities or logits.
    grid : sequence of mapping
        Settings that are tried at a tenth of the budget; of one nothing is tried.
    needs : str
        Library beyond those of bayesctx.
    reads : {"patches", "data"}
        What ``predict`` takes.
    is_trained : bool
        Whether it is trained within the budget.
    tuned_as : str
        Method whose grid is run instead of its own, of the same networks.
    """

    title: str
    fit: Callable[..., tuple[object, int]]
    grid: Sequence[Mapping[str, float]]
    needs: str = "torch"
    reads: str = "patches"
    is_trained: bool = True
    tuned_as: str = ""


def is_installed(method: Method) -> bool:
    """Whether the library of a method can be found."""
    return importlib.util.find_spec(method.needs) is not None


def _network(context: str) -> Callable[..., tuple[object, int]]:
    """Training of one convolutional network."""

    def fit(
        stream: Stream, clock: Clock, seed: int, checkpoint: Path | None, **settings: float
    ) -> tuple[Classifier, int]:
        torch.manual_seed(seed)
        net = Classifier(context)
        return net, fit_network(net, stream, clock, seed=seed, checkpoint=checkpoint, **settings)

    return fit


def _by_name(fit: Callable[..., tuple[object, int]]) -> Callable[..., tuple[object, int]]:
    """Training with seed and checkpoint by name."""
    return lambda stream, clock, seed, checkpoint, **settings: fit(
        stream, clock, seed=seed, checkpoint=checkpoint, **settings
    )


def _own(
    stream: Stream, clock: Clock, seed: int, checkpoint: Path | None, **settings: float
) -> tuple[object, int]:
    return fit_own(clock, seed=seed, checkpoint=checkpoint, **settings)


def _shipped(*_: object) -> tuple[object, int]:
    return load_shipped(), 0


def _rates(*rates: float, **others: float) -> list[dict[str, float]]:
    """The settings of a grid of learning rates."""
    return [{"learning_rate": rate, **others} for rate in rates]


METHODS = {
    "bayesctx": Method(
        "bayesctx",
        _own,
        _rates(3e-3, 6e-3, 1.2e-2, num_passes=4, partly_known=0.0, width=320),
        reads="data",
    ),
    "cnn_dropout": Method("CNN, context dropout", _network("mask"), _rates(*RATES, epochs=2)),
    "cnn_context": Method(
        "CNN, context concatenated", _network("mean"), [], tuned_as="cnn_dropout"
    ),
    "cnn_image": Method("CNN, image alone", _network("none"), [], tuned_as="cnn_dropout"),
    "trees": Method(
        "boosted trees on Zernike moments",
        _by_name(fit_trees),
        _rates(0.03, 0.1, 0.2),
        needs="lightgbm",
    ),
    "ensemble": Method(
        "5 CNNs with dropout, temperature", _by_name(fit_ensemble), [], tuned_as="cnn_dropout"
    ),
    "sbi": Method("sbi, NPE", _by_name(fit_sbi), _rates(5e-4, 1e-3, 2e-3), needs="sbi"),
    "bayesflow": Method(
        "BayesFlow 2", _by_name(fit_bayesflow), _rates(5e-4, 1.5e-3, 5e-3), needs="bayesflow"
    ),
    "atomai": Method("AtomAI", _by_name(fit_atomai), _rates(3e-4, 1e-3, 3e-3), needs="atomai"),
    "pyroved": Method("pyroVED", _by_name(fit_pyroved), _rates(3e-4, 1e-3, 3e-3), needs="pyroved"),
    "shipped": Method("bayesctx, shipped weights", _shipped, [{}], reads="data", is_trained=False),
}
"""The methods by name; ``SEEDS`` keeps what they are scored on apart from what they see."""

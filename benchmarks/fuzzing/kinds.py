"""The kinds of inputs, and how many of each there are."""

from __future__ import annotations

import shutil
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .case import Case, Outcome, run_case
from .commands import command_case
from .contexts import context_case
from .equivalents import equivalent_case
from .images import micrograph_case, patch_case
from .options import option_case, prior_case
from .results import result_case
from .shards import manifest_case
from .values import Rng
from .weights import card_case, checkpoint_case, weight_case

__all__ = ["KINDS", "run_input", "shares"]

KINDS: dict[str, tuple[Callable[[Rng, Path], Case], float]] = {
    "patches": (patch_case, 0.17),
    "micrographs": (micrograph_case, 0.15),
    "equivalents": (equivalent_case, 0.06),
    "contexts": (context_case, 0.19),
    "options": (option_case, 0.05),
    "priors": (prior_case, 0.04),
    "weights": (weight_case, 0.06),
    "cards": (card_case, 0.06),
    "checkpoints": (checkpoint_case, 0.04),
    "results": (result_case, 0.06),
    "manifests": (manifest_case, 0.04),
    "commands": (command_case, 0.08),
}
"""By name: what makes an input, and the share of all inputs."""


def shares(num: int, only: str | None = None) -> list[tuple[str, int]]:
    """List the inputs of a run, the kinds mixed.

    Parameters
    ----------
    num : int
        Number of inputs.
    only : str, optional
        The one kind to make.

    Returns
    -------
    list of (str, int)
        Kind and index of every input.
    """
    counts = {n: round(num * s) for n, (_, s) in KINDS.items()} if only is None else {only: num}
    places = [((i + 0.5) / c, n, i) for n, c in counts.items() for i in range(c)]
    return [(name, index) for _, name, index in sorted(places)]


def run_input(kind: str, seed: int, index: int) -> Outcome:
    """Make one input and hand it to the package.

    Parameters
    ----------
    kind : str
        Of ``KINDS``.
    seed, index : int
        Together with the kind they name the input.

    Returns
    -------
    Outcome
        What became of it; "broken generator" where the input could not be made.
    """
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), index])
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            case = KINDS[kind][0](rng, folder)
    except Exception as error:  # noqa: BLE001 (a fault of the benchmark, not of the package)
        return Outcome(
            "broken generator",
            f"{type(error).__name__}",
            str(error),
            details=traceback.format_exc(),
        )
    else:
        return run_case(case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

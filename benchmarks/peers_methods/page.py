"""The page docs/benchmarks/peers.md from the rows and probabilities of the finished units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from report import table, write

from .absent import ABSENT
from .registry import METHODS
from .scoring import COLUMNS, compare, perfect_calibration_error
from .stream import SEEDS

__all__ = ["write_page"]

REFERENCE = "bayesctx"
INTRODUCTION = """\
{num} held-out patches of `simulate(tmd_prior(), ..., seed={seed})`, each from an image of its own:
thirteen equally probable classes, dose 1e3 to 1e6 e/Å², all nuisances. Every method has the same
stream of patches (16 of each image) and the same budget of CPU seconds of one core, simulation
included: `bayesctx.train` simulates its own patches, the others are charged what the patches that
they use had cost when they were simulated for all. Learning rates are the best of two or three on
2000 other patches at a tenth of the budget, the three kinds of CNN and their ensemble together;
this choice is not charged. Passes, width and loss of bayesctx were chosen in eight more runs of
60 s on a stream of the validation seed; the settings of the others were tried less, and the
learning rate of the CNNs is the largest of the grid. The scores
of bayesctx on these patches were seen once before the fit of its width was changed; the fault was
traced on other patches. Where bayesctx sums over many draws fewer
patches are scored: 2000 with host and dopant or nothing known, 1000 with all but a continuous
variable. CPU seconds are not equally long: other processes share the caches and the memory of the
machine, so that the work done in a budget varies by up to a third from run to run.

Entropy and log score in bits, errors by the paired bootstrap over the patches. In brackets: the
difference from bayesctx trained within the same budget, with its paired error; a negative
difference of the log score and a positive one of the calibration error are in favour of bayesctx.
Calibration error: expected calibration error of the most probable class in ten bins. It is not zero
for a perfect posterior either; what it would be, if the truth were drawn from the posterior of
bayesctx, stands above each table, with its standard deviation. Patches/s: at inference, on one
core.
"""


def _number(value: float, error: float, scale: float = 1.0, digits: int = 3) -> str:
    """A value with its error."""
    return f"{scale * value:.{digits}f} ± {scale * error:.{digits}f}"


def _load(row: Mapping, runs: Path) -> Mapping[str, np.ndarray]:
    """Probabilities of a unit."""
    name = f"{row['method']}-{row['budget']:g}-{row['seed']}-final".replace(".", "p")
    with np.load(runs / "peers" / f"{name}.npz") as found:
        return dict(found)


def _cells(row: Mapping, subset: str, mine: Mapping, reference: Mapping | None) -> list[str]:
    """The scores of one method for one part of the context."""
    cells = []
    difference = None
    if reference is not None and row["method"] != REFERENCE:
        num = min(len(mine[subset]), len(reference[subset]))
        arrays = (values[:num] for values in (mine[subset], reference[subset], mine["truth"]))
        difference = np.array(compare(*arrays)).T
    for i, name in enumerate(COLUMNS):
        is_share = name in ("accuracy", "balanced_accuracy", "calibration_error")
        scale, digits = (100.0, 1) if is_share else (1.0, 3)
        cell = _number(*row["scores"][subset][name], scale, digits)
        if difference is not None:
            value, error = difference[i]
            cell += f" ({scale * value:+.{digits}f} ± {scale * error:.{digits}f})"
        cells.append(cell)
    return cells


def _spent(rows: Sequence[Mapping]) -> str:
    """What every method spent."""
    header = ["method", "settings", "CPU s", "patches simulated", "patches/s, everything known",
              "patches/s, nothing known"]  # fmt: skip
    body = [
        [
            METHODS[r["method"]].title,
            _settings(r),
            f"{r['spent']:.0f}" if METHODS[r["method"]].is_trained else "—",
            r["num_patches"] or "—",
            f"{r['rate']['everything']:.0f}", f"{r['rate']['nothing']:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    return table(header, body)


def _perfect(values: Mapping[str, Mapping], subset: str) -> str:
    """The calibration error that the reference would have if it were perfect."""
    if REFERENCE not in values:
        return ""
    error = perfect_calibration_error(values[REFERENCE][subset])
    return f" (calibration error of a perfect posterior: {_number(*error, 100.0, 1)} %)"


def _tried(rows: Sequence[Mapping]) -> str:
    """The settings that were tried on the validation stream."""
    trials = [r for r in rows if r["tried"] is not None]
    names = list(trials[0]["scores"]) if trials else []
    body = [
        [METHODS[r["method"]].title, _settings(r), f"{r['budget']:.0f}", f"{r['spent']:.0f}"]
        + [_number(*r["scores"][n]["log_score"]) for n in names]
        for r in trials
    ]
    header = ["method", "settings", "budget (CPU s)", "spent", *(f"log score, {n}" for n in names)]
    return table(header, body)


def _settings(row: Mapping) -> str:
    """Settings of a unit in one cell."""
    return ", ".join(f"{k} {v:g}" for k, v in row["settings"].items()) or "—"


def write_page(rows: Sequence[Mapping], runs: Path, subsets: Sequence[str]) -> None:
    """Write the page from all finished units of seed 0.

    Parameters
    ----------
    rows : sequence of mapping
        Of runs/peers.jsonl.
    runs : Path
        The folder with the probabilities.
    subsets : sequence of str
        Parts of the context, in the order of the page.
    """
    final = [r for r in rows if r["tried"] is None and r["seed"] == 0 and r["budget"] >= 600]
    if not final:
        return
    num = len(_load(final[0], runs)["truth"])
    body = INTRODUCTION.format(num=num, seed=SEEDS["held out"])
    header = ["method", "right (%)", "balanced (%)", "entropy", "log score",
              "calibration error (%)"]  # fmt: skip
    for budget in sorted({r["budget"] for r in final}):
        found = {r["method"]: r for r in final if r["budget"] == budget}
        found |= {r["method"]: r for r in final if not METHODS[r["method"]].is_trained}
        chosen = [found[n] for n in METHODS if n in found]
        values = {r["method"]: _load(r, runs) for r in chosen}
        body += f"\n## {budget / 60:g} minutes\n\n{_spent(chosen)}\n"
        absent = [m.title for n, m in METHODS.items() if n not in found]
        if absent:
            body += f"\nNot run yet: {', '.join(absent)}.\n"
        for subset in subsets:
            lines = [
                [METHODS[r["method"]].title]
                + _cells(r, subset, values[r["method"]], values.get(REFERENCE))
                for r in chosen
            ]
            body += f"\nKnown: {subset}{_perfect(values, subset)}\n\n{table(header, lines)}\n"
    body += f"\n## Settings that were tried\n\n{_tried(rows)}\n"
    body += "\n## What is not in the tables\n\n" + ABSENT
    write("peers", "Beside other methods, at equal time", body, SEEDS["training"])

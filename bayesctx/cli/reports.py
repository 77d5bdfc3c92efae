"""The report of a command: with its warnings, and with what the context was worth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

from ..inference import infer
from ..model import PatchModel
from ..report import write_report
from ..report.trust import is_by_simulator

__all__ = ["heard_warnings", "report_result"]


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Collect the warnings of a block, which are shown as before.

    Yields
    ------
    list of str
        Their texts, in order.
    """
    heard: list[str] = []
    show = warnings.showwarning

    def show_and_keep(message: Warning | str, *rest: object, **more: object) -> None:
        heard.append(str(message))
        show(message, *rest, **more)

    warnings.showwarning = show_and_keep
    try:
        yield heard
    finally:
        warnings.showwarning = show


def report_result(
    path: Path,
    image: xr.DataArray,
    context: Mapping[str, object],
    model: PatchModel,
    result: xr.DataTree,
    notes: Sequence[str],
) -> None:
    """Write the report of a result, with entropies without and with context by the network.

    Parameters
    ----------
    path : Path
        The file.
    image : DataArray
        From ``read``.
    context : mapping
        What was stated.
    model : PatchModel
        The network.
    result : DataTree
        From ``infer``.
    notes : sequence of str
        Warnings of reading and inference.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    compared = None
    # several detectors are read by the simulator only, and nothing known is nothing to compare
    if "detector" not in image.dims and result.attrs["context"] != "{}":
        try:
            compared = _compare(image, context, model, result)
        except ValueError as error:
            notes = [*notes, f"less context could not be compared: {error}"]
    write_report(result, path, compared=compared, notes=notes)


def _compare(
    image: xr.DataArray, context: Mapping[str, object], model: PatchModel, result: xr.DataTree
) -> tuple[xr.DataTree, xr.DataTree]:
    """Results by the network without and with context."""
    own = {"seed": int(result.attrs["seed"]), "likelihood": "network"}
    with warnings.catch_warnings():
        # those of the result itself are told; these are of its comparison only
        warnings.simplefilter("ignore")
        less = infer(image.drop_attrs(deep=False), {}, model, **own)
        if is_by_simulator(result):
            return less, infer(image, context, model, **own)
    return less, result

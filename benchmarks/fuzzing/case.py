"""One input, and what became of it: success, one error that says what to do, or a fault."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import sympy  # noqa: F401 (torch imports it late, and it adds a filter of warnings)
import torch
import xarray as xr
from tqdm import TMonitor

import bayesctx

__all__ = [
    "Case",
    "Outcome",
    "complaint_of_error",
    "complaint_of_posterior",
    "run_case",
    "seconds_of",
]

PACKAGE = Path(bayesctx.__file__).parent
ACCEPTED = (ValueError, TypeError, OSError)
LONGEST = 500  # characters of an error
EXPECTED = re.compile(r"\bexpected\b|\bunknown\b|\bnot known\b|, got ")
"""What an error says of what was expected; a semicolon stands before what to do."""
NORMALISED = 1e-3
JOINT = ("defect_host", "dopant_at_site")  # of class_posterior; marginals of these sum to one


@dataclass(frozen=True)
class Case:
    """An input and what is done with it.

    Attributes
    ----------
    text : str
        The input in words.
    call : callable
        Hands the input to the package.
    check : callable
        Takes what ``call`` returned and says what is wrong with it; the empty string if nothing is.
    is_refusal : callable
        Takes what ``call`` returned and says whether it is a refusal, for commands.
    """

    text: str
    call: Callable[[], object]
    check: Callable[[object], str] = lambda _: ""
    is_refusal: Callable[[object], bool] = lambda _: False


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes
    ----------
    verdict : str
        "success", "refused", or the kind of fault.
    where : str
        Of a fault: the type of the exception and the innermost function of the package.
    message : str
        Of an error or a fault.
    seconds : float
        Of the processor that it took.
    text : str
        The input in words.
    details : str
        Traceback of a fault.
    """

    verdict: str
    where: str = ""
    message: str = ""
    seconds: float = 0.0
    text: str = ""
    details: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the package must be mended."""
        return self.verdict not in ("success", "refused")


def run_case(case: Case, folder: Path) -> Outcome:
    """Hand an input to the package, from a folder of its own.

    Parameters
    ----------
    case : Case
        The input.
    folder : Path
        Working directory; what is left behind in it is a fault.

    Returns
    -------
    Outcome
        What became of it.
    """
    back = Path.cwd()
    os.chdir(folder)
    try:
        own = set(_leftovers(folder))
        before = _state()
        began = seconds_of()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            inside = _filters()
            result, error = _call(case)
            filters_changed = _filters() != inside
        seconds = seconds_of() - began
        after = _state()
        found = _judge(case, result, error, caught)
        changed = [n for n in before if before[n] != after[n]] + [
            "warning filters"
        ] * filters_changed
        if not found.is_fault and changed:
            found = Outcome("state", "state: " + ", ".join(changed), f"{changed} changed")
        leftovers = set(_leftovers(folder))
        if not found.is_fault and leftovers != own:
            names = f"left behind: {sorted(leftovers - own)}, removed: {sorted(own - leftovers)}"
            found = Outcome("leftover", "temporary files", names)
    finally:
        os.chdir(back)
    return Outcome(
        found.verdict, found.where, found.message[:2000], seconds, case.text[:600], found.details
    )


def _leftovers(folder: Path) -> list[str]:
    """Names of hidden temporary files."""
    return [p.name for p in folder.rglob(".*") if p.name.endswith(".tmp")]


def _filters() -> list[object]:
    """Filters of warnings but for one that xarray adds whenever it decodes a file."""
    return [f for f in warnings.filters if getattr(f[1], "pattern", "") != "decode_timedelta"]


def _call(case: Case) -> tuple[object, BaseException | None]:
    """Result or exception."""
    try:
        return case.call(), None
    except Exception as error:  # noqa: BLE001 (every one is judged)
        return None, error


def _judge(
    case: Case, result: object, error: BaseException | None, caught: list[warnings.WarningMessage]
) -> Outcome:
    """Judge a result, an error and the warnings."""
    if error is not None:
        complaint = complaint_of_error(error)
        if complaint:
            return Outcome("exception", _place(error), complaint, details=_trace(error))
    else:
        try:
            complaint = case.check(result)
        except (KeyError, AttributeError, IndexError, ValueError, TypeError) as flaw:
            complaint = f"{type(flaw).__name__} in the check: {flaw}"
        if complaint:
            return Outcome("result", f"result: {complaint.partition(':')[0]}", complaint)
    for warning in caught:
        complaint = _complaint_of_warning(warning)
        if complaint:
            place = f"{warning.category.__name__} in {_short(warning.filename)}:{warning.lineno}"
            return Outcome("warning", place, complaint)
    if error is not None:
        return Outcome("refused", _place(error), str(error))
    return Outcome("refused" if case.is_refusal(result) else "success")


def complaint_of_error(error: BaseException) -> str:
    """Say what is wrong with an exception that reached the user.

    Parameters
    ----------
    error : BaseException
        The exception.

    Returns
    -------
    str
        Empty if it is one of the accepted types and its message is of the agreed form.
    """
    if not isinstance(error, ACCEPTED):
        return f"{type(error).__name__}: {error}"
    return complaint_of_message(str(error), type(error).__name__)


def complaint_of_message(message: str, name: str = "error") -> str:
    """Say what is wrong with the form of a message.

    Parameters
    ----------
    message : str
        One line: what was expected, what came; what to do.
    name : str
        What it is, for the answer.

    Returns
    -------
    str
        Empty if it is of the form.
    """
    flaws = []
    if "\n" in message:
        flaws.append("several lines")
    if len(message) > LONGEST:
        flaws.append(f"{len(message)} characters")
    if not EXPECTED.search(message):
        flaws.append("not what was expected")
    if ";" not in message:
        flaws.append("not what to do")
    return f"{name} ({', '.join(flaws)}): {message[:LONGEST]}" if flaws else ""


def _complaint_of_warning(warning: warnings.WarningMessage) -> str:
    """Say what is wrong with a warning: the package warns in one line that says what to do."""
    text = str(warning.message)
    if warning.category is UserWarning and ";" in text and "\n" not in text:
        return ""
    if issubclass(warning.category, ResourceWarning | DeprecationWarning | FutureWarning):
        return "" if not _is_own(warning.filename) else f"{warning.category.__name__}: {text}"
    return f"{warning.category.__name__}: {text}"


def _is_own(path: str) -> bool:
    """Whether a file belongs to the package."""
    return Path(path).is_relative_to(PACKAGE)


def _short(path: str) -> str:
    """Path within the package or its library."""
    found = Path(path)
    return str(found.relative_to(PACKAGE)) if _is_own(path) else "/".join(found.parts[-2:])


def _place(error: BaseException) -> str:
    """Type of an exception and the innermost function of the package that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(f.filename)]
    where = f"{_short(frames[-1].filename)}:{frames[-1].name}" if frames else "outside"
    return f"{type(error).__name__} in {where}"


def _trace(error: BaseException) -> str:
    """Traceback as text."""
    return "".join(traceback.format_exception(error))[-6000:]


def seconds_of() -> float:
    """Clock of the cores that this process and those that it waited for have used.

    Returns
    -------
    float
        In seconds. Waiting is limited by ``pool``.
    """
    return sum(os.times()[:4])


def _digest(state: object) -> str:
    """Short name of the state of a generator."""
    return hashlib.md5(repr(state).encode()).hexdigest()


def _state() -> dict[str, object]:
    """Everything global that the package must leave as it is."""
    return {
        "default dtype": torch.get_default_dtype(),
        "torch generator": _digest(torch.get_rng_state().tolist()),
        "numpy generator": _digest(np.random.get_state()),  # noqa: NPY002
        "python generator": _digest(random.getstate()),
        "pyro settings": str(pyro.settings.get()),
        "pyro parameters": str(sorted(pyro.get_param_store().keys())),
        "validation": (
            torch.distributions.Distribution._validate_args,
            pyro.poutine.runtime.__dict__.get("_x"),
        ),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "numpy errors": np.geterr(),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "showwarning": warnings.showwarning.__module__,
        "options of xarray": str(sorted(xr.get_options().items(), key=str)),
        "threads": sorted(t.name for t in threading.enumerate() if not isinstance(t, TMonitor)),
        "path": list(sys.path),
    }


def complaint_of_posterior(tree: xr.DataTree) -> str:
    """Say what is wrong with a result of ``infer``.

    Parameters
    ----------
    tree : DataTree
        The result.

    Returns
    -------
    str
        Empty if probabilities are finite and normalised and draws finite and in the domain.
    """
    shares = tree["class_posterior"].to_dataset()
    for name, values in shares.data_vars.items():
        found = values.values
        if not np.isfinite(found).all():
            return f"{name} is not finite: {np.sum(~np.isfinite(found))} of {found.size}"
        if (found < -1e-6).any() or (found > 1 + 1e-4).any():
            return f"{name} is no probability: {found.min()} to {found.max()}"
        total = 1.0
        if name == "dopant" and name in tree["constant_data"]:  # an undoped crystal has none
            total = (tree["constant_data"][name] != "none").values
        if name not in JOINT and np.abs(found.sum(-1) - total).max(initial=0) > NORMALISED:
            return f"{name} is not normalised: {found.sum(-1).min()} to {found.sum(-1).max()}"
    for group in ("posterior", "prior", "log_likelihood", "sample_stats"):
        for name, values in tree[group].to_dataset().data_vars.items():
            if values.dtype.kind == "f" and not np.isfinite(values.values).all():
                return f"{group}.{name} is not finite: {values.values.ravel()[:3]}"
    return _complaint_of_draws(tree)


def _complaint_of_draws(tree: xr.DataTree) -> str:
    """Say what is wrong with the draws: they lie in the domain of the package."""
    for group in ("posterior", "prior"):
        for name, values in tree[group].to_dataset().data_vars.items():
            variable = bayesctx.CONTEXT.get(str(name))
            if variable is None or variable.is_name or not values.size:
                continue
            low, high = variable.domain
            slack = 1e-3 * max(abs(low), abs(high))
            if name != "sampling" and not (
                low - slack <= values.min() and values.max() <= high + slack
            ):
                found = f"{values.min().item()} to {values.max().item()}"
                return f"{group}.{name} outside of its domain: {found}"
    return ""


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Catch what is printed.

    Yields
    ------
    tuple of StringIO
        Standard output and standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err

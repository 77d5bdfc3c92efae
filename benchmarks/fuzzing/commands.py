"""Cases of command lines: valid and invalid options of every verb."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import bayesctx as bc
from bayesctx.cli import main

from .case import Case, captured, complaint_of_message, complaint_of_posterior
from .files import damaged, store
from .scenes import micrograph
from .values import Rng, cast, choose, maybe

__all__ = ["command_case"]

NUMBERS = (
    "0", "1", "-1", "3", "2.5", "nan", "inf", "-inf", "1e3", "1e12", "1e20", "1e400", "x", "",
    " ", "٣", "0x10", "1_000", "9" * 400, "-0", "1e-300", "True", "None", "3\n",
    "9223372036854775808",
)  # fmt: skip
TRUE = (
    "host=MoS2", "dopant=V", "beam_energy=60e3", "convergence_semiangle=31", "defocus=20",
    "inner_collection_angle=80", "outer_collection_angle=250", "dose=1e4",
)  # fmt: skip
CONTEXTS = (
    "host=WSe2", "host=WSe2,WS2", "host=wse2", "host=", "=", "host", "dose=1e5", "dose=-1e4..1e4",
    "dose=1e3..1e6", "dose=nan", "dose=1e5..", "dose=..", "dose=1e6..1e3", "dose=1.098e6",
    "dose=1e999", "beam_energy=80e3", "beam_energy=80", "beam_energy=80keV",
    "beam_energy=60e3,80e3", "dopant=Ti,V", "dopant=Xx", "dopant=", "defocus=-20..20",
    "inner_collection_angle=60..110", "outer_collection_angle=50", "sampling=0.2",
    "sampling=0.2..0.3", "sampling=0.25", "doze=3", "dose=1e5=3", "host=WSe2,", "host=,",
    "dose=1e5,x", "--", "a=b=c", "beam_energy=inf", "beam_energy=-inf..inf", "sampling=0.19,0.2",
    "defocus=1e-400", "dose=0x10", "dose=1..nan", "x" * 600,
)  # fmt: skip
GOOD_OUTPUTS = ("out.nc", "old.nc", "with space.nc", "ö.nc", "link.nc", "./out.nc")
BAD_OUTPUTS = (
    "out", "none/out.nc", ".", "", "file/out.nc", "/proc/out.nc", "o.csv", "o.safetensors", "o.png",
    "x" * 300 + ".nc", "-", "hidden/.out.nc", "out.NC", "*.nc", "file", "a\0.nc",
)  # fmt: skip
VALUES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--num-draws": (("4", "8", "16"), NUMBERS),
    "--seed": (("0", "1", "7"), NUMBERS),
    "--variable": (("intensity", "adf", "haadf"), ("x", "", "a b")),
    "--select": (("image=0",), ("detector=ADF1", "y=0", "z=1", "x", "=", "detector=", "y=99")),
    "--plot": (("p.png", "p.pdf", "p.svg"), ("p.xyz", "p", "none/p.png", ".", "P.PNG", "")),
    "--num-patches": (("1", "4", "256"), NUMBERS),
    "--start": (("0", "2", "256"), NUMBERS),
    "--prior": (("reference", "tmd", "limit", "between"), ("x", "", "Reference")),
    "--num-pixels": (("48", "64"), NUMBERS),
    "--sampling": (("0.2", "0.3"), NUMBERS),
    "--shard-size": (("256", "512"), NUMBERS),
    "--patches-per-image": (("1", "16"), NUMBERS),
    "--batch-size": (("16", "32"), NUMBERS),
    "--contrast": (("1", "2", "16"), NUMBERS),
    "--learning-rate": (("1e-3", "5e-3"), NUMBERS),
    "--threads": (("1",), NUMBERS),
    "--checkpoint": (("run", "new"), ("file", "none/run", "old.nc", ".", "", "begun")),
    "--device": (("cpu",), ("cuda", "foo", "", "cuda:99", "meta", "cpu:3", "mps")),
    "--workers": (("0",), ("-1", "x", "1.5", "nan", "")),
    "--held-out": (("0",), ("-1", "x", "1.5", "nan", "")),
}
"""Usual and hostile values of the options."""


def command_case(rng: Rng, folder: Path) -> Case:
    """A command line, in this process or, rarely, in one of its own.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    folder : Path
        Working directory of the command.

    Returns
    -------
    Case
        Run; errors are one line on standard error, and exit code 2.
    """
    (folder / "file").write_text("here")
    shutil.copy(store() / "patches.nc", folder / "old.nc")
    shutil.copy(store() / "run", folder / "begun")
    (folder / "link.nc").symlink_to(folder / "old.nc")
    verb = str(choose(rng, (*["infer"] * 4, *["simulate"] * 2, "train", "demo", "other")))
    hostility = float(choose(rng, (0.0, 0.0, 0.1, 0.5)))
    words = VERBS[verb](rng, folder, hostility)
    if maybe(rng, hostility / 2):
        extra = str(choose(rng, ("--unknown", "-x", "--help", "extra", "--ou", "--version")))
        words.insert(int(rng.integers(len(words) + 1)), extra)
    if maybe(rng, hostility / 4) and len(words) > 1:
        del words[int(rng.integers(1, len(words)))]
    text = "bayesctx " + " ".join(repr(w) if " " in w or not w else w for w in words)
    if maybe(rng, 0.015):
        return _process(rng, words, folder, text)
    return Case(text[:500], lambda: _run(words, folder), _complaint_of_run, _is_refused)


def _run(words: list[str], folder: Path) -> tuple[object, str, str, Path]:
    """Exit code, standard output, standard error and the folder of a command in this process."""
    with captured() as (out, err):
        try:
            code: object = main(words)
        except SystemExit as stop:  # of --help
            code = stop.code
    return code, out.getvalue(), err.getvalue(), folder


def _is_refused(found: tuple[object, str, str, Path]) -> bool:
    """Whether a command refused its arguments or its input."""
    return found[0] in (1, 2)


def _complaint_of_run(found: tuple[object, str, str, Path]) -> str:
    """Say what is wrong with what a command answered."""
    code, _, err, folder = found
    if "Traceback" in err:
        return f"traceback: {err[-300:]}"
    errors = [line for line in err.splitlines() if line.startswith("bayesctx: error:")]
    if code in (1, 2):  # input that was refused, and wrong usage
        if len(errors) != 1:
            return f"{len(errors)} lines of error: {err[-300:]}"
        message = errors[0].removeprefix("bayesctx: error: ")
        if "see bayesctx --help" in message and len(message) < 500:
            return ""
        return complaint_of_message(message, "message of the command")
    if code not in (0, None):
        return f"exit code {code}: {err[-300:]}"
    if errors:
        return f"success with an error: {errors[0]}"
    return _complaint_of_files(folder)


def _complaint_of_files(folder: Path) -> str:
    """Say what is wrong with results that a command wrote."""
    for path in folder.glob("*.nc"):
        try:
            tree = bc.load(path)
        except ValueError:  # simulated data
            continue
        complaint = complaint_of_posterior(tree) if "class_posterior" in tree.children else ""
        if complaint:
            return f"{complaint} in {path.name}"
    return ""


def _process(rng: Rng, words: list[str], folder: Path, text: str) -> Case:
    """The command in a process of its own, its output read, closed, or without room."""
    kind = str(choose(rng, ("read", "closed", "full")))

    def run() -> tuple[object, str, str, Path]:
        code = "import sys; from bayesctx.cli import main; sys.exit(main())"
        output = open("/dev/full", "w") if kind == "full" else subprocess.PIPE  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=output, stderr=subprocess.PIPE,
            text=True, cwd=folder, errors="replace",
            env=os.environ | {"PYTHONPATH": str(Path(bc.__file__).parents[1])},
        )  # fmt: skip
        if kind == "closed":
            process.stdout.close()
            err = process.stderr.read()
        else:
            _, err = process.communicate()
        if kind == "full":
            output.close()
        return process.wait(), "", err, folder

    def check(found: tuple[object, str, str, Path]) -> str:
        code, _, err, _ = found
        if kind == "read":
            return _complaint_of_run(found)
        if "Traceback" in err or "Exception ignored" in err:
            return f"traceback of a broken pipe: {err[-300:]}"
        return "" if code in (0, 1, 2, 141) else f"exit code {code} of a broken pipe: {err[-300:]}"

    return Case(f"process, output {kind}: {text}"[:500], run, check, _is_refused)


def _pick(rng: Rng, hostility: float, usual: Sequence[str], hostile: Sequence[str]) -> str:
    """A usual word or, with some probability, a hostile one."""
    return str(choose(rng, hostile if maybe(rng, hostility) else usual))


def _options(rng: Rng, hostility: float, shares: dict[str, float]) -> list[str]:
    """Some of the options, each with its probability, in random order."""
    names = [n for n, share in shares.items() if maybe(rng, share)]
    rng.shuffle(names)
    return [w for n in names for w in (n, _pick(rng, hostility, *VALUES[n]))]


def _context(rng: Rng, hostility: float) -> list[str]:
    """Some variables, and rarely wrong ones."""
    words = [w for w in TRUE if maybe(rng, 0.4)]
    words += [str(choose(rng, CONTEXTS)) for _ in range(2) if maybe(rng, hostility)]
    return ["--context", *words] if words or maybe(rng, hostility / 3) else []


def _model(rng: Rng, folder: Path, hostility: float) -> list[str]:
    """The small model, or a file that is none."""
    if not maybe(rng, hostility):
        return ["--model", str(store() / "small.safetensors")]
    content, _ = damaged(rng, (store() / "small.safetensors").read_bytes())
    (folder / "m.safetensors").write_bytes(content)
    files = ("m.safetensors", "none.safetensors", "file", ".", "old.nc", "")
    return ["--model", str(choose(rng, files))]


def _infer(rng: Rng, folder: Path, hostility: float) -> list[str]:
    """The verb infer."""
    image = str(choose(rng, ("image.nc", "patch.npy", "patch.npy", "image.npy", "two.nc", "made")))
    shares = {"--num-draws": 0.8, "--seed": 0.5, "--select": hostility / 3, "--plot": 0.15}
    shares["--variable"] = 0.8 if image == "two.nc" else hostility / 3
    likelihood = "neither" if maybe(rng, hostility / 10) else "network"
    return [
        "infer", *_image(rng, image, folder, hostility), "--likelihood", likelihood, "--out",
        _pick(rng, hostility, GOOD_OUTPUTS, BAD_OUTPUTS), *_model(rng, folder, hostility),
        *_options(rng, hostility, shares), *_context(rng, hostility),
    ]  # fmt: skip


def _image(rng: Rng, name: str, folder: Path, hostility: float) -> list[str]:
    """The file of an image."""
    if maybe(rng, hostility / 2):
        others = ("none.nc", "", ".", "file", "old.nc", "begun", "x" * 300, "x.tif", "link.nc")
        return [str(choose(rng, others))]
    if name != "made":
        if maybe(rng, hostility / 2):
            content, _ = damaged(rng, (store() / name).read_bytes())
            (folder / name).write_bytes(content)
            return [name]
        return [str(store() / name)]
    size = int(choose(rng, (32, 40, 96)))
    values = np.zeros((3, 0, 4)) if maybe(rng, hostility / 3) else micrograph(1, 0)[0][:size, :size]
    values, dtype = cast(rng, values, common=1 - hostility)
    if maybe(rng, 0.5) or dtype in ("O", "record", "g", "f2", "?", "m8[s]", "c8", "c16"):
        np.save(folder / "made.npy", values, allow_pickle=True)
        return ["made.npy"]
    dims = choose(rng, (("y", "x"),) if not maybe(rng, hostility) else (("x", "y"), ("a", "b")))
    dims = ("image", *dims)[-values.ndim :]
    xr.Dataset({"intensity": (dims, values)}).to_netcdf(folder / "made.nc")
    return ["made.nc"]


def _simulate(rng: Rng, folder: Path, hostility: float) -> list[str]:
    """The verb simulate."""
    is_micrograph = maybe(rng, 0.5)
    shares = {"--seed": 0.5, "--start": 0.4, "--prior": 0.3}
    if is_micrograph or maybe(rng, hostility):
        shares |= {"--num-pixels": 1.0, "--sampling": 0.5}
    is_folder = not is_micrograph and maybe(rng, 0.3)
    if is_folder or maybe(rng, hostility / 3):
        shares |= {"--shard-size": 0.4, "--patches-per-image": 0.3, "--workers": 1.0}
    good = ("out", "new folder") if is_folder else GOOD_OUTPUTS
    words = ["simulate", "--out", _pick(rng, hostility, good, BAD_OUTPUTS)]
    if not is_micrograph:
        words += ["--num-patches", _pick(rng, hostility, *VALUES["--num-patches"])]
    if maybe(rng, 0.05):
        words.append(_pick(rng, 0.5, ("--verify",), ("--dry-run",)))
    words += ["--micrograph"] * is_micrograph
    return words + _options(rng, hostility, shares) + _context(rng, hostility)


def _train(rng: Rng, folder: Path, hostility: float) -> list[str]:
    """The verb train; what follows training takes half a minute and is left out."""
    needed = ("--batch-size", "--workers", "--held-out")
    shares = dict.fromkeys(needed, 1.0) | {"--seed": 0.3, "--contrast": 0.3, "--threads": 0.2}
    shares |= {"--learning-rate": 0.3, "--checkpoint": 0.3, "--device": 0.2}
    places = ("none/m", ".", "file", "", "/proc/m", "x" * 300)
    return [
        "train", "--num-patches", _pick(rng, hostility, ("16", "32"), NUMBERS),
        "--out", _pick(rng, hostility, ("m.st", "m.safetensors"), places),
        *_model(rng, folder, hostility), *_options(rng, hostility, shares),
    ]  # fmt: skip


def _demo(rng: Rng, folder: Path, hostility: float) -> list[str]:
    """The verb demo, where it cannot run to its end: that takes ten seconds."""
    if maybe(rng, 0.5):
        return ["demo", "--out-dir", str(choose(rng, ("file", "/proc/x", "file/x", "x" * 300)))]
    return [
        "demo",
        "--out-dir",
        "out",
        "--model",
        str(choose(rng, ("none", "file", ".", "old.nc"))),
    ]


def _other(rng: Rng, folder: Path, hostility: float) -> list[str]:
    """No verb, or none that is known."""
    lines = (
        "", "--help", "infer --help", "simulate --help", "train --help", "x", "-", "infer", "train",
        "simulate", "--out x", "infer infer", "--version", "demo x", "inf --help", "demo --help",
    )  # fmt: skip
    return str(choose(rng, lines)).split()


VERBS: dict[str, Callable[[Rng, Path, float], list[str]]] = {
    "infer": _infer, "simulate": _simulate, "train": _train, "demo": _demo, "other": _other,
}  # fmt: skip

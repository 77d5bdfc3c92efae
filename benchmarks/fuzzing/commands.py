"""Cases of command lines: valid and invalid options of every verb."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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
CONTEXTS = (
    "host=WSe2", "host=MoS2", "host=WSe2,WS2", "host=wse2", "host=", "=", "host", "dose=1e5",
    "dose=-1e4..1e4", "dose=1e3..1e6", "dose=nan", "dose=1e5..", "dose=..", "dose=1e6..1e3",
    "dose=1.098e6", "dose=1e999", "beam_energy=80e3", "beam_energy=80", "beam_energy=80keV",
    "beam_energy=60e3,80e3", "dopant=Ti,V", "dopant=Xx", "dopant=", "defocus=-20..20",
    "defocus=0", "inner_collection_angle=60..110", "inner_collection_angle=60",
    "outer_collection_angle=50", "outer_collection_angle=200", "convergence_semiangle=25",
    "sampling=0.2", "sampling=0.2..0.3", "sampling=0.25", "doze=3", "dose=1e5=3", "host=WSe2,",
    "host=,", "dose=1e5,x", "--", "a=b=c", "beam_energy=inf", "beam_energy=-inf..inf",
    "sampling=0.19,0.2", "defocus=1e-400", "dose=0x10", "dose=1..nan",
)  # fmt: skip
OUTPUTS = (
    "out.nc", "out.nc", "out.nc", "out.nc", "out", "none/out.nc", ".", "", "file/out.nc",
    "/proc/out.nc", "old.nc", "o.csv", "o.safetensors", "o.png", "x" * 300 + ".nc",
    "with space.nc", "ö.nc", "-", "link.nc", "hidden/.out.nc", "out.NC", "*.nc",
)  # fmt: skip
PICTURES = ("p.png", "p.pdf", "p.xyz", "p", "none/p.png", ".", "P.PNG", "p.svg", "file/p.png", "")


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
    verb = str(
        choose(
            rng,
            ("infer", "infer", "infer", "infer", "simulate", "simulate", "train", "demo", "other"),
        )
    )
    words = VERBS[verb](rng, folder)
    if maybe(rng, 0.1):
        words.insert(
            int(rng.integers(len(words) + 1)),
            str(choose(rng, ("--unknown", "-x", "--help", "extra", "--ou", "--version"))),
        )
    if maybe(rng, 0.05) and len(words) > 1:
        del words[int(rng.integers(1, len(words)))]
    text = "bayesctx " + " ".join(repr(w) if " " in w or not w else w for w in words)
    if maybe(rng, 0.015):
        return _process(rng, words, folder, text)
    return Case(text[:500], lambda: _run(words, folder), _complaint_of_run)


def _run(words: list[str], folder: Path) -> tuple[object, str, str, Path]:
    """Exit code, standard output, standard error and the folder of a command in this process."""
    with captured() as (out, err):
        try:
            code: object = main(words)
        except SystemExit as stop:  # of --help
            code = stop.code
    return code, out.getvalue(), err.getvalue(), folder


def _complaint_of_run(found: tuple[object, str, str, Path]) -> str:
    """Say what is wrong with what a command answered."""
    code, _, err, folder = found
    if "Traceback" in err:
        return f"traceback: {err[-300:]}"
    errors = [line for line in err.splitlines() if line.startswith("bayesctx: error:")]
    if code == 2:
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

    return Case(f"process, output {kind}: {text}"[:500], run, check)


def _options(rng: Rng, table: dict[str, Callable[[], list[str]]], share: float) -> list[str]:
    """Some of the options in random order."""
    names = [n for n in table if maybe(rng, share)]
    rng.shuffle(names)
    return [w for n in names for w in (n, *table[n]())]


def _number(rng: Rng, *usual: str) -> Callable[[], list[str]]:
    """Mostly a usual number."""
    return lambda: [str(choose(rng, usual if maybe(rng, 0.6) else NUMBERS))]


def _context(rng: Rng) -> list[str]:
    """Some variables."""
    return [str(choose(rng, CONTEXTS)) for _ in range(int(choose(rng, (0, 1, 1, 2, 3))))]


def _model(rng: Rng, folder: Path) -> list[str]:
    """Mostly the small model; rarely what is none."""
    if maybe(rng, 0.75):
        return [str(store() / "small.safetensors")]
    content, _ = damaged(rng, (store() / "small.safetensors").read_bytes())
    (folder / "m.safetensors").write_bytes(content)
    return [str(choose(rng, ("m.safetensors", "none.safetensors", "file", ".", "old.nc", "")))]


def _infer(rng: Rng, folder: Path) -> list[str]:
    """The verb infer."""
    image = str(
        choose(
            rng,
            ("image.nc", "patch.npy", "patch.npy", "image.npy", "two.nc", "made", "made", "other"),
        )
    )
    table = {
        "--context": lambda: _context(rng),
        "--num-draws": _number(rng, "4", "8", "16"),
        "--seed": _number(rng, "0", "1", "7"),
        "--variable": lambda: [str(choose(rng, ("adf", "haadf", "x", "", "intensity")))],
        "--select": lambda: [
            str(
                choose(
                    rng, ("detector=ADF1", "y=0", "y=3", "z=1", "x", "=", "detector=", "image=0")
                )
            )
        ],
        "--plot": lambda: [str(choose(rng, PICTURES))],
    }
    words = [
        "infer",
        *_image(rng, image, folder),
        "--out",
        str(choose(rng, OUTPUTS)),
        "--model",
        *_model(rng, folder),
    ]
    rarely = {"--variable", "--select", "--plot"}
    kept = {
        n: v
        for n, v in table.items()
        if n not in rarely or maybe(rng, 0.3 if image == "two.nc" else 0.12)
    }
    return words + _options(rng, kept, 0.7)


def _image(rng: Rng, name: str, folder: Path) -> list[str]:
    """The file of an image."""
    if name == "other":
        return [
            str(
                choose(rng, ("none.nc", "", ".", "file", "old.nc", str(store() / "run"), "x" * 300))
            )
        ]
    if name != "made":
        if maybe(rng, 0.2):
            content, _ = damaged(rng, (store() / name).read_bytes())
            (folder / name).write_bytes(content)
            return [name]
        return [str(store() / name)]
    values, dtype = cast(
        rng, micrograph(1, 0)[0][:40, :40] if maybe(rng, 0.5) else np.zeros((3, 0, 4))
    )
    if maybe(rng, 0.5) or dtype in ("O", "record", "g", "f2", "?", "m8[s]", "c8", "c16"):
        np.save(folder / "made.npy", values, allow_pickle=True)
        return ["made.npy"]
    dims = [("y", "x"), ("x", "y"), ("a", "b")][int(rng.integers(3))]
    dims = ("image", *dims)[-values.ndim :]
    xr.Dataset({"intensity": (dims, values)}).to_netcdf(folder / "made.nc")
    return ["made.nc"]


def _simulate(rng: Rng, folder: Path) -> list[str]:
    """The verb simulate."""
    table = {
        "--num-patches": _number(rng, "1", "4", "256"),
        "--seed": _number(rng, "0", "3"),
        "--start": _number(rng, "0", "2", "256"),
        "--prior": lambda: [str(choose(rng, ("reference", "tmd", "limit", "between", "x", "")))],
        "--context": lambda: _context(rng),
        "--num-pixels": _number(rng, "32", "64"),
        "--sampling": _number(rng, "0.2", "0.3"),
    }
    words = ["simulate", "--out", str(choose(rng, OUTPUTS))]
    if maybe(rng, 0.5):
        words.append("--micrograph")
    if maybe(rng, 0.1):
        words += ["--shard-size", str(choose(rng, ("256", "512", *NUMBERS)))]
    if maybe(rng, 0.1):
        words += ["--patches-per-image", str(choose(rng, ("1", "16", "3", *NUMBERS)))]
    if maybe(rng, 0.05):
        words += ["--workers", str(choose(rng, ("0", "1", "-1", "x", "1e20")))]
    if maybe(rng, 0.05):
        words.append(str(choose(rng, ("--verify", "--dry-run"))))
    if "--num-patches" not in words:
        words += ["--num-patches", *table.pop("--num-patches")()]
    return words + _options(rng, table, 0.35)


def _train(rng: Rng, folder: Path) -> list[str]:
    """The verb train; what follows training takes half a minute and is left out."""
    table = {
        "--prior": lambda: [str(choose(rng, ("reference", "tmd", "x")))],
        "--seed": _number(rng, "0", "3"),
        "--contrast": _number(rng, "1", "2", "16"),
        "--learning-rate": _number(rng, "1e-3", "5e-3"),
        "--checkpoint": lambda: [
            str(choose(rng, ("run", "file", "none/run", "old.nc", ".", "", str(store() / "run"))))
        ],
        "--threads": _number(rng, "1"),
        "--device": lambda: [
            str(choose(rng, ("cpu", "cuda", "foo", "", "cuda:99", "meta", "cpu:3", "mps")))
        ],
    }
    numbers = {
        "--num-patches": _number(rng, "16", "32"),
        "--batch-size": _number(rng, "16", "32"),
        "--workers": lambda: [str(choose(rng, ("0", "0", "0", "0", "-1", "x", "1.5")))],
        "--held-out": lambda: [str(choose(rng, ("0", "0", "0", "0", "-1", "x", "1.5", "nan")))],
        "--model": lambda: _model(rng, folder),
        "--out": lambda: [
            str(choose(rng, ("m.st", "m.safetensors", "none/m", ".", "file", "", "/proc/m")))
        ],
    }
    return [
        "train",
        *(w for n, value in numbers.items() for w in (n, *value())),
        *_options(rng, table, 0.25),
    ]


def _demo(rng: Rng, folder: Path) -> list[str]:
    """The verb demo, where it cannot run to its end."""
    out = str(choose(rng, ("file", "/proc/x", "file/x", "", "out")))
    if out in ("", "out"):
        return [
            "demo",
            "--out-dir",
            out,
            "--model",
            str(choose(rng, ("none", "file", ".", "old.nc"))),
        ]
    return [
        "demo",
        "--out-dir",
        out,
        *(["--model", *_model(rng, folder)] if maybe(rng, 0.3) else []),
    ]


def _other(rng: Rng, folder: Path) -> list[str]:
    """No verb, or none that is known."""
    lines = (
        [],
        ["--help"],
        ["infer", "--help"],
        ["simulate", "--help"],
        ["train", "--help"],
        ["x"],
        [""],
        ["-"],
        ["infer"],
        ["train"],
        ["simulate"],
        ["--out", "x"],
        ["infer", "infer"],
        ["--version"],
        ["demo", "x"],
        ["inf", "--help"],
    )
    return list(choose(rng, lines))


VERBS: dict[str, Callable[[Rng, Path], list[str]]] = {
    "infer": _infer, "simulate": _simulate, "train": _train, "demo": _demo, "other": _other,
}  # fmt: skip

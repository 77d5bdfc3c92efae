"""Options of the verbs, and checks of the files that they write."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..checks import shorten
from ..context import LIKELIHOODS
from .numerals import number, whole_number

__all__ = [
    "FOLDER_FLAGS",
    "OPTIONS",
    "RESULTS",
    "file_to_write",
    "picture_to_write",
    "report_to_write",
    "result_to_write",
    "stream_to_write",
]


def file_to_write(*suffixes: str) -> Callable[[str], Path]:
    """Return a check that a file can be written, before hours are spent on its content.

    Parameters
    ----------
    *suffixes : str
        Endings that are allowed, such as .nc; none allows all.

    Returns
    -------
    callable
        From str to Path; raises ArgumentTypeError for another ending or a folder that is absent
        or cannot be written.
    """

    def check(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(
                f"a file that ends in {_alternatives(suffixes)} was expected, got {shorten(text)}; "
                "change its ending"
            )
        try:
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            with suppress(FileNotFoundError):
                path.lstat()  # refuses a name that is too long
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(
                f"a file in a folder that can be written was expected, got {shorten(text)} "
                f"({getattr(error, 'strerror', None) or error}); name another one"
            ) from error
        return path

    return check


def _alternatives(words: Sequence[str]) -> str:
    """Words with commas, and "or" before the last."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def stream_to_write(text: str) -> Path:
    """Check that a .nc file, or a folder of such files, can be written.

    Parameters
    ----------
    text : str
        The file or folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written, or has the ending of another kind of file.
    """
    path = Path(text)
    # ".5" or ".2026" may be part of the name of a folder, ".csv" asks for another format
    if path.suffix[1:2].isalpha() and path.suffix.lower() != ".nc" and not path.is_dir():
        raise argparse.ArgumentTypeError(
            f"a file that ends in .nc, or a folder, was expected, got {shorten(text)}; change its "
            "ending"
        )
    if path.suffix.lower() == ".nc" or not path.exists():
        return file_to_write()(text)
    if path.is_dir():
        file_to_write()(str(path / "manifest.json"))
        return path
    raise argparse.ArgumentTypeError(
        f"a folder, or a file that ends in .nc, was expected, {text} is another file; name another"
    )


def result_to_write(text: str) -> Path:
    """Check that a result, or a folder of results, can be written.

    Parameters
    ----------
    text : str
        A file with an ending of ``RESULTS``, or a folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written, or has the ending of another kind of file.
    """
    path = Path(text)
    if path.suffix[1:2].isalpha() and not path.is_dir():
        return file_to_write(*RESULTS)(text)
    if path.is_dir() and path.suffix.lower() not in RESULTS:
        file_to_write()(str(path / "series.json"))
        return path
    return file_to_write()(text)


def picture_to_write(text: str) -> Path:
    """Check that a picture can be written, and in what format.

    Parameters
    ----------
    text : str
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written, or matplotlib does not know its ending.
    """
    # imported when used, since matplotlib is optional
    from ..plots import new_figure

    formats = new_figure((1, 1)).canvas.get_supported_filetypes()
    if Path(text).suffix[1:].lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"a picture such as result.png or result.pdf was expected, got {shorten(text)}; "
            f"known are {', '.join(formats)}"
        )
    return file_to_write()(text)


def report_to_write(text: str) -> Path:
    """Check that a report can be written.

    Parameters
    ----------
    text : str
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    ArgumentTypeError
        If it cannot be written or does not end in .html.
    ImportError
        Without matplotlib.
    """
    path = file_to_write(".html", ".htm")(text)
    # imported when used: --help needs none of it
    from ..report import check_report_name

    return check_report_name(path)


RESULTS = (".nc", ".csv", ".parquet", ".xyz")
"""Endings of files that a result can be written to: those of ``tables.FORMATS``."""

SUMMARIES = (".nc", ".csv")
"""Endings of files that the summary of a series can be written to."""

PRIORS = ("reference", "tmd", "limit", "between")

# Limits far above useful values, so that a typing error is refused at once instead of exhausting
# memory or processes. Beyond the limits of pixels and draws more than 4 GB are needed.
PATCHES = whole_number(1, 10**12)
POSITION = whole_number(0, 10**12)
SEED = whole_number(0, 2**32 - 1)
PROCESSES = whole_number(0, 1024)
THREADS = whole_number(1, 1024)
DRAWS = whole_number(1, 20_000)
PIXELS = whole_number(1, 4096)

CONTEXT = {"nargs": "+", "action": "extend", "metavar": "NAME=VALUE"}
MODEL = {"type": Path, "metavar": "FILE"}

JSON = "print one JSON object instead of the summary, and nothing else, on standard output"

SERIES_FLAGS = {"num_workers": "--workers", "scheduler": "--scheduler"}
"""Flags that belong to a folder of images, by the name of the argument."""

FOLDER_FLAGS = {
    "patches_per_image": "--patches-per-image",
    "shard_size": "--shard-size",
    "num_workers": "--workers",
    "verify": "--verify",
    "dry_run": "--dry-run",
}
"""Flags that belong to a folder of shards, by the name of the argument."""


def _simulate(add: Callable) -> None:
    """Options of simulate."""
    add("--num-patches", type=PATCHES, default=1000, metavar="N", help="number (default: 1000)")
    add("--seed", type=SEED, default=0, metavar="N", help="of the stream (default: 0)")
    where = "first patch, or which micrograph, of the stream (default: 0)"
    add("--start", type=POSITION, default=0, metavar="I", help=where)
    add("--prior", choices=PRIORS, default="reference", help="distribution (default: reference)")
    add("--context", **CONTEXT, help="values that are not drawn, as for infer")
    add("--micrograph", action="store_true", help="a whole image instead of patches")
    side = "pixels along each side of the micrograph (default: 512)"
    add("--num-pixels", type=PIXELS, default=512, metavar="N", help=side)
    pixel = "pixel size of the micrograph in Å (default: 0.2)"
    add("--sampling", type=number(0.02, 0.6), default=0.2, metavar="A", help=pixel)
    _folder(add)
    out = "netCDF file, or folder of them, to write; see above"
    add("--out", type=stream_to_write, required=True, metavar="FILE", help=out)


def _folder(add: Callable) -> None:
    """Options of simulate for a folder of shards; those not given are left to the library."""
    absent = {"default": argparse.SUPPRESS}
    counts = {
        "patches_per_image": (whole_number(1, 2**16), "patches that share a context (default: 1)"),
        "shard_size": (whole_number(1, 10**9), "patches per file of a folder (default: 65536)"),
        "num_workers": (PROCESSES, "processes that write a folder (default: one per core)"),
    }
    for name, (kind, text) in counts.items():
        add(FOLDER_FLAGS[name], type=kind, dest=name, metavar="N", **absent, help=text)
    check = "compare the checksums of the files that are there, not only their sizes"
    add("--verify", action="store_true", **absent, help=check)
    dry = "write nothing: print size and time, from a sample of some seconds"
    add("--dry-run", action="store_true", **absent, help=dry)


def _train(add: Callable) -> None:
    """Options of train."""
    length = "length of the stream, e.g. 10e6"
    add("--num-patches", type=PATCHES, required=True, metavar="N", help=length)
    add("--prior", choices=PRIORS, default="reference", help="distribution (default: reference)")
    add("--model", **MODEL, help="from train: the weights to start from (default: random ones)")
    seed = "of random weights and of the stream (default: 0)"
    add("--seed", type=SEED, default=0, metavar="N", help=seed)
    batch = "patches per step, a multiple of 16 (default: 512)"
    add("--batch-size", type=whole_number(1, 2**20), default=512, metavar="N", help=batch)
    contrast = "images that are the candidates for that of a patch in the loss (default: 16)"
    add("--contrast", type=whole_number(1, 2**16), default=16, metavar="N", help=contrast)
    rate = "peak of the schedule (default: 5e-3)"
    add("--learning-rate", type=number(1e-9, 1.0), default=5e-3, metavar="RATE", help=rate)
    state = "holds the state of the run; if it exists the run continues from it"
    add("--checkpoint", type=file_to_write(), metavar="FILE", help=state)
    add("--threads", type=THREADS, metavar="N", help="threads of torch (default: torch's choice)")
    workers = "processes that simulate (default: 1)"
    add("--workers", type=PROCESSES, default=1, metavar="N", help=workers)
    device = "device of the model, e.g. cuda; random numbers are drawn on the CPU (default: cpu)"
    add("--device", default="cpu", metavar="NAME", help=device)
    held_out = "patches for the calibration that follows, 0 for none (default: 9600)"
    add("--held-out", type=whole_number(0, 10**6), default=9600, metavar="N", help=held_out)
    out = file_to_write(".safetensors")
    add("--out", type=out, required=True, metavar="FILE", help="safetensors file to write")


def _infer(add: Callable) -> None:
    """Options of infer."""
    image = "file of a microscope, see above; several are the detectors of one scan; or a folder"
    add("image", type=Path, nargs="+", metavar="IMAGE", help=image)
    variable = "variable or image of the file, where several could be meant"
    add("--variable", metavar="NAME", help=variable)
    select = "one element of a dimension, e.g. detector=ADF1 or frame=0"
    add("--select", nargs="+", action="extend", metavar="DIM=VALUE", help=select)
    add("--context", **CONTEXT, help="what is known; see above")
    add("--model", **MODEL, help="from train (default: the reference model of the package)")
    draws = "draws of the latent context (default: 1000)"
    add("--num-draws", type=DRAWS, default=1000, metavar="N", help=draws)
    add("--seed", type=SEED, default=0, metavar="N", help="of the draws (default: 0)")
    likelihood = (
        "of a micrograph: network (patch by patch, seconds), simulator (all pixels, minutes), "
        "exact (as the simulator without approximations, up to 1000 sites, 30 min and more), or "
        "auto: the simulator from 3000 e/Å² on and up to 100 000 sites (default: auto)"
    )
    add("--likelihood", choices=LIKELIHOODS, default="auto", help=likelihood)
    out = (
        "files to write, by their ending: .nc the posterior, .csv or .parquet the sites, .xyz "
        "atoms; of a folder of images a folder"
    )
    several = {"nargs": "+", "action": "extend", "required": True}
    add("--out", type=result_to_write, metavar="FILE", help=out, **several)
    plot = "picture of sites and context to write, e.g. result.png"
    add("--plot", type=picture_to_write, metavar="FILE", help=plot)
    report = "page to write for people, result.html: image, sites, numbers, context, checks"
    add("--report", type=report_to_write, metavar="FILE", help=report)
    session = "prior of the instrument, from bayesctx summarise --session"
    add("--session", type=Path, metavar="FILE", help=session)
    _series(add)
    add("--json", action="store_true", help=JSON)


def _series(add: Callable) -> None:
    """Options of infer for a folder of images; those not given are left to the library."""
    workers = "images of a folder that are inferred at a time, a process each (default: 1)"
    add(SERIES_FLAGS["num_workers"], type=PROCESSES, dest="num_workers", metavar="N", help=workers)
    scheduler = "scheduler of Dask, whose workers infer the images of a folder"
    add(SERIES_FLAGS["scheduler"], metavar="ADDRESS", help=scheduler)


def _summarise(add: Callable) -> None:
    """Options of summarise."""
    add("results", type=Path, metavar="FOLDER", help="written by bayesctx infer FOLDER")
    out = "file to write: .nc all numbers, .csv the table of the classes"
    add("--out", type=file_to_write(*SUMMARIES), metavar="FILE", help=out)
    session = "prior of further images of the session to write, for bayesctx infer --session"
    add("--session", type=file_to_write(".json"), metavar="FILE", help=session)
    add("--json", action="store_true", help=JSON)


def _demo(add: Callable) -> None:
    """Options of demo."""
    folder = "folder of demo.nc and demo.png (default: this one)"
    add("--out-dir", type=Path, default=Path(), metavar="DIR", help=folder)
    add("--model", **MODEL, help="from train (default: the reference model of the package)")
    add("--json", action="store_true", help=JSON)


OPTIONS = {
    "simulate": _simulate,
    "train": _train,
    "infer": _infer,
    "summarise": _summarise,
    "demo": _demo,
}

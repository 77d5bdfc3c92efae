"""The command line: parser, help texts, and handling of broken pipes and Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Never, TextIO

from .. import __version__
from ..context import CONTEXT
from .arguments import OPTIONS

__all__ = ["HELP", "delayed_interrupt", "main", "tolerant_streams"]

UNITS = textwrap.fill(f"Variables and units: {', '.join(v.label for v in CONTEXT.values())}.", 98)

HELP = {
    "bayesctx": f"""Posteriors of defects in STEM images of doped two-dimensional materials:
known context is conditioned on, the rest of it is inferred.

{UNITS}

exit code:
  0 done, 1 input refused, 2 wrong usage, 3 done but for some images of a folder,
  130 interrupted

examples:
  bayesctx demo
  bayesctx infer scan.nc --context host=WSe2 beam_energy=80e3 --out result.nc
  bayesctx infer scans --context host=WSe2 --out results
  bayesctx infer --help""",
    "simulate": f"""Simulate labelled patches, or a labelled micrograph, and write them as netCDF.

Everything is drawn from a prior: in 'reference' beam energy and angles vary freely, 'tmd' has the
576 cases, 'limit' and 'between' are narrower, for benchmarks. Values of --context are not drawn.
Patch i of a seed is always the same, so that --start continues another run.

--out FILE.nc is one file. A name without an ending is a folder: shards of 65536 patches (150 MB)
and manifest.json, with the prior and the checksum of every shard. The same command resumes a run
that was killed. A run that the disk cannot hold is refused. --dry-run prints size and time.
bayesctx.archive.open_shards reads the folder.

{UNITS}

examples:
  bayesctx simulate --num-patches 1000 --seed 0 --out patches.nc
  bayesctx simulate --num-patches 1000 --start 1000 --prior tmd --context host=WSe2 --out more.nc
  bayesctx simulate --num-patches 55e6 --patches-per-image 16 --out patches --dry-run
  bayesctx simulate --micrograph --num-pixels 512 --context host=MoS2 dopant=V,Nb --out image.nc""",
    "train": """Train a model on simulated patches, calibrate it, and write it as safetensors.

--checkpoint names a file of the state of the run, from which the same command resumes a run that
was killed. The loss is minus the log probability of the true class, in nats, over random subsets
of known context. Then the model is calibrated and scored on held-out patches. Several processes
started by torchrun share every batch and take the same steps as one; --batch-size is the total.

examples:
  bayesctx train --num-patches 10e6 --out model.safetensors --checkpoint run.checkpoint
  bayesctx train --num-patches 1e6 --prior tmd --model model.safetensors --out tmd.safetensors
  bayesctx train --num-patches 55e6 --device cuda --workers 8 --batch-size 4096 --contrast 256 \\
    --out model.safetensors
  torchrun --nproc-per-node 2 --no-python bayesctx train --num-patches 10e6 --workers 0 \\
    --threads 1 --out model.safetensors""",
    "infer": f"""Infer the defects of an image and the unknown part of its context.

Prints a summary and writes the result. The image is a file of a microscope: EMD, DM3, DM4, SER,
TIFF, MRC, HSPY, ndata, netCDF, .npy, .npz, PNG. The context that it records is taken, and what is
stated by --context wins. DM3, DM4, SER and HSPY need pip install 'bayesctx[files]'. netCDF and .npy
may also hold patches of one image (patch, y, x) or independent images (image, y, x).
A context value is
  a number or a name   observed                   host=WSe2 beam_energy=80e3
  a comma list         one of these               dopant=Ti,V
  low..high            anywhere between the two   inner_collection_angle=60..110
  none or undoped      a crystal without dopant   dopant=undoped
  two with a plus      both are in the crystal    dopant=Ti+V
  a share              of the sites of its kind   abundance.V_X=0.03 abundance.Y_X=0
and other variables are inferred.

IMAGE may be a folder of micrographs: --out is then a folder too, with NAME.nc for every image NAME
and series.json, the record of what became of each. The same command resumes a run that was killed.
Images that cannot be read are reported and skipped; the exit code is then 3. --workers infers
several at a time, --scheduler takes the workers of Dask (pip install 'bayesctx[dask]'). The results
are summarised by bayesctx summarise, whose --session file is the prior of further images.

{UNITS}

examples:
  bayesctx infer scan.dm4 --context host=WSe2 --out result.nc --plot result.png
  bayesctx infer scan.emd --context host=WSe2 --out result.nc --report scan.html
  bayesctx infer HAADF.dm4 MAADF.dm4 --context host=WSe2 --out result.nc
  bayesctx infer image.nc --context host=WSe2 --out result.nc sites.csv atoms.xyz
  bayesctx infer scan.nc --select detector=ADF1 --context host=WSe2 dose=1e4..1e5 --out result.nc
  bayesctx infer image.npy --context sampling=0.2 dopant=Ti,V --num-draws 4000 --out result.nc
  bayesctx infer scans --context host=WSe2 --workers 4 --out results
  bayesctx infer scans --context host=WSe2 --scheduler tcp://127.0.0.1:8786 --out results
  bayesctx infer next.dm4 --context host=WSe2 --session session.json --out next.nc""",
    "summarise": """Summarise the results of a folder of micrographs.

Prints the concentrations of the defect classes, as shares of the sites of their kind: the mean over
images, the standard deviation between images, and what a further image may have, with 90 %
intervals. Their prior enters once, not once per image. --session writes what the images tell of the
instrument (beam energy and angles in [eV] and [mrad], by the simulator also the probe) as the prior
of further images of the same session, for bayesctx infer --session.

examples:
  bayesctx summarise results
  bayesctx summarise results --out series.csv --session session.json""",
    "demo": """Simulate a micrograph, infer its defects twice, and compare both with the truth.

WSe2 doped with Ti, on a detector (35-90 mrad) with which a pair of selenium atoms is brighter than
tungsten. The defects are inferred with the host alone, and with the recorded context;
entropies and log scores are in bits per site.
Writes demo.nc, the posterior with the context, and demo.png.

examples:
  bayesctx demo
  bayesctx demo --out-dir results --model model.safetensors""",
}


class _Tolerant:
    """A stream that is redirected to the null device once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._tolerance():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerance():
            self._stream.flush()

    @contextmanager
    def _tolerance(self) -> Iterator[None]:
        """Ignore a reader that is gone; other errors, such as a full disk, are raised once."""
        try:
            yield
        except OSError as error:
            # Python flushes the buffer when it ends, which must not fail again
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if not isinstance(error, BrokenPipeError):
                raise


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Ignore broken pipes of stdout and stderr while the context is open."""
    with ExitStack() as stack:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if stream is not None:  # closed by the shell
                tolerant = stack.enter_context(redirect(_Tolerant(stream)))
                stack.callback(_flush, tolerant)
        yield


def _flush(stream: _Tolerant) -> None:
    """Flush a stream, where that is possible."""
    with suppress(OSError):
        stream.flush()


@contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Raise a KeyboardInterrupt at the end of the context instead of within it.

    The import system calls functions whose exceptions Python prints and ignores. An interrupt in
    one of them would be ignored as well.
    """
    previous = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if previous is not signal.default_int_handler or not in_main_thread:
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if caught:
        raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 0, 1 for input that was refused, 2 for wrong usage, 3 if some images of a folder
        were refused, 130 for an interrupt.
    """
    told: list[str] = []
    with warnings.catch_warnings(), tolerant_streams():
        warnings.showwarning = lambda message, *_: told.append(_say("warning", message))
        try:
            arguments = _parser().parse_args(argv)
            with delayed_interrupt():
                # imported when a verb runs, since torch and Pyro take seconds and --help needs none
                from .verbs import VERBS
            answer = VERBS[arguments.verb](arguments)
            if answer is not None:
                is_json = getattr(arguments, "json", False)
                print(answer.as_json(told) if is_json else answer.text, flush=True)
                return answer.code
        except argparse.ArgumentTypeError as error:
            _say("error", error)
            return 2
        except (ValueError, TypeError, OSError, ImportError) as error:
            _say("error", error)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            _say("error", f"more memory was expected, there is too little ({error}); use less data")
            return 1
        except KeyboardInterrupt:
            print("bayesctx: interrupted", file=sys.stderr)
            return 130
    return 0


def _say(kind: str, message: object) -> str:
    """Print a message as one line, and return it."""
    line = " ".join(str(message).split())
    print(f"bayesctx: {kind}:", line, file=sys.stderr)
    return line


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch ran out of memory; other errors are faults of the package."""
    words = ("out of memory", "not enough memory", "allocate memory")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def _parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs; its errors are raised as ArgumentTypeError."""
    plain = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("bayesctx", description=HELP["bayesctx"], **plain)
    parser.add_argument("--version", action="version", version=f"bayesctx {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    parser.error = _refuse
    for name, add_options in OPTIONS.items():
        first_line = HELP[name].partition("\n")[0]
        verb = verbs.add_parser(name, description=HELP[name], help=first_line, **plain)
        verb.error = _refuse
        add_options(verb.add_argument)
    return parser


def _refuse(message: str) -> Never:
    """Raise for arguments that argparse does not accept."""
    raise argparse.ArgumentTypeError(f"{message}; see bayesctx --help")

"""main(): from the arguments of a command line to an exit code."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Never

from .. import __version__
from .help_texts import HELP
from .interrupts import delayed_interrupt
from .options import OPTIONS
from .streams import tolerant_streams

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 0, 1 for input that was refused, 2 for wrong usage, 130 for an interrupt.
    """
    with warnings.catch_warnings(), tolerant_streams():
        warnings.showwarning = lambda message, *_: _say("warning", message)
        try:
            arguments = _parser().parse_args(argv)
            with delayed_interrupt():
                # imported when a verb runs: torch and Pyro take seconds, which --help must not
                from .verbs import VERBS
            summary = VERBS[arguments.verb](arguments)
            if summary is not None:
                print(summary, flush=True)
        except argparse.ArgumentTypeError as error:
            _say("error", error)
            return 2
        except (ValueError, TypeError, OSError, ImportError) as error:
            _say("error", error)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            _say("error", f"the memory of this machine was not enough for this size ({error})")
            return 1
        except KeyboardInterrupt:
            print("bayesctx: interrupted", file=sys.stderr)
            return 130
    return 0


def _say(kind: str, message: object) -> None:
    """Print a message as one line."""
    print(f"bayesctx: {kind}:", " ".join(str(message).split()), file=sys.stderr)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether this is what Python or torch raises when memory runs out; other faults are ours."""
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
    """Answer arguments that argparse does not accept."""
    raise argparse.ArgumentTypeError(f"{message}; see bayesctx --help")

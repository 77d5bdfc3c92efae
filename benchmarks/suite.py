"""Run every benchmark that makes a page, one after another: `make bench` and `make bench-quick`.

What a commit has finished is recorded in runs/suite.jsonl, and is not run again without --again;
scripts that keep what they have finished do so in runs/suite/<commit>, so that a run that was
killed goes on and that of another commit begins anew. --quick runs a few with small arguments,
always, and writes their pages to runs/quick in place of docs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from report import ROOT, git
from rows import append_row, read_rows

PEERS = ("lightgbm", "sbi", "bayesflow", "atomai", "pyroved")
INPUTS = {
    "real": "labelled micrographs with detectors ADF1 and ADF2, netCDF",
    "reference": "the folder of a multislice reference",
    "vendor": "a folder of files that microscopes wrote",
    "before": "a checkout of the commit that house.py compares with",
}
"""What the repository does not hold: given by an option, or BAYESCTX_REAL and so on."""
READ_BY_NETWORK = (
    "--num-images 1 --num-pixels 144 --threads 1 --file {work}/micrographs.jsonl "
    "--readings 'network, everything known'"
)


@dataclass(frozen=True)
class Benchmark:
    """One script.

    Attributes
    ----------
    name : str
        Of the script, and of the page.
    minutes : float
        What it takes: measured, by the page or a log, or else estimated from parts of it.
    arguments : str
        Those of the page. ``{work}`` is a folder that this commit keeps.
    quick : str, optional
        Arguments of a run of seconds; without them there is none.
    seconds : float
        What that takes, measured beside other programs on two slow cores.
    takes : mapping of str to str
        Options of the script for inputs of the name, which it can do without.
    needs : tuple of str
        Inputs, or modules, without which it is skipped.
    measured : bool
        Whether the minutes are measured.
    """

    name: str
    minutes: float
    arguments: str = ""
    quick: str | None = None
    seconds: float = 0.0
    takes: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    measured: bool = False


BENCHMARKS = (
    Benchmark("additivity", 12, quick="--num-cases 4", seconds=22),
    Benchmark("attribution", 26.4, quick="--num-patches 2", seconds=27, measured=True),
    # the exact posteriors of its patches are in benchmarks/exact
    Benchmark("bayes_limit", 0.5, quick="--num-patches 256", seconds=11, measured=True),
    Benchmark("between", 30, "--num-patches 450 --num-open 60"),
    Benchmark("calibration", 60, quick="--num-patches 100 --num-runs 20", seconds=46),
    Benchmark("cases", 15, "--exact 24"),
    Benchmark("claims", 3, "--num-images 16", "--num-images 1 --num-pixels 128", 7),
    Benchmark("counts", 1, quick="--num-images 4", seconds=6),
    Benchmark("curves", 100, "--file {work}/curves.jsonl"),
    Benchmark("design", 30.5, measured=True),
    Benchmark("files", 1, quick="", seconds=4, takes={"vendor": "--vendor"}),
    Benchmark("fuzz", 15, "--workers 1", measured=True),
    Benchmark("house", 0.5, quick="", seconds=8, takes={"before": "--before"}, needs=("before",)),
    Benchmark("information", 1.3, "--num-patches 600", "--num-patches 16", 18, measured=True),
    Benchmark("kills", 20),
    # after real, the results of which it reads
    Benchmark("labels", 151, "--runs {work}/real", takes={"real": ""}, needs=("real",)),
    Benchmark("left_out", 15, "--num-patches 6e5 --folder {work}/left_out"),
    Benchmark("micrographs", 2400, "--file {work}/micrographs.jsonl", READ_BY_NETWORK, 8),
    Benchmark("misfit", 240, "--file {work}/misfit.jsonl"),
    Benchmark(
        "multislice", 43.7, "--truth {work}/multislice",
        takes={"reference": "--reference"}, needs=("abtem",), measured=True,
    ),
    Benchmark(
        "outliers", 5, "--num-patches 2048 --left-out 20000", "--num-patches 256 --left-out 0", 7,
        takes={"real": "--files"},
    ),
    Benchmark("paper", 21.7, measured=True),
    Benchmark("peers", 900, "--runs {work}/peers", needs=PEERS),
    Benchmark("pictures", 30, "--truth {work}/pictures", measured=True),
    Benchmark("real", 150, "--runs {work}/real", takes={"real": ""}, needs=("real",)),
    Benchmark("scaling", 40, "--folder {work}/scaling"),
    Benchmark("seeds", 0.7, quick="--num-patches 16", seconds=13),
    Benchmark(
        "series", 30,
        "archive workers sessions --num-images 300 --num-sessions 13 --work {work}/series",
        "archive --num-images 4 --work {work}/series", 35,
    ),
    Benchmark("simulated", 60, "--num-patches 6000"),
    Benchmark("simulation", 6),
    Benchmark("speed", 30),
    Benchmark("stream", 3, quick="--num-patches 19968", seconds=19),
    Benchmark(
        "wrong_context", 50, "--num-images 2 --file {work}/wrong_context.jsonl"
    ),
    Benchmark("yardstick", 3000, "--file {work}/yardstick.jsonl"),
)  # fmt: skip
"""By name; they are run from the shortest to the longest."""

LEFT_OUT = {"suite": "it runs the others"}
"""Scripts of benchmarks that make no page."""

OLD_PAGES = {"pixels": "made by a script that benchmarks/micrographs.py has replaced"}
"""Pages that no script makes any more, as they say themselves."""


def spoken(minutes: float) -> str:
    """A time for people."""
    if minutes < 1.5:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def state_of_checkout() -> str:
    """The commit, with a digest of what was changed since, but for the pages."""
    changes = git("diff", "HEAD", "--full-index", "--", "bayesctx", "benchmarks")
    digest = f"-{hashlib.sha1(changes.encode()).hexdigest()[:7]}" if changes else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + digest


def lacking(benchmark: Benchmark, given: Mapping[str, Sequence[str]] | None) -> str:
    """Why a benchmark cannot run; nothing if it can. Quick runs do without inputs: None."""
    for name in benchmark.needs:
        if name in INPUTS and given is None:
            continue
        if name in INPUTS and not given.get(name):
            return f"needs {INPUTS[name]}: --{name}, or BAYESCTX_{name.upper()}"
        if name not in INPUTS and importlib.util.find_spec(name) is None:
            return f"needs {name}, which is not installed: pip install 'bayesctx[bench]'"
    return ""


@dataclass(frozen=True)
class Suite:
    """What is run, and where.

    Attributes
    ----------
    scripts, runs : Path
        Folders of the scripts, and of what they leave.
    given : mapping of str to sequence of str
        Inputs by name.
    is_quick : bool
        Whether with small arguments, and pages beside the committed ones.
    state : callable
        Name of the commit.
    """

    scripts: Path = Path(__file__).parent
    runs: Path = ROOT / "runs"
    given: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_quick: bool = False
    state: Callable[[], str] = state_of_checkout

    @property
    def records(self) -> Path:
        """File of what was run."""
        return self.runs / "suite.jsonl"

    def key_of(self, benchmark: Benchmark) -> dict[str, object]:
        """What tells a run from others, but for the commit."""
        arguments = benchmark.quick if self.is_quick else benchmark.arguments
        return {"name": benchmark.name, "arguments": arguments, "quick": self.is_quick}

    def finished(self, benchmark: Benchmark, state: str | None = None) -> list[dict]:
        """Records of runs that went well, of one commit or of any."""
        key = self.key_of(benchmark) | ({"commit": state} if state else {})
        rows = [r for r in read_rows(self.records) if r.get("status") == 0]
        return [r for r in rows if {k: r.get(k) for k in key} == key]

    def minutes(self, benchmark: Benchmark) -> float:
        """How long it takes: as the last time, or as the list says."""
        rows = self.finished(benchmark)
        listed = benchmark.seconds / 60 if self.is_quick else benchmark.minutes
        return rows[-1]["seconds"] / 60 if rows else listed

    def command(self, benchmark: Benchmark, work: Path) -> list[str]:
        """The command of one script."""
        words = [sys.executable, str(self.scripts / f"{benchmark.name}.py")]
        words += [w.format(work=work) for w in shlex.split(self.key_of(benchmark)["arguments"])]
        if not self.is_quick:
            for name, option in benchmark.takes.items():
                if self.given.get(name):
                    words += [option] * bool(option) + list(self.given[name])
        return words

    def run(self, benchmark: Benchmark, *, again: bool = False) -> dict[str, object]:
        """Run one script and record how it ended."""
        state = self.state()
        work = self.runs / "quick" / "work" if self.is_quick else self.runs / "suite" / state
        if again:  # what it kept is of no use: results of other scripts stay
            for word in shlex.split(benchmark.arguments):
                if "{work}/" in word:
                    kept = Path(word.format(work=work))
                    shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
        if self.is_quick:
            environment["BAYESCTX_PAGES"] = str(self.runs / "quick")
            (self.runs / "quick" / "benchmarks").mkdir(parents=True, exist_ok=True)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(self.command(benchmark, work), cwd=ROOT, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        row = self.key_of(benchmark) | {"commit": state, "status": done.returncode}
        row |= {"seconds": round(time.perf_counter() - start, 1), "cpu": round(cpu, 1)}
        append_row(self.records, row)
        return row


def run_all(benchmarks: Sequence[Benchmark], suite: Suite, *, again: bool = False) -> int:
    """Run what can be run and is not finished; 1 if one of them failed."""
    if suite.is_quick:
        shutil.rmtree(suite.runs / "quick", ignore_errors=True)
    state, left = suite.state(), []
    for benchmark in sorted(benchmarks, key=suite.minutes):
        reason = lacking(benchmark, None if suite.is_quick else suite.given)
        if reason:
            say(f"left out: {benchmark.name} {reason}")
        elif not (again or suite.is_quick) and suite.finished(benchmark, state):
            say(f"finished by this commit already: {benchmark.name} (--again runs it once more)")
        else:
            left.append(benchmark)
    say(f"{len(left)} to run, some {spoken(sum(map(suite.minutes, left)))}")
    failed, start = [], time.perf_counter()
    for number, benchmark in enumerate(left):
        minutes, rest = suite.minutes(benchmark), sum(map(suite.minutes, left[number + 1 :]))
        say(
            f"{number + 1} of {len(left)}: {benchmark.name}, some {spoken(minutes)}, "
            f"then {spoken(rest)} more"
        )
        row = suite.run(benchmark, again=again)
        ended = "done" if row["status"] == 0 else f"FAILED with exit status {row['status']}"
        say(f"{benchmark.name}: {ended} in {row['seconds']:.0f} s ({row['cpu']:.0f} s of CPU)")
        if row["status"] != 0:
            failed.append(benchmark.name)
    say(f"all of it in {spoken((time.perf_counter() - start) / 60)}")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def say(text: str) -> None:
    """A line of the suite among those of the scripts."""
    print(f"bench: {text}", flush=True)


def list_all(benchmarks: Sequence[Benchmark], suite: Suite) -> None:
    """How long everything takes."""
    for benchmark in sorted(benchmarks, key=suite.minutes):
        known = suite.is_quick or benchmark.measured or suite.finished(benchmark)
        source = "measured" if known else "estimated"
        say(f"{benchmark.name}: {spoken(suite.minutes(benchmark))}, {source}")
    say(f"{len(benchmarks)} in all, some {spoken(sum(map(suite.minutes, benchmarks)))}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [b.name for b in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a few, with small arguments")
    parser.add_argument("--again", action="store_true", help="also what this commit has finished")
    parser.add_argument("--list", action="store_true", help="say how long each takes, run none")
    for name, what in INPUTS.items():
        default = os.environ.get(f"BAYESCTX_{name.upper()}", "").split(os.pathsep)
        parser.add_argument(f"--{name}", nargs="+", default=[d for d in default if d], help=what)
    found = parser.parse_args(arguments)
    given = {n: [str(Path(p).resolve()) for p in getattr(found, n)] for n in INPUTS}
    suite = Suite(given=given, is_quick=found.quick)
    chosen = [b for b in BENCHMARKS if b.name in found.only]
    if found.quick:
        chosen = [b for b in chosen if b.quick is not None]
    if found.list:
        list_all(chosen, suite)
        return 0
    try:
        return run_all(chosen, suite, again=found.again)
    except KeyboardInterrupt:
        say("stopped; the next run goes on")
        return 130


if __name__ == "__main__":
    sys.exit(main())

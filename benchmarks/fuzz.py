"""Hostile inputs: each must end in a posterior, or in one error that says what to do."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
from fuzzing.case import Outcome
from fuzzing.kinds import KINDS, run_input, shares
from fuzzing.pool import LIMIT, MEMORY, PATIENCE, run_inputs
from report import table, write

QUICK, ALL = 300, 10_000
Found = dict[tuple[str, int], Outcome]


def summarize(found: Found) -> str:
    """Table of the kinds: inputs, success, refused, faults, and the slowest."""
    rows = []
    for kind in (*KINDS, "all"):
        mine = [o for (k, _), o in found.items() if kind in (k, "all")]
        if not mine:
            continue
        verdicts = Counter(o.verdict for o in mine)
        faults = sum(o.is_fault for o in mine)
        times = sorted(o.seconds for o in mine)
        rows.append([
            kind, len(mine), verdicts["success"], verdicts["refused"], faults,
            f"{times[len(times) // 2]:.2f}", f"{times[-1]:.1f}",
        ])  # fmt: skip
    return table(
        ["kind", "inputs", "success", "refused", "faults", "median (s)", "slowest (s)"], rows
    )


def list_faults(found: Found, seed: int) -> str:
    """Faults by kind of fault and place, each with how to repeat one."""
    groups: dict[tuple[str, str], list[tuple[str, int, Outcome]]] = defaultdict(list)
    for (kind, index), outcome in found.items():
        if outcome.is_fault:
            groups[outcome.verdict, outcome.where].append((kind, index, outcome))
    rows = []
    for (verdict, where), members in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        kind, index, outcome = min(members, key=lambda m: len(m[2].text))
        message = " ".join(outcome.message.split())[:160].replace("|", "/")
        rows.append([verdict, where, len(members), message, f"--replay {kind} {seed} {index}"])
    return table(["fault", "where", "inputs", "message", "repeat"], rows) if rows else "No faults."


def replay(kind: str, seed: int, index: int) -> int:
    """Run one input and print everything about it."""
    outcome = run_input(kind, seed, index)
    print(f"{kind} {seed} {index}: {outcome.text}\n")
    print(
        f"{outcome.verdict} in {outcome.seconds:.2f} s  {outcome.where}\n{outcome.message}\n"
        f"{outcome.details}"
    )
    return int(outcome.is_fault)


def run(num: int, seed: int, kind: str | None, num_workers: int, log: Path | None) -> Found:
    """Run all inputs, and say on standard error how far they are."""
    found: Found = {}
    began, said = time.monotonic(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        note = lambda text: print(text, file=sys.stderr)  # noqa: E731
        for (name, index), outcome in run_inputs(
            shares(num, kind), seed, num_workers, Path(folder), log=note
        ):
            found[name, index] = outcome
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps({"kind": name, "index": index} | vars(outcome)) + "\n")
            if time.monotonic() - said > 30:
                said = time.monotonic()
                faults = sum(o.is_fault for o in found.values())
                print(
                    f"{len(found)} inputs, {faults} faults, {said - began:.0f} s", file=sys.stderr
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=ALL, help=f"inputs (default: {ALL})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} inputs, and no page")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (default: 0)")
    parser.add_argument("--kind", choices=KINDS, help="default: all kinds")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--log", type=Path, help="file to which every outcome is added as a line of JSON"
    )
    parser.add_argument(
        "--replay", nargs=3, metavar=("KIND", "SEED", "INDEX"), help="run one input alone"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.replay:
        kind, seed, index = arguments.replay
        return replay(kind, int(seed), int(index))
    num = QUICK if arguments.quick else arguments.num
    began = time.monotonic()
    found = run(num, arguments.seed, arguments.kind, arguments.workers, arguments.log)
    minutes = (time.monotonic() - began) / 60
    body = f"{summarize(found)}\n\n{list_faults(found, arguments.seed)}"
    if num == ALL and arguments.kind is None:
        write(
            "fuzz",
            TITLE,
            f"{TEXT}\n\n{body}\n\n{minutes:.0f} minutes in {arguments.workers} processes.",
            arguments.seed,
        )
    else:
        print(body)
    return int(any(o.is_fault for o in found.values()))


TITLE = "Inputs of every kind"
TEXT = f"""Every input must end in success, with finite and normalised posteriors, or in one
`ValueError`, `TypeError` or `OSError` of one line that says what was expected, what came and what
to do. Everything else is a fault: another exception, a traceback of a command, more than
{LIMIT:.0f} s of the CPU or {PATIENCE * LIMIT:.0f} s by the clock, more than
{MEMORY / 2**30:.0f} GiB of address space, a process that dies, a warning that is not of the
package, damage of a file that goes unnoticed, a temporary file left behind, or a global setting
that is not as it was: generators and default type of torch, settings and parameters of Pyro,
filters of warnings, threads, environment, working directory. Inputs called equivalent are pairs of
images that say the same in another unit, type, layout or container, or differ only under a mask:
their probabilities must be equal within 0.01."""


if __name__ == "__main__":
    sys.exit(main())

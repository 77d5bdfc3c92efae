"""The list of all benchmarks, and the program that runs them, with scripts made for the test."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import suite
from suite import Benchmark, Suite

ROOT = Path(__file__).parents[1]
# each says what it was given, in a file of its own
SCRIPT = """
import os, sys
with open({out!r}, "a") as out:
    print(*sys.argv[1:], os.environ.get("BAYESCTX_PAGES", ""), file=out)
sys.exit({status})
"""


@pytest.fixture
def fake(tmp_path):
    """Two scripts that end well and one that fails, and what runs them."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name, status in (("first", 0), ("second", 0), ("broken", 3)):
        text = SCRIPT.format(out=str(tmp_path / name), status=status)
        (scripts / f"{name}.py").write_text(text)
    return Suite(scripts=scripts, runs=tmp_path / "runs", state=lambda: "abc")


LISTED = [
    Benchmark("second", 3, "--file {work}/second", quick="--num 1"),
    Benchmark("broken", 2),
    Benchmark("first", 1, takes={"real": "--files"}),
]


def calls_of(fake, name):
    """Arguments of the calls of a script."""
    file = fake.runs.parent / name
    return file.read_text().splitlines() if file.exists() else []


def test_every_script_is_listed_or_left_out_for_a_reason():
    scripts = (ROOT / "benchmarks").glob("*.py")
    programs = {p.stem for p in scripts if "\ndef main(" in p.read_text()}
    listed = [b.name for b in suite.BENCHMARKS]
    assert len(set(listed)) == len(listed)
    assert set(listed) | set(suite.LEFT_OUT) == programs
    assert all(suite.LEFT_OUT.values())


def test_every_page_is_made_by_a_listed_script():
    pages = {p.stem for p in (ROOT / "docs" / "benchmarks").glob("*.md")}
    listed = {b.name for b in suite.BENCHMARKS}
    assert pages - listed == set(suite.OLD_PAGES)


def test_scripts_know_the_options_that_they_are_given():
    for benchmark in suite.BENCHMARKS:
        text = (ROOT / "benchmarks" / f"{benchmark.name}.py").read_text()
        words = [benchmark.arguments, benchmark.quick or "", *benchmark.takes.values()]
        for option in re.findall(r"--[\w-]+", " ".join(words)):
            assert f'"{option}"' in text, (benchmark.name, option)


def test_the_quick_ones_take_less_than_five_minutes():
    quick = [b for b in suite.BENCHMARKS if b.quick is not None]
    assert len(quick) >= 10
    assert all(b.seconds > 0 for b in quick)
    assert sum(b.seconds for b in quick) < 270


def test_a_failure_does_not_end_the_others_and_is_reported(fake, capsys):
    assert suite.run_all(LISTED, fake) == 1
    said = capsys.readouterr().out
    assert said.index("1 of 3: first") < said.index("2 of 3: broken") < said.index("3 of 3: second")
    assert "first, some 60 s, then 5 min more" in said
    assert "broken: FAILED with exit status 3" in said
    assert said.rstrip().endswith("failed: broken")
    assert [c.strip() for c in calls_of(fake, "first")] == [""]
    assert calls_of(fake, "second")[0].startswith(f"--file {fake.runs / 'suite' / 'abc'}/second")


def test_a_run_goes_on_where_it_ended(fake, capsys):
    suite.run_all(LISTED, fake)
    rows = [json.loads(line) for line in fake.records.read_text().splitlines()]
    assert [(r["name"], r["status"], r["commit"]) for r in rows] == [
        ("first", 0, "abc"),
        ("broken", 3, "abc"),
        ("second", 0, "abc"),
    ]
    with fake.records.open("a") as file:
        file.write('{"name": "br')  # as a kill leaves it
    capsys.readouterr()
    assert suite.run_all(LISTED, fake) == 1
    said = capsys.readouterr().out
    assert "finished by this commit already: first" in said
    assert "1 to run, some 2 min" in said
    assert [len(calls_of(fake, n)) for n in ("first", "second", "broken")] == [1, 1, 2]
    assert [r["name"] for r in suite.read_rows(fake.records)] == [
        *(r["name"] for r in rows),
        "broken",
    ]


def test_another_commit_and_again_begin_anew(fake):
    suite.run_all(LISTED[2:], fake)
    suite.run_all(LISTED[2:], fake, again=True)
    other = Suite(scripts=fake.scripts, runs=fake.runs, state=lambda: "abd")
    suite.run_all(LISTED[2:], other)
    suite.run_all(LISTED[2:], other)
    assert len(calls_of(fake, "first")) == 3


def test_again_forgets_what_a_script_has_kept(fake):
    kept = fake.runs / "suite" / "abc" / "second"
    kept.parent.mkdir(parents=True)
    kept.write_text("rows")
    suite.run_all(LISTED[:1], fake)
    assert kept.exists()
    suite.run_all(LISTED[:1], fake, again=True)
    assert not kept.exists()


def test_a_time_is_that_of_the_last_run(fake):
    assert fake.minutes(LISTED[0]) == 3
    suite.append_row(fake.records, fake.key_of(LISTED[0]) | {"status": 0, "seconds": 30.0})
    assert fake.minutes(LISTED[0]) == 0.5
    assert [suite.spoken(m) for m in (0.5, 12.4, 240)] == ["30 s", "12 min", "4.0 h"]


def test_quick_runs_leave_the_pages_and_are_always_run(fake):
    quick = Suite(scripts=fake.scripts, runs=fake.runs, state=fake.state, is_quick=True)
    for _ in range(2):
        assert suite.run_all(LISTED[:1], quick) == 0
    assert calls_of(fake, "second") == [f"--num 1 {fake.runs / 'quick'}"] * 2


def test_what_cannot_run_is_left_out_with_a_reason(fake, capsys):
    needs = [Benchmark("first", 1, needs=("real",)), Benchmark("second", 1, needs=("no_module",))]
    assert suite.run_all(needs, fake) == 0
    said = capsys.readouterr().out
    assert "first needs labelled micrographs" in said
    assert "--real, or BAYESCTX_REAL" in said
    assert "second needs no_module, which is not installed" in said
    assert calls_of(fake, "first") == []
    given = Suite(fake.scripts, fake.runs, {"real": ["a.nc", "b.nc"]}, state=fake.state)
    suite.run_all(LISTED[2:], given)
    assert calls_of(fake, "first")[0].strip() == "--files a.nc b.nc"


def test_the_command_says_how_long_everything_takes():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "suite.py"), "--list", "--only", "paper"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bench: paper: " in done.stdout
    assert "1 in all, some " in done.stdout

"""Work in processes: order, errors, what is counted, and an interrupt."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import torch
from crystals import noisy_crystal

from bayesctx.parallel import side_by_side, single_threads
from bayesctx.scan.chain import Mode, sample_worlds
from bayesctx.scan.moves import linearise_jointly


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where a shell has started this in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def within_a_minute(is_so):
    """Whether something is so, or will be within a minute."""
    end = time.monotonic() + 60.0
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    return is_so()


def exist(paths):
    """Whether files are there, or will be within a minute."""
    return within_a_minute(lambda: all(p.exists() for p in paths))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_work_keeps_its_order_and_has_no_gradients(num_workers):
    shift = torch.ones(2)
    found = side_by_side(lambda k: (k * shift, torch.is_grad_enabled()), range(7), num_workers)
    assert [v.tolist() for v, _ in found] == [[k, k] for k in range(7)]
    assert not any(is_enabled for _, is_enabled in found)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_is_that_of_the_function_and_work_goes_on(num_workers):
    def invert(k):
        return float(torch.linalg.inv(torch.tensor([[float(k)]])))

    with pytest.raises(torch.linalg.LinAlgError):
        side_by_side(invert, range(8), num_workers)
    assert side_by_side(invert, [1, 2], num_workers) == [1.0, 0.5]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_is_counted_arrives_here(num_workers):
    counted = []

    def work(k, tick):
        for _ in range(k):
            tick()
        return k

    assert side_by_side(work, range(5), num_workers, lambda: counted.append(0)) == [*range(5)]
    assert len(counted) == 10


def test_what_is_counted_arrives_before_the_end(tmp_path):
    def work(_, tick):
        tick()
        return exist([tmp_path / "heard"])

    assert side_by_side(work, range(2), 2, (tmp_path / "heard").touch) == [True, True]


def test_work_is_done_by_several_processes_of_one_thread(tmp_path):
    def meet(k):
        (tmp_path / str(k)).touch()
        return exist([tmp_path / "0", tmp_path / "1"]), os.getpid(), torch.get_num_threads()

    found = side_by_side(meet, range(2), 2)
    assert [(met, threads) for met, _, threads in found] == [(True, 1)] * 2
    assert os.getpid() not in [process for _, process, _ in found]
    # one value needs no other process
    assert side_by_side(lambda _: os.getpid(), [0], 2) == [os.getpid()]


def test_worlds_are_drawn_as_in_one_process():
    scan, world, view = noisy_crystal()
    scan = replace(scan, log_dose=lambda dose: -dose)
    near = linearise_jointly(scan, world, view, exactly=False)

    def draw(seed):
        return next(sample_worlds(scan, Mode(world, near, 0.0, (0.0,) * 3), seed))

    here, there = (side_by_side(draw, range(2), num_workers) for num_workers in (1, 2))
    assert here[0].log_prob != here[1].log_prob
    for own, sent in zip(here, there, strict=True):
        assert (own.values, own.dose, own.log_prob) == (sent.values, sent.dose, sent.log_prob)
        assert own.world.z.equal(sent.world.z)
        assert own.world.shift.equal(sent.world.shift)
        assert own.probability.equal(sent.probability)


def test_an_interrupt_ends_what_is_running(interruptible):
    side_by_side(abs, range(2), 2)
    Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(time.sleep, [600.0, 600.0], 2)
    assert side_by_side(abs, [-1, 2], 2) == [1, 2]


PROGRAM = """
import os, sys, time
from bayesctx.parallel import side_by_side
def work(k):
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(600)
side_by_side(work, range(2), 2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a process does not see its parent end")
def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    """Of a script without a guard of its main part."""
    script, folder = tmp_path / "script.py", tmp_path / "ids"
    script.write_text(PROGRAM)
    folder.mkdir()
    program = subprocess.Popen([sys.executable, script, folder])
    assert within_a_minute(lambda: len(list(folder.iterdir())) == 2)
    program.kill()
    program.wait()
    assert within_a_minute(lambda: not any(is_running(p.name) for p in folder.iterdir()))


def is_running(process):
    """Whether there is a process of a number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    # one that has ended, but whose parent has not asked for it
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_daemon_does_the_work_itself(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert side_by_side(lambda _: os.getpid(), range(2), 2) == [os.getpid()] * 2


def test_threads_of_torch_are_restored():
    before = torch.get_num_threads()
    with single_threads() as num:
        assert num == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before

"""Checkpoints: a run goes on from one as if nothing had happened, and every damage is noticed."""

import hashlib

import numpy as np
import pytest
import torch

from bayesctx import DefectModel, reference_prior, tmd_prior
from bayesctx.training import checkpoint
from bayesctx.training.checkpoint import MAGIC, resume, write_checkpoint

REFUSED = (
    r"a checkpoint of a training run was expected, .* is truncated or foreign \(.*\); remove it"
)
RUN = {"seed": 0, "start": {"seed": 1}}
HISTORY = [(1.5, 2.5, 3.5), (0.5, 0.25, 0.125)]


def begin(prior=None, hidden=2):
    """A tiny model with the state of an optimizer after a step."""
    sizes = {"num_features": 1, "num_components": 1, "hidden": hidden, "width": 1}
    model = DefectModel(prior or reference_prior(), **sizes)
    parameters = [*model.encoder.parameters(), *model.likelihood.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=10)
    return model, optimizer, schedule


def step(model, optimizer, schedule):
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.cos(parameter.detach())
    optimizer.step()
    schedule.step()
    return model.state_dict()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.checkpoint"
    state = begin()
    step(*state)
    write_checkpoint(path, *state, RUN, HISTORY)
    return path


def test_a_run_goes_on_from_its_state(written):
    through, resumed = begin(), begin()
    step(*through)
    assert resume(written, *resumed, RUN) == HISTORY
    first, second = step(*through), step(*resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed[2].get_last_lr() == through[2].get_last_lr()


def test_the_same_state_is_the_same_file(written, tmp_path):
    state = begin()
    step(*state)
    write_checkpoint(tmp_path / "other.name", *state, RUN, HISTORY)
    assert (tmp_path / "other.name").read_bytes() == written.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["other.name"]


def test_flipped_bits_are_noticed(written, tmp_path):
    """All bits of the magic and of the last byte, some of the checksum and of the rest."""
    content, path, state = written.read_bytes(), tmp_path / "flipped", begin()
    rng = np.random.default_rng(0)
    flips = [(i, b) for i in (*range(len(MAGIC)), len(content) - 1) for b in range(8)]
    flips += [(i, int(rng.integers(8))) for i in range(len(MAGIC), len(MAGIC) + 40)]
    flips += [(int(i), int(rng.integers(8))) for i in rng.integers(len(content), size=500)]
    for place, bit in flips:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << bit
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=REFUSED):
            resume(path, *state, RUN)


def test_truncated_empty_and_foreign_files_are_refused(written, tmp_path):
    content, path, state = written.read_bytes(), tmp_path / "spoilt", begin()
    torch.save({"model": {}}, tmp_path / "plain")
    others = [content[:n] for n in (0, 1, len(MAGIC), len(MAGIC) + 31, len(MAGIC) + 32, -1)]
    for part in (*others, content + b"\0", b"no checkpoint", (tmp_path / "plain").read_bytes()):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=REFUSED):
            resume(path, *state, RUN)
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "nowhere", *state, RUN)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "content",
    [
        {"run": "{}"},
        {"run": "{}", "history": torch.ones(1)},
        {"run": "[]"},
        [1],
        {"run": 3},
        Harmful(),
    ],
)
def test_a_right_checksum_of_something_else_does_not_help(content, tmp_path, capsys):
    torch.save(content, tmp_path / "payload")
    payload = (tmp_path / "payload").read_bytes()
    (tmp_path / "made").write_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)
    with pytest.raises(ValueError, match=REFUSED):
        resume(tmp_path / "made", *begin(), RUN)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("state", "run", "differing"),
    [
        ({}, RUN | {"seed": 1}, "seed"),
        ({}, {"seed": 0}, "start"),
        ({"prior": tmd_prior()}, RUN, "prior"),
        ({"hidden": 3}, RUN, "sizes"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(state, run, differing, written):
    with pytest.raises(ValueError, match=f"of one with another {differing}; name another file"):
        resume(written, *begin(**state), run)


@pytest.mark.parametrize("error", [RuntimeError("tensor"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(error, written, tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.write_bytes(written.read_bytes())

    class Failing:
        def __init__(self, *_):
            raise error

    monkeypatch.setattr(checkpoint.hashlib, "sha256", Failing)
    with pytest.raises(type(error)):
        write_checkpoint(path, *begin(), RUN, HISTORY)
    assert path.read_bytes() == written.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]

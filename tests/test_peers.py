"""Budget, resumption, scores and data of benchmarks/peers.py; its results are not tested."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import peers
from peers_methods import encoding, ensemble, networks, own, registry, scoring, stream, trees
from peers_methods.budget import Clock

from bayesctx import DEFECTS
from bayesctx.metrics import log_score, reliability


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stream with files of two blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCKS_PER_FILE", 2)
        yield tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def patches(folder):
    return stream.Stream(folder, stream.SEEDS["training"]).load(512)


class Hand:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_budget_counts_own_seconds_charges_and_those_before_a_kill(tmp_path):
    hand = Hand()
    clock = Clock(100.0, tmp_path / "clock", hand)
    hand.now, clock.charged = 30.0, 20.0
    assert (clock.own, clock.spent, clock.left, clock.share) == (30.0, 50.0, 50.0, 0.5)
    clock.save()
    hand.now = 1000.0
    assert (clock.left, clock.share) == (0.0, 1.0)
    resumed = Clock(100.0, tmp_path / "clock", hand)
    hand.now = 1005.0
    assert (resumed.own, resumed.spent) == (35.0, 55.0)


def test_cpu_seconds_hold_those_of_children():
    clock = Clock(10.0)
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert clock.own > 0.29


def test_every_patch_is_charged_once_with_what_it_cost(folder, patches):
    clock = Clock(100.0, read=Hand())
    source = stream.Stream(folder, stream.SEEDS["training"], clock)
    with np.load(folder / f"{stream.SEEDS['training']}-0.npz") as file:
        cost = file["cost"]
    assert (cost > 0).all()
    source.load(256)
    first = clock.charged
    source.load(200)
    again = clock.charged
    source.load(512)
    # the seconds of reading are taken off, which the clock of this test does not count
    assert first == pytest.approx(cost[0], abs=0.2)
    assert again == pytest.approx(first, abs=0.2)
    assert clock.charged == pytest.approx(cost.sum(), abs=0.5)
    assert len(patches) == 512


def test_streams_are_disjoint_and_the_same_for_all(folder, patches):
    """No held-out patch is one of the training, of the validation or of fit_width."""
    seeds = [*stream.SEEDS.values(), stream.SEEDS["training"] + 1]
    assert len(set(seeds)) == len(seeds)
    held, data = stream.single_patches(64, stream.SEEDS["held out"], folder)
    again, _ = stream.single_patches(64, stream.SEEDS["held out"], folder)
    assert np.array_equal(held.image, again.image)
    seen = {p.tobytes() for p in patches.image}
    assert len(seen) == 512
    assert not seen & {p.tobytes() for p in held.image}
    assert [DEFECTS[d] for d in held.defect] == data.defect.values.tolist()
    assert held.image.astype(float).std((1, 2)) == pytest.approx(1.0, abs=1e-3)
    assert held.context[:, 0] == pytest.approx(data.beam_energy.values)


def test_what_is_not_known_does_not_reach_a_method(patches):
    some = patches.take(slice(0, 64))
    other = patches.take(slice(256, 320))
    changed = stream.Labelled(**vars(some) | {"host": other.host, "context": other.context})
    known = [n for n in stream.KNOWN if n == "dopant"]
    torch.manual_seed(0)
    for context in ("none", "mean", "mask"):
        net = networks.Classifier(context, width=4)
        net.standardise(patches)
        assert np.array_equal(net.predict(some, known), net.predict(changed, known))
        same = np.array_equal(net.predict(some, stream.KNOWN), net.predict(changed, stream.KNOWN))
        assert same == (context == "none")
    told = np.broadcast_to(encoding.subset(known), (64, 8))
    table = trees._table(some, told)
    assert np.isnan(table[:, -8:]).all(0).tolist() == [n != "dopant" for n in stream.KNOWN]


def test_zernike_moments_are_invariant_under_quarter_turns(patches):
    image = patches.image[:32].astype(np.float32)
    found = trees.zernike_moments(image)
    turned = trees.zernike_moments(np.rot90(image, axes=(1, 2)))
    num = len(trees._basis(32)[1])
    assert found[:, :num] == pytest.approx(turned[:, :num], abs=1e-5)
    assert found.std(0).min() > 0


def test_scores_are_those_of_the_package():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(13, 0.3), 400).astype(np.float32)
    truth = np.array([rng.choice(13, p=q / q.sum()) for q in p.astype(float)])
    value, error = scoring.scores(p, truth)
    array = xr.DataArray(p, dims=("image", "defect_class"), coords={"defect_class": list(DEFECTS)})
    of_package = reliability(array, truth)
    right = p.argmax(-1) == truth
    balanced = np.mean([right[truth == c].mean() for c in np.unique(truth)])
    expected = [
        right.mean(),
        balanced,
        -(p * np.log2(p.clip(1e-38))).sum(-1).mean(),
        float(log_score(array, truth).mean()) / np.log(2),
        float(of_package.expected_calibration_error),
    ]
    assert value == pytest.approx(expected, rel=1e-5)
    per_patch = log_score(array, truth).values / np.log(2)
    assert error[3] == pytest.approx(per_patch.std() / 20, rel=0.15)
    difference, of_difference = scoring.compare(p, p, truth)
    assert not difference.any()
    assert not of_difference.any()


def test_calibration_error_of_a_perfect_posterior_is_that_of_the_bins():
    """One bin with n patches right with probability 0.75: sqrt(2 p (1 - p) / (pi n))."""
    p = np.tile([0.75, 0.25], (400, 1))
    mean, deviation = scoring.perfect_calibration_error(p, num_draws=400)
    expected = (2 * 0.75 * 0.25 / (np.pi * 400)) ** 0.5
    assert mean == pytest.approx(expected, abs=4 * deviation / 20)


def test_temperature_is_found_again():
    """Of logits that are twice as large as those the classes were drawn from."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20_000, 13))
    p = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))
    truth = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    # Fisher information of log T per patch is about 1 here: an error of 0.01
    assert ensemble.temperature_of([2 * logits, 2 * logits], truth) == pytest.approx(2, abs=0.1)


def test_a_killed_network_goes_on_with_its_patches_and_its_budget(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(networks, "SMALLEST", 512)
    monkeypatch.setattr(networks, "TRIAL", 1)
    monkeypatch.setattr(networks, "CHECKPOINT", 0.0)
    hand = Hand()
    steps, original = [], networks._step

    def counted(*args):
        steps.append(args[-1])
        if len(steps) == 6:
            raise KeyboardInterrupt
        hand.now += 1.0
        return original(*args)

    monkeypatch.setattr(networks, "_step", counted)

    def fit():
        clock = Clock(20.0, tmp_path / "clock", hand)
        torch.manual_seed(0)
        net = networks.Classifier("mask", width=4)
        source = stream.Stream(folder, stream.SEEDS["training"], clock)
        monkeypatch.setattr(stream.Stream, "cost", lambda self: 0.0)
        num = networks.fit_network(
            net, source, clock, learning_rate=1e-3, epochs=5, seed=0,
            checkpoint=tmp_path / "net",
        )  # fmt: skip
        return num, clock

    with pytest.raises(KeyboardInterrupt):
        fit()
    first = list(steps)
    num, clock = fit()
    assert num % 256 == 0
    assert steps[len(first) :][0] == first[-1]  # the step that was killed is the next one
    assert clock.spent >= 20.0
    assert sorted(set(steps[1:])) == list(range(max(steps) + 1))


class Fixed:
    """A method that always gives the same probabilities."""

    def predict(self, patches, known):
        return np.zeros((len(patches), 13)) + len(known) * np.eye(13)[patches.defect]


def test_a_unit_is_run_once_and_its_row_is_kept(tmp_path, monkeypatch, capsys):
    calls = []

    def fit(source, clock, seed, checkpoint, **settings):
        calls.append((seed, settings))
        return Fixed(), 256

    monkeypatch.setitem(registry.METHODS, "fixed", registry.Method("fixed", fit, [{"a": 1}]))
    monkeypatch.setattr(peers, "HELD_OUT", 40)
    for _ in range(2):
        row = peers.run_unit("fixed", 60.0, 3, tmp_path, {"a": 1}, is_trial=False)
    assert calls == [(3, {"a": 1})]
    assert row["num_patches"] == 256
    assert row["scores"]["everything"]["log_score"] > row["scores"]["nothing"]["log_score"]
    # a row that was cut off by a kill is not read, and does not spoil the next one
    path = tmp_path / "peers.jsonl"
    path.write_text(path.read_text() + '{"method": "fix')
    peers.run_unit("fixed", 60.0, 4, tmp_path, {"a": 1}, is_trial=False)
    assert [r["seed"] for r in peers.read_rows(path)] == [3, 4]
    assert [c[0] for c in calls] == [3, 4]
    with np.load(tmp_path / "peers" / "fixed-60-4-final.npz") as found:
        assert set(found) == {*peers.SUBSETS, "truth"}
        assert found["everything"].sum(-1) == pytest.approx(1.0, abs=1e-5)


def test_the_grid_takes_the_best_on_the_validation_stream(tmp_path, monkeypatch, capsys):
    class Scaled(Fixed):
        def __init__(self, scale):
            self.scale = scale

        def predict(self, patches, known):
            return self.scale * np.eye(13)[patches.defect]

    def fit(source, clock, seed, checkpoint, scale):
        assert clock.budget == 60.0
        assert not checkpoint.exists()
        checkpoint.write_text("begun")
        return Scaled(scale), 0

    grid = [{"scale": s} for s in (0.5, 2.5, 1.5)]
    monkeypatch.setitem(registry.METHODS, "scaled", registry.Method("scaled", fit, grid))
    monkeypatch.setattr(peers, "VALIDATION", 40)
    assert peers.tuned("scaled", 600.0, tmp_path) == {"scale": 2.5}
    assert not list((tmp_path / "peers").iterdir())


@pytest.mark.parametrize("name", [n for n, m in registry.METHODS.items() if m.is_trained])
def test_methods_can_be_told_whether_they_are_installed(name):
    assert registry.is_installed(registry.METHODS[name]) in (True, False)
    method = registry.METHODS[name]
    assert 1 <= len(registry.METHODS[method.tuned_as or name].grid) <= 5


def test_masks_cover_nothing_and_everything():
    known = encoding.draw_known(np.random.default_rng(0), 4000)
    assert known.shape == (4000, 8)
    # 0.1 + 0.9 of the integral of (1 - s)^8 = 0.2
    assert (~known.any(1)).mean() == pytest.approx(0.2, abs=4 * (0.16 / 4000) ** 0.5)
    assert known.mean() == pytest.approx(0.45, abs=0.02)
    assert json.dumps(encoding.COLUMNS.tolist())
    assert own.FOR_TRAINING < 1

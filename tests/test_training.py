import multiprocessing
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import distributed

from bayesctx import (
    DefectModel,
    calibrate,
    checks,
    reference_prior,
    score_model,
    tmd_prior,
    train,
)
from bayesctx.prior import CONTINUOUS
from bayesctx.simulation import PatchStream, draw_block
from bayesctx.training import ask, conditional_log_score, fit, fit_width
from bayesctx.training.objective import DISCRETE, log_scores_among_images


@dataclass(frozen=True)
class Images:
    host: torch.Tensor


def small(prior=None):
    return DefectModel(
        prior or reference_prior(), num_features=6, num_components=2, hidden=16, width=4
    )


@pytest.fixture(scope="module")
def batch():
    return next(
        iter(PatchStream(reference_prior(), seed=0, stop=128, batch_size=128, patches_per_image=16))
    )


EVERY = frozenset((*DISCRETE, *CONTINUOUS))


@pytest.mark.parametrize(
    "known",
    [
        frozenset(),
        frozenset(["host"]),
        frozenset(["dopant", "dose"]),
        frozenset(["beam_energy"]),
        EVERY,
    ],
)
def test_log_score_is_of_a_normalised_posterior(batch, known, untrained):
    """Scores of the thirteen classes of every patch add up to one, whatever is known."""
    with torch.no_grad():
        features = untrained.encoder(batch.intensity)
        question = ask(
            batch, reference_prior(), known, torch.Generator().manual_seed(0), num_draws=3
        )
        total = sum(
            conditional_log_score(
                untrained, features, torch.full_like(batch.defect, c), question
            ).exp()
            for c in range(13)
        )
    assert torch.allclose(total, torch.ones_like(total), atol=1e-4)


@pytest.mark.parametrize("num_images", [4, 2, 8, 5])
def test_scores_among_images_are_those_of_single_densities(untrained, num_images):
    """Every patch with the context of every image of its group, by the Pyro program's density."""
    size = 8 if num_images == 5 else num_images  # which does not divide them
    batch = next(
        iter(PatchStream(reference_prior(), seed=0, stop=512, batch_size=512, patches_per_image=64))
    )
    with torch.no_grad():
        every = untrained.encoder(batch.intensity)
        of_class, of_both = log_scores_among_images(untrained, every, batch, num_images)
        assert of_class.shape == of_both.shape == (8, 64)
        for i in (0, 3, 4, 7):
            group = range(i // size * size, (i // size + 1) * size)
            joint = torch.stack(
                [_by_class(untrained, every[i, :2], batch, k) for k in group]
            )  # (draw, class, patch)
            true = joint[i % size].gather(0, batch.defect[i, :2][None])[0]
            assert torch.allclose(of_class[i, :2], true - joint[i % size].logsumexp(0), atol=1e-3)
            assert torch.allclose(
                of_both[i, :2], true - joint.flatten(0, 1).logsumexp(0), atol=1e-3
            )


def _by_class(model, features, batch, image):
    """Log density of patches under every class in the context of an image, shape (class, patch)."""
    context = {n: v[image] for n, v in batch.context.items()}
    densities = (
        model.contrast_given(torch.tensor(c), batch.host[image], batch.dopant[image], context)
        for c in range(13)
    )
    return torch.stack([d.log_prob(features) for d in densities])


def test_what_is_known_is_kept(batch):
    question = ask(
        batch,
        reference_prior(),
        frozenset(["host", "dose"]),
        torch.Generator().manual_seed(0),
        num_draws=5,
    )
    assert torch.equal(question.materials.host[:, 0], batch.host)
    assert torch.equal(question.context["dose"], batch.context["dose"][:, None].expand(-1, 5))
    assert bool(
        (
            question.context["convergence_semiangle"] <= question.context["inner_collection_angle"]
        ).all()
    )
    assert float(question.context["beam_energy"].std()) > 1e4


def test_a_known_dopant_weights_the_hosts_that_take_it(batch):
    question = ask(
        batch,
        reference_prior(),
        frozenset(["dopant"]),
        torch.Generator().manual_seed(0),
        num_draws=2,
    )
    for i, dopant in enumerate(batch.dopant):
        takes = (question.materials.dopant_weight[i, :, 0] > 0) == (
            question.materials.host_weight[i] > 0
        )
        assert bool(takes.all())
        assert bool((question.materials.dopant[i] == dopant).all())


def test_training_learns_and_leaves_randomness_alone(batch):
    model = small()
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    history = train(
        model, num_patches=64 * 100, batch_size=64, num_workers=0, num_held_out=0, progress=False
    )
    assert torch.equal(torch.rand(3), before)
    assert history.sizes["step"] == 100
    first, last = -float(history.log_score[:16].mean()), -float(history.log_score[-16:].mean())
    # 16 batches that differ by 0.2 nats in what they know: a standard error of 0.05 each
    assert first - last > 0.2
    assert model.card["training"]["num_patches"] == 64 * 100


def test_training_goes_on_from_a_model_and_drops_what_was_fitted_to_it():
    model = small()
    arguments = {"batch_size": 64, "num_workers": 0, "num_held_out": 0, "progress": False}
    train(model, num_patches=64, **arguments)
    model.card["conflict_limit"] = 8.0
    model.likelihood.width.fill_(0.9)
    again = model.with_prior(tmd_prior())
    # a learning rate of nothing leaves the weights as they are
    train(again, num_patches=128, learning_rate=1e-12, **arguments)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert float(again.likelihood.width) == 1.0
    assert set(again.card) == {"prior", "training"}
    assert again.card["training"]["num_patches"] == 128
    assert again.card["training"]["start"] == model.card["training"]
    assert again.card["prior"] == tmd_prior().to_dict()


@pytest.mark.parametrize("num_passes", [1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, num_passes):
    arguments = {
        "num_patches": 64 * 6 // num_passes,
        "batch_size": 64,
        "num_passes": num_passes,
        "num_workers": 0,
        "num_held_out": 0,
        "progress": False,
    }
    whole = small()
    train(whole, **arguments)
    killed = small()
    steps, original = [], fit._step

    def interrupted(*args, **loss):
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(1)
        return original(*args, **loss)

    monkeypatch.setattr(fit, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(killed, **arguments, checkpoint=tmp_path / "run", checkpoint_interval=2)
    monkeypatch.setattr(fit, "_step", original)
    resumed = small()
    history = train(resumed, **arguments, checkpoint=tmp_path / "run", checkpoint_interval=2)
    assert history.sizes["step"] == 6
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="of one with another seed"):
        train(small(), **arguments, seed=1, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="of one with another prior"):
        train(small(tmd_prior()), **arguments, checkpoint=tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    (tmp_path / "foreign").write_text("no checkpoint")
    with pytest.raises(ValueError, match="foreign is truncated or foreign"):
        train(small(), **arguments, checkpoint=tmp_path / "foreign")


def test_patches_are_used_as_often_as_asked_and_not_twice_in_a_batch():
    """Batches of new images and earlier ones; a stream that goes on has the same ones."""
    images = [torch.arange(4 * i, 4 * i + 4) for i in range(200)]

    def batches(first):
        start = max(0, first - 20)
        return [
            b.host.tolist()
            for b in fit._reuse(
                (Images(host=h) for h in images[start:]), 3, 20, start, first, seed=5
            )
        ]

    found = batches(0)
    assert all(set(images[i].tolist()) <= set(b) for i, b in enumerate(found))
    assert all(len(set(b)) == len(b) == 12 for b in found[2:])
    # of 200 steps with 12 images each, the last 20 new batches are not drawn from for as long
    uses = np.bincount(np.concatenate(found), minlength=800)[:720]
    assert abs(uses.mean() - 3) < 4 * (2 / 720) ** 0.5
    assert batches(50) == found[50:]


def test_passes_fit_the_batch():
    with pytest.raises(ValueError, match="a multiple of 16 num_passes was expected, got 64 for 3"):
        train(small(), num_patches=64, batch_size=64, num_passes=3)
    with pytest.raises(ValueError, match="num_passes was expected to be at least 1"):
        train(small(), num_patches=64, batch_size=64, num_passes=0)


def test_a_part_of_the_context_is_scored_in_the_steps_asked_for(monkeypatch):
    """Not in any step where the share is zero, and in all where it is one."""
    calls, original = [], fit._score_partly_known

    def counted(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(fit, "_score_partly_known", counted)
    options = {"num_patches": 64 * 3, "batch_size": 64, "num_workers": 0, "num_held_out": 0}
    for share, number in ((0.0, 0), (1.0, 3)):
        calls.clear()
        train(small(), **options, partly_known=share, progress=False)
        assert len(calls) == number
    with pytest.raises(ValueError, match="partly_known"):
        train(small(), num_patches=64, batch_size=64, partly_known=1.5)


def test_batches_are_whole_images():
    with pytest.raises(ValueError, match="whole images of 16 patches was expected, got 100"):
        train(small(), num_patches=100, batch_size=100)
    with pytest.raises(ValueError, match="num_patches was expected to be at least 1"):
        train(small(), num_patches=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"contrast_images": 0}, ValueError, "contrast_images was expected to be at least 1"),
        ({"num_patches": 1e6}, TypeError, "num_patches was expected as a whole number"),
        ({"num_patches": 10**15}, ValueError, "num_patches was expected to be at least 1 and"),
        ({"batch_size": 16 * 10**9}, ValueError, "batch_size was expected to be at least 16 and"),
        ({"seed": -1}, ValueError, "seed was expected to be at least 0"),
        ({"seed": 2**63 - 1}, ValueError, "seed was expected to be at least 0 and at most"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate was expected between"),
        ({"learning_rate": "fast"}, TypeError, "a number was expected for learning_rate"),
        ({"context_weight": -1.0}, ValueError, "context_weight was expected between 0 and"),
        ({"num_held_out": 10**9}, ValueError, "num_held_out was expected to be at least 0 and"),
        ({"num_workers": 10**5}, ValueError, "num_workers was expected to be at least 0 and"),
        ({"checkpoint_interval": 0}, ValueError, "checkpoint_interval was expected to be at least"),
        ({"checkpoint": 3}, TypeError, "a path was expected, got int; give a str or a Path"),
    ],
)
def test_a_run_with_impossible_settings_is_refused_at_once(options, error, message):
    model = small()
    with pytest.raises(error, match=message):
        train(model, **{"num_patches": 64, "batch_size": 64} | options)
    assert model.card == {}


def test_a_batch_beyond_memory_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "_memory", lambda: 1e9)
    with pytest.raises(ValueError, match="1 GB of memory was expected, got batches of 4096"):
        train(small(), num_patches=4096, batch_size=4096)


def test_a_model_is_needed():
    with pytest.raises(TypeError, match="a DefectModel was expected, got Prior"):
        train(tmd_prior(), num_patches=64)


@pytest.mark.parametrize("function", [calibrate, score_model])
def test_too_many_held_out_patches_are_refused(function):
    with pytest.raises(ValueError, match="num_patches was expected to be at least 1 and at most"):
        function(small(), num_patches=10**9)


def test_every_seed_can_be_used():
    found = train(small(), num_patches=16, batch_size=16, seed=2**63 - 3, num_held_out=0,
                  num_workers=0, progress=False)  # fmt: skip
    assert np.isfinite(found.loss.values).all()


@pytest.mark.parametrize("batch_size", [48, 64, 128])
def test_a_step_sees_its_part_of_the_stream_wherever_the_run_starts(batch_size):
    from bayesctx.training.fit import _load

    whole = next(
        iter(PatchStream(tmd_prior(), seed=1, stop=384, batch_size=384, patches_per_image=16))
    ).intensity
    for first in (0, 1, 2):
        steps = list(_load(small(tmd_prior()), 1, first * batch_size, 384, batch_size, 0))
        assert all(s.intensity[:, :, 0, 0].numel() == batch_size for s in steps)
        assert torch.equal(
            torch.cat([s.intensity for s in steps]), whole[first * batch_size // 16 :]
        )


def _train_as(rank, size, file, results):
    """Train as one of several processes; every step has a part of the context known."""
    torch.set_num_threads(1)
    if size > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{file}", rank=rank, world_size=size
        )
    model = small()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(rank)  # the weights of the first must win
    history = train(
        model, num_patches=512 * 6, batch_size=512, partly_known=1.0, num_workers=0,
        num_held_out=0, progress=False,
    )  # fmt: skip
    results.put((rank, history.loss.values, history.log_score.values, history.joint_score.values))
    if size > 1:
        distributed.destroy_process_group()


def test_two_processes_take_the_steps_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_train_as, args=(rank, size, tmp_path / "meeting", results))
        for size in (1, 2)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    for _, *scores in found[1:]:
        # the order of sums in single precision, and what Adam makes of it in six steps
        assert np.allclose(scores, found[0][1:], rtol=1e-5)


def test_shares_of_a_batch_are_whole_blocks(monkeypatch):
    from bayesctx.training import fit as training

    monkeypatch.setattr(training, "rank_of_process", lambda: (0, 2))
    with pytest.raises(
        ValueError, match="whole blocks of 256 for each of 2 processes was expected, got 768"
    ):
        train(small(), num_patches=768, batch_size=768)
    with pytest.raises(
        ValueError, match="whole blocks of 512 for each of 2 processes was expected, got 512"
    ):
        train(small(), num_patches=512, batch_size=512, contrast_images=32)


def test_a_likelihood_that_is_too_wide_or_too_narrow_is_mended():
    """Of a model that was made too wide the fit finds a smaller width and restores the score."""
    model = small()
    train(
        model,
        num_patches=64 * 200,
        batch_size=64,
        context_weight=0.0,
        generative_weight=0.1,
        num_workers=0,
        num_held_out=0,
        progress=False,
    )
    size = {"num_patches": 512, "progress": False}
    fit_width(model, **size)
    best = float(model.likelihood.width)
    score = [float(fit_width(model, **size).log_score.max())]
    with torch.no_grad():
        spoilt = model.likelihood.net[-1].bias.unflatten(0, (2, 13))[:, 6:12]
        spoilt += 0.1
    score.append(float(fit_width(model, **size).log_score.max()))
    assert float(model.likelihood.width) < best
    # a wider softplus is not quite a common factor
    assert abs(score[0] - score[1]) < 0.01


@torch.no_grad()
def test_scores_of_widths_are_those_of_the_model_with_that_width():
    model = small().eval()
    found = fit_width(model, num_patches=256, seed=3, progress=False)
    batch = draw_block(model.prior, 3, 0, patches_per_image=16)
    features = model.encoder(batch.intensity)
    for width, score in zip(found.width.values, found.log_score.values, strict=True):
        model.likelihood.width.fill_(width)
        expected = [
            conditional_log_score(
                model,
                features,
                batch.defect,
                ask(batch, model.prior, known, torch.Generator(), 1),
            ).mean()
            for known in (EVERY, EVERY - {"host"}, EVERY - {"host", "dopant"})
        ]
        assert score == pytest.approx(float(np.mean(expected)), abs=1e-5)

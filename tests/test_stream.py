import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bayesctx import simulate, tmd_prior
from bayesctx.simulation import BLOCK, PatchStream, batches, draw_block, join, take

WINDOW = {"start": 24, "stop": 24 + 2 * BLOCK + 8}


def stream(batch_size=BLOCK, **options):
    return PatchStream(tmd_prior(), **{"seed": 4, "batch_size": batch_size, "patches_per_image": 8} | WINDOW | options)


def tensors(batch):
    """Every tensor of a batch by name."""
    fields = {n: getattr(batch, n) for n in batches.FIELDS}
    return fields | dict(batch.context) | dict(batch.nuisances)


def assert_same(found, expected):
    found, expected = tensors(found), tensors(expected)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def truth():
    """The window, from blocks."""
    blocks = [draw_block(tmd_prior(), 4, b, patches_per_image=8) for b in range(WINDOW["stop"] // BLOCK + 1)]
    return take(join(blocks), WINDOW["start"] // 8, WINDOW["stop"] // 8)


@pytest.mark.parametrize("batch_size", [8, 40, BLOCK, 2 * BLOCK, 1000 * BLOCK])
def test_a_patch_is_the_same_for_any_batch_size(batch_size, truth):
    found = list(stream(batch_size))
    assert_same(join(found), truth)
    assert all(b.defect.numel() == batch_size for b in found[:-1])


def test_a_stream_begins_at_any_index_and_need_not_end(truth):
    assert_same(join(list(stream(40, start=104))), take(truth, 10, 10**6))
    endless = iter(stream(40, stop=None))
    assert_same(join([next(endless), next(endless)]), take(truth, 0, 10))
    assert list(stream(start=WINDOW["stop"])) == []
    own = next(iter(PatchStream(tmd_prior(), seed=4, start=13, stop=20)))
    assert np.array_equal(own.intensity[:, 0], simulate(tmd_prior(), 7, seed=4, start=13).intensity)


def test_workers_deliver_the_stream_in_order(truth):
    assert_same(join(list(DataLoader(stream(16), None, num_workers=2))), truth)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_the_stream_without_overlap(num_workers, truth, monkeypatch):
    shares = []
    monkeypatch.setattr(batches.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(batches.distributed, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(batches.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(list(DataLoader(stream(8), None, num_workers=num_workers)))
    in_turn = [shares[i % 3][i // 3] for i in range(sum(map(len, shares)))]
    assert_same(join(in_turn), truth)


def test_a_worker_without_a_process_group_goes_by_what_the_stream_knew(truth, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(batches, "rank_of_process", lambda: (1, 2))
        second = stream(8)
    assert_same(next(iter(second)), take(truth, 1, 2))


def test_a_batch_carries_nothing_but_itself():
    batch = next(iter(stream(8)))
    assert batch.intensity.untyped_storage().nbytes() == 8 * 32 * 32 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed was expected to be at least 0, got -1"),
        ({"start": -8}, "start was expected to be at least 0"),
        ({"stop": 8}, "stop was expected to be at least start=24, got 8"),
        ({"batch_size": 0}, "batch_size was expected to be at least 1, got 0"),
        ({"patches_per_image": 3}, f"patches_per_image was expected to divide {BLOCK}, got 3"),
        ({"patches_per_image": 0}, "patches_per_image was expected to be at least 1"),
        ({"batch_size": 12}, "whole images of 8 patches were expected, got batch_size=12"),
        ({"start": 20}, "whole images of 8 patches were expected, got start=20"),
        ({"stop": 50}, "whole images of 8 patches were expected, got stop=50"),
    ],
)
def test_windows_that_cannot_be_drawn_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options)

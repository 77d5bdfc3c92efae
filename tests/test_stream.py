"""Streams in batches and in files: the same patches whoever draws them, even if interrupted."""

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

from bayesctx import HOSTS, Prior, checks, simulate, tmd_prior
from bayesctx.archive import open_shards, plan_shards, reading, write_shards, writing
from bayesctx.cli import main
from bayesctx.simulation import (
    BLOCK,
    Latents,
    PatchStream,
    draw_block,
    render_patches,
    stream as batches,
)
from bayesctx.storage import add_checksum, replacing, scratch_file
from bayesctx.tensors import join, map_tensors, move, pick, take

WINDOW = {"start": 24, "stop": 24 + 2 * BLOCK + 8}


def stream(batch_size=BLOCK, **options):
    return PatchStream(
        tmd_prior(),
        **{"seed": 4, "batch_size": batch_size, "patches_per_image": 8} | WINDOW | options,
    )


def tensors(batch):
    """Every tensor of a batch by name."""
    fields = {n: getattr(batch, n) for n in ("intensity", "defect", "species", "host", "dopant")}
    return fields | dict(batch.context) | dict(batch.nuisances)


def assert_same(found, expected):
    found, expected = tensors(found), tensors(expected)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def truth():
    """The window, from blocks."""
    blocks = [
        draw_block(tmd_prior(), 4, b, patches_per_image=8)
        for b in range(WINDOW["stop"] // BLOCK + 1)
    ]
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_drafts_become_the_stream_in_whatever_company(num_workers, truth):
    """Windows cut blocks, and images that a block rendered together are rendered beside others."""
    drafts = list(DataLoader(stream(40, device=None), None, num_workers=num_workers))
    assert all(isinstance(d, Latents) for d in drafts)
    for found in (
        join([render_patches(tmd_prior(), d) for d in drafts]),
        render_patches(tmd_prior(), join(drafts)),
    ):
        assert_same(replace(found, intensity=truth.intensity), truth)
        differ = (found.intensity - truth.intensity).abs() / truth.intensity.abs().amax(
            (-2, -1), keepdim=True
        )
        # a quantile on a border may move a count by one, in one pixel of some thousand
        assert float((differ > 3e-6).float().mean()) < 5e-4


def test_records_are_changed_tensor_by_tensor():
    record = {"a": torch.arange(4.0), "b": None, "c": {"d": torch.arange(8).view(4, 2)}}
    twice = map_tensors(torch.add, record, record)
    assert torch.equal(twice["a"], 2 * record["a"])
    assert twice["b"] is None
    assert torch.equal(pick(record, [2, 0])["c"]["d"], torch.tensor([[4, 5], [0, 1]]))
    assert move(record, "cpu")["a"] is record["a"]


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


def test_a_spawned_worker_knows_the_rank_of_its_process(truth, written, monkeypatch):
    streams = stream(8), open_shards(written, batch_size=8)
    monkeypatch.setattr(batches, "rank_of_process", lambda: (1, 2))
    monkeypatch.setattr(reading, "rank_of_process", lambda: (1, 2))
    arrived = [pickle.loads(pickle.dumps(s)) for s in streams]
    monkeypatch.undo()
    for each in arrived:
        assert torch.equal(next(iter(each)).species, truth.species[1:2])


def test_a_rank_that_is_given_goes_before_that_of_the_process(truth, monkeypatch):
    monkeypatch.setattr(batches, "rank_of_process", lambda: (1, 2))
    assert_same(join(list(stream(rank=(0, 1)))), truth)
    assert_same(next(iter(stream(8, rank=(2, 5)))), take(truth, 2, 3))


def test_a_batch_carries_nothing_but_itself():
    batch = next(iter(stream(8)))
    assert batch.intensity.untyped_storage().nbytes() == 8 * 32 * 32 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed was expected to be at least 0 and at most .*, got -1"),
        ({"start": -8}, "start was expected to be at least 0"),
        ({"stop": 8}, "stop was expected to be at least start=24, got 8"),
        ({"batch_size": 0}, "batch_size was expected to be at least 1 and at most .*, got 0"),
        ({"patches_per_image": 3}, f"patches_per_image was expected to divide {BLOCK}, got 3"),
        ({"patches_per_image": 0}, "patches_per_image was expected to be at least 1"),
        ({"batch_size": 12}, "whole images of 8 patches were expected, got batch_size=12"),
        ({"start": 20}, "whole images of 8 patches were expected, got start=20"),
        (
            {"rank": (2, 2)},
            r"a rank below the number of ranks was expected, got \(2, 2\); count from 0",
        ),
        ({"stop": 50}, "whole images of 8 patches were expected, got stop=50"),
    ],
)
def test_windows_that_cannot_be_drawn_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options)


SHARD = BLOCK - 16
SIZES = {"seed": 4, "start": 24, "patches_per_image": 8, "shard_size": SHARD}
NUM = WINDOW["stop"] - WINDOW["start"]
WORDS = [
    "--num-patches",
    NUM,
    "--seed",
    4,
    "--start",
    24,
    "--prior",
    "tmd",
    "--patches-per-image",
    8,
    "--shard-size",
    SHARD,
]


def run(*words):
    """Exit code of the verb simulate."""
    return main(["simulate", *map(str, words)])


def contents(folder):
    """Every file of a folder, byte by byte."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The window as shards."""
    return write_shards(tmd_prior(), NUM, tmp_path_factory.mktemp("stream") / "whole", **SIZES)


def test_a_batch_of_shards_must_fit_into_memory(written, monkeypatch):
    """Not more than the folder holds: a large number alone asks for no memory."""
    assert len(list(open_shards(written, batch_size=2**50))) == 1
    monkeypatch.setattr(checks, "_memory", lambda: 1e6)
    with pytest.raises(ValueError, match="of memory was expected, got .* patches of 32 x 32"):
        open_shards(written, batch_size=2**50)


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the shards to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def assert_stored(found, expected):
    """All is as it was, intensity to half a step of 16 bits."""
    span = expected.intensity.amax((-2, -1)) - expected.intensity.amin((-2, -1))
    error = (found.intensity - expected.intensity).abs().amax((-2, -1))
    # single precision of the largest value comes on top
    assert bool(
        (error <= 0.5 * span / 65535 + 2e-7 * expected.intensity.abs().amax((-2, -1))).all()
    )
    assert_same(replace(found, intensity=expected.intensity), expected)


def test_shards_hold_the_stream(written, truth):
    assert_stored(join(list(open_shards(written, batch_size=40, verify=True))), truth)
    assert_stored(
        join(list(DataLoader(open_shards(written, batch_size=16), None, num_workers=2))), truth
    )
    assert_stored(join(list(open_shards(written, start=64, stop=104))), take(truth, 5, 10))
    prior = open_shards(written).archive.prior
    assert_same(
        next(iter(PatchStream(prior, **WINDOW, seed=4, batch_size=8, patches_per_image=8))),
        take(truth, 0, 1),
    )


def test_sixteen_bits_lose_nothing_against_the_noise(written, truth):
    """The step of a patch against the square root of its mean counts per pixel."""
    step = (truth.intensity.amax((-2, -1)) - truth.intensity.amin((-2, -1))) / 65535
    gain = truth.nuisances["gain"][:, None]
    noise = gain * (truth.intensity / gain[..., None, None]).clamp(min=0).mean((-2, -1)).sqrt()
    assert float((step / noise).max()) < 0.02


def test_manifest_says_what_is_there(written):
    manifest = json.loads((written / "manifest.json").read_text())
    assert Prior.from_dict(manifest["prior"]).to_dict() == manifest["prior"]
    assert {n: manifest[n] for n in SIZES} == SIZES
    assert manifest["num_patches"] == NUM
    counts = [r["count"] for r in manifest["shards"]]
    assert counts == [SHARD] * (NUM // SHARD) + [NUM % SHARD] * (NUM % SHARD > 0)
    for record in manifest["shards"]:
        content = (written / record["name"]).read_bytes()
        assert record["bytes"] == len(content)
        assert record["sha256"] == hashlib.sha256(content).hexdigest()
    with xr.open_dataset(written / "shard-00001.nc") as shard:
        assert shard.attrs["start"] == 24 + SHARD
        assert shard.intensity.dims == ("image", "patch", "y", "x")
        assert shard.host.attrs["flag_meanings"].split()[int(shard.host[0])] in HOSTS


def test_workers_write_the_same_bytes(written, tmp_path):
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    write_shards(tmd_prior(), NUM, tmp_path / "new", **SIZES, num_workers=2)
    assert torch.equal(torch.rand(1), before)
    assert contents(tmp_path / "new") == contents(written)


def test_the_number_of_threads_changes_no_bit(truth):
    num = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        again = join([draw_block(tmd_prior(), 4, b, patches_per_image=8) for b in (0, 1)])
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(num)
    first = WINDOW["start"] // 8
    assert_same(take(again, first, 2 * BLOCK // 8), take(truth, 0, 2 * BLOCK // 8 - first))


STALLING = """
import sys, time
from bayesctx.cli import main
from bayesctx.simulation import stream
draw, drawn = stream.draw_block, []
def stall(*arguments, **options):
    drawn.append(1)
    if len(drawn) == 4:
        print("stalled", flush=True)
        time.sleep(60)
    return draw(*arguments, **options)
stream.draw_block = stall
main(["simulate", *sys.argv[1:]])
"""


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(written, tmp_path, capsys):
    out = tmp_path / "new"
    words = [*map(str, WORDS), "--workers", "0", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", STALLING, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout.readline() == b"stalled\n"
        process.kill()
    left = contents(out)
    finished = {n: c for n, c in left.items() if n.startswith("shard")}
    assert 0 < len(finished) < len(contents(written)) - 1
    assert any(n.endswith(".tmp") for n in left)
    times = {n: (out / n).stat().st_mtime_ns for n in finished}
    assert run(*words) == 0
    assert contents(out) == contents(written)
    assert {n: (out / n).stat().st_mtime_ns for n in finished} == times
    assert (
        f"{NUM} patches of 32 x 32 px in {len(contents(written)) - 1} shards"
        in capsys.readouterr().out
    )


def test_an_interrupt_keeps_the_finished_shards(written, tmp_path, monkeypatch, capsys):
    drawn, out = [], tmp_path / "new"

    def interrupted(*arguments, **options):
        drawn.append(1)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw_block(*arguments, **options)

    monkeypatch.setattr(batches, "draw_block", interrupted)
    assert run(*WORDS, "--workers", 0, "--out", out) == 130
    assert capsys.readouterr().err.endswith("bayesctx: interrupted\n")
    kept = contents(out)
    assert {
        n: c for n, c in contents(written).items() if n in kept and n != "manifest.json"
    }.items() <= kept.items()
    assert len(kept) > 1
    assert not [n for n in kept if n.endswith(".tmp")]
    with pytest.raises(
        ValueError,
        match=r"the first is shard-00\d+.nc; write them by repeating the command$",
    ):
        open_shards(out)
    assert run(*WORDS, "--workers", 0, "--out", out) == 0
    assert contents(out) == contents(written)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    written, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    assert run("--num-patches", "55e6", "--out", tmp_path / "new") == 1
    assert "GB of free disk were expected for" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    (folder / "shard-00001.nc").unlink()
    with pytest.raises(OSError, match="0.1 GB of free disk were expected"):
        write_shards(tmd_prior(), NUM, folder, **SIZES)
    # what is whole needs no room
    assert write_shards(tmd_prior(), NUM, written, **SIZES) == written


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_disk_that_fills_up_is_answered_in_one_line(num_workers, tmp_path, monkeypatch, capsys):
    """The file ends in what HDF5 reports; writing on meets the full disk."""
    flush = os.fsync

    def full(path, *_):
        with replacing(path) as temporary:
            yield 8
            temporary.write_bytes(b"half")
            monkeypatch.setattr(os, "fsync", refuse)
            raise RuntimeError("NetCDF: HDF error")

    def refuse(_):
        monkeypatch.setattr(os, "fsync", flush)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_measure_bytes", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(writing, "write_shard", full)
    assert run(*WORDS, "--workers", num_workers, "--out", tmp_path / "new") == 1
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("bayesctx: error: [Errno 28] room for ")
    assert shown.endswith("shard-00000.nc was expected, the disk is full; free some space")
    assert list(contents(tmp_path / "new")) == ["manifest.json"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_renderer_is_not_one_of_the_disk(num_workers, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("index out of range")

    monkeypatch.setattr(writing, "_measure_bytes", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(batches, "draw_block", broken)
    with pytest.raises(RuntimeError, match="index out of range"):
        write_shards(tmd_prior(), NUM, tmp_path / "new", **SIZES, num_workers=num_workers)
    assert list(contents(tmp_path / "new")) == ["manifest.json"]


def test_a_worker_that_is_ended_from_outside_is_one_error(tmp_path, monkeypatch):
    def ended(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(writing, "_measure_bytes", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(batches, "draw_block", ended)
    with pytest.raises(OSError, match="one was ended from outside.*with fewer workers"):
        write_shards(tmd_prior(), NUM, tmp_path / "new", **SIZES, num_workers=1)
    assert list(contents(tmp_path / "new")) == ["manifest.json"]


def test_a_missing_or_read_only_folder_is_named(tmp_path, monkeypatch):
    for verb in (write_shards, plan_shards):
        with pytest.raises(FileNotFoundError, match="there is no .*nowhere; create it first"):
            verb(tmd_prior(), NUM, tmp_path / "nowhere" / "new", **SIZES)
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="a folder was expected, .*file is a file"):
            verb(tmd_prior(), NUM, tmp_path / "file", **SIZES)
    create = os.open

    def refuse(path, *arguments):
        if str(path).endswith(".tmp"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return create(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=f"a writable folder was expected, {tmp_path} is read-only"):
        write_shards(tmd_prior(), NUM, tmp_path / "new", **SIZES)
    assert list(contents(tmp_path)) == ["file"]


def test_only_own_temporary_files_are_removed(folder, written):
    kept = {".notes.tmp": b"mine", f".shard-00001.nc.{os.getpid()}.tmp": b"also mine"}
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with scratch_file(folder) as mine:
        stale = mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    (folder / stale).write_bytes(b"half")
    (folder / "shard-00001.nc").unlink()
    write_shards(tmd_prior(), NUM, folder, **SIZES)
    assert contents(folder) == contents(written) | kept


@pytest.mark.parametrize("verb", [write_shards, plan_shards])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_patches": 10**15, "shard_size": 1, "patches_per_image": 1}, ValueError,
         "at most 10000 shards were expected, got 10{15} patches in 10{15} shards of 1; raise"),
        ({"num_patches": 2**52}, ValueError, "at most 10000 shards were expected"),
        ({"num_patches": 10**400}, ValueError, "num_patches was expected to be .* at most"),
        ({"num_patches": 1e3}, TypeError, "num_patches was expected as a whole number"),
        ({"num_workers": 10**6}, ValueError, "num_workers was expected to be at .* at most"),
        ({"num_workers": -1}, ValueError, "num_workers was expected to be at least 0"),
        ({"num_workers": None}, TypeError, "num_workers was expected as a whole number"),
        ({"seed": -1}, ValueError, "seed was expected to be at least 0"),
        ({"seed": 2**64}, ValueError, "seed was expected to be .* at most"),
        ({"start": 10**30}, ValueError, "start was expected to be .* at most"),
        ({"shard_size": 0}, ValueError, "shard_size was expected to be at least 1"),
        ({"patches_per_image": 3}, ValueError, "patches_per_image was expected to divide"),
        ({"prior": "tmd"}, TypeError, "a Prior was expected, got .tmd."),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_anything_is_done(
    verb, change, error, message, tmp_path, monkeypatch
):
    for name in ("_measure_bytes", "_measure_rate"):
        monkeypatch.setattr(writing, name, None)
    options = {"prior": tmd_prior(), "num_patches": NUM, "path": tmp_path / "new"} | SIZES
    with pytest.raises(error, match=message):
        verb(**options | change)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_may_be_those_of_numpy(written, tmp_path):
    numbers = {name: np.int64(value) for name, value in SIZES.items()}
    write_shards(tmd_prior(), np.int64(NUM), tmp_path / "new", **numbers)
    assert contents(tmp_path / "new") == contents(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"another seed \(4, not 5\); name another one"),
        ({"start": 32}, r"another start \(24, not 32\)"),
        ({"shard_size": 40}, rf"another shard_size \({SHARD}, not 40\)"),
        ({"patches_per_image": 4}, r"another patches_per_image \(8, not 4\)"),
        ({"num_patches": NUM + 8}, "another num_patches"),
        ({"prior": tmd_prior().given({"host": "WSe2"})}, "another prior; name another one"),
    ],
)
def test_a_folder_of_other_settings_is_refused(change, message, written):
    before = contents(written)
    with pytest.raises(ValueError, match=message):
        write_shards(**{"prior": tmd_prior(), "num_patches": NUM, "path": written} | SIZES | change)
    assert contents(written) == before


def rewrite(folder, change):
    """Change the manifest, with a checksum that is right."""
    values = json.loads((folder / "manifest.json").read_text())
    del values["sha256"]
    change(values)
    body = json.dumps(values, indent=1)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    (folder / "manifest.json").write_text(add_checksum(body, checksum) + "\n")


def test_a_foreign_folder_is_refused(folder, tmp_path):
    for path in (tmp_path, folder / "shard-00000.nc", tmp_path / "nowhere"):
        with pytest.raises(
            ValueError, match=r"there is no manifest.json in .*; write one by write_shards"
        ):
            open_shards(path)
    for text in ('{"format": "bayesctx shards 9"}', "{", "[]", "[" * 10**5, "\xff"):
        (folder / "manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="is truncated or foreign"):
            open_shards(folder)
        with pytest.raises(ValueError, match="is truncated or foreign"):
            write_shards(tmd_prior(), NUM, folder, **SIZES)


def test_flipped_bits_of_the_manifest_are_noticed(folder):
    """All but the line break at the end, which says nothing."""
    content = (folder / "manifest.json").read_bytes()
    rng = np.random.default_rng(0)
    for place in (0, 1, len(content) - 2, *rng.choice(len(content) - 1, 200, replace=False)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(rng.integers(8))
        (folder / "manifest.json").write_bytes(spoilt)
        with pytest.raises(ValueError, match="is truncated or foreign"):
            open_shards(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("seed"), "entry 'seed' was expected, it is missing"),
        (lambda v: v.update(more=1), "unknown entry 'more'"),
        (lambda v: v.update(seed="4"), "seed was expected as a whole number"),
        (lambda v: v.update(num_patches=10**15), "at most 10000 shards were expected"),
        (lambda v: v.update(shards={}), "its shards are no list"),
        (lambda v: v.update(shards=[3]), "a mapping was expected for the record of a shard"),
        (lambda v: v["shards"][0].update(name="../shard-00000.nc"), "is none of its shards"),
        (lambda v: v["shards"][0].update(name=["a"]), "is none of its shards"),
        (lambda v: v["shards"][0].update(count=7), "is none of its shards"),
        (lambda v: v["shards"][0].update(bytes=-1), "bytes was expected to be at least 0"),
        (lambda v: v["shards"][0].pop("sha256"), "'sha256' was expected, it is missing"),
        (lambda v: v["prior"].update(hosts=["MoS3"]), "unknown host 'MoS3'"),
        (lambda v: v["prior"]["nuisances"].update(gain={"enable_validation": [False]}), "a distri"),
    ],
)  # fmt: skip
def test_a_manifest_is_checked_before_it_is_used(change, message, folder):
    rewrite(folder, change)
    for use in (open_shards, lambda path: write_shards(tmd_prior(), NUM, path, **SIZES)):
        with pytest.raises(ValueError, match=f"is truncated or foreign .*{message}"):
            use(folder)


def test_a_folder_from_before_the_checksum_is_read_and_continued(folder, written):
    values = json.loads((folder / "manifest.json").read_text())
    del values["sha256"]
    values["format"] = "bayesctx shards 1"
    values["prior"]["concentration"] = values["prior"].pop("dirichlet_alpha")
    removed = values["shards"].pop()
    (folder / "manifest.json").write_text(json.dumps(values))
    (folder / removed["name"]).unlink()
    write_shards(tmd_prior(), NUM, folder, **SIZES)
    assert contents(folder) == contents(written)


def test_shards_that_cannot_be_read_are_one_error(folder):
    whole = (folder / "shard-00000.nc").read_bytes()
    replaced = {
        "text": b"text".ljust(len(whole)),
        "zeros": whole[:4000] + bytes(len(whole) - 4000),
    }
    for content in replaced.values():
        (folder / "shard-00000.nc").write_bytes(content)
        with pytest.raises(
            ValueError, match="a shard was expected, .*shard-00000.nc is missing, dam"
        ):
            list(open_shards(folder, batch_size=8))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("host", 200, "host has a value without a name"),
        ("dose", np.nan, "dose is not finite"),
        ("intensity_scale", np.inf, "intensity_scale is not finite"),
    ],
)
def test_values_of_a_shard_that_cannot_be_are_refused(name, value, message, folder):
    with netCDF4.Dataset(folder / "shard-00000.nc", "a") as file:
        file.set_auto_maskandscale(False)
        file[name][0] = value
    size = (folder / "shard-00000.nc").stat().st_size
    rewrite(folder, lambda v: v["shards"][0].update(bytes=size))
    with pytest.raises(ValueError, match=message):
        list(open_shards(folder, batch_size=8))


def test_a_damaged_shard_is_found_and_written_anew(folder, written, capsys):
    spoilt = bytearray((folder / "shard-00001.nc").read_bytes())
    spoilt[-1000] ^= 1
    (folder / "shard-00001.nc").write_bytes(spoilt)
    open_shards(folder)
    with pytest.raises(
        ValueError,
        match="the first is shard-00001.nc; write them by repeating the command with --verify",
    ):
        open_shards(folder, verify=True)
    assert run(*WORDS, "--workers", 0, "--verify", "--out", folder) == 0
    assert "verify" in capsys.readouterr().err
    assert contents(folder) == contents(written)
    (folder / "shard-00000.nc").write_bytes(b"short")
    with pytest.raises(ValueError, match="1 are absent or damaged, the first is shard-00000.nc"):
        open_shards(folder)
    write_shards(tmd_prior(), NUM, folder, **SIZES)
    assert contents(folder) == contents(written)


def test_patches_that_a_folder_does_not_hold_are_refused(written):
    with pytest.raises(
        ValueError, match=f"patches from 24 to {WINDOW['stop']} were expected, got 16 to 48"
    ):
        open_shards(written, start=16, stop=48)
    with pytest.raises(ValueError, match="got batch_size=12; round it"):
        open_shards(written, batch_size=12)


def test_a_dry_run_says_size_and_time_and_writes_nothing(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writing, "SAMPLE", 0.2)
    assert run(*WORDS, "--workers", 2, "--dry-run", "--out", tmp_path / "new") == 0
    assert list(tmp_path.iterdir()) == []
    first, to_write, size, disk, duration = capsys.readouterr().out.splitlines()
    assert first == f"{NUM} patches of 32 x 32 px: {tmp_path / 'new'}"
    shards = len(contents(written)) - 1
    assert to_write == f"to write  {NUM} patches in {shards} shards"
    assert re.fullmatch(r"size      0.00 GB, \d{4} bytes per patch", size)
    assert re.fullmatch(r"disk      [\d.]+ GB free, which is enough", disk)
    assert re.fullmatch(
        r"time      [\d.]+ \w+ by 2 processes, \d+ patches/s each, if every one has a core .*",
        duration,
    )
    plan = plan_shards(tmd_prior(), NUM, tmp_path / "new", **SIZES)
    actual = sum(p.stat().st_size for p in written.glob("*.nc"))
    # the parts of a small file are aligned: some kB each
    assert plan.num_bytes == pytest.approx(actual, abs=4096 * shards)
    assert plan.seconds == pytest.approx(NUM / plan.patches_per_second)
    shared = plan_shards(tmd_prior(), NUM, tmp_path / "new", **SIZES, num_workers=2)
    # whole shards: two of three by one of the workers
    assert shared.seconds == pytest.approx(
        -(-shards // 2) / shards * NUM / shared.patches_per_second
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert run("--num-patches", "55e6", "--dry-run", "--out", written.parent / "other") == 0
    shown = capsys.readouterr().out
    assert "in 840 shards" in shown
    assert "which is TOO LITTLE" in shown
    assert plan_shards(tmd_prior(), NUM, written, **SIZES).num_bytes == 0

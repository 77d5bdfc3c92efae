import json
import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

import bayesctx as bc
from bayesctx.cli import arguments as options, main, verbs
from bayesctx.cli.answer import Answer, propose
from bayesctx.cli.commands import HELP, delayed_interrupt
from bayesctx.cli.sources import describe_source, read_context, wrap
from bayesctx.cli.summaries import describe_result

GIVEN = [
    "host=WSe2",
    "dopant=Ti",
    "beam_energy=80e3",
    "convergence_semiangle=25",
    "inner_collection_angle=60..110",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small untrained model, four patches and a micrograph."""
    folder = tmp_path_factory.mktemp("cli")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bc.save_model(
            bc.DefectModel(bc.reference_prior(), num_features=4, num_components=2, hidden=16),
            folder / "model.safetensors",
        )
    prior = bc.reference_prior().given({"host": "WSe2", "dopant": "Ti", "dose": 1e5})
    bc.save(xr.DataTree(bc.simulate(prior, 4, seed=0)), folder / "patches.nc")
    data = bc.simulate_micrograph(prior, seed=0, num_pixels=128, sampling=0.2)
    bc.save(xr.DataTree(data), folder / "image.nc")
    np.save(folder / "image.npy", data.intensity.values)
    several = xr.Dataset(
        {
            "haadf": (("detector", "y", "x"), np.ones((2, 40, 40))),
            "maadf": (("y", "x"), np.ones((40, 40))),
        }
    )
    several.assign_coords(detector=["ADF1", "ADF2"]).to_netcdf(folder / "several.nc")
    write_unreadable(folder)
    (folder / "foreign.nc").write_bytes((folder / "image.nc").read_bytes()[:1000])
    return folder


def write_unreadable(folder):
    """Files that are no images, and names that are taken."""
    (folder / "empty.npy").touch()
    (folder / "file").touch()
    (folder / "folder.nc").mkdir()
    np.save(folder / "objects.npy", np.array([{}, None]))
    np.savez(folder / "archive", image=np.ones((40, 40)), other=np.ones((2, 2)))
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    with open(folder / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with netCDF4.Dataset(folder / "sparse.nc", "w") as data:
        for name in ("y", "x"):
            data.createDimension(name, 10**5)
        data.createVariable("image", "f4", ("y", "x"), chunksizes=(100, 100))


def run(*words):
    """Exit code of a command."""
    return main([str(w) for w in words])


def names_in(folder):
    """Files of a folder, hidden ones too."""
    return sorted(p.name for p in folder.rglob("*"))


def test_simulate_writes_patches_that_read_back_as_they_were(tmp_path, capsys):
    out = tmp_path / "patches.nc"
    words = ["--num-patches", "3", "--seed", 5, "--start", 62, "--prior", "tmd"]
    assert run("simulate", *words, "--context", "host=WSe2", "beam_energy=80e3", "--out", out) == 0
    prior = bc.tmd_prior().given({"host": "WSe2", "beam_energy": 80e3})
    with xr.open_dataset(out) as data:
        xr.testing.assert_identical(data.load(), bc.simulate(prior, 3, seed=5, start=62))
        assert data.host.values.tolist() == ["WSe2"] * 3
        assert data.defect.dtype.kind == "U"
    assert "3 patches of 32 x 32 px" in capsys.readouterr().out
    assert names_in(tmp_path) == ["patches.nc"]


def test_simulate_writes_a_labelled_micrograph(tmp_path):
    out = tmp_path / "image.nc"
    words = ["--micrograph", "--num-pixels", 64, "--sampling", 0.25, "--start", 3]
    assert run("simulate", *words, "--context", "dopant=Ti,V", "--out", out) == 0
    prior = bc.reference_prior().given({"dopant": ["Ti", "V"]})
    with xr.open_dataset(out) as data:
        xr.testing.assert_identical(
            data.load(),
            bc.simulate_micrograph(prior, seed=0, num_pixels=64, sampling=0.25, index=3),
        )


def test_train_writes_a_model_and_goes_on_from_its_checkpoint(tmp_path, capsys):
    out, state = tmp_path / "model.safetensors", tmp_path / "state"
    size = ["--num-patches", "128", "--batch-size", 64, "--contrast", 2, "--held-out", 32]
    words = ["train", *size, "--workers", 0, "--threads", 1, "--checkpoint", state, "--out", out]
    assert run(*words) == 0
    assert names_in(tmp_path) == ["model.safetensors", "state"]
    model = bc.load_model(out)
    assert {n: model.card["training"][n] for n in ("num_patches", "contrast_images")} == {
        "num_patches": 128,
        "contrast_images": 2,
    }
    assert model.card["scores"]["coords"]["known"]["data"] == ["everything", "host", "nothing"]
    assert model.card["correlation"] == pytest.approx(float(model.correlation))
    shown = capsys.readouterr()
    assert "log score -" in shown.out
    assert "loss=" in shown.err
    assert run(*words) == 0
    assert bc.load_model(out).hash() == model.hash()
    assert "100%" in capsys.readouterr().err
    words = ["train", "--prior", "limit", "--model", out, "--workers", 0, "--held-out", 0]
    assert (
        run(
            *words, "--num-patches", 64, "--batch-size", 64, "--out", tmp_path / "again.safetensors"
        )
        == 0
    )
    again = bc.load_model(tmp_path / "again.safetensors")
    assert again.card["training"]["start"] == model.card["training"]
    assert again.prior.to_dict() == bc.limit_prior().to_dict()


def test_infer_prints_composition_and_context_and_writes_the_posterior(files, tmp_path, capsys):
    out, picture = tmp_path / "result.nc", tmp_path / "result.png"
    words = [
        "infer",
        files / "image.nc",
        "--model",
        files / "model.safetensors",
        "--num-draws",
        64,
        "--seed",
        3,
        "--likelihood",
        "network",
    ]
    assert run(*words, "--context", *GIVEN, "--out", out, "--plot", picture) == 0
    result = bc.load(out)
    assert result.attrs["seed"] == 3
    assert result["posterior"].sizes["draw"] == 64
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert names_in(tmp_path) == ["result.nc", "result.png"]
    lines = capsys.readouterr().out.splitlines()
    probabilities = result["class_posterior"].defect.values
    for name, expected in zip(bc.DEFECTS, probabilities.sum(0), strict=True):
        if expected >= 0.5:
            count = (probabilities.argmax(-1) == bc.DEFECTS.index(name)).sum()
            (row,) = (line.split() for line in lines if line.split()[:1] == [name])
            assert row[1:3] == [str(count), f"{expected:.1f}"]
    assert "beam_energy [eV]                80000 (given)" in lines
    (inner,) = (line.split() for line in lines if line.startswith("inner_collection_angle [mrad]"))
    # printed to two digits of a standard deviation below 100
    assert float(inner[2]) == pytest.approx(
        float(result["posterior"].inner_collection_angle.mean()), abs=0.5
    )
    assert "±" in inner
    assert "(prior" in inner
    assert any(
        line.startswith("sampling [Å/px]") and line.endswith("(by the lattice)") for line in lines
    )
    assert "of 64 draws of the context are effective" in lines[0]


def test_infer_reads_arrays_and_patches(files, tmp_path, capsys):
    out = tmp_path / "result.nc"
    end = ["--model", files / "model.safetensors", "--num-draws", 64, "--out", out]
    end += ["--likelihood", "network"]
    assert run("infer", files / "image.npy", "--context", *GIVEN, *end) == 0
    assert "site_x" in bc.load(out)["constant_data"]
    assert run("infer", files / "patches.nc", "--context", *GIVEN, *end) == 0
    assert bc.load(out)["class_posterior"].defect.sizes == {
        "image": 4,
        "patch": 1,
        "defect_class": 13,
    }
    shown = capsys.readouterr().out
    assert "4 sites" in shown
    assert "context: one posterior for each image" in shown


def test_infer_writes_each_format_that_is_named(files, tmp_path, capsys):
    paths = [tmp_path / f"result{s}" for s in (".nc", ".csv", ".xyz")]
    words = ["infer", files / "image.npy", "--model", files / "model.safetensors"]
    words += ["--num-draws", 64, "--likelihood", "network", "--context", *GIVEN]
    assert run(*words, "--out", *paths[:2], "--out", paths[2]) == 0
    result = bc.load(paths[0])
    rows = paths[1].read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + result["class_posterior"].sizes["patch"]
    assert paths[2].read_text(encoding="utf-8").splitlines()[1].startswith("Properties=species")
    # the interval of the numbers of sites is that of the draws
    number = bc.counts(result).sel(outcome="hollow")
    span = [f"{number.number_90_low.item():.0f}", "to", f"{number.number_90_high.item():.0f}"]
    (row,) = (r.split() for r in capsys.readouterr().out.splitlines() if r.startswith("hollow"))
    assert row[3:6] == span


def test_infer_offers_the_formats_of_tables():
    assert options.RESULTS == tuple(bc.tables.FORMATS)


def test_demo_compares_with_the_truth(files, tmp_path, capsys, monkeypatch):
    def smaller(prior, **options):
        return bc.simulate_micrograph(prior, **options | {"num_pixels": 128})

    monkeypatch.setattr(verbs, "simulate_micrograph", smaller)
    folder = tmp_path / "new"
    assert run("demo", "--out-dir", folder, "--model", files / "model.safetensors") == 0
    assert names_in(folder) == ["demo.nc", "demo.png"]
    known = bc.load(folder / "demo.nc")["constant_data"]
    assert set(verbs.RECORDED) <= set(known.data_vars)
    shown = capsys.readouterr().out
    # every site that the lattice gives is a true one
    assert "100.0% of them within 0.7 Å" in shown
    rows = {line[:32].strip(): line for line in shown.splitlines()}
    assert "%" in rows["host"]
    assert "±" in rows["host, dopant, energy, angles"]
    assert rows["bits gained per site"].count("±") == 2


def test_context_is_read_as_numbers_names_candidates_and_ranges():
    found = read_context(
        [
            "host=WSe2",
            "dopant=Ti, V",
            "dose=1e4,2e4",
            "beam_energy=80e3",
            "inner_collection_angle=60..110",
            "defocus=-60..60",
        ]
    )
    assert found.pop("inner_collection_angle").support.upper_bound == 110
    assert found.pop("defocus").support.lower_bound == -60
    assert found == {"host": "WSe2", "dopant": ["Ti", "V"], "dose": [1e4, 2e4], "beam_energy": 80e3}
    assert read_context(None) == {}


def test_select_picks_by_label_or_position(files):
    path = files / "several.nc"
    chosen = bc.read(path, variable="haadf", select={"detector": "ADF2"})
    assert chosen.coords["detector"].item() == "ADF2"
    assert bc.read(path, variable="maadf", select={"y": 3}).sizes == {"x": 40}


def test_a_source_is_described_with_origins(tmp_path):
    np.save(tmp_path / "plain.npy", np.ones((4, 4)))
    assert describe_source(bc.read(tmp_path / "plain.npy")) == ""
    attrs = {"beam_energy_keV": 80.0}
    image = xr.DataArray(np.ones((4, 4)), dims=("y", "x"), name="adf", attrs=attrs)
    image.to_netcdf(tmp_path / "scan.nc")
    assert describe_source(bc.read(tmp_path / "scan.nc")).splitlines() == [
        "recorded by scan.nc, netCDF:",
        "  beam_energy  80000 eV  (beam_energy_keV)",
    ]


WRONG_USAGE = {
    "no verb": ("", "arguments are required: VERB"),
    "unknown verb": ("dream", "invalid choice: 'dream'"),
    "no output": ("simulate", "arguments are required: --out"),
    "fraction": ("simulate --num-patches 1.5 --out new", "or 10e3, was expected, got '1.5'"),
    "no number": ("simulate --num-patches few --out new", "or 10e3, was expected, got 'few'"),
    "nothing": ("train --num-patches 0 --out new.safetensors", "a whole number from 1 to"),
    "infinity": ("train --num-patches inf --out new.safetensors", "a whole number"),
    "quiet nan": ("simulate --num-patches nan --out new", "a whole number"),
    "signalling nan": ("simulate --num-patches sNaN --out new", "a whole number"),
    "exponent": ("simulate --num-patches 1e999999999 --out new", "a whole number"),
    "no folder": ("simulate --out absent/new.nc", "that can be written was expected"),
    "long name": (f"simulate --out {260 * 'n'}.nc", "that can be written was expected"),
    "is a folder": ("simulate --out folder.nc", "it is a folder"),
    "is a file": ("simulate --out file", "file is another file"),
    "negative seed": ("simulate --seed -1 --num-patches 1 --out new", "a whole number from 0 to"),
    "large seed": ("infer image.nc --seed 1e20 --out new.nc", "from 0 to 4294967295"),
    "many draws": ("infer image.nc --num-draws 1e12 --out new.nc", "from 1 to 20000"),
    "no draws": ("infer image.nc --num-draws 0 --out new.nc", "from 1 to 20000"),
    "many pixels": ("simulate --micrograph --num-pixels 1e9 --out new.nc", "from 1 to 4096"),
    "pixel": ("simulate --micrograph --sampling nan --out new.nc", "from 0.02 to 0.6 was expected"),
    "rate": ("train --num-patches 64 --learning-rate nan --out new.safetensors", "got 'nan'"),
    "infinite rate": ("train --num-patches 64 --learning-rate inf --out new.safetensors", "1e-09"),
    "threads": ("train --num-patches 64 --threads 0 --out new.safetensors", "from 1 to 1024"),
    "workers": ("train --num-patches 64 --workers 1e9 --out new.safetensors", "from 0 to 1024"),
    "device": (
        "train --num-patches 64 --device foo --out new.safetensors",
        "such as cpu, was expected, got 'foo'",
    ),
    "device that only counts shapes": (
        "train --num-patches 64 --device meta --out new.safetensors",
        "such as cpu, was expected, got 'meta'",
    ),
    "device that is not there": (
        "train --num-patches 64 --device cuda:7 --out new.safetensors",
        "such as cpu, was expected, got 'cuda:7'",
    ),
    "one file twice": (
        "train --num-patches 64 --checkpoint new.safetensors --out new.safetensors",
        "two files were expected as --checkpoint and --out",
    ),
    "the image": ("infer image.nc --out image.nc", "another file than the image was expected"),
    "shards": ("simulate --shard-size 9 --out new.nc", "--shard-size belongs to a folder"),
    "many": ("simulate --num-patches 55e6 --out new.nc", "at most 1000000 patches were expected"),
    "more patches than there are": (
        "simulate --num-patches 1e15 --shard-size 1 --out new",
        "from 1 to 1000000000000, such as",
    ),
    "picture": ("infer image.nc --out new.nc --plot new.xyz", "a picture such as result.png"),
    "table": ("infer image.nc --out new.xls", "in .nc, .csv, .parquet or .xyz was expected"),
    "second": (
        "infer image.nc --out new.nc new.txt",
        "in .nc, .csv, .parquet or .xyz was expected",
    ),
    "stream as a table": ("simulate --out new.csv", "ends in .nc, or a folder, was expected"),
    "micrograph as a folder": ("simulate --micrograph --out new", "expected for a micrograph"),
    "weights": ("train --num-patches 64 --out new.nc", "a file that ends in .safetensors"),
}

REFUSED = {
    "unit": ("simulate --context beam_energy=80 --out new", "80 keV is 80000 eV"),
    "other files": ("simulate --out .", "a new or empty folder was expected"),
    "image": ("simulate --patches-per-image 5 --out new", "patches_per_image was expected to"),
    "cut": ("simulate --patches-per-image 4 --num-patches 9 --out new", "num_patches=9; round it"),
    "sampling": ("simulate --context sampling=0.2 --out new", "--sampling for a micrograph"),
    "many shards": (
        "simulate --num-patches 1e12 --shard-size 1 --out new",
        "at most 10000 shards were expected, got 1000000000000 patches in 1000000000000 shards",
    ),
    "wide": (
        "simulate --micrograph --num-pixels 4096 --sampling 0.5 --out new.nc",
        "at most 1000 Å and 8192 pixels was expected, got 4096 pixels of 0.5 Å; change",
    ),
    "small": ("simulate --micrograph --num-pixels 8 --out new.nc", "8 pixels of 0.2"),
    "batch": (
        "train --num-patches 99 --batch-size 99 --out new.safetensors",
        "a batch of whole images of 16",
    ),
    "name": ("infer image.nc --context defocuss=1 --out new.nc", "unknown context variable"),
    "swallowed": ("infer image.nc --context host=WSe2 x.nc --out new.nc", "expected, got 'x.nc'"),
    "twice": ("infer image.nc --context host=WSe2 host=WS2 --out new.nc", "one value of host was"),
    "range": ("infer image.nc --context dose=9..3 --out new.nc", "dose was expected as low..high"),
    "no range": ("infer image.nc --context dose=a..3 --out new.nc", "dose was expected as low.."),
    "endless": ("infer image.nc --context dose=1e4..inf --out new.nc", "two finite numbers"),
    "point": (
        "infer image.nc --context beam_energy=80000..80000.001 --out new.nc",
        "give one number if they are the same",
    ),
    "range in a list": (
        "infer image.nc --context dose=1e4..2e4,5e4 --out new.nc",
        "dose was expected as single values between commas",
    ),
    "hole in a list": ("infer image.nc --context dopant=Ti,,V --out new.nc", "between commas"),
    "nan": ("infer image.nc --context dose=nan --out new.nc", "got NaN"),
    "outside": ("infer image.nc --context dose=-2e4..-1e4 --out new.nc", "check its unit"),
    "file": ("infer absent.nc --out new.nc", "an image was expected at absent.nc"),
    "array": ("infer absent.npy --out new.nc", "an image was expected at absent.npy"),
    "foreign": ("infer foreign.nc --out new.nc", "foreign.nc is an HDF5 file that is damaged"),
    "empty": ("infer empty.npy --out new.nc", "empty.npy is empty (0 bytes); copy it again"),
    "objects": (
        "infer objects.npy --out new.nc",
        "objects.npy is an array of numpy that is damaged",
    ),
    "archive": ("infer archive.npz --out new.nc", "two or more dimensions was expected in archive"),
    "false size": ("infer huge.npy --out new.nc", "huge.npy is an array of numpy that is damaged"),
    "size": ("infer sparse.nc --out new.nc", "an image of at most 1000000000 values was expected"),
    "model": ("infer image.nc --model image.nc --out new.nc", "a model written by bayesctx was"),
    "variables": ("infer several.nc --out new.nc", "those are haadf, maadf; choose one by"),
    "variable": ("infer image.nc --variable host --out new.nc", "host with dimensions (..., y, x)"),
    "dimension": ("infer image.nc --select detector=ADF1 --out new.nc", "a dimension among y, x"),
    "label": (
        "infer several.nc --select detector=3 --variable haadf --out new.nc",
        "ADF1, ADF2, got '3'",
    ),
    "option": ("infer image.npy --variable image --out new.nc", "belong to netCDF files"),
    "no lattice": (
        "infer several.nc --variable maadf --model model.safetensors --out new.nc",
        "every pixel",
    ),
}


@pytest.mark.parametrize(
    ("code", "case"), [(2, c) for c in WRONG_USAGE] + [(1, c) for c in REFUSED]
)
def test_bad_input_is_answered_in_one_line(code, case, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    before = names_in(files)
    words, expected = (WRONG_USAGE if code == 2 else REFUSED)[case]
    assert run(*words.split()) == code
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if "block/s" not in line]
    assert line.startswith("bayesctx: error: ")
    assert expected in line
    assert not shown.out
    assert names_in(files) == before


def test_a_demo_in_a_folder_that_is_a_file_is_refused(files, capsys):
    assert run("demo", "--out-dir", files / "image.nc") == 1
    assert capsys.readouterr().err.startswith("bayesctx: error: ")


SAVING = {
    "simulate": ("simulate --num-patches 1 --out old.nc", "old.nc"),
    "train": (
        "train --num-patches 64 --batch-size 64 --workers 0 --held-out 0 --out old.safetensors",
        "old.safetensors",
    ),
    "infer": ("infer patches.nc --num-draws 64 --model m --out old.nc", "old.nc"),
    "plot": ("infer patches.nc --num-draws 64 --model m --out new.nc --plot old.png", "old.png"),
    "demo": ("demo --model m", "demo.nc"),
}


@pytest.mark.parametrize("case", SAVING)
def test_an_interrupt_while_saving_leaves_nothing_half_written(
    case, files, tmp_path, monkeypatch, capsys
):
    words, kept = SAVING[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / kept).write_text("as it was")
    replace = os.replace

    def interrupt(source, target):
        if os.path.basename(target) == kept:
            raise KeyboardInterrupt
        replace(source, target)

    def smaller(*_, **__):
        return bc.simulate_micrograph(bc.tmd_prior(), seed=0, num_pixels=128)

    monkeypatch.setattr(os, "replace", interrupt)
    monkeypatch.setattr(verbs, "simulate_micrograph", smaller)
    paths = {"m": files / "model.safetensors", "patches.nc": files / "patches.nc"}
    assert run(*(paths.get(word, word) for word in words.split())) == 130
    assert (tmp_path / kept).read_text() == "as it was"
    assert names_in(tmp_path) == (["new.nc", "old.png"] if case == "plot" else [kept])
    assert capsys.readouterr().err.splitlines()[-1] == "bayesctx: interrupted"


def infer_with(files, tmp_path):
    """Words of an inference with the small model."""
    model = ["--model", files / "model.safetensors", "--num-draws", 64]
    return ["infer", files / "patches.nc", *model, "--out", tmp_path / "new.nc"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "bayesctx: interrupted\n"),
        (MemoryError(), 1, "bayesctx: error: more memory was expected"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory:\n9 bytes"),
            1,
            "memory: 9 bytes); use",
        ),
    ],
    ids=["interrupt", "memory", "memory of torch"],
)
def test_what_ends_the_work_is_one_line(error, code, line, files, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(verbs, "infer", fail)
    assert run(*infer_with(files, tmp_path)) == code
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == 1
    assert names_in(tmp_path) == []


def interrupted(done):
    """An import during which Ctrl-C is pressed."""
    with delayed_interrupt():
        signal.raise_signal(signal.SIGINT)
        done.append("imported")


def test_an_interrupt_of_an_import_comes_after_it():
    done, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted(done)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupted(done)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["imported", "imported"]


def test_a_fault_of_ours_keeps_its_traceback(files, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(verbs, "infer", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(*infer_with(files, tmp_path))


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(files, tmp_path, monkeypatch, capsys):
    def doubtful(*arguments, **options):
        warnings.warn("few effective\ndraws", UserWarning, stacklevel=2)
        return bc.infer(*arguments, **options)

    monkeypatch.setattr(verbs, "infer", doubtful)
    assert run(*infer_with(files, tmp_path), "--context", *GIVEN) == 0
    assert "bayesctx: warning: few effective draws\n" in capsys.readouterr().err


def closed_pipe():
    """A stream whose reader has gone, as after ``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def test_a_reader_that_has_gone_costs_no_result(tmp_path, monkeypatch):
    with closed_pipe() as out, closed_pipe() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        # the progress bar goes to stderr, before the file is written
        assert run("simulate", "--num-patches", 1, "--out", tmp_path / "new.nc") == 0
        monkeypatch.undo()
    assert names_in(tmp_path) == ["new.nc"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["dream"]])
def test_python_ends_quietly_after_its_reader(words):
    with closed_pipe() as out:
        command = [sys.executable, "-m", "bayesctx", *words]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    # Python itself would add "Exception ignored ... BrokenPipeError" and return 120
    assert done.returncode == (2 if words == ["dream"] else 0)
    assert "Exception" not in done.stderr


def test_a_summary_that_cannot_be_printed_is_an_error_after_the_result(
    tmp_path, monkeypatch, capsys
):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no device that is always full")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run("simulate", "--num-patches", 1, "--out", tmp_path / "new.nc") == 1
        monkeypatch.undo()
    assert names_in(tmp_path) == ["new.nc"]
    assert "No space left" in capsys.readouterr().err


def test_sites_without_crystal_are_not_counted(files, tmp_path):
    run(*infer_with(files, tmp_path), "--context", *GIVEN)
    result = bc.load(tmp_path / "new.nc")
    whole = describe_result(result)
    assert whole.startswith("4 sites; ")
    crystal = xr.DataArray([[True], [False], [True], [True]], dims=("image", "patch"))
    result["constant_data"] = result["constant_data"].to_dataset().assign(crystal=crystal)
    text = describe_result(result).splitlines()
    assert text[0].startswith("3 sites; ")
    assert text[1] == "sites without crystal, left out of the counts: 1"
    rows = [line.split() for line in text[4 : text.index("", 4)]]
    left = result["class_posterior"].defect.values[[0, 2, 3], 0]
    assert sum(int(row[1]) for row in rows) == 3
    expected = dict(zip(bc.DEFECTS, left.sum(0), strict=True))
    for name, _, value, *_ in rows:
        # printed to one digit
        assert float(value) == pytest.approx(expected[name], abs=0.051)


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        ([], "[eV]"),
        (["simulate"], "[e/Å²]"),
        (["train"], "in nats"),
        (["infer"], "[mrad]"),
        (["summarise"], "[eV]"),
        (["demo"], "in bits"),
    ],
    ids=["bayesctx", "simulate", "train", "infer", "summarise", "demo"],
)
def test_help_has_units_and_examples(words, unit, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert unit in shown
    start = "  bayesctx " + "".join(words)
    assert sum(line.startswith(start) for line in shown.partition("examples:")[2].splitlines()) >= 2
    assert max(map(len, HELP[words[0] if words else "bayesctx"].splitlines())) <= 100


def test_options_name_the_priors_and_verbs_that_exist():
    assert list(options.PRIORS) == list(verbs.PRIORS)
    assert list(options.OPTIONS) == list(verbs.VERBS)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"bayesctx {bc.__version__}\n"


def test_long_arguments_are_shortened_in_errors(capsys):
    assert main(["simulate", "--num-patches", "9" * 400]) == 2
    assert len(capsys.readouterr().err) < 1000


def test_the_command_line_takes_abundances():
    found = read_context(["abundance.V_X=0.03", "dopant=none", "abundance.O_X=0..0.05"])
    assert found["abundance"]["V_X"] == 0.03
    assert float(found["abundance"]["O_X"].high) == pytest.approx(0.05)
    assert bc.check_context(found)["dopant"] is None
    for text in ("abundance=0.03", "abundance.=0.03"):
        with pytest.raises(ValueError, match="abundance.CLASS=SHARE was expected|unknown context"):
            bc.check_context(read_context([text]))


def test_a_summary_says_what_was_given_of_the_abundances(untrained):
    patch = bc.simulate(bc.reference_prior(), 1, seed=0).intensity[0]
    known = {"host": "WSe2", "dopant": None, "abundance": {"Y_X": 0, "M_X": 0.0}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rows = describe_result(bc.infer(patch, known, untrained, num_draws=8)).splitlines()
    assert [r.split(maxsplit=1)[1] for r in rows if r.startswith(("dopant", "abundance"))] == [
        "none (given)",
        "Y_X 0, M_X 0 (given)",
    ]


@pytest.fixture(scope="module")
def scans(files, tmp_path_factory):
    """A folder with a micrograph and a file that is none."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "good.npy").write_bytes((files / "image.npy").read_bytes())
    (folder / "bad.tif").write_bytes(b"II*\0 cut")
    return folder


def series_words(files, scans, out):
    """Words of the inference of a folder with the small model."""
    model = ["--model", files / "model.safetensors", "--num-draws", 64, "--likelihood", "network"]
    return ["infer", scans, *model, "--context", *GIVEN, "--out", out]


def test_infer_takes_a_folder_and_tells_of_bad_files(files, scans, tmp_path, capsys):
    out = tmp_path / "results"
    assert run(*series_words(files, scans, out)) == 3
    assert names_in(out) == ["good.npy.nc", "series.json"]
    shown = capsys.readouterr().out
    assert shown.startswith("1 of 2 images inferred")
    assert "bad.tif: an image was expected" in shown
    assert "next: mend these files and repeat the command" in shown
    assert max(map(len, shown.splitlines())) <= 80 + len(str(tmp_path))  # paths are not broken
    (scans / "bad.tif").rename(tmp_path / "bad.tif")
    try:
        assert run(*series_words(files, scans, out), "--json") == 0
    finally:
        (tmp_path / "bad.tif").rename(scans / "bad.tif")
    found = json.loads(capsys.readouterr().out)
    assert [(r["image"], r["status"]) for r in found["images"]] == [("good.npy", "done")]


def test_summarise_writes_a_table_and_the_prior_of_the_session(files, scans, tmp_path, capsys):
    out, session = tmp_path / "results", tmp_path / "session.json"
    run(*series_words(files, scans, out))
    capsys.readouterr()
    assert run("summarise", out, "--out", tmp_path / "s.csv", "--session", session) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 + len(str(tmp_path))
    assert (tmp_path / "s.csv").read_text().splitlines()[1].startswith("M,")
    assert run("summarise", out, "--out", tmp_path / "s.nc", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    with xr.open_dataset(tmp_path / "s.nc") as table:
        mean = float(table["mean"].sel(defect_class="V_X"))
    assert found["concentrations"]["V_X"]["mean"] == pytest.approx(mean)
    learned = bc.Prior.from_dict(json.loads(session.read_text()))
    assert learned.hosts == bc.reference_prior().hosts
    one = ["infer", files / "image.npy", "--model", files / "model.safetensors", "--num-draws", 64]
    one += ["--likelihood", "network", "--session", session, "--context", *GIVEN[:1]]
    assert run(*one, "--out", tmp_path / "next.nc") == 0
    session.write_text("{}")
    assert run(*one, "--out", tmp_path / "next.nc") == 1
    assert "a prior written by bayesctx summarise --session" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("infer scans --out new.nc", "a folder was expected as --out"),
        ("infer scans --out new --plot new.png", "--plot belongs to one image"),
        ("infer scans scans --out new", "one folder of images and one of results"),
        ("infer image.npy --out new", "a file that ends in .nc, .csv, .parquet, .xyz was expected"),
        ("infer image.npy --out new.nc --workers 2", "--workers belongs to a folder of images"),
        ("infer image.npy --out new.nc --scheduler x", "--scheduler belongs to a folder"),
        ("summarise scans --out new.xyz", "a file that ends in .nc or .csv was expected"),
    ],
)
def test_options_of_folders_and_images_are_not_mixed(
    words, match, files, scans, monkeypatch, capsys
):
    monkeypatch.chdir(files)
    before = names_in(files)
    assert run(*(scans if word == "scans" else word for word in words.split())) == 2
    shown = capsys.readouterr()
    assert match in shown.err
    assert not shown.out
    assert names_in(files) == before


def test_a_scheduler_needs_an_extra(files, scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = series_words(files, scans, tmp_path / "results")
    assert run(*words, "--scheduler", "tcp://127.0.0.1:8786") == 1
    assert "pip install 'bayesctx[dask]'" in capsys.readouterr().err
    # the folder is begun: the same command goes on
    assert names_in(tmp_path / "results") == ["series.json"]
    assert run(*words) == 3


def test_a_folder_without_results_is_refused(scans, capsys):
    assert run("summarise", scans) == 1
    assert "there is no series.json" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_json_is_all_that_is_printed(files, tmp_path, monkeypatch, capsys):
    def doubtful(*arguments, **options):
        warnings.warn("few effective\ndraws", UserWarning, stacklevel=2)
        return bc.infer(*arguments, **options)

    monkeypatch.setattr(verbs, "infer", doubtful)
    words = ["infer", files / "image.npy", "--model", files / "model.safetensors", "--json"]
    words += ["--num-draws", 64, "--likelihood", "network", "--context", *GIVEN]
    assert run(*words, "--out", tmp_path / "new.nc") == 0
    shown = capsys.readouterr()
    found, result = json.loads(shown.out), bc.load(tmp_path / "new.nc")
    assert "few effective draws" in found["warnings"]
    assert "bayesctx: warning: few effective draws" in shown.err
    assert found["written"] == [str(tmp_path / "new.nc")]
    assert found["num_sites"] == result["class_posterior"].sizes["patch"]
    assert found["context"]["host"] == {"value": "WSe2"}
    inner = found["context"]["inner_collection_angle"]
    assert inner["mean"] == pytest.approx(float(result["posterior"].inner_collection_angle.mean()))
    assert sum(found["context"]["assignment"]["probability"].values()) == pytest.approx(1)


def test_json_has_no_number_that_other_programs_refuse():
    answer = Answer("", {"a": np.float32(np.nan), "b": [np.int64(3), float("inf")]})
    assert json.loads(answer.as_json([])) == {"a": None, "b": [3, None], "warnings": []}


@pytest.mark.parametrize("name", ["none", "undoped"])
def test_a_crystal_without_dopant_can_be_stated(name):
    assert bc.check_context(read_context([f"dopant={name}"]))["dopant"] is None


def test_a_summary_fits_a_terminal_and_says_what_to_do_next(files, tmp_path, capsys):
    words = ["infer", files / "image.npy", "--model", files / "model.safetensors"]
    words += ["--num-draws", 64, "--likelihood", "network", "--out", tmp_path / "new.nc"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("written: "))
    assert max(map(len, lines[:at])) <= 80
    assert lines[at + 1].startswith("next: result = bayesctx.load(")


def test_long_lines_are_wrapped_and_words_are_not_broken():
    text = wrap("  name  " + "value " * 20 + "x" * 90, 6)
    lines = text.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1] == " " * 6 + "x" * 90
    assert wrap("short", 4) == "short"


def test_the_demo_starts_with_a_result_and_no_warning(tmp_path, capsys):
    assert run("demo", "--out-dir", tmp_path) == 0
    shown = capsys.readouterr()
    assert "warning" not in shown.err
    assert shown.out.startswith("826 sites were found")
    assert max(map(len, shown.out.partition("the posterior with")[0].splitlines())) <= 80
    *_, first, last = shown.out.splitlines()
    assert first.startswith("next: bayesctx infer")
    assert first.endswith("\\")
    assert len(last) <= 80


@pytest.mark.parametrize(
    ("called", "is_found", "expected"),
    [
        (".venv/bin/bayesctx", False, ".venv/bin/bayesctx"),
        ("my folder/bayesctx", False, "'my folder/bayesctx'"),
        (".venv/bin/bayesctx", True, "bayesctx"),
        ("site-packages/bayesctx/__main__.py", False, "python -m bayesctx"),
        ("bin/pytest", False, "bayesctx"),
    ],
)
def test_proposed_commands_are_those_that_the_shell_finds(called, is_found, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if is_found else None)
    assert propose("infer", "--help") == f"{expected} infer --help"


def test_proposed_commands_are_continued_within_80_columns(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    words = [f"--option{k} value" for k in range(20)]
    lines = f"next: {propose('infer', *words)}".splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80
    assert all(line.endswith(" \\") for line in lines[:-1])
    joined = " ".join(line.removesuffix(" \\").strip() for line in lines)
    assert joined == f"next: bayesctx infer {' '.join(words)}"


@contextmanager
def small_disk(num_bytes):
    """No file may be larger, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="limits of file sizes belong to Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["new.nc", "new.csv", "new.xyz", "new.png"])
def test_a_full_disk_leaves_nothing_half_written(name, files, tmp_path, capsys):
    words = ["infer", files / "image.npy", "--model", files / "model.safetensors"]
    words += ["--num-draws", 64, "--likelihood", "network", "--context", *GIVEN]
    written = ["--out", tmp_path / "old.nc", "--plot"] if name == "new.png" else ["--out"]
    size = {"new.png": 200_000, "new.xyz": 50}.get(name, 2_000)
    with small_disk(size):
        assert run(*words, *written, tmp_path / name) == 1
    assert names_in(tmp_path) == (["old.nc"] if name == "new.png" else [])
    assert f"room for {tmp_path / name} was expected" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["new.nc", "new.csv", "new.json"])
def test_a_full_disk_leaves_no_half_summary(name, files, scans, tmp_path, capsys):
    run(*series_words(files, scans, tmp_path / "results"))
    capsys.readouterr()
    flag = "--session" if name == "new.json" else "--out"
    with small_disk(1_000):
        assert run("summarise", tmp_path / "results", flag, tmp_path / name) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["results"]
    assert f"room for {tmp_path / name} was expected" in capsys.readouterr().err

import os
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import bayesctx as bc
from bayesctx.cli import commands as verbs, main
from bayesctx.cli.arguments import read_context, read_image

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
    (folder / "empty.npy").touch()
    (folder / "foreign.nc").write_bytes((folder / "image.nc").read_bytes()[:1000])
    return folder


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
    assert run(*words, "--num-patches", 64, "--batch-size", 64, "--out", tmp_path / "again") == 0
    again = bc.load_model(tmp_path / "again")
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
    assert (
        read_image(files / "several.nc", "haadf", ["detector=ADF2"]).coords["detector"].item()
        == "ADF2"
    )
    assert read_image(files / "several.nc", "maadf", ["y=3"]).sizes == {"x": 40}


BAD = {
    "no verb": ([], "arguments are required: VERB"),
    "unknown verb": (["dream"], "invalid choice: 'dream'"),
    "no output": (["simulate"], "arguments are required: --out"),
    "count": (["simulate", "--num-patches", "1.5", "--out", "new"], "such as 1000 or 10e6 was expected, got '1.5'"),
    "nothing": (["train", "--num-patches", "0", "--out", "new"], "at least 1 was expected, got 0"),
    "infinity": (["train", "--num-patches", "inf", "--out", "new"], "a whole number"),
    "folder": (["simulate", "--out", "absent/new.nc"], "that can be written was expected, got 'absent/new.nc'"),
    "seed": (["simulate", "--seed", "-1", "--num-patches", "1", "--out", "new"], "seed was expected to be at least 0"),
    "unit": (["simulate", "--context", "beam_energy=80", "--out", "new"], "80 keV is 80000 eV"),
    "shards": (["simulate", "--shard-size", "9", "--out", "new.nc"], "--shard-size belongs to a folder of patches"),
    "many": (["simulate", "--num-patches", "55e6", "--out", "new.nc"], "at most 1000000 patches were expected in one file"),
    "no folder": (["simulate", "--out", "empty.npy"], "a folder, or a file that ends in .nc, was expected, empty.npy is"),
    "strangers": (["simulate", "--out", "."], "a new or empty folder was expected"),
    "image": (["simulate", "--patches-per-image", "5", "--out", "new"], "patches_per_image was expected to divide"),
    "cut": (["simulate", "--patches-per-image", "4", "--num-patches", "9", "--out", "new"], "got num_patches=9; round it"),
    "sampling": (["simulate", "--context", "sampling=0.2", "--out", "new"], "a micrograph takes --sampling"),
    "small": (["simulate", "--micrograph", "--num-pixels", "8", "--out", "new"], "8 pixels of 0.2"),
    "batch": (["train", "--num-patches", "99", "--batch-size", "99", "--out", "new"], "a batch of whole images of 16"),
    "name": (["infer", "image.nc", "--context", "defocuss=1", "--out", "new"], "unknown context variable 'defocuss'"),
    "swallowed": (["infer", "image.nc", "--context", "host=WSe2", "x.nc", "--out", "new"], "NAME=VALUE was expected, got 'x.nc'"),
    "twice": (["infer", "image.nc", "--context", "host=WSe2", "host=WS2", "--out", "new"], "one value of host was expected"),
    "range": (["infer", "image.nc", "--context", "dose=9..3", "--out", "new"], "dose was expected as low..high"),
    "file": (["infer", "absent.nc", "--out", "new"], "an image was expected at absent.nc, there is no such file"),
    "array": (["infer", "absent.npy", "--out", "new"], "an image was expected at absent.npy, there is no such file"),
    "foreign": (["infer", "foreign.nc", "--out", "new"], "foreign.nc is truncated or foreign"),
    "empty": (["infer", "empty.npy", "--out", "new"], "empty.npy is truncated or foreign"),
    "model": (["infer", "image.nc", "--model", "image.nc", "--out", "new"], "a model written by bayesctx was expected"),
    "variables": (["infer", "several.nc", "--out", "new"], "those are haadf, maadf; choose one by --variable"),
    "variable": (["infer", "image.nc", "--variable", "host", "--out", "new"], "host with dimensions (..., y, x) was expected"),
    "dimension": (["infer", "image.nc", "--select", "detector=ADF1", "--out", "new"], "a dimension among y, x was expected"),
    "label": (["infer", "several.nc", "--select", "detector=3", "--variable", "haadf", "--out", "new"], "ADF1, ADF2, got '3'"),
    "option": (["infer", "image.npy", "--variable", "image", "--out", "new"], "--variable and --select belong to netCDF files"),
    "picture": (["infer", "image.nc", "--out", "new", "--plot", "new.xyz"], "a picture such as result.png or result.pdf"),
    "no lattice": (["infer", "several.nc", "--variable", "maadf", "--model", "model.safetensors", "--out", "new"], "every pixel"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line(case, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    before = names_in(files)
    words, expected = BAD[case]
    assert run(*words) == 2
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if "block/s" not in line]
    assert line.startswith("bayesctx: error: ")
    assert expected in line
    assert not shown.out
    assert names_in(files) == before


def test_a_demo_in_a_folder_that_is_a_file_is_refused(files, capsys):
    assert run("demo", "--out-dir", files / "image.nc") == 2
    assert capsys.readouterr().err.startswith("bayesctx: error: ")


@pytest.mark.parametrize("case", ["simulate", "train", "infer", "plot", "demo"])
def test_an_interrupt_while_saving_leaves_nothing_half_written(
    case, files, tmp_path, monkeypatch, capsys
):
    words = {
        "simulate": ["simulate", "--num-patches", 1, "--out", tmp_path / "old.nc"],
        "train": ["train", "--num-patches", 64, "--batch-size", 64, "--workers", 0, "--held-out", 0, "--out", tmp_path / "old"],
        "infer": ["infer", files / "patches.nc", "--num-draws", 64, "--out", tmp_path / "old"],
        "plot": ["infer", files / "patches.nc", "--num-draws", 64, "--out", tmp_path / "new", "--plot", tmp_path / "old.png"],
        "demo": ["demo", "--out-dir", tmp_path],
    }[case]  # fmt: skip
    replace, kept = (
        os.replace,
        {"simulate": "old.nc", "plot": "old.png", "demo": "demo.nc"}.get(case, "old"),
    )
    (tmp_path / kept).write_text("as it was")

    def interrupt(source, target):
        if os.path.basename(target) == kept:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    monkeypatch.setattr(
        verbs,
        "simulate_micrograph",
        lambda *_, **__: bc.simulate_micrograph(bc.tmd_prior(), seed=0, num_pixels=128),
    )
    model = [] if case in ("simulate", "train") else ["--model", files / "model.safetensors"]
    assert run(*words, *model) == 130
    assert (tmp_path / kept).read_text() == "as it was"
    assert names_in(tmp_path) == (["new", "old.png"] if case == "plot" else [kept])
    assert capsys.readouterr().err.splitlines()[-1] == "bayesctx: interrupted"


def test_an_interrupt_at_work_is_one_line(files, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "infer", interrupt)
    assert (
        run(
            "infer",
            files / "image.nc",
            "--model",
            files / "model.safetensors",
            "--out",
            tmp_path / "new",
        )
        == 130
    )
    assert capsys.readouterr().err == "bayesctx: interrupted\n"
    assert names_in(tmp_path) == []


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(files, tmp_path, monkeypatch, capsys):
    def doubtful(*arguments, **options):
        warnings.warn("few effective draws", UserWarning, stacklevel=2)
        return bc.infer(*arguments, **options)

    monkeypatch.setattr(verbs, "infer", doubtful)
    words = [
        "infer",
        files / "patches.nc",
        "--model",
        files / "model.safetensors",
        "--num-draws",
        64,
        "--out",
        tmp_path / "new",
    ]
    assert run(*words, "--context", *GIVEN) == 0
    assert "bayesctx: warning: few effective draws\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        ([], "[eV]"),
        (["simulate"], "[e/Å²]"),
        (["train"], "in nats"),
        (["infer"], "[mrad]"),
        (["demo"], "in bits"),
    ],
    ids=["bayesctx", "simulate", "train", "infer", "demo"],
)
def test_help_teaches(words, unit, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert unit in shown
    start = "  bayesctx " + "".join(words)
    assert sum(line.startswith(start) for line in shown.partition("examples:")[2].splitlines()) >= 2

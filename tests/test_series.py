import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from torch.distributions import Normal

import bayesctx as bc
from bayesctx.series import ledger, listing, workers

CONTEXT = {"host": "WSe2", "dopant": "Ti", "sampling": 0.2, "beam_energy": 80e3}
FAST = {"likelihood": "network", "num_draws": 64}
SEEN = {"dose": 1e6, "defocus": 0.0, "inner_collection_angle": 60.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small untrained model and its file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    small = bc.DefectModel(bc.reference_prior(), num_features=4, num_components=2, hidden=16)
    bc.save_model(small, path)
    return bc.load_model(path), path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three micrographs, two files that are none, and one that is of no interest."""
    folder = tmp_path_factory.mktemp("scans")
    given = {n: v for n, v in CONTEXT.items() if n != "sampling"} | SEEN
    prior = bc.reference_prior().given(given | {"convergence_semiangle": 30.0})
    for k in range(3):
        data = bc.simulate_micrograph(prior, seed=2, index=k, num_pixels=112, sampling=0.2)
        np.save(folder / f"scan_{k}.npy", data.intensity.values)
    (folder / "cut.tif").write_bytes(b"II*\0 truncated")
    np.save(folder / "flat.npy", np.ones((64, 64)))
    (folder / "notes.txt").write_text("WSe2, 80 kV")
    (folder / "older").mkdir()
    return folder


@pytest.fixture(scope="module")
def results(scans, model, tmp_path_factory):
    """Their results."""
    out = tmp_path_factory.mktemp("results") / "new"
    records = bc.infer_series(scans, out, CONTEXT, model[0], **FAST)
    return out, records


def names_in(folder):
    """Files of a folder, hidden ones too."""
    return sorted(p.name for p in folder.iterdir())


def test_every_image_has_a_result_and_bad_files_are_recorded(scans, model, results):
    out, records = results
    assert [(r.image, r.status) for r in records] == [
        ("cut.tif", "refused"),
        ("flat.npy", "refused"),
        *((f"scan_{k}.npy", "done") for k in range(3)),
    ]
    assert "damaged or truncated" in records[0].message
    assert "every pixel" in records[1].message
    assert names_in(out) == [*(f"scan_{k}.npy.nc" for k in range(3)), "series.json"]
    alone = bc.infer(bc.read(scans / "scan_1.npy"), CONTEXT, model[0], **FAST)
    xr.testing.assert_identical(bc.load(out / "scan_1.npy.nc"), alone)


@pytest.mark.parametrize("in_memory", [False, True], ids=["lazy", "in memory"])
def test_the_results_are_one_tree_with_a_group_for_each_image(results, in_memory):
    series = bc.open_series(results[0], in_memory=in_memory)
    assert list(series.children) == [f"scan_{k}.npy" for k in range(3)]
    alone = bc.load(results[0] / "scan_2.npy.nc")
    for group, expected in alone.children.items():
        found = series["scan_2.npy"][group].to_dataset()
        xr.testing.assert_identical(found.load(), expected.to_dataset())
    assert series["scan_2.npy"].attrs == alone.attrs
    assert json.loads(series.attrs["settings"])["context"] == CONTEXT
    assert int(bc.counts(series["scan_0.npy"]).attrs["num_sites"]) > 50
    series.close()


def inferred_by(monkeypatch):
    """Names of the images that are inferred from now on."""
    names, original = [], workers.infer_file

    def watch(job, image, model):
        names.append(image.name)
        return original(job, image, model)

    monkeypatch.setattr(workers, "infer_file", watch)
    return names


def test_a_second_run_infers_only_what_is_missing_or_has_changed(
    scans, model, tmp_path, monkeypatch
):
    copies, out = tmp_path / "scans", tmp_path / "out"
    copies.mkdir()
    for name in ("scan_0.npy", "scan_1.npy", "scan_2.npy", "flat.npy"):
        (copies / name).write_bytes((scans / name).read_bytes())
    bc.infer_series(copies, out, CONTEXT, model[0], **FAST)
    names = inferred_by(monkeypatch)
    bc.infer_series(copies, out, CONTEXT, model[0], **FAST)
    assert names == ["flat.npy"]  # it may have been mended
    os.utime(copies / "scan_0.npy", ns=(0, 0))  # as of a copy
    names.clear()
    bc.infer_series(copies, out, CONTEXT, model[0], **FAST)
    assert names == ["flat.npy"]
    (out / "scan_0.npy.nc").unlink()
    (out / "scan_1.npy.nc").write_bytes((out / "scan_1.npy.nc").read_bytes()[:-9])
    np.save(copies / "scan_2.npy", np.load(copies / "scan_2.npy")[:, :-1])
    np.save(copies / "flat.npy", np.load(scans / "scan_0.npy"))
    names.clear()
    records = bc.infer_series(copies, out, CONTEXT, model[0], **FAST)
    assert names == ["flat.npy", "scan_0.npy", "scan_1.npy", "scan_2.npy"]
    assert {r.status for r in records} == {"done"}
    assert bc.load(out / "scan_2.npy.nc")["observed_data"].sizes["x"] == 111


SCRIPT = """
import sys
import time
import bayesctx as bc
from bayesctx.series import workers
original = workers.infer_file
def slow(job, image, model):
    record = original(job, image, model)
    print(image.name, flush=True)
    return record
workers.infer_file = slow
if __name__ == "__main__":
    bc.infer_series(sys.argv[1], sys.argv[2], {context}, bc.load_model(sys.argv[3]), **{fast})
"""


def test_a_run_that_is_killed_goes_on_where_it_was(scans, model, tmp_path, monkeypatch):
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(SCRIPT.format(context=CONTEXT, fast=FAST))
    command = [sys.executable, script, scans, out, model[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        while run.stdout.readline().strip() != "scan_0.npy":
            pass
        run.send_signal(signal.SIGKILL)
    left = [name for name in names_in(out) if not name.startswith(".")]
    assert set(left) <= {"series.json", *(f"scan_{k}.npy.nc" for k in range(3))}
    assert "scan_2.npy.nc" not in left
    names = inferred_by(monkeypatch)
    records = bc.infer_series(scans, out, CONTEXT, model[0], **FAST)
    # scan_0 may have been written but not recorded
    assert names in (
        ["cut.tif", "flat.npy", "scan_1.npy", "scan_2.npy"],
        ["cut.tif", "flat.npy", "scan_0.npy", "scan_1.npy", "scan_2.npy"],
    )
    assert [r.status for r in records].count("done") == 3
    assert names_in(out) == [*(f"scan_{k}.npy.nc" for k in range(3)), "series.json"]


def test_an_interrupt_while_a_result_is_saved_leaves_nothing_half_written(
    scans, model, tmp_path, monkeypatch
):
    move = os.replace

    def interrupt(source, target):
        if os.path.basename(target) == "scan_1.npy.nc":
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bc.infer_series(scans, tmp_path / "out", CONTEXT, model[0], **FAST)
    assert names_in(tmp_path / "out") == ["scan_0.npy.nc", "series.json"]
    assert ledger.read_ledger(tmp_path / "out")[1]["scan_0.npy"].status == "done"


LIMITED = """
import resource, signal, sys
import bayesctx as bc
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    bc.infer_series(sys.argv[1], sys.argv[2], {context}, bc.load_model(sys.argv[3]), **{fast})
except OSError as error:
    print(error)
"""


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(scans, model, tmp_path):
    pytest.importorskip("resource", reason="limits of file sizes belong to Unix")
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(LIMITED.format(context=CONTEXT, fast=FAST))
    command = [sys.executable, script, scans, out, model[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exceeds the largest size of a file" in done.stdout
    assert "scan_0.npy.nc was expected" in done.stdout
    assert names_in(out) == ["series.json"]
    statuses = [r.status for r in ledger.read_ledger(out)[1].values()]
    assert statuses == ["refused", "refused"]


def test_local_processes_give_the_same_results(scans, model, results, tmp_path):
    records = bc.infer_series(scans, tmp_path / "out", CONTEXT, model[0], **FAST, num_workers=2)
    assert [r.status for r in records] == [r.status for r in results[1]]
    for name in (f"scan_{k}.npy.nc" for k in range(3)):
        ours, theirs = bc.load(tmp_path / "out" / name), bc.load(results[0] / name)
        xr.testing.assert_allclose(ours, theirs)


def test_workers_of_dask_give_the_same_results(scans, model, results, tmp_path):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(**options, processes=False) as cluster:
            address = cluster.scheduler_address
            out = tmp_path / "out"
            records = bc.infer_series(scans, out, CONTEXT, model[0], **FAST, scheduler=address)
    assert [r.status for r in records] == [r.status for r in results[1]]
    ours, theirs = (bc.load(f / "scan_0.npy.nc") for f in (out, results[0]))
    xr.testing.assert_allclose(ours, theirs)


def test_without_distributed_a_scheduler_is_refused(scans, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'bayesctx\[dask\]'"):
        bc.infer_series(scans, tmp_path / "out", CONTEXT, model[0], **FAST, scheduler="tcp://x:1")


def test_a_fault_of_one_image_does_not_end_the_others(scans, model, tmp_path, monkeypatch):
    def fail(image, *arguments, **options):
        if image.attrs["source"] == "scan_0.npy":
            raise AttributeError("a fault of ours")
        return bc.infer(image, *arguments, **options)

    monkeypatch.setattr("bayesctx.series.job.infer", fail)
    records = bc.infer_series(scans, tmp_path / "out", CONTEXT, model[0], **FAST)
    assert [r.status for r in records] == ["refused", "refused", "failed", "done", "done"]
    assert records[2].message.strip().splitlines()[-1] == "AttributeError: a fault of ours"


def test_warnings_of_an_image_are_recorded_and_not_raised(scans, model, tmp_path, monkeypatch):
    def doubtful(*arguments, **options):
        warnings.warn("few effective\ndraws", UserWarning, stacklevel=2)
        return bc.infer(*arguments, **options)

    monkeypatch.setattr("bayesctx.series.job.infer", doubtful)
    one = [scans / "scan_0.npy"]
    (record,) = bc.infer_series(one, tmp_path / "out", CONTEXT, model[0], **FAST)
    assert record.warnings.count("few effective draws") == 1


def test_what_cannot_be_a_series_is_refused_before_the_first_image(
    scans, model, results, tmp_path, monkeypatch
):
    names = inferred_by(monkeypatch)
    out, small = tmp_path / "out", model[0]

    def refuse(match, kind, *arguments, **options):
        with pytest.raises(kind, match=match):
            bc.infer_series(*arguments, **FAST | options)

    refuse("there is no such folder", OSError, tmp_path / "absent", out, CONTEXT, small)
    refuse("none of its 0 files", ValueError, scans / "older", out, CONTEXT, small)
    refuse("a folder or a list of image files", TypeError, 5, out, CONTEXT, small)
    refuse("another folder than that of the images", ValueError, scans, scans, CONTEXT, small)
    refuse("a new or empty folder", ValueError, scans, scans.parent, CONTEXT, small)
    refuse("80 keV is 80000 eV", ValueError, scans, out, {"beam_energy": 80.0}, small)
    arrays = {"dose": np.array([1e4, 2e4])}
    refuse("one value of dose for all images", ValueError, scans, out, arrays, small)
    refuse("a likelihood of auto", ValueError, scans, out, CONTEXT, small, likelihood="x")
    refuse("num_workers", ValueError, scans, out, CONTEXT, small, num_workers=-1)
    twice = [scans / "scan_0.npy", scans / "older" / "scan_0.npy"]
    refuse("different names", ValueError, twice, out, CONTEXT, small)
    refuse("has another context", ValueError, scans, results[0], {"host": "WS2"}, small)
    refuse("has another num_draws", ValueError, scans, results[0], CONTEXT, small, num_draws=8)
    other = small.with_prior(bc.tmd_prior())
    refuse("has another prior", ValueError, scans, results[0], CONTEXT, other)
    assert names == []
    assert not out.exists()


def test_soft_evidence_is_recorded_and_compared(scans, model, tmp_path):
    one, out = [scans / "scan_0.npy"], tmp_path / "out"
    soft = CONTEXT | {"dose": bc.log_uniform(1e5, 1e6), "defocus": Normal(0.0, 5.0)}
    bc.infer_series(one, out, soft, model[0], **FAST)
    kept = ledger.read_ledger(out)[0].context
    assert kept["dose"] == {"log_uniform": [1e5, 1e6]}
    assert kept["defocus"] == {"Normal": [0.0, 5.0]}
    assert bc.infer_series(one, out, soft, model[0], **FAST)[0].status == "done"
    with pytest.raises(ValueError, match="has another context"):
        bc.infer_series(one, out, soft | {"defocus": Normal(0.0, 6.0)}, model[0], **FAST)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": "bayesctx series 1", "settings": {}, "images": []}'],
    ids=["empty", "no format", "list", "no settings"],
)  # fmt: skip
def test_a_damaged_record_is_refused(text, tmp_path):
    (tmp_path / "series.json").write_text(text)
    with pytest.raises(ValueError, match="damaged or foreign"):
        bc.open_series(tmp_path)


def test_a_folder_without_record_or_result_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match=r"there is no series\.json"):
        bc.open_series(tmp_path)
    records = {"gone.npy": ledger.Record("gone.npy", "done")}
    ledger.write_ledger(tmp_path, ledger.read_ledger(results[0])[0], records)
    with pytest.raises(ValueError, match="missing or damaged"):
        bc.open_series(tmp_path)


def test_a_series_of_ser_files_is_read_with_its_emi_file(tmp_path):
    for name in ("a.emi", "a_1.ser", "b_1.ser", ".hidden.npy", "c.NPY"):
        (tmp_path / name).touch()
    assert [i.name for i in listing.list_images(tmp_path)] == ["a.emi", "b_1.ser", "c.NPY"]


IN_PROCESSES = (
    SCRIPT.partition("if __name__")[0].partition("original")[0]
    + """
if __name__ == "__main__":
    model = bc.load_model(sys.argv[3])
    bc.infer_series(sys.argv[1], sys.argv[2], {context}, model, **{fast}, num_workers=2)
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/1/task"), reason="processes are listed by Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_local_processes_end_with_the_run(number, scans, model, tmp_path):
    many, out, script = tmp_path / "scans", tmp_path / "out", tmp_path / "run.py"
    many.mkdir()
    for k in range(200):
        (many / f"{k:03d}.npy").write_bytes((scans / "scan_0.npy").read_bytes())
    script.write_text(IN_PROCESSES.format(context=CONTEXT, fast=FAST))
    command = [sys.executable, script, many, out, model[1]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        while not list(out.glob("*.npy.nc")):
            time.sleep(0.1)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        run.send_signal(number)
        run.communicate()
    for _ in range(100):  # they look for their parent as soon as an operation is done
        left = [c for c in children if os.path.exists(f"/proc/{c}")]
        if not left:
            break
        time.sleep(0.1)
    assert not left
    assert len(list(out.glob("*.npy.nc"))) < 200
    if number == signal.SIGINT:
        assert not list(out.glob(".*"))

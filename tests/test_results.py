"""Results as files: whole ones come back, damaged and foreign ones are refused."""

import numpy as np
import pytest
import xarray as xr

from bayesctx import infer, load, reference_prior, save, simulate, to_arviz
from bayesctx.inference.results import SEAL_SIZE


@pytest.fixture(scope="module")
def result():
    data = simulate(reference_prior(), 2, seed=1)
    context = {n: data[n].values for n in ("host", "dopant", "beam_energy", "dose")}
    return infer(data.intensity, context, num_draws=64)


@pytest.fixture
def path(result, tmp_path):
    return save(result, tmp_path / "result.nc")


def test_a_result_comes_back(result, path):
    assert load(path).identical(result)
    assert load(str(path)).identical(result)


def test_every_flipped_bit_is_noticed(path):
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(content) - SEAL_SIZE, 50):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"result.nc is damaged.*its checksum.*; infer it again"
        ):
            load(path)


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="is damaged, truncated or foreign"):
        load(path)


def test_other_programs_read_and_write_such_files(result, path):
    with xr.open_datatree(path, engine="netcdf4") as tree:
        assert tree.identical(result)
    result.to_netcdf(path.with_name("other.nc"))
    assert load(path.with_name("other.nc")).identical(result)


CONTENTS = {
    "no mark": (lambda tree: tree.attrs.pop("package"), "carries no such mark"),
    "no group": (lambda tree: tree.children["prior"].orphan(), "no group prior"),
    "no classes": (lambda tree: tree.update({"class_posterior": xr.DataTree()}), "defect"),
    "NaN": (lambda tree: tree["class_posterior"].defect.values.fill(np.nan), "do not sum to one"),
    "sum": (lambda tree: tree["class_posterior"].defect.values.fill(0.5), "do not sum to one"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_result_is_refused(kind, result, tmp_path):
    change, message = CONTENTS[kind]
    tree = result.copy(deep=True)
    change(tree)
    tree.to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "other.nc")


@pytest.mark.parametrize("place", [None, 3, ["result.nc"], object()])
def test_a_path_is_needed(place, result):
    with pytest.raises(TypeError, match="a path was expected, got .*; give a str or a Path"):
        save(result, place)
    with pytest.raises(TypeError, match="a path was expected, got .*; give a str or a Path"):
        load(place)


@pytest.mark.parametrize("place", ["", "a\0b"])
def test_a_path_is_one_of_a_file_system(place, result):
    for use in (lambda: save(result, place), lambda: load(place)):
        with pytest.raises(ValueError, match="a path without null characters was expected"):
            use()


@pytest.mark.parametrize("place", ["absent.nc", "x" * 300])
def test_an_absent_file_is_said_to_be(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file; check the path"):
        load(tmp_path / place)


@pytest.mark.parametrize("thing", [None, 3, xr.Dataset(), {"class_posterior": 1}])
def test_only_trees_are_saved_and_converted(thing, tmp_path):
    for use in (lambda: save(thing, tmp_path / "x.nc"), lambda: to_arviz(thing)):
        with pytest.raises(TypeError, match="a DataTree was expected.*; pass what infer returned"):
            use()

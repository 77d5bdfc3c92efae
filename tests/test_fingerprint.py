"""An image is recognised as the one that was read: a sum of frames has the dose of all of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

import bayesctx as bc
from bayesctx.files import recorded_context
from bayesctx.files.fingerprint import is_as_read
from bayesctx.files.recorded import join_context

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from written.velox import write_velox

ANGLES = {"HAADF": (0.06, 0.2), "DF4": (0.03, 0.058)}
RNG = np.random.default_rng(0)
SIGNAL = 2000 + 1000 * np.sin(np.arange(200) / 2)[:, None] * np.cos(np.arange(160) / 3)
FRAMES = RNG.poisson(np.stack([SIGNAL] * 3, -1)).astype(np.uint16)
"""Of a high dose: the noise is 4 % of the contrast."""


@pytest.fixture(autouse=True)
def keep_attributes():
    """As xarray does by default since 2025."""
    with xr.set_options(keep_attrs=True):
        yield


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "series.emd"
    write_velox(path, {"HAADF": FRAMES}, ANGLES)
    return [bc.read(path, select={"frame": k}) for k in range(3)]


def bytes_of(image):
    grey = 255.0 * (image - image.min()) / (image.max() - image.min())
    return grey.round().astype(np.uint8)


KEPT = {
    "as it is": lambda s: s[0],
    "a part": lambda s: s[1][30:90, 70:150],
    "every other row of a part": lambda s: s[1][31:190:2],
    "single precision": lambda s: s[0].astype(np.float32),
    "half precision": lambda s: s[0].astype(np.float16),
    "scaled": lambda s: s[0] / 7 - 3,
    "grey values": lambda s: bytes_of(s[0]),
    "turned over": lambda s: s[0][::-1, ::-1],
    "masked": lambda s: s[0].where(s[0] < 3000),
    "coordinates in single precision": lambda s: s[0].assign_coords(
        x=s[0].x.astype(np.float32), y=s[0].y.astype(np.float32)
    ),
}
CHANGED = {
    "sum": sum,
    "sum of two": lambda s: s[0] + s[1],
    "part of a sum": lambda s: sum(s)[30:90, 70:150],
    "mean": lambda s: sum(s) / 3,
    "sum along a dimension": lambda s: xr.concat(s, "frame").sum("frame", keep_attrs=True),
    "sum of arrays": lambda s: s[0].copy(data=sum(f.values.astype(float) for f in s)),
    "another frame": lambda s: s[0].copy(data=s[1].values),
    "filtered": lambda s: s[0].copy(data=gaussian_filter(s[0].values.astype(float), 1.0)),
    "binned": lambda s: s[0].coarsen(y=2, x=2).sum(keep_attrs=True),
    "too small a part": lambda s: s[0][:8, :8],
    "other coordinates": lambda s: s[0].assign_coords(x=s[0].x / 10, y=s[0].y / 10),
    "no coordinates, and a part": lambda s: s[0].drop_vars(["y", "x"])[3:, 3:],
    "damaged": lambda s: s[0].assign_attrs(fingerprint="[1"),
    "damaged too": lambda s: s[0].assign_attrs(fingerprint='{"y": [0], "x": ["a"]}'),
}


@pytest.mark.parametrize("case", KEPT)
def test_an_image_keeps_its_dose(case, series):
    image = KEPT[case](series)
    assert is_as_read(image)
    assert recorded_context(image) == recorded_context(series[0])
    assert join_context(image, {}).electrons is not None


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_computed_of_frames_has_another_dose(case, series):
    image = CHANGED[case](series)
    known = recorded_context(series[0])
    del known["dose"]
    assert recorded_context(image) == known
    expected = r"a dose of 79891 e/Å² is recorded for one frame .*; state dose=79891 for one frame,"
    with pytest.warns(UserWarning, match=expected):
        joined = join_context(image, {})
    assert joined.electrons is None
    assert joined.context == known
    assert "dose_of_frame" in json.loads(joined.provenance["recorded"])
    stated = join_context(image, {"dose": 3 * 79891.0})
    assert stated.context["dose"] == 3 * 79891.0


def test_a_sum_that_was_saved_is_one_when_it_is_read_again(series, tmp_path):
    sum(series).to_netcdf(tmp_path / "sum.nc")
    found = bc.read(tmp_path / "sum.nc")
    assert "dose" not in recorded_context(found)
    with pytest.warns(UserWarning, match="recorded for one frame"):
        join_context(found[30:90, 70:150], {})
    series[0][30:90, 70:150].to_netcdf(tmp_path / "part.nc")
    part = bc.read(tmp_path / "part.nc")
    assert recorded_context(part[:20, :20]) == recorded_context(series[0])


def test_detectors_are_recognised_by_themselves_and_together(tmp_path):
    write_velox(tmp_path / "a.emd", {"HAADF": FRAMES, "DF4": FRAMES[::-1]}, ANGLES)
    first, second = (bc.read(tmp_path / "a.emd", select={"frame": k}) for k in range(2))
    one = first.sel(detector="DF4", drop=True)
    for image in (first, first[:, 40:], first[::-1], one):
        assert "dose" in recorded_context(image)
    for image in (first + second, (first + second).sel(detector="DF4"), first.sum("detector")):
        assert "dose" not in recorded_context(image)


def test_a_dose_that_a_file_states_is_that_of_its_image_too(tmp_path):
    image = xr.DataArray(FRAMES[..., 0], dims=("y", "x"), name="adf", attrs={"dose": 5e4})
    image.to_dataset().to_netcdf(tmp_path / "a.nc")
    found = bc.read(tmp_path / "a.nc")
    assert recorded_context(found / 2)["dose"] == 5e4
    assert "dose" not in recorded_context(found + FRAMES[..., 1])


def test_images_without_a_dose_have_no_fingerprint(tmp_path):
    np.save(tmp_path / "a.npy", FRAMES[..., 0])
    assert "fingerprint" not in bc.read(tmp_path / "a.npy").attrs

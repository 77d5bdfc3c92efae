"""The context that a file records in infer: what is stated wins, and disagreement is told."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import xarray as xr

import bayesctx as bc
from bayesctx.files.recorded import join_context

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from written.velox import write_velox

PRIOR = bc.reference_prior().given({"host": "WSe2", "dopant": "Ti", "dose": 1e5})
HAADF = {"HAADF": (0.06, 0.2)}


@pytest.fixture(scope="module")
def counts():
    data = bc.simulate_micrograph(PRIOR, seed=0, num_pixels=128, sampling=0.2)
    return np.round(np.clip(data.intensity.values, 0, None)).astype(np.uint16)


def read_velox(folder, images, angles, **more):
    write_velox(folder / "scan.emd", images, angles, **more)
    return bc.read(folder / "scan.emd")


def infer(image, context, model):
    return bc.infer(image, context, model, num_draws=20, likelihood="network")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of an untrained model
def test_infer_takes_what_the_file_records(counts, untrained, tmp_path):
    image = read_velox(tmp_path, {"HAADF": counts}, HAADF)
    tree = infer(image, {"host": "WSe2"}, untrained)
    known = tree["constant_data"]
    assert float(known.beam_energy) == pytest.approx(8e4)
    assert float(known.convergence_semiangle) == pytest.approx(25.0)
    assert float(known.inner_collection_angle) == pytest.approx(60.0)
    assert float(known.outer_collection_angle) == pytest.approx(200.0)
    assert float(known.dose) == pytest.approx(79891.3, rel=1e-5)
    assert "beam_energy" not in tree["posterior"]
    assert tree.attrs["source"] == "scan.emd"
    assert json.loads(tree.attrs["recorded"])["beam_energy"]["origin"] == (
        "Optics.AccelerationVoltage"
    )
    bc.save(tree, tmp_path / "result.nc")
    assert bc.load(tmp_path / "result.nc").attrs["source"] == "scan.emd"
    # the same as if it were stated
    plain = image.drop_attrs()
    for axis in ("y", "x"):
        plain[axis].attrs["units"] = "Å"
    stated = infer(plain, {"host": "WSe2"} | bc.files.recorded_context(image), untrained)
    xr.testing.assert_allclose(stated["class_posterior"].ds, tree["class_posterior"].ds)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_infer_takes_images_of_other_packages(counts, untrained):
    axes = [SimpleNamespace(name=n, scale=0.02, units="nm", navigate=False) for n in "yx"]
    tree = SimpleNamespace(as_dictionary=lambda: {"Acquisition_instrument": {"TEM": mapped}})
    mapped = {"beam_energy": 60.0}
    signal = SimpleNamespace(data=counts, metadata=tree, axes_manager=SimpleNamespace(_axes=axes))
    found = infer(signal, {"host": "WSe2"}, untrained)
    assert float(found["constant_data"].beam_energy) == 6e4


def test_what_is_stated_wins_and_is_told(tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    given = {"host": "WSe2", "beam_energy": 60e3, "inner_collection_angle": 61.0}
    with pytest.warns(UserWarning, match="what is stated is used") as caught:
        _, joined = join_context(image, given)
    assert joined["beam_energy"] == 60e3
    assert joined["inner_collection_angle"] == 61.0
    assert joined["outer_collection_angle"] == pytest.approx(200.0)
    assert given == {"host": "WSe2", "beam_energy": 60e3, "inner_collection_angle": 61.0}
    messages = sorted(str(w.message) for w in caught)
    assert messages == [
        "beam_energy is stated as 60000.0 eV, the file records 80000 (80000 V; "
        "Optics.AccelerationVoltage); what is stated is used",
        "inner_collection_angle is stated as 61.0 mrad, the file records 60 (0.06 rad; "
        "Detectors.Detector-0.CollectionAngleRange.begin); what is stated is used",
    ]


AGREE = {
    "rounded": 25.1,
    "candidates": [20.0, 25.0],
    "range": dist.Uniform(20.0, 30.0),
    "normal": dist.Normal(24.0, 1.0),
    "integer": 25,
}
DISAGREE = {
    "number": 26.0,
    "candidates": [20.0, 30.0],
    "range": dist.Uniform(26.0, 30.0),
    "normal": dist.Normal(30.0, 1.0),
}


@pytest.mark.parametrize("case", AGREE)
def test_stated_values_that_agree_are_taken_in_silence(case, tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    _, joined = join_context(image, {"convergence_semiangle": AGREE[case]})
    assert joined["convergence_semiangle"] is AGREE[case]


@pytest.mark.parametrize("case", DISAGREE)
def test_stated_values_that_disagree_are_told(case, tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    with pytest.warns(UserWarning, match="convergence_semiangle is stated as"):
        _, joined = join_context(image, {"convergence_semiangle": DISAGREE[case]})
    assert joined["convergence_semiangle"] is DISAGREE[case]


def test_recorded_values_outside_of_what_is_covered_are_refused_unless_replaced(tmp_path):
    changes = {"Optics/BeamConvergence": "0.001046"}
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF, changes=changes)
    expected = (
        r"convergence_semiangle \[mrad\] was expected between 15 and 40, the file records 1.046 "
        r"\(0.001046 rad; Optics.BeamConvergence\); if that is wrong, state convergence_semiangle"
    )
    with pytest.raises(ValueError, match=expected):
        join_context(image, {"host": "WSe2"})
    given = {"convergence_semiangle": dist.Uniform(15.0, 40.0)}
    with pytest.warns(UserWarning, match="convergence_semiangle is stated as"):
        _, joined = join_context(image, given)
    assert joined["convergence_semiangle"] is given["convergence_semiangle"]


def test_a_stated_pixel_size_replaces_the_coordinates_and_scales_the_dose(tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    dose = bc.files.recorded_context(image)["dose"]
    _, joined = join_context(image, None)
    assert joined["dose"] == dose
    assert "sampling" not in joined
    with pytest.warns(UserWarning, match=r"sampling is stated as 0.4 Å/px, the file records 0.2"):
        changed, joined = join_context(image, {"sampling": 0.4})
    assert joined["dose"] == pytest.approx(dose / 4)
    assert not changed.coords.keys() & {"y", "x"}
    with pytest.warns(UserWarning, match="it is inferred, since no single sampling is stated"):
        _, joined = join_context(image, {"sampling": dist.Uniform(0.19, 0.22)})
    assert "dose" not in joined
    _, joined = join_context(image, {"sampling": dist.Uniform(0.19, 0.22), "dose": dose})
    assert joined["dose"] == dose


def test_angles_of_several_detectors_are_joined_by_name(tmp_path):
    ones = np.ones((8, 8), "u2")
    image = read_velox(tmp_path, {"HAADF": ones, "DF4": ones}, HAADF | {"DF4": (0.03, 0.058)})
    _, joined = join_context(image, {"host": "WSe2"})
    assert joined["detector"]["DF4"] == pytest.approx(
        {"inner_collection_angle": 30.0, "outer_collection_angle": 58.0}
    )
    given = {"detector": {"HAADF": {"inner_collection_angle": 70.0}}}
    with pytest.warns(UserWarning, match="inner_collection_angle of HAADF is stated as 70.0 mrad"):
        _, joined = join_context(image, given)
    assert joined["detector"]["HAADF"] == pytest.approx(
        {"inner_collection_angle": 70.0, "outer_collection_angle": 200.0}
    )
    assert given == {"detector": {"HAADF": {"inner_collection_angle": 70.0}}}
    _, joined = join_context(image.sel(detector="DF4"), None)
    assert joined["outer_collection_angle"] == pytest.approx(58.0)
    assert "detector" not in joined


@pytest.mark.parametrize(
    "text", ["3", "[]", "no json", '{"dose": 1}', '{"dose": {"value": "x"}}', '{"a": {"value": 1}}']
)
def test_attributes_of_other_software_are_no_context(text):
    image = xr.DataArray(np.ones((8, 8)), dims=("y", "x"), attrs={"context": text})
    assert bc.files.recorded_context(image) == {}
    assert join_context(image, {"dose": 1e4})[1] == {"dose": 1e4}


def test_images_without_a_record_pass_unchanged():
    image, context = np.ones((8, 8)), {"host": "WSe2"}
    found = join_context(image, context)
    assert found[0] is image
    assert found[1] is context


@pytest.mark.filterwarnings("ignore:dose is stated")
def test_a_power_of_ten_is_told_by_the_lattice(counts, untrained, tmp_path):
    image = read_velox(tmp_path, {"HAADF": counts}, HAADF, pixel=2e-12)
    with pytest.raises(ValueError, match=r"state dose \(or sampling, from which it is computed\)"):
        infer(image, {"host": "WSe2"}, untrained)
    with pytest.raises(ValueError, match=r"of 0.02 Å are 10 times too small.*; state sampling=0.2"):
        infer(image, {"host": "WSe2", "dose": 1e5}, untrained)

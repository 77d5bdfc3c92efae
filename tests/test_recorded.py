"""The context that a file records in infer: what is stated wins, and disagreement is told."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import xarray as xr

import bayesctx as bc
from bayesctx.files.electrons import electrons_of
from bayesctx.files.recorded import join_context
from bayesctx.inference.candidates import list_candidates
from bayesctx.inference.detectors import check_rings
from bayesctx.inference.inputs import read_inputs
from bayesctx.inference.whole_image import Micrograph
from bayesctx.nuisances import OF_SCANS
from bayesctx.report.context_rows import context_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from written.objects import signal_of_hyperspy
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
    assert float(known.dose) == pytest.approx(79891.3 * (0.2 / float(known.sampling)) ** 2)
    assert float(known.dose) == pytest.approx(79891.3, rel=0.06)
    assert "beam_energy" not in tree["posterior"]
    assert tree.attrs["source"] == "scan.emd"
    assert json.loads(tree.attrs["recorded"])["beam_energy"]["origin"] == (
        "Optics.AccelerationVoltage"
    )
    bc.save(tree, tmp_path / "result.nc")
    assert bc.load(tmp_path / "result.nc").attrs["source"] == "scan.emd"
    assert tree.attrs["stated"] == '["host"]'
    # the same as if it were stated
    plain = image.drop_attrs()
    for axis in ("y", "x"):
        plain[axis].attrs["units"] = "Å"
    recorded = bc.files.recorded_context(image) | {"dose": float(known.dose)}
    stated = infer(plain, {"host": "WSe2"} | recorded, untrained)
    xr.testing.assert_allclose(stated["class_posterior"].ds, tree["class_posterior"].ds)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_infer_takes_images_of_other_packages(counts, untrained):
    found = infer(signal_of_hyperspy(counts), {"host": "WSe2"}, untrained)
    assert float(found["constant_data"].beam_energy) == 6e4


def test_what_is_stated_wins_and_is_told(tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    given = {"host": "WSe2", "beam_energy": 60e3, "inner_collection_angle": 61.0}
    with pytest.warns(UserWarning, match="what is stated is used") as caught:
        joined = join_context(image, given).context
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
    joined = join_context(image, {"convergence_semiangle": AGREE[case]}).context
    assert joined["convergence_semiangle"] is AGREE[case]


@pytest.mark.parametrize("case", DISAGREE)
def test_stated_values_that_disagree_are_told(case, tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    with pytest.warns(UserWarning, match="convergence_semiangle is stated as"):
        joined = join_context(image, {"convergence_semiangle": DISAGREE[case]}).context
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
        joined = join_context(image, given).context
    assert joined["convergence_semiangle"] is given["convergence_semiangle"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_recorded_dose_is_that_of_the_pixels_that_are_used(counts, untrained, tmp_path):
    """Of those that the lattice implies, not of those that are put aside."""
    image = read_velox(tmp_path, {"HAADF": counts}, HAADF, pixel=2.16e-11)
    with pytest.warns(UserWarning, match="dose is taken as .*, and not as the 68494 e/Å² of the p"):
        tree = infer(image, {"host": "WSe2"}, untrained)
    known, electrons = tree["constant_data"], 79891.3 * 0.2**2
    assert float(known.dose) == pytest.approx(electrons / float(known.sampling) ** 2)
    row = next(r for r in context_rows(tree) if r.name == "dose")
    assert row.kind == "recorded"
    assert row.note.endswith("; with the pixel size in the file 68494")


@pytest.mark.filterwarnings("ignore::UserWarning", "error:the dose is taken as")
def test_a_stated_dose_is_that_of_any_pixels(counts, untrained, tmp_path):
    image = read_velox(tmp_path, {"HAADF": counts}, HAADF, pixel=2.16e-11)
    tree = infer(image, {"host": "WSe2", "dose": 68494.0}, untrained)
    assert float(tree["constant_data"].dose) == 68494.0
    assert next(r for r in context_rows(tree) if r.name == "dose").kind == "given"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_host_has_the_dose_of_its_own_pixel_size(counts, untrained, tmp_path):
    image = read_velox(tmp_path, {"HAADF": counts}, HAADF)
    given = join_context(image, None)
    rings = check_rings(given.context, (), None, given.electrons)
    sizes = read_inputs(given.image, None, 16.0, 32, None)
    image = Micrograph.of(sizes, rings, untrained, 20, 0)
    found = [reading.alternative for reading in image.by_patches(rings)[0]]
    sampling = np.array([a.sampling for a in found])
    dose = np.array([a.case.context["dose"].mean().item() for a in found])
    assert len(set(sampling)) > 1
    np.testing.assert_allclose(dose * sampling**2, 79891.3 * 0.2**2, rtol=1e-5)
    # and so it has by all pixels
    given = image.placements, [found], image.every, rings.at(0.1), 0.2, untrained.prior
    lattices = list_candidates(*given, 0)
    hints = {}
    for candidate in lattices.candidates:
        host = candidate.scan.material.host
        hints[host] = hints.get(host, 0.0) + math.exp(candidate.log_hint)
    # of each host the assignments that patches leave
    assert all(0 < total < 1 + 1e-6 for total in hints.values())
    for candidate in lattices.candidates:
        expected = 79891.3 * (0.2 / candidate.scan.field.sampling) ** 2
        assert candidate.scan.log_dose(expected) == pytest.approx(0.0, abs=1e-6)
        assert candidate.scan.coordinates.nuisances.items() >= OF_SCANS.items()


def test_a_stated_pixel_size_replaces_the_coordinates(tmp_path):
    image = read_velox(tmp_path, {"HAADF": np.ones((8, 8), "u2")}, HAADF)
    dose = bc.files.recorded_context(image)["dose"]
    joined = join_context(image, None)
    assert not {"dose", "sampling"} & joined.context.keys()
    assert joined.electrons.dose_on(0.2) == pytest.approx(dose)
    with pytest.warns(UserWarning, match=r"sampling is stated as 0.4 Å/px, the file records 0.2"):
        joined = join_context(image, {"sampling": 0.4})
    assert joined.electrons.dose_on(0.4) == pytest.approx(dose / 4)
    assert not joined.image.coords.keys() & {"y", "x"}
    joined = join_context(image, {"sampling": dist.Uniform(0.19, 0.22), "dose": dose})
    assert joined.context["dose"] == dose
    assert joined.electrons is None


def test_a_dose_that_a_file_states_does_not_follow_the_pixel_size(tmp_path):
    places = {a: (a, np.arange(8) * 0.2, {"units": "Å"}) for a in "yx"}
    image = xr.DataArray(np.ones((8, 8)), places, ("y", "x"), "adf", {"dose": 5e4})
    image.to_dataset().to_netcdf(tmp_path / "a.nc")
    joined = join_context(bc.read(tmp_path / "a.nc"), {"sampling": 0.2})
    assert joined.context["dose"] == 5e4
    assert joined.electrons is None


@pytest.mark.parametrize(("sampling", "taken"), [(0.2, 1e4), (0.65, 1e3), (0.019, 1e6)])
def test_a_recorded_dose_near_the_end_of_the_domain_is_taken_there(sampling, taken):
    entry = {"value": 1e4, "origin": "Optics.Current", "pixel_area": 0.04}
    electrons = electrons_of(entry, (1e3, 1e6))
    assert electrons.dose_on(sampling) == pytest.approx(taken)
    if sampling == 0.2:
        electrons.check(sampling)
        return
    with pytest.warns(UserWarning, match=re.escape(f"is taken as {taken:g}, where the domain")):
        electrons.check(sampling)


def test_a_recorded_dose_far_from_the_domain_is_refused():
    electrons = electrons_of({"value": 1e4, "origin": "A x B", "pixel_area": 0.04}, (1e3, 1e6))
    with pytest.raises(ValueError, match=r"between 1000 and 1e\+06, .* 100 e/Å² on .* 2 Å \(A x B"):
        electrons.check(2.0)


def test_angles_of_several_detectors_are_joined_by_name(tmp_path):
    ones = np.ones((8, 8), "u2")
    image = read_velox(tmp_path, {"HAADF": ones, "DF4": ones}, HAADF | {"DF4": (0.03, 0.058)})
    joined = join_context(image, {"host": "WSe2"}).context
    assert joined["detector"]["DF4"] == pytest.approx(
        {"inner_collection_angle": 30.0, "outer_collection_angle": 58.0}
    )
    given = {"detector": {"HAADF": {"inner_collection_angle": 70.0}}}
    with pytest.warns(UserWarning, match="inner_collection_angle of HAADF is stated as 70.0 mrad"):
        joined = join_context(image, given).context
    assert joined["detector"]["HAADF"] == pytest.approx(
        {"inner_collection_angle": 70.0, "outer_collection_angle": 200.0}
    )
    assert given == {"detector": {"HAADF": {"inner_collection_angle": 70.0}}}
    joined = join_context(image.sel(detector="DF4"), None).context
    assert joined["outer_collection_angle"] == pytest.approx(58.0)
    assert "detector" not in joined


@pytest.mark.parametrize(
    "text", ["3", "[]", "no json", '{"dose": 1}', '{"dose": {"value": "x"}}', '{"a": {"value": 1}}']
)
def test_attributes_of_other_software_are_no_context(text):
    image = xr.DataArray(np.ones((8, 8)), dims=("y", "x"), attrs={"context": text})
    assert bc.files.recorded_context(image) == {}
    assert join_context(image, {"dose": 1e4}).context == {"dose": 1e4}


def test_images_without_a_record_pass_unchanged():
    image, context = np.ones((8, 8)), {"host": "WSe2"}
    found = join_context(image, context)
    assert found.image is image
    assert found.context is context
    assert found.electrons is None
    assert found.provenance == {}


@pytest.mark.filterwarnings("ignore:dose is stated")
def test_a_power_of_ten_is_told_by_the_lattice(counts, untrained, tmp_path):
    image = read_velox(tmp_path, {"HAADF": counts}, HAADF, pixel=2e-12)
    for known in ({}, {"dose": 1e5}):
        with pytest.raises(ValueError, match=r"of 0.02 Å are 10 times too .*; state sampling=0.2"):
            infer(image, {"host": "WSe2"} | known, untrained)


def test_a_pixel_size_is_refused_before_what_follows_from_it(counts, untrained, tmp_path):
    with pytest.warns(UserWarning, match="pixels of 0.02 to 0.6 Å were expected"):
        image = read_velox(tmp_path, {"HAADF": counts}, HAADF, pixel=2e-10)
    with pytest.raises(ValueError, match="the coordinates state 2 Å; state sampling=0.2"):
        infer(image, {"host": "WSe2"}, untrained)

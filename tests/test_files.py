"""Files of every format: their values, the context that they record, and where it comes from."""

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import bayesctx as bc
from bayesctx.files import recorded_context
from bayesctx.files.record import ELECTRON

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from written.objects import dataset_of_sidpy, result_of_libertem, signal_of_hyperspy
from written.others import (
    nion_tree,
    write_berkeley,
    write_fei,
    write_imagej,
    write_mrc,
    write_mrc_of_thermo_fisher,
    write_ndata,
    write_ome,
    write_ser,
)
from written.signals import write_hspy
from written.tags import scan_tags, write_dm
from written.velox import metadata, write_velox

COUNTS = np.random.default_rng(0).poisson(50, (24, 16)).astype(np.uint16)
# 32 pA for 16 µs on 0.2 x 0.2 Å
DOSE = 3.2e-11 * 1.6e-5 / (ELECTRON * 0.2 * 0.2)

has_rosetta = importlib.util.find_spec("rsciio") is not None
by_rosetta = pytest.mark.skipif(not has_rosetta, reason="RosettaSciIO, GPL-3, is not installed")
NEEDS_ROSETTA = ("dm3", "dm4", "ser")


def fei_sections(**scan):
    """Sections of the tag FEI_HELIOS of a transmission detector at 30 kV."""
    known = {"Dwelltime": 1.6e-5, "PixelWidth": 2e-11, "PixelHeight": 2e-11, "Integrate": 1}
    return {
        "Beam": {"HV": 30000, "Beam": "EBeam"},
        "EBeam": {"HV": 30000, "BeamCurrent": 3.2e-11, "EmissionCurrent": 1e-4},
        "Scan": known | scan,
        "Detectors": {"Number": 1, "Name": "STEM3", "Mode": "HAADF"},
        "STEM3": {"Signal": "HAADF"},
    }


def write_netcdf(path):
    attrs = {"beam_energy_keV": 80.0, "dose": 1e4, "convergence_semiangle_rad": 0.025}
    places = {
        a: (a, np.arange(n) * 0.02, {"units": "nm"})
        for a, n in zip("yx", COUNTS.shape, strict=True)
    }
    image = xr.DataArray(COUNTS, places, ("y", "x"), "adf", attrs)
    image.to_dataset().to_netcdf(path)


FORMATS = {
    "velox.emd": lambda p: write_velox(p, {"HAADF": COUNTS}, {"HAADF": (0.06, 0.2)}),
    "berkeley.emd": lambda p: write_berkeley(p, COUNTS, step=0.02),
    "tags.dm3": lambda p: write_dm(
        p, {"HAADF": COUNTS}, scan_tags(current=0.032, convergence=25.0), scale=0.02, version=3
    ),
    "tags.dm4": lambda p: write_dm(
        p, {"HAADF": COUNTS}, scan_tags(current=0.032, convergence=25.0), scale=0.02
    ),
    "tia_1.ser": lambda p: write_ser(p, COUNTS[None], metres=2e-11),
    "imagej.tif": lambda p: write_imagej(p, COUNTS, size=0.02, unit="nm"),
    "ome.tif": lambda p: write_ome(p, COUNTS, size=2e-5, unit="µm"),
    "fei.tif": lambda p: write_fei(p, COUNTS, fei_sections()),
    "plain.mrc": lambda p: write_mrc(p, COUNTS.astype(np.int16), angstrom=0.2),
    "thermo.mrc": lambda p: write_mrc_of_thermo_fisher(
        p, COUNTS.astype(np.int16), {"HT": 8e4, "Pixel size X": 2e-11, "Pixel size Y": 2e-11}
    ),
    "swift.ndata": lambda p: write_ndata(p, COUNTS, nion_tree(nanometres=0.02)),
    "named.nc": write_netcdf,
    "array.npy": lambda p: np.save(p, COUNTS),
    "array.npz": lambda p: np.savez(p, image=COUNTS, profile=COUNTS[0]),
}
"""How a file of each format is made."""

EXPECTED = {
    "velox.emd": {
        "beam_energy": (8e4, "Optics.AccelerationVoltage"),
        "convergence_semiangle": (25.0, "Optics.BeamConvergence"),
        "inner_collection_angle": (60.0, "Detectors.Detector-0.CollectionAngleRange.begin"),
        "outer_collection_angle": (200.0, "Detectors.Detector-0.CollectionAngleRange.end"),
        "dose": (DOSE, "Optics.LastMeasuredScreenCurrent x Scan.DwellTime / (e x pixel area)"),
        "sampling": (0.2, "BinaryResult.PixelSize.width"),
    },
    "berkeley.emd": {
        "beam_energy": (8e4, "microscope.voltage"),
        "sampling": (0.2, "data/HAADF.dim2"),
    },
    "tags.dm4": {
        "beam_energy": (8e4, "Microscope Info.Voltage"),
        "convergence_semiangle": (
            25.0,
            "EELS.Experimental Conditions.Convergence semi-angle (mrad)",
        ),
        "dose": (
            DOSE,
            "Microscope Info.Probe Current (nA) x DigiScan.Sample Time / (e x pixel area)",
        ),
        "sampling": (0.2, "ImageData.Calibrations.Dimension.Scale of x"),
    },
    "tia_1.ser": {"sampling": (0.2, "ser_header_parameters.CalibrationDelta of x")},
    "imagej.tif": {"sampling": (0.2, "XResolution and unit of ImageJ")},
    "ome.tif": {"sampling": (0.2, "OME PhysicalSizeX")},
    "fei.tif": {
        "beam_energy": (3e4, "Beam.HV"),
        "dose": (DOSE, "EBeam.BeamCurrent x Scan.Dwelltime / (e x pixel area)"),
        "sampling": (0.2, "Scan.PixelWidth"),
    },
    "plain.mrc": {"sampling": (0.2, "cella.x / mx")},
    "thermo.mrc": {
        "beam_energy": (8e4, "extended header, HT"),
        "sampling": (0.2, "extended header, Pixel size X"),
    },
    "swift.ndata": {
        "beam_energy": (6e4, "metadata.hardware_source.autostem.high_tension_v"),
        "convergence_semiangle": (32.0, "metadata.hardware_source.convergence_angle_rad"),
        "dose": (
            DOSE,
            "metadata.hardware_source.beam_current_a x metadata.hardware_source.pixel_time_us"
            " / (e x pixel area)",
        ),
        "sampling": (0.2, "spatial_calibrations.1.scale"),
    },
    "named.nc": {
        "beam_energy": (8e4, "beam_energy_keV"),
        "convergence_semiangle": (25.0, "convergence_semiangle_rad"),
        "dose": (1e4, "dose"),
        "sampling": (0.2, "coordinate x"),
    },
    "array.npy": {},
    "array.npz": {},
}
EXPECTED["tags.dm3"] = EXPECTED["tags.dm4"]


def entries(image):
    return json.loads(image.attrs["context"])


def step_of(image):
    """Size of a pixel in Å by the coordinates."""
    factor = {"Å": 1.0, "nm": 10.0}[image.x.attrs["units"]]
    return float(image.x[1] - image.x[0]) * factor


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_values_and_what_it_records(name, tmp_path):
    if name.rpartition(".")[2] in NEEDS_ROSETTA and not has_rosetta:
        pytest.skip("RosettaSciIO, GPL-3, is not installed")
    path = tmp_path / name
    FORMATS[name](path)
    image = bc.read(path)
    assert image.name == "intensity"
    assert image.dims == ("y", "x")
    np.testing.assert_array_equal(image.values, COUNTS)
    assert image.dtype.isnative
    assert image.attrs["source"] == name
    found = {n: (e["value"], e["origin"]) for n, e in entries(image).items()}
    assert set(found) == set(EXPECTED[name])
    for variable, (value, origin) in EXPECTED[name].items():
        assert found[variable] == (pytest.approx(value, rel=1e-6), origin)
    if "sampling" in found:
        assert step_of(image) == pytest.approx(0.2, rel=1e-6)
    else:
        assert not image.coords.keys() & {"x", "y"}
    known = {n: v for n, (v, _) in found.items() if n != "sampling"}
    assert recorded_context(image) == known


def test_a_pixel_size_in_attributes_becomes_coordinates(tmp_path):
    image = xr.DataArray(COUNTS, dims=("y", "x"), name="adf")
    for name, value in (("sampling", 0.2), ("sampling_angstrom", 0.2), ("sampling_nm", 0.02)):
        image.assign_attrs({name: value}).to_netcdf(tmp_path / "a.nc")
        found = bc.read(tmp_path / "a.nc")
        assert step_of(found) == pytest.approx(0.2)
        assert entries(found)["sampling"]["origin"] == name
        assert "sampling" not in recorded_context(found)


def test_the_detectors_of_a_scan_of_velox_become_a_dimension(tmp_path):
    path = tmp_path / "scan.emd"
    images = {"HAADF": COUNTS, "DF4": COUNTS + 1, "BF": COUNTS + 2}
    write_velox(path, images, {"HAADF": (0.06, 0.2), "DF4": (0.03, 0.058), "BF": (0.0, 0.02)})
    with pytest.warns(UserWarning, match=r"left out are BF \(bright field\); select detector=NAME"):
        image = bc.read(path)
    assert image.dims == ("detector", "y", "x")
    assert sorted(image.detector.values) == ["DF4", "HAADF"]
    for name in ("HAADF", "DF4"):
        np.testing.assert_array_equal(image.sel(detector=name).values, images[name])
    angles = recorded_context(image)["detector"]
    assert angles["DF4"] == pytest.approx(
        {"inner_collection_angle": 30.0, "outer_collection_angle": 58.0}
    )
    one = recorded_context(image.sel(detector="HAADF"))
    assert "detector" not in one
    assert one["inner_collection_angle"] == pytest.approx(60.0)
    chosen = bc.read(path, select={"detector": "BF"})
    np.testing.assert_array_equal(chosen.values, images["BF"])
    assert entries(chosen)["inner_collection_angle"]["value"] == 0.0


ABSENT = {
    "a detector that was not inserted": ({}, {}, "inner_collection_angle"),
    "no current": (
        {"Optics/LastMeasuredScreenCurrent": "0", "Optics/ScreenCurrent": "0"},
        {"HAADF": (0.06, 0.2)},
        "dose",
    ),
    "no dwell time": ({"Scan/DwellTime": "0.0"}, {"HAADF": (0.06, 0.2)}, "dose"),
    "no convergence": ({"Optics/BeamConvergence": None}, {}, "convergence_semiangle"),
    "no number": ({"Optics/AccelerationVoltage": "unknown"}, {}, "beam_energy"),
    "not a number": ({"Optics/AccelerationVoltage": "nan"}, {}, "beam_energy"),
    "a negative number": ({"Optics/BeamConvergence": "-0.02"}, {}, "convergence_semiangle"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_what_velox_does_not_know_is_absent(case, tmp_path):
    changes, angles, name = ABSENT[case]
    if case == "no dwell time":
        changes = {"Optics/LastMeasuredScreenCurrent": "-1e-13"}
    write_velox(tmp_path / "a.emd", {"HAADF": COUNTS}, angles, changes=changes)
    assert name not in entries(bc.read(tmp_path / "a.emd"))


def test_the_last_measured_current_is_that_of_the_beam(tmp_path):
    changes = {"Optics/ScreenCurrent": "1e-12"}
    write_velox(tmp_path / "a.emd", {"HAADF": COUNTS}, {}, changes=changes)
    assert entries(bc.read(tmp_path / "a.emd"))["dose"]["value"] == pytest.approx(DOSE)
    changes["Optics/LastMeasuredScreenCurrent"] = None
    write_velox(tmp_path / "a.emd", {"HAADF": COUNTS}, {}, changes=changes)
    found = entries(bc.read(tmp_path / "a.emd"))["dose"]
    assert found["value"] == pytest.approx(DOSE / 32)
    assert found["origin"].startswith("Optics.ScreenCurrent x")


def test_a_dose_that_would_be_wrong_is_not_taken(tmp_path):
    changes = {"Scan/LineIntegrationCount": "4"}
    write_velox(tmp_path / "a.emd", {"HAADF": COUNTS}, {}, changes=changes)
    with pytest.warns(UserWarning, match="every line is the sum of 4 scans, so that the dose"):
        assert "dose" not in entries(bc.read(tmp_path / "a.emd"))


def test_images_that_velox_computed_are_left_out(tmp_path):
    images = {"HAADF": COUNTS, "DF4": COUNTS}
    kinds = {"DF4": "SurfaceReconstructionOperation"}
    write_velox(tmp_path / "a.emd", images, {"DF4": (0.03, 0.06)}, operations=kinds)
    with pytest.warns(UserWarning, match=r"iDPC DF4 \(computed by Velox: iDPC\)"):
        assert bc.read(tmp_path / "a.emd").detector.item() == "HAADF"
    with pytest.warns(UserWarning, match="its dose and angles are not taken"):
        chosen = bc.read(tmp_path / "a.emd", select={"detector": "iDPC DF4"})
    assert set(entries(chosen)) == {"beam_energy", "convergence_semiangle", "sampling"}


@pytest.mark.parametrize("axes", ["CYX", "TYX"])
def test_pages_of_imagej_are_detectors_only_if_they_are_channels(axes, tmp_path):
    stack = np.stack([COUNTS, COUNTS + 1])
    labels = {"Labels": ["HAADF", "MAADF"]}
    write_imagej(tmp_path / "a.tif", stack, size=0.02, unit="nm", axes=axes, **labels)
    if axes == "CYX":
        image = bc.read(tmp_path / "a.tif")
        assert list(image.detector.values) == ["HAADF", "MAADF"]
        np.testing.assert_array_equal(image.values, stack)
        return
    with pytest.raises(ValueError, match="a series of 2 frames; align and sum them"):
        bc.read(tmp_path / "a.tif")
    one = bc.read(tmp_path / "a.tif", select={"frame": 1})
    np.testing.assert_array_equal(one.values, stack[1])
    with pytest.raises(ValueError, match="a frame from 0 to 1 of a.tif was expected, got '2'"):
        bc.read(tmp_path / "a.tif", select={"frame": 2})


def test_channels_of_ome_are_detectors(tmp_path):
    stack = np.stack([COUNTS, COUNTS + 1])
    write_ome(tmp_path / "a.tif", stack, size=0.02, unit="nm", channels=["ADF1", "ADF2"])
    image = bc.read(tmp_path / "a.tif")
    assert list(image.detector.values) == ["ADF1", "ADF2"]
    np.testing.assert_array_equal(image.values, stack)


def test_grey_values_of_pictures_are_warned_of(tmp_path):
    grey = COUNTS.astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(COUNTS).save(tmp_path / "deep.png")
    for name, values in (("a.png", grey), ("rgb.png", grey), ("deep.png", COUNTS)):
        with pytest.warns(UserWarning, match="grey values were scaled for a display"):
            np.testing.assert_array_equal(bc.read(tmp_path / name).values, values)
    write_imagej(tmp_path / "a.tif", grey, size=0.02, unit="nm")
    with pytest.warns(UserWarning, match="grey values of 8 bits"):
        assert step_of(bc.read(tmp_path / "a.tif")) == pytest.approx(0.2)


@by_rosetta
def test_calibrations_of_digitalmicrograph_are_checked_by_the_field_of_view(tmp_path):
    tags = scan_tags(current=0.032, width=64, field_of_view=64 * 2e-5)
    write_dm(tmp_path / "good.dm4", {"HAADF": COUNTS}, tags, scale=0.02)
    bc.read(tmp_path / "good.dm4")
    write_dm(tmp_path / "off.dm4", {"HAADF": COUNTS}, tags, scale=0.002)
    with pytest.warns(UserWarning, match=r"states pixels of 0.02 Å, but its field of view of 0.0"):
        bc.read(tmp_path / "off.dm4")
    write_dm(tmp_path / "far.dm4", {"HAADF": COUNTS}, scan_tags(), scale=0.2)
    with pytest.warns(UserWarning, match=r"states 2 Å .* state sampling=0.2 if a power of ten"):
        bc.read(tmp_path / "far.dm4")


@by_rosetta
def test_several_files_are_the_detectors_of_a_scan(tmp_path):
    for k, name in enumerate(("HAADF", "MAADF")):
        tags = scan_tags(current=0.032)
        write_dm(tmp_path / f"{name}.dm4", {name: COUNTS + k}, tags, scale=0.02)
    image = bc.read([tmp_path / "HAADF.dm4", tmp_path / "MAADF.dm4"])
    assert list(image.detector.values) == ["HAADF", "MAADF"]
    assert step_of(image) == pytest.approx(0.2)
    assert image.attrs["source"] == "HAADF.dm4, MAADF.dm4"
    assert recorded_context(image) == pytest.approx({"beam_energy": 8e4, "dose": DOSE})
    write_dm(tmp_path / "other.dm4", {"LAADF": COUNTS}, scan_tags(voltage=6e4), scale=0.02)
    with pytest.warns(UserWarning, match="one beam_energy of a scan was expected"):
        both = bc.read([tmp_path / "HAADF.dm4", tmp_path / "other.dm4"])
    assert "beam_energy" not in recorded_context(both)
    write_dm(tmp_path / "fine.dm4", {"LAADF": COUNTS}, tags, scale=0.03)
    with pytest.raises(ValueError, match="with pixels of 0.2 Å were expected, .*fine.dm4 has 0.3"):
        bc.read([tmp_path / "HAADF.dm4", tmp_path / "fine.dm4"])
    write_dm(tmp_path / "small.dm4", {"LAADF": COUNTS[:8]}, tags, scale=0.02)
    with pytest.raises(ValueError, match="images of one scan of shape"):
        bc.read([tmp_path / "HAADF.dm4", tmp_path / "small.dm4"])


@by_rosetta
def test_hspy_keeps_the_original_metadata_of_velox(tmp_path):
    original = {
        "Optics": {"AccelerationVoltage": "80000", "BeamConvergence": "0.025"},
        "BinaryResult": {"Detector": "HAADF"},
        "Detectors": {
            "Detector-0": {
                "DetectorName": "HAADF",
                "CollectionAngleRange": {"begin": "0.06", "end": "0.2"},
            }
        },
    }
    mapped = {"Acquisition_instrument": {"TEM": {"beam_energy": 80.0}}}
    write_hspy(tmp_path / "a.hspy", COUNTS, nanometres=0.02, metadata=mapped, original=original)
    image = bc.read(tmp_path / "a.hspy")
    np.testing.assert_array_equal(image.values, COUNTS)
    assert recorded_context(image) == pytest.approx({
        "beam_energy": 8e4, "convergence_semiangle": 25.0,
        "inner_collection_angle": 60.0, "outer_collection_angle": 200.0,
    })  # fmt: skip
    write_hspy(tmp_path / "b.hspy", COUNTS, nanometres=0.02, metadata=mapped, original={})
    image = bc.read(tmp_path / "b.hspy")
    found = entries(image)["beam_energy"]
    assert (found["value"], found["recorded"]) == (8e4, "80 keV")
    assert found["origin"] == "Acquisition_instrument.TEM.beam_energy"


ORIGINAL = metadata("HAADF", {"HAADF": (0.06, 0.2)})


@by_rosetta
def test_the_dose_of_a_signal_is_that_of_one_frame_on_the_recorded_pixels(tmp_path):
    write_hspy(tmp_path / "a.hspy", COUNTS, nanometres=0.04, metadata={}, original=ORIGINAL)
    image = bc.read(tmp_path / "a.hspy")
    assert step_of(image) == pytest.approx(0.4)
    assert "dose" not in recorded_context(image)
    assert entries(image)["dose_of_frame"]["value"] == pytest.approx(DOSE)


def test_images_of_other_packages_are_taken_as_they_are():
    image = bc.read(signal_of_hyperspy(COUNTS))
    np.testing.assert_array_equal(image.values, COUNTS)
    assert recorded_context(image) == {"beam_energy": 6e4, "convergence_semiangle": 30.0}
    assert step_of(image) == pytest.approx(0.2)
    image = bc.read(dataset_of_sidpy(COUNTS))
    np.testing.assert_array_equal(image.values, COUNTS)
    assert recorded_context(image) == {"beam_energy": 8e4}
    assert step_of(image) == pytest.approx(0.2)
    image = bc.read(result_of_libertem(COUNTS.astype(float)))
    np.testing.assert_array_equal(image.values, COUNTS)
    stack = np.stack([COUNTS, COUNTS])
    for other, what in (
        (signal_of_hyperspy(stack, navigate=(0, 1)), "a spectrum image or 4D-STEM data"),
        (signal_of_hyperspy(COUNTS, navigate=(0,)), "a spectrum or line profile"),
        (dataset_of_sidpy(COUNTS, "SPECTRUM"), "data of the type SPECTRUM"),
        (result_of_libertem(np.ones(3)), "data of shape"),
        (result_of_libertem(COUNTS, "sig"), "a diffraction pattern"),
    ):
        with pytest.raises(ValueError, match=what):
            bc.read(other)
    with pytest.raises(ValueError, match="a series of 2 frames"):
        bc.read(signal_of_hyperspy(stack, navigate=(0,)))
    with pytest.raises(TypeError, match="the path of a file was expected, got int"):
        bc.read(3)


def test_objects_do_not_say_how_many_frames_they_sum():
    """Of HyperSpy and sidpy: what was computed of frames keeps the metadata of the first."""
    for make in (signal_of_hyperspy, dataset_of_sidpy):
        image = bc.read(make(COUNTS, original=ORIGINAL))
        assert "dose" not in recorded_context(image)
        assert entries(image)["dose_of_frame"]["value"] == pytest.approx(DOSE)


def test_what_was_read_is_kept_when_it_is_saved(tmp_path):
    write_velox(tmp_path / "a.emd", {"HAADF": COUNTS}, {"HAADF": (0.06, 0.2)})
    image = bc.read(tmp_path / "a.emd")
    image[:16, :12].to_netcdf(tmp_path / "part.nc")
    part = bc.read(tmp_path / "part.nc")
    np.testing.assert_array_equal(part.values, COUNTS[:16, :12])
    assert recorded_context(part) == recorded_context(image)
    assert part.attrs["source"] == "a.emd"


def test_readers_leave_warnings_and_files_as_they_are(tmp_path):
    for name in ("velox.emd", "imagej.tif", "plain.mrc", "swift.ndata"):
        FORMATS[name](tmp_path / name)
    before = list(warnings.filters)
    for path in sorted(tmp_path.iterdir()):
        bc.read(path)
        path.rename(path.with_suffix(".moved"))  # no longer open where that matters
    assert warnings.filters == before

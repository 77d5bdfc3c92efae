"""Files that are no images which can be read: what each is, and what to do."""

import builtins
import re
import sys
import zipfile
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import tifffile
from PIL import Image

import bayesctx as bc
from bayesctx.files.formats import reading

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from written.others import (
    nion_tree,
    write_berkeley,
    write_imagej,
    write_mrc,
    write_ndata,
    write_ser,
)
from written.tags import scan_tags, write_dm
from written.velox import write_velox

COUNTS = np.random.default_rng(1).poisson(50, (24, 16)).astype(np.uint16)
STACK = np.stack([COUNTS] * 3)
FOUR = np.zeros((3, 4, 5, 6), np.float32)


def text(content):
    return lambda path: path.write_text(content)


def raw(content):
    return lambda path: path.write_bytes(content)


def write_hdf5(path, **items):
    with h5py.File(path, "w") as file:
        for name, values in items.items():
            file[name] = values


def write_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def write_camera(path):
    operations = {"Ceta": "CameraInputOperation"}
    write_velox(path, {"Ceta": COUNTS}, {}, operations=operations)


def write_complex_velox(path):
    pair = np.zeros((4, 4), [("realFloat", "f4"), ("imagFloat", "f4")])
    write_velox(path, {"HAADF": pair}, {})


REFUSED = {
    "empty.emd": (raw(b""), "is empty (0 bytes); copy it again"),
    "page.dm4": (text("<!DOCTYPE html><html>404"), "an HTML page, as a failed download leaves"),
    "notes.tif": (text("5 kV, 10 pA\n" * 300), "is a text file; load its numbers by numpy.loadtxt"),
    "µ.txt": (text("µ" * 3000), "is a text file"),
    "side.json": (text('{"a": 1}'), "a JSON text; name the image file"),
    "data.xml": (text('<?xml version="1.0"?><a/>'), "an XML file; name the image file"),
    "lfs.emd": (text("version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"),
    "report.pdf": (raw(b"%PDF-1.7\n\0"), "a PDF document"),
    "scan.emd.gz": (raw(b"\x1f\x8b\x08\0\0"), "a gzip archive; unpack it"),
    "weights.pt": (raw(b"\x80\x04\x95\0"), "a Python pickle, which can run code; save the array"),
    "office.docx": (write_archive, "a ZIP archive of word/document.xml; unpack it"),
    "cut.npz": (raw(b"PK\x03\x04\0\0\0\0"), "a ZIP archive (.npz, .ndata) that is damaged"),
    "video.avi": (raw(b"RIFF\0\0\0\0AVI "), "a video"),
    "map.bcf": (raw(b"AAMVHFSS\0\0"), "a Bruker spectrum image"),
    "noise.dm4": (raw(b"\x01\x02\x03\x04\0\0"), "named .dm4, but truncated or of another format"),
    "noise.bin": (raw(b"\x01\x02\x03\x04\0\0"), "of a format that is not known (it begins with 01"),
    "cut.tif": (raw(b"II*\0\x08\0\0\0"), "a TIFF file that is damaged or truncated"),
    "cut.emd": (
        raw(b"\x89HDF\r\n\x1a\n" + b"\0" * 90),
        "an HDF5 file that is damaged or truncated",
    ),
    "cut.nc": (raw(b"CDF\x01\0"), "cut.nc is a netCDF file that is damaged or truncated"),
    "cut.png": (raw(b"\x89PNG\r\n\x1a\n\0\0"), "a picture that is damaged or truncated"),
    "cut.npy": (
        raw(b"\x93NUMPY\x01\0"),
        "cut.npy is an array of numpy that is damaged or truncated",
    ),
    "foreign.h5": (
        lambda p: write_hdf5(p, **{"scan/adf": COUNTS, "scan/line": COUNTS[0]}),
        "a layout that is not known, with scan/adf (24, 16), scan/line (16,); load the image by h5",
    ),
    "void.h5": (write_hdf5, "a layout that is not known, with no arrays"),
    "tables.nc": (
        lambda p: netCDF4.Dataset(p, "w").close(),
        "one variable with dimensions (..., y, x) was expected in tables.nc; it has none",
    ),
    "si.emd": (
        lambda p: write_berkeley(p, FOUR, step=0.1),
        "4D-STEM data of shape (3, 4, 5, 6)); export the annular dark-field image of this scan",
    ),
    "pattern.emd": (
        lambda p: write_berkeley(p, COUNTS, step=0.1, units="[1/n_m]"),
        "a diffraction pattern or Fourier transform",
    ),
    "camera.emd": (write_camera, "Ceta (an image of a camera); if it is one all the same, select"),
    "video.emd": (
        lambda p: write_velox(p, {"HAADF": np.moveaxis(STACK, 0, -1)}, {}),
        "HAADF is a series of 3 frames; align and sum them, or select one, for example frame=0",
    ),
    "fft.emd": (
        lambda p: write_velox(p, {"HAADF": COUNTS}, {}, unit="1/m"),
        "HAADF (a diffraction pattern or Fourier transform)",
    ),
    "complex.emd": (write_complex_velox, "an image of real numbers was expected"),
    "no.emd": (lambda p: write_velox(p, {}, {}), "no.emd (Velox EMD) has none; export the image"),
    "bf.emd": (lambda p: write_velox(p, {"BF": COUNTS}, {}), "BF (bright field); if it is one"),
    "zero.emd": (
        lambda p: write_velox(p, {"HAADF": np.zeros((0, 4, 1), "u2")}, {}),
        "an image with pixels was expected, zero.emd has the shape (0, 4)",
    ),
    "colour.tif": (
        lambda p: tifffile.imwrite(p, np.zeros((8, 8, 3), "u1"), photometric="rgb"),
        "a picture in colours of shape (8, 8, 3)",
    ),
    "colour.png": (
        lambda p: Image.fromarray(np.eye(3, dtype="u1")[None] * 255).save(p),
        "a picture in colours, which are no intensities",
    ),
    "complex.tif": (
        lambda p: tifffile.imwrite(p, COUNTS.astype(np.complex64)),
        "an image of real numbers was expected, complex.tif has complex64",
    ),
    "nan.tif": (
        lambda p: tifffile.imwrite(p, np.full((8, 8), np.nan, "f4")),
        "with finite intensities was expected, all of nan.tif are NaN or infinite",
    ),
    "two.tif": (
        lambda p: write_imagej(p, STACK, size=0.02, unit="nm", axes="ZYX"),
        "a series of 3 frames",
    ),
    "volume.mrc": (
        lambda p: write_mrc(p, FOUR[0]),
        "a volume or a stack of volumes of shape (4, 5, 6)",
    ),
    "complex.mrc": (lambda p: write_mrc(p, COUNTS.astype(np.complex64)), "real numbers"),
    "si.ndata": (
        lambda p: write_ndata(p, FOUR, nion_tree(nanometres=0.1)),
        "a spectrum, a spectrum image or 4D-STEM data of shape (3, 4, 5, 6)",
    ),
    "video.ndata": (
        lambda p: write_ndata(p, STACK, nion_tree(nanometres=0.1, is_sequence=True)),
        "a series of 3 frames",
    ),
    "line.npy": (lambda p: np.save(p, np.ones(8)), "line.npy has the shape (8,); save the image"),
    "none.npy": (lambda p: np.save(p, np.ones((0, 8))), "none.npy has the shape (0, 8)"),
    "complex.npy": (lambda p: np.save(p, COUNTS * 1j), "real numbers was expected, complex.npy"),
    "text.npy": (lambda p: np.save(p, np.array([["a"]])), "real numbers was expected, text.npy"),
    "objects.npy": (lambda p: np.save(p, np.array([{}])), "is an array of numpy that is damaged"),
    "many.npz": (
        lambda p: np.savez(p, one=COUNTS, other=COUNTS),
        "it has one (24, 16), other (24, 16); choose one by variable",
    ),
}
"""How each is made, and what is said of it."""

BY_ROSETTA = {
    "cut.dm4": (
        raw(b"\0\0\0\x04" + b"\0" * 11 + b"\x01" + b"\0" * 20),
        "DigitalMicrograph that is",
    ),
    "complex.dm4": (None, "no image"),
    "video.ser": (lambda p: write_ser(p, STACK, metres=2e-11), "a series of 3 frames"),
    "stack.dm4": (
        lambda p: write_dm(p, {"SI": STACK}, scan_tags(), scale=0.02),
        "SI is a series of 3 frames",
    ),
    "pattern.dm4": (
        lambda p: write_dm(p, {"CBED": COUNTS}, scan_tags(), scale=0.02, units="1/nm"),
        "CBED (a diffraction pattern or Fourier transform)",
    ),
    "two.dm4": (
        lambda p: write_dm(p, {"HAADF": COUNTS, "MAADF": COUNTS}, scan_tags(), scale=0.02),
        "it has images that may be of several scans (HAADF (24, 16), MAADF (24, 16)); choose one",
    ),
}
del BY_ROSETTA["complex.dm4"]


def is_in_three_parts(message):
    return "was expected" in message or "were expected" in message


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_told_with_what_to_do(name, tmp_path):
    make, expected = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        bc.read(tmp_path / name)
    message = str(caught.value)
    assert is_in_three_parts(message)
    assert name in message
    assert "; " in message
    assert "\n" not in message


@pytest.mark.parametrize("name", BY_ROSETTA)
def test_the_same_by_rosetta(name, tmp_path):
    pytest.importorskip("rsciio", reason="RosettaSciIO, GPL-3, is not installed")
    make, expected = BY_ROSETTA[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(expected)):
        bc.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.dm3", "a.ser", "a.hspy"])
def test_without_rosetta_the_error_names_the_extra(name, tmp_path, monkeypatch):
    if name == "a.hspy":
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs["file_format"] = "HyperSpy"
    elif name == "a.ser":
        write_ser(tmp_path / name, STACK[:1], metres=2e-11)
    else:
        write_dm(tmp_path / name, {"HAADF": COUNTS}, {}, scale=0.02, version=3)
    for module in [m for m in sys.modules if m.partition(".")[0] == "rsciio"]:
        monkeypatch.delitem(sys.modules, module)
    original = builtins.__import__

    def without(module, *rest):
        if module.partition(".")[0] == "rsciio":
            raise ImportError(module)
        return original(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(ImportError, match=re.escape("pip install 'bayesctx[files]' (GPL-3)")):
        bc.read(tmp_path / name)


def test_places_that_are_no_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file; correct its name"):
        bc.read(tmp_path / "absent.emd")
    with pytest.raises(OSError, match="is a folder or a device; name a file"):
        bc.read(tmp_path)
    with pytest.raises(ValueError, match="a path without null characters"):
        bc.read("a\0.emd")


def test_the_content_tells_the_format_and_a_wrong_ending_is_warned_of(tmp_path):
    write_imagej(tmp_path / "scan.dm4", COUNTS, size=0.02, unit="nm")
    with pytest.warns(UserWarning, match=r"ending of scan.dm4 is not that of its content.*TIFF"):
        image = bc.read(tmp_path / "scan.dm4")
    np.testing.assert_array_equal(image.values, COUNTS)


def test_endings_of_no_format_are_taken_in_silence(tmp_path):
    write_imagej(tmp_path / "scan.dat", COUNTS, size=0.02, unit="nm")
    np.testing.assert_array_equal(bc.read(tmp_path / "scan.dat").values, COUNTS)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("x"), ValueError, "is a film that is damaged or truncated"),
        (MemoryError("2 TiB"), ValueError, r"too large for the memory \(2 TiB\)"),
        (ImportError("no codec"), ImportError, r"needs another library \(no codec\); install it"),
        (UserWarning("doubtful"), UserWarning, "^doubtful$"),
        (ValueError("a was expected, got b; c"), ValueError, "^a was expected, got b; c$"),
    ],
)
def test_what_parsers_raise_becomes_one_error(error, kind, message):
    with pytest.raises(kind, match=message), reading("a.film", "a film"):
        raise error


def test_truncated_files_of_every_format_are_told(tmp_path):
    whole = {
        "a.tif": lambda p: tifffile.imwrite(p, COUNTS),
        "a.mrc": lambda p: write_mrc(p, COUNTS.astype(np.int16)),
        "a.emd": lambda p: write_velox(p, {"HAADF": COUNTS}, {}),
        "a.npy": lambda p: np.save(p, COUNTS),
        "a.ndata": lambda p: write_ndata(p, COUNTS, {}),
        "a.png": lambda p: Image.fromarray(COUNTS).save(p),
    }
    for name, make in whole.items():
        make(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for share in (0.3, 0.9):
            (tmp_path / name).write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match="damaged|truncated"):
                bc.read(tmp_path / name)


DAMAGED = {
    "a.emd": lambda p: write_velox(p, {"HAADF": COUNTS}, {"HAADF": (0.06, 0.2)}),
    "b.emd": lambda p: write_berkeley(p, COUNTS, step=0.02),
    "a.tif": lambda p: write_imagej(p, COUNTS, size=0.02, unit="nm"),
    "a.mrc": lambda p: write_mrc(p, COUNTS.astype(np.int16), angstrom=0.2),
    "a.ndata": lambda p: write_ndata(p, COUNTS, nion_tree(nanometres=0.02)),
    "a.npz": lambda p: np.savez(p, image=COUNTS),
    "a.npy": lambda p: np.save(p, COUNTS),
    "a.png": lambda p: Image.fromarray(COUNTS).save(p),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_read_or_end_in_one_error(name, tmp_path):
    rng = np.random.default_rng(5)
    DAMAGED[name](tmp_path / name)
    content = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
    for _ in range(25):
        damaged = content.copy()
        at = rng.integers(min(len(content), 5000), size=rng.integers(1, 12))
        damaged[at] = rng.integers(256, size=len(at))
        (tmp_path / name).write_bytes(damaged.tobytes())
        try:
            assert bc.read(tmp_path / name).ndim >= 2
        except ValueError as error:
            message = str(error)
            assert is_in_three_parts(message)
            assert "; " in message
            assert "\n" not in message


def test_choices_that_a_file_does_not_offer_are_told(tmp_path):
    write_velox(tmp_path / "a.emd", {"HAADF": COUNTS, "DF4": COUNTS}, {})
    with pytest.raises(ValueError, match=r"as 'DF2', it has 2 \(0: .*select a detector by name"):
        bc.read(tmp_path / "a.emd", select={"detector": "DF2"})
    with pytest.raises(ValueError, match="detector, frame was expected for a.emd, got 'image'"):
        bc.read(tmp_path / "a.emd", select={"image": 0})
    assert bc.read(tmp_path / "a.emd", select={"detector": 0}).dims == ("y", "x")
    write_berkeley(tmp_path / "b.emd", FOUR, step=0.1)
    with pytest.raises(ValueError, match="0: HAADF, a spectrum, a stack or 4D-STEM data of shape"):
        bc.read(tmp_path / "b.emd", select={"detector": 0})
    np.save(tmp_path / "a.npy", COUNTS)
    with pytest.raises(ValueError, match="a dimension among y, x was expected, got 'detector'"):
        bc.read(tmp_path / "a.npy", select={"detector": "HAADF"})
    np.savez(tmp_path / "a.npz", one=COUNTS, other=COUNTS + 1)
    np.testing.assert_array_equal(bc.read(tmp_path / "a.npz", variable="other"), COUNTS + 1)


def test_images_with_some_pixels_that_are_no_numbers_are_read(tmp_path):
    values = COUNTS.astype(np.float32)
    values[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(bc.read(tmp_path / "a.tif").values, values)

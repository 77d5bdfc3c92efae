"""What is read from files of every format, against RosettaSciIO and what was written."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tifffile
import torch
import xarray as xr
from PIL import Image
from report import table, write
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

import bayesctx as bc

COUNTS = np.random.default_rng(0).poisson(50, (64, 48)).astype(np.uint16)
STACK = np.random.default_rng(0).poisson(50, (2, 64, 48)).astype(np.uint16)
SIGNED = COUNTS.astype(np.int16)
DOSE = 3.2e-11 * 1.6e-5 / (1.602176634e-19 * 0.2 * 0.2)  # 32 pA for 16 µs on 0.2 x 0.2 Å
VARIABLES = (
    "beam_energy", "convergence_semiangle", "inner_collection_angle", "outer_collection_angle",
    "dose", "sampling",
)  # fmt: skip
UNITS = dict(zip(VARIABLES, ("eV", "mrad", "mrad", "mrad", "e/Å²", "Å/px"), strict=True))
EXACT = 1e-6  # relative difference that single precision explains

REFERENCES = {
    ".emd": "emd", ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".ser": "tia",
    ".emi": "tia", ".tif": "tiff", ".mrc": "mrc", ".hspy": "hspy", ".hdf5": "hspy",
}  # fmt: skip
"""Reader of RosettaSciIO for each ending."""

ANGSTROM = {"nm": 10.0, "Å": 1.0, "A": 1.0, "µm": 1e4, "um": 1e4, "pm": 0.01, "m": 1e10}

FEI = {
    "Beam": {"HV": 30000, "Beam": "EBeam"},
    "EBeam": {"HV": 30000, "BeamCurrent": 3.2e-11, "EmissionCurrent": 1e-4},
    "Scan": {"Dwelltime": 1.6e-5, "PixelWidth": 2e-11, "PixelHeight": 2e-11, "Integrate": 1},
    "Detectors": {"Number": 1, "Name": "STEM3", "Mode": "HAADF"},
    "STEM3": {"Signal": "HAADF"},
}
THERMO = {"HT": 8e4, "Pixel size X": 2e-11, "Pixel size Y": 2e-11, "STEM Detector name": b"HAADF"}
TAGS = scan_tags(current=0.032, convergence=25.0, width=48, field_of_view=48 * 2e-5)
ALL = dict(zip(VARIABLES, (8e4, 25.0, 60.0, 200.0, DOSE, 0.2), strict=True))
ORIGINAL = metadata("HAADF", {"HAADF": (0.06, 0.2)})


def some(*names: str, **other: float) -> dict[str, float]:
    """Values that a file records, of those of the reference scan."""
    return {n: ALL[n] for n in names} | other


def write_netcdf(path: Path) -> None:
    """NetCDF with coordinates and attributes."""
    places = {
        a: (a, np.arange(n) * 0.02, {"units": "nm"})
        for a, n in zip("yx", COUNTS.shape, strict=True)
    }
    attrs = {"beam_energy_keV": 80.0}
    xr.DataArray(COUNTS, places, ("y", "x"), "adf", attrs).to_dataset().to_netcdf(path)


MADE: dict[str, tuple[str, Callable, Mapping[str, float]]] = {
    "velox.emd": (
        "Velox EMD, h5py, JSON in columns of bytes",
        lambda p: write_velox(p, {"HAADF": COUNTS}, {"HAADF": (0.06, 0.2)}),
        ALL,
    ),
    "berkeley.emd": (
        "Berkeley EMD 0.2, h5py",
        lambda p: write_berkeley(p, COUNTS, step=0.02),
        some("beam_energy", "sampling"),
    ),
    "tags.dm3": (
        "DM3, tree of tags",
        lambda p: write_dm(p, {"HAADF": COUNTS}, TAGS, scale=0.02, version=3),
        some("beam_energy", "convergence_semiangle", "dose", "sampling"),
    ),
    "tags.dm4": (
        "DM4, tree of tags",
        lambda p: write_dm(p, {"HAADF": COUNTS}, TAGS, scale=0.02),
        some("beam_energy", "convergence_semiangle", "dose", "sampling"),
    ),
    "tia_1.ser": (
        "SER 0x210",
        lambda p: write_ser(p, COUNTS[None], metres=2e-11),
        some("sampling"),
    ),
    "signal.hspy": (
        "HSPY, RosettaSciIO, of a Velox file",
        lambda p: write_hspy(p, COUNTS, nanometres=0.02, metadata={}, original=ORIGINAL),
        some("beam_energy", "convergence_semiangle", "inner_collection_angle",
             "outer_collection_angle", "sampling"),
    ),
    "swift.ndata": (
        "Nion ndata, numpy and JSON in ZIP",
        lambda p: write_ndata(p, COUNTS, nion_tree(nanometres=0.02)),
        some("dose", "sampling", beam_energy=6e4, convergence_semiangle=32.0),
    ),
    "imagej.tif": (
        "ImageJ TIFF, tifffile",
        lambda p: write_imagej(p, COUNTS, size=0.02, unit="nm"),
        some("sampling"),
    ),
    "ome.tif": (
        "OME TIFF, tifffile",
        lambda p: write_ome(p, COUNTS, size=2e-5, unit="µm"),
        some("sampling"),
    ),
    "fei.tif": (
        "FEI TIFF, tag 34682",
        lambda p: write_fei(p, COUNTS, FEI),
        some("dose", "sampling", beam_energy=3e4),
    ),
    "plain.tif": ("TIFF, tifffile", lambda p: tifffile.imwrite(p, COUNTS), {}),
    "plain.mrc": (
        "MRC2014, mrcfile",
        lambda p: write_mrc(p, SIGNED, angstrom=0.2),
        some("sampling"),
    ),
    "thermo.mrc": (
        "MRC2014 with FEI1, mrcfile",
        lambda p: write_mrc_of_thermo_fisher(p, SIGNED, THERMO),
        some("beam_energy", "sampling"),
    ),
    "named.nc": ("netCDF, xarray", write_netcdf, some("beam_energy", "sampling")),
    "array.npy": ("numpy", lambda p: np.save(p, COUNTS), {}),
    "array.npz": ("numpy", lambda p: np.savez(p, image=COUNTS), {}),
    "picture.png": ("PNG of 16 bits, Pillow", lambda p: Image.fromarray(COUNTS).save(p), {}),
}  # fmt: skip
"""A file of each format: how it is made, and what it records in the units of the package."""

WITHOUT_DOSE = tuple(n for n in VARIABLES if n != "dose")
OBJECTS: dict[str, tuple[Callable, Mapping[str, float]]] = {
    "HyperSpy signal, of a Velox file": (
        lambda: signal_of_hyperspy(COUNTS, original=ORIGINAL), some(*WITHOUT_DOSE),
    ),
    "HyperSpy signal, mapped metadata": (
        lambda: signal_of_hyperspy(COUNTS),
        some("sampling", beam_energy=6e4, convergence_semiangle=30.0),
    ),
    "sidpy Dataset, of a Velox file": (
        lambda: dataset_of_sidpy(COUNTS, original=ORIGINAL), some(*WITHOUT_DOSE),
    ),
    "sidpy Dataset": (lambda: dataset_of_sidpy(COUNTS), some("beam_energy", "sampling")),
    "LiberTEM result": (lambda: result_of_libertem(COUNTS), {}),
}  # fmt: skip
"""Objects in memory, which stand for those of packages that are not installed, and what of them is
read: a signal does not say how many frames it sums, so that none has a dose.
"""


def read(path: object, **choice: object) -> tuple[xr.DataArray | None, str]:
    """An image with the warnings; or None with the error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = bc.read(path, **choice)
        except (ValueError, TypeError, OSError, ImportError) as error:
            return None, str(error)
    return image, "; ".join(dict.fromkeys(str(w.message) for w in caught))


def recorded(image: xr.DataArray) -> dict[str, dict]:
    """Entries by name; of one detector with its angles."""
    return {n: e for n, e in json.loads(image.attrs["context"]).items() if n in VARIABLES}


def by_rosetta(path: Path, image: xr.DataArray) -> tuple[dict[str, float], bool | None]:
    """Values as RosettaSciIO gives them, and whether the image is among those that it reads."""
    if path.suffix not in REFERENCES:
        return {}, None
    try:
        reader = importlib.import_module(f"rsciio.{REFERENCES[path.suffix]}").file_reader
        signals = reader(str(path))
    except Exception:  # readers raise nearly anything
        return {}, None
    signal, same = matching(signals, image.values)
    axis = signal["axes"][-1]
    found = {}
    if axis.get("units") in ANGSTROM:
        found["sampling"] = float(axis["scale"]) * ANGSTROM[axis["units"]]
    metadata = mapped(signal)
    for name, place, factor in (
        ("beam_energy", "beam_energy", 1e3),
        ("convergence_semiangle", "convergence_angle", 1.0),
    ):
        value = metadata.get(f"Acquisition_instrument.TEM.{place}")
        if value:
            found[name] = float(value) * factor
    return {n: v for n, v in found.items() if v > 0}, same


def matching(signals: list, values: np.ndarray) -> tuple[Mapping, bool]:
    """The signal that is an image, or the first frame of a series, with these values."""
    wanted = values if values.ndim == 2 else values[0]
    for signal in signals:
        data = np.asarray(signal["data"])
        frame = data[0] if data.ndim == 3 else data
        if np.array_equal(frame, wanted):
            return signal, True
    return signals[0], False


def mapped(signal: Mapping) -> dict[str, object]:
    """Metadata by dotted places, with those that HyperSpy would map on loading."""
    found = flatten(signal["metadata"])
    original = flatten(signal["original_metadata"])
    for place, (target, convert) in signal.get("mapping", {}).items():
        value = original.get(place)
        if value is not None:
            found[target] = convert(value) if convert is not None else value
    return found


def flatten(tree: Mapping, place: str = "") -> dict[str, object]:
    """Leaves of nested metadata by dotted places."""
    found = {}
    for name, value in dict(tree).items():
        here = f"{place}.{name}" if place else str(name)
        found |= flatten(value, here) if isinstance(value, Mapping) else {here: value}
    return found


def differs(one: float, other: float) -> bool:
    """Whether two values differ by more than rounding."""
    return abs(one - other) > EXACT * abs(other)


def made(folder: Path) -> Iterator[tuple[str, xr.DataArray, dict[str, float], Mapping]]:
    """Title of every file and object, its image, values by RosettaSciIO, and what was written."""
    for name, (how, make, truth) in MADE.items():
        make(folder / name)
        image, _ = read(folder / name)
        other, _ = by_rosetta(folder / name, image)
        yield f"{how}: `{name}`", image, other, truth
    for how, (make, truth) in OBJECTS.items():
        image, _ = read(make())
        yield how, image, {}, truth


def compare_made(folder: Path) -> tuple[str, Counter]:
    """Every made file and object: what was written, what was read, what RosettaSciIO says."""
    rows, count = [], Counter()
    for title, image, other, truth in made(folder):
        found = recorded(image)
        same = np.array_equal(image.values, COUNTS)
        count["images"] += 1
        count["wrong images"] += not same
        first = True
        for variable in VARIABLES:
            entry = found.get(variable)
            if variable not in truth:
                count["absent"] += entry is None
                count["invented"] += entry is not None
                continue
            wrong = entry is None or differs(entry["value"], truth[variable])
            count["values"] += 1
            count["wrong values"] += wrong
            reference = other.get(variable)
            if reference is not None:
                count["compared with RosettaSciIO"] += 1
                count["different from RosettaSciIO"] += differs(reference, truth[variable])
            rows.append([
                title if first else "",
                variable,
                f"{entry['recorded']}" if entry else "-",
                f"{entry['value']:.6g} {UNITS[variable]}" if entry else "-",
                entry["origin"] if entry else "-",
                f"{reference:.6g}" if reference is not None else "-",
                "**wrong**" if wrong else "",
            ])  # fmt: skip
            first = False
        if first:
            rows.append([title, "nothing", "-", "-", "-", "-", ""])
    header = ["file", "variable", "as recorded", "read", "origin", "RosettaSciIO", ""]
    return table(header, rows), count


TRAPS: dict[str, tuple[str, Callable, dict]] = {
    "Velox: a detector that was not inserted, with angles 0 to 0": (
        "a.emd", lambda p: write_velox(p, {"HAADF": COUNTS}, {}), {},
    ),
    "Velox: screen current 0 while the screen is lifted": (
        "b.emd",
        lambda p: write_velox(p, {"HAADF": COUNTS}, {}, changes={"Optics/ScreenCurrent": "0"}),
        {},
    ),
    "Velox: never a current measured": (
        "c.emd",
        lambda p: write_velox(
            p, {"HAADF": COUNTS}, {}, changes={"Optics/LastMeasuredScreenCurrent": "0"}
        ),
        {},
    ),
    "Velox: every line is the sum of 4": (
        "d.emd",
        lambda p: write_velox(
            p, {"HAADF": COUNTS}, {}, changes={"Scan/LineIntegrationCount": "4"}
        ),
        {},
    ),
    "Velox: HAADF, DF4 and BF of one scan": (
        "e.emd",
        lambda p: write_velox(
            p, {"HAADF": COUNTS, "DF4": COUNTS, "BF": COUNTS},
            {"HAADF": (0.06, 0.2), "DF4": (0.03, 0.058), "BF": (0.0, 0.02)},
        ),
        {},
    ),
    "Velox: HAADF with iDPC computed from it": (
        "f.emd",
        lambda p: write_velox(
            p, {"HAADF": COUNTS, "DF4": COUNTS}, {"HAADF": (0.06, 0.2)},
            operations={"DF4": "SurfaceReconstructionOperation"},
        ),
        {},
    ),
    "Velox: a series of 2 frames": (
        "g.emd", lambda p: write_velox(p, {"HAADF": np.moveaxis(STACK, 0, -1)}, {}), {},
    ),
    "the same, with frame=1": (
        "h.emd",
        lambda p: write_velox(p, {"HAADF": np.moveaxis(STACK, 0, -1)}, {"HAADF": (0.06, 0.2)}),
        {"select": {"frame": 1}},
    ),
    "DM4: calibration 10 times its field of view": (
        "i.dm4", lambda p: write_dm(p, {"HAADF": COUNTS}, TAGS, scale=0.2), {},
    ),
    "DM4: 2 Å pixels, no field of view": (
        "j.dm4", lambda p: write_dm(p, {"HAADF": COUNTS}, scan_tags(), scale=0.2), {},
    ),
    "DM4: emission current 12 µA, no probe current": (
        "k.dm4", lambda p: write_dm(p, {"HAADF": COUNTS}, scan_tags(), scale=0.02), {},
    ),
    "ImageJ: 2 channels": (
        "l.tif",
        lambda p: write_imagej(
            p, STACK, size=0.02, unit="nm", axes="CYX", Labels=["HAADF", "MAADF"]
        ),
        {},
    ),
    "ImageJ: 2 time points": (
        "m.tif", lambda p: write_imagej(p, STACK, size=0.02, unit="nm", axes="TYX"), {},
    ),
    "TIFF named .dm4": ("n.dm4", lambda p: write_imagej(p, COUNTS, size=0.02, unit="nm"), {}),
    "PNG": ("o.png", lambda p: Image.fromarray(COUNTS).save(p), {}),
    "a page of HTML named .emd": ("p.emd", lambda p: p.write_text("<!doctype html>404"), {}),
    "an empty file": ("q.emd", lambda p: p.write_bytes(b""), {}),
    "4D-STEM data": (
        "r.emd", lambda p: write_berkeley(p, np.zeros((3, 4, 5, 6)), step=0.1), {},
    ),
    "a diffraction pattern": (
        "s.dm4", lambda p: write_dm(p, {"CBED": COUNTS}, {}, scale=0.02, units="1/nm"), {},
    ),
}  # fmt: skip
"""What goes wrong in practice: name, how it is made, and what is selected."""


def both_frames(folder: Path) -> list[xr.DataArray]:
    """The frames of the series among the traps."""
    return [bc.read(folder / "h.emd", select={"frame": k}) for k in range(2)]


COMPUTED = {
    "the same, a part of one frame": lambda folder: both_frames(folder)[0][20:60, 8:40],
    "the same, both frames added": lambda folder: sum(both_frames(folder)),
    "the same, the mean in a copy of one": lambda folder: both_frames(folder)[0].copy(
        data=np.mean(both_frames(folder), 0)
    ),
}
"""What users make of frames that were read."""


def show_traps(folder: Path) -> str:
    """What becomes of each trap."""
    rows = []
    for what, (name, make, choice) in TRAPS.items():
        make(folder / name)
        rows.append(row_of_trap(what, *read(folder / name, **choice)))
        if name == "h.emd":
            rows += [row_of_trap(w, compute(folder), "") for w, compute in COMPUTED.items()]
    return table(["file", "outcome", "absent of the six, or detectors", "said"], rows)


def row_of_trap(what: str, image: xr.DataArray | None, said: str) -> list[str]:
    """What is read of it, or what it is refused as."""
    if image is None:
        return [what, "refused", "", plain(said)]
    taken = set(bc.files.recorded_context(image)) | ({"sampling"} & set(recorded(image)))
    known = ", ".join(sorted(set(VARIABLES) - taken)) or "none"
    if "detector" in image.dims:
        known = f"detectors {', '.join(image.detector.values)}"
    return [what, str(image.shape), known, plain(said)]


def plain(text: str) -> str:
    """A message without the folder, as a cell of a table."""
    return re.sub(r"/\S*/", "", text).replace("|", "/")


def compare_vendor(folder: Path) -> tuple[str, Counter]:
    """Files that microscopes wrote: those that are read, against RosettaSciIO, and the others."""
    rows, count, refused = [], Counter(dict.fromkeys(COUNTED, 0)), Counter()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in REFERENCES):
        image, said = read(path)
        if image is None and "is a series of" in said:
            image, _ = read(path, select={"frame": 0})
            count["series"] += image is not None
        if image is None:
            refused[kind_of_refusal(said)] += 1
            count["refused"] += 1
            continue
        count["read"] += 1
        found = recorded(image)
        other, same = by_rosetta(path, image)
        count["same"] += same is True
        count["other"] += same is False
        count["alone"] += same is None
        cells = []
        for variable in ("sampling", "beam_energy", "convergence_semiangle"):
            mine = found[variable]["value"] if variable in found else None
            theirs = other.get(variable)
            if mine is not None and theirs is not None:
                count["compared"] += 1
                count["different"] += differs(mine, theirs)
            count["missing"] += mine is None and theirs is not None
            cells.append(" / ".join("-" if v is None else f"{v:.6g}" for v in (mine, theirs)))
        dose = found.get("dose", {}).get("value")
        if found:
            shown = [image.attrs["format"], str(image.shape), *cells]
            rows.append([f"`{path.name}`", *shown, "-" if dose is None else f"{dose:.4g}"])
    header = [
        "file", "format", "shape", "sampling (Å/px), here / RosettaSciIO",
        "beam_energy (eV), here / RosettaSciIO", "convergence_semiangle (mrad)", "dose (e/Å²)",
    ]  # fmt: skip
    listed = table(["refused as", "files"], [[k, n] for k, n in refused.most_common()])
    return f"{table(header, rows)}\n\n{listed}", count


KINDS = (
    "a spectrum image or 4D-STEM data", "a spectrum, a stack or 4D-STEM data",
    "a spectrum or line profile", "an image of a camera", "a picture in colours",
    "a diffraction pattern or Fourier transform", "a series of", "an image of real numbers",
    "an image of numbers", "has none", "damaged or truncated", "a layout that is not known",
    "scanning electron microscope", "secondary or other electrons", "computed by Velox",
    "may be of several scans", "images of the same name",
)  # fmt: skip


def kind_of_refusal(text: str) -> str:
    """The reason of an error in few words."""
    return next((kind for kind in KINDS if kind in text), plain(text)[:80])


COUNTED = (
    "read", "series", "same", "other", "alone", "refused", "compared", "different", "missing",
)  # fmt: skip
VENDOR = """## Files of microscopes

The test files of the source distribution of HyperSpy 1.6.5 (GPL-3, not carried here), which Velox,
TIA, DigitalMicrograph, ImageJ, Prismatic, HyperSpy and others wrote. {read} are read, {series} of
them by selecting frame 0 of a series. {same} have the values that RosettaSciIO reads, {other} have
others, and {alone} RosettaSciIO does not read without further libraries (sparse, imagecodecs).
{refused} are refused. Of {compared} values that both give, {different} differ; {missing} are given
by RosettaSciIO alone. Files with no recorded value are not listed.

"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vendor", type=Path, help="folder of files that microscopes wrote")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        made, count = compare_made(Path(name))
        traps = show_traps(Path(name))
    body = f"""`bayesctx.read` gives an image and the context that its file records. One file of
every format was made, by the library that writes it or byte by byte as specified, all of the same
scan (80 kV, 25 mrad, 60 to 200 mrad, 32 pA for 16 µs on 0.2 Å) as far as the format holds it. The
column RosettaSciIO has what its reader gives, mapped metadata included: of Velox it maps neither
angles nor currents. HyperSpy, sidpy and LiberTEM were not installed: their rows are of objects that
have the attributes which `read` looks at, made for the tests, and not of objects of these packages.

| | number | wrong |
|---|---|---|
| images | {count["images"]} | {count["wrong images"]} |
| recorded values | {count["values"]} | {count["wrong values"]} |
| of these also given by RosettaSciIO | {count["compared with RosettaSciIO"]} | \
{count["different from RosettaSciIO"]} |
| values that a file does not record, which must be absent | {count["absent"] + count["invented"]} \
| {count["invented"]} |

{made}

## Traps

{traps}"""
    if arguments.vendor is not None:
        listed, found = compare_vendor(arguments.vendor)
        body += "\n\n" + VENDOR.format(**found) + listed
    write("files", "Files", body, 0)


if __name__ == "__main__":
    main()

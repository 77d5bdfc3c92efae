"""Files that RosettaSciIO reads, an optional library under the GPL-3: DM3, DM4, SER, EMI, HSPY."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import xarray as xr

from .assembly import Choice, assemble
from .formats import EXTRA, reading
from .record import Array, Entry, Signal, lookup, pixel, with_dose_of_frame
from .units import is_reciprocal
from .vendors import read_hyperspy

__all__ = ["read_rosetta", "signal_of"]

MODULES = {
    "dm": ("rsciio.digitalmicrograph", "DigitalMicrograph"),
    "ser": ("rsciio.tia", "TIA SER"),
    "emi": ("rsciio.tia", "TIA EMI"),
    "hspy": ("rsciio.hspy", "HyperSpy"),
}
"""Module that reads each format, and the name of the format."""

SERIES = re.compile(r"(.*)_\d+$")  # x_1.ser and x_2.ser belong to x.emi
CALIBRATION = {
    "TIA": "ser_header_parameters.CalibrationDelta of {}",
    "DigitalMicrograph": "ImageData.Calibrations.Dimension.Scale of {}",
}
"""Where the size of a pixel along an axis is recorded."""

UNNAMED = "TIA does not record which detectors these are; if one is bright field, select the other"


def read_rosetta(path: Path, choice: Choice, kind: str) -> xr.DataArray:
    """Read a file by RosettaSciIO.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Of the user.
    kind : str
        A key of ``MODULES``.

    Returns
    -------
    DataArray
        The image, or the detectors of one scan.

    Raises
    ------
    ImportError
        If RosettaSciIO is not installed.
    ValueError
        If the file is damaged, or has no image.
    """
    module, title = MODULES[kind]
    try:
        # imported when used: its licence, the GPL-3, is not that of this package
        reader = importlib.import_module(module).file_reader
    except ImportError as error:
        raise ImportError(
            f"an image was expected, {path} is a file of {title.split()[0]}; {EXTRA}"
        ) from error
    with reading(path, f"a file of {title.split()[0]}"):
        # lazily, since data of 100 GB are no image
        found = reader(str(path), lazy=True)
        if kind == "ser":
            found = [_with_emi(own, path, reader) for own in found]
        signals = [signal_of(own, title, kind) for own in found]
        if len(signals) == 1 and signals[0].name == path.stem:
            # the name of the file is not that of a detector
            signals = [replace(signals[0], name="")]
        elif kind == "emi":
            signals = [replace(s, notes=(*s.notes, UNNAMED)) for s in signals]
        return assemble(signals, choice, title)


def _with_emi(own: Mapping, path: Path, reader: object) -> Mapping:
    """Add the metadata of the .emi file beside a .ser file, where there is one."""
    series = SERIES.match(path.stem)
    beside = path.with_name(f"{series.group(1)}.emi") if series else path
    if "ObjectInfo" in own["original_metadata"] or series is None or not beside.is_file():
        return own
    for other in reader(str(beside), lazy=True):
        if lookup(other, "metadata/General/original_filename") == path.name:
            return other
    return own


def signal_of(own: Mapping[str, object], title: str, kind: str = "") -> Signal:
    """Image of one signal of RosettaSciIO or HyperSpy.

    Parameters
    ----------
    own : mapping
        ``data``, ``axes``, ``metadata`` and ``original_metadata``, as RosettaSciIO returns them.
    title : str
        Name of the format.
    kind : str
        Key of ``MODULES``.

    Returns
    -------
    Signal
        With the flaw of what is no image.
    """
    values, axes = own["data"], list(own["axes"])
    metadata, original = own["metadata"], own["original_metadata"]
    general = lookup(metadata, "General") or {}
    name = str(general.get("title") or "")
    if kind in ("ser", "emi"):
        name = Path(str(general.get("original_filename", name))).stem
    other = _other(values, axes)
    if other:
        return Signal.other(name, values.shape, other)
    size = _sizes(axes[-2:], title)
    found = read_hyperspy(metadata, original)
    mode = str(lookup(metadata, "Acquisition_instrument/TEM/acquisition_mode") or "STEM")
    flaw = found.flaw or ("" if "S" in mode.upper() else "an image of a camera")
    if any(is_reciprocal(axis.get("units")) for axis in axes[-2:]):
        flaw = "a diffraction pattern or Fourier transform"
    # a signal that was processed keeps the metadata of the microscope, and does not say so
    is_raw = kind in ("dm", "ser", "emi")
    return replace(
        Signal.of(found.detector or name, values),
        pixel=size,
        context=found.context if is_raw else with_dose_of_frame(found.context),
        angles=found.angles,
        flaw=flaw,
        scan=_scan(original),
        notes=found.notes,
    )


def _scan(original: Mapping[str, object]) -> str:
    """When the images of TIA or DigitalMicrograph were scanned; each has its own metadata."""
    places = ("ObjectInfo/AcquireDate", "ImageList/TagGroup0/ImageTags/DigiScan/TimeStamp")
    return next((str(t) for t in (lookup(original, p) for p in places) if t), "")


def _sizes(axes: list[Mapping], title: str) -> tuple[Entry | None, Entry | None]:
    """Size of a pixel along the last two axes."""
    place = CALIBRATION.get(title.split()[0], "axes.{}.scale")
    return tuple(
        pixel(axis.get("scale"), axis.get("units"), place.format(side))
        for axis, side in zip(axes, "yx", strict=True)
    )


def _other(values: Array, axes: list[Mapping]) -> str:
    """What data are that are no image or series of images; empty for these."""
    if values.dtype.names and "R" in values.dtype.names:
        return "a picture in colours"
    is_line = len(axes) > 1 and axes[-1].get("navigate") is False and axes[-2].get("navigate")
    if values.ndim < 2 or (is_line and values.ndim == 2):
        return "a spectrum or line profile"
    # where no axis says what it is for, as in old files, the last two are those of the image
    navigation = [axis for axis in axes[:-2] if axis.get("navigate") is not False]
    is_spectral = any(str(axis.get("units")) in ("eV", "keV") for axis in axes)
    if is_line or is_spectral or len(axes) > 3 or len(navigation) != len(axes) - 2:
        return "a spectrum image or 4D-STEM data"
    return ""

"""TIFF files, with the tags of ImageJ, OME, FEI and DigitalMicrograph."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile
import xarray as xr

from ..storage import warn
from .assembly import Choice, assemble, check_size
from .formats import reading, refuse
from .record import Entry, Signal, dose, find, lookup, pixel
from .vendors import Found, read_digitalmicrograph

__all__ = ["read_tiff"]

PLAIN = (1, 8, 32946, 32773)  # compressions without imagecodecs: none, deflate, PackBits
GREY = (0, 1)  # photometric interpretations of grey values
CAMERAS = ("tvips", "mdgel", "qpi", "svs", "pilatus")
"""Software, by the flags of tifffile, whose images are not those of a scan."""

FEI_XML, GATAN_UNIT, GATAN_SCALE = 34683, (65004, 65003), (65010, 65009)
DM_INFO = re.compile(r"^root\.ImageList\.\d+\.ImageTags\.([^=]*?) = (.*)$", re.MULTILINE)
"""Tags of DigitalMicrograph, as ImageJ keeps them."""

Pixel = tuple[Entry | None, Entry | None]


def read_tiff(path: Path, choice: Choice) -> xr.DataArray:
    """Read a TIFF file.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Of the user.

    Returns
    -------
    DataArray, shape (y, x) or (detector, y, x)
        Several pages are detectors only if ImageJ or OME call them channels.

    Raises
    ------
    ValueError
        If it is damaged, compressed in a way that needs another library, or no grey image.

    Warns
    -----
    UserWarning
        If it has 8 bits, which are usually scaled for a display.
    """
    with reading(path, "a TIFF file"), tifffile.TiffFile(path) as file:
        if not file.pages:
            raise ValueError("it has no page")
        _check_codec(path, file)
        whole = [series for series in file.series if not series.keyframe.is_reduced]
        signals = [s for series in whole for s in _signals(file, series)]
        image = assemble(signals, choice, "TIFF")
    if signals and all(s.dtype == np.uint8 and not s.flaw for s in signals):
        warn(
            f"{choice.path} has grey values of 8 bits, which are usually scaled for a display "
            "(clipped, perhaps not linear); use the file of the microscope if there is one"
        )
    return image


def _check_codec(path: Path, file: tifffile.TiffFile) -> None:
    """Raise for a compression that tifffile reads only with another library."""
    kind = file.pages[0].compression
    if int(kind) not in PLAIN and importlib.util.find_spec("imagecodecs") is None:
        name = getattr(kind, "name", kind)
        what = f"a TIFF file with the compression {name}"
        raise refuse(path, what, "run pip install imagecodecs, or save it without compression")


def _signals(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[Signal]:
    """Images of one series: one for each channel, with its frames."""
    page = series.keyframe
    size, found = _metadata(file, page)
    axes, shape = series.axes, series.shape
    if page.photometric not in GREY or "S" in axes:
        return [Signal.other(found.detector, shape, "a picture in colours")]
    if axes[-2:] != "YX":
        return [Signal.other(found.detector, shape, f"data with the axes {axes}")]
    planes = np.arange(math.prod(shape[:-2])).reshape(shape[:-2])
    is_camera = any(getattr(file, f"is_{name}", False) for name in CAMERAS)
    several = "C" in axes
    planes = np.moveaxis(planes, axes.index("C"), 0) if several else planes[None]
    names = _channels(file, len(planes)) if several else [found.detector]
    return [
        Signal(
            name=name,
            shape=shape[-2:],
            load=partial(_plane, series, own.ravel()),
            num_frames=own.size,
            dtype=np.dtype(series.dtype),
            pixel=size,
            context=found.context,
            flaw="an image of a camera" if is_camera else found.flaw,
            scan="channels" if several else "",
            notes=found.notes,
        )
        for name, own in zip(names, planes, strict=True)
    ]


def _plane(series: tifffile.TiffPageSeries, planes: np.ndarray, frame: int) -> np.ndarray:
    """One plane of a series; ImageJ keeps many in one page."""
    number = int(planes[frame])
    check_size(series.name, series.keyframe.shape)
    if len(series.pages) > number and series.keyframe.shape == series.shape[-2:]:
        return series.pages[number].asarray()
    check_size(series.name, series.shape)
    return series.asarray().reshape(-1, *series.shape[-2:])[number]


def _metadata(file: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[Pixel, Found]:
    """Pixel size and context, by the software that wrote the file."""
    if file.is_fei:
        return _of_fei(file.fei_metadata or {})
    if FEI_XML in page.tags:
        return _of_fei_xml(str(page.tags[FEI_XML].value))
    if file.is_ome:
        return _of_ome(file), Found()
    if file.is_imagej:
        return _of_imagej(file, page)
    if GATAN_SCALE[0] in page.tags:
        size = tuple(
            pixel(page.tags.valueof(scale), page.tags.valueof(unit), f"tag {scale}")
            for unit, scale in zip(GATAN_UNIT, GATAN_SCALE, strict=True)
        )
        return size, Found()
    return (None, None), Found()


def _of_fei(tree: Mapping[str, object]) -> tuple[Pixel, Found]:
    """FEI_HELIOS or FEI_SFEG: SI units, beam current and dwell time of a scan."""
    size = tuple(
        pixel(lookup(tree, f"Scan/{side}"), "m", f"Scan.{side}")
        for side in ("PixelHeight", "PixelWidth")
    )
    energy = find(tree, ("Beam/HV", "EBeam/HV"), "V")
    context = {} if energy is None else {"beam_energy": energy}
    current, dwell = find(tree, "EBeam/BeamCurrent", "A"), find(tree, "Scan/Dwelltime", "s")
    sums = find(tree, "Scan/Integrate", "1")
    if sums is None or sums.value == 1:
        context |= dose(current, dwell, size)
    detector = str(lookup(tree, "Detectors/Name") or "")
    signal = str(lookup(tree, f"{detector}/Signal") or lookup(tree, "Detectors/Mode") or "")
    flaw = f"an image of secondary or other electrons ({signal})" if signal in ("SE", "BSE") else ""
    return size, Found(context, {}, detector, flaw)


def _of_fei_xml(text: str) -> tuple[Pixel, Found]:
    """FEI_TITAN: XML with paths, or with labels, values and units."""
    try:
        root = ElementTree.fromstring(text.strip("\0 \n"))
    except ElementTree.ParseError:
        return (None, None), Found()
    tree = {}
    for item in root.iter():
        label, value, unit = (item.findtext(n) for n in ("Label", "Value", "Unit"))
        if label and value:
            tree[f"{label} [{unit}]"] = value
    for path in ("Optics/AccelerationVoltage", "ScanSettings/DwellTime"):
        tree[path.partition("/")[2]] = root.findtext(f".//{path}")
    energy = find(tree, "AccelerationVoltage", "V") or find(tree, "High tension [kV]", "kV")
    sides = [root.find(f".//BinaryResult/PixelSize/{side}") for side in ("Y", "X")]
    size = tuple(
        None
        if side is None
        else pixel(side.text, side.get("unit", ""), f"BinaryResult.PixelSize.{side.tag}")
        for side in sides
    )
    detector = root.findtext(".//ScanningDetector/DetectorName") or ""
    return size, Found({} if energy is None else {"beam_energy": energy}, {}, detector)


def _of_imagej(file: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[Pixel, Found]:
    """ImageJ: resolution in pixels per unit, and the tags that it kept of DigitalMicrograph."""
    known = file.imagej_metadata or {}
    size = tuple(_per_unit(page, tag, known.get("unit")) for tag in ("YResolution", "XResolution"))
    tags: dict = {}
    for path, value in DM_INFO.findall(str(known.get("Info", ""))):
        *groups, name = path.split(".")
        inner = tags
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                break
        else:
            inner[name] = value
    # without a dose: ImageJ keeps the tags also of an image that it has scaled
    return size, read_digitalmicrograph(tags, (None, None)) if tags else Found()


def _per_unit(page: tifffile.TiffPage, tag: str, unit: object) -> Entry | None:
    """Size of a pixel by the number of pixels in a unit."""
    parts = page.tags.valueof(tag)
    if not parts or not parts[0]:
        return None
    return pixel(parts[1] / parts[0], unit, f"{tag} and unit of ImageJ")


def _of_ome(file: tifffile.TiffFile) -> Pixel:
    """OME: physical sizes, in µm unless a unit is stated."""
    found = _ome_pixels(file)
    return tuple(
        None
        if found is None
        else pixel(
            found.get(f"PhysicalSize{axis}"),
            found.get(f"PhysicalSize{axis}Unit", "µm"),
            f"OME PhysicalSize{axis}",
        )
        for axis in ("Y", "X")
    )


def _ome_pixels(file: tifffile.TiffFile) -> ElementTree.Element | None:
    """The first element Pixels of the XML of OME."""
    try:
        root = ElementTree.fromstring(file.ome_metadata or "<none/>")
    except ElementTree.ParseError:
        return None
    return root.find(".//{*}Pixels")


def _channels(file: tifffile.TiffFile, number: int) -> list[str]:
    """Names of channels, or their numbers."""
    names: list[str | None] = []
    if file.is_ome:
        found = _ome_pixels(file)
        names = [] if found is None else [c.get("Name") for c in found.iterfind("{*}Channel")]
    elif file.is_imagej:
        labels = (file.imagej_metadata or {}).get("Labels", [])
        names = [str(text).partition("\n")[0] for text in labels]
    if len(names) != number or not all(names) or len(set(names)) < number:
        return [str(k) for k in range(number)]
    return [str(name) for name in names]

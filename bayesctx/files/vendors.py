"""Context in the metadata of each microscope software; values that are absent stay absent.

The defocus that microscopes display counts from where the operator set it to zero, and is not
taken. Emission currents are not beam currents. Collection angles of spectrometers are not those of
dark-field detectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .record import Entry, dose, find, lookup, pixel
from .units import length

__all__ = [
    "BRIGHT_FIELD",
    "Found",
    "read_digitalmicrograph",
    "read_hyperspy",
    "read_nion",
    "read_tia",
    "read_velox",
    "size_of_tags",
    "size_of_velox",
]

BRIGHT_FIELD = re.compile(r"a?bf[-_ ]?\w{0,2}|.*bright.?field.*", re.IGNORECASE)
"""Names of detectors within the cone of the probe."""

SCANNED = ("STEM", "SCANNING")
POWER = 1.5  # ratio of two pixel sizes from which on no calibration explains it

Pixel = tuple[Entry | None, Entry | None]


@dataclass(frozen=True)
class Found:
    """What the metadata of an image say.

    Attributes
    ----------
    context, angles : dict of str to Entry
        Of the scan and of its detector.
    detector : str
        Name; empty if there is none.
    flaw : str
        Why it is no annular dark-field image; empty if it may be one.
    notes : tuple of str
        What is doubtful, and why something was not taken.
    """

    context: dict[str, Entry] = field(default_factory=dict)
    angles: dict[str, Entry] = field(default_factory=dict)
    detector: str = ""
    flaw: str = ""
    notes: tuple[str, ...] = ()


def _context(**found: Entry | None) -> dict[str, Entry]:
    """Entries that were found, by name."""
    return {name: entry for name, entry in found.items() if entry is not None}


def read_velox(tree: Mapping[str, object], size: Pixel, is_raw: bool = True) -> Found:
    """Read the original metadata of Velox.

    Parameters
    ----------
    tree : mapping
        One image's JSON.
    size : tuple of Entry or None
        Of a pixel in Å.
    is_raw : bool
        Whether it is what a detector recorded, and not computed from such images.

    Returns
    -------
    Found
        Beam energy, convergence, dose, and angles of the detector.
    """
    context = _context(
        beam_energy=find(tree, "Optics/AccelerationVoltage", "V"),
        convergence_semiangle=find(tree, "Optics/BeamConvergence", "rad"),
    )
    # the screen is lifted during a scan: its last measurement is that of the beam
    current = ("Optics/LastMeasuredScreenCurrent", "Optics/ScreenCurrent")
    recorded = dose(find(tree, current, "A"), find(tree, "Scan/DwellTime", "s"), size)
    passes = find(tree, "Scan/LineIntegrationCount", "1")
    notes = []
    if not is_raw:
        notes.append(
            "it is computed from other images of the file, so that its dose and angles are not "
            "taken; state them if they are known"
        )
    elif recorded and passes is not None and passes.value > 1:
        notes.append(
            f"every line is the sum of {passes.value:g} scans, so that the dose is not taken; "
            "state it if it is known"
        )
    else:
        context |= recorded
    name = str(lookup(tree, "BinaryResult/Detector") or "")
    return Found(context, _velox_angles(tree, name) if is_raw else {}, name, "", tuple(notes))


def _velox_angles(tree: Mapping[str, object], name: str) -> dict[str, Entry]:
    """Collection angles of a detector, which are 0 to 0 where it was not inserted."""
    detectors = lookup(tree, "Detectors")
    for key, detector in detectors.items() if isinstance(detectors, Mapping) else ():
        path = f"Detectors/{key}/CollectionAngleRange"
        outer = find(tree, f"{path}/end", "rad")
        if lookup(detector, "DetectorName") == name and outer is not None:
            inner = find(tree, f"{path}/begin", "rad")
            if inner is None:
                inner = Entry(0.0, "mrad", f"{path}/begin".replace("/", "."), "0 rad")
            if inner.value < outer.value:
                return {"inner_collection_angle": inner, "outer_collection_angle": outer}
    return {}


def read_digitalmicrograph(tree: Mapping[str, object], size: Pixel) -> Found:
    """Read the tags of an image of DigitalMicrograph.

    Parameters
    ----------
    tree : mapping
        The tags of the image, ``ImageTags``.
    size : tuple of Entry or None
        Of a pixel in Å.

    Returns
    -------
    Found
        Beam energy, convergence and dose; a note if the field of view implies other pixels.
    """
    created = lookup(tree, "source/Tags at creation")
    tree = created if isinstance(created, Mapping) else tree
    context = _context(
        beam_energy=find(tree, "Microscope Info/Voltage", "V"),
        convergence_semiangle=_in_mrad(tree),
    )
    current = find(tree, "Microscope Info/Probe Current (nA)", "nA")
    recorded = dose(current, find(tree, "DigiScan/Sample Time", "µs"), size)
    notes = [_other_scale(tree, size)]
    frames = find(tree, "DigiScan/Number Summing Frames", "1")
    summed = any(find(tree, f"DigiScan/{n} Frames", "1") for n in ("Sum", "Integrate"))
    if recorded and summed and frames is not None and frames.value > 1:
        notes.append(
            f"{frames.value:g} frames are summed, so that the dose is not taken; state it if it is "
            "known"
        )
    else:
        context |= recorded
    mode = f"{lookup(tree, 'Microscope Info/Illumination Mode') or ''}".upper()
    scanned = lookup(tree, "DigiScan") is not None or any(word in mode for word in SCANNED)
    flaw = "an image of a camera" if mode and not scanned else ""
    name = str(lookup(tree, "DataBar/Signal Name") or "")
    return Found(context, {}, name, flaw, tuple(filter(None, notes)))


def _in_mrad(tree: Mapping[str, object]) -> Entry | None:
    """Convergence semi-angle, which is kept with the conditions of spectroscopy."""
    conditions = "EELS/Experimental Conditions"
    return find(tree, f"{conditions}/Convergence semi-angle (mrad)", "mrad")


def _other_scale(tree: Mapping[str, object], size: Pixel) -> str:
    """A note where the field of view and the calibration of DigitalMicrograph disagree."""
    width = find(tree, "DigiScan/Image Width", "1")
    field_of_view = lookup(tree, "Microscope Info/Field of View (µm)")
    if width is None or size[1] is None or not isinstance(field_of_view, float | int):
        return ""
    implied = length(field_of_view / width.value, "µm")
    if implied is None or 1 / POWER < implied / size[1].value < POWER:
        return ""
    return (
        f"its calibration states pixels of {size[1].value:.4g} Å, but its field of view of "
        f"{field_of_view:.4g} µm on {width.value:g} pixels states {implied:.4g} Å; "
        "state sampling"
    )


def read_tia(tree: Mapping[str, object]) -> Found:
    """Read the metadata of TIA, which has neither beam current nor angles.

    Parameters
    ----------
    tree : mapping
        That of the .emi file.

    Returns
    -------
    Found
        Beam energy.
    """
    conditions = "ObjectInfo/ExperimentalConditions/MicroscopeConditions"
    description = "ObjectInfo/ExperimentalDescription"
    energy = find(tree, f"{conditions}/AcceleratingVoltage", "V")
    energy = energy or find(tree, f"{description}/High tension_kV", "kV")
    mode = str(lookup(tree, f"{description}/Mode") or "").upper()
    by_camera = lookup(tree, "ObjectInfo/AcquireInfo/CameraNamePath") is not None
    flaw = "an image of a camera" if by_camera or (mode and "STEM" not in mode) else ""
    return Found(_context(beam_energy=energy), flaw=flaw)


def read_nion(tree: Mapping[str, object], size: Pixel) -> Found:
    """Read the metadata of Nion Swift.

    Parameters
    ----------
    tree : mapping
        Its JSON.
    size : tuple of Entry or None
        Of a pixel in Å.

    Returns
    -------
    Found
        Beam energy, convergence, dose and name of the channel.
    """
    source = "metadata/hardware_source"
    scan = ("metadata/scan", source)
    energy = (
        f"{source}/autostem/high_tension_v",
        f"{source}/autostem/high_tension",
        "metadata/instrument/high_tension",
    )
    context = _context(
        beam_energy=find(tree, energy, "V"),
        convergence_semiangle=find(tree, f"{source}/convergence_angle_rad", "rad"),
    )
    current = find(tree, f"{source}/beam_current_a", "A")
    dwell = find(tree, tuple(f"{place}/pixel_time_us" for place in (source, scan[0])), "µs")
    names = (lookup(tree, f"{place}/channel_name") for place in scan)
    return Found(context | dose(current, dwell, size), {}, next(filter(None, names), ""))


def read_hyperspy(metadata: Mapping[str, object], original: Mapping[str, object]) -> Found:
    """Read the metadata of a signal of HyperSpy or RosettaSciIO.

    Parameters
    ----------
    metadata, original : mapping
        The mapped metadata, and those of the software of the microscope, which say more.

    Returns
    -------
    Found
        Of the original metadata, completed by the mapped ones. The dose is that of the pixels that
        were recorded, which the signal may have binned since.
    """
    found = Found()
    image = lookup(original, "ImageList/TagGroup0")
    if isinstance(lookup(original, "Optics"), Mapping):
        found = read_velox(original, size_of_velox(original))
    elif isinstance(lookup(image, "ImageTags"), Mapping):
        found = read_digitalmicrograph(image["ImageTags"], size_of_tags(image))
    elif isinstance(lookup(original, "ObjectInfo"), Mapping):
        found = read_tia(original)
    place = "Acquisition_instrument/TEM"
    mapped = _context(
        beam_energy=find(metadata, f"{place}/beam_energy", "keV"),
        convergence_semiangle=find(metadata, f"{place}/convergence_angle", "mrad"),
    )
    flaw = found.flaw
    if isinstance(lookup(metadata, "Acquisition_instrument/SEM"), Mapping):
        flaw = "an image of a scanning electron microscope"
    return Found(mapped | found.context, found.angles, found.detector, flaw, found.notes)


def size_of_velox(tree: Mapping[str, object]) -> Pixel:
    """Size of a pixel that Velox recorded.

    Parameters
    ----------
    tree : mapping
        One image's JSON.

    Returns
    -------
    tuple of Entry or None
        Along y and x in Å.
    """
    place = "BinaryResult/PixelSize"
    return tuple(
        pixel(
            lookup(tree, f"{place}/{side}"),
            lookup(tree, f"BinaryResult/PixelUnit{axis}"),
            f"BinaryResult.PixelSize.{side}",
        )
        for side, axis in (("height", "Y"), ("width", "X"))
    )


def size_of_tags(image: Mapping[str, object]) -> Pixel:
    """Size of a pixel that DigitalMicrograph recorded, which lists x before y.

    Parameters
    ----------
    image : mapping
        The tags of an image of ``ImageList``.

    Returns
    -------
    tuple of Entry or None
        Along y and x in Å.
    """
    place = "ImageData/Calibrations/Dimension"
    return tuple(
        pixel(
            lookup(image, f"{place}/TagGroup{k}/Scale"),
            lookup(image, f"{place}/TagGroup{k}/Units"),
            f"{place}/TagGroup{k}/Scale".replace("/", "."),
        )
        for k in (1, 0)
    )

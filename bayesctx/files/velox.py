"""EMD files of Velox (Thermo Fisher): images with JSON as columns of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import h5py
import numpy as np

from .record import Signal, lookup
from .units import is_reciprocal
from .vendors import read_velox, size_of_velox

__all__ = ["is_velox", "signals_of_velox"]

COMPUTED = {
    "IntegrationOperation": "DCFI",
    "SurfaceReconstructionOperation": "iDPC",
    "DpcOperation": "DPC",
    "MathematicsOperation": "difference",
    "FftOperation": "FFT",
    "ImageQuantificationOperation": "element map",
}
"""Operations whose outputs are images that no detector recorded, and names for them."""

PATHS = ("dataPath", "unfilteredDataPath", "imageOutputPath")


def is_velox(file: h5py.File) -> bool:
    """Whether an HDF5 file was written by Velox.

    Parameters
    ----------
    file : h5py.File
        The file.

    Returns
    -------
    bool
        By what it says of itself, or else by its groups.
    """
    version = file.get("Version")
    if isinstance(version, h5py.Dataset) and version.size:
        return "Velox" in str(np.ravel(version[()])[0])
    return "Data/Image" in file and "Operations" in file


def signals_of_velox(file: h5py.File) -> list[Signal]:
    """List the images of a Velox file.

    Parameters
    ----------
    file : h5py.File
        The open file, which must stay open until the images are loaded.

    Returns
    -------
    list of Signal
        Those of detectors, of cameras, and those that were computed.
    """
    operations = _operations(file)
    images = file.get("Data/Image", {})
    return [
        _signal(group, operations.get(key, ("", {})))
        for key, group in images.items()
        if isinstance(group, h5py.Group) and "Data" in group and "Metadata" in group
    ]


def _parse(data: bytes) -> dict:
    """JSON that is padded by zeros; empty if it is none."""
    try:
        found = json.loads(data.rstrip(b"\0").decode("utf-8", errors="replace"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _operations(file: h5py.File) -> dict[str, tuple[str, dict]]:
    """Kind and settings of the operation behind each image, by the name of its group."""
    found = {}
    for kind, group in file.get("Operations", {}).items():
        for item in group.values() if isinstance(group, h5py.Group) else ():
            text = np.ravel(item[()])[0] if isinstance(item, h5py.Dataset) and item.size else b""
            settings = _parse(text if isinstance(text, bytes) else str(text).encode())
            for path in PATHS:
                key = str(settings.get(path, "")).rpartition("/")[2]
                if key:
                    found[key] = (kind, settings)
    return found


def _signal(group: h5py.Group, operation: tuple[str, dict]) -> Signal:
    """One image."""
    data = group["Data"]
    tree = _parse(group["Metadata"][:, 0].tobytes())
    kind, settings = operation
    size = size_of_velox(tree)
    found = read_velox(tree, size, is_raw=kind not in COMPUTED)
    name = str(settings.get("detector") or found.detector)
    if kind in COMPUTED:
        name = f"{COMPUTED[kind]} {name}".strip()
    rows, columns, frames = data.shape if data.ndim == 3 else (*data.shape, 1)[:3]
    return Signal(
        name=name,
        shape=(rows, columns),
        load=lambda frame: data[:, :, frame] if data.ndim == 3 else data[()],
        num_frames=frames,
        dtype=data.dtype,
        pixel=size,
        context=found.context,
        angles=found.angles,
        flaw=_flaw(tree, kind, settings, found.detector),
        scan=_scan(tree),
        notes=found.notes,
    )


def _scan(tree: Mapping[str, object]) -> str:
    """When and where the image was scanned."""
    start = lookup(tree, "Acquisition/AcquisitionStartDatetime/DateTime")
    return f"{start} {lookup(tree, 'Scan/ScanArea')}"


def _flaw(tree: Mapping[str, object], kind: str, settings: dict, detector: str) -> str:
    """Why an image is no annular dark-field scan; a drift-corrected sum of scans is one."""
    if is_reciprocal(lookup(tree, "BinaryResult/PixelUnitX")) or kind == "FftOperation":
        return "a diffraction pattern or Fourier transform"
    if kind in COMPUTED:
        return f"computed by Velox: {COMPUTED[kind]}"
    if kind == "CameraInputOperation" or not lookup(tree, "Scan/DwellTime"):
        return "an image of a camera"
    segments = lookup(settings, "detectorInfo/segments")
    if isinstance(segments, list) and len(segments) == 1 and detector != settings.get("detector"):
        return "one segment of a detector"
    return ""

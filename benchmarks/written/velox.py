"""EMD of Velox: HDF5 with JSON as columns of bytes, and operations that name the images."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

METADATA_BYTES = 60000  # of every column

RECORDED = {
    "Core": {"MetadataDefinitionVersion": "7.9", "MetadataSchemaVersion": "v1/2013/07"},
    "Instrument": {"ControlSoftwareVersion": "2.15.3", "InstrumentClass": "Titan"},
    "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1603977376"}, "BeamType": ""},
    "Optics": {
        "AccelerationVoltage": "80000",
        "BeamConvergence": "0.025",
        "CameraLength": "0.115",
        "Defocus": "-1.2e-08",
        "ScreenCurrent": "0",
        "LastMeasuredScreenCurrent": "3.2e-11",
    },
    "Scan": {
        "ScanSize": {"width": "64", "height": "64"},
        "DwellTime": "1.6e-05",
        "ScanArea": {"left": "0", "top": "0", "right": "1", "bottom": "1"},
        "LineIntegrationCount": "1",
        "FrameTime": "0.08",
    },
}
"""What is the same for every detector: V, rad, m, A and s, as text."""

Detector = tuple[float, float]


def write_velox(
    path: Path,
    images: Mapping[str, np.ndarray],
    angles: Mapping[str, Detector],
    *,
    pixel: float | None = 2e-11,
    unit: str = "m",
    changes: Mapping[str, object] | None = None,
    operations: Mapping[str, str] | None = None,
) -> None:
    """Write images (y, x) or (y, x, frame) by the names of their detectors.

    ``angles`` in rad; a detector that is not named was not inserted, which Velox writes as 0 to 0.
    ``changes`` maps places such as "Optics/ScreenCurrent" to other values, None to remove one.
    ``operations`` maps detectors to another operation than that of a scan.
    """
    with h5py.File(path, "w") as file:
        listed: dict[str, list] = {}
        for name, values in images.items():
            key = uuid.uuid5(uuid.NAMESPACE_OID, name).hex
            stack = values if values.ndim == 3 else values[..., None]
            group = file.create_group(f"Data/Image/{key}")
            chunks = (*stack.shape[:2], 1) if stack.size else None
            group.create_dataset("Data", data=stack, chunks=chunks)
            tree = metadata(name, angles, list(images), pixel, unit, changes)
            group["Metadata"] = _columns(tree, stack.shape[2])
            kind = (operations or {}).get(name, "StemInputOperation")
            settings = {"dataPath": f"/Data/Image/{key}", "detector": name}
            listed.setdefault(kind, []).append(settings)
        for kind, members in listed.items():
            for settings in members:
                place = f"Operations/{kind}/{uuid.uuid5(uuid.NAMESPACE_URL, str(settings)).hex}"
                file[place] = [json.dumps(settings)]
        file["Version"] = [json.dumps({"version": "4", "format": "Velox"})]


def _columns(tree: dict, number: int) -> np.ndarray:
    """JSON of every frame, padded by zeros."""
    text = json.dumps(tree, indent=4).encode()
    return np.repeat(np.frombuffer(text.ljust(METADATA_BYTES, b"\0"), "u1")[:, None], number, 1)


def metadata(
    name: str,
    angles: Mapping[str, Detector],
    names: Sequence[str] | None = None,
    pixel: float | None = 2e-11,
    unit: str = "m",
    changes: Mapping[str, object] | None = None,
) -> dict:
    """Metadata of the image of one of some detectors."""
    names = list(names or [name])
    tree = copy.deepcopy(RECORDED)
    detectors = {}
    for k, detector in enumerate(names):
        begin, end = angles.get(detector, (0, 0))
        detectors[f"Detector-{k}"] = {
            "DetectorName": detector,
            "DetectorType": "ScanningDetector",
            "Inserted": "true",
            "CollectionAngleRange": {"begin": str(begin), "end": str(end)},
        }
    eds = {"DetectorName": "SuperXG21", "DetectorType": "AnalyticalDetector"}
    detectors[f"Detector-{len(names)}"] = eds | {"CollectionAngle": "0.225"}
    tree["Detectors"] = detectors
    tree["BinaryResult"] = {
        "AcquisitionUnit": "",
        "DetectorIndex": str(names.index(name)),
        "Detector": name,
        "PixelUnitX": unit,
        "PixelUnitY": unit,
        "Encoding": "",
    }
    if pixel is not None:
        tree["BinaryResult"]["PixelSize"] = {"width": str(pixel), "height": str(pixel)}
    for place, value in (changes or {}).items():
        *groups, last = place.split("/")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return tree

"""DM3 and DM4 of DigitalMicrograph: a tree of tags, of which the image is one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

KINDS = {
    np.dtype("i2"): (2, 1), np.dtype("i4"): (3, 7), np.dtype("u2"): (4, 10),
    np.dtype("u4"): (5, 11), np.dtype("f4"): (6, 2), np.dtype("f8"): (7, 12),
}  # fmt: skip
"""Encoded type of the values of an array, and code of the type of an image."""


class Tags:
    """Bytes of a tree of tags: sizes are big-endian, values little-endian.

    DM4 has longs of eight bytes, and the size of every tag before it.
    """

    def __init__(self, version: int) -> None:
        self.version = version

    def whole(self, number: int) -> bytes:
        """A size or a code."""
        return struct.pack(">q" if self.version == 4 else ">i", number)

    def group(self, tree: dict) -> bytes:
        """The content of a group: two flags, number of tags, tags."""
        tags = b"".join(self.tag(name, value) for name, value in tree.items())
        return b"\x01\x00" + self.whole(len(tree)) + tags

    def tag(self, name: str, value: object) -> bytes:
        """One tag; names that begin with a number sign are those of unnamed tags."""
        is_group = isinstance(value, dict)
        label = b"" if name.startswith("#") else name.encode("utf-8")
        content = self.group(value) if is_group else self.data(value)
        size = self.whole(len(content)) if self.version == 4 else b""
        return struct.pack(">BH", 20 if is_group else 21, len(label)) + label + size + content

    def data(self, value: object) -> bytes:
        """Mark, description and bytes of a value."""
        if isinstance(value, str):
            value = np.frombuffer(value.encode("utf-16-le"), "u2")
        if isinstance(value, bool):
            info, raw = [8], struct.pack("<B", value)
        elif isinstance(value, int):
            info, raw = [3], struct.pack("<i", value)
        elif isinstance(value, float):
            info, raw = [7], struct.pack("<d", value)
        else:
            array = np.ascontiguousarray(value)
            info = [20, KINDS[array.dtype][0], array.size]
            raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        return b"%%%%" + self.whole(len(info)) + b"".join(map(self.whole, info)) + raw


def write_dm(
    path: Path,
    images: dict[str, np.ndarray],
    tags: dict,
    *,
    scale: float,
    units: str = "nm",
    version: int = 4,
) -> None:
    """Write images with one calibration and one set of tags.

    Images are named; a thumbnail comes first, as DigitalMicrograph writes it.
    """
    thumbnail = _image("", np.zeros((4, 4), "i4"), {}, 1.0, "")
    listed = [thumbnail, *(_image(n, v, tags, scale, units) for n, v in images.items())]
    tree = {
        "DocumentObjectList": {},
        "ImageList": {f"#{k}": image for k, image in enumerate(listed)},
        "Thumbnails": {"#0": {"ImageIndex": 0}},
    }
    writer = Tags(version)
    content = writer.group(tree)
    length = writer.whole(len(content))
    path.write_bytes(struct.pack(">i", version) + length + struct.pack(">i", 1) + content)


def _image(name: str, values: np.ndarray, tags: dict, scale: float, units: str) -> dict:
    """An image, whose dimensions are listed from x on."""
    axis = {"Label": "", "Origin": 0.0, "Scale": float(scale), "Units": units}
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": dict(axis, Units=""),
                "Dimension": {f"#{k}": dict(axis) for k in range(values.ndim)},
                "DisplayCalibratedUnits": True,
            },
            "Data": values.ravel(),
            "DataType": KINDS[values.dtype][1],
            "Dimensions": {f"#{k}": int(n) for k, n in enumerate(values.shape[::-1])},
            "PixelDepth": values.dtype.itemsize,
        },
        "ImageTags": tags,
        "Name": name,
        "UniqueID": {"#0": 1, "#1": 2, "#2": 3, "#3": 4},
    }


def scan_tags(
    *, voltage: float = 80e3, current: float = 0.0, dwell: float = 16.0, width: int = 0,
    field_of_view: float = 0.0, convergence: float = 0.0,
) -> dict:  # fmt: skip
    """Tags of an image of DigiScan: V, nA, µs, pixels, µm and mrad; 0 is what is not known."""
    tags = {
        "DataBar": {"Device Name": "DigiScan"},
        "DigiScan": {"Sample Time": dwell, "Image Width": width, "Rotation": 0.0},
        "Microscope Info": {
            "Emission Current (µA)": 12.0,
            "Field of View (µm)": field_of_view,
            "Illumination Mode": "STEM NANOPROBE",
            "Probe Current (nA)": current,
            "STEM Camera Length": 135.0,
            "Voltage": voltage,
        },
    }
    if convergence:
        tags["EELS"] = {
            "Experimental Conditions": {
                "Collection semi-angle (mrad)": 70.0,
                "Convergence semi-angle (mrad)": convergence,
            }
        }
    return tags

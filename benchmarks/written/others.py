"""Berkeley EMD, MRC, TIFF, SER, ndata: by their own libraries, or byte by byte as specified."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import tifffile


def write_berkeley(
    path: Path, values: np.ndarray, *, step: float, units: str = "[n_m]", voltage: str = "80kV"
) -> None:
    """Write version 0.2 of the EMD of Berkeley, with whole vectors."""
    with h5py.File(path, "w") as file:
        file.attrs.update(version_major=0, version_minor=2)
        group = file.create_group("data/HAADF")
        group.attrs["emd_group_type"] = 1
        group["data"] = values
        for k, length in enumerate(values.shape):
            vector = group.create_dataset(f"dim{k + 1}", data=np.arange(length) * step)
            vector.attrs.update(name="yx"[k] if values.ndim == 2 else f"axis {k}", units=units)
        file.create_group("microscope").attrs.update(name="Titan", voltage=voltage)


@contextmanager
def _new_mrc(path: Path) -> Iterator[mrcfile.mrcfile.MrcFile]:
    """A new MRC file; mrcfile 1.5 sets the type of arrays, which numpy 2.5 deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with mrcfile.new(path, overwrite=True) as file:
            yield file


def write_mrc(path: Path, values: np.ndarray, *, angstrom: float = 0.0) -> None:
    """Write MRC2014 with the size of a voxel in Å; 0 is none."""
    with _new_mrc(path) as file:
        file.set_data(values)
        if angstrom:
            file.voxel_size = angstrom


def write_mrc_of_thermo_fisher(path: Path, values: np.ndarray, record: dict) -> None:
    """Write MRC2014 with an extended header FEI1 of SI units."""
    header = np.zeros(1, mrcfile.dtypes.get_ext_header_dtype(b"FEI1"))
    header["Metadata size"] = header.dtype.itemsize
    for name, value in record.items():
        header[name] = value
    with _new_mrc(path) as file:
        file.set_data(values)
        file.set_extended_header(header)
        file.header.exttyp = b"FEI1"


def write_imagej(path: Path, values: np.ndarray, *, size: float, unit: str, **more: object) -> None:
    """Write a TIFF file of ImageJ, with its resolution in pixels per unit."""
    metadata = {"unit": unit, **more}
    resolution = (1 / size, 1 / size)
    tifffile.imwrite(path, values, imagej=True, resolution=resolution, metadata=metadata)


def write_ome(
    path: Path, values: np.ndarray, *, size: float, unit: str, channels: Sequence[str] = ()
) -> None:
    """Write a TIFF file of OME, with physical sizes and names of channels."""
    metadata = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
    metadata |= {"PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
    metadata["axes"] = "YX" if values.ndim == 2 else "CYX"
    if channels:
        metadata["Channel"] = {"Name": list(channels)}
    tifffile.imwrite(path, values, ome=True, photometric="minisblack", metadata=metadata)


def write_fei(path: Path, values: np.ndarray, sections: dict[str, dict]) -> None:
    """Write a TIFF file with the tag FEI_HELIOS, text in sections, with SI units."""
    lines = []
    for section, entries in sections.items():
        lines += [f"[{section}]", *(f"{k}={v}" for k, v in entries.items()), ""]
    text = "\r\n".join(lines).encode()
    tag = (34682, 2, len(text) + 1, text, True)
    tifffile.imwrite(path, values, extratags=[tag], metadata=None)


def write_ser(path: Path, frames: np.ndarray, *, metres: float) -> None:
    """Write a series of images (frame, y, x) of 16 bits as TIA does, version 0x210."""
    number, rows, columns = frames.shape
    name = b"Number"
    head = struct.pack("<hhhiiiii", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, number, number, 0)
    dims = struct.pack("<iddii", number, 0.0, 1.0, 0, len(name)) + name + struct.pack("<i", 0)
    body = head + struct.pack("<i", 1) + dims
    # the place of the array of offsets follows the numbers of elements
    at = len(body)
    body = body[:22] + struct.pack("<i", at) + body[26:]
    elements, offsets, tags = b"", [], []
    start = at + 8 * number
    for frame in frames.astype("<u2"):
        offsets.append(start + len(elements))
        elements += struct.pack("<ddiddi", 0.0, metres, 0, 0.0, metres, 0)
        elements += struct.pack("<hii", 2, columns, rows) + frame[::-1].tobytes()
        tags.append(start + len(elements))
        elements += struct.pack("<hhi", 0x4152, 0, 1456073586)
    path.write_bytes(body + struct.pack(f"<{2 * number}i", *offsets, *tags) + elements)


def write_ndata(path: Path, values: np.ndarray, tree: dict) -> None:
    """Write a file of Nion Swift: an array and JSON in a ZIP archive without compression."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("data.npy", "w") as file:
            np.lib.format.write_array(file, values)
        archive.writestr("metadata.json", json.dumps(tree))


def nion_tree(*, nanometres: float, is_sequence: bool = False) -> dict:
    """Metadata of a scan of Nion Swift."""
    axis = {"offset": 0.0, "scale": nanometres, "units": "nm"}
    source = {
        "hardware_source_id": "superscan",
        "channel_name": "HAADF",
        "pixel_time_us": 16.0,
        "fov_nm": 8.0,
        "autostem": {"high_tension_v": 60000},
        "convergence_angle_rad": 0.032,
        "beam_current_a": 3.2e-11,
        "defocus_m": 2e-9,
    }
    frames = [{"offset": 0.0, "scale": 1.0, "units": ""}] if is_sequence else []
    return {
        "version": 1,
        "spatial_calibrations": [*frames, axis, axis],
        "is_sequence": is_sequence,
        "collection_dimension_count": 0,
        "datum_dimension_count": 2,
        "metadata": {"hardware_source": source},
        "properties": source,
    }

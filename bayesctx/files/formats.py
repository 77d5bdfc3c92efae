"""Formats of files, told by their first bytes and not by their names."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["EXTRA", "READABLE", "identify", "reading", "refuse"]

READABLE = (
    "netCDF, .npy, .npz, TIFF, MRC, EMD (Velox and Berkeley), .ndata, PNG, JPEG, and by the extra "
    "'files' DM3, DM4, SER, EMI, HSPY"
)
"""What can be read, for errors."""

EXTRA = (
    "RosettaSciIO reads it, which is not installed; run pip install 'bayesctx[files]' (GPL-3), or "
    "export the image as TIFF"
)
"""What to do without the optional library."""

SUFFIXES = {
    "netcdf": (".nc", ".nc4", ".cdf", ".netcdf"),
    "hdf5": (".h5", ".hdf5", ".hdf", ".emd", ".nc", ".nc4", ".hspy", ".ndata1", ".nhdf", ".netcdf"),
    "npy": (".npy",),
    "npz": (".npz",),
    "nion": (".ndata", ".ndata1"),
    "tiff": (".tif", ".tiff", ".btf", ".ome"),
    "mrc": (".mrc", ".mrcs", ".map", ".st", ".ali", ".rec", ".ccp4"),
    "picture": (".png", ".jpg", ".jpeg"),
    "dm": (".dm3", ".dm4"),
    "ser": (".ser",),
    "emi": (".emi",),
}
"""Usual endings of each format."""

MAGIC = (
    (b"\x93NUMPY", "npy"),
    (b"CDF\x01", "netcdf"), (b"CDF\x02", "netcdf"), (b"CDF\x05", "netcdf"),
    (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"II+\0", "tiff"), (b"MM\0+", "tiff"),
    (b"\x89PNG\r\n\x1a\n", "picture"), (b"\xff\xd8\xff", "picture"),
    (b"II\x97\x01", "ser"), (b"MM\x01\x97", "ser"),
    (b"JK\0\x02", "emi"),
)  # fmt: skip
"""First bytes of the formats that can be read."""

FOREIGN = (
    (b"GIF8", "a GIF picture", "export the data as TIFF"),
    (b"BM", "a BMP picture", "export the data as TIFF"),
    (b"%PDF", "a PDF document", "export the data as TIFF"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"\xfd7zXZ", "an xz archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x80\x02", "a Python pickle, which can run code", "save the array with numpy.save"),
    (b"\x80\x03", "a Python pickle, which can run code", "save the array with numpy.save"),
    (b"\x80\x04", "a Python pickle, which can run code", "save the array with numpy.save"),
    (b"\x80\x05", "a Python pickle, which can run code", "save the array with numpy.save"),
    (b"AAMVHFSS", "a Bruker spectrum image (.bcf)", "export the dark-field image as TIFF"),
    (b"HDR,", "a Merlin detector file (.mib)", "compute a virtual dark-field image first"),
    (b"MATLAB 5.0", "a MATLAB file", "save the image as .npy or TIFF"),
    (b"RIFF", "a video or sound file", "export the data as TIFF"),
    (b"\0\0\0\x18ftyp", "a video", "export the data as TIFF"),
    (b"\0\0\0\x20ftyp", "a video", "export the data as TIFF"),
)
"""First bytes of what is no such format: what it is, and what to do."""

FLAW = "damaged or truncated"
HDF5 = b"\x89HDF\r\n\x1a\n"
HEAD = 4096  # bytes that are looked at
TEXTS = (
    ("<!doctype html", "an HTML page, as a failed download leaves", "download the file again"),
    ("<html", "an HTML page, as a failed download leaves", "download the file again"),
    ("<?xml", "an XML file", "name the image file that it belongs to"),
    ("version https://git-lfs", "a pointer of Git LFS and not the file", "run git lfs pull"),
    ("{", "a JSON text", "name the image file that it belongs to"),
)


def identify(path: Path) -> str:
    """Tell the format of a file by its content.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str
        A key of ``SUFFIXES``.

    Raises
    ------
    ValueError
        If it is empty, or of no format that can be read: what it is, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise ValueError(f"an image was expected, {path} is empty (0 bytes); copy it again")
    for first, kind in MAGIC:
        if head.startswith(first):
            return kind
    if any(head[at : at + 8] == HDF5 for at in (0, 512, 1024, 2048)):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if _is_dm(head):
        return "dm"
    if head[208:211] == b"MAP" or _is_old_mrc(path, head):
        return "mrc"
    raise refuse(path, *_describe(path, head))


def refuse(path: object, what: str, remedy: str) -> ValueError:
    """Error for a file that is no image which can be read.

    Parameters
    ----------
    path : object
        Name of the file.
    what, remedy : str
        What it is, and what to do.

    Returns
    -------
    ValueError
        To be raised.
    """
    return ValueError(f"an image was expected, {path} is {what}; {remedy}")


@contextmanager
def reading(path: object, what: str, remedy: str = "copy it again") -> Iterator[None]:
    """Turn what a parser raises into one error; parsers of binary files raise nearly anything.

    Parameters
    ----------
    path : object
        Name of the file.
    what, remedy : str
        What it is, and what to do.

    Yields
    ------
    None
        While the file is read.

    Raises
    ------
    ImportError
        If it needs another library.
    ValueError
        If anything else is raised inside, but errors that already say what was expected, and
        warnings that are errors.
    """
    try:
        yield
    except Warning:
        raise
    except ImportError as error:
        raise ImportError(
            f"an image was expected, {path} is {what} that needs another library ({error}); "
            "install it"
        ) from error
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError) and ("was expected" in text or "were expected" in text):
            raise
        flaw = "damaged, or too large for the memory" if isinstance(error, MemoryError) else FLAW
        reason = text[:120] or type(error).__name__
        raise refuse(path, f"{what} that is {flaw} ({reason})", remedy) from error


def _is_dm(head: bytes) -> bool:
    """Whether these are the first bytes of a DM3 or DM4 file: version, length, byte order."""
    version = int.from_bytes(head[:4], "big")
    order = head[8:12] if version == 3 else head[12:16]
    return version in (3, 4) and order in (b"\0\0\0\0", b"\0\0\0\x01")


def _is_old_mrc(path: Path, head: bytes) -> bool:
    """Whether a file with an ending of MRC has a plausible header; old ones lack the mark."""
    if path.suffix.lower() not in SUFFIXES["mrc"] or len(head) < 1024:
        return False
    for order in "<>":
        *size, mode = struct.unpack(f"{order}4i", head[:16])
        if all(0 < n < 2**20 for n in size) and mode in (0, 1, 2, 4, 6, 12, 16):
            return True
    return False


def _kind_of_zip(path: Path) -> str:
    """Format of a ZIP archive by the files in it."""
    with reading(path, "a ZIP archive (.npz, .ndata)"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if {"data.npy", "metadata.json"} <= set(names):
        return "nion"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    listed = " ".join(", ".join(names[:3]).split())[:80] or "nothing"
    raise refuse(path, f"a ZIP archive of {listed}", "unpack it")


def _describe(path: Path, head: bytes) -> tuple[str, str]:
    """What a file of another format is, and what to do."""
    for first, what, remedy in FOREIGN:
        if head.startswith(first):
            return what, remedy
    try:
        text = head.decode("utf-8-sig") if b"\0" not in head else None
    except UnicodeDecodeError as error:
        # a character may be cut at the end of what was read
        text = head[: error.start].decode() if error.start > HEAD - 4 else None
    if text is not None:
        start = text.lstrip().lower()
        for first, what, remedy in TEXTS:
            if start.startswith(first):
                return what, remedy
        return "a text file", "load its numbers by numpy.loadtxt and pass the array to infer"
    for kind, endings in SUFFIXES.items():
        if path.suffix.lower() in endings and kind != "picture":
            what = f"named {path.suffix}, but truncated or of another format (it begins with "
            return what + f"{head[:8].hex(' ')})", "copy or export it again"
    what = f"of a format that is not known (it begins with {head[:8].hex(' ')})"
    return what, f"export the image as TIFF; known are {READABLE}"

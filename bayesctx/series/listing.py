"""The images of a folder, and the names of their results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checks import shorten
from ..files.formats import READABLE, SUFFIXES
from ..storage import as_path

__all__ = ["Image", "list_images"]

ENDINGS = tuple(sorted({ending for own in SUFFIXES.values() for ending in own}))


@dataclass(frozen=True)
class Image:
    """An image file of a series.

    Attributes
    ----------
    path : Path
        The file, absolute, since a worker may run in another folder.
    name : str
        Its name with the ending, which names its result and its group.
    """

    path: Path
    name: str

    @property
    def result(self) -> str:
        """Name of the file of its result."""
        return f"{self.name}.nc"

    def state(self) -> dict[str, object]:
        """Size, time of change and checksum, by which a changed file is told.

        Returns
        -------
        dict of str to object
            ``bytes``, ``modified`` in ns, and ``sha256``; empty if the file cannot be read.
        """
        try:
            found = self.path.stat()
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return {}
        return {"bytes": found.st_size, "modified": found.st_mtime_ns, "sha256": digest}

    def is_in(self, state: Mapping[str, object]) -> bool:
        """Whether the file has not changed since.

        Parameters
        ----------
        state : mapping of str to object
            From ``state``.

        Returns
        -------
        bool
            A copy with another time is the same; only of such a file the checksum is computed.
        """
        try:
            found = self.path.stat()
        except OSError:
            return False
        if found.st_size != state.get("bytes"):
            return False
        if found.st_mtime_ns == state.get("modified"):
            return True
        return self.state().get("sha256") == state.get("sha256")


def list_images(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Image]:
    """List the images of a series.

    Parameters
    ----------
    source : path-like or sequence of path-like
        A folder, whose files with the ending of an image format are taken (folders in it, hidden
        files and other files are not), or the files themselves.

    Returns
    -------
    list of Image
        In the order of their names, or in that of the sequence.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If there is no image, or two files have the same name.
    OSError
        If the folder does not exist or cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        paths = _of_folder(as_path(source))
    elif isinstance(source, Sequence) and source:
        paths = [as_path(path) for path in source]
    else:
        raise TypeError(
            f"a folder or a list of image files was expected, got {shorten(source)}; name a folder"
        )
    images = [Image(path.absolute(), path.name) for path in paths]
    first: dict[str, Path] = {}
    for image in images:
        if image.name in first:
            raise ValueError(
                f"images of different names were expected, got {first[image.name]} and "
                f"{image.path}; their results would have the same name: rename one"
            )
        first[image.name] = image.path
    return images


def _of_folder(folder: Path) -> list[Path]:
    """Images of a folder."""
    if not folder.is_dir():
        what = "there is no such folder" if not folder.exists() else "it is a file"
        raise NotADirectoryError(
            f"a folder of images was expected, got {folder}, {what}; name a folder"
        )
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    found = [p for p in entries if p.suffix.lower() in ENDINGS]
    # TIA writes a series of scan_1.ser beside its scan.emi, which is read with them
    parents = {p.stem for p in found if p.suffix.lower() == ".emi"}
    found = [p for p in found if not (p.suffix.lower() == ".ser" and _parent(p) in parents)]
    if not found:
        raise ValueError(
            f"images were expected in {folder}, none of its {len(entries)} files has the ending of "
            f"one; known are {READABLE}"
        )
    return found


def _parent(path: Path) -> str:
    """Stem of the EMI file that a SER file belongs to."""
    return path.stem.rpartition("_")[0]

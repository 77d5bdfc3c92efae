"""read(): an image, and the context that its file records."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from ..storage import as_path, existing_file, warn
from .assembly import UNEQUAL, Choice
from .fingerprint import with_fingerprint
from .formats import SUFFIXES, identify
from .objects import as_image

__all__ = ["read"]

WORDS = {
    "netcdf": "netCDF", "hdf5": "HDF5", "npy": ".npy", "npz": ".npz", "nion": "Nion ndata",
    "tiff": "TIFF", "mrc": "MRC", "picture": "PNG or JPEG", "dm": "DigitalMicrograph",
    "ser": "TIA SER", "emi": "TIA EMI",
}  # fmt: skip
"""Formats in words."""


def read(
    source: object,
    *,
    variable: str | None = None,
    select: Mapping[str, object] | None = None,
) -> xr.DataArray:
    """Read an image and the context that its file records.

    Parameters
    ----------
    source : path-like, sequence of path-like, or object
        A file: netCDF, .npy, .npz, TIFF (ImageJ, OME, FEI), MRC, EMD (Velox, Berkeley), Nion ndata,
        PNG, JPEG; with the extra ``files`` also DM3, DM4, SER, EMI and HSPY. Its content tells the
        format. Several files are the detectors of one scan. Or an object in memory: a Signal2D of
        HyperSpy, a Dataset of sidpy, a result of LiberTEM.
    variable : str, optional
        One of several variables of netCDF, arrays of .npz, or images of another file.
    select : mapping of str to int or str, optional
        One element of a dimension, by its label or else by its position, for example
        ``{"detector": "HAADF"}`` or ``{"frame": 0}``.

    Returns
    -------
    DataArray, shape (y, x) or (detector, y, x)
        Named ``intensity``; netCDF and .npy may also hold patches, see ``infer``. Coordinates y and
        x in Å where the file has a pixel size, and detector where it names them. Attributes:
        ``source``, the name of the file; ``format``; ``context``, JSON of what the file records,
        each value with its unit, its origin in the file and as it was recorded; ``history``; with
        a dose also ``fingerprint``, some of the intensities, by which an image is recognised that
        is no longer the one that was read, as a sum of frames. ``infer`` takes this context, and
        what is stated there wins.

    Raises
    ------
    TypeError, ValueError
        If the file is no image that can be read: what it is, and what to do.
    OSError
        If there is no such file, or it cannot be read.
    ImportError
        If the format needs the extra ``files``.

    Warns
    -----
    UserWarning
        If the pixel size is doubtful, images of the file are left out, a value is not taken, the
        ending of the name is that of another format, or grey values are those of a display.

    Notes
    -----
    The dose is beam current x dwell time / (elementary charge x area of a pixel). Signals in memory
    and HSPY files do not say how many frames they are the sum of: theirs is ``dose_of_frame``,
    which is not taken. Nor is the focus that a file records, which counts from where the operator
    set it to zero.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> path = tempfile.mkdtemp() + "/scan.npy"
    >>> np.save(path, np.ones((4, 5)))
    >>> read(path).dims
    ('y', 'x')
    """
    chosen = {str(dim): str(label) for dim, label in (select or {}).items()}
    if isinstance(source, str | os.PathLike):
        return with_fingerprint(_read_file(as_path(source), variable, chosen))
    if isinstance(source, Sequence) and source:
        paths = [as_path(path) for path in source]
        images = [_read_file(path, variable, chosen) for path in paths]
        return with_fingerprint(images[0] if len(images) == 1 else _join(images, paths))
    found = as_image(source, Choice("", variable, chosen))
    if isinstance(found, xr.DataArray):
        return found
    raise TypeError(
        f"the path of a file was expected, got {type(source).__name__}; name a file, or pass an "
        "array to infer as it is"
    )


def _read_file(path: Path, variable: str | None, select: Mapping[str, str]) -> xr.DataArray:
    """Read one file by the reader of its format."""
    existing_file(path, "an image")
    kind = identify(path)
    suffix = path.suffix.lower()
    others = {ending for own in SUFFIXES.values() for ending in own}
    if suffix in others and suffix not in SUFFIXES[kind]:
        warn(
            f"the ending of {path.name} is not that of its content, which is {WORDS[kind]}; it is "
            "read as such: rename it"
        )
    return _readers()[kind](path, Choice(path.name, variable, select))


def _readers() -> Mapping:
    """Readers by format, imported when used since each needs a library of its own."""
    from .hdf5 import read_hdf5
    from .mrc import read_mrc
    from .netcdf import read_netcdf
    from .numpy_arrays import read_ndata, read_npy, read_npz
    from .picture import read_picture
    from .rosetta import read_rosetta
    from .tiff import read_tiff

    def by_rosetta(kind: str) -> object:
        return lambda path, choice: read_rosetta(path, choice, kind)

    return {
        "netcdf": read_netcdf,
        "hdf5": read_hdf5,
        "npy": read_npy,
        "npz": read_npz,
        "nion": read_ndata,
        "tiff": read_tiff,
        "mrc": read_mrc,
        "picture": read_picture,
    } | {kind: by_rosetta(kind) for kind in ("dm", "ser", "emi")}


def _join(images: Sequence[xr.DataArray], paths: Sequence[Path]) -> xr.DataArray:
    """Join files that are the detectors of one scan."""
    names, records, parts = [], [], []
    for image, path in zip(images, paths, strict=True):
        if image.dims != ("y", "x") or image.shape != images[0].shape:
            raise ValueError(
                f"images of one scan of shape {images[0].shape} were expected, {path} has "
                f"{dict(image.sizes)}; name the files of one scan"
            )
        names.append(str(image.coords["detector"].item()) if "detector" in image.coords else "")
        records.append(json.loads(image.attrs["context"]))
        parts.append(image.drop_vars("detector", errors="ignore"))
    numbers = [str(k) for k in range(len(paths))]
    candidates = (names, [path.stem for path in paths], [path.name for path in paths], numbers)
    names = next(own for own in candidates if all(own) and len(set(own)) == len(own))
    _check_one_scale(parts, paths)
    context = _shared(records, paths)
    angles = ("inner_collection_angle", "outer_collection_angle")
    own = [{n: r[n] for n in angles if n in r} for r in records]
    context = {n: e for n, e in context.items() if n not in angles}
    context["detector"] = dict(zip(names, own, strict=True))
    joined = xr.concat([p.drop_attrs() for p in parts], "detector", join="override")
    for axis in ("y", "x"):
        if axis in parts[0].coords:
            joined[axis].attrs = parts[0][axis].attrs
    joined.attrs = {
        **images[0].attrs,
        "source": ", ".join(path.name for path in paths),
        "context": json.dumps(context, ensure_ascii=False),
        "history": "; ".join(image.attrs["history"] for image in images),
    }
    return joined.assign_coords(detector=names).rename("intensity")


def _check_one_scale(parts: Sequence[xr.DataArray], paths: Sequence[Path]) -> None:
    """Raise for files with pixels of different sizes."""
    sizes = [float(p.x[1] - p.x[0]) if "x" in p.coords and p.sizes["x"] > 1 else 0 for p in parts]
    for size, path in zip(sizes, paths, strict=True):
        if abs(size - sizes[0]) > UNEQUAL * sizes[0]:
            raise ValueError(
                f"images of one scan with pixels of {sizes[0]:.4g} Å were expected, {path} has "
                f"{size:.4g} Å; name the files of one scan"
            )


def _shared(records: Sequence[Mapping], paths: Sequence[Path]) -> dict:
    """Values that the files have in common; one that differs is left out with a warning."""
    found = {}
    for name in dict.fromkeys(n for record in records for n in record):
        entries = [record[name] for record in records if name in record]
        values = [entry.get("value") for entry in entries]
        if any(abs(v - values[0]) > 0.01 * abs(values[0]) for v in values):
            if not name.endswith("collection_angle"):
                warn(
                    f"one {name} of a scan was expected, {' and '.join(p.name for p in paths)} "
                    f"state {', '.join(f'{v:.4g}' for v in values)}; it is not taken: state it"
                )
            continue
        found[name] = entries[0]
    return found

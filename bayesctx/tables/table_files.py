"""export(): a result as a table, as coordinates of atoms, or whole, by the suffix of the file."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import xarray as xr

from ..context import NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DOPED, columns_of
from ..inference import save
from ..storage import as_path, replacing
from .drawn import check_result, crystal_of, sampling_of
from .site_table import sites

__all__ = ["FORMATS", "check_format", "export"]

FORMATS = {
    ".nc": "the whole result (netCDF), which load reads again",
    ".csv": "the table of the sites as text",
    ".parquet": "the table of the sites, with types (needs pyarrow)",
    ".xyz": "the atoms of the most probable classes (extended XYZ)",
}
"""Suffixes of files that a result can be written to, and what they hold."""


def check_format(path: str | os.PathLike) -> Path:
    """Check that a result can be written to a file of this name.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    TypeError
        If it is no path.
    ValueError
        If its suffix is not one of ``FORMATS``.
    ImportError
        For ``.parquet`` without pyarrow.
    """
    file = as_path(path)
    suffix = file.suffix.lower()
    if suffix not in FORMATS:
        known = "; ".join(f"{s}: {text}" for s, text in FORMATS.items())
        raise ValueError(
            f"a file that ends in {', '.join(FORMATS)} was expected, got {str(path)!r:.80}; "
            f"change its ending ({known})"
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            "pyarrow was expected for a .parquet file, it is not installed; "
            "pip install bayesctx[parquet], or write .csv"
        )
    return file


def export(result: xr.DataTree, path: str | os.PathLike) -> Path:
    """Write a result in the format that the suffix of the file names.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    path : path-like
        The file, see ``FORMATS``: ``.nc`` holds all of the result, ``.csv`` and ``.parquet`` the
        table of ``sites``, ``.xyz`` the atoms of a micrograph. An existing file is replaced only by
        a whole one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError, ValueError
        If it is no result, the suffix is unknown, or .xyz is asked of patches.
    ImportError
        For ``.parquet`` without pyarrow.
    OSError
        If it cannot be written.

    Notes
    -----
    Columns of ``.csv`` and ``.parquet`` are described in ``sites``; one row is one site.

    ``.xyz`` lists, in Å, the atoms of the column of the most probable class at every site with
    crystal, in the most probable host and with the most probable dopant, of a co-doped crystal that
    of the site: of mirror images the first, of Y_X the first other chalcogen. A class without atoms
    has no row. Each atom carries the index of its site, the class and its probability. x is that of
    the image, y points up and the beam runs along -z, so that the structure is seen as in the
    image.
    """
    check_result(result)
    file = check_format(path)
    suffix = file.suffix.lower()
    if suffix == ".nc":
        return save(result, file)
    if suffix == ".xyz":
        text = _write_atoms(result)
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return file
    frame = sites(result).to_dataframe()
    with replacing(file) as temporary:
        if suffix == ".csv":
            frame.to_csv(temporary, float_format="%.6g", lineterminator="\n")
        else:
            frame.to_parquet(temporary, engine="pyarrow")
    return file


def _write_atoms(result: xr.DataTree) -> str:
    """Atoms of the most probable classes as extended XYZ."""
    check_result(result, micrograph=True)
    table, shares = sites(result), result["class_posterior"].to_dataset()
    host = list(HOSTS)[int(shares.host.values.argmax())]
    dopant = METALS[int(shares.dopant.values.argmax())] if shares.dopant.values.any() else NO_DOPANT
    is_codoped = "dopant_at_site" in result["posterior"]
    label = str(result["constant_data"].dopant.values) if is_codoped else dopant
    height = result["observed_data"].sizes["y"]
    x, y = 10 * table.x_nm.values, (height - 1) * sampling_of(result) - 10 * table.y_nm.values
    rows = []
    for i in np.flatnonzero(crystal_of(result)):
        defect, site = str(table.defect.values[i]), str(table.site.values[i])
        if is_codoped and defect == DOPED:
            dopant = str(table.species.values[i])
        for element, z in _column(defect, site, host, dopant):
            place = f"{element} {x[i]:.4f} {y[i]:.4f} {0.0 - z:.4f}"
            rows.append(f"{place} {i} {defect} {float(table.probability.values[i]):.6g}")
    properties = "species:S:1:pos:R:3:site:I:1:defect:S:1:probability:R:1"
    header = f'Properties={properties} pbc="F F F" host={host} dopant={label}'
    return "\n".join([str(len(rows)), header, *rows]) + "\n"


def _column(defect: str, site: str, host: str, dopant: str) -> tuple[tuple[str, float], ...]:
    """Atoms of a class: of a metal adatom in the hollow the adatom alone."""
    columns = columns_of(defect, host, dopant)
    return columns[-1] if site == "hollow" else columns[0]

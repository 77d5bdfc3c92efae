"""The record of a series: its settings, and what became of every image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import __version__
from ..checks import check_keys, check_mapping
from ..storage import parse_json, replacing
from .listing import Image

__all__ = ["DONE", "FAILED", "REFUSED", "Record", "Settings", "begin", "is_done", "read_ledger",
           "write_ledger"]  # fmt: skip

NAME = "series.json"
FORMAT = "bayesctx series 1"
DONE, REFUSED, FAILED = "done", "refused", "failed"


@dataclass(frozen=True)
class Settings:
    """What the results of a series have in common, as JSON values.

    Attributes
    ----------
    context : dict
        What is stated of all images.
    model : str
        Hash of the model.
    num_draws, seed : int
        Of ``infer``.
    likelihood : str
        One of ``context.LIKELIHOODS``.
    variable : str or None
        Of ``read``.
    select : dict
        Of ``read``.
    prior : dict
        Prior of the model, see ``Prior.to_dict``; empty where it cannot be written.
    """

    context: dict
    model: str
    num_draws: int
    seed: int
    likelihood: str
    variable: str | None
    select: dict
    prior: dict


@dataclass(frozen=True)
class Record:
    """What became of an image.

    Attributes
    ----------
    image : str
        Name of the file.
    status : str
        ``"done"``; ``"refused"``: the file is no image that can be read or inferred; ``"failed"``:
        a fault of the program or too little memory.
    message : str
        Why it was refused or failed.
    warnings : list of str
        Of reading and inference.
    seconds : float
        Time that it took.
    source : dict
        Size in bytes, time of change in ns and SHA-256 of the image.
    result_bytes : int
        Size of the result.
    """

    image: str
    status: str
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    source: dict = field(default_factory=dict)
    result_bytes: int = 0


def write_ledger(folder: Path, settings: Settings, records: Mapping[str, Record]) -> None:
    """Write the record of a series.

    Parameters
    ----------
    folder : Path
        Of the results.
    settings : Settings
        Of the series.
    records : mapping of str to Record
        Of every image so far, by its name.

    Raises
    ------
    OSError
        If it cannot be written; the old one stays as it was.
    """
    head = {"format": FORMAT, "version": __version__, "settings": asdict(settings)}
    listed = [asdict(records[name]) for name in sorted(records)]
    with replacing(folder / NAME) as temporary:
        temporary.write_text(json.dumps(head | {"images": listed}, indent=1) + "\n")


def read_ledger(folder: Path) -> tuple[Settings, dict[str, Record]]:
    """Read the record of a series.

    Parameters
    ----------
    folder : Path
        Of the results.

    Returns
    -------
    settings : Settings
        Of the series.
    records : dict of str to Record
        By the name of the image.

    Raises
    ------
    ValueError
        If there is none, or it is damaged or foreign.
    """
    try:
        found = parse_json((folder / NAME).read_bytes().decode())
        if found.get("format") != FORMAT:
            raise ValueError(f"its format is {found.get('format')!r:.60}")
        names = Settings.__dataclass_fields__
        settings = Settings(**check_keys(found.get("settings"), "setting", names))
        records = [Record(**check_mapping(r, "a record")) for r in found.get("images", ())]
    except OSError as error:
        raise ValueError(
            f"results of a series were expected in {folder}, there is no {NAME} that can be read "
            f"({error.strerror}); write them by infer_series"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"a record of {FORMAT!r} was expected, {folder / NAME} is damaged or foreign "
            f"({' '.join(str(error).split())[:160]}); name another folder"
        ) from error
    return settings, {record.image: record for record in records}


def begin(folder: Path, settings: Settings) -> dict[str, Record]:
    """Find what an earlier run has done.

    Parameters
    ----------
    folder : Path
        Of the results; it need not exist.
    settings : Settings
        Of this run.

    Returns
    -------
    dict of str to Record
        By the name of the image; empty for a new folder.

    Raises
    ------
    ValueError
        If the folder holds something else, or results with other settings.
    """
    if not os.path.exists(folder / NAME):
        entries = folder.iterdir() if folder.is_dir() else ()
        others = sorted(p.name for p in entries if not p.name.startswith("."))
        if others:
            raise ValueError(
                f"a new or empty folder was expected for the results, {folder} holds {others[0]}; "
                "name another one"
            )
        return {}
    begun, records = read_ledger(folder)
    differing = [n for n, v in asdict(settings).items() if getattr(begun, n) != v]
    if differing:
        name = differing[0]
        values = (json.dumps(getattr(s, name))[:80] for s in (begun, settings))
        raise ValueError(
            f"a folder begun with the same settings was expected, {folder} has another {name} "
            f"({' and not '.join(values)}); name another folder, or repeat the settings"
        )
    return records


def is_done(folder: Path, image: Image, records: Mapping[str, Record]) -> bool:
    """Whether the result of an image is there, and the image has not changed since.

    Parameters
    ----------
    folder : Path
        Of the results.
    image : Image
        The image.
    records : mapping of str to Record
        Of earlier runs.

    Returns
    -------
    bool
        False also if the size of the result is another than that which was written.
    """
    record, result = records.get(image.name), folder / image.result
    if record is None or record.status != DONE or not image.is_in(record.source):
        return False
    return result.is_file() and result.stat().st_size == record.result_bytes

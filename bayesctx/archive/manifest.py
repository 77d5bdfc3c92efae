"""The manifest of a folder of shards: what the folder holds, and which files of it are whole."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..prior import Prior
from ..simulation.stream import check_window
from ..storage import replacing
from .shard import digest

__all__ = ["Archive", "damaged", "find_records", "read_manifest", "write_manifest"]

NAME = "manifest.json"
FORMAT = "bayesctx shards 1"


@dataclass(frozen=True)
class Archive:
    """A window of a stream, cut into shards.

    Attributes
    ----------
    prior : Prior
        What may occur.
    seed : int
        Names the stream.
    start : int
        First patch.
    num_patches : int
        Patches of all shards.
    patches_per_image : int
        Patches that share a context.
    shard_size : int
        Patches of each shard but the last.
    """

    prior: Prior
    seed: int
    start: int
    num_patches: int
    patches_per_image: int
    shard_size: int

    def __post_init__(self) -> None:
        sizes = {"num_patches": self.num_patches, "shard_size": self.shard_size}
        check_window(self.seed, self.start, None, self.patches_per_image, **sizes)

    @property
    def stop(self) -> int:
        """The patch after the last one."""
        return self.start + self.num_patches

    def shards(self) -> dict[str, tuple[int, int]]:
        """Windows of the shards.

        Returns
        -------
        dict of str to tuple of int
            First patch and the one after the last, by the name of the file.
        """
        starts = range(self.start, self.stop, self.shard_size)
        return {
            f"shard-{i:05d}.nc": (first, min(first + self.shard_size, self.stop))
            for i, first in enumerate(starts)
        }

    def settings(self) -> dict[str, object]:
        """Everything that the content of the shards depends on, as JSON values.

        Returns
        -------
        dict
            The head of the manifest.
        """
        numbers = {
            n: getattr(self, n)
            for n in ("seed", "start", "num_patches", "patches_per_image", "shard_size")
        }
        head = {"format": FORMAT, "version": importlib.metadata.version("bayesctx")}
        return json.loads(json.dumps(head | numbers | {"prior": self.prior.to_dict()}))


def write_manifest(
    folder: Path, archive: Archive, records: Mapping[str, Mapping[str, object]]
) -> None:
    """Write the manifest of a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    archive : Archive
        What it is to hold.
    records : mapping of str to mapping
        Of every whole shard, by its name.
    """
    with replacing(folder / NAME) as temporary:
        temporary.write_text(
            json.dumps(
                archive.settings() | {"shards": [records[n] for n in sorted(records)]}, indent=1
            )
            + "\n"
        )


def read_manifest(folder: Path) -> dict[str, object]:
    """Read the manifest of a folder.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    dict
        Settings, and a list ``shards`` of records with name, start, count, bytes and sha256.

    Raises
    ------
    ValueError
        If there is none, or a foreign one.
    """
    try:
        found = json.loads((folder / NAME).read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        return found
    except FileNotFoundError as error:
        raise ValueError(
            f"a folder of shards was expected, there is no {NAME} in {folder}; write one by write_shards"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"a manifest of {FORMAT!r} was expected, {folder / NAME} is truncated or foreign ({error})"
        ) from error


def find_records(
    folder: Path, archive: Archive, *, verify: bool = False, progress: bool = False
) -> dict[str, dict[str, object]]:
    """Find the shards that an earlier run finished.

    Parameters
    ----------
    folder : Path
        The folder; it need not exist.
    archive : Archive
        What it is to hold.
    verify : bool
        Compare the checksums too, not only the sizes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to dict
        Records of the whole shards by name.

    Raises
    ------
    ValueError
        If the folder holds something else.
    """
    if not (folder / NAME).exists():
        strangers = (
            [p.name for p in folder.iterdir() if not p.name.startswith(".")]
            if folder.is_dir()
            else []
        )
        if strangers:
            raise ValueError(
                f"a new or empty folder was expected, {folder} holds {strangers[0]}; name another one"
            )
        return {}
    found, expected = read_manifest(folder), archive.settings()
    for name, value in expected.items():
        if found.get(name) != value:
            values = "" if name == "prior" else f" ({found.get(name)}, not {value})"
            raise ValueError(
                f"a folder begun with the same settings was expected, {folder} has another {name}{values}; name another one"
            )
    bad = damaged(folder, found["shards"], verify=verify, progress=progress)
    return {r["name"]: r for r in found["shards"] if r["name"] not in bad}


def damaged(
    folder: Path, records: list[dict[str, object]], *, verify: bool, progress: bool = False
) -> list[str]:
    """Find the shards that are not as they were written.

    Parameters
    ----------
    folder : Path
        The folder.
    records : list of dict
        Of the manifest.
    verify : bool
        Compare the checksums too, not only the sizes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of str
        Names of files that are absent or different.
    """
    bad = []
    for record in tqdm(records, "verify", disable=not (verify and progress), unit="shard"):
        file = folder / record["name"]
        is_whole = file.is_file() and file.stat().st_size == record["bytes"]
        if not is_whole or (verify and digest(file) != record["sha256"]):
            bad.append(record["name"])
    return bad

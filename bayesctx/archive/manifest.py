"""The manifest of a folder of shards: its settings, prior and complete files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .. import __version__
from ..checks import check_keys, check_mapping, check_seed, check_whole_number
from ..prior import Prior
from ..simulation.stream import check_prior, check_window
from ..storage import add_checksum, parse_json, replacing, split_checksum
from .shard import digest

__all__ = ["Archive", "damaged", "find_records", "read_manifest", "write_manifest"]

NAME = "manifest.json"
FORMAT = "bayesctx shards 2"
OLD_FORMAT = "bayesctx shards 1"  # without a checksum
NUMBERS = ("seed", "start", "num_patches", "patches_per_image", "shard_size")
RECORD = ("name", "bytes", "sha256", "start", "count")
MOST_SHARDS = 10_000  # the manifest lists all of them and is written after each


@dataclass(frozen=True)
class Archive:
    """A window of a stream, divided into shards.

    Attributes
    ----------
    prior : Prior
        Prior of the patches.
    seed : int
        Seed of the stream.
    start : int
        First patch.
    num_patches : int
        Patches of all shards.
    patches_per_image : int
        Patches that share a context.
    shard_size : int
        Patches of each shard but the last.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a number is out of range, or there would be more than 10 000 shards.
    """

    prior: Prior
    seed: int
    start: int
    num_patches: int
    patches_per_image: int
    shard_size: int

    def __post_init__(self) -> None:
        check_prior(self.prior)
        least = {"start": 0, "num_patches": 1, "patches_per_image": 1, "shard_size": 1}
        checked = {n: check_whole_number(n, getattr(self, n), b, 2**53) for n, b in least.items()}
        for name, value in (checked | {"seed": check_seed(self.seed)}).items():
            object.__setattr__(self, name, value)
        sizes = {"num_patches": self.num_patches, "shard_size": self.shard_size}
        check_window(self.seed, self.start, None, self.patches_per_image, **sizes)
        if self.num_shards > MOST_SHARDS:
            raise ValueError(
                f"at most {MOST_SHARDS} shards were expected, got {self.num_patches} patches in "
                f"{self.num_shards} shards of {self.shard_size}; raise the shard size"
            )

    @property
    def stop(self) -> int:
        """The patch after the last one."""
        return self.start + self.num_patches

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_patches // self.shard_size)

    def shard(self, index: int) -> tuple[str, int, int]:
        """Describe a shard.

        Parameters
        ----------
        index : int
            Position, from 0.

        Returns
        -------
        name : str
            Of the file.
        first, last : int
            First patch and the one after the last.
        """
        first = self.start + index * self.shard_size
        return f"shard-{index:05d}.nc", first, min(first + self.shard_size, self.stop)

    def shards(self) -> dict[str, tuple[int, int]]:
        """Windows of the shards.

        Returns
        -------
        dict of str to tuple of int
            First patch and the one after the last, by the name of the file.
        """
        described = map(self.shard, range(self.num_shards))
        return {name: (first, last) for name, first, last in described}

    def settings(self) -> dict[str, object]:
        """Settings of the shards as JSON values.

        Returns
        -------
        dict
            The head of the manifest.
        """
        head = {"format": FORMAT, "version": __version__}
        numbers = {name: getattr(self, name) for name in NUMBERS}
        return head | numbers | {"prior": self.prior.to_dict()}


def write_manifest(
    folder: Path, archive: Archive, records: Mapping[str, Mapping[str, object]]
) -> None:
    """Write the manifest of a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    archive : Archive
        What the folder is to hold.
    records : mapping of str to mapping
        Record of every complete shard by name.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    content = archive.settings() | {"shards": [records[name] for name in sorted(records)]}
    body = json.dumps(content, indent=1)
    with replacing(folder / NAME) as temporary:
        temporary.write_text(add_checksum(body, _checksum(body)) + "\n")


def read_manifest(folder: Path) -> tuple[Archive, dict[str, dict[str, object]], str]:
    """Read the manifest of a folder.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    archive : Archive
        What the folder is to hold.
    records : dict of str to dict
        Record of every complete shard by name: name, start, count, bytes and sha256.
    version : str
        Version of the package that began the folder.

    Raises
    ------
    ValueError
        If there is no manifest, or it is damaged or foreign.
    """
    try:
        return _parse((folder / NAME).read_bytes().decode())
    except OSError as error:
        raise ValueError(
            f"a folder of shards was expected, there is no {NAME} in {folder} that can be read "
            f"({error.strerror}); write one by write_shards"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"a manifest of {FORMAT!r} was expected, {folder / NAME} is truncated or foreign "
            f"({' '.join(str(error).split())}); name another folder"
        ) from error


def _checksum(body: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(body.encode()).hexdigest()


def _parse(text: str) -> tuple[Archive, dict[str, dict[str, object]], str]:
    """Archive, records and version in a manifest."""
    body, checksum = split_checksum(text.removesuffix("\n"))
    if checksum is not None and _checksum(body) != checksum:
        raise ValueError("its checksum is wrong")
    found = parse_json(body)
    if found.get("format") != (OLD_FORMAT if checksum is None else FORMAT):
        raise ValueError(f"its format is {found.get('format')!r:.60}")
    check_keys(found, "entry", ("format", "version", *NUMBERS, "prior", "shards"))
    prior = Prior.from_dict(found["prior"])
    archive = Archive(prior, **{name: found[name] for name in NUMBERS})
    if not isinstance(found["shards"], list):
        raise TypeError("its shards are no list")
    shards = archive.shards()
    records = {}
    for record in found["shards"]:
        name = check_mapping(record, "the record of a shard").get("name")
        window = shards.get(name) if isinstance(name, str) else None
        check_keys(record, "entry of the record of a shard", RECORD)
        if window is None or (record["start"], record["start"] + record["count"]) != window:
            raise ValueError(f"the shard {name!r:.60} is none of its shards")
        check_whole_number("bytes", record["bytes"], 0, 2**62)
        records[name] = dict(record)
    return archive, records, str(found["version"])


def find_records(
    folder: Path, archive: Archive, *, verify: bool = False, progress: bool = False
) -> dict[str, dict[str, object]]:
    """Find the complete shards of an earlier run.

    Parameters
    ----------
    folder : Path
        The folder; it need not exist.
    archive : Archive
        What the folder is to hold.
    verify : bool
        Compare the checksums too, not only the sizes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to dict
        Records of the complete shards by name.

    Raises
    ------
    ValueError
        If the folder holds something else.
    """
    if not os.path.exists(folder / NAME):
        entries = folder.iterdir() if os.path.isdir(folder) else ()
        others = [p.name for p in entries if not p.name.startswith(".")]
        if others:
            raise ValueError(
                f"a new or empty folder was expected, {folder} holds {others[0]}; name another one"
            )
        return {}
    begun, records, version = read_manifest(folder)
    _check_same(folder, begun, version, archive)
    bad = damaged(folder, records, verify=verify, progress=progress)
    return {name: record for name, record in records.items() if name not in bad}


def _check_same(folder: Path, begun: Archive, version: str, archive: Archive) -> None:
    """Raise if a folder was begun with other settings."""
    found = {"version": version} | {name: getattr(begun, name) for name in NUMBERS}
    expected = archive.settings()
    differing = [f"{n} ({v}, not {expected[n]})" for n, v in found.items() if v != expected[n]]
    if begun.prior != archive.prior:
        differing.append("prior")
    if differing:
        raise ValueError(
            f"a folder begun with the same settings was expected, {folder} has another "
            f"{differing[0]}; name another one"
        )


def damaged(
    folder: Path,
    records: Mapping[str, Mapping[str, object]],
    *,
    verify: bool,
    progress: bool = False,
) -> list[str]:
    """Find the shards that are missing or damaged.

    Parameters
    ----------
    folder : Path
        The folder.
    records : mapping of str to mapping
        Of the manifest.
    verify : bool
        Compare the checksums too, not only the sizes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of str
        Names of files that are missing or differ.
    """
    bad = []
    shown = verify and progress
    for name, record in tqdm(records.items(), "verify", disable=not shown, unit="shard"):
        file = folder / name
        is_whole = file.is_file() and file.stat().st_size == record["bytes"]
        if not is_whole or (verify and digest(file) != record["sha256"]):
            bad.append(name)
    return bad

"""Files that are written completely or not at all, JSON of untrusted files, and warnings."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import sys
import uuid
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .checks import shorten

__all__ = [
    "add_checksum",
    "as_path",
    "existing_file",
    "explain",
    "make_folder",
    "parse_json",
    "remove_stale",
    "replacing",
    "scratch_file",
    "split_checksum",
    "warn",
]

PREFIX, SUFFIX = ".bayesctx-", ".tmp"
PROBE = 2**20  # bytes that are appended to an unfinished file to find out why writing failed

REASONS = {
    errno.ENOENT: "an existing folder was expected, there is no {folder}; create it first",
    errno.EEXIST: "a folder was expected, {path} is a file; name another one",
    errno.ENOTDIR: "a folder was expected, {folder} is a file; name another one",
    errno.EACCES: "a writable folder was expected, {folder} is not; change its permissions",
    errno.EPERM: "a writable folder was expected, {folder} is not; change its permissions",
    errno.EROFS: "a writable folder was expected, {folder} is read-only; name another one",
    errno.ENOSPC: "room for {path} was expected, the disk is full; free some space",
    errno.EDQUOT: "room for {path} was expected, the quota of the disk is used up; free some space",
    errno.EFBIG: "room for {path} was expected, it exceeds the largest size of a file here; "
    "raise the limit or name another folder",
}
"""What an error of the operating system means for a file that is to be written."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def as_path(path: str | os.PathLike) -> Path:
    """Check the type of a path.

    Parameters
    ----------
    path : path-like
        What should be the path of a file or folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    TypeError
        If it is no path.
    ValueError
        If it is empty or contains a null character.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a path was expected, got {type(path).__name__}; give a str or a Path")
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ValueError(
            f"a path without null characters was expected, got {shorten(text)}; name a file or "
            "folder"
        )
    return Path(text)


def existing_file(path: str | os.PathLike, what: str) -> Path:
    """Check that a file can be read.

    Parameters
    ----------
    path : path-like
        The file.
    what : str
        What it should be, for errors.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    TypeError, ValueError
        If it is no path.
    OSError
        If there is no such file, or it cannot be read.
    """
    path = as_path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{what} was expected at {path}, there is no such file; correct its name"
        )
    if not os.path.isfile(path):
        raise OSError(f"{what} was expected, {path} is a folder or a device; name a file")
    if not os.access(path, os.R_OK):
        raise PermissionError(
            f"{what} was expected, {path} may not be read; change its permissions"
        )
    return path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write to a temporary file that takes the place of another one when it is complete.

    Parameters
    ----------
    path : path-like
        The file to write. If it is a symbolic link, the file that it points to is replaced.

    Yields
    ------
    Path
        An empty temporary file in the same folder, to be written in its place.

    Raises
    ------
    OSError
        If the file cannot be written; ``errno`` tells why. The old file stays as it was, and the
        temporary file is removed. Other errors inside of the block pass through unchanged.

    Notes
    -----
    File and folder are flushed to the disk, so that a power cut leaves the old or the new file.
    A killed process leaves its temporary file, which the next call in that folder removes.
    """
    target = Path(os.path.realpath(as_path(path)))
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(f"a file to write was expected, {path} is something else; name another one")
    with scratch_file(target.parent) as temporary:
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            remove_stale(target.parent)
            yield temporary
            _flush(temporary)
            os.replace(temporary, target)
            _flush(target.parent)
        except (OSError, RuntimeError) as error:
            cause = _cause(error, temporary)
            if cause is None or cause.errno is None:
                raise
            raise explain(cause, path) from error


@contextmanager
def scratch_file(folder: Path) -> Iterator[Path]:
    """Name a temporary file, and remove it at the end.

    Parameters
    ----------
    folder : Path
        Where it is to be.

    Yields
    ------
    Path
        A file that does not exist yet; its name is one that ``remove_stale`` removes.
    """
    path = folder / f"{PREFIX}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    try:
        yield path
    finally:
        with suppress(OSError):  # it is gone, or another error is being raised
            os.truncate(path, 0)  # HDF5 keeps a file open that it failed to write
            path.unlink()


def _cause(error: OSError | RuntimeError, temporary: Path) -> OSError | None:
    """The error of the operating system behind one that was raised while a file was written."""
    if isinstance(error, OSError) and (error.errno in FULL or not temporary.exists()):
        return error
    # HDF5 reports a full disk as 'HDF error' or 'Permission denied': appending gives the cause
    try:
        with open(temporary, "ab") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found
    is_own = isinstance(error, OSError) and str(error.filename) == str(temporary)
    return error if is_own else None


def explain(error: OSError, path: str | os.PathLike) -> OSError:
    """Translate an error of the operating system for a file that was to be written.

    Parameters
    ----------
    error : OSError
        The error.
    path : path-like
        The file or folder that was to be written.

    Returns
    -------
    OSError
        With the same ``errno`` and a message that says what to do; the error itself if it has no
        ``errno``.
    """
    if error.errno is None:
        return error
    reason = REASONS.get(
        error.errno,
        "a file that can be written was expected at {path}, the system reports: "
        + f"{os.strerror(error.errno)}; name another one",
    )
    absolute = Path(path).absolute()
    folder = absolute if os.path.isdir(absolute) else absolute.parent
    return OSError(error.errno, reason.format(path=path, folder=folder))


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder, and those above it, unless it exists.

    Parameters
    ----------
    path : path-like
        The folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    OSError
        If it cannot be made; the message says what to do.
    """
    folder = as_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, folder) from error
    return folder


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of ``replacing`` whose process has ended.

    Parameters
    ----------
    folder : Path
        Only its own entries are checked, not those of folders in it. Files of other programs, of
        other machines and of running processes are kept.
    """
    for file in folder.glob(f"{PREFIX}{_host()}-*{SUFFIX}"):
        process = file.name.removeprefix(f"{PREFIX}{_host()}-").partition("-")[0]
        if process.isdecimal() and not _is_running(int(process)):
            with suppress(OSError):  # of another user, or removed by another process
                file.unlink()


def _host() -> str:
    """Eight characters that identify this machine, since machines may share a folder."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_running(process: int) -> bool:
    """Whether there is a process with this id."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _flush(path: Path) -> None:
    """Make the system write a file, or the entries of a folder, to the disk, if it can."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def parse_json(text: str | bytes) -> dict[str, object]:
    """Read a JSON object from a file that may be damaged or foreign.

    Parameters
    ----------
    text : str or bytes
        The JSON.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    ValueError
        If it is not JSON, nested too deeply, or not an object.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"an object {{...}} was expected, got {type(found).__name__}")
    return found


def add_checksum(body: str, checksum: str) -> str:
    """Put a checksum into a JSON object as its first entry.

    Parameters
    ----------
    body : str
        The JSON object.
    checksum : str
        SHA-256 in 64 hexadecimal digits, of this text and of what belongs to it.

    Returns
    -------
    str
        The JSON object with the entry ``sha256``.
    """
    return f'{{"sha256": "{checksum}", {body[1:]}'


def split_checksum(text: str) -> tuple[str, str | None]:
    """Take the checksum out of a JSON object.

    Parameters
    ----------
    text : str
        From ``add_checksum``.

    Returns
    -------
    body : str
        The text of which the checksum was computed: the same values can be written in several
        ways.
    checksum : str or None
        None if the text has another form; ``body`` is then all of it.
    """
    found = re.fullmatch(r'\{"sha256": "([0-9a-f]{64})", (.*)', text, re.DOTALL)
    return ("{" + found[2], found[1]) if found else (text, None)


INSIDE = ("bayesctx", "torch")  # modules that are not the user's; torch wraps some functions


def warn(message: str) -> None:
    """Warn with the file and line of the caller outside of the package.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    """
    frame, level = sys._getframe(1), 2
    while (
        frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)

"""Files are replaced as a whole, errors name their cause, and foreign JSON is refused."""

import errno
import os
import subprocess
import sys
import warnings

import pytest

from bayesctx import storage
from bayesctx.storage import existing_file, parse_json, remove_stale, replacing, warn


def write(path, content, error=None):
    with replacing(path) as temporary:
        temporary.write_text(content)
        if error is not None:
            raise error


def entries(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    "error", [RuntimeError("rendering"), ValueError("shape"), KeyboardInterrupt(), OSError("other")]
)
def test_errors_inside_of_the_block_pass_unchanged_and_leave_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    write(path, "old")
    with pytest.raises(type(error)) as raised:
        write(path, "half", error)
    assert raised.value is error
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["file"]


def test_a_link_keeps_pointing_at_the_file_that_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"


def test_folders_and_devices_are_not_replaced(tmp_path):
    for path in (tmp_path, os.devnull):
        with pytest.raises(OSError, match="a file to write was expected, .* is something else"):
            write(path, "new")
    assert entries(tmp_path) == []


def test_what_is_no_path_is_refused():
    for path in (3, None, b"file"):
        with pytest.raises(TypeError, match="a path was expected, got .*; give a str or a Path"):
            write(path, "new")
    for path in ("a\0b", ""):
        with pytest.raises(ValueError, match="without null characters was expected, got .*; name"):
            write(path, "new")
    with pytest.raises(OSError, match="the system reports: File name too long; name another one"):
        write("x" * 300, "new")


def test_a_file_to_read_must_be_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="a model was expected at .*there is no such file"):
        existing_file(tmp_path / "nowhere", "a model")
    with pytest.raises(OSError, match="a model was expected, .* is a folder or a device"):
        existing_file(tmp_path, "a model")
    write(tmp_path / "file", "new")
    assert existing_file(str(tmp_path / "file"), "a model") == tmp_path / "file"


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    write(tmp_path / "file", "new")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="may not be read; change its permissions"):
        existing_file(tmp_path / "file", "a model")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"\[Errno 28\] room for .*file was expected, the disk is full"),
        (errno.EDQUOT, "the quota of the disk is used up"),
        (errno.EROFS, "a writable folder was expected, .* is read-only; name another one"),
        (errno.EACCES, "a writable folder was expected, .* is not; change its permissions"),
        (errno.EIO, "the system reports: Input/output error; name another one"),
    ],
)
def test_a_file_that_cannot_be_created_says_why(code, message, tmp_path, monkeypatch):
    create = os.open

    def refuse(path, *arguments):
        if str(path).endswith(".tmp"):
            raise OSError(code, os.strerror(code), str(path))
        return create(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=message) as raised:
        write(tmp_path / "file", "new")
    assert raised.value.errno == code
    assert entries(tmp_path) == []


def test_a_missing_folder_is_named_and_not_created(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere; create it first"):
        write(tmp_path / "nowhere" / "file", "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a folder was expected, .*file is a file"):
        write(tmp_path / "file" / "inside", "new")
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error", [RuntimeError("NetCDF: HDF error"), PermissionError(13, "Permission denied")]
)
def test_a_full_disk_is_found_behind_what_a_library_makes_of_it(error, tmp_path, monkeypatch):
    """The probe appends to the unfinished file; here its flush meets the full disk."""
    path = tmp_path / "file"
    write(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full; free some space") as raised:
        write(path, "half", error)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.__cause__ is error
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_is_written_all_the_same(code, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_file_that_cannot_take_its_place_says_why(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, "old")

    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source), str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="a writable folder was expected"):
        write(path, "new")
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["file"]


LIMITED = """
import resource, sys
import numpy as np, xarray as xr
from bayesctx.storage import replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
data = xr.Dataset({"a": ("x", np.random.default_rng(0).random(100_000))})
try:
    with replacing(sys.argv[1]) as temporary:
        data.to_netcdf(temporary, engine="netcdf4")
except OSError as error:
    print(error.errno, error)
"""


def test_a_file_that_the_system_does_not_let_grow_says_so(tmp_path):
    """A real refusal of the system in the middle of a write by HDF5, which reports 'HDF error'."""
    path = tmp_path / "file.nc"
    path.write_text("old")
    words = [sys.executable, "-c", LIMITED, str(path)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"{errno.EFBIG} [Errno {errno.EFBIG}] room for {path} was expected")
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["file.nc"]


def test_only_temporary_files_of_ended_processes_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    own = f"{storage.PREFIX}{storage._host()}-"
    stale = f"{own}{process.pid}-0123abcd.tmp"
    kept = [
        ".notes.tmp",
        f".shard-00000.nc.{process.pid}.tmp",
        f"{own}{os.getppid()}-0123abcd.tmp",
        f"{storage.PREFIX}00000000-{process.pid}-0123abcd.tmp",
        f"{own}mine.tmp",
    ]
    for name in (stale, *kept):
        (tmp_path / name).write_text("")
    remove_stale(tmp_path)
    assert entries(tmp_path) == sorted(kept)
    (tmp_path / stale).write_text("")
    write(tmp_path / "file", "new")
    assert entries(tmp_path) == sorted([*kept, "file"])


def test_the_temporary_file_of_a_killed_run_is_removed_by_the_next_one(tmp_path):
    script = (
        "import os, sys\nfrom bayesctx.storage import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n    os.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "file")]
    assert subprocess.run(words).returncode == -9
    assert len(entries(tmp_path)) == 1
    write(tmp_path / "file", "new")
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1]", "an object .* was expected, got list"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        (b"\xff", "can't decode"),
    ],
)
def test_json_that_is_no_object_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)
    assert parse_json('{"a": 1}') == {"a": 1}


def test_warnings_show_the_line_of_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("doubtful")
    assert caught[0].filename == __file__


def test_folders_are_made_with_those_above_them(tmp_path):
    assert storage.make_folder(tmp_path / "a" / "b").is_dir()
    assert storage.make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "is a file; name another one"),
        ("file/below", "is a file; name another one"),
        ("x" * 300, "name too long; name another one"),
    ],
)
def test_folders_that_cannot_be_made_say_why(name, reason, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"(?i)expected.*{reason}"):
        storage.make_folder(tmp_path / name)

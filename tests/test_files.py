"""The way to disk: whole, durable, and an error that names its file."""

from __future__ import annotations

import errno
import os

import pytest

from cookbook import files


@pytest.fixture
def dribble(monkeypatch):
    """A system that takes three bytes a call."""
    real, calls = os.write, []

    def write(fd, data):
        calls.append(len(data))
        return real(fd, bytes(data)[:3])

    monkeypatch.setattr(os, "write", write)
    return calls


def test_a_write_that_takes_only_a_part_goes_on_with_the_rest(tmp_path, dribble):
    path = tmp_path / "x"
    files.append(path, b"0123456")
    assert dribble == [7, 4, 1]
    files.append(path, b"789\n")
    assert path.read_bytes() == b"0123456789\n"
    files.write(path, b"shorter")
    assert path.read_bytes() == b"shorter"
    files.replace(path, b"and longer again")
    assert path.read_bytes() == b"and longer again"


def test_nothing_is_written_of_nothing(tmp_path):
    files.append(tmp_path / "x", b"")
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.parametrize("where", ["os.write", "os.fsync", "pathlib.Path.replace"])
def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, where):
    path = tmp_path / "record.json"
    files.replace(path, b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(OSError) as e:
        broken.setattr(where, full)
        files.replace(path, b"new, and longer")
    assert (e.value.errno, e.value.strerror) == (errno.ENOSPC, "No space left on device")
    assert e.value.filename.startswith(str(path))
    assert path.read_bytes() == b"old"
    files.replace(path, b"new, and longer")
    assert path.read_bytes() == b"new, and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_replaced_is_synced_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    path, order = tmp_path / "x", []
    sync, replace = os.fsync, type(path).replace

    def synced(fd):
        order.append(os.readlink(f"/proc/self/fd/{fd}"))
        sync(fd)

    def renamed(part, final):
        order.append("renamed")
        return replace(part, final)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(type(path), "replace", renamed)
    files.replace(path, b"x")
    assert order == [str(tmp_path / "x.part"), "renamed", str(tmp_path)]
    order.clear()
    files.append(path, b"y")
    assert order == []  # line by line would be slow; a checkpoint syncs what it relies on
    files.sync(path)
    assert order == [str(path)]


@pytest.mark.parametrize("call", [files.append, files.write, files.replace])
def test_an_error_names_the_file(tmp_path, call):
    with pytest.raises(FileNotFoundError) as e:
        call(tmp_path / "gone" / "x", b"")
    assert e.value.filename.startswith(str(tmp_path / "gone" / "x"))


def test_no_file_is_left_open(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    files.append(tmp_path / "x", b"x")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("write", "fsync"):
        with monkeypatch.context() as broken, pytest.raises(OSError):
            broken.setattr(os, name, full)
            files.write(tmp_path / "x", b"y")
    files.sync(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before

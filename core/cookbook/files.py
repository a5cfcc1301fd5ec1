"""The run folder's way to disk: what is written is whole and durable, or an OSError that names the file.

Appending isn't synced line by line: a checkpoint syncs what it relies on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """A whole file, synced. The name may show half of it until then: `replace` never does."""
    with _named(path):
        _put(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, data, os.fsync)


def append(path: Path, data: bytes) -> None:
    """More bytes at the end of a file, which is made where there is none."""
    with _named(path):
        _put(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, data)


def sync(path: Path) -> None:
    """Returns when a file, or a folder's list of names, would survive a power cut."""
    with _named(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def rename(part: Path, final: Path) -> None:
    """Moves a file over another, or a folder to a name that is free, at once."""
    with _named(final):
        part.replace(final)
    sync(final.parent)


def replace(path: Path, data: bytes) -> None:
    """A whole file: at every moment its name stands for the old one or the new one."""
    part = path.with_name(f"{path.name}.part")
    write(part, data)
    rename(part, path)


def _put(path: Path, flags: int, data: bytes, then: Callable[[int], None] = lambda fd: None) -> None:
    fd = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        then(fd)
    finally:
        os.close(fd)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """The operating system doesn't say which file it had no room for."""
    try:
        yield
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e

"""A folder that appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelvault.errors import Conflict, Unavailable

_CHUNK = 8 << 20
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A private folder beside `target` to fill; it takes that name when the block ends well, and
    is removed with all that is in it otherwise.

    Raises Conflict (`folder_exists`) unless `target` is new or an empty folder: nothing is ever
    overwritten; Unavailable (`cant_write`) when the disk refuses.
    """
    target = _free(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    with _reported(target):
        draft.mkdir(mode=0o700, parents=False)
        try:
            yield draft
            _take_name(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


@contextmanager
def continuing(target: Path, name: str) -> Iterator[Path]:
    """As `appearing`, but what an outage or Ctrl-C leaves stays, and the next one that brings the
    same `name` (hex) finds it. Whoever fills the folder checks what is in it: this looks only that
    it is a folder of our own, and that nobody else is filling it.
    """
    target = _free(target)
    draft = target.with_name(f".{target.name}.{name[:16]}")
    with _reported(target):
        draft.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            ours = os.fstat(descriptor).st_uid == os.geteuid()
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            ours = False
        try:
            if not ours:
                with appearing(target) as other:
                    yield other
                return
            draft.chmod(0o700)
            try:
                yield draft
                _take_name(draft, target)
            except BaseException as failure:
                if not isinstance(failure, (Unavailable, KeyboardInterrupt, SystemExit)):
                    shutil.rmtree(draft, ignore_errors=True)
                raise
        finally:
            os.close(descriptor)


def _free(target: Path) -> Path:
    target = target.absolute()
    with _reported(target):
        if target.is_symlink() or (target.exists() and not _is_empty(target)):
            raise _exists(target)
    return target


def _take_name(draft: Path, target: Path) -> None:
    _sync(draft)
    draft.rename(target)
    _sync(target.parent)


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _TAKEN and target.exists():  # somebody made it meanwhile
            raise _exists(target) from None
        raise Unavailable(
            "cant_write",
            f"can't write {target}: {os.strerror(error.errno or 0)}",
            "check that the folder above it exists, its permissions and the free space",
        ) from None


def write_file(path: Path, size: int, read: Callable[[int, memoryview], None]) -> None:
    """A new file of `size` bytes, readable by its owner only; `read(offset, buffer)` fills it.

    Folders on the way are made, private too. Durable when this returns. Raises OSError and what
    `read` raises.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    buffer = memoryview(bytearray(min(size, _CHUNK)))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        for offset in range(0, size, _CHUNK):
            part = buffer[: min(_CHUNK, size - offset)]
            read(offset, part)
            _write_all(file.fileno(), part)
        os.fsync(file.fileno())
    buffer[:] = bytes(len(buffer))


def write_rest(path: Path, size: int, have: int, read: Callable[[int, memoryview], None]) -> None:
    """As `write_file`, for a file whose first `have` bytes are there and good."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    buffer = memoryview(bytearray(min(size - have, _CHUNK)))
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        file.truncate(have)
        file.seek(have)
        for offset in range(have, size, _CHUNK):
            part = buffer[: min(_CHUNK, size - offset)]
            read(offset, part)
            _write_all(file.fileno(), part)
        os.fsync(file.fileno())


def _write_all(descriptor: int, part: memoryview) -> None:
    while part:
        part = part[os.write(descriptor, part) :]


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _exists(target: Path) -> Conflict:
    return Conflict(
        "folder_exists", f"{target} exists already", "name a new folder: nothing is overwritten"
    )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

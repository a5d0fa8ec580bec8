"""What a push takes: the files under a path, each checked before anything is asked of the vault.

Decisions that a pusher meets:
- A link whose target lies inside the folder is followed. One that leaves it is refused, unless
  `follow_links`: a Hugging Face snapshot is a folder of links into `../../blobs`.
- Names that begin with a dot, and `__pycache__`, are left out and reported (`.git`, `.cache`,
  `.env` are no part of a model). A hidden file that is itself the path to push is taken.
- Names are stored in Unicode's NFC form. Two that are then equal but for case are refused.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec

from modelvault.client.source import Found, Identity
from modelvault.errors import InvalidRequest
from modelvault.manifest import MAX_FILES, check_paths

_MAX_DEPTH = 64


class Scan(msgspec.Struct, frozen=True):
    """The files to push, by path, and the names that were left out."""

    files: tuple[Found, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def scan(path: str | Path, *, follow_links: bool = False) -> Scan:
    """Look at `path`, a file or a folder, without reading any contents.

    Raises InvalidRequest: `no_such_path`, `no_files`, `link_leaves_folder`, `broken_link`,
    `link_loop`, `not_a_file` (FIFO, device, socket), `unreadable`, `bad_path` (not UTF-8, too
    long, differing in nothing but case or Unicode form), `too_many_files`.
    """
    if path == "":  # an unset variable mustn't mean the current folder
        raise InvalidRequest(
            "no_such_path", "the path is empty", "name a file or a folder; `.` is the current one"
        )
    typed, path = str(path), Path(path)
    root = _resolve(path, typed)
    if not root.is_dir():
        found = _file(_name(path, root), root, path)
        check_paths([found.path])
        return Scan((found,), ())
    skipped: list[str] = []
    files: list[Found] = []
    for found in _Walk(root, follow_links, skipped).folder(root, "", (root,)):
        files.append(found)
        if len(files) > MAX_FILES:
            raise InvalidRequest(
                "too_many_files",
                f"{path} holds more than {MAX_FILES:,} files, the most that a version can have",
                "pack many small files into an archive before pushing",
            )
    if not files:
        left_out = f"; left out: {', '.join(skipped[:5])}" if skipped else ""
        raise InvalidRequest(
            "no_files", f"there is no file to push in {path}{left_out}", "add a file"
        )
    files.sort(key=lambda found: found.path)
    _check_names(files)
    return Scan(tuple(files), tuple(sorted(skipped)))


class _Walk:
    """One walk through a folder."""

    def __init__(self, root: Path, follow_links: bool, skipped: list[str]) -> None:
        self._root = root
        self._follow_links = follow_links
        self._skipped = skipped

    def folder(self, folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[Found]:
        """The files of `folder`, deep; `above` are the real folders it lies in, itself included."""
        if len(above) > _MAX_DEPTH:
            raise InvalidRequest(
                "bad_path", f"{folder}: folders nested deeper than {_MAX_DEPTH}", "flatten them"
            )
        for entry in _entries(folder):
            name = prefix + _utf8(entry)
            if entry.name.startswith(".") or entry.name == "__pycache__":
                self._skipped.append(name)
                continue
            real = self._follow(entry, name) if entry.is_symlink() else Path(entry.path)
            if not real.is_dir():
                yield _file(name, real, Path(entry.path))
            elif real in above:
                raise InvalidRequest(
                    "link_loop", f"{entry.path} is a link to a folder that it lies in", "remove it"
                )
            else:
                yield from self.folder(real, name + "/", (*above, real))

    def _follow(self, entry: os.DirEntry[str], name: str) -> Path:
        real = _resolve(Path(entry.path), entry.path)
        if not self._follow_links and not real.is_relative_to(self._root):
            raise InvalidRequest(
                "link_leaves_folder",
                f"{name} is a link that leaves the folder: it points to {real}",
                "push with follow_links (--follow-links) to take the file it points to, as "
                "Hugging Face snapshots need it, or remove the link",
            )
        return real


def _resolve(path: Path, typed: str) -> Path:
    try:
        return path.resolve(strict=True)
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidRequest(
                "broken_link", f"{path} is a link to nothing", "remove or mend the link"
            ) from None
        raise InvalidRequest("no_such_path", f"{typed} doesn't exist", "check the path") from None
    except (OSError, RuntimeError):  # 3.11 and 3.12 tell of a loop by RuntimeError
        raise InvalidRequest(
            "unreadable", f"{path} can't be reached", "check links and permissions on the way"
        ) from None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None


def _file(name: str, real: Path, shown: Path) -> Found:
    try:
        status = real.lstat()  # links are resolved by now: one here was put in meanwhile
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(
                "not_a_file",
                f"{shown} is {_kind(status.st_mode)}, not a file",
                "only files can be pushed, and folders of files: remove it, or name another path",
            )
        if not os.access(real, os.R_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise _unreadable(shown, error) from None
    return Found(unicodedata.normalize("NFC", name), real, Identity.of(status), status.st_ctime_ns)


def _name(path: Path, real: Path) -> str:
    name = path.name if path.name not in {"", ".", ".."} else real.name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise _not_utf8(real) from None
    return name


def _utf8(entry: os.DirEntry[str]) -> str:
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        raise _not_utf8(Path(entry.path)) from None
    return entry.name


def _check_names(files: list[Found]) -> None:
    seen: dict[str, Found] = {}
    for found in files:
        first = seen.setdefault(found.path.casefold(), found)
        if first is not found:
            raise InvalidRequest(
                "bad_path",
                f"two names differ in nothing but case or Unicode form: {first.source} and "
                f"{found.source}",
                "rename one: some systems merge them",
            )
    check_paths([found.path for found in files])


def _not_utf8(path: Path) -> InvalidRequest:
    return InvalidRequest("bad_path", f"{str(path)!a}: the name isn't UTF-8", "rename the file")


def _unreadable(path: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(
        "unreadable",
        f"can't read {path}: {os.strerror(error.errno or 0)}",
        "give yourself permission to read it, or leave it out",
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISLNK, "a link"),
    )
    return next((name for check, name in kinds if check(mode)), "something else")

"""`modelvault://` for fsspec, and so for pandas, pyarrow, dask and whoever else speaks it.

    pandas.read_csv("modelvault://data@1/train.csv", storage_options={"purpose": "fine-tuning"})
    fs = fsspec.filesystem("modelvault", purpose="inference")
    safetensors.torch.load(fs.cat("minilm:prod/model.safetensors"))

Read-only, and nothing of it is on a disk: fsspec's ways to put a file there, its caching file
systems among them, are refused. What is decrypted stays in the loader's memory as long as the
file system lives, so fsspec's own caches, which keep plaintext in ordinary memory, are never used
(always `cache_type="none"`). What `read` and `cat` give is the caller's own copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from modelvault.errors import InvalidRequest, NotFound
from modelvault.integrations.addresses import SCHEME, Address
from modelvault.integrations.fsspec_file import File, look_who_reads, on_a_disk
from modelvault.integrations.leases import Leases
from modelvault.loader.model import Model
from modelvault.manifest import FileEntry

try:
    from fsspec.spec import AbstractFileSystem
except ImportError:
    raise InvalidRequest(
        "missing_extra",
        "fsspec isn't installed",
        "pip install 'encrypted-model-vault[fsspec]'",
    ) from None

if TYPE_CHECKING:
    from modelvault.client.session import Session

Info = dict[str, Any]
_OPTIONS = ("purpose", "broker", "home", "profile", "ticket")
# What fsspec itself passes to every file system.
_FSSPECS = frozenset(
    {"asynchronous", "loop", "use_listings_cache", "listings_expiry_time", "max_paths"}
)
_CREDENTIALS = frozenset({"token", "key", "secret", "password", "passphrase"})
_HERE = object()  # only our own `open` has it: see `_open`


class NoFile(NotFound, FileNotFoundError):
    """There is no such file, version or model, or the caller may not know: as fsspec knows it."""


class ModelVaultFileSystem(AbstractFileSystem):  # type: ignore[misc, unused-ignore]
    """Versions as folders. Threads may use it at once.

    It takes one lease for each reference, at first use, renewed until `close()`, or until nobody
    refers to this object or a file of it. So a program that opens many files should hold on to
    one: `fsspec.filesystem("modelvault", ...)`; instances aren't kept by fsspec, whose cache would
    hold every lease to the end of the process.

    A pickle holds what it was made with, and no key: it connects anew wherever it is read, and so
    does a forked child. Whoever is asking there is what that process can show.
    Methods raise what `Session.load` and `Model` raise; what isn't there is a FileNotFoundError.
    """

    protocol = SCHEME
    cachable = False
    root_marker = ""

    def __init__(
        self,
        purpose: str | None = None,
        *,
        broker: str | None = None,
        home: str | None = None,
        profile: str | None = None,
        ticket: str | None = None,
        **options: object,
    ) -> None:
        """`purpose` is what the policy is asked for, MODELVAULT_PURPOSE unless named; the rest is
        as in `connect` and `load`. Nothing is asked for before the first use.

        Raises InvalidRequest (`unknown_option`).
        """
        _known(options)
        super().__init__(**options)
        self._make = partial(Leases, partial(_connect, broker, home, profile), purpose, ticket)
        self._leases = self._fresh()

    # looking

    def ls(self, path: str, detail: bool = True, **_options: object) -> list[Info] | list[str]:
        """What is directly in a version or a folder of it; of a file, the file.

        A file's entry has `name`, `size` in bytes, `type`, `version` and `digest` (of its
        ciphertext).
        """
        address = Address.parse(path)
        model = self._model(address)
        listed = _file(model, address) or _children(model, address)
        if not listed:
            raise _missing(address)
        found = [listed[name] for name in sorted(listed)]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_options: object) -> Info:
        """The entry of a file or a folder, as in `ls`."""
        look_who_reads()  # a cache of blocks takes those that it wasn't given for zeros
        address = Address.parse(path)
        model = self._model(address)
        found = _file(model, address)
        if found:
            return found[address.path]
        if address.path and not _children(model, address):
            raise _missing(address)
        return _folder(str(address))

    def exists(self, path: str, **_options: object) -> bool:
        """False only for what isn't there: a denial or an outage is raised."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """As `exists`."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """As `exists`."""
        return self._type(path) == "directory"

    # reading

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:  # noqa: ANN401
        """A `File`; with mode "r" text over it. Only what is read is decrypted."""
        if mode not in ("r", "rt", "rb"):
            self._read_only()
        return super().open(path, mode, **options | {"opened_by": _HERE})

    def cat_ranges(self, *args: Any, **options: Any) -> list[Any]:  # noqa: ANN401
        """As fsspec's; who may not read is told so at once, and not in the place of bytes."""
        look_who_reads()
        return list(super().cat_ranges(*args, **options))

    def path(self, path: str) -> Path:
        """The name of a file or folder in memory, for what opens nothing else
        (`safetensors.safe_open`): see `Model.path`. It is there as long as this file system."""
        address = Address.parse(path)
        model = self._model(address)
        wanted = [name for name in model.files if _within(name, address.path)]
        if not wanted:
            raise _missing(address)
        return model.path(*wanted) / address.path

    def close(self) -> None:
        """Give the leases back; what is open can't be read any more. Idempotent.

        Raises Conflict (`views_alive`).
        """
        self._leases.close()

    # what isn't to be had

    def get_file(self, *_args: object, **_options: object) -> NoReturn:
        """Refused: it would put plaintext on a disk."""
        raise on_a_disk()

    get = get_file

    def _read_only(self, *_args: object, **_options: object) -> NoReturn:
        raise InvalidRequest(
            "read_only",
            "modelvault:// is for reading: versions never change",
            "make a new version with `modelvault push`, or vault.push(folder, name)",
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = copy = mv = put = put_file = pipe = (
        pipe_file
    ) = touch = _read_only

    def _open(self, path: str, opened_by: object = None, **_options: object) -> File:
        # Whoever calls this and not `open` is a file system around this one. Those that cache
        # blocks hang a file on a disk into what they get here, and fill it.
        if opened_by is not _HERE:
            raise on_a_disk()
        address = Address.parse(path)
        model = self._model(address)
        entry = model.manifest.file(address.path)
        if entry is None:
            raise _missing(address)
        return File(model, self, address, entry.size)

    def _model(self, address: Address) -> Model:
        if not self._leases.ours:
            self._leases = self._fresh()
        try:
            return self._leases.model(address.reference)
        except NotFound as error:
            raise NoFile(error.code, error.message, error.hint, **error.details) from None

    def _fresh(self) -> Leases:
        leases = self._make()
        # Nobody refers to this object any more, or the interpreter ends.
        weakref.finalize(self, leases.close)
        return leases

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None


def _connect(broker: str | None, home: str | None, profile: str | None) -> Session:
    from modelvault.wiring import connect

    return connect(broker, home=home, profile=profile)


def _known(options: Mapping[str, object]) -> None:
    unknown = sorted(set(options) - _FSSPECS)
    if unknown:
        secret = _CREDENTIALS.intersection(unknown)
        raise InvalidRequest(
            "unknown_option",
            f"modelvault:// has no option {unknown[0]!r}",
            "fsspec keeps and pickles options, so credentials are none: set MODELVAULT_TOKEN or "
            "MODELVAULT_TOKEN_FILE, or name a profile"
            if secret
            else f"there are {', '.join(_OPTIONS)}",
        )


def _file(model: Model, address: Address) -> dict[str, Info]:
    entry = _granted(model).get(address.path)
    return {} if entry is None else {entry.path: _entry(model, address.reference, entry)}


def _children(model: Model, address: Address) -> dict[str, Info]:
    inside = f"{address.path}/" if address.path else ""
    found: dict[str, Info] = {}
    for path, entry in _granted(model).items():
        if path.startswith(inside):
            name, _, below = path.removeprefix(inside).partition("/")
            if not below:
                found[path] = _entry(model, address.reference, entry)
            elif inside + name not in found:
                folder = Address(address.reference, inside + name)
                found[folder.path] = _folder(str(folder))
    return found


def _granted(model: Model) -> dict[str, FileEntry]:
    granted = set(model.files)
    return {entry.path: entry for entry in model.manifest.files if entry.path in granted}


def _entry(model: Model, reference: str, entry: FileEntry) -> Info:
    return {
        "name": str(Address(reference, entry.path)),
        "size": entry.size,
        "type": "file",
        "version": model.manifest.version,
        "digest": entry.digest,
    }


def _folder(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


def _within(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")


def _missing(address: Address) -> NoFile:
    return NoFile(
        "no_file",
        f"{address.reference} has no {address.path!r} that this lease is for",
        f"see fs.ls({address.reference!r})",
    )

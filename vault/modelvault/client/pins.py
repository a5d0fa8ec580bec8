"""What a client remembers of a vault: the keys it trusts, and how far it has seen it go.

`Seen` only ever rises. It lives in `pins.json`, written whole, private and under a lock that other
processes honour. Rollback fails closed: a document older than the memory is refused, and a memory
that can't be read is an error, never an empty one. A memory that can't be *written* (a read-only
home) is not: the session goes on with what it holds itself and says so in the log, because the
job's own state can't be made safer by not running it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from modelvault import canonical
from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen
from modelvault.crypto.dsse import Envelope
from modelvault.errors import Conflict, IntegrityError, NotFound, Unavailable
from modelvault.manifest import Id, Positive, Sha256
from modelvault.record import MAX_TRUST, TrustFile

_LOG = logging.getLogger("modelvault.pins")
MAX_PINS = 64 << 20


class PinsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`pins.json`: one vault's `Seen`."""

    schema: Literal[1] = 1
    vault: Id
    tags: dict[str, Positive]
    models: dict[str, Positive]
    versions: dict[str, Sha256]


def read_trust(path: Path, vault: str | None = None) -> TrustFile:
    """The pinned trust file.

    NotFound (`no_trust_file`); IntegrityError when it is broken, or of another vault than `vault`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(
            "no_trust_file",
            f"can't read the trust file {path}: {os.strerror(error.errno or 0)}",
            "let this process's user read it: it holds no secrets"
            if isinstance(error, PermissionError)
            else "get it from the vault's admin (`modelvault trust export`)",
        ) from None
    try:
        trust = canonical.decode(data, TrustFile, limit=MAX_TRUST, what=f"trust file {path}")
    except IntegrityError as refused:
        if vault is not None:  # a home's own, which was one
            raise
        raise IntegrityError(
            refused.code,
            refused.message,
            "it isn't a trust file, or was cut or altered: get it from the vault's admin"
            " (`modelvault trust export`)",
        ) from None
    if vault is not None and trust.vault != vault:
        raise IntegrityError(
            "other_vault",
            f"the trust file {path} is of vault {trust.vault}, not of {vault}",
            "put back the trust file that belongs to this home",
        )
    return trust


def update_trust(path: Path, successor: Envelope) -> TrustFile:
    """Put a trust file's successor in its place, once a key of the one that is there has signed it.

    Doing it again changes nothing. Raises NotFound (`no_trust_file`), IntegrityError as
    `artifact.trust.successor`, Unavailable (`cant_write`): then the old one stands.
    """
    held = read_trust(path)
    if successor.payload == held.to_bytes():
        return held
    made = trusting.successor(successor, held)
    try:
        write_private(path, made.to_bytes())
    except OSError as error:
        raise Unavailable(
            "cant_write",
            f"can't write {path}: {os.strerror(error.errno or 0)}",
            "where it is mounted read-only (a ConfigMap, an image), put the new one there",
        ) from None
    return made


def read_successor(path: Path) -> Envelope:
    """The signed trust file in a file, not yet verified.

    NotFound (`no_trust_file`); IntegrityError when it is no such document.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(
            "no_trust_file",
            f"can't read {path}: {os.strerror(error.errno or 0)}",
            "get it from the vault's admin (`modelvault trust rotate` writes it)",
        ) from None
    return Envelope.from_bytes(data, limit=4 * MAX_TRUST, what=f"trust file {path}")


def merge(old: Seen, new: Seen) -> Seen:
    """The higher of both, for every key.

    Raises IntegrityError (`rollback`) when they hold different digests for one version: a
    version never changes, so one of the two histories is false.
    """
    for key in old.versions.keys() & new.versions.keys():
        if old.versions[key] != new.versions[key]:
            raise IntegrityError(
                "rollback",
                f"{key} is not what it was when this client saw it first",
                "don't use it: ask the vault's admin which of the two is right",
            )
    return Seen(
        tags=_highest(old.tags, new.tags),
        models=_highest(old.models, new.models),
        versions={**old.versions, **new.versions},
    )


class Pins:
    """The memory of one vault, shared by threads and, through its file, by processes.

    `path` None keeps it in this process only.
    """

    def __init__(self, path: Path | None, vault: str) -> None:
        self._path = path
        self._vault = vault
        self._lock = threading.Lock()
        self._own = Seen(tags={}, models={}, versions={})
        self._told = False

    def seen(self) -> Seen:
        """What was seen up to now, by any process.

        Raises IntegrityError when the file is broken or of another vault.
        """
        with self._lock:
            self._own = merge(self._own, self._read())
            return self._own

    def _tell(self, path: Path, error: OSError) -> None:
        """Once: what can't be written now can't be written later."""
        if self._told:
            return
        self._told = True
        _LOG.warning(
            "can't write %s (%s): older tags and records are refused in this process only; for "
            "more, set XDG_STATE_HOME to a folder that can be written to and lasts",
            path,
            os.strerror(error.errno or 0),
        )

    def remember(self, seen: Seen) -> None:
        """Add what a verified answer has shown. IntegrityError (`rollback`) as in `merge`."""
        with self._lock:
            self._own = merge(self._own, seen)
            if self._path is None:
                return
            try:
                self._store(self._path)
            except OSError as error:
                self._tell(self._path, error)

    def _store(self, path: Path) -> None:
        if self._read() == self._own:
            return
        with _locked(path.with_name(path.name + ".lock")):
            stored = self._read()
            self._own = merge(stored, self._own)
            if stored != self._own:
                _clear_drafts(path)
                document = PinsFile(
                    vault=self._vault,
                    tags=dict(self._own.tags),
                    models=dict(self._own.models),
                    versions=dict(self._own.versions),
                )
                write_private(path, canonical.encode(document))

    def _read(self) -> Seen:
        if self._path is None:
            return Seen(tags={}, models={}, versions={})
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Seen(tags={}, models={}, versions={})
        except OSError as error:
            raise self._broken(os.strerror(error.errno or 0)) from None
        try:
            pins = canonical.decode(data, PinsFile, limit=MAX_PINS, what="pins.json")
        except IntegrityError as error:
            raise self._broken(error.message) from None
        if pins.vault != self._vault:
            raise self._broken("it is of another vault")
        return Seen(tags=pins.tags, models=pins.models, versions=pins.versions)

    def _broken(self, why: str) -> IntegrityError:
        return IntegrityError(
            "bad_pins",
            f"the memory of what this client has seen can't be used: {self._path}: {why}",
            "restore it from a copy; only if you are sure that nobody tampered with this home, "
            "move it away: the next load starts a new memory",
        )


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: whole or not at all, durable, readable by its owner only.

    Raises OSError; nothing is left behind then.
    """
    draft = path.with_name(f"{_draft_prefix(path)}{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_new(path: Path, data: bytes) -> None:
    """A new file. Raises Conflict (`file_exists`), Unavailable (`cant_write`)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError:
        raise Conflict(
            "file_exists", f"{path} exists already", "name a new file: nothing is overwritten"
        ) from None
    except OSError as error:
        raise Unavailable(
            "cant_write",
            f"can't write {path}: {os.strerror(error.errno or 0)}",
            "check that its folder exists, the permissions and the free space",
        ) from None


def _clear_drafts(path: Path) -> None:
    """Remove what a process that was killed has left: under the lock nobody else writes."""
    for left in path.parent.glob(f"{_draft_prefix(path)}*"):
        left.unlink(missing_ok=True)


def _draft_prefix(path: Path) -> str:
    return f".{path.name}."


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _highest(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    return {key: max(old.get(key, 0), new.get(key, 0)) for key in old.keys() | new.keys()}

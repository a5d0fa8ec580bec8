"""What a database says, in the vault's own errors. Nothing else may leave the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from modelvault.errors import Conflict, IntegrityError, InvalidRequest, ModelVaultError, Unavailable

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error of SQLAlchemy and its drivers into one of `modelvault.errors`.

    `from None` throughout: a foreign error can hold the parameters of its statement.
    """
    try:
        yield
    except exc.IntegrityError:
        raise Conflict(
            "already_recorded",
            "the ledger holds a row that this one would contradict; nothing was changed",
            "ask again; ids are made new for each attempt",
        ) from None
    except exc.DBAPIError as error:
        raise _of_driver(error.orig) from None
    except exc.TimeoutError:
        raise busy() from None
    except exc.SQLAlchemyError:
        raise Unavailable(
            "ledger_unavailable", "the ledger gave no usable answer", "try again"
        ) from None
    except (OverflowError, UnicodeError, sqlite3.Error) as error:
        raise _of_driver(error) from None


def busy() -> Unavailable:
    """Other writers held the database for longer than the deadline."""
    return Unavailable(
        "ledger_unavailable",
        "the ledger is locked by another process or thread",
        "try again; if it lasts, look for a process that hangs with the ledger open",
    )


def damaged(what: str) -> IntegrityError:
    """`what` in the ledger isn't what the vault wrote."""
    return IntegrityError(
        "ledger_corrupt",
        f"the ledger is damaged: {what}",
        "stop using it, keep the file for examination, and restore the newest good copy",
    )


def _of_driver(error: BaseException | None) -> ModelVaultError:
    if isinstance(error, OverflowError):
        return InvalidRequest("out_of_range", "a number is too large for the ledger")
    if isinstance(error, UnicodeError):
        return InvalidRequest("bad_text", "a text isn't valid Unicode", "remove the odd characters")
    if not isinstance(error, sqlite3.Error):
        return _of_server(error)
    extended = getattr(error, "sqlite_errorcode", None)
    code = None if extended is None else extended & 0xFF
    if code in _BUSY:
        return busy()
    if code in _DAMAGED:
        return damaged("the file isn't a sound database")
    if code == sqlite3.SQLITE_ERROR:
        return damaged("tables or columns aren't those of its schema version")
    if code is None and isinstance(error, sqlite3.OperationalError):
        return damaged("a text in it isn't UTF-8")
    return Unavailable("ledger_unavailable", *_TOLD.get(code, _UNTOLD))


def _of_server(error: BaseException | None) -> ModelVaultError:
    """PostgreSQL tells by five characters (its documentation, appendix A)."""
    state = getattr(error, "sqlstate", None)
    kind = type(error).__name__
    if state in _WAITED:
        return busy()
    if state in _UNFIT:
        return damaged("tables or columns aren't those of its schema version")
    if state == "22003":
        return InvalidRequest("out_of_range", "a number is too large for the ledger")
    if kind == "DataError":
        return InvalidRequest(
            "bad_text", "a text holds what the ledger can't", "remove the odd characters"
        )
    return Unavailable("ledger_unavailable", *_TOLD_BY_STATE.get(state, _LOST))


# statement_timeout, lock_timeout, deadlock, serialisation, a transaction that idled too long
_WAITED = frozenset({"57014", "55P03", "40P01", "40001", "25P03"})
_UNFIT = frozenset({"42P01", "42703", "42804"})
_LOST = (
    "the ledger's database can't be reached or gave no usable answer",
    "check that PostgreSQL runs and can be reached from here; what was asked may have been done, "
    "and asking again finds out",
)
_TOLD_BY_STATE: dict[str | None, tuple[str, str]] = {
    "25006": (
        "the ledger's database takes no writes: it is a standby, or read-only",
        "let the ledger's URL name the primary (target_session_attrs=read-write)",
    ),
    "28P01": ("the ledger's database refuses the password", "check [ledger] password_file"),
    "28000": ("the ledger's database refuses this user", "check the user in [ledger] url"),
    "3D000": ("the ledger's database doesn't exist", "create it, or mend [ledger] url"),
    "42501": ("the ledger's database refuses that", "see docs/operations.md for the grants"),
    "53100": ("the ledger's database has no disk space left", "free space, then try again"),
    "53300": ("the ledger's database takes no more connections", "raise max_connections"),
}


_UNTOLD = ("the ledger gave no usable answer", "try again")
_TOLD: dict[int | None, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: (
        "the ledger can't grow: the disk is full; nothing was changed",
        "free space on the disk that holds the ledger, then try again",
    ),
    sqlite3.SQLITE_READONLY: (
        "the ledger is read-only; nothing was changed",
        "make the ledger's file and folder writable for this user, or use a disk that is",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the ledger's file can't be opened",
        "check that the file and its folder exist and that this user may read and write them",
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk failed under the ledger",
        "check the disk and its free space, then try again",
    ),
}

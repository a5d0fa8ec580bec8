"""The tables. Times are milliseconds since the epoch, envelopes and entries canonical JSON.

Rules that the database can keep by itself are constraints here, so that no bug above can break
them: one lease for an ask, one charge for a lease, one digest for a version, entries in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    insert,
)
from sqlalchemy.types import TypeEngine

VERSION = 4  # raised by every change of this file, which a migration of that number brings
APPLICATION_ID = 0x4D56_4C31  # "MVL1" in the header of an SQLite file

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def inserting(table: Table) -> Insert:
    """The statement that adds one row, made once; `named` gives it its values."""
    return insert(table).values(
        {each.name: bindparam(f"{table.name}_{each.name}") for each in table.columns}
    )


def named(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values under names that are the table's alone."""
    return {f"{table.name}_{name}": value for name, value in values.items()}


def _number() -> TypeEngine[int]:
    """64 bits with a sign; STRICT tables of SQLite know it as INTEGER."""
    return BigInteger().with_variant(Integer(), "sqlite")


def _text() -> TypeEngine[str]:
    """Text that compares by code point, whatever language the database server speaks."""
    return Text().with_variant(Text(collation="C"), "postgresql")


def _table(name: str, *items: Column[object] | CheckConstraint | object) -> Table:
    return Table(name, metadata, *items, sqlite_strict=True)  # type: ignore[arg-type]


# One row. Writers lock it first, so that they stand in one line and entries get no gaps.
head = _table(
    "head",
    Column("id", Integer, CheckConstraint("id = 1", name="single"), primary_key=True),
    Column("seq", _number(), nullable=False),
    Column("policy_revision", _text()),
)

# One row: the schema's version, and the oldest version whose programs may run on it.
about = _table(
    "about",
    Column("id", Integer, CheckConstraint("id = 1", name="single"), primary_key=True),
    Column("version", _number(), nullable=False),
    Column("least_program", _number(), nullable=False),
)

entries = _table(
    "entries",
    Column("seq", _number(), primary_key=True, autoincrement=False),
    Column("id", _text(), nullable=False, unique=True),
    Column("tenant", _text()),
    Column("model", _text()),
    Column("document", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
)
Index(None, entries.c.tenant, entries.c.model, entries.c.seq)

models = _table(
    "models",
    Column("tenant", _text(), primary_key=True),
    Column("model", _text(), primary_key=True),
    Column("owner", _text(), nullable=False),
    Column("classification", _text(), nullable=False),
    Column("serial", _number(), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("created_at", _number(), nullable=False),
    Column("kek_floor", _number(), nullable=False),
    Column("head_version", _number(), nullable=False),
    Column("head_manifest", _text()),
    Column("hidden_at", _number()),
    Column("tag_floor", _number(), nullable=False, server_default="0"),
)


def _of_a_model() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.model"])


versions = _table(
    "versions",
    Column("tenant", _text(), primary_key=True),
    Column("model", _text(), primary_key=True),
    Column("version", _number(), primary_key=True, autoincrement=False),
    Column("artifact", _text(), nullable=False, unique=True),
    Column("digest", _text(), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("created_at", _number(), nullable=False),
    Column("created_by", _text(), nullable=False),
    Column("size", _number(), nullable=False),
    Column("files", _number(), nullable=False),
    Column("hidden_at", _number()),
    UniqueConstraint("tenant", "model", "digest"),
    _of_a_model(),
)
Index(None, versions.c.hidden_at, sqlite_where=versions.c.hidden_at.is_not(None),
      postgresql_where=versions.c.hidden_at.is_not(None))  # fmt: skip

# What a version's signed manifest names: its objects, and the artifact whose key opens each.
version_objects = _table(
    "version_objects",
    Column("tenant", _text(), primary_key=True),
    Column("model", _text(), primary_key=True),
    Column("version", _number(), primary_key=True, autoincrement=False),
    Column("object", _text(), primary_key=True),
    Column("artifact", _text(), nullable=False),
    ForeignKeyConstraint(
        ["tenant", "model", "version"],
        ["versions.tenant", "versions.model", "versions.version"],
        ondelete="CASCADE",
    ),
)
Index(None, version_objects.c.object)
Index(None, version_objects.c.artifact)

tags = _table(
    "tags",
    Column("tenant", _text(), primary_key=True),
    Column("model", _text(), primary_key=True),
    Column("tag", _text(), primary_key=True),
    Column("version", _number(), nullable=False),
    Column("serial", _number(), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("moved_at", _number(), nullable=False),
    ForeignKeyConstraint(
        ["tenant", "model", "version"],
        ["versions.tenant", "versions.model", "versions.version"],
    ),
)
Index(None, tags.c.tenant, tags.c.model, tags.c.version)

keys = _table(
    "keys",
    Column("artifact", _text(), primary_key=True),
    Column("tenant", _text(), nullable=False),
    Column("model", _text(), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("kek_version", _number(), nullable=False),
    _of_a_model(),
)
Index(None, keys.c.tenant, keys.c.model, keys.c.kek_version)

# By what a later push tells that a file is the one of this artifact and path. They go with the
# artifact's key, also where an older program removes it.
fingerprints = _table(
    "fingerprints",
    Column("artifact", _text(), ForeignKey("keys.artifact", ondelete="CASCADE"), primary_key=True),
    Column("path", _text(), primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
)

uploads = _table(
    "uploads",
    Column("id", _text(), primary_key=True),
    Column("tenant", _text(), nullable=False),
    Column("model", _text(), nullable=False),
    Column("artifact", _text(), nullable=False, unique=True),
    Column("subject", _text(), nullable=False),
    Column("paths", LargeBinary, nullable=False),
    Column("sizes", LargeBinary, nullable=False),
    Column("recipient", _text(), nullable=False),
    Column("created_at", _number(), nullable=False),
    Column("expires_at", _number(), nullable=False),
    Column("state", _text(), nullable=False),
    Column("version", _number()),
    Column("entry_seq", _number(), ForeignKey("entries.seq")),
    Column("base", _number()),
    CheckConstraint("state IN ('open', 'published', 'aborted')", name="state"),
    _of_a_model(),
)
Index(None, uploads.c.state, uploads.c.expires_at)
Index(None, uploads.c.subject, uploads.c.state, uploads.c.expires_at)
Index(None, uploads.c.tenant, uploads.c.model, uploads.c.version)

leases = _table(
    "leases",
    Column("id", _text(), primary_key=True),
    Column("ask_hash", _text(), nullable=False, unique=True),
    Column("subject", _text(), nullable=False),
    Column("key_hash", _text(), nullable=False),
    Column("bound", Integer, nullable=False),
    Column("tenant", _text(), nullable=False),
    Column("model", _text(), nullable=False),
    Column("version", _number(), nullable=False),
    Column("manifest", _text(), nullable=False),
    Column("purpose", _text(), nullable=False),
    Column("action", _text(), nullable=False),
    Column("paths", LargeBinary, nullable=False),
    Column("bytes", _number(), nullable=False),
    Column("granted_at", _number(), nullable=False),
    Column("expires_at", _number(), nullable=False),
    Column("total_until", _number(), nullable=False),
    Column("revision", _text(), nullable=False),
    Column("decision_id", _text(), nullable=False),
    Column("ended_at", _number()),
    Column("end_reason", _text()),
    Column("entry_seq", _number(), ForeignKey("entries.seq"), nullable=False),
    Column("instance", _text()),
    CheckConstraint("bound IN (0, 1)", name="bound"),
    CheckConstraint("bytes >= 0", name="bytes"),
    CheckConstraint("expires_at <= total_until", name="total"),
    _of_a_model(),
)
_not_ended = leases.c.ended_at.is_(None)
Index("ix_leases_held", leases.c.subject, leases.c.tenant, leases.c.model, leases.c.expires_at,
      sqlite_where=_not_ended, postgresql_where=_not_ended)  # fmt: skip
Index("ix_leases_out", leases.c.tenant, leases.c.model, leases.c.version, leases.c.expires_at,
      sqlite_where=_not_ended, postgresql_where=_not_ended)  # fmt: skip
Index(None, leases.c.tenant, leases.c.model, leases.c.granted_at, leases.c.id)
Index(None, leases.c.granted_at, leases.c.id)

charges = _table(
    "charges",
    Column("lease", _text(), ForeignKey("leases.id"), primary_key=True),
    Column("subject", _text(), nullable=False),
    Column("day", _text(), nullable=False),
    Column("bytes", _number(), nullable=False),
    CheckConstraint("bytes >= 0", name="bytes"),
)
Index(None, charges.c.subject, charges.c.day, charges.c.bytes)

revocations = _table(
    "revocations",
    Column("id", _text(), primary_key=True),
    Column("kind", _text(), nullable=False),
    Column("target", _text(), nullable=False),
    Column("at", _number(), nullable=False),
    Column("by", _text(), nullable=False),
    Column("reason", _text(), nullable=False),
    Column("until", _number()),
    CheckConstraint("kind IN ('principal', 'lease', 'version')", name="kind"),
)
Index(None, revocations.c.kind, revocations.c.target)

# Policies that a service keeps, by the hash of their contents.
bundles = _table(
    "bundles",
    Column("revision", _text(), primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("kept_at", _number(), nullable=False),
)

# What all brokers count together: requests of somebody in a stretch of time.
counters = _table(
    "counters",
    Column("bucket", _text(), primary_key=True),
    Column("window", _number(), primary_key=True, autoincrement=False),
    Column("total", _number(), nullable=False),
)
Index(None, counters.c.window)

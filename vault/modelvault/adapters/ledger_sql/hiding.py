"""Hiding what nothing new may load. Both tell whether anything was changed."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select, update

from modelvault.adapters.ledger_sql.room import no_model, no_version, of_model
from modelvault.adapters.ledger_sql.rows import AnyRow
from modelvault.adapters.ledger_sql.schema import models, tags, versions
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.errors import Conflict


def hide_model(write: Write, tenant: str, model: str, at: int) -> bool:
    """A model with all its versions."""
    row = write.one(select(models.c.hidden_at).where(of_model(models, tenant, model)))
    if row is None:
        raise no_model(tenant, model)
    if row.hidden_at is not None:
        return False
    write.run(update(models).where(of_model(models, tenant, model)).values(hidden_at=at))
    write.run(
        update(versions)
        .where(of_model(versions, tenant, model), versions.c.hidden_at.is_(None))
        .values(hidden_at=at)
    )
    return True


def hide_version(
    write: Write, tenant: str, model: str, version: int, at: int, agreed: Collection[str]
) -> bool:
    """A version, with those of its tags that are agreed upon: it has no others then."""
    same = of_model(versions, tenant, model) & (versions.c.version == version)
    row: AnyRow | None = write.one(select(versions.c.hidden_at).where(same))
    if row is None:
        raise no_version(tenant, model, version)
    if row.hidden_at is not None:
        return False
    of_version = of_model(tags, tenant, model) & (tags.c.version == version)
    tagged = write.all(select(tags.c.tag, tags.c.serial).where(of_version))
    kept = sorted(tag.tag for tag in tagged if tag.tag not in agreed)
    if kept:
        names = ", ".join(kept[:5])
        raise Conflict(
            "tagged",
            f"{tenant}/{model}@{version} has tags: {names}",
            f"move those tags first: `modelvault tag {tenant}/{model}@<version> <tag>`, or name "
            "them all as going with it (delete(..., tags=[...]))",
        )
    if tagged:
        write.run(delete(tags).where(of_version))
        floor = max(tag.serial for tag in tagged)
        write.run(
            update(models)
            .where(of_model(models, tenant, model), models.c.tag_floor < floor)
            .values(tag_floor=floor)
        )
    write.run(update(versions).where(same).values(hidden_at=at))
    return True

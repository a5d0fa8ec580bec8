"""What a version has from earlier ones: by what it is recognised, and that it is still there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select

from modelvault.adapters.ledger_sql.room import Room, of_model
from modelvault.adapters.ledger_sql.schema import fingerprints, version_objects
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.errors import Conflict, InvalidRequest
from modelvault.manifest import Manifest

_CHUNK = 500  # names in one statement: SQLite and PostgreSQL both bound its parameters


class Fingerprints(Room):
    """The part of `ports.ledger.Ledger` that keeps fingerprints; documented there."""

    def fingerprints(self, artifacts: Collection[str]) -> dict[tuple[str, str], bytes]:
        """By artifact and path."""
        found: dict[tuple[str, str], bytes] = {}
        wanted = sorted(artifacts)
        for first in range(0, len(wanted), _CHUNK):
            chunk = wanted[first : first + _CHUNK]
            query = select(fingerprints).where(fingerprints.c.artifact.in_(chunk))
            found.update({(row.artifact, row.path): row.fingerprint for row in self._all(query)})
        return found


def fingerprint_values(
    manifest: Manifest, by_path: Sequence[tuple[str, bytes]]
) -> list[dict[str, Any]]:
    """Rows of `fingerprints`. Raises InvalidRequest (`bad_version`)."""
    own = {file.path for file in manifest.files if file.artifact == manifest.artifact}
    if not own.issuperset(path for path, _ in by_path):
        raise InvalidRequest(
            "bad_version", "a fingerprint of a file that this version didn't bring"
        )
    return [
        {"artifact": manifest.artifact, "path": path, "fingerprint": fingerprint}
        for path, fingerprint in by_path
    ]


def check_earlier(write: Write, manifest: Manifest) -> None:
    """What it has from earlier versions is named by one that is still there: else objects or key
    may be gone. From this transaction on this version names them too.

    Raises Conflict (`earlier_gone`)."""
    wanted = {
        (name, file.artifact)
        for file in manifest.files
        if file.artifact != manifest.artifact
        for name in (file.object, file.leaves)
    }
    columns = version_objects.c.object, version_objects.c.artifact
    same_model = of_model(version_objects, manifest.tenant, manifest.model)
    names = sorted(name for name, _ in wanted)
    for first in range(0, len(names), _CHUNK):
        chunk = names[first : first + _CHUNK]
        query = select(*columns).where(same_model, version_objects.c.object.in_(chunk))
        wanted -= {(row.object, row.artifact) for row in write.all(query)}
    if wanted:
        raise Conflict(
            "earlier_gone",
            f"{len(wanted)} objects of earlier versions of {manifest.tenant}/{manifest.model} "
            "aren't there any more",
            "push again",
        )

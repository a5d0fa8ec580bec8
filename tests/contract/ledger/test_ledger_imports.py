"""Contract: versions that were made in another vault."""

from __future__ import annotations

from msgspec.structs import replace

from modelvault.catalog import KeyRow, UploadRow, VersionRow
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.manifest import Manifest
from support.ledger_scene import BOB, HOUR, Scene, entry, ident, refused


def brought(
    scene: Scene, upload: UploadRow, artifact: str
) -> tuple[VersionRow, KeyRow, str | None]:
    """The next version, of an artifact that isn't the upload's own, and its key."""
    row, head = scene.next_version(replace(upload, artifact=artifact))
    return row, replace(scene.key_row(upload), artifact=artifact), head


class TestTakeIn:
    def test_the_version_comes_with_its_key_and_the_uploads_own_goes(self, scene: Scene) -> None:
        upload = scene.begin()
        row, key, head = brought(scene, upload, ident())
        told = entry("push")
        written = scene.ledger.take_in(upload.id, row, [key], head, told)
        assert replace(written, seq=0) == told
        assert scene.ledger.version("default", "m", 1) == row
        assert scene.ledger.model("default", "m").head_manifest == row.digest
        assert scene.ledger.key(row.artifact) == key
        with refused(scene.ledger, NotFound, "no_key"):
            scene.ledger.key(upload.artifact)
        assert scene.ledger.published(upload.id) == (row, written)
        stands = replace(upload, artifact=row.artifact, state="published")
        assert scene.ledger.upload(upload.id) == stands
        assert scene.ledger.dead_uploads(scene.now + 30 * 24 * HOUR) == []

    def test_its_keys_go_with_it(self, scene: Scene) -> None:
        upload = scene.begin()
        row, key, head = brought(scene, upload, ident())
        scene.ledger.take_in(upload.id, row, [key], head, entry())
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        scene.ledger.drop_version("default", "m", 1, entry())
        with refused(scene.ledger, NotFound, "no_key"):
            scene.ledger.key(row.artifact)

    def test_keys_of_all_its_artifacts(self, scene: Scene) -> None:
        """A version that refers to files of an older one, which may have come before it or not."""
        older = scene.begin()
        first, key, head = brought(scene, older, ident())
        scene.ledger.take_in(older.id, first, [key], head, entry())
        reused = Manifest.from_bytes(first.manifest.payload).files[0]
        reused = replace(
            reused, path="c", object="objects/" + "c" * 32, leaves="objects/" + "d" * 32
        )
        upload = scene.begin()
        row = scene.version_row(replace(upload, artifact=ident()), 2, first.digest, reuse=(reused,))
        own = replace(scene.key_row(upload), artifact=row.artifact)
        again = replace(key, wrapped=b"another wrapping of it")
        with refused(scene.ledger, InvalidRequest, "bad_version"):
            scene.ledger.take_in(upload.id, row, [own], first.digest, entry())
        scene.ledger.take_in(upload.id, row, [own, again], first.digest, entry())
        assert scene.ledger.key(first.artifact) == key  # it stays as it is
        assert scene.ledger.key(row.artifact) == own

    def test_a_vault_holds_each_artifact_once(self, scene: Scene) -> None:
        upload = scene.begin()
        row, key, head = brought(scene, upload, ident())
        scene.ledger.take_in(upload.id, row, [key], head, entry())
        again = scene.begin()
        other, _, head = brought(scene, again, row.artifact)
        with refused(scene.ledger, Conflict, "artifact_here"):
            scene.ledger.take_in(again.id, other, [key], head, entry())
        scene.create("x")
        elsewhere = scene.begin("x")
        other, key, head = brought(scene, elsewhere, row.artifact)
        with refused(scene.ledger, Conflict, "artifact_here"):
            scene.ledger.take_in(elsewhere.id, other, [key], head, entry())
        assert scene.ledger.key(elsewhere.artifact)

    def test_keys_under_the_floor_or_of_others(self, scene: Scene) -> None:
        upload = scene.begin()
        row, key, head = brought(scene, upload, ident())
        for keys in ([], [replace(key, artifact=ident())], [replace(key, model="x")], [key, key]):
            with refused(scene.ledger, InvalidRequest, "bad_version"):
                scene.ledger.take_in(upload.id, row, keys, head, entry())
        scene.ledger.raise_floor("default", "m", 2, entry())
        with refused(scene.ledger, Conflict, "kek_moved"):
            scene.ledger.take_in(upload.id, row, [key], head, entry())
        scene.ledger.take_in(upload.id, row, [replace(key, kek_version=2)], head, entry())

    def test_only_its_own_open_upload(self, scene: Scene) -> None:
        upload = scene.begin(subject=BOB)
        row, key, head = brought(scene, replace(upload, subject="local:alice"), ident())
        with refused(scene.ledger, NotFound, "no_upload"):
            scene.ledger.take_in(upload.id, row, [key], head, entry())
        expired = scene.begin(expires_at=scene.now - 1)
        row, key, head = brought(scene, expired, ident())
        with refused(scene.ledger, Conflict, "upload_closed"):
            scene.ledger.take_in(expired.id, row, [key], head, entry())
        lost = scene.begin()
        row, key, head = brought(scene, lost, ident())
        scene.push()
        with refused(scene.ledger, Conflict, "head_moved"):
            scene.ledger.take_in(lost.id, row, [key], head, entry())

"""Contract: versions, from publishing to removal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.manifest import Manifest
from support.ledger_scene import BOB, Scene, entry, envelope, ident, refused


class TestPublish:
    def test_a_version_becomes_the_head(self, scene: Scene) -> None:
        upload = scene.begin()
        row, head = scene.next_version(upload)
        told = entry("push")
        written = scene.ledger.publish(upload.id, row, head, told)
        assert replace(written, seq=0) == told
        assert scene.ledger.entries(limit=10_000)[-1] == written
        assert scene.ledger.version("default", "m", 1) == row
        assert scene.ledger.version_by_digest("default", "m", row.digest) == row
        model = scene.ledger.model("default", "m")
        assert (model.head_version, model.head_manifest) == (1, row.digest)
        assert scene.ledger.upload(upload.id) == replace(upload, state="published")
        assert scene.ledger.published(upload.id) == (row, written)

    def test_versions_are_listed_newest_first(self, scene: Scene) -> None:
        rows = [scene.push() for _ in range(3)]
        assert scene.ledger.versions("default", "m") == rows[::-1]
        assert not scene.ledger.versions("default", "x")

    def test_a_lost_race_changes_nothing(self, scene: Scene) -> None:
        upload = scene.begin()
        row, head = scene.next_version(upload)
        winner = scene.push()
        with refused(scene.ledger, Conflict, "head_moved"):
            scene.ledger.publish(upload.id, row, head, entry())
        assert scene.ledger.versions("default", "m") == [winner]
        assert scene.ledger.upload(upload.id) == upload
        scene.ledger.publish(upload.id, *scene.next_version(upload), entry())

    @pytest.mark.parametrize("version", [1, 3])
    def test_numbers_are_in_a_row(self, scene: Scene, version: int) -> None:
        head = scene.push().digest
        upload = scene.begin()
        with refused(scene.ledger, Conflict, "head_moved"):
            scene.ledger.publish(upload.id, scene.version_row(upload, version, head), head, entry())

    def test_an_upload_is_published_once(self, scene: Scene) -> None:
        upload = scene.begin()
        scene.ledger.publish(upload.id, *scene.next_version(upload), entry())
        with refused(scene.ledger, Conflict, "upload_closed"):
            scene.ledger.publish(upload.id, *scene.next_version(upload), entry())

    def test_not_after_it_expired(self, scene: Scene) -> None:
        upload = scene.begin(expires_at=scene.now - 1)
        with refused(scene.ledger, Conflict, "upload_closed"):
            scene.ledger.publish(upload.id, *scene.next_version(upload), entry())

    def test_not_into_a_hidden_model(self, scene: Scene) -> None:
        upload = scene.begin()
        scene.ledger.hide("default", "m", None, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.publish(upload.id, *scene.next_version(upload), entry())

    @pytest.mark.parametrize(
        "field", [{"subject": BOB}, {"model": "other"}, {"artifact": "f" * 32}]
    )
    def test_only_of_the_uploads_own(self, scene: Scene, field: dict[str, str]) -> None:
        scene.create("other")
        upload = scene.begin()
        row, head = scene.next_version(replace(upload, **field))
        with refused(scene.ledger, NotFound, "no_upload"):
            scene.ledger.publish(upload.id, row, head, entry())

    def test_not_without_an_upload(self, scene: Scene) -> None:
        row, head = scene.next_version(scene.upload_row())
        with refused(scene.ledger, NotFound, "no_upload"):
            scene.ledger.publish(ident(), row, head, entry())

    @pytest.mark.parametrize(
        "field", [{"version": 2}, {"digest": "sha256:" + "0" * 64}, {"size": 1}]
    )
    def test_the_row_tells_what_the_manifest_says(
        self, scene: Scene, field: dict[str, object]
    ) -> None:
        upload = scene.begin()
        row, head = scene.next_version(upload)
        with refused(scene.ledger, InvalidRequest, "bad_version"):
            scene.ledger.publish(upload.id, replace(row, **field), head, entry())

    def test_the_manifest_names_its_predecessor(self, scene: Scene) -> None:
        head = scene.push().digest
        upload = scene.begin()
        with refused(scene.ledger, InvalidRequest, "bad_version"):
            scene.ledger.publish(upload.id, scene.version_row(upload, 2, None), head, entry())

    def test_missing(self, scene: Scene) -> None:
        pending = scene.begin()
        calls = (
            lambda: scene.ledger.published(pending.id),
            lambda: scene.ledger.published(ident()),
            lambda: scene.ledger.version("default", "m", 1),
            lambda: scene.ledger.version_by_digest("default", "m", "sha256:" + "0" * 64),
        )
        for call in calls:
            with refused(scene.ledger, NotFound, "no_version"):
                call()


class TestHide:
    def test_a_version(self, scene: Scene) -> None:
        first, second = scene.push(), scene.push()
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        assert scene.ledger.versions("default", "m") == [
            second,
            replace(first, hidden_at=scene.now),
        ]
        assert scene.ledger.model("default", "m").hidden_at is None

    def test_a_model_with_all_its_versions(self, scene: Scene) -> None:
        scene.tag(scene.push())
        scene.push()
        scene.ledger.hide("default", "m", 2, scene.now - 5, entry())
        scene.ledger.hide("default", "m", None, scene.now, entry())
        assert scene.ledger.model("default", "m").hidden_at == scene.now
        hidden = [row.hidden_at for row in scene.ledger.versions("default", "m")]
        assert hidden == [scene.now - 5, scene.now]

    @pytest.mark.parametrize("version", [1, None])
    def test_again_changes_nothing(self, scene: Scene, version: int | None) -> None:
        scene.push()
        scene.ledger.hide("default", "m", version, scene.now, entry())
        before = len(scene.ledger.entries())
        scene.ledger.hide("default", "m", version, scene.now + 5, entry())
        assert scene.ledger.version("default", "m", 1).hidden_at == scene.now
        assert len(scene.ledger.entries()) == before

    def test_not_a_tagged_one(self, scene: Scene) -> None:
        version = scene.push()
        scene.tag(version)
        with refused(scene.ledger, Conflict, "tagged"):
            scene.ledger.hide("default", "m", 1, scene.now, entry())
        assert scene.ledger.version("default", "m", 1) == version

    def test_tags_that_may_go_with_it(self, scene: Scene) -> None:
        """All of them must be named; a tag that comes anew goes on with a higher serial."""
        version = scene.push()
        for serial in (1, 2, 3):
            scene.tag(version, "step-1", serial=serial)
        scene.tag(version, "best")
        with refused(scene.ledger, Conflict, "tagged"):
            scene.ledger.hide("default", "m", 1, scene.now, entry(), ("step-1", "step-2"))
        assert len(scene.ledger.tags("default", "m")) == 2
        scene.ledger.hide("default", "m", 1, scene.now, entry(), ("step-1", "best"))
        assert scene.ledger.tags("default", "m") == []
        assert scene.ledger.model("default", "m").tag_floor == 3
        other = scene.push()
        for tag in ("step-1", "new"):
            with refused(scene.ledger, Conflict, "serial_moved"):
                scene.ledger.put_tag(scene.tag_row(other, tag), 0, entry())
            scene.ledger.put_tag(scene.tag_row(other, tag, serial=4), 3, entry())

    def test_missing(self, scene: Scene) -> None:
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.hide("default", "x", None, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_version"):
            scene.ledger.hide("default", "m", 1, scene.now, entry())

    def test_dead_ones_are_those_hidden_before(self, scene: Scene) -> None:
        for version in (1, 2, 3):
            scene.push()
            scene.ledger.hide("default", "m", version, scene.now - version, entry())
        scene.push()
        assert [row.version for row in scene.ledger.dead_versions(scene.now)] == [3, 2, 1]
        assert [row.version for row in scene.ledger.dead_versions(scene.now - 1)] == [3, 2]
        assert [row.version for row in scene.ledger.dead_versions(scene.now, limit=1)] == [3]


class TestDrop:
    def test_removes_version_key_upload_and_objects(self, scene: Scene) -> None:
        upload = scene.begin()
        row, head = scene.next_version(upload)
        scene.ledger.publish(upload.id, row, head, entry())
        names = _objects(row.manifest.payload)
        assert scene.ledger.objects_in_use([*names, "objects/" + "0" * 32]) == set(names)
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        assert scene.ledger.objects_in_use(names) == set(names)
        scene.ledger.drop_version("default", "m", 1, entry())
        assert not scene.ledger.objects_in_use(names)
        assert not scene.ledger.versions("default", "m")
        gone = (
            ("no_key", lambda: scene.ledger.key(row.artifact)),
            ("no_upload", lambda: scene.ledger.upload(upload.id)),
            ("no_version", lambda: scene.ledger.published(upload.id)),
        )
        for code, call in gone:
            with refused(scene.ledger, NotFound, code):
                call()
        assert scene.push().version == 2

    def test_a_key_that_a_later_version_needs_stays(self, scene: Scene) -> None:
        first = scene.push()
        reuse = Manifest.from_bytes(first.manifest.payload).files[0]
        upload = scene.begin(paths=("c",), sizes=(1,))
        second = scene.version_row(upload, 2, first.digest, (replace(reuse, path="d"),))
        scene.ledger.publish(upload.id, second, first.digest, entry())
        for version, keys in ((1, {first.artifact, second.artifact}), (2, set())):
            scene.ledger.hide("default", "m", version, scene.now, entry())
            scene.ledger.drop_version("default", "m", version, entry())
            left = {row.artifact for row in scene.ledger.keys_below("default", "m", 9)}
            assert left == keys
            assert scene.ledger.objects_in_use([reuse.object]) == (
                {reuse.object} if keys else set()
            )

    def test_an_artifact_without_a_file_goes_with_its_version(self, scene: Scene) -> None:
        """A version all of whose files are an earlier one's."""
        first = scene.push()
        reuse = Manifest.from_bytes(first.manifest.payload).files
        upload = scene.begin(paths=(), sizes=())
        second = scene.version_row(upload, 2, first.digest, reuse)
        scene.ledger.publish(upload.id, second, first.digest, entry())
        scene.ledger.hide("default", "m", 2, scene.now, entry())
        scene.ledger.drop_version("default", "m", 2, entry())
        left = {row.artifact for row in scene.ledger.keys_below("default", "m", 9)}
        assert left == {first.artifact}

    def test_a_hidden_models_tags_go_with_it(self, scene: Scene) -> None:
        scene.tag(scene.push())
        scene.ledger.hide("default", "m", None, scene.now, entry())
        scene.ledger.drop_version("default", "m", 1, entry())
        assert not scene.ledger.tags("default", "m")

    def test_only_hidden_ones(self, scene: Scene) -> None:
        scene.push()
        with refused(scene.ledger, Conflict, "version_stands"):
            scene.ledger.drop_version("default", "m", 1, entry())

    def test_again_changes_nothing(self, scene: Scene) -> None:
        before = len(scene.ledger.entries())
        scene.ledger.drop_version("default", "m", 1, entry())
        assert len(scene.ledger.entries()) == before

    def test_a_lease_outlives_its_version(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        scene.ledger.drop_version("default", "m", 1, entry())
        assert scene.ledger.lease(lease.id) == lease

    def test_many_names_are_asked_at_once(self, scene: Scene) -> None:
        row = scene.push()
        names = [f"objects/{number:032x}" for number in range(1200)]
        used = _objects(row.manifest.payload)
        assert scene.ledger.objects_in_use(names[:700] + used + names[700:]) == set(used)
        assert scene.ledger.objects_in_use([]) == set()


class TestUnchanged:
    """What a push is compared with, and what a version has from earlier ones."""

    def test_the_newest_of_a_creator_that_isnt_hidden(self, scene: Scene) -> None:
        mine = [scene.push() for _ in range(3)]
        theirs = scene.push(subject=BOB)
        assert scene.ledger.newest("default", "m", BOB) == theirs
        for row in reversed(mine):
            assert scene.ledger.newest("default", "m", row.created_by) == row
            scene.ledger.hide("default", "m", row.version, scene.now, entry())
        for model, creator in (("m", mine[0].created_by), ("m", "local:nobody"), ("x", BOB)):
            with refused(scene.ledger, NotFound, "no_version"):
                scene.ledger.newest("default", model, creator)

    def test_fingerprints_live_as_long_as_their_artifacts_key(self, scene: Scene) -> None:
        first = scene.begin()
        row, head = scene.next_version(first)
        kept = (("a", b"1" * 32), ("b/ü", b"\0" * 32))
        scene.ledger.publish(first.id, row, head, entry(), kept)
        scene.push()
        wanted = {(row.artifact, path): fingerprint for path, fingerprint in kept}
        assert scene.ledger.fingerprints([row.artifact, ident()]) == wanted
        assert scene.ledger.fingerprints([]) == {}
        reuse = Manifest.from_bytes(row.manifest.payload).files[:1]
        upload = scene.begin(paths=("c",), sizes=(1,))
        model = scene.ledger.model("default", "m")
        third = scene.version_row(upload, 3, model.head_manifest, reuse)
        scene.ledger.publish(upload.id, third, model.head_manifest, entry())
        for version, left in ((1, wanted), (3, {})):
            scene.ledger.hide("default", "m", version, scene.now, entry())
            scene.ledger.drop_version("default", "m", version, entry())
            assert scene.ledger.fingerprints([row.artifact]) == left

    def test_many_artifacts_are_asked_at_once(self, scene: Scene) -> None:
        upload = scene.begin()
        row, head = scene.next_version(upload)
        scene.ledger.publish(upload.id, row, head, entry(), [("a", b"1" * 32)])
        names = [f"{number:032x}" for number in range(1200)]
        found = scene.ledger.fingerprints([*names, row.artifact])
        assert found == {(row.artifact, "a"): b"1" * 32}

    def test_a_fingerprint_is_of_a_file_that_the_version_brought(self, scene: Scene) -> None:
        first = scene.push()
        reuse = Manifest.from_bytes(first.manifest.payload).files[:1]
        upload = scene.begin(paths=("c",), sizes=(1,))
        second = scene.version_row(upload, 2, first.digest, reuse)
        for path in ("a", "z"):
            with refused(scene.ledger, InvalidRequest, "bad_version"):
                scene.ledger.publish(upload.id, second, first.digest, entry(), [(path, b"1" * 32)])

    @pytest.mark.parametrize("wrong", ["gone", "artifact", "model", "object"])
    def test_what_isnt_there_any_more_is_not_referred_to(self, scene: Scene, wrong: str) -> None:
        scene.create("n")
        first = scene.push("n" if wrong == "model" else "m")
        reuse = Manifest.from_bytes(first.manifest.payload).files[0]
        if wrong == "gone":
            scene.ledger.hide("default", "m", 1, scene.now, entry())
            scene.ledger.drop_version("default", "m", 1, entry())
        elif wrong != "model":
            other = f"objects/{ident()}" if wrong == "object" else ident()
            reuse = replace(reuse, **{wrong: other})
        upload = scene.begin(paths=("c",), sizes=(1,))
        model = scene.ledger.model("default", "m")
        row = scene.version_row(
            upload, model.head_version + 1, model.head_manifest, (replace(reuse, path="d"),)
        )
        with refused(scene.ledger, Conflict, "earlier_gone"):
            scene.ledger.publish(upload.id, row, model.head_manifest, entry())

    def test_of_a_hidden_version_it_still_can_be(self, scene: Scene) -> None:
        """Whoever publishes first wins: from then on the objects are the later version's too."""
        first = scene.push()
        reuse = Manifest.from_bytes(first.manifest.payload).files
        upload = scene.begin(paths=("c",), sizes=(1,))
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        row = scene.version_row(upload, 2, first.digest, reuse)
        scene.ledger.publish(upload.id, row, first.digest, entry())
        scene.ledger.drop_version("default", "m", 1, entry())
        assert scene.ledger.key(first.artifact)
        assert scene.ledger.objects_in_use([reuse[0].object]) == {reuse[0].object}


def _objects(payload: bytes) -> list[str]:
    files = Manifest.from_bytes(payload).files
    return [name for file in files for name in (file.object, file.leaves)]


def test_an_envelope_of_any_bytes_reads_back(scene: Scene) -> None:
    record = envelope(bytes(range(256)), "application/vnd.x+json")
    assert scene.create("bytes", record=record).record == record
    assert scene.ledger.model("default", "bytes").record == record

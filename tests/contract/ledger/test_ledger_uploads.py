"""Contract: uploads and wrapped keys."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from modelvault.clock import to_text
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound
from support.ledger_scene import BOB, HOUR, Scene, entry, ident, refused


class TestBegin:
    def test_upload_and_key_read_back_as_written(self, scene: Scene) -> None:
        upload = scene.upload_row()
        key = scene.key_row(upload)
        scene.ledger.begin(upload, key, 1, entry())
        assert scene.ledger.upload(upload.id) == upload
        assert scene.ledger.key(upload.artifact) == key

    def test_the_limit_counts_the_subjects_open_unexpired_ones(self, scene: Scene) -> None:
        soon = scene.begin(expires_at=scene.now + 5)
        scene.begin(expires_at=scene.now)  # expired
        scene.ledger.abort(scene.begin().id)
        scene.push()
        scene.begin(subject=BOB)
        scene.begin(max_open=2)
        with refused(scene.ledger, AccessDenied, "too_many_uploads") as refusal:
            scene.begin(max_open=2)
        assert refusal.value.details == {
            "limit": 2, "used": 2, "resets_at": to_text(soon.expires_at),
        }  # fmt: skip

    def test_what_lives_no_longer_than_a_moment_counts_no_more(self, scene: Scene) -> None:
        stalled = scene.begin(expires_at=scene.now + HOUR)
        alive = scene.begin(expires_at=scene.now + HOUR + 7)
        upload = scene.upload_row()
        key, until = scene.key_row(upload), stalled.expires_at
        with refused(scene.ledger, AccessDenied, "too_many_uploads") as refusal:
            scene.ledger.begin(upload, key, 1, entry(), until=until)
        assert refusal.value.details == {
            "limit": 1, "used": 1, "resets_at": to_text(upload.created_at + 7),
        }  # fmt: skip
        scene.ledger.begin(upload, key, 1, entry(), until=alive.expires_at)

    def test_a_limit_of_none_at_all(self, scene: Scene) -> None:
        with refused(scene.ledger, AccessDenied, "too_many_uploads") as refusal:
            scene.begin(max_open=0)
        assert refusal.value.details == {"limit": 0, "used": 0, "resets_at": None}

    def test_a_key_under_the_floor_is_refused(self, scene: Scene) -> None:
        scene.ledger.raise_floor("default", "m", 3, entry())
        upload = scene.upload_row()
        with refused(scene.ledger, Conflict, "kek_moved"):
            scene.ledger.begin(upload, scene.key_row(upload, 2), 1, entry())
        scene.ledger.begin(upload, scene.key_row(upload, 3), 1, entry())

    def test_not_of_a_hidden_or_missing_model(self, scene: Scene) -> None:
        with refused(scene.ledger, NotFound, "no_model"):
            scene.begin("x")
        scene.ledger.hide("default", "m", None, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_model"):
            scene.begin()

    @pytest.mark.parametrize("field", ["tenant", "model", "artifact"])
    def test_the_key_must_be_the_uploads(self, scene: Scene, field: str) -> None:
        upload = scene.upload_row()
        key = replace(scene.key_row(upload), **{field: "other"})
        with refused(scene.ledger, InvalidRequest, "bad_upload"):
            scene.ledger.begin(upload, key, 1, entry())

    @pytest.mark.parametrize("field", ["id", "artifact"])
    def test_ids_are_used_once(self, scene: Scene, field: str) -> None:
        stands = scene.begin()
        with refused(scene.ledger, Conflict, "already_recorded"):
            scene.begin(**{field: getattr(stands, field)})
        assert scene.ledger.upload(stands.id) == stands


class TestOpenUploads:
    def test_missing(self, scene: Scene) -> None:
        for call in (scene.ledger.upload, lambda one: scene.ledger.prolong(one, scene.now)):
            with refused(scene.ledger, NotFound, "no_upload"):
                call(ident())

    def test_a_heartbeat_prolongs_and_never_shortens(self, scene: Scene) -> None:
        upload = scene.begin()
        for asked in (scene.now + 2 * HOUR, scene.now + 1):
            scene.ledger.prolong(upload.id, asked)
            stands = scene.ledger.upload(upload.id)
            assert stands == replace(upload, expires_at=scene.now + 2 * HOUR)

    def test_a_dead_one_has_no_heartbeat(self, scene: Scene) -> None:
        expired, aborted = scene.begin(expires_at=scene.now - 1), scene.begin()
        scene.ledger.abort(aborted.id)
        for upload in (expired, aborted):
            with refused(scene.ledger, NotFound, "no_upload"):
                scene.ledger.prolong(upload.id, scene.now + HOUR)

    def test_keys_join(self, scene: Scene) -> None:
        upload = scene.begin()
        joined = scene.ledger.join(upload.id, "two", 3, scene.now + 2 * HOUR, entry())
        assert joined == scene.ledger.upload(upload.id)
        assert joined.recipients == (upload.recipient, "two")
        assert joined.expires_at == scene.now + 2 * HOUR
        scene.ledger.join(upload.id, "three", 3, scene.now + 1, entry())
        scene.ledger.join(upload.id, "two", 3, scene.now + 1, entry())  # it is there already
        with refused(scene.ledger, Conflict, "too_many_ranks"):
            scene.ledger.join(upload.id, "four", 3, scene.now + 1, entry())
        stands = scene.ledger.upload(upload.id)
        assert stands.recipients == (upload.recipient, "two", "three")
        assert stands.expires_at == scene.now + 2 * HOUR

    def test_no_key_joins_a_dead_one(self, scene: Scene) -> None:
        expired, aborted = scene.begin(expires_at=scene.now - 1), scene.begin()
        scene.ledger.abort(aborted.id)
        for upload in (expired, aborted):
            with refused(scene.ledger, NotFound, "no_upload"):
                scene.ledger.join(upload.id, "two", 3, scene.now + HOUR, entry())

    def test_abort_closes_for_good(self, scene: Scene) -> None:
        upload = scene.begin()
        row, head = scene.next_version(upload)
        for _ in range(2):
            scene.ledger.abort(upload.id)
            assert scene.ledger.upload(upload.id).state == "aborted"
        with refused(scene.ledger, Conflict, "upload_closed"):
            scene.ledger.publish(upload.id, row, head, entry())

    def test_what_is_published_stays(self, scene: Scene) -> None:
        upload = scene.begin()
        scene.ledger.publish(upload.id, *scene.next_version(upload), entry())
        with refused(scene.ledger, Conflict, "upload_closed"):
            scene.ledger.abort(upload.id)
        with refused(scene.ledger, Conflict, "upload_closed"):
            scene.ledger.drop_upload(upload.id, entry())


class TestDeadUploads:
    def test_lists_expired_ones_that_arent_published(self, scene: Scene) -> None:
        late = scene.begin(expires_at=scene.now - 1)
        early = scene.begin(expires_at=scene.now - 2)
        scene.begin()
        scene.push()
        scene.ledger.abort(early.id)
        early = replace(early, state="aborted")
        assert scene.ledger.dead_uploads(scene.now) == [early, late]
        assert scene.ledger.dead_uploads(scene.now, limit=1) == [early]
        assert not scene.ledger.dead_uploads(scene.now - 2)

    def test_drop_removes_upload_and_key(self, scene: Scene) -> None:
        dead = scene.begin(expires_at=scene.now - 1)
        aborted = scene.begin()
        scene.ledger.abort(aborted.id)
        for upload in (dead, aborted):
            told = entry("gc")
            scene.ledger.drop_upload(upload.id, told)
            assert scene.ledger.entries(limit=10_000)[-1].id == told.id
            with refused(scene.ledger, NotFound, "no_upload"):
                scene.ledger.upload(upload.id)
            with refused(scene.ledger, NotFound, "no_key"):
                scene.ledger.key(upload.artifact)

    def test_again_changes_nothing(self, scene: Scene) -> None:
        before = len(scene.ledger.entries())
        gone = ident()
        scene.ledger.drop_upload(gone, entry())
        scene.ledger.abort(gone)
        assert len(scene.ledger.entries()) == before

    def test_an_open_one_isnt_dropped(self, scene: Scene) -> None:
        upload = scene.begin()
        with refused(scene.ledger, Conflict, "upload_open"):
            scene.ledger.drop_upload(upload.id, entry())
        assert scene.ledger.key(upload.artifact)


class TestKeys:
    def test_missing(self, scene: Scene) -> None:
        upload = scene.upload_row()
        with refused(scene.ledger, NotFound, "no_key"):
            scene.ledger.key(upload.artifact)
        with refused(scene.ledger, NotFound, "no_key"):
            scene.ledger.swap_key(scene.key_row(upload), b"", entry())

    def test_a_key_of_the_model_is_kept_once(self, scene: Scene) -> None:
        """The content key: an artifact of no upload."""
        one, other = (scene.key_row(scene.upload_row(artifact="c" * 32)) for _ in range(2))
        before = len(scene.ledger.entries())
        assert scene.ledger.keep_key(one, entry()) == one
        assert scene.ledger.keep_key(other, entry()) == one
        assert scene.ledger.key("c" * 32) == one
        assert len(scene.ledger.entries()) == before + 1
        assert list(scene.ledger.keys_below("default", "m", 2)) == [one]

    def test_a_key_under_the_floor_or_of_no_model_isnt_kept(self, scene: Scene) -> None:
        scene.ledger.raise_floor("default", "m", 2, entry())
        with refused(scene.ledger, Conflict, "kek_moved"):
            scene.ledger.keep_key(scene.key_row(scene.upload_row()), entry())
        scene.ledger.keep_key(scene.key_row(scene.upload_row(), 2), entry())
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.keep_key(scene.key_row(scene.upload_row("x")), entry())
        scene.ledger.hide("default", "m", None, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.keep_key(scene.key_row(scene.upload_row(), 2), entry())

    def test_what_it_is_compared_with_reads_back(self, scene: Scene) -> None:
        for base in (None, 7):
            row = scene.begin(base=base)
            assert scene.ledger.upload(row.id).base == base

    def test_keys_below_are_those_of_versions_and_uploads(self, scene: Scene) -> None:
        scene.create("other")
        published, pending = scene.push().artifact, scene.begin().artifact
        scene.begin("other")
        new = scene.upload_row()
        scene.ledger.begin(new, scene.key_row(new, 2), 1000, entry())
        below = [row.artifact for row in scene.ledger.keys_below("default", "m", 2)]
        assert below == sorted([published, pending])
        assert len(scene.ledger.keys_below("default", "m", 3)) == 3
        assert len(scene.ledger.keys_below("default", "m", 3, limit=1)) == 1
        assert not scene.ledger.keys_below("default", "m", 1)

    def test_the_floor_never_falls(self, scene: Scene) -> None:
        scene.ledger.raise_floor("default", "m", 3, entry())
        before = len(scene.ledger.entries())
        for version in (3, 2):
            scene.ledger.raise_floor("default", "m", version, entry())
            assert scene.ledger.model("default", "m").kek_floor == 3
        assert len(scene.ledger.entries()) == before
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.raise_floor("default", "x", 3, entry())

    @pytest.mark.parametrize("logged", [True, False])
    def test_swap_replaces_what_was_expected(self, scene: Scene, logged: bool) -> None:
        upload = scene.begin()
        old = scene.ledger.key(upload.artifact)
        new = replace(old, wrapped=b"new", kek_version=2)
        before = len(scene.ledger.entries())
        scene.ledger.swap_key(new, old.wrapped, entry() if logged else None)
        assert scene.ledger.key(upload.artifact) == new
        assert len(scene.ledger.entries()) == before + logged

    def test_a_lost_race_changes_nothing(self, scene: Scene) -> None:
        upload = scene.begin()
        old = scene.ledger.key(upload.artifact)
        with refused(scene.ledger, Conflict, "key_moved"):
            scene.ledger.swap_key(replace(old, kek_version=2), b"not what stands", entry())
        with refused(scene.ledger, Conflict, "key_moved"):
            scene.ledger.swap_key(replace(old, kek_version=0), old.wrapped, entry())
        with refused(scene.ledger, NotFound, "no_key"):
            scene.ledger.swap_key(replace(old, model="other"), old.wrapped, entry())
        assert scene.ledger.key(upload.artifact) == old

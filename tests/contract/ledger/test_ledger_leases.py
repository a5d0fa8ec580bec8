"""Contract: admission, leases and revocations."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from modelvault.clock import from_text, to_text
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound, Unavailable
from support.ledger_scene import ALICE, BOB, DAY, HOUR, REVISION, Scene, entry, ident, refused


class TestAdmission:
    def test_lease_charge_and_entry_are_written(self, scene: Scene) -> None:
        lease = scene.lease_row(scene.push())
        given = scene.admit(lease)
        told = scene.ledger.entries(limit=10_000)[-1]
        assert (given.lease, given.repeated) == (lease, False)
        assert (given.entry_id, given.leaf_hash) == (told.id, told.leaf_hash())
        assert told.lease == lease.id
        assert scene.ledger.lease(lease.id) == lease
        assert scene.ledger.usage(ALICE, to_text(scene.now)[:10]) == lease.bytes

    def test_the_same_ask_gets_the_same_lease_uncharged(self, scene: Scene) -> None:
        first = scene.admit(scene.lease_row(scene.push()))
        before = len(scene.ledger.entries())
        again = replace(
            first.lease, id=ident(), granted_at=scene.now + 5, expires_at=scene.now + 5 + HOUR,
            decision_id=ident(),
        )  # fmt: skip
        # Neither slots nor bytes are counted a second time.
        given = scene.admit(again, slots=1, budget=first.lease.bytes)
        assert given == replace(first, repeated=True)
        assert len(scene.ledger.entries()) == before
        assert scene.ledger.usage(ALICE, to_text(scene.now)[:10]) == first.lease.bytes

    @pytest.mark.parametrize("how", ["ended", "revoked", "expired"])
    def test_the_same_ask_after_the_end(self, scene: Scene, how: str) -> None:
        lease = scene.lease(scene.push())
        if how == "ended":
            scene.ledger.end(lease.id, scene.now, "released", entry())
        if how == "revoked":
            scene.revoke("lease", lease.id)
        at = scene.now + HOUR if how == "expired" else scene.now
        with refused(scene.ledger, Conflict, "lease_ended"):
            scene.admit(replace(lease, id=ident(), granted_at=at, expires_at=at + 1))

    @pytest.mark.parametrize(
        "changed",
        [
            {"paths": ("a",)}, {"purpose": "debug"}, {"action": "export"}, {"bytes": 0},
            {"subject": BOB}, {"key_hash": "other"}, {"bound": False}, {"model": "other"},
        ],
    )  # fmt: skip
    def test_one_ask_hash_is_one_ask(self, scene: Scene, changed: dict[str, object]) -> None:
        lease = scene.lease(scene.push())
        with refused(scene.ledger, Conflict, "ask_reused"):
            scene.admit(replace(lease, id=ident(), **changed))

    def test_a_repeated_ask_is_checked_too(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        scene.publish_policy("sha256:" + "2" * 64)
        with refused(scene.ledger, Unavailable, "policy_moved"):
            scene.admit(replace(lease, id=ident()))
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_version"):
            scene.admit(replace(lease, id=ident()))

    @pytest.mark.parametrize("hidden", [1, None])
    def test_a_hidden_version_or_model(self, scene: Scene, hidden: int | None) -> None:
        version = scene.push()
        scene.ledger.hide("default", "m", hidden, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_version"):
            scene.lease(version)

    @pytest.mark.parametrize(
        "field", [{"version": 2}, {"manifest": "sha256:" + "0" * 64}, {"model": "x"}]
    )
    def test_a_version_that_isnt_there(self, scene: Scene, field: dict[str, object]) -> None:
        version = scene.push()
        with refused(scene.ledger, NotFound, "no_version"):
            scene.lease(version, **field)

    def test_a_decision_of_another_policy(self, scene: Scene) -> None:
        version = scene.push()
        with refused(scene.ledger, Unavailable, "policy_moved"):
            scene.lease(version, revision="sha256:" + "2" * 64)

    def test_a_lease_id_is_used_once(self, scene: Scene) -> None:
        version = scene.push()
        lease = scene.lease(version)
        with refused(scene.ledger, Conflict, "already_recorded"):
            scene.lease(version, id=lease.id)


class TestSlots:
    def test_running_leases_of_that_subject_and_model_count(self, scene: Scene) -> None:
        version, other = scene.push(), (scene.create("other"), scene.push("other"))[1]
        running = scene.lease(version)
        scene.lease(version, granted_at=scene.now - HOUR, expires_at=scene.now)
        scene.ledger.end(scene.lease(version).id, scene.now, "released", entry())
        scene.lease(version, subject=BOB)
        scene.lease(other)
        with refused(scene.ledger, AccessDenied, "max_concurrent_leases") as refusal:
            scene.admit(scene.lease_row(version), slots=1)
        assert refusal.value.details == {
            "limit": 1, "used": 1, "resets_at": to_text(running.expires_at),
        }  # fmt: skip
        scene.admit(scene.lease_row(version), slots=2)

    def test_over_a_lowered_limit_the_right_expiry_is_told(self, scene: Scene) -> None:
        version = scene.push()
        for minutes in (50, 20, 40, 30):
            scene.lease(version, expires_at=scene.now + minutes * 60_000)
        with refused(scene.ledger, AccessDenied, "max_concurrent_leases") as refusal:
            scene.admit(scene.lease_row(version), slots=2)
        assert refusal.value.details["used"] == 4
        # 20, 30 and 40 must end before less than two run.
        assert refusal.value.details["resets_at"] == to_text(scene.now + 40 * 60_000)

    def test_no_slots_at_all(self, scene: Scene) -> None:
        version = scene.push()
        with refused(scene.ledger, AccessDenied, "max_concurrent_leases") as refusal:
            scene.admit(scene.lease_row(version), slots=0)
        assert refusal.value.details == {"limit": 0, "used": 0, "resets_at": None}


class TestBytes:
    def test_the_budget_fits_to_the_byte(self, scene: Scene) -> None:
        version = scene.push()
        scene.admit(scene.lease_row(version), budget=version.size)
        with refused(scene.ledger, AccessDenied, "max_bytes_per_day") as refusal:
            scene.admit(scene.lease_row(version, bytes=1), budget=version.size)
        details = refusal.value.details
        assert (details["limit"], details["used"], details["asked"]) == (12, 12, 1)
        resets = from_text(str(details["resets_at"]))
        assert resets % DAY == 0
        assert scene.now < resets <= scene.now + DAY
        scene.admit(scene.lease_row(version, bytes=0), budget=version.size)

    def test_all_models_of_the_subject_count_and_no_other_subject(self, scene: Scene) -> None:
        scene.create("other")
        version, other = scene.push(), scene.push("other")
        scene.lease(other)
        scene.lease(version, subject=BOB)
        with refused(scene.ledger, AccessDenied, "max_bytes_per_day"):
            scene.admit(scene.lease_row(version), budget=23)
        scene.admit(scene.lease_row(version), budget=24)

    def test_an_ended_lease_isnt_refunded(self, scene: Scene) -> None:
        version = scene.push()
        scene.ledger.end(scene.lease(version).id, scene.now, "released", entry())
        with refused(scene.ledger, AccessDenied, "max_bytes_per_day"):
            scene.admit(scene.lease_row(version), budget=23)

    def test_the_next_utc_day_starts_anew(self, scene: Scene) -> None:
        version = scene.push()
        midnight = (scene.now // DAY + 1) * DAY
        times = {"expires_at": midnight + HOUR, "total_until": midnight + HOUR}
        scene.lease(version, granted_at=midnight - 1, **times)
        scene.admit(scene.lease_row(version, granted_at=midnight, **times), budget=12)
        with refused(scene.ledger, AccessDenied, "max_bytes_per_day"):
            scene.admit(scene.lease_row(version, granted_at=midnight - 1, **times), budget=23)
        days = [to_text(at)[:10] for at in (midnight - 1, midnight, midnight + DAY)]
        assert [scene.ledger.usage(ALICE, day) for day in days] == [12, 12, 0]

    def test_what_never_fits_says_so(self, scene: Scene) -> None:
        version = scene.push()
        with refused(scene.ledger, AccessDenied, "max_bytes_per_day") as refusal:
            scene.admit(scene.lease_row(version), budget=11)
        assert refusal.value.details["used"] == 0

    def test_nobody_else_has_used_anything(self, scene: Scene) -> None:
        assert scene.ledger.usage("local:nobody", to_text(scene.now)[:10]) == 0


class TestLeases:
    def test_missing(self, scene: Scene) -> None:
        calls = (
            lambda: scene.ledger.lease(ident()),
            lambda: scene.ledger.extend(ident(), scene.now, entry()),
            lambda: scene.ledger.end(ident(), scene.now, "released", entry()),
        )
        for call in calls:
            with refused(scene.ledger, NotFound, "no_lease"):
                call()

    def test_listing_newest_first(self, scene: Scene) -> None:
        scene.create("other")
        version, other = scene.push(), scene.push("other")
        rows = [scene.lease(version, granted_at=scene.now - back) for back in (3, 1, 2)]
        rows = [rows[1], rows[2], rows[0]]
        apart = scene.lease(other, granted_at=scene.now - 9)
        assert scene.ledger.leases() == [*rows, apart]
        assert scene.ledger.leases(limit=2) == rows[:2]
        assert scene.ledger.leases(tenant="default", model="m") == rows
        assert scene.ledger.leases(model="other") == [apart]
        assert not scene.ledger.leases(tenant="other")

    def test_running_ones(self, scene: Scene) -> None:
        version = scene.push()
        short = scene.lease(version, expires_at=scene.now + 10, granted_at=scene.now - 1)
        long = scene.lease(version, granted_at=scene.now - 2)
        done = scene.lease(version, granted_at=scene.now - 3)
        scene.ledger.end(done.id, scene.now + 5, "released", entry())
        done = replace(done, ended_at=scene.now + 5, end_reason="released")
        assert scene.ledger.leases() == [short, long, done]
        assert scene.ledger.leases(running_at=scene.now) == [short, long, done]
        assert scene.ledger.leases(running_at=scene.now + 5) == [short, long]
        assert scene.ledger.leases(running_at=scene.now + 10) == [long]

    def test_they_are_counted(self, scene: Scene) -> None:
        assert scene.ledger.running_leases() == 0
        version, other = scene.push(), (scene.create("other"), scene.push("other"))[1]
        scene.lease(version, subject=BOB)
        scene.lease(other, instance="pod-1")
        ended, revoked = scene.lease(version), scene.lease(version)
        scene.lease(version, granted_at=scene.now - HOUR, expires_at=scene.now)
        assert scene.ledger.running_leases() == 4
        scene.ledger.end(ended.id, scene.now, "released", entry())
        scene.revoke("lease", revoked.id)
        assert scene.ledger.running_leases() == 2

    def test_an_extension_moves_the_end_and_is_free(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        told = entry("renew", lease=lease.id)
        longer = scene.ledger.extend(lease.id, lease.total_until, told)
        assert longer == replace(lease, expires_at=lease.total_until)
        assert scene.ledger.lease(lease.id) == longer
        assert scene.ledger.entries(limit=10_000)[-1].id == told.id
        assert scene.ledger.usage(ALICE, to_text(scene.now)[:10]) == lease.bytes

    def test_an_extension_ends_with_the_total(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        with refused(scene.ledger, InvalidRequest, "over_total"):
            scene.ledger.extend(lease.id, lease.total_until + 1, entry())

    def test_no_extension_after_the_end(self, scene: Scene) -> None:
        version = scene.push()
        ended = scene.lease(version)
        scene.ledger.end(ended.id, scene.now, "released", entry())
        expired = scene.lease(version, granted_at=scene.now - HOUR, expires_at=scene.now - 1)
        for lease in (ended, expired):
            with refused(scene.ledger, AccessDenied, "lease_ended"):
                scene.ledger.extend(lease.id, scene.now + HOUR, entry())

    def test_a_late_extension_in_the_grace_of_an_outage(self, scene: Scene) -> None:
        expired = scene.lease(
            scene.push(), granted_at=scene.now - HOUR, expires_at=scene.now - HOUR // 2
        )
        with refused(scene.ledger, AccessDenied, "lease_ended"):
            scene.ledger.extend(expired.id, scene.now + HOUR, entry(), late_ms=HOUR // 4)
        longer = scene.ledger.extend(expired.id, scene.now + HOUR, entry(), late_ms=HOUR)
        assert longer.expires_at == scene.now + HOUR

    @pytest.mark.parametrize("kind", ["principal", "lease", "version"])
    def test_no_late_extension_once_a_revocation_hit_it(self, scene: Scene, kind: str) -> None:
        expired = scene.lease(
            scene.push(), granted_at=scene.now - HOUR, expires_at=scene.now - HOUR // 2
        )
        target = {"principal": ALICE, "lease": expired.id, "version": "default/m@1"}[kind]
        scene.revoke(kind, target, at=scene.now - 5, until=scene.now - 1)
        with refused(scene.ledger, AccessDenied, "lease_ended"):
            scene.ledger.extend(expired.id, scene.now + HOUR, entry(), late_ms=HOUR)

    def test_the_first_end_stays(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        scene.ledger.end(lease.id, scene.now + 1, "released", entry())
        before = len(scene.ledger.entries())
        scene.ledger.end(lease.id, scene.now + 2, "other", entry())
        ended = replace(lease, ended_at=scene.now + 1, end_reason="released")
        assert scene.ledger.lease(lease.id) == ended
        assert len(scene.ledger.entries()) == before


class TestRevocations:
    def test_a_principal(self, scene: Scene) -> None:
        version = scene.push()
        mine, bobs = scene.lease(version), scene.lease(version, subject=BOB)
        expired = scene.lease(version, granted_at=scene.now - HOUR, expires_at=scene.now)
        assert scene.revoke("principal", ALICE) == 1
        assert scene.ledger.lease(mine.id) == replace(
            mine, ended_at=scene.now, end_reason="revoked"
        )
        assert scene.ledger.lease(bobs.id) == bobs
        assert scene.ledger.lease(expired.id) == expired
        with refused(scene.ledger, AccessDenied, "revoked"):
            scene.lease(version)
        scene.lease(version, subject=BOB)

    def test_a_principal_for_a_while(self, scene: Scene) -> None:
        version = scene.push()
        lease = scene.lease(version)
        scene.revoke("principal", ALICE, until=scene.now + 5)
        with refused(scene.ledger, AccessDenied, "revoked"):
            scene.lease(version, granted_at=scene.now + 4)
        assert scene.ledger.lease(lease.id).end_reason == "revoked"
        scene.lease(version, granted_at=scene.now + 5)

    def test_a_lease(self, scene: Scene) -> None:
        version = scene.push()
        hit, other = scene.lease(version), scene.lease(version)
        assert scene.revoke("lease", hit.id) == 1
        assert scene.revoke("lease", hit.id) == 0
        assert scene.ledger.lease(hit.id).end_reason == "revoked"
        assert scene.ledger.lease(other.id) == other
        with refused(scene.ledger, AccessDenied, "lease_ended"):
            scene.ledger.extend(hit.id, scene.now + HOUR, entry())
        scene.lease(version)

    def test_a_version(self, scene: Scene) -> None:
        first, second = scene.push(), scene.push()
        leases = [scene.lease(version) for version in (first, first, second)]
        assert scene.revoke("version", "default/m@1") == 2
        ended = [scene.ledger.lease(lease.id).ended_at for lease in leases]
        assert ended == [scene.now, scene.now, None]
        with refused(scene.ledger, AccessDenied, "revoked"):
            scene.lease(first)
        scene.lease(second)

    def test_no_extension(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        scene.revoke("principal", ALICE)
        with refused(scene.ledger, AccessDenied, "revoked"):
            scene.ledger.extend(lease.id, scene.now + HOUR, entry())

    def test_what_isnt_there_yet_can_be_revoked(self, scene: Scene) -> None:
        assert scene.revoke("version", "default/m@1") == 0
        version = scene.push()
        with refused(scene.ledger, AccessDenied, "revoked"):
            scene.lease(version)

    def test_looking_one_up(self, scene: Scene) -> None:
        by_subject = scene.revocation("principal", ALICE, until=scene.now + 5)
        by_version = scene.revocation("version", "default/m@1")
        for row in (by_subject, by_version, scene.revocation("lease", ident())):
            scene.ledger.revoke(row, entry())

        def look(subject: str, version: str, at: int) -> object:
            return scene.ledger.revoked(subject=subject, version=version, at=at)

        assert look(ALICE, "default/m@2", scene.now) == by_subject
        assert look(ALICE, "default/m@2", scene.now + 5) is None
        assert look(BOB, "default/m@1", scene.now + DAY) == by_version
        assert look(BOB, ALICE, scene.now) is None
        assert look("default/m@1", "default/m@11", scene.now) is None

    @pytest.mark.parametrize("target", ["default/m", "default/m@", "default/m@x", "m", ""])
    def test_a_version_is_named_in_full(self, scene: Scene, target: str) -> None:
        with refused(scene.ledger, InvalidRequest, "bad_target"):
            scene.revoke("version", target)

    def test_an_id_is_used_once(self, scene: Scene) -> None:
        row = scene.revocation("principal", BOB)
        scene.ledger.revoke(row, entry())
        with refused(scene.ledger, Conflict, "already_recorded"):
            scene.ledger.revoke(row, entry())


def test_the_revision_that_counts(scene: Scene) -> None:
    assert scene.ledger.policy_revision() == REVISION
    scene.publish_policy("sha256:" + "2" * 64)
    assert scene.ledger.policy_revision() == "sha256:" + "2" * 64

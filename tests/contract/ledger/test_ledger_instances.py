"""Contract: limits count each instance of a workload by itself; revocations hit them all."""

from __future__ import annotations

import pytest

from modelvault.clock import to_text
from modelvault.errors import AccessDenied
from support.ledger_scene import ALICE, Scene, refused

DAY = "max_bytes_per_day"
SLOTS = "max_concurrent_leases"


def test_pods_of_one_account_that_start_together_all_get_in(scene: Scene) -> None:
    version = scene.push()
    for number in range(20):
        scene.admit(scene.lease_row(version, instance=f"pod-{number}"), slots=1)
    with refused(scene.ledger, AccessDenied, SLOTS) as refusal:
        scene.admit(scene.lease_row(version, instance="pod-7"), slots=1)
    assert (refusal.value.details["limit"], refusal.value.details["used"]) == (1, 1)


def test_without_an_instance_the_subject_counts_as_one_of_its_own(scene: Scene) -> None:
    version = scene.push()
    scene.admit(scene.lease_row(version, instance="pod-1"), slots=1)
    scene.admit(scene.lease_row(version), slots=1)
    with refused(scene.ledger, AccessDenied, SLOTS):
        scene.admit(scene.lease_row(version), slots=1)


def test_bytes_are_counted_for_each(scene: Scene) -> None:
    version = scene.push()
    for instance in ("pod-1", "pod-2", None):
        scene.admit(scene.lease_row(version, instance=instance, bytes=60), budget=100)
        with refused(scene.ledger, AccessDenied, DAY) as refusal:
            scene.admit(scene.lease_row(version, instance=instance, bytes=60), budget=100)
        assert refusal.value.details["used"] == 60


@pytest.mark.parametrize("instance", ["pod-1", None])
def test_it_is_read_back(scene: Scene, instance: str | None) -> None:
    lease = scene.lease(scene.push(), instance=instance)
    assert scene.ledger.lease(lease.id).instance == instance


def test_a_revoked_subject_is_revoked_in_all_its_pods(scene: Scene) -> None:
    version = scene.push()
    leases = [scene.lease(version, instance=f"pod-{number}") for number in range(3)]
    assert scene.revoke("principal", ALICE) == 3
    assert {scene.ledger.lease(lease.id).end_reason for lease in leases} == {"revoked"}
    with refused(scene.ledger, AccessDenied, "revoked"):
        scene.lease(version, instance="pod-new")


def test_a_pods_slot_is_free_when_its_lease_ends(scene: Scene) -> None:
    version = scene.push()
    lease = scene.lease(version, instance="pod-1")
    with refused(scene.ledger, AccessDenied, SLOTS) as refusal:
        scene.admit(scene.lease_row(version, instance="pod-1"), slots=1)
    assert refusal.value.details["resets_at"] == to_text(lease.expires_at)

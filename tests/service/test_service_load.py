"""Many at once: a thousand pods of one service account, and everything together for a while.
How long it took is told and not asserted (`-s` shows it; `make load` does this for longer)."""

from __future__ import annotations

import pytest

from support import load

PODS = 1000
SECONDS = 5.0


@pytest.fixture
def pushed(admin, name, model) -> str:
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    return name


@pytest.mark.slow
def test_a_thousand_pods_of_one_account_at_once(stack, admin, pushed) -> None:
    """Limits count each pod by itself: all get in, each with an entry of its own."""
    with load.pods_may_load(admin, stack):
        seen = load.storm(stack, f"{pushed}:prod", PODS)
        print(seen.told())
        assert load.check(stack, pushed, seen) == []
        assert len(seen.receipts) == PODS
        assert len(set(seen.receipts.values())) == PODS
        rows = admin.leases(reference=pushed, limit=1000)
        assert {row.subject for row in rows} == {"pods:system:serviceaccount:serving:vllm"}
        assert len(rows) == PODS


def test_everything_at_once(stack, session, admin, pushed, model, check) -> None:
    seen = load.Mixed(stack, pushed, model, SECONDS).run()
    print(seen.told())
    assert load.check(stack, pushed, seen) == []
    assert seen.seconds.keys() == {"lease", "renew", "release", "list", "show", "push", "rotate"}
    newest = admin.rotate(pushed).kek_version
    assert {version.kek_version for version in admin.show(pushed).versions} == {newest}
    for broker in (0, 1):
        job = session(stack.token("job", "inference"), broker)
        with job.load(pushed, purpose="inference") as loaded:
            check(loaded.tensors())

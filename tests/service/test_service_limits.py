"""Limits that all brokers count together, and the slots of jobs that died."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelvault.clock import from_text
from modelvault.errors import AccessDenied
from support.changed_policy import changed_policy

TTL_S = 3
HOLDER = """
import sys, time, modelvault
vault = modelvault.connect(sys.argv[1])
model = vault.load(sys.argv[2], purpose="inference")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def one_slot(stack, admin) -> Iterator[None]:
    """A policy of one lease at a time: for inference by a short one, for evaluation by a long."""

    def change(data: dict[str, Any]) -> None:
        data["roles"]["inference"]["limits"] = {"max_concurrent_leases": 1, "max_ttl_s": TTL_S}
        data["roles"]["researcher"]["limits"] = {"max_concurrent_leases": 1}

    with changed_policy(stack, admin, change):
        yield


@pytest.fixture
def stored(admin, name, model) -> str:
    admin.create(name, classification="internal")
    admin.push(model, name)
    return name


def refusal(job, reference: str) -> AccessDenied | None:
    """Why this job gets no lease now; one that it gets it gives back."""
    try:
        job.load(reference, purpose="inference").close()
    except AccessDenied as refused:
        return refused
    return None


def test_64_asks_at_two_brokers_for_one_slot(stack, session, admin, one_slot, stored) -> None:
    jobs = [session(stack.token("ada", "researchers"), broker) for broker in (0, 1)]

    def ask(number: int) -> object:
        try:
            return jobs[number % 2].load(stored, purpose="evaluation")
        except AccessDenied as refused:
            return refused

    with ThreadPoolExecutor(64) as threads:
        found = list(threads.map(ask, range(64)))
    refused = [each for each in found if isinstance(each, AccessDenied)]
    (given,) = [each for each in found if not isinstance(each, AccessDenied)]
    (running,) = admin.leases(stored)
    given.close()  # type: ignore[attr-defined]
    assert len(refused) == 63
    for each in refused:
        assert each.code == "max_concurrent_leases"
        assert (each.details["limit"], each.details["used"]) == (1, 1)
        assert each.details["resets_at"] == running.expires_at
    entries = admin.entries(reference=stored, limit=1000).entries
    asked = [each.outcome for each in entries if each.action == "load"]
    assert sorted(asked) == ["allowed"] + ["denied"] * 63


def test_a_crashed_jobs_slot_is_free_again(stack, session, admin, one_slot, stored) -> None:
    """Heartbeats keep it: two thirds of a ttl apart. Without them it is free after one and
    a half, and whoever is refused meanwhile is told when."""
    job = session(stack.token("ada", "inference"), broker=1)
    environment = {
        "MODELVAULT_CA": str(stack.ca), "MODELVAULT_TRUST": str(stack.trust),
        "MODELVAULT_TOKEN": stack.token("ada", "inference"), "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, stack.urls[0], stored],
        env=environment, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        time.sleep(1.5 * TTL_S)
        with pytest.raises(AccessDenied) as caught:
            job.load(stored, purpose="inference")
    finally:
        holder.kill()  # no lease is given back
        holder.communicate()
    assert (caught.value.code, caught.value.details["limit"]) == ("max_concurrent_leases", 1)
    (crashed,) = admin.leases(stored, ended=True)
    refusals = []
    while (refused := refusal(job, stored)) is not None:
        refusals.append((refused.code, refused.details["resets_at"]))
        time.sleep(0.2)
    assert set(refusals) <= {("max_concurrent_leases", crashed.expires_at)}
    after = admin.leases(stored, ended=True)[0]
    assert crashed.ended_at is None
    assert from_text(after.granted_at) >= from_text(crashed.expires_at)

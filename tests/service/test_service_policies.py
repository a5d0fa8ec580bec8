"""Policies of a service: kept signed, fetched by OPA, in force within a moment."""

from __future__ import annotations

import json
import time

import pytest
import requests

from modelvault import wiring
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound, Unavailable
from modelvault.policy.bundle import Bundle

SITE = """package modelvault.site

import rego.v1

denies contains "frozen" if {
\tinput.action.name == "load"
\tstartswith(input.resource.id, "frozen-")
}
"""


@pytest.fixture
def first(stack, admin):
    """The policy that the vault began with, in force again afterwards."""
    yield wiring.policy_of(admin.policy(stack.founded.policy_revision))
    admin.enforce_policy(stack.founded.policy_revision)


def kept(admin, bundle: Bundle) -> str:
    return admin.keep_policy(wiring.policy_document(bundle))


def log(admin) -> list:
    """The whole audit log, page by page."""
    page = admin.entries(limit=1000)
    found = list(page.entries)
    while page.next is not None:
        page = admin.entries(after=page.next, limit=1000)
        found += page.entries
    return found


def test_a_new_rule_counts_at_once_and_can_be_taken_back(
    stack, session, admin, first, name, model
) -> None:
    frozen = f"frozen-{name}"
    admin.create(frozen, classification="internal")
    admin.push(model, frozen)
    job = session(stack.token("job", "inference"), broker=1)
    job.load(frozen, purpose="inference").close()
    changed = Bundle(modules={**first.modules, "site/freeze.rego": SITE}, data=first.data)
    revision = kept(admin, changed)
    job.load(frozen, purpose="inference").close()  # it is kept, and decides nothing yet
    admin.enforce_policy(revision)
    with pytest.raises(AccessDenied) as caught:
        job.load(frozen, purpose="inference")
    assert caught.value.details["reasons"] == ["frozen"]
    admin.enforce_policy(first.revision)
    job.load(frozen, purpose="inference").close()
    told = {each.revision: each.current for each in admin.policies()}
    assert told == {first.revision: True, revision: False} | told
    moves = [e for e in log(admin) if e.action == "write_policy"]
    assert {"new_revision": revision, "old_revision": first.revision} in [e.details for e in moves]


def test_keeping_twice_is_once(admin, first) -> None:
    assert kept(admin, first) == kept(admin, first) == first.revision


def test_a_policy_that_locks_its_admin_out(admin, first) -> None:
    grants = [each for each in first.data["grants"] if each["role"] != "admin"]
    locked = Bundle(modules=first.modules, data={**first.data, "grants": grants})
    with pytest.raises(Conflict) as caught:
        admin.enforce_policy(kept(admin, locked))
    assert caught.value.code == "policy_lockout"


@pytest.mark.parametrize(
    "authz",
    [
        'package modelvault.authz\n\ndecision := "yes"\n',
        "package modelvault.authz\n\ndecisions := {}\n",
        "package modelvault.authz\n\ndecision := \n",
    ],
    ids=["no object", "no rule", "no Rego"],
)
def test_a_policy_that_gives_no_usable_answer_never_counts(admin, first, authz: str) -> None:
    broken = Bundle(modules={"modelvault/authz/authz.rego": authz}, data=first.data)
    with pytest.raises(InvalidRequest) as caught:
        admin.enforce_policy(kept(admin, broken))
    assert caught.value.code == "policy_unusable"
    assert admin.list() is not None


def test_what_isnt_kept(admin) -> None:
    nowhere = "sha256:" + "0" * 64
    for ask in (admin.policy, admin.enforce_policy):
        with pytest.raises(NotFound) as caught:
            ask(nowhere)
        assert caught.value.code == "no_policy"
        assert "modelvault policy revisions" in caught.value.hint


@pytest.mark.parametrize(
    "path", ["../evil.rego", "modelvault/../../evil.rego", "/etc/evil.rego", "data.json", "x.rego"]
)
def test_names_that_lead_elsewhere_are_refused(admin, first, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        kept(admin, Bundle(modules={path: "package x"}, data=first.data))
    assert caught.value.code == "bad_policy"


def test_only_admins(stack, session, first) -> None:
    job = session(stack.token("job", "inference"))
    with pytest.raises(AccessDenied):
        kept(job, first)
    with pytest.raises(AccessDenied):
        job.policies()


def test_opa_is_the_only_one_who_gets_the_bundle(stack) -> None:
    url = f"{stack.urls[0]}/v1/policy/bundle"
    for headers in (
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Bearer {stack.admin()}"},
    ):
        assert (
            requests.get(url, headers=headers, verify=str(stack.ca), timeout=5).status_code == 401
        )
    token = (stack.folder / "secrets" / "opa-bundle").read_text()
    told = {"Authorization": f"Bearer {token}"}
    got = requests.get(url, headers=told, verify=str(stack.ca), timeout=5)
    assert (got.status_code, got.headers["ETag"]) == (200, f'"{stack.founded.policy_revision}"')
    told["If-None-Match"] = got.headers["ETag"]
    again = requests.get(url, headers=told, verify=str(stack.ca), timeout=5)
    assert (again.status_code, again.content) == (304, b"")


def test_without_opa_nothing_is_granted_and_nothing_denied(
    stack, session, admin, name, model
) -> None:
    """An outage: no key, `policy_unavailable`, and a loaded model lives on."""
    admin.create(name, classification="internal")
    admin.push(model, name)
    job = session(stack.token("job", "inference"))
    with job.load(name, purpose="inference") as loaded:
        loaded.tensors()
        stack.opa.signal(19)  # SIGSTOP
        try:
            with pytest.raises(Unavailable) as caught:
                job.load(name, purpose="inference")
            assert caught.value.code == "policy_unavailable"
            assert len(loaded.tensors()) == 3
        finally:
            stack.opa.signal(18)  # SIGCONT
    job.load(name, purpose="inference").close()
    reasons = {e.reasons for e in admin.entries(reference=name).entries if e.outcome == "denied"}
    assert reasons == set()


def test_readiness_names_the_part_that_is_down(stack) -> None:
    def parts() -> tuple[int, dict[str, str]]:
        time.sleep(1.1)  # the parts are asked at most once a second
        got = requests.get(f"{stack.urls[0]}/readyz", verify=str(stack.ca), timeout=30)
        return got.status_code, json.loads(got.content)["parts"]

    well = dict.fromkeys(("keys", "ledger", "policy", "store"), "ok")
    assert parts() == (200, well)
    stack.opa.signal(19)
    try:
        assert parts() == (503, well | {"policy": "policy_unavailable"})
    finally:
        stack.opa.signal(18)
    stack.s3.process.signal(19)
    try:
        assert parts()[1]["store"] == "store_unavailable"
    finally:
        stack.s3.process.signal(18)
    assert parts() == (200, well)

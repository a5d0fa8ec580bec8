"""Tokens as Kubernetes, GitHub, GitLab and OpenID providers make them, and as others would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelvault.access import Principal
from modelvault.errors import AuthenticationError, InvalidRequest
from modelvault.identity import presets, tokens
from modelvault.identity.binding import bound_audience, key_hash
from modelvault.identity.presets import KeySource, Trusted
from modelvault.ports.identity import VerifyingKey
from support.tokens import AUDIENCE, ISSUED, NOW, VAULT, by_pyjwt, pem, rsa_key

Claims = dict[str, Any]
POD = "6fb17cf0-a4ef-4c8a-8b4a-7e2b5f1b6d3c"

CONFIGURED: dict[str, Claims] = {
    "kubernetes": {
        "kind": "kubernetes",
        "name": "prod",
        "iss": "https://kubernetes.default.svc.cluster.local",
    },
    "github": {"kind": "github", "name": "gh", "owners": ["65"]},
    "gitlab": {"kind": "gitlab", "name": "gl", "namespaces": ["72"]},
    "oidc": {
        "kind": "oidc",
        "name": "idp",
        "iss": "https://idp.example/realms/acme",
        "jwks": "https://idp.example/realms/acme/certs",
        "audience": "modelvault-cli",
        "require": {"email_verified": ["true"], "hd": ["acme.example", "acme.test"]},
    },
}

REAL: dict[str, Claims] = {
    "kubernetes": {
        "aud": [AUDIENCE],
        "exp": ISSUED + 3600,
        "iat": ISSUED,
        "iss": "https://kubernetes.default.svc.cluster.local",
        "jti": "aed34954-b33a-4142-b1ec-389d6bbb4936",
        "kubernetes.io": {
            "namespace": "serving",
            "node": {"name": "n-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "vllm-0", "uid": POD},
            "serviceaccount": {"name": "vllm", "uid": "a087d5a0-e1dd-43ec-93ac-f13d89cd13af"},
            "warnafter": ISSUED + 3607,
        },
        "nbf": ISSUED,
        "sub": "system:serviceaccount:serving:vllm",
    },
    "github": {
        "jti": "example-id",
        "sub": "repo:octo-org/octo-repo:environment:prod",
        "environment": "prod",
        "aud": AUDIENCE,
        "ref": "refs/heads/main",
        "sha": "example-sha",
        "repository": "octo-org/octo-repo",
        "repository_owner": "octo-org",
        "actor_id": "12",
        "repository_visibility": "private",
        "repository_id": "74",
        "repository_owner_id": "65",
        "run_id": "example-run-id",
        "run_number": "10",
        "run_attempt": "2",
        "runner_environment": "github-hosted",
        "actor": "octocat",
        "workflow": "example-workflow",
        "head_ref": "",
        "base_ref": "",
        "event_name": "workflow_dispatch",
        "ref_type": "branch",
        "job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
        "iss": "https://token.actions.githubusercontent.com",
        "nbf": ISSUED - 600,
        "exp": ISSUED + 300,
        "iat": ISSUED,
    },
    "gitlab": {
        "namespace_id": "72",
        "namespace_path": "my-group",
        "project_id": "20",
        "project_path": "my-group/my-project",
        "user_id": "1",
        "user_login": "sample-user",
        "user_email": "sample-user@example.com",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "groups_direct": ["mygroup/mysubgroup", "myothergroup"],
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "feature-branch-1",
        "ref_type": "branch",
        "ref_path": "refs/heads/feature-branch-1",
        "ref_protected": "false",
        "environment": "test-environment2",
        "environment_protected": "false",
        "deployment_tier": "testing",
        "environment_action": "start",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "project_visibility": "public",
        "ci_config_ref_uri": "gitlab.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
        "iat": ISSUED,
        "nbf": ISSUED - 5,
        "exp": ISSUED + 3600,
        "iss": "https://gitlab.com",
        "sub": "project_path:my-group/my-project:ref_type:branch:ref:feature-branch-1",
        "aud": AUDIENCE,
    },
    "oidc": {
        "exp": ISSUED + 300,
        "iat": ISSUED,
        "auth_time": ISSUED - 20,
        "jti": "0a9a4c5e-5f7e-44e8-a9a0-1f0a2f5f8a02",
        "iss": "https://idp.example/realms/acme",
        "aud": "modelvault-cli",
        "sub": "f:5f3c:alice",
        "typ": "ID",
        "azp": "modelvault-cli",
        "sid": "b3f7",
        "at_hash": "s8xJ8rmIvSvQaEPfvQ9m0g",
        "email_verified": True,
        "hd": "acme.example",
        "name": "Alice Doe",
        "groups": ["ml-engineers", "offline_access"],
        "preferred_username": "alice",
        "email": "alice@acme.example",
    },
}

MEANT = {
    "kubernetes": (
        "prod:system:serviceaccount:serving:vllm",
        ("prod:namespace:serving", "prod:serviceaccount:serving:vllm"),
        POD,
    ),
    "github": (
        "gh:repository:74:environment:prod",
        (
            "gh:owner:65",
            "gh:repository:74",
            "gh:repository:74:environment:prod",
            "gh:repository:74:ref:refs/heads/main",
        ),
        None,
    ),
    "gitlab": (
        "gl:project:20:ref:refs/heads/feature-branch-1",
        ("gl:namespace:72", "gl:project:20"),
        None,
    ),
    "oidc": ("idp:f:5f3c:alice", ("idp:ml-engineers", "idp:offline_access"), None),
}

DEFAULT_URLS = {
    "kubernetes": "https://kubernetes.default.svc.cluster.local/openid/v1/jwks",
    "github": "https://token.actions.githubusercontent.com/.well-known/jwks",
    "gitlab": "https://gitlab.com/oauth/discovery/keys",
    "oidc": "https://idp.example/realms/acme/certs",
}


class RsaKey:
    def key(self, _issuer: str, _kid: str | None) -> VerifyingKey:
        return VerifyingKey("RS256", pem(rsa_key()))


def changed(claims: Claims, changes: Claims) -> Claims:
    """`claims` with `changes`, also in objects in it; None takes one out."""
    made = dict(claims)
    for name, value in changes.items():
        if value is None:
            made.pop(name)
        elif isinstance(value, dict) and isinstance(made.get(name), dict):
            made[name] = changed(made[name], value)
        else:
            made[name] = value
    return made


def who(kind: str, changes: Claims, configured: Claims | None = None, **how: Any) -> Principal:
    (trusted,) = presets.read([CONFIGURED[kind] | (configured or {})])
    token = by_pyjwt(changed(REAL[kind], changes), rsa_key(), algorithm="RS256")
    return tokens.verify(token, (trusted.issuer,), RsaKey(), NOW, vault=VAULT, **how)


@pytest.mark.parametrize("kind", REAL)
def test_a_real_token(kind: str) -> None:
    found = who(kind, {})
    assert (found.id, found.groups, found.instance) == MEANT[kind]
    assert found.bound_by == "bearer"


@pytest.mark.parametrize("kind", REAL)
def test_a_bound_token(kind: str) -> None:
    mine = key_hash("x25519", bytes(32))
    found = who(kind, {"aud": bound_audience(VAULT, mine)}, key_hash=mine)
    assert (found.id, found.bound_by) == (MEANT[kind][0], "key")


@pytest.mark.parametrize("kind", REAL)
def test_where_its_keys_are(kind: str) -> None:
    (trusted,) = presets.read([CONFIGURED[kind]])
    assert trusted.keys.url == DEFAULT_URLS[kind]
    assert (trusted.keys.stale_s, trusted.keys.refresh_s) == (21_600, 300)


FORGED: dict[str, tuple[str, Claims, str]] = {
    "another cluster's audience": ("kubernetes", {"aud": ["https://kubernetes"]}, "wrong_audience"),
    "also for the API server": (
        "kubernetes",
        {"aud": [AUDIENCE, "https://kubernetes.default.svc"]},
        "wrong_audience",
    ),
    "another account in sub": (
        "kubernetes",
        {"sub": "system:serviceaccount:serving:admin"},
        "unfit_claim",
    ),
    "another namespace in the claims": (
        "kubernetes",
        {"kubernetes.io": {"namespace": "kube-system"}},
        "unfit_claim",
    ),
    "a user's certificate name": ("kubernetes", {"sub": "system:admin"}, "unfit_claim"),
    "an old secret's token, without a pod": (
        "kubernetes",
        {"kubernetes.io": {"pod": None}},
        "missing_claim",
    ),
    "a token of a node's": ("kubernetes", {"kubernetes.io": None}, "missing_claim"),
    "kubernetes.io is text": ("kubernetes", {"kubernetes.io": "serving"}, "missing_claim"),
    "an account with a colon": (
        "kubernetes",
        {
            "kubernetes.io": {"serviceaccount": {"name": "a:b"}},
            "sub": "system:serviceaccount:serving:a:b",
        },
        "unfit_claim",
    ),
    "a pod's name for its uid": (
        "kubernetes",
        {"kubernetes.io": {"pod": {"uid": "vllm-0"}}},
        "unfit_claim",
    ),
    "a uid that is an object": (
        "kubernetes",
        {"kubernetes.io": {"pod": {"uid": {"a": 1}}}},
        "malformed_token",
    ),
    "a token of a year": ("kubernetes", {"exp": ISSUED + 31_536_000}, "token_lifetime"),
    "another cluster": ("kubernetes", {"iss": "https://other.example"}, "unknown_issuer"),
    "another owner of the same name": ("github", {"repository_owner_id": "66"}, "unfit_claim"),
    "no owner's id": ("github", {"repository_owner_id": None}, "missing_claim"),
    "an owner's id and a line feed": (
        "github",
        {"repository_owner_id": "65\n"},
        "malformed_token",
    ),
    "a repository's id that isn't one": ("github", {"repository_id": "74:ref:x"}, "unfit_claim"),
    "digits of another script": ("github", {"repository_id": "\u0667\u0664"}, "unfit_claim"),
    "a ref that isn't one": ("github", {"ref": "main"}, "unfit_claim"),
    "an environment of two lines": ("github", {"environment": "a\nb"}, "malformed_token"),
    "a list of environments": ("github", {"environment": ["prod"]}, "malformed_token"),
    "GitHub's own default audience": (
        "github",
        {"aud": "https://github.com/octo-org"},
        "wrong_audience",
    ),
    "another group": ("gitlab", {"namespace_id": "73"}, "unfit_claim"),
    "protected, maybe": ("gitlab", {"ref_protected": "maybe"}, "unfit_claim"),
    "no word on protection": ("gitlab", {"ref_protected": None}, "missing_claim"),
    "an empty path": ("gitlab", {"ref_path": ""}, "missing_claim"),
    "a personal token's project": ("gitlab", {"project_id": "-20"}, "unfit_claim"),
    "another client of the provider": ("oidc", {"aud": "wiki"}, "wrong_audience"),
    "two clients": ("oidc", {"aud": ["modelvault-cli", "wiki"]}, "wrong_audience"),
    "the vault's audience, where a client's is configured": (
        "oidc",
        {"aud": AUDIENCE},
        "wrong_audience",
    ),
    "an address nobody verified": ("oidc", {"email_verified": False}, "unfit_claim"),
    "a guest": ("oidc", {"hd": None}, "missing_claim"),
    "another company": ("oidc", {"hd": "evil.example"}, "unfit_claim"),
    "groups in one text": ("oidc", {"groups": "admins"}, "malformed_token"),
    "another realm": ("oidc", {"iss": "https://idp.example/realms/guests"}, "unknown_issuer"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged(case: str) -> None:
    kind, changes, code = FORGED[case]
    with pytest.raises(AuthenticationError) as caught:
        who(kind, changes)
    assert caught.value.code == code
    assert caught.value.hint


OTHERS: dict[str, tuple[str, Claims, str, set[str]]] = {
    # what changes in the token; the principal; groups that come and go
    "a job without environment": (
        "github",
        {"environment": None},
        "gh:repository:74:ref:refs/heads/main",
        {"-gh:repository:74:environment:prod"},
    ),
    "a pull request": (
        "github",
        {"environment": None, "ref": "refs/pull/7/merge"},
        "gh:repository:74:ref:refs/pull/7/merge",
        {
            "-gh:repository:74:environment:prod",
            "-gh:repository:74:ref:refs/heads/main",
            "+gh:repository:74:ref:refs/pull/7/merge",
        },
    ),
    "a renamed repository stays itself": (
        "github",
        {"repository": "octo-org/other", "sub": "repo:octo-org/other:environment:prod"},
        "gh:repository:74:environment:prod",
        set(),
    ),
    "another repository of that name doesn't become it": (
        "github",
        {"repository_id": "75"},
        "gh:repository:75:environment:prod",
        {
            f"{sign}gh:repository:{number}{rest}"
            for sign, number in (("-", 74), ("+", 75))
            for rest in ("", ":environment:prod", ":ref:refs/heads/main")
        },
    ),
    "an environment that imitates a ref": (
        "github",
        {"environment": "x:ref:refs/heads/main", "ref": "refs/heads/evil"},
        "gh:repository:74:environment:x:ref:refs/heads/main",
        {
            "-gh:repository:74:environment:prod",
            "-gh:repository:74:ref:refs/heads/main",
            "+gh:repository:74:environment:x:ref:refs/heads/main",
            "+gh:repository:74:ref:refs/heads/evil",
        },
    ),
    "a protected branch": (
        "gitlab",
        {"ref_protected": "true", "ref_path": "refs/heads/main"},
        "gl:project:20:ref:refs/heads/main",
        {"+gl:project:20:protected", "+gl:project:20:protected:ref:refs/heads/main"},
    ),
    "ids and flags that aren't text": (
        "gitlab",
        {"project_id": 20, "namespace_id": 72, "ref_protected": True},
        "gl:project:20:ref:refs/heads/feature-branch-1",
        {
            "+gl:project:20:protected",
            "+gl:project:20:protected:ref:refs/heads/feature-branch-1",
        },
    ),
    "a protected environment": (
        "gitlab",
        {"environment_protected": "true"},
        "gl:project:20:ref:refs/heads/feature-branch-1",
        {"+gl:project:20:environment:test-environment2"},
    ),
    "a job without environment at GitLab": (
        "gitlab",
        {"environment": None, "environment_protected": None},
        "gl:project:20:ref:refs/heads/feature-branch-1",
        set(),
    ),
    "a person without groups": (
        "oidc",
        {"groups": None},
        "idp:f:5f3c:alice",
        {"-idp:ml-engineers", "-idp:offline_access"},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_tokens(case: str) -> None:
    kind, changes, subject, differences = OTHERS[case]
    found = who(kind, changes)
    before, after = set(MEANT[kind][1]), set(found.groups)
    assert found.id == subject
    assert {f"-{group}" for group in before - after} | {
        f"+{group}" for group in after - before
    } == differences


@pytest.mark.parametrize("kind", ["kubernetes", "github", "gitlab"])
def test_a_groups_claim_of_a_workloads_token_means_nothing(kind: str) -> None:
    assert who(kind, {"groups": ["admins"]}).groups == MEANT[kind][1]


def test_pods_of_one_account_are_one_principal_and_many_instances() -> None:
    pods = [f"6fb17cf0-a4ef-4c8a-8b4a-{number:012x}" for number in range(20)]
    found = [who("kubernetes", {"kubernetes.io": {"pod": {"uid": pod}}}) for pod in pods]
    assert {one.id for one in found} == {"prod:system:serviceaccount:serving:vllm"}
    assert [one.instance for one in found] == pods


@pytest.mark.parametrize(
    ("kind", "configured", "fits"),
    [
        ("kubernetes", {"namespaces": ["serving", "training"]}, True),
        ("kubernetes", {"namespaces": ["training"]}, False),
        ("github", {"repositories": ["74"]}, True),
        ("github", {"repositories": ["75"]}, False),
        ("github", {"owners": ["66"]}, False),
        ("gitlab", {"projects": ["20"], "namespaces": []}, True),
        ("gitlab", {"projects": ["21"]}, False),
    ],
    ids=str,
)
def test_a_configuration_that_means_fewer(kind: str, configured: Claims, fits: bool) -> None:
    if fits:
        assert who(kind, {}, configured).id == MEANT[kind][0]
        return
    with pytest.raises(AuthenticationError) as caught:
        who(kind, {}, configured)
    assert caught.value.code == "unfit_claim"


def test_paths_and_times_of_a_configuration(tmp_path: Path) -> None:
    told = CONFIGURED["kubernetes"] | {
        "jwks_file": "keys.json",
        "ca": "/etc/ca.pem",
        "token_file": "run/token",
        "refresh_s": 60,
        "stale_s": 600,
        "unknown_s": 5,
        "max_lifetime_s": 86_400,
        "leeway_s": 0,
        "algorithms": ["ES384"],
    }
    (found,) = presets.read([told], tmp_path)
    assert found.keys == KeySource(
        file=tmp_path / "keys.json",
        ca=Path("/etc/ca.pem"),
        token_file=tmp_path / "run/token",
        refresh_s=60,
        stale_s=600,
        unknown_s=5,
    )
    issuer = found.issuer
    assert (issuer.max_lifetime_s, issuer.leeway_s, issuer.algorithms) == (86_400, 0, ("ES384",))


def test_without_a_kind_it_is_any_openid_provider() -> None:
    told = {name: value for name, value in CONFIGURED["oidc"].items() if name != "kind"}
    assert presets.read([told]) == presets.read([CONFIGURED["oidc"]])


def test_a_servers_own_instance_needs_no_list() -> None:
    told = {"kind": "gitlab", "name": "own", "iss": "https://gitlab.acme.example"}
    (found,) = presets.read([told])
    assert isinstance(found, Trusted)
    assert found.keys.url == "https://gitlab.acme.example/oauth/discovery/keys"


BAD: dict[str, tuple[Claims, str]] = {
    "an unknown kind": ({"kind": "aws", "name": "x"}, "kind"),
    "no name": ({"kind": "github", "owners": ["1"]}, "name"),
    "all of GitHub": ({"kind": "github", "name": "gh"}, "owners"),
    "all of GitHub, spelled out": ({"kind": "github", "name": "gh", "owners": []}, "owners"),
    "an owner by name": ({"kind": "github", "name": "gh", "owners": ["octo-org"]}, "owners"),
    "all of GitLab": ({"kind": "gitlab", "name": "gl"}, "namespaces"),
    "no keys": ({"kind": "oidc", "name": "x", "iss": "https://x.example"}, "jwks"),
    "two places for keys": (
        CONFIGURED["kubernetes"] | {"jwks": "https://x.example", "jwks_file": "k.json"},
        "jwks",
    ),
    "a mistyped setting": (CONFIGURED["oidc"] | {"audiense": "x"}, "audiense"),
    "a secret's algorithm": (CONFIGURED["oidc"] | {"algorithms": ["HS256"]}, "algorithms"),
    "no algorithm": (CONFIGURED["oidc"] | {"algorithms": []}, "algorithms"),
    "a long leeway": (CONFIGURED["oidc"] | {"leeway_s": 31}, "leeway_s"),
    "an empty path": (CONFIGURED["oidc"] | {"ca": ""}, "path"),
    "a grace shorter than a round": (CONFIGURED["oidc"] | {"stale_s": 60}, "stale_s"),
    "no value allowed": (CONFIGURED["oidc"] | {"require": {"hd": []}}, "require"),
    "a name with a colon": (CONFIGURED["oidc"] | {"name": "a:b"}, "name"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_configuration_may_not_say(case: str) -> None:
    told, field = BAD[case]
    with pytest.raises(InvalidRequest) as caught:
        presets.read([told])
    assert caught.value.code == "bad_issuers"
    assert field in caught.value.message


def test_two_of_one_name() -> None:
    with pytest.raises(InvalidRequest):
        presets.read([CONFIGURED["github"], CONFIGURED["gitlab"] | {"name": "gh"}])

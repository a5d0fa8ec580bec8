"""What is refused nearby is refused over HTTP, by the same family and code."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from modelvault.access import Caller, Principal
from modelvault.errors import (
    AuthenticationError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.lease import LeaseAsk, PolicyBundle, Recipient
from modelvault.upload import DeclaredFile, Draft, PushAsk, PutAsk
from support.vaults import Vault

LONG = "x" * 3000
ID = "0" * 32
OBJECT = "objects/" + ID
PUT = PutAsk(seed=ID, sizes=(1,))
SUBJECT = Principal(id="local:i", issuer="local", groups=(), claims={}, issued_at=0, expires_at=0)
PUSH = PushAsk(reference="m", files=(DeclaredFile("x", 1),), nonce=b"0" * 16,
               recipient=Recipient("x25519", b"x" * 32))  # fmt: skip
ASK = LeaseAsk(reference="m", purpose="inference", nonce=b"0" * 16,
               recipient=Recipient("x25519", b"x" * 32), fulfils=())  # fmt: skip

# (family, code, call with a broker and a caller)
Case = tuple[type[ModelVaultError], str, Callable]
BAD = InvalidRequest


def ask(**changes: object) -> LeaseAsk:
    return msgspec.structs.replace(ASK, **changes)


def push(**changes: object) -> PushAsk:
    return msgspec.structs.replace(PUSH, **changes)


REFERENCES: list[Case] = [
    (BAD, "bad_reference", lambda b, c, r=reference: b.show(c, r))
    for reference in ("", "m\0", "../m", "ü", "m m", "m:", "m@0", "m@x", "a/b/c", LONG, "m?x=1&y#z")
]
PAGES: list[Case] = [
    (BAD, "bad_limit", call)
    for limit in (0, -1, 10**6)
    for call in (
        lambda b, c, n=limit: b.list(c, tenant="default", limit=n),
        lambda b, c, n=limit: b.leases(c, limit=n),
        lambda b, c, n=limit: b.entries(c, limit=n),
        lambda b, c, n=limit: b.last_entries(c, limit=n),
    )
] + [
    (BAD, "bad_filter", lambda b, c: b.list(c, tenant="default", filter="*" + LONG)),
    (BAD, "out_of_range", lambda b, c: b.entries(c, after=2**70)),
    (BAD, "out_of_range", lambda b, c: b.last_entries(c, before=2**70)),
]
STEWARDS: list[Case] = [
    (BAD, "bad_text", lambda b, c: b.create(c, "n", owner=LONG, classification="internal")),
    (BAD, "bad_reference", lambda b, c: b.tag(c, "m@1", LONG)),
    (BAD, "bad_kind", lambda b, c: b.revoke(c, kind="model", target="m", reason="x")),
    (NotFound, "no_lease", lambda b, c: b.revoke(c, kind="lease", target="zz", reason="x")),
    (BAD, "bad_text", lambda b, c: b.revoke(c, kind="principal", target="local:x", reason=LONG)),
    (BAD, "bad_duration",
     lambda b, c: b.revoke(c, kind="principal", target="local:x", reason="r", for_s=0)),
    (BAD, "out_of_range",
     lambda b, c: b.revoke(c, kind="principal", target="local:x", reason="r", for_s=2**62)),
    (BAD, "bad_reference", lambda b, c: b.leases(c, reference="not a name")),
    (BAD, "bad_action",
     lambda b, c: b.explain(c, action="weird", reference="m", purpose=None, subject=None)),
    (BAD, "bad_text",
     lambda b, c: b.explain(c, action="load", reference="m", purpose=LONG, subject=None)),
    (BAD, "bad_document",
     lambda b, c: b.explain(c, action="load", reference="m", purpose=None, subject=(
         msgspec.structs.replace(SUBJECT, claims={"x": object()})))),
    (BAD, "bad_revision", lambda b, c: b.policy(c, "weird")),
    (BAD, "bad_revision", lambda b, c: b.publish_policy(c, "weird")),
    (BAD, "policy_elsewhere", lambda b, c: b.keep_policy(c, PolicyBundle(modules={}, data="x"))),
    (Unavailable, "policy_unavailable", lambda b, c: b.publish_policy(c, "sha256:" + 64 * "0")),
]  # fmt: skip
ASKS: list[Case] = [
    (BAD, "bad_document", lambda b, c: b.lease(c, ask(purpose=""))),
    (BAD, "bad_document", lambda b, c: b.lease(c, ask(purpose="x" * 65))),
    (BAD, "bad_document", lambda b, c: b.lease(c, ask(nonce=b""))),
    (BAD, "bad_document", lambda b, c: b.lease(c, ask(reference=5))),
    (BAD, "bad_document", lambda b, c: b.lease(c, ask(recipient=Recipient("odd", b"x" * 32)))),
    (BAD, "bad_document", lambda b, c: b.open_version(c, push(files=(DeclaredFile("x", -1),)))),
    (BAD, "bad_document", lambda b, c: b.open_version(c, push(files=(DeclaredFile("x", 2**60),)))),
]
IDS: list[Case] = [
    (NotFound, f"no_{kind}", lambda b, c, i=key, call=call: call(b, c, i))
    for key in (ID, "", "..", "a/b", "../x", "zz zz", "a?b", "a#b", "\0", "é", "0" * 65)
    for kind, call in (
        ("lease", lambda b, c, i: b.renew(c, i, LONG)),
        ("lease", lambda b, c, i: b.lease_links(c, i, ("weird",))),
        ("upload", lambda b, c, i: b.commit(c, i, Draft(files=()))),
        ("upload", lambda b, c, i: b.abandon(c, i)),
        ("upload", lambda b, c, i: b.put_links(c, i, PUT)),
        ("upload", lambda b, c, i: b.put_done(c, i, PUT)),
    )
] + [
    (NotFound, "no_version", lambda b, c: b.pull(c, "m@9")),
    (NotFound, "no_object", lambda b, c: b.pull_links(c, "m@1", ("weird",))),
    (BAD, "bad_links", lambda b, c: b.pull_links(c, "m@1", (OBJECT,) * 1001)),
]
TOKENS: list[Case] = [
    (AuthenticationError, code, lambda b, _c, t=token: b.whoami(Caller(token=t)))
    for token, code in (
        ("", "malformed_token"), ("x", "malformed_token"), ("x y", "malformed_token"),
        ("a\nb", "malformed_token"), ("ü.b.c", "malformed_token"), ("a.b.c", "malformed_token"),
        ("a" * 20_000, "token_too_large"),
    )
]  # fmt: skip
CASES = [*REFERENCES, *PAGES, *STEWARDS, *ASKS, *IDS, *TOKENS]


def test_near_and_far_alike(vault: Vault) -> None:
    vault.create("m")
    vault.push("m", {"a.bin": b"a"})
    vault.push("m", {"a.bin": b"b"})
    caller = vault.caller()
    wrong = []
    for number, (family, code, call) in enumerate(CASES):
        try:
            call(vault.broker, caller)
        except ModelVaultError as error:
            found = (type(error), error.code)
        else:
            found = None
        if found != (family, code):
            wrong.append((number, (family.__name__, code), found))
    assert wrong == []


def test_what_is_told_with_it_too(vault: Vault) -> None:
    """Message, hint and details: word by word what the broker itself says."""
    vault.create("m")
    for call in (
        lambda b: b.show(vault.caller(), "nosuch"),
        lambda b: b.lease(vault.caller(), ask(reference="m@3")),
        lambda b: b.leases(vault.caller(), limit=0),
        lambda b: b.whoami(vault.caller(lifetime_s=-7200)),
    ):
        errors = []
        for broker in (vault.local, vault.broker):  # type: ignore[attr-defined]
            try:
                call(broker)
            except ModelVaultError as error:
                errors.append(error)
        near, far = errors
        assert type(near) is type(far)
        assert (near.code, near.message, near.hint) == (far.code, far.message, far.hint)
        assert {**near.details} == {**far.details}

"""Policies that a service keeps: signed, verified whenever they count, told of when they don't."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from modelvault import canonical
from modelvault.broker.kept import Kept, KeptPolicies
from modelvault.crypto.dsse import Signature
from modelvault.errors import Conflict, InvalidRequest, NotFound, Unavailable
from modelvault.lease import PolicyBundle
from modelvault.policy import archive, shipped
from modelvault.policy.bundle import Bundle
from modelvault_policies import files
from support.vaults import Vault, opened

POLICY = PolicyBundle(modules=files.modules(), data=json.dumps(files.data()))
OTHER = PolicyBundle(modules={**files.modules(), "site/x.rego": "package x\n"}, data=POLICY.data)
REVISION = shipped.bundle().revision


class Shelf:
    """Bytes by revision, as anybody with the database may change them."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def put_bundle(self, revision: str, bundle: bytes) -> None:
        if self.held.setdefault(revision, bundle) != bundle:
            raise Conflict("bundle_exists", "no")

    def bundle(self, revision: str) -> bytes:
        if revision not in self.held:
            raise NotFound("no_bundle", "no")
        return self.held[revision]

    def bundles(self) -> list[tuple[str, int]]:
        return [(revision, 1_700_000_000_000) for revision in self.held]

    def change(self, revision: str, **fields: object) -> None:
        kept = canonical.decode(self.held[revision], Kept, limit=1 << 24, what="kept")
        self.held[revision] = canonical.encode(msgspec.structs.replace(kept, **fields))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def kept(vault: Vault, shelf: Shelf) -> KeptPolicies:
    return KeptPolicies(vault.trust, shelf, vault.keyring)


def of(kept: KeptPolicies, revision: str) -> tuple[str, str]:
    """Code and message of what reading a policy for a decision raises."""
    found = set()
    for read in (kept.bundle, kept.archive):
        with pytest.raises(Unavailable) as refused:
            read(revision)
        found.add((refused.value.code, refused.value.hint))
    ((code, hint),) = found
    return code, hint


def test_what_is_kept_comes_back(kept: KeptPolicies, shelf: Shelf) -> None:
    assert kept.keep(POLICY) == REVISION
    assert kept.bundle(REVISION) == shipped.bundle()
    assert archive.unpack(kept.archive(REVISION)) == shipped.bundle()
    read = kept.read(REVISION)
    assert (read.modules, json.loads(read.data)) == (POLICY.modules, files.data())
    (told,) = kept.revisions(REVISION)
    assert (told.revision, told.current) == (REVISION, True)
    assert told.kept_at == "2023-11-14T22:13:20.000Z"
    assert not kept.revisions(None)[0].current


def test_a_broker_of_the_same_vault_reads_what_another_kept(
    vault: Vault, kept: KeptPolicies, shelf: Shelf
) -> None:
    kept.keep(POLICY)
    assert KeptPolicies(vault.trust, shelf, vault.keyring).bundle(REVISION) == shipped.bundle()


def test_keeping_twice_signs_once(kept: KeptPolicies, shelf: Shelf) -> None:
    kept.keep(POLICY)
    before = dict(shelf.held)
    assert kept.keep(POLICY) == REVISION
    assert shelf.held == before


def test_two_brokers_at_the_same_time(vault: Vault, shelf: Shelf) -> None:
    """Their archives differ where OPA's signature is random: the first one stands."""
    one, two = (
        KeptPolicies(vault.trust, shelf, vault.keyring, Random(number)) for number in (1, 2)
    )

    class Late(Shelf):
        def bundle(self, revision: str) -> bytes:
            if revision not in self.held:
                one._shelf = shelf
                self.held[revision] = b""  # asked once: from now on the other's is there
                del self.held[revision]
                one.keep(POLICY)
                self.held = shelf.held
                raise NotFound("no_bundle", "no")
            return super().bundle(revision)

    two._shelf = Late()
    assert two.keep(POLICY) == REVISION
    assert two.bundle(REVISION) == shipped.bundle()
    assert len(shelf.held) == 1


class Random:
    """A signer whose signatures all differ, as ES256's do."""

    def __init__(self, number: int) -> None:
        self._number = number

    def sign(self, _data: bytes) -> bytes:
        return bytes([self._number]) * 64

    def public_pem(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("what", "alter"),
    [
        ("bytes", lambda shelf, _: shelf.held.update({REVISION: b"{}"})),
        ("nothing", lambda shelf, _: shelf.held.clear()),
        ("the archive of another policy",
         lambda shelf, other: shelf.change(REVISION, archive=other.archive)),
        ("an archive of their own",
         lambda shelf, _: shelf.change(
             REVISION,
             archive=archive.pack(Bundle(modules={}, data={"grants": []}), None))),
        ("no archive", lambda shelf, _: shelf.change(REVISION, archive=b"")),
        ("the record of another policy",
         lambda shelf, other: shelf.change(REVISION, record=other.record)),
        ("another policy whole",
         lambda shelf, other: shelf.held.update({REVISION: canonical.encode(other)})),
        ("a signature of their own",
         lambda shelf, other: shelf.change(
             REVISION,
             record=msgspec.structs.replace(
                 other.record, signatures=(Signature("sha256:" + "0" * 64, b"s" * 64),)))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_altered_shelf_is_an_outage(
    kept: KeptPolicies, shelf: Shelf, what: str, alter: Callable[[Shelf, Kept], None]
) -> None:
    kept.keep(POLICY)
    other = canonical.decode(shelf.held[kept.keep(OTHER)], Kept, limit=1 << 24, what="kept")
    alter(shelf, other)
    if "archive" in what:
        # The record stands. OPA verifies archives by itself; here the revision tells.
        with pytest.raises(Unavailable) as refused:
            kept.bundle(REVISION)
        assert refused.value.code == "policy_unavailable"
        return
    code, hint = of(kept, REVISION)
    assert code == "policy_unavailable"
    assert "policy publish" in hint


def test_a_policy_of_another_vault(kept: KeptPolicies, shelf: Shelf, folder) -> None:
    (folder / "other").mkdir()
    with opened(folder / "other") as other:
        KeptPolicies(other.trust, shelf, other.keyring).keep(POLICY)
    assert of(kept, REVISION)[0] == "policy_unavailable"


def test_one_that_isnt_kept(kept: KeptPolicies) -> None:
    with pytest.raises(NotFound) as refused:
        kept.read("sha256:" + "0" * 64)
    assert refused.value.code == "no_policy"
    assert of(kept, "sha256:" + "0" * 64)[0] == "policy_unavailable"


@pytest.mark.parametrize(
    ("modules", "data", "named"),
    [
        ({"../x.rego": ""}, "{}", "../x.rego"),
        ({"x.rego": ""}, "{}", "x.rego"),
        ({"modelvault//x.rego": ""}, "{}", "modelvault//x.rego"),
        ({"site/x.json": ""}, "{}", "site/x.json"),
        ({"site/" + "x" * 100 + ".rego": ""}, "{}", "site/x"),
        ({"site/ü.rego": ""}, "{}", "site/"),
        ({}, "[]", "data.json"),
        ({}, "{", "data.json"),
        ({}, '{"limits": {"max_ttl": 1}}', "data.json"),
        ({"site/x.rego": "#" * (8 << 20)}, "{}", "too large"),
    ],
)
def test_what_is_never_kept(
    kept: KeptPolicies, shelf: Shelf, modules: dict[str, str], data: str, named: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        kept.keep(PolicyBundle(modules=modules, data=data))
    assert refused.value.code == "bad_policy"
    assert named in refused.value.message
    assert not shelf.held

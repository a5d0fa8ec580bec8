"""Contract of Broker and Steward: the same values and the same errors, near and far."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
import pytest

from modelvault.access import Caller, Principal
from modelvault.crypto import derive, hpke
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.lease import Links, PolicyBundle, Recipient
from modelvault.upload import CompareAsk, Draft, PutAsk, ResumeAsk
from support.vaults import Vault, allow, deny, obligation

FILES = {"a.bin": b"a" * 1000, "b/c.json": b"{}", "empty": b""}


def refused(family: type[ModelVaultError], code: str, call: Callable[[], object]) -> dict:
    with pytest.raises(family) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.message
    return dict(caught.value.details)


@pytest.fixture
def pushed(vault: Vault) -> Vault:
    vault.create("m")
    vault.push("m", FILES, labels={"team": "search"})
    return vault


class TestWalks:
    def test_what_goes_in_comes_out(self, pushed: Vault) -> None:
        assert pushed.load("m") == FILES
        assert pushed.load("m@1", files=("a.bin",)) == {"a.bin": FILES["a.bin"]}

    def test_a_lease_lives_and_ends(self, pushed: Vault) -> None:
        pushed.policy.rule = lambda _: allow(obligation("max_ttl_s", 60), obligation("grace_s", 5))
        job = pushed.lease("m")
        assert (job.lease.ttl_s, job.lease.obligations.grace_s) == (60, 5)
        pushed.clock.advance(30)
        renewal = pushed.broker.renew(pushed.caller(), job.lease.id, job.key_hash)
        assert (renewal.ttl_s, renewal.obligations.max_ttl_s) == (60, 60)
        pushed.broker.release(pushed.caller(), job.lease.id)
        pushed.broker.release(pushed.caller(), job.lease.id)
        refused(
            AccessDenied,
            "lease_ended",
            lambda: pushed.broker.renew(pushed.caller(), job.lease.id, job.key_hash),
        )

    def test_the_same_ask_is_the_same_lease(self, pushed: Vault) -> None:
        ask, _ = pushed.ask("m")
        one = pushed.broker.lease(pushed.caller(), ask)
        other = pushed.broker.lease(pushed.caller(), ask)
        assert (one.id, one.receipt) == (other.id, other.receipt)

    def test_tags_and_looking(self, pushed: Vault) -> None:
        pushed.broker.tag(pushed.caller(), "m@1", "prod")
        (listed,) = pushed.broker.list(pushed.caller(), tenant="default", filter="m*", limit=5)
        assert (listed.model, listed.latest, listed.tags[0].tag) == ("m", 1, "prod")
        assert pushed.broker.list(pushed.caller(), tenant="default", after="m") == ()
        detail = pushed.broker.show(pushed.caller(), "m:prod")
        assert detail.signed is not None
        assert detail.signed.tag is not None
        assert pushed.broker.pull(pushed.caller(), "m@1").manifest == detail.signed.manifest

    def test_classifying_rotating_deleting(self, pushed: Vault) -> None:
        changed = pushed.broker.classify(
            pushed.caller(), "m", owner="local:bob", classification=None
        )
        assert (changed.owner, changed.classification) == ("local:bob", "internal")
        rotated = pushed.broker.rotate(pushed.caller(), "m")
        assert (rotated.kek_version, rotated.rewrapped) == (2, 2)  # DEK and content key
        pushed.push("m", FILES)
        pushed.broker.delete(pushed.caller(), "m@1")
        assert [v.version for v in pushed.broker.show(pushed.caller(), "m").versions] == [2]
        swept = pushed.broker.gc(pushed.caller(), dry_run=True)
        assert (swept.versions, swept.uploads) == (0, 0)

    def test_revoking_and_listing_leases(self, pushed: Vault) -> None:
        job = pushed.lease("m", caller=pushed.caller("bob"))
        (running,) = pushed.broker.leases(pushed.caller(), reference="m")
        assert (running.id, running.subject) == (job.lease.id, "local:bob")
        ended = pushed.broker.revoke(
            pushed.caller(), kind="principal", target="local:bob", reason="left", for_s=60
        )
        assert ended == 1
        assert pushed.broker.leases(pushed.caller()) == ()
        (over,) = pushed.broker.leases(pushed.caller(), ended=True, limit=1)
        assert over.end_reason == "revoked"

    def test_the_log_by_pages(self, pushed: Vault) -> None:
        first = pushed.broker.entries(pushed.caller(), limit=2)
        assert first.next is not None
        rest = pushed.broker.entries(pushed.caller(), after=first.next, reference="m")
        assert [e.seq for e in (*first.entries, *rest.entries)] == sorted(
            {e.seq for e in (*first.entries, *rest.entries)}
        )

    def test_the_end_of_the_log(self, pushed: Vault) -> None:
        whole = pushed.broker.entries(pushed.caller()).entries
        last = pushed.broker.last_entries(pushed.caller(), limit=2)
        assert last == whole[-2:]
        before = pushed.broker.last_entries(pushed.caller(), before=last[0].seq, limit=1)
        assert before == whole[-3:-2]
        of_m = pushed.broker.last_entries(pushed.caller(), reference="m")
        assert of_m == tuple(one for one in whole if one.model == "m")

    def test_who_and_why(self, pushed: Vault) -> None:
        me = pushed.broker.whoami(pushed.caller(claims={"team": "search"}))
        assert (me.id, me.groups, me.claims) == (
            "local:alice",
            ("local:admins",),
            {"team": "search"},
        )
        pushed.policy.rule = lambda document: (
            allow() if document["subject"]["id"] == "local:alice" else deny("no")
        )
        told = pushed.broker.explain(
            pushed.caller(), action="load", reference="m", purpose="inference",
            subject=Principal(id="local:eve", issuer="local", groups=("local:x",), claims={"a": 1},
                              issued_at=0, expires_at=1, instance="pod"),
        )  # fmt: skip
        assert (told.allowed, told.reasons) == (False, ("no",))

    def test_giving_an_upload_up(self, vault: Vault) -> None:
        vault.create("m")
        upload, draft = vault.upload("m", FILES)
        vault.broker.abandon(vault.caller(), upload.id)
        refused(
            NotFound, "no_upload", lambda: vault.broker.commit(vault.caller(), upload.id, draft)
        )


class TestLinks:
    def test_reading_what_was_granted(self, pushed: Vault) -> None:
        job = pushed.lease("m", files=("a.bin",))
        manifest = pushed.ledger.version("default", "m", 1).manifest.payload
        files = {f["path"]: f for f in msgspec.json.decode(manifest)["files"]}
        mine = (files["a.bin"]["object"], files["a.bin"]["leaves"])
        links = pushed.broker.lease_links(pushed.caller(), job.lease.id, mine)
        assert [link.object for link in links.links] == list(mine)
        assert 0 < links.ttl_s <= 900
        other = (files["b/c.json"]["object"],)
        for asked in (other, (*mine, *other), ("objects/" + "0" * 32,)):
            refused(
                NotFound,
                "no_object",
                lambda asked=asked: pushed.broker.lease_links(pushed.caller(), job.lease.id, asked),
            )
        refused(
            NotFound,
            "no_lease",
            lambda: pushed.broker.lease_links(pushed.caller("bob"), job.lease.id, mine),
        )
        pushed.broker.release(pushed.caller(), job.lease.id)
        refused(
            AccessDenied,
            "lease_ended",
            lambda: pushed.broker.lease_links(pushed.caller(), job.lease.id, mine),
        )

    def test_links_end_with_the_lease(self, pushed: Vault) -> None:
        pushed.policy.rule = lambda _: allow(obligation("max_ttl_s", 100))
        job = pushed.lease("m")
        pushed.clock.advance(90)
        assert pushed.broker.lease_links(pushed.caller(), job.lease.id, ()).ttl_s == 10

    def test_a_lease_that_ran_out_is_no_denial_before_somebody_says_so(self, pushed: Vault) -> None:
        """After an outage, within its grace: who reads may be quicker than who renews."""
        rule = allow(obligation("max_ttl_s", 100), obligation("grace_s", 60))
        pushed.policy.rule = lambda _: rule
        job = pushed.lease("m")

        def links() -> Links:
            return pushed.broker.lease_links(pushed.caller(), job.lease.id, ())

        pushed.clock.advance(130)
        refused(Unavailable, "lease_lapsed", links)
        pushed.broker.renew(pushed.caller(), job.lease.id, job.key_hash)
        assert links().ttl_s == 100

    def test_pulling(self, pushed: Vault) -> None:
        manifest = pushed.ledger.version("default", "m", 1).manifest.payload
        names = tuple(f["object"] for f in msgspec.json.decode(manifest)["files"])
        links = pushed.broker.pull_links(pushed.caller(), "m@1", names)
        assert [link.object for link in links.links] == list(names)
        pushed.policy.rule = lambda document: (
            deny("no") if document["action"]["name"] == "pull" else allow()
        )
        refused(
            AccessDenied, "denied", lambda: pushed.broker.pull_links(pushed.caller(), "m@1", names)
        )

    def test_putting_in_one_request(self, vault: Vault) -> None:
        vault.create("m")
        upload, _ = vault.open("m", FILES)
        seed = secrets.token_hex(16)
        putting = vault.broker.put_links(vault.caller(), upload.id, PutAsk(seed=seed, sizes=(7,)))
        assert putting.object == derive.object_name(upload.id, seed)
        assert putting.transfer is None
        assert [link.part for link in putting.links] == [None]
        refused(
            InvalidRequest,
            "bad_links",
            lambda: vault.broker.put_done(vault.caller(), upload.id, PutAsk(seed=seed, sizes=(7,))),
        )

    def test_putting_in_parts(self, vault: Vault) -> None:
        vault.create("m")
        upload, _ = vault.open("m", FILES)
        ask = PutAsk(seed=secrets.token_hex(16), sizes=(10, 10, 5), parts=(1, 2))
        putting = vault.broker.put_links(vault.caller(), upload.id, ask)
        assert [link.part for link in putting.links] == [1, 2]
        going_on = msgspec.structs.replace(ask, transfer=putting.transfer, parts=())
        sent = vault.links.sent[putting.object, putting.transfer]  # type: ignore[attr-defined]
        sent.update({1: 10, 2: 9})
        told = vault.broker.put_links(vault.caller(), upload.id, going_on)
        assert told.done == (1,)  # part 2 has another size: it is put again
        done = lambda: vault.broker.put_done(vault.caller(), upload.id, going_on)  # noqa: E731
        refused(IntegrityError, "parts_missing", done)
        sent.update({2: 10, 3: 5})
        done()
        done()
        beyond = msgspec.structs.replace(ask, parts=(4,))
        refused(
            InvalidRequest,
            "bad_links",
            lambda: vault.broker.put_links(vault.caller(), upload.id, beyond),
        )

    def test_somebody_elses_upload(self, vault: Vault) -> None:
        vault.create("m")
        upload, _ = vault.open("m", FILES)
        ask = PutAsk(seed="0" * 32, sizes=(1,))
        for call in (
            lambda: vault.broker.put_links(vault.caller("bob"), upload.id, ask),
            lambda: vault.broker.put_done(vault.caller("bob"), upload.id, ask),
            lambda: vault.broker.put_links(vault.caller(), "0" * 32, ask),
            lambda: vault.broker.resume(vault.caller("bob"), upload.id, resume_ask()[0]),
        ):
            refused(NotFound, "no_upload", call)

    def test_an_upload_that_goes_on(self, vault: Vault) -> None:
        """The same keys for a new recipient, as long as the policy allows the push."""
        vault.create("m")
        upload, keys = vault.open("m", FILES)
        ask, key = resume_ask()
        vault.clock.advance(3600)
        resumed = vault.broker.resume(vault.caller(), upload.id, ask)
        assert (resumed.id, resumed.artifact) == (upload.id, upload.artifact)
        assert resumed.expires_at > upload.expires_at
        again = vault.opened_keys(resumed, ask, key, sorted(FILES))
        assert again == keys
        vault.policy.rule = lambda _: deny("no")
        refused(NotFound, "no_model", lambda: vault.broker.resume(vault.caller(), upload.id, ask))

    def test_unchanged_files(self, pushed: Vault) -> None:
        changed = FILES | {min(FILES): b"changed"}
        before = len(pushed.objects())
        two = pushed.push_again("m", changed)
        assert two.version == 2
        assert len(pushed.objects()) == before + 2
        assert pushed.load("m@2") == changed
        upload, keys = pushed.open("m", changed)
        assert upload.candidates == tuple(sorted(FILES))
        wrong = pushed.tag(upload, min(FILES), FILES[min(FILES)], keys)
        compared = pushed.broker.compare(pushed.caller(), upload.id, CompareAsk(files=(wrong,)))
        assert compared.files == ()
        refused(
            NotFound,
            "no_upload",
            lambda: pushed.broker.compare(
                pushed.caller("bob"), upload.id, CompareAsk(files=(wrong,))
            ),
        )
        refused(
            InvalidRequest,
            "not_as_declared",
            lambda: pushed.broker.compare(
                pushed.caller(), upload.id, CompareAsk(files=(wrong, wrong))
            ),
        )

    def test_an_upload_that_is_used_lives_on(self, vault: Vault) -> None:
        vault.create("m")
        upload, _ = vault.open("m", FILES)
        for _ in range(3):
            vault.clock.advance(20 * 3600)
            vault.broker.put_links(vault.caller(), upload.id, PutAsk(seed="0" * 32, sizes=(1,)))
        vault.clock.advance(25 * 3600)
        refused(
            Conflict,
            "upload_closed",
            lambda: vault.broker.put_links(
                vault.caller(), upload.id, PutAsk(seed="0" * 32, sizes=(1,))
            ),
        )


def resume_ask() -> tuple[ResumeAsk, hpke.RecipientKey]:
    key = hpke.generate(hpke.CLASSIC)
    recipient = Recipient(key.suite, key.public)
    return ResumeAsk(nonce=secrets.token_bytes(16), recipient=recipient), key


class TestErrors:
    def test_a_denial_says_all_that_it_says_nearby(self, pushed: Vault) -> None:
        pushed.policy.rule = lambda document: (
            allow() if document["action"]["name"] == "show" else deny("wrong_purpose", "night")
        )
        told = refused(AccessDenied, "denied", lambda: pushed.lease("m"))
        assert told["reasons"] == ["wrong_purpose", "night"]
        assert (told["subject"], told["model"]) == ("local:alice", "default/m@1")
        assert told["decision_id"]

    @pytest.mark.parametrize(
        ("call", "family", "code"),
        [
            (lambda v: v.broker.show(v.caller(), "nosuch"), NotFound, "no_model"),
            (lambda v: v.broker.show(v.caller(), "not a name"), InvalidRequest, "bad_reference"),
            (lambda v: v.create("m"), Conflict, "model_exists"),
            (lambda v: v.broker.whoami(Caller(token="x.y.z")), AuthenticationError,
             "malformed_token"),
            (lambda v: v.broker.list(v.caller(), tenant="default", limit=10**6), InvalidRequest,
             "bad_limit"),
            (lambda v: v.broker.revoke(v.caller(), kind="model", target="m", reason="x"),
             InvalidRequest, None),
            (lambda v: v.broker.publish_policy(v.caller(), "sha256:" + "0" * 64), Unavailable,
             "policy_unavailable"),
            (lambda v: v.broker.keep_policy(v.caller(), PolicyBundle(modules={}, data="{}")),
             InvalidRequest, "policy_elsewhere"),
            (lambda v: v.broker.policy(v.caller(), None), InvalidRequest, "policy_elsewhere"),
            (lambda v: v.broker.policies(v.caller()), InvalidRequest, "policy_elsewhere"),
            (lambda v: v.broker.commit(v.caller(), "0" * 32, Draft(files=())), NotFound,
             "no_upload"),
        ],
    )  # fmt: skip
    def test_families_and_codes(
        self, pushed: Vault, call: Callable, family: type, code: str | None
    ) -> None:
        with pytest.raises(family) as caught:
            call(pushed)
        if code is not None:
            assert caught.value.code == code

    def test_an_outage_is_an_outage(self, pushed: Vault) -> None:
        def down(_name: str) -> None:
            raise Unavailable("ledger_unavailable", "the ledger is down", "start it", part="x")

        pushed.ledger.before = down
        told = refused(
            Unavailable, "ledger_unavailable", lambda: pushed.broker.whoami(pushed.caller())
        )
        assert told == {"part": "x"}

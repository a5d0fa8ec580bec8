"""Contract: many processes write one version, each with the keys of its own files alone."""

from __future__ import annotations

import msgspec
import pytest

from modelvault.access import Caller
from modelvault.client.keys import PushKeys
from modelvault.crypto import hpke
from modelvault.errors import (
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
)
from modelvault.identity.binding import key_hash
from modelvault.lease import Recipient
from modelvault.upload import Draft, PushAsk, PutAsk, ResumeAsk, Upload
from support.vaults import Vault, deny, one_time, push_ask

FILES = {"model.index.json": b"{}", "rank-0": b"a" * 300, "rank-1": b"b" * 300, "rank-2": b""}


class Rank:
    """A process with a key of its own."""

    def __init__(self, suite: str = hpke.CLASSIC) -> None:
        self.key, self.recipient, self.nonce = one_time(suite)
        self.hash = key_hash(self.key.suite, self.key.public)

    def open(self, vault: Vault, keys: tuple[str, ...] | None, caller: Caller) -> Upload:
        ask = push_ask("m", FILES, self.recipient, self.nonce)
        return vault.broker.open_version(caller, msgspec.structs.replace(ask, keys=keys))

    def join(self, vault: Vault, upload: str, paths: tuple[str, ...], caller: Caller) -> Upload:
        ask = ResumeAsk(nonce=self.nonce, recipient=self.recipient, keys=paths)
        return vault.broker.resume(caller, upload, ask)

    def keys(self, vault: Vault, answer: Upload, paths: tuple[str, ...]) -> PushKeys:
        return vault.opened_keys(answer, self, self.key, paths)


@pytest.fixture
def made(vault: Vault) -> Vault:
    vault.create("m")
    return vault


def test_many_write_one_version(made: Vault) -> None:
    own = [("model.index.json", "rank-0"), ("rank-1",), ("rank-2",)]
    ranks = [Rank() for _ in own]
    opened = ranks[0].open(made, own[0], made.caller())
    answers = [opened] + [
        rank.join(made, opened.id, paths, made.caller())
        for rank, paths in zip(ranks[1:], own[1:], strict=True)
    ]
    put = []
    for rank, answer, paths in zip(ranks, answers, own, strict=True):
        assert (answer.id, answer.artifact) == (opened.id, opened.artifact)
        keys = rank.keys(made, answer, paths)
        assert tuple(keys.files) == paths
        put += [made.put(answer, path, FILES[path], keys) for path in paths]
    draft = Draft(files=tuple(sorted(put, key=lambda file: file.path)))
    published = made.broker.commit(made.caller(), opened.id, draft)
    assert published.version == 1
    assert made.load("m") == FILES
    steps = [one.details.get("step") for one in made.entries("push")]
    assert steps[1:] == [None, "join", "join", None]  # the first: the model's content key


def test_a_rank_gets_no_key_of_another(made: Vault) -> None:
    """What was sealed for it holds its own files' keys and no more bytes; a claim to others doesn't
    open, since the paths are in what the keys are bound to."""
    opened = Rank().open(made, ("rank-0",), made.caller())
    rank = Rank()
    answer = rank.join(made, opened.id, ("rank-1",), made.caller())
    with pytest.raises(ModelVaultError) as refused:
        rank.keys(made, answer, ("rank-0",))
    assert (type(refused.value), refused.value.code) == (IntegrityError, "not_for_us")
    enc, tag, keys = 32, 16, 2 * 32
    assert len(answer.sealed) == enc + keys + tag
    assert len(opened.sealed) == enc + keys + tag


def test_in_the_order_that_was_asked_for(made: Vault) -> None:
    opened = Rank().open(made, None, made.caller())
    rank = Rank()
    answer = rank.join(made, opened.id, ("rank-2", "rank-0"), made.caller())
    keys = rank.keys(made, answer, ("rank-2", "rank-0"))
    again = Rank()
    turned = again.join(made, opened.id, ("rank-0", "rank-2"), made.caller())
    assert again.keys(made, turned, ("rank-0", "rank-2")).files == keys.files


@pytest.mark.parametrize("paths", [("nowhere",), ("rank-1", "rank-1"), ("rank-1", "nowhere")])
def test_files_that_werent_declared(made: Vault, paths: tuple[str, ...]) -> None:
    opened = Rank().open(made, None, made.caller())
    for call in (
        lambda: Rank().join(made, opened.id, paths, made.caller()),
        lambda: Rank().open(made, paths, made.caller()),
    ):
        with pytest.raises(InvalidRequest) as refused:
            call()
        assert refused.value.code == "not_as_declared"


def test_no_keys_at_all_are_no_ask(made: Vault) -> None:
    opened = Rank().open(made, None, made.caller())
    with pytest.raises(InvalidRequest):
        Rank().join(made, opened.id, (), made.caller())


def test_another_identity_cant_join(made: Vault) -> None:
    opened = Rank().open(made, ("rank-0",), made.caller())
    with pytest.raises(NotFound) as refused:
        Rank().join(made, opened.id, ("rank-1",), made.caller("bob"))
    assert refused.value.code == "no_upload"


def test_the_policy_is_asked_anew(made: Vault) -> None:
    opened = Rank().open(made, ("rank-0",), made.caller())
    made.policy.rule = lambda _: deny("night")
    with pytest.raises(NotFound) as refused:  # it may not even see the model any more
        Rank().join(made, opened.id, ("rank-1",), made.caller())
    assert refused.value.code == "no_model"


def test_after_the_end(made: Vault) -> None:
    opened = Rank().open(made, ("rank-0",), made.caller())
    made.broker.abandon(made.caller(), opened.id)
    with pytest.raises(NotFound):
        Rank().join(made, opened.id, ("rank-1",), made.caller())
    late = Rank().open(made, ("rank-0",), made.caller())
    made.clock.advance(25 * 3600)
    with pytest.raises(Conflict) as refused:
        Rank().join(made, late.id, ("rank-1",), made.caller())
    assert refused.value.code == "upload_closed"


def test_what_dead_processes_leave_goes_in_its_time(made: Vault) -> None:
    """docs/engines/saving.md: the one that opened it died, and one that joined has put a file."""
    leader, rank = Rank(), Rank()
    opened = leader.open(made, ("rank-0",), made.caller())
    answer = rank.join(made, opened.id, ("rank-1",), made.caller())
    made.put(answer, "rank-1", FILES["rank-1"], rank.keys(made, answer, ("rank-1",)))
    assert len(made.objects()) == 2
    for hours, uploads, objects in ((23, 0, 2), (1.5, 1, 2), (1, 0, 0)):
        made.clock.advance(hours * 3600)
        assert made.broker.gc(made.caller()).uploads == uploads
        assert len(made.objects()) == objects
    assert made.broker.show(made.caller(), "m").versions == ()


def test_key_bound_tokens_of_each_rank(made: Vault) -> None:
    """Each is good for its own key from when that key has joined, and the first one stays good."""
    one, two, stranger = Rank(), Rank(), Rank()
    opened = one.open(made, ("rank-0",), made.caller(bound_to=one.hash))
    put = PutAsk(seed="0" * 32, sizes=(1,))

    def use(rank: Rank) -> None:
        made.broker.put_links(made.caller(bound_to=rank.hash), opened.id, put)

    with pytest.raises(AuthenticationError):
        use(two)
    two.join(made, opened.id, ("rank-1",), made.caller(bound_to=two.hash))
    two.join(made, opened.id, ("rank-1",), made.caller(bound_to=two.hash))  # an answer was lost
    use(one)
    use(two)
    with pytest.raises(AuthenticationError) as refused:
        use(stranger)
    assert refused.value.code == "bound_to_other_key"
    with pytest.raises(AuthenticationError):  # bound to a key that isn't the one in the ask
        stranger.join(made, opened.id, ("rank-2",), made.caller(bound_to=two.hash))
    assert made.ledger.upload(opened.id).recipients == (one.hash, two.hash)


def test_a_bound_for_the_keys_of_one_upload(made: Vault) -> None:
    made.broker = made.with_terms(max_ranks=2)
    opened = Rank().open(made, ("rank-0",), made.caller())
    Rank().join(made, opened.id, ("rank-1",), made.caller())
    with pytest.raises(Conflict) as refused:
        Rank().join(made, opened.id, ("rank-2",), made.caller())
    assert refused.value.code == "too_many_ranks"


def test_asks_without_a_choice_are_what_they_were() -> None:
    """So that a broker from before it was known takes them."""
    recipient = Recipient("x25519", b"k" * 32)
    resume = ResumeAsk(nonce=b"n" * 16, recipient=recipient)
    push = PushAsk(reference="m", files=(), nonce=b"n" * 16, recipient=recipient)
    assert set(msgspec.to_builtins(resume)) == {"nonce", "recipient"}
    assert set(msgspec.to_builtins(push)) == {"reference", "files", "nonce", "recipient"}


def test_a_version_goes_with_the_tags_that_are_named(made: Vault) -> None:
    """Not a join, but what a trainer's `keep` asks for: no tag goes that wasn't seen."""
    made.push("m", FILES)
    made.push("m", FILES)
    for tag in ("step-1", "best"):
        made.broker.tag(made.caller(), "m@1", tag)
    for tags in ((), ("step-1",), ("best", "step-2")):
        with pytest.raises(Conflict) as refused:
            made.broker.delete(made.caller(), "m@1", tags)
        assert refused.value.code == "tagged"
    made.broker.delete(made.caller(), "m@1", ("step-1", "best", "never-there"))
    shown = made.broker.show(made.caller(), "m")
    assert ([one.version for one in shown.versions], shown.summary.tags) == ([2], ())
    signed = made.broker.tag(made.caller(), "m@2", "step-1")
    assert signed.tag is not None
    (tag,) = made.broker.show(made.caller(), "m").summary.tags
    assert (tag.tag, tag.version, tag.serial) == ("step-1", 2, 2)
    # Of what is named only what went is told.
    assert made.entries("delete")[-1].details == {"tags": "best step-1"}
    made.broker.delete(made.caller(), "m", ("any text at all",))
    assert made.entries("delete")[-1].details == {}

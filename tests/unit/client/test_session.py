"""What a session hands on to broker and steward, and what only a home's owner can do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from modelvault.client.local import Local
from modelvault.client.session import Session
from modelvault.errors import Conflict
from support.honest import HonestBroker, context

Call = tuple[str, tuple[object, ...], dict[str, object]]


class Recorder(HonestBroker):
    """Remembers what is called and gives its name back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __getattribute__(self, name: str) -> Any:
        if name in {"list", "create", "classify", "delete", "rotate", "revoke", "leases",
                    "explain", "entries", "gc", "publish_policy"}:  # fmt: skip

            def call(caller: object, *args: object, **options: object) -> str:
                assert repr(caller).startswith("<Caller")
                self.calls.append((name, args, options))
                return name

            return call
        return super().__getattribute__(name)


PASSED_ON: list[tuple[Callable[[Session], object], Call]] = [
    (
        lambda s: s.list(filter="m*", limit=3, after="a"),
        ("list", (), {"tenant": "default", "filter": "m*", "limit": 3, "after": "a"}),
    ),
    (
        lambda s: s.create("m", owner="o", classification="restricted"),
        ("create", ("m",), {"owner": "o", "classification": "restricted"}),
    ),
    (
        lambda s: s.classify("m", classification="public"),
        ("classify", ("m",), {"owner": None, "classification": "public"}),
    ),
    (lambda s: s.delete("m@1"), ("delete", ("m@1", ()), {})),
    (lambda s: s.rotate("m"), ("rotate", ("m",), {})),
    (
        lambda s: s.revoke("lease", "0" * 32, reason="r", for_s=9),
        ("revoke", (), {"kind": "lease", "target": "0" * 32, "reason": "r", "for_s": 9}),
    ),
    (
        lambda s: s.leases("m", ended=True, limit=5),
        ("leases", (), {"reference": "m", "ended": True, "limit": 5}),
    ),
    (
        lambda s: s.explain("load", "m", purpose="debug"),
        (
            "explain",
            (),
            {
                "action": "load",
                "reference": "m",
                "purpose": "debug",
                "subject": None,
                "destination": None,
            },
        ),
    ),
    (
        lambda s: s.entries(after=3, limit=9, reference="m"),
        ("entries", (), {"after": 3, "limit": 9, "reference": "m"}),
    ),
    (lambda s: s.gc(dry_run=True), ("gc", (), {"dry_run": True})),
]


@pytest.mark.parametrize(("use", "call"), PASSED_ON, ids=[call[0] for _, call in PASSED_ON])
def test_what_is_handed_on(use: Callable[[Session], object], call: Call) -> None:
    broker = Recorder()
    answer = use(Session(context(broker)))
    assert broker.calls == [call]
    assert answer == (None if call[0] == "delete" else call[0])


@pytest.mark.parametrize("use", [use for use, _ in PASSED_ON], ids=[c[0] for _, c in PASSED_ON])
def test_a_session_that_was_closed(use: Callable[[Session], object]) -> None:
    broker = Recorder()
    session = Session(context(broker))
    session.close()
    with pytest.raises(Conflict) as refused:
        use(session)
    assert refused.value.code == "session_closed"
    assert broker.calls == []


def test_every_public_method_is_documented() -> None:
    for name, method in inspect.getmembers(Session):
        if not name.startswith("_"):
            assert inspect.getdoc(method), name


def test_what_a_homes_owner_can_do() -> None:
    minted: list[dict[str, object]] = []
    closed: list[bool] = []

    def mint(**asked: object) -> str:
        minted.append(asked)
        return "token"

    broker = Recorder()
    pinned: list[object] = []
    local = Local(
        mint=mint,
        freeze_policy=lambda: "sha256:1",
        pin=pinned.append,
        pinned=dict,
        unpin=pinned.remove,
    )
    with Session(context(broker), local, lambda: closed.append(True)) as session:
        assert session.publish_policy() == "sha256:1"
        session.pin_trust(session.trust)
        assert pinned == [session.trust]
        assert session.mint_token(sub="job", groups=["g"], lifetime_s=60) == "token"
    assert broker.calls == [("publish_policy", ("sha256:1",), {})]
    assert minted == [
        {"sub": "job", "groups": ["g"], "lifetime_s": 60, "claims": {}, "key_hash": None}
    ]
    assert closed == [True]

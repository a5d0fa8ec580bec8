"""Keys, tokens and file contents are in no message, log, policy input or file of the home."""

from __future__ import annotations

import base64
import logging
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault.access import Caller
from modelvault.crypto import derive
from modelvault.errors import ModelVaultError, Unavailable
from modelvault.manifest import Hints
from modelvault.upload import Draft
from support.vaults import Vault, allow, deny, obligation, opened

CONTENT = b"CANARY-OF-THE-WEIGHTS" * 20
FILES = {"a.bin": CONTENT, "b.pt": b"x"}


class Haul:
    """All that an onlooker could get hold of, and the canaries to look for in it."""

    def __init__(self) -> None:
        self.secrets: list[bytes] = [CONTENT[:64]]
        self.texts: list[str] = []

    def tell(self, failure: ModelVaultError) -> None:
        self.texts += [
            repr(failure), str(failure), failure.hint, repr(dict(failure.details)),
            "".join(traceback.format_exception(failure)),
        ]  # fmt: skip

    def find(self, data: bytes) -> list[bytes]:
        forms = (bytes, bytes.hex, base64.b64encode, base64.urlsafe_b64encode)
        found = []
        for secret in self.secrets:
            for form in forms:
                shaped = form(secret)
                raw = shaped.encode() if isinstance(shaped, str) else shaped
                if raw.rstrip(b"=")[:-2] in data:
                    found.append(secret)
        return found


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Vault, Haul]]:
    haul = Haul()
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as vault:
        for name in ("unwrap", "data_key"):
            watch(vault, haul, name, monkeypatch)
        real = derive.file_key

        def file_key(*args: Any) -> Any:
            key = real(*args)
            haul.secrets.append(bytes(key.reveal()))
            return key

        monkeypatch.setattr(derive, "file_key", file_key)
        real_token = vault.token

        def token(*args: Any, **options: Any) -> str:
            made = real_token(*args, **options)
            haul.secrets += [part.encode() for part in made.split(".")[1:]]
            return made

        vault.token = token  # type: ignore[method-assign]
        vault.create("m")
        yield vault, haul


def watch(vault: Vault, haul: Haul, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(vault.keyring, name)

    def call(*args: Any) -> Any:
        result = real(*args)
        dek = result[0] if name == "data_key" else result
        haul.secrets.append(bytes(dek.reveal()))
        return result

    monkeypatch.setattr(vault.keyring, name, call)


def trouble(vault: Vault, haul: Haul) -> None:
    """Walk into every kind of refusal."""
    upload, draft = vault.upload("m", FILES)
    vault.broker.commit(
        vault.caller(),
        upload.id,
        Draft(files=draft.files, hints=Hints(pickles=("b.pt",))),
    )
    old = vault.caller(lifetime_s=1)
    job = vault.lease("m", files=("a.bin",))
    vault.clock.advance(60)

    def away(_name: str) -> None:
        raise Unavailable("away", "away")

    def failing(spy: Any, call: Any) -> Any:
        def walk() -> None:
            spy.before = away
            try:
                call()
            finally:
                spy.before = lambda _name: None

        return walk

    def under(rule: Any, call: Any) -> Any:
        def walk() -> None:
            vault.policy.rule = rule
            try:
                call()
            finally:
                vault.policy.rule = lambda _d: allow()

        return walk

    def lease() -> Any:
        return vault.lease("m", files=("a.bin",))

    walks = [
        lambda: vault.broker.lease(old, vault.ask("m")[0]),
        lambda: vault.broker.whoami(Caller(token=vault.token() + "x")),
        lambda: vault.broker.whoami(Caller(token=vault.token(bound_to="A" * 43))),
        lambda: vault.lease("m"),
        lambda: vault.lease("x"),
        under(lambda _d: deny("no"), lease),
        under(lambda _d: None, lease),
        under(lambda _d: allow(obligation("max_bytes_per_day", 1)), lease),
        failing(vault.keys, lease),
        failing(vault.ledger, lease),
        failing(vault.store, lambda: vault.push("m", FILES)),
        failing(vault.keys, lambda: vault.broker.rotate(vault.caller(), "m")),
        lambda: vault.broker.renew(vault.caller("bob"), job.lease.id, job.key_hash),
        lambda: vault.broker.commit(vault.caller("bob"), upload.id, draft),
    ]
    for walk in walks:
        with pytest.raises(ModelVaultError) as caught:
            walk()
        haul.tell(caught.value)


def test_nothing_leaks(
    watched: tuple[Vault, Haul], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    vault, haul = watched
    with caplog.at_level(logging.DEBUG):
        trouble(vault, haul)
    haul.texts += [
        repr(vault.entries()),
        repr(vault.policy.asked),
        caplog.text,
        *capfd.readouterr(),
    ]
    haul.texts += [repr(vault.broker), repr(vault.caller()), repr(vault.ledger.leases())]
    assert len(haul.secrets) > 20
    for text in haul.texts:
        assert haul.find(text.encode()) == []
    for path in vault.root.rglob("*"):
        if path.is_file() and path.name != "root.key":
            assert haul.find(path.read_bytes()) == [], path

    # The search itself finds what is there, in each form.
    for secret in haul.secrets:
        for planted in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert haul.find(b"..." + planted + b"...")

"""Policies that give no usable answer: no key, no denial, and jobs that run run on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import canonical, connect, wiring
from modelvault.adapters.keys_local import LocalKeyring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, InvalidRequest, Unavailable
from modelvault.policy.bundle import Bundle
from support.attacked import change, folder, rows
from support.command import call
from support.homes import isolated

PATIENCE_S = 15
RULES = {
    "undefined": "package modelvault.authz\n\ndecision := true if input.nothing",
    "a string": 'package modelvault.authz\n\ndecision := "allow"',
    "true": "package modelvault.authz\n\ndecision := true",
    "a number for a yes": "package modelvault.authz\n\n"
    'decision := {"decision": 1, "context": {"reasons": [], "obligations": []}}',
    "no lists": 'package modelvault.authz\n\ndecision := {"decision": true, "context": {}}',
    "no context": 'package modelvault.authz\n\ndecision := {"decision": true}',
    "more than that": "package modelvault.authz\n\n"
    'decision := {"decision": true, "context": {"reasons": [], "obligations": []}, "x": 1}',
    "two answers": "package modelvault.authz\n\n"
    "decision := 1 if input.subject\n\ndecision := 2 if input.action",
    "throws": "package modelvault.authz\n\n"
    'decision := {"decision": to_number(input.subject.id) > 0}',
    "no such package": "package somewhere.else\n\ndecision := true",
    "no Rego": "grants everything",
    "asks the network": "package modelvault.authz\n\n"
    'decision := http.send({"method": "get", "url": "http://127.0.0.1:1"}).body',
    "an obligation without a value": "package modelvault.authz\n\n"
    'decision := {"decision": true, "context": {"reasons": ["x"], "obligations": '
    '[{"id": "x", "type": "max_ttl_s", "properties": {"value": "forever"}}]}}',
    "loops": "package modelvault.authz\n\n"
    "decision := count([1 | some i in numbers.range(1, 40000); "
    "some j in numbers.range(1, 40000); i * j == 0])",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`m`, with leases of a second and an outage's grace of many."""
    place = isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=4096)
    path = place / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["classifications"]["internal"]["limits"] = {
        "max_ttl_s": 1,
        "max_total_s": 3600,
        "grace_s": 30,
    }
    path.write_text(json.dumps(data))
    with connect() as vault:
        vault.publish_policy()
        vault.create("m")
        vault.push(folder(tmp_path / "in", {"a.dat": b"weights"}), "m")
    return place


@pytest.fixture
def vault(home: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


@pytest.fixture
def unwrapped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    real = LocalKeyring.unwrap
    found: list[str] = []

    def unwrap(self: LocalKeyring, key: str, *args: object) -> object:
        found.append(key)
        return real(self, key, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalKeyring, "unwrap", unwrap)
    return found


def enforce(home: Path, rule: str) -> None:
    """Put a bundle into force past all checks, as a mistake or an attacker with the disk might."""
    bundle = Bundle(modules={"modelvault/authz/authz.rego": rule}, data={})
    place = home / "policy" / "published" / bundle.revision.removeprefix("sha256:")
    place.mkdir(mode=0o700)
    (place / "bundle.json").write_bytes(canonical.encode(bundle))
    change(home, "update head set policy_revision = ?", bundle.revision)


def test_no_answer_is_neither_yes_nor_no(
    home: Path, vault: Session, unwrapped: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    start = time.monotonic()
    model = vault.load("m", purpose="inference", on_revoked=told.append)
    assert unwrapped.pop()
    ((good,),) = rows(home, "select policy_revision from head")
    for case, rule in RULES.items():
        enforce(home, rule)
        with pytest.raises(Unavailable) as caught:
            vault.load("m", purpose="inference")
        assert caught.value.code == "policy_unavailable", case
        assert caught.value.hint
        assert model.open("a.dat").read() == b"weights", case
    out = call(capsys, "load", "m", "--purpose", "inference", "--json")
    assert (out.code, out.error.code) == (6, "policy_unavailable")
    assert unwrapped == []
    assert rows(home, "select count(*), count(ended_at) from leases") == [(1, 0)]
    assert time.monotonic() > start + 1, "the ttl wasn't over"
    assert model.open("a.dat").read() == b"weights"
    change(home, "update head set policy_revision = ?", good)
    vault.load("m", purpose="inference").close()
    end = time.monotonic() + PATIENCE_S
    while not [e for e in vault.entries(limit=1000).entries if e.action == "renew"]:
        assert time.monotonic() < end, "it was never renewed"
        time.sleep(0.05)
    assert told == []
    model.close()


def test_and_no_longer_than_ttl_and_grace(home: Path, vault: Session) -> None:
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["classifications"]["internal"]["limits"] = {
        "max_ttl_s": 1,
        "max_total_s": 3600,
        "grace_s": 1,
    }
    path.write_text(json.dumps(data))
    vault.publish_policy()
    over = threading.Event()
    model = vault.load("m", purpose="inference", on_revoked=lambda _reason: over.set())
    enforce(home, RULES["a string"])
    assert over.wait(PATIENCE_S)
    with pytest.raises(AccessDenied) as caught:
        model.open("a.dat")
    assert caught.value.code == "lease_expired"
    model.close()


def test_what_isnt_published(home: Path, vault: Session, unwrapped: list[str]) -> None:
    ((before,),) = rows(home, "select policy_revision from head")
    site = home / "policy" / "site"
    for rule in (
        'package modelvault.site\n\ndenies contains "x" if time.now_ns() > 0',
        'package modelvault.site\n\ngrants contains "x" if opa.runtime().env.HOME',
        'package modelvault.site\n\ngrants contains "x" if rand.intn("x", 2) == 1',
        'package modelvault.site\n\ngrants contains "x" if http.send({"url": "x"}).status_code',
        'package modelvault.authz\n\ngrants contains "x"',
        "package modelvault.authz\n\ndefault decision := true",
        "package modelvault\n\nroles := {}",
        "package modelvault.site\n\ngrants contains",
    ):
        (site / "rule.rego").write_text(rule + "\n")
        with pytest.raises((InvalidRequest, Unavailable)):
            vault.publish_policy()
    (site / "rule.rego").unlink()
    (site / "rule.rego").symlink_to("/etc/passwd")
    with pytest.raises((InvalidRequest, Unavailable)):
        vault.publish_policy()
    (site / "rule.rego").unlink()
    path = home / "policy" / "data.json"
    good = path.read_text()
    for text in (
        "{", "[]", '{"roles":{},"roles":{}}', "[" * 200 + "]" * 200, '{"limits": {"max_ttl": 1}}',
        good.replace('"max_concurrent_leases"', '"max_concurent_leases"'),
        good.replace("1000", "1e3"), good.replace("1000", "-1"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises((InvalidRequest, Unavailable)):
            vault.publish_policy()
    assert rows(home, "select policy_revision from head") == [(before,)]
    assert unwrapped == []
    vault.load("m", purpose="inference").close()

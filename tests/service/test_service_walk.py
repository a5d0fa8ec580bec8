"""The whole walk through a served vault: real key service, policy server, store and database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from modelvault.errors import AccessDenied, AuthenticationError, NotFound, Unavailable


def test_a_model_goes_in_at_one_broker_and_comes_out_at_the_other(
    stack, session, admin, name, model, check
) -> None:
    admin.create(name, classification="internal")
    pushed = admin.push(model, f"{name}:prod", labels={"team": "search"})
    assert (pushed.version, pushed.tag) == (1, "prod")
    job = session(stack.token("job", "inference"), broker=1)
    with job.load(f"{name}:prod", purpose="inference") as loaded:
        check(loaded.tensors())
        assert json.loads(loaded.open("config.json").read()) == {"hidden_size": 64}
    shown = job.show(name)
    assert [version.version for version in shown.versions] == [1]
    assert name in {each.model for each in job.list(limit=1000)}


def test_what_a_load_cost_is_told(stack, session, admin, name, model) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    with session(stack.token("job", "inference"), 1).load(name, purpose="inference") as loaded:
        before = loaded.stats()
        assert (before.costs.read_bytes, before.costs.decrypted_bytes) == ({}, 0)
        assert 0 < before.lease_seconds_left <= loaded.obligations.max_ttl_s
        loaded.tensors()
        loaded.read_bytes("config.json")
        after = loaded.stats().costs
        assert after.decrypted_bytes == loaded.size
        assert after.read_bytes.keys() == {"object_store"}
        assert loaded.size < after.read_bytes["object_store"] < loaded.size * 1.01
        assert after.seconds.keys() == {"lease", "verify", "read", "check", "decrypt"}
    assert loaded.stats().lease_seconds_left == 0


def test_only_what_was_granted_is_fetched(stack, session, admin, name, model) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    job = session(stack.token("job", "inference"))
    with job.load(name, purpose="inference", files=["config.json"]) as loaded:
        assert loaded.read_bytes("config.json") == b'{"hidden_size": 64}'
        with pytest.raises(AccessDenied):
            loaded.read_bytes("model.safetensors")


@pytest.mark.parametrize(
    ("token", "family", "code"),
    [
        (lambda stack: stack.token("eve"), NotFound, "no_model"),
        (lambda stack: stack.token("pusher", "pushers"), AccessDenied, "denied"),
        (lambda stack: stack.issuer.token("somebody else", "job"), AuthenticationError,
         "wrong_audience"),
        (lambda stack: stack.token("job", "inference", exp=1_700_000_000, iat=1_699_999_000),
         AuthenticationError, "token_expired"),
        (lambda stack: stack.token("job", "inference")[:-8] + "AAAAAAAA", AuthenticationError,
         "bad_signature"),
    ],
    ids=["a stranger", "no such action", "another audience", "expired", "forged"],
)  # fmt: skip
def test_the_wrong_caller(stack, session, admin, name, model, token, family, code) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    with pytest.raises(family) as caught:
        session(token(stack)).load(name, purpose="inference")
    assert caught.value.code == code


def test_the_wrong_purpose_says_why(stack, session, admin, name, model) -> None:
    admin.create(name, classification="restricted")
    admin.push(model, name)
    with pytest.raises(AccessDenied) as caught:
        session(stack.token("job", "inference")).load(name, purpose="evaluation")
    told = caught.value.details
    assert told["subject"] == "idp:job"
    assert told["purpose"] == "evaluation"
    assert told["decision_id"]
    denied = [e for e in admin.entries(reference=name).entries if e.outcome == "denied"]
    assert denied[-1].decision_id == told["decision_id"]
    assert denied[-1].revision == stack.founded.policy_revision


def test_rotation_while_pushes_and_loads_go_on(stack, session, admin, name, model, check) -> None:
    """None of them is lost, and none gets other bytes."""
    admin.create(name, classification="internal")
    admin.push(model, name)
    stop = threading.Event()
    loads: list[int] = []

    def load(broker: int) -> None:
        job = session(stack.token("job", "inference"), broker)
        while not stop.is_set():
            with job.load(f"{name}@1", purpose="inference") as loaded:
                check(loaded.tensors())
            loads.append(broker)

    def push(broker: int) -> int:
        return session(stack.admin(), broker).push(model, name).version

    with ThreadPoolExecutor(4) as pool:
        loading = [pool.submit(load, broker) for broker in (0, 1)]
        pushing = [pool.submit(push, number % 2) for number in range(4)]
        versions = [admin.rotate(name).kek_version for _ in range(4)]
        pushed = sorted(each.result() for each in pushing)
        stop.set()
        for each in loading:
            each.result()
    assert versions == [2, 3, 4, 5]
    assert pushed == [2, 3, 4, 5]
    assert set(loads) == {0, 1}
    assert {v.kek_version for v in admin.show(name).versions} == {5}
    with session(stack.token("job", "inference")).load(name, purpose="inference") as loaded:
        check(loaded.tensors())


def test_what_is_revoked_at_one_broker_is_revoked_at_the_other(
    stack, session, admin, name, model
) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    job = session(stack.token("leaver", "inference"), broker=1)
    with job.load(name, purpose="inference"):
        assert admin.revoke("principal", "idp:leaver", reason="left") == 1
        with pytest.raises(AccessDenied) as caught:
            job.load(name, purpose="inference")
    assert caught.value.code == "revoked"


def test_a_pulled_copy_is_the_ciphertext(stack, session, admin, name, model, tmp_path) -> None:
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    manifest = admin.pull(f"{name}:prod", tmp_path / "copy")
    plain = (model / "model.safetensors").read_bytes()
    for entry in manifest.files:
        content = (tmp_path / "copy" / entry.object).read_bytes()
        assert plain[1000:1032] not in content
    assert (tmp_path / "copy" / "tag.json").exists()


def test_gc_removes_what_was_given_up(stack, admin, name, model) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    admin.push(model, name)
    admin.delete(f"{name}@1")
    assert [v.version for v in admin.show(name).versions] == [2]
    assert admin.gc(dry_run=True).versions == 0  # hidden a moment ago: its grace isn't over


def test_a_wrong_ca_is_told_apart_from_an_outage(stack, session, tmp_path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with stack.connect(stack.admin(), ca=other) as vault, pytest.raises(Unavailable) as caught:
        vault.list()
    assert caught.value.code == "broker_untrusted"


def test_a_remote_load_leaves_the_servers_libraries_alone(stack, admin, name, model) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    script = (
        "import sys, modelvault\n"
        f"with modelvault.connect({stack.urls[0]!r}) as vault:\n"
        f"    with vault.load({name!r}, purpose='inference') as model:\n"
        "        assert len(model.tensors()) == 3\n"
        "heavy = {'hvac', 'sqlalchemy', 'fastapi', 'boto3', 'requests', 'alembic', 'opa_client', "
        "'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment = {
        "MODELVAULT_CA": str(stack.ca), "MODELVAULT_TRUST": str(stack.trust),
        "MODELVAULT_TOKEN": stack.token("job", "inference"), "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd="/",
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_command_against_a_broker(stack, admin, name, model, tmp_path: Path) -> None:
    """The same words as for a home, and the same documents."""
    environment = {
        "MODELVAULT_BROKER": stack.urls[1], "MODELVAULT_CA": str(stack.ca),
        "MODELVAULT_TRUST": str(stack.trust), "MODELVAULT_TOKEN": stack.admin(),
        "HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
    }  # fmt: skip

    def run(*arguments: str) -> dict:
        done = subprocess.run(
            [Path(sys.executable).with_name("modelvault"), "--json", *arguments],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    run("create", name, "--classification", "internal")
    assert run("push", str(model), f"{name}:prod")["version"] == 1
    assert run("whoami")["id"] == "idp:olga"
    assert run("rotate", name)["kek_version"] == 2
    assert run("show", f"{name}:prod")["model"]["tags"][0]["tag"] == "prod"

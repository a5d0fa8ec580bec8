"""`modelvault run` through a real broker, with a token that the command never sees."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelvault.adapters.objects_s3 import S3Store
from modelvault.client.session import Session
from support import runs
from support.changed_policy import changed_policy
from support.servers.stack import Stack


@pytest.fixture
def env(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    runs.own_places(tmp_path, monkeypatch)
    return {
        "TMPDIR": os.environ["TMPDIR"],
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MODELVAULT_BROKER": stack.urls[0],
        "MODELVAULT_CA": str(stack.ca),
        "MODELVAULT_TRUST": str(stack.trust),
        "MODELVAULT_TOKEN": stack.token("job", "inference"),
    }


@pytest.fixture
def pushed(admin: Session, name: str, model: Path) -> str:
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    return f"{name}:prod"


@pytest.mark.parametrize("kind", ["user", "links"])
def test_a_command_reads_the_model(
    env: dict[str, str], pushed: str, model: Path, kind: str
) -> None:
    script = "cd {model} && sha256sum *; env; tr '\\0' '\\n' </proc/$PPID/environ"
    ended = runs.run(pushed, "sh", "-c", script, kind=kind, env=env)
    plain = subprocess.run(
        ["sh", "-c", "sha256sum *"], cwd=model, capture_output=True, text=True, check=True
    ).stdout
    assert ended.stdout.startswith(plain), ended.stderr
    assert env["MODELVAULT_TOKEN"] not in ended.stdout
    assert runs.places() == set()


def test_a_second_run_takes_its_weights_from_the_cache(
    admin: Session, env: dict[str, str], pushed: str, model: Path, stack: Stack, tmp_path: Path
) -> None:
    """Shown by a store that has nothing any more."""
    place = tmp_path / "cache"
    token = env["MODELVAULT_TOKEN"]
    with stack.connect(token) as vault, vault.load(pushed, purpose="inference") as loaded:
        objects = [entry.object for entry in loaded.manifest.files]

    def hashed(*options: str) -> subprocess.CompletedProcess[str]:
        script = "sha256sum <{model}/model.safetensors"
        return runs.run(pushed, "sh", "-c", script, options=options, env=env)

    first = hashed("--cache", str(place))
    kept = {path.name for path in place.iterdir()}
    store = S3Store(stack.s3.bucket(prefix=stack.prefix))
    for each in objects:
        store.delete(each)
    store.close()
    second = hashed("--cache", str(place))
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert [each.stdout for each in (first, second)] == [f"{digest}  -\n"] * 2, second.stderr
    assert {path.name for path in place.iterdir()} == kept
    without = hashed()
    assert (without.returncode, without.stdout) == (125, "")
    assert "error[missing_object]" in without.stderr


# Asked to end, it has a second's work to do.
BUSY = """
finish() { echo finishing; sleep 1; echo finished; exit 0; }
trap finish TERM; echo ready; while :; do sleep 0.05; done
"""


def test_a_revocation_leaves_it_the_policys_grace(
    admin: Session, env: dict[str, str], pushed: str, stack: Stack
) -> None:
    limits = {"max_ttl_s": 3, "grace_s": 60, "terminate_on_revoke": 20}

    def graceful(data: dict) -> None:
        data["classifications"]["internal"]["limits"] |= limits

    with (
        changed_policy(stack, admin, graceful),
        runs.started(pushed, "sh", "-c", BUSY, env=env, kind="user") as process,
    ):
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        (lease,) = admin.leases(pushed.partition(":")[0])
        admin.revoke("lease", lease.id, reason="no more")
        out, errors = process.communicate(timeout=runs.PATIENCE_S)
    assert out.split() == ["finishing", "finished"]
    assert process.returncode == 125
    assert "error[revoked]" in errors
    assert runs.places() == set()


def test_a_revocation_ends_it(
    admin: Session, env: dict[str, str], pushed: str, stack: Stack
) -> None:
    limits = {"max_ttl_s": 3, "grace_s": 60, "terminate_on_revoke": 0}

    def short(data: dict) -> None:
        data["classifications"]["internal"]["limits"] |= limits

    with (
        changed_policy(stack, admin, short),
        runs.started(pushed, "sh", "-c", "echo ready; sleep 100", env=env) as process,
    ):
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        (lease,) = admin.leases(pushed.partition(":")[0])
        admin.revoke("lease", lease.id, reason="no more")
        _, errors = process.communicate(timeout=runs.PATIENCE_S)
    assert process.returncode == 125
    assert "error[revoked]" in errors

"""The chart's pods on this machine: two brokers with OPA beside each, logged in at OpenBao by the
projected token of their service account, and a job that loads a model by its own."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import hvac
import numpy as np
import pytest
import requests

from support.container import Mount, give
from support.dockerfile import healthcheck
from support.homes import safetensors_bytes
from support.release import NAMESPACE, Installed

pytestmark = pytest.mark.slow

JOBS = f"cluster:serviceaccount:{NAMESPACE}:mv-job"
WEIGHTS = {"embed.weight": np.arange(200_000, dtype=np.float32), "steps": np.array([1, 2, 3])}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    made = Installed(tmp_path_factory.mktemp("chart"))
    yield made
    made.close()


@pytest.mark.parametrize("number", [0, 1])
def test_brokers_get_ready_with_opa_beside_them(installed: Installed, number: int) -> None:
    broker = installed.brokers[number]["broker"]
    probe = [*healthcheck()[:-1], "/readyz"]
    installed.processes[f"broker-{number}"].until(
        lambda: broker.run(installed.place(), command=probe).returncode == 0
    )
    reviewed = [one["user"]["username"] for one in installed.cluster.reviews]
    assert set(reviewed) == {"system:serviceaccount:models:mv"}


@pytest.mark.parametrize("number", [0, 1])
def test_opa_answers_for_its_health_apart(installed: Installed, number: int) -> None:
    url = f"http://{installed.brokers[number]['opa'].address}:8282"

    def status(path: str) -> int:
        return requests.get(url + path, timeout=5).status_code

    installed.processes[f"opa-{number}"].until(lambda: status("/health?bundles") == 200)
    assert status("/v1/data") == 401, "decisions aren't for whoever reaches that port"


def test_a_job_loads_a_model_by_its_own_token(installed: Installed) -> None:
    model = installed.folder / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(safetensors_bytes(WEIGHTS))
    work = installed.folder / "work"
    work.mkdir()
    give(work, 65532, 65532)
    (admin,) = installed.kubelet.pod(
        dict(installed.job, serviceAccountName="admin"), "127.0.0.1"
    ).values()
    mounts = [
        *admin.mounts,
        Mount(model, "/models/minilm"),
        Mount(work, "/var/policies", writable=True),
    ]
    installed.client("admin", "policy", "fetch", "/var/policies/mine", mounts=mounts)
    data = work / "mine" / "data.json"
    policy = json.loads(data.read_text())
    policy["grants"].append(
        {"role": "inference", "groups": [JOBS], "tenants": ["*"], "models": ["minilm"]}
    )
    data.write_text(json.dumps(policy))
    installed.client("admin", "policy", "publish", "/var/policies/mine", "--yes", mounts=mounts)
    installed.client("admin", "create", "minilm", "--classification", "internal")
    installed.client("admin", "push", "/models/minilm", "minilm:prod", mounts=mounts)
    (job,) = installed.kubelet.pod(installed.job, "127.0.0.1").values()
    done = job.run(installed.place())
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = json.loads(done.stdout)
    assert {one["name"] for one in loaded["tensors"]} == WEIGHTS.keys()
    told = json.loads(installed.client("mv-job", "whoami", "--json"))
    assert told["id"] == f"cluster:system:serviceaccount:{NAMESPACE}:mv-job"


def test_the_ledger_is_migrated_before_an_upgrade(installed: Installed) -> None:
    (made,) = installed.kubelet.pod(installed.migrate, "127.0.0.1").values()
    done = made.run(installed.place())
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout


def test_another_account_cant_log_in_as_a_broker(installed: Installed) -> None:
    root = hvac.Client(url=installed.openbao.address)
    stranger = installed.cluster.token(NAMESPACE, "mv-job", "hcvault")
    with pytest.raises(hvac.exceptions.VaultError):
        root.auth.kubernetes.login("modelvault-broker", stranger)
    other_audience = installed.cluster.token(NAMESPACE, "mv", "somebody-else")
    with pytest.raises(hvac.exceptions.VaultError):
        root.auth.kubernetes.login("modelvault-broker", other_audience)


def test_a_stop_is_in_order_broker_first(installed: Installed) -> None:
    for name in ("broker-1", "opa-1"):
        process = installed.processes[name]
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log.read_text()[-1500:]

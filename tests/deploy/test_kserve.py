"""examples/kserve: checked, and its two containers run as closed ones with a volume in memory."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.loader.filesystems import in_memory
from support import chart, kserve
from support.container import Container, Mount, give
from support.homes import isolated, safetensors_bytes
from support.plaintext import Plaintext
from support.servers import process
from support.servers.process import Process

VERSIONS = ("1.30", "1.37")
RUNTIME: dict[str, Any] = {"name": "kserve-container", "image": "server", "args": ["/mnt/models"]}
SHM = Path("/dev/shm")
WEIGHTS = np.random.default_rng(5).standard_normal((512, 512), np.float32)
HELD = ".modelvault/held"
# A server of another user: it reads, and may not write.
SERVER = """
import hashlib, pathlib
folder = pathlib.Path("/mnt/models")
print(hashlib.sha256((folder / "deep/model.safetensors").read_bytes()).hexdigest())
for path in (folder / "new", folder / "deep/model.safetensors"):
    try:
        path.open("ab").close()
    except OSError as refused:
        print(type(refused).__name__)
"""


@pytest.fixture
def pod() -> kserve.Made:
    return kserve.pod(kserve.inference_service(), kserve.storage_container(), RUNTIME)


# the files


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_pod(pod: kserve.Made, version: str) -> None:
    kubernetes_validate.validate(pod, version, strict=True)
    for one in kserve.documents("inference-service.yaml"):
        if one["kind"] != "InferenceService":
            kubernetes_validate.validate(one, version, strict=True)


def test_kserve_takes_the_files() -> None:
    """By its CustomResourceDefinitions: the fields that these kinds have beside Kubernetes' own,
    which the pod above is checked for."""
    storage, service = kserve.storage_container(), kserve.inference_service()
    assert (storage["apiVersion"], storage.keys()) == (
        "serving.kserve.io/v1alpha1", {"apiVersion", "kind", "metadata", "spec"},
    )  # fmt: skip
    assert storage["spec"].keys() <= {
        "container", "supportedUriFormats", "workloadType", "objectSelector",
        "supportsMultiModelDownload",
    }  # fmt: skip
    assert all(each.keys() < {"prefix", "regex"} for each in storage["spec"]["supportedUriFormats"])
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["spec"].keys() <= {"predictor", "transformer", "explainer"}
    own = service["spec"]["predictor"]["model"].keys() - RUNTIME.keys()
    assert own == {"modelFormat", "storageUri", "livenessProbe", "resources"}


def test_the_only_place_to_write_is_memory(pod: kserve.Made) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    written = {
        mount["name"]
        for container in chart.containers(pod["spec"])
        for mount in container["volumeMounts"]
        if not mount.get("readOnly")
    }
    assert written == {kserve.VOLUME}
    assert volumes[kserve.VOLUME]["emptyDir"]["medium"] == "Memory"
    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    assert volumes.keys() == {mount["name"] for mount in sidecar["volumeMounts"]}


def test_the_initializer_is_a_sidecar_that_the_server_waits_for(pod: kserve.Made) -> None:
    (sidecar,), (server,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    assert sidecar["restartPolicy"] == "Always"
    mark = f"{kserve.MODELS}/{HELD}"
    assert sidecar["startupProbe"]["exec"]["command"][-1] == mark
    assert server["livenessProbe"]["exec"]["command"][-1] == mark
    assert [*sidecar["command"], *sidecar["args"]] == [
        "modelvault", "hold", "--purpose", "inference", "modelvault://minilm:prod", "/mnt/models",
    ]  # fmt: skip


def test_it_asks_the_vault_as_the_charts_job_does(pod: kserve.Made, tmp_path: Path) -> None:
    job = chart.only(chart.documents(tmp_path, job={"enabled": True}), "Job", "mv-job")
    (told,) = chart.containers(job["spec"]["template"]["spec"])
    (sidecar,) = pod["spec"]["initContainers"]
    assert {one["name"] for one in sidecar["env"]} == {one["name"] for one in told["env"]}


def test_without_the_volume_kserve_would_take_a_disk() -> None:
    service = copy.deepcopy(kserve.inference_service())
    service["spec"]["predictor"]["volumes"].pop(0)
    made = kserve.pod(service, kserve.storage_container(), RUNTIME)
    assert {"name": kserve.VOLUME, "emptyDir": {}} in made["spec"]["volumes"]


# the containers


class Pod:
    """The pod's volume and its two containers. The vault is a home that the sidecar has mounted:
    what a broker says to it is the same."""

    def __init__(self, folder: Path, made: kserve.Made, vault: Session) -> None:
        self.folder = folder
        self.vault = vault
        self.security = made["spec"]["securityContext"]
        (self.sidecar,), _ = made["spec"]["initContainers"], made["spec"]["containers"]
        self.volume = Path(tempfile.mkdtemp(dir=SHM))
        # As a kubelet makes an emptyDir of a group.
        give(self.volume, 0, self.security["fsGroup"])
        self.volume.chmod(0o2777)
        self._count = 0

    def place(self) -> Path:
        self._count += 1
        made = self.folder / f"container-{self._count}"
        made.mkdir()
        return made

    def holder(self, target: Path | None = None) -> Container:
        home = Path(os.environ["MODELVAULT_HOME"])
        for path in (home, *home.rglob("*")):
            give(path, self.security["runAsUser"], self.security["runAsGroup"])
        return self._container(
            [*self.sidecar["command"], *self.sidecar["args"]],
            self.security["runAsUser"],
            [Mount(target or self.volume, kserve.MODELS, writable=True),
             Mount(home, "/vault", writable=True)],
            {"MODELVAULT_HOME": "/vault", "MODELVAULT_PASSPHRASE": "correct horse"},
        )  # fmt: skip

    def server(self) -> Container:
        return self._container(
            ["python", "-c", SERVER], 65000, [Mount(self.volume, kserve.MODELS)], {}
        )

    def _container(
        self, command: list[str], uid: int, mounts: list[Mount], env: dict[str, str]
    ) -> Container:
        return Container(
            command=command, uid=uid, gid=self.security["runAsGroup"],
            groups=[self.security["fsGroup"]], env={"HOME": "/", **env}, mounts=mounts,
        )  # fmt: skip

    def start(self) -> Process:
        """Until its startup probe would succeed."""
        return self.holder().start(self.place(), (self.volume / HELD).exists)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """`minilm:prod` with leases of two seconds; nothing in the clear is left at the end."""
    if not SHM.exists():
        pytest.skip("no shared memory")
    folder = tmp_path_factory.mktemp("kserve")
    with pytest.MonkeyPatch.context() as patched:
        servers = process.folder()
        home = isolated(folder, patched)
        patched.setenv("MODELVAULT_SERVERS", str(servers))
        patched.setenv("MODELVAULT_PASSPHRASE", "correct horse")
        wiring.init(root="passphrase")
        policy = home / "policy" / "data.json"
        data = json.loads(policy.read_text())
        data["classifications"]["internal"]["limits"] = {
            "max_ttl_s": 2, "max_total_s": 3600, "grace_s": 1, "memory_only": True,
        }  # fmt: skip
        policy.write_text(json.dumps(data))
        files = folder / "files"
        (files / "deep").mkdir(parents=True)
        (files / "deep/model.safetensors").write_bytes(safetensors_bytes({"w": WEIGHTS}))
        (files / "config.json").write_text("{}")
        plaintext = Plaintext(files)
        with connect() as opened:
            opened.publish_policy()
            opened.create("minilm")
            opened.push(files, "minilm:prod")
            shutil.rmtree(files)
            yield opened
        assert plaintext.left(folder.parent) == [], "logs of the containers lie there, too"


@pytest.fixture
def running(tmp_path: Path, vault: Session, pod: kserve.Made) -> Iterator[Pod]:
    made = Pod(tmp_path, pod, vault)
    yield made
    assert list(made.volume.iterdir()) == []
    made.volume.rmdir()


def test_the_server_reads_until_the_pod_ends(running: Pod) -> None:
    sidecar = running.start()
    try:
        done = running.server().run(running.place())
        assert done.returncode == 0, done.stderr
        expected = hashlib.sha256(safetensors_bytes({"w": WEIGHTS})).hexdigest()
        digest, *refused = done.stdout.split()
        assert digest == expected
        assert len(refused) == 2
        (lease,) = running.vault.leases("minilm")
        assert (lease.action, lease.purpose) == ("load", "inference")
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == 0, sidecar.log.read_text()
    finally:
        sidecar.stop()
    assert running.vault.leases("minilm") == ()


def test_a_revocation_empties_the_volume(running: Pod) -> None:
    sidecar = running.start()
    try:
        (lease,) = running.vault.leases("minilm")
        running.vault.revoke("lease", lease.id, reason="test")
        assert sidecar.wait() == 3
        assert "was emptied" in sidecar.log.read_text()
    finally:
        sidecar.stop()


def test_a_killed_sidecar_is_started_again(running: Pod) -> None:
    sidecar = running.start()
    sidecar.kill()
    assert (running.volume / "deep/model.safetensors").exists()
    (running.volume / HELD).unlink()  # so that the next one is waited for
    again = running.start()
    try:
        again.signal(signal.SIGTERM)
        assert again.wait() == 0, again.log.read_text()
    finally:
        again.stop()


def test_a_volume_on_a_disk_is_refused(running: Pod) -> None:
    disk = running.folder / "disk"
    disk.mkdir()
    disk.chmod(0o2777)
    asked = len(running.vault.leases("minilm", ended=True))
    if in_memory(disk):
        pytest.skip("temporary files are in memory here")
    done = running.holder(disk).run(running.place())
    assert done.returncode == 2
    assert "medium: Memory" in done.stderr
    assert list(disk.iterdir()) == []
    assert len(running.vault.leases("minilm", ended=True)) == asked, "no lease was asked for"

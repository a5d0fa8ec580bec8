"""fsspec and MLflow at a broker and its store: by address, token and trust file, as jobs do."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelvault.client.session import Session
from modelvault.errors import AccessDenied
from support.engines import need
from support.plaintext import Plaintext
from support.servers.stack import Stack


@pytest.fixture
def as_job(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What such a process has in its environment."""

    def become(sub: str, *groups: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("MODELVAULT_BROKER", stack.urls[1])
        monkeypatch.setenv("MODELVAULT_CA", str(stack.ca))
        monkeypatch.setenv("MODELVAULT_TRUST", str(stack.trust))
        monkeypatch.setenv("MODELVAULT_TOKEN", stack.token(sub, *groups))

    return become


def test_fsspec(
    admin: Session, name: str, model: Path, as_job: Callable[..., None], tmp_path: Path
) -> None:
    fsspec, numpy_door = need("fsspec"), need("safetensors.numpy")
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    plaintext = Plaintext(model)
    expected = numpy_door.load_file(model / "model.safetensors")
    shutil.rmtree(model)
    as_job("job", "inference")
    fs = fsspec.filesystem("modelvault", purpose="inference")
    assert fs.cat(f"{name}:prod/config.json") == b'{"hidden_size": 64}'
    found = numpy_door.load(fs.cat(f"{name}:prod/model.safetensors"))
    np.testing.assert_array_equal(found["embed.weight"], expected["embed.weight"])
    (lease,) = admin.leases(name)
    assert lease.subject.endswith(":job")
    del fs
    assert admin.leases(name) == ()
    with pytest.raises(AccessDenied):
        fsspec.filesystem("modelvault", purpose="fine-tuning").ls(name)
    assert plaintext.left(tmp_path) == []


def test_mlflow(
    admin: Session, name: str, model: Path, as_job: Callable[..., None],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry = need("mlflow.store.artifact.artifact_repository_registry")
    plugin = need("modelvault.integrations.mlflow")
    admin.create(name, classification="internal")
    plaintext = Plaintext(model)
    ram = Path(tempfile.mkdtemp(dir="/dev/shm"))
    monkeypatch.setattr(tempfile, "tempdir", str(ram))
    monkeypatch.setenv("MODELVAULT_PURPOSE", "inference")
    uri = f"modelvault://{name}/0/abc/artifacts"
    as_job("trainer", "ml-engineers")
    registry.get_artifact_repository(uri).log_artifacts(model, "model")
    plugin.close()
    as_job("job", "inference")
    expected = (model / "model.safetensors").read_bytes()
    shutil.rmtree(model)
    place = Path(registry.get_artifact_repository(uri).download_artifacts("model"))
    assert (place / "model.safetensors").read_bytes() == expected
    with pytest.raises(AccessDenied):
        registry.get_artifact_repository(uri).download_artifacts("model", str(tmp_path))
    plugin.close()
    assert admin.leases(name) == ()
    assert plaintext.left(tmp_path, ram) == []
    shutil.rmtree(ram)

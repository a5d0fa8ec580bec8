"""A framework that isn't installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from modelvault.errors import InvalidRequest


@pytest.mark.parametrize(
    ("door", "made_in", "name", "framework"),
    [
        ("fsspec", "fsspec", "ModelVaultFileSystem", "fsspec.spec"),
        ("mlflow", "mlflow_repository", "ModelVaultArtifactRepository", "mlflow.entities"),
    ],
)
def test_the_extra_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, door: str, made_in: str, name: str, framework: str
) -> None:
    monkeypatch.delitem(sys.modules, f"modelvault.integrations.{made_in}", raising=False)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(InvalidRequest) as refused:
        getattr(importlib.import_module(f"modelvault.integrations.{door}"), name)
    assert refused.value.code == "missing_extra"
    assert f"encrypted-model-vault[{door}]" in refused.value.hint

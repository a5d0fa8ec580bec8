"""A framework that isn't installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from modelvault.errors import InvalidRequest


@pytest.mark.parametrize(
    ("door", "framework"), [("fsspec", "fsspec.spec"), ("mlflow", "mlflow.entities")]
)
def test_the_extra_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, door: str, framework: str
) -> None:
    monkeypatch.delitem(sys.modules, f"modelvault.integrations.{door}", raising=False)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(InvalidRequest) as refused:
        importlib.import_module(f"modelvault.integrations.{door}")
    assert refused.value.code == "missing_extra"
    assert f"encrypted-model-vault[{door}]" in refused.value.hint

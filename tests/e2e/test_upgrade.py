"""A home of the first version under this one: `modelvault migrate`, and it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault import connect
from modelvault.adapters.ledger_sql import schema
from support import schemas
from support.command import call, model_folder
from support.homes import isolated


def test_a_home_of_the_first_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = isolated(tmp_path, monkeypatch)
    assert call(capsys, "init").code == 0
    assert call(capsys, "create", "minilm").code == 0
    assert call(capsys, "push", model_folder(tmp_path / "plain"), "minilm:prod").code == 0
    ledger, first = home / "ledger.db", home / "first.db"
    schemas.first(f"sqlite:///{first}", of=f"sqlite:///{ledger}")
    for each in home.glob("ledger.db*"):
        each.unlink()
    first.replace(ledger)

    refused = call(capsys, "--json", "load", "minilm:prod", "--purpose", "inference")
    assert (refused.code, refused.error.code) == (6, "ledger_too_old")
    assert "modelvault migrate" in refused.error.hint
    told = call(capsys, "--json", "migrate", "schema").document("migrate schema")
    assert (told.before, told.after) == (1, schema.VERSION)
    assert "up to date" in call(capsys, "migrate", "schema").out
    with connect() as vault, vault.load("minilm:prod", purpose="inference") as model:
        assert bytes(model.read_bytes("config.json")) == b'{"hidden": 256}'
    assert ledger.stat().st_mode & 0o077 == 0

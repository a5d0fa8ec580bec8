"""A vault that is being made, cut off at any step, and made again."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from modelvault import deployment
from modelvault.adapters.keys_hcvault.setup import Setup
from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.broker.kept import KeptPolicies
from modelvault.errors import Conflict
from modelvault.wiring import founding
from support.command import Told, call
from support.servers.hcvault import ROOT
from support.servers.stack import ADMINS


class Cut(BaseException):
    """The process ends here."""


def another(stack, name: str) -> Path:
    """The deployment file of a vault that isn't made yet, at the same servers."""
    text = stack.configs[0].read_text()
    text = text.replace(stack.mount, f"mv{secrets.token_hex(4)}")
    text = text.replace(stack.database, stack.postgresql.fresh())
    path = stack.folder / name / "broker.toml"
    path.parent.mkdir()
    path.write_text(text)
    return path


def test_cut_off_at_each_step(stack, monkeypatch) -> None:
    path = another(stack, "made-again")
    told = deployment.read(path)

    def cut(*_args: object, **_more: object) -> None:
        raise Cut

    steps = [
        (Setup, "mount"), (Setup, "policies"), (Setup, "approle"), (founding, "_trust"),
        (SqlLedger, "create"), (KeptPolicies, "keep"), (SqlLedger, "set_policy_revision"),
    ]  # fmt: skip
    for place, name in steps:
        founding.check(told, [ADMINS])  # a dry run sees nothing in the way, and leaves nothing
        with monkeypatch.context() as patch:
            patch.setattr(place, name, cut)
            with pytest.raises(Cut):
                founding.found(told, ROOT, [ADMINS])
    made = founding.found(told, ROOT, [ADMINS])
    ledger = SqlLedger(told.ledger.url, lambda: 0)
    assert ledger.policy_revision() == made.policy_revision
    (only,) = ledger.entries()
    assert (only.action, only.revision) == ("init", made.policy_revision)
    ledger.close()
    with pytest.raises(Conflict) as refused:
        founding.found(told, ROOT, [ADMINS])
    assert refused.value.code == "ledger_exists"
    with pytest.raises(Conflict) as foretold:
        founding.check(told, [ADMINS])
    assert str(foretold.value) == str(refused.value)


def test_the_command(stack, capsys) -> None:
    path = another(stack, "by-command")
    token = path.with_name("root-token")

    def found(*more: str, admins: str = ADMINS) -> Told:
        line = ("found", path, "--hcvault-token-file", token, "--admins", admins, *more)
        return call(capsys, *line)

    def foretold(*more: str, admins: str = ADMINS) -> Told:
        return found("--dry-run", *more, admins=admins)

    for run in (found, foretold):
        assert run("--json").error.code == "bad_secret_file"
    token.write_text(ROOT)
    for run in (found, foretold):
        assert run("--json", admins="x").error.code == "bad_admins"
    before = sorted(path.parent.rglob("*"))
    told = foretold()
    assert told.code == 0
    assert told.out.startswith("would set up http://127.0.0.1:")
    assert sorted(path.parent.rglob("*")) == before

    told = found()
    assert told.code == 0
    begin = told.out.index("-----BEGIN PUBLIC KEY-----")
    end = told.out.index("-----END PUBLIC KEY-----") + len("-----END PUBLIC KEY-----")
    serialization.load_pem_public_key(told.out[begin:end].encode())
    for run in (found, foretold):
        assert run("--json").error.code == "ledger_exists"

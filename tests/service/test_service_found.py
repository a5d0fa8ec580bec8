"""A vault that is being made, cut off at any step, and made again."""

from __future__ import annotations

import secrets

import pytest

from modelvault import deployment
from modelvault.adapters.keys_hcvault.setup import Setup
from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.broker.kept import KeptPolicies
from modelvault.errors import Conflict
from modelvault.wiring import founding
from support.servers.hcvault import ROOT
from support.servers.stack import ADMINS


class Cut(BaseException):
    """The process ends here."""


def test_cut_off_at_each_step(stack, monkeypatch) -> None:
    mount, database = f"mv{secrets.token_hex(4)}", stack.postgresql.fresh()
    text = stack.configs[0].read_text()
    text = text.replace(stack.mount, mount).replace(stack.database, database)
    path = stack.folder / "made-again" / "broker.toml"
    path.parent.mkdir()
    path.write_text(text)
    told = deployment.read(path)

    def cut(*_args: object, **_more: object) -> None:
        raise Cut

    steps = [
        (Setup, "mount"), (Setup, "policies"), (Setup, "approle"), (founding, "_trust"),
        (SqlLedger, "create"), (KeptPolicies, "keep"), (SqlLedger, "set_policy_revision"),
    ]  # fmt: skip
    for place, name in steps:
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

"""What can be told of a copy before it is made: the trust between two vaults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from modelvault.client import ahead
from modelvault.errors import AccessDenied, InvalidRequest

GIVER: Any = SimpleNamespace(vault="a" * 32)
RECEIVER: Any = SimpleNamespace(vault="b" * 32)
BOTH: Any = {GIVER.vault: None, RECEIVER.vault: None}


def test_what_only_an_admin_of_a_broker_sees_is_said() -> None:
    assert ahead.check_trust(GIVER, BOTH, RECEIVER, BOTH) == ()
    (unseen,) = ahead.check_trust(GIVER, BOTH, RECEIVER, None)
    assert f"whether vault {RECEIVER.vault} trusts vault {GIVER.vault}" in unseen
    assert len(ahead.check_trust(GIVER, None, RECEIVER, None)) == 2


@pytest.mark.parametrize(("pins", "who", "side"), [
    (({}, None), GIVER, "giving"),
    ((None, {}), RECEIVER, "receiving"),
])  # fmt: skip
def test_who_refuses(pins: tuple[Any, Any], who: Any, side: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        ahead.check_trust(GIVER, pins[0], RECEIVER, pins[1])
    assert (caught.value.code, caught.value.details["vault"]) == ("untrusted_vault", who.vault)
    assert f"the {side} vault, {who.vault}" in caught.value.message


def test_one_vault_is_no_two() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ahead.check_trust(GIVER, BOTH, GIVER, BOTH)
    assert caught.value.code == "same_vault"

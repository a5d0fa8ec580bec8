"""A served vault's policy, changed for as long as a test needs it so."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelvault import wiring
from modelvault.client.session import Session
from modelvault.policy.bundle import Bundle
from support.servers.stack import Stack


@contextmanager
def changed_policy(
    stack: Stack, admin: Session, change: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """The policy that the vault began with, with data as `change` makes it, in force; without it
    afterwards."""
    before = stack.founded.policy_revision
    first = wiring.policy_of(admin.policy(before))
    data = copy.deepcopy(first.data)
    change(data)
    changed = Bundle(modules=first.modules, data=data)
    admin.enforce_policy(admin.keep_policy(wiring.policy_document(changed)))
    try:
        yield
    finally:
        admin.enforce_policy(before)

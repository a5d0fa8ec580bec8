"""Each contract test says which adapter it ran against; `tests/conftest.py` tells of them all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# The fixtures whose parameter is an adapter.
CHOSEN = ("cluster", "engine_for", "fresh", "keys", "ledger", "store", "url", "vault")


@pytest.fixture(autouse=True)
def _adapter(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    chosen = getattr(request.node, "callspec", None)
    for name in CHOSEN if chosen is not None else ():
        if isinstance(chosen.params.get(name), str):
            record_property("adapter", chosen.params[name])

from __future__ import annotations

from typing import NoReturn

import pytest

from modelvault.errors import Unavailable
from modelvault.running import front, place
from modelvault.running.holder import Holder


def nobody(_holder: Holder) -> NoReturn:
    raise AssertionError("no lease is asked for")


def test_a_system_that_has_no_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: told before a folder is made, and with what works there."""
    monkeypatch.setattr(place, "make", nobody)
    monkeypatch.setattr(front.sys, "platform", "darwin")
    with pytest.raises(Unavailable) as refused:
        front.run(["true"], {"PATH": "/bin:/usr/bin"}, "m", nobody)
    assert refused.value.code == "no_ram_folder"
    assert "tensors()" in refused.value.hint

"""What every walk of a session needs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from modelvault.client.credentials import Credentials
from modelvault.client.pins import Pins
from modelvault.clock import Clock
from modelvault.ports.broker import Broker, Steward
from modelvault.ports.objects import Places
from modelvault.record import TrustFile


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One vault as one client sees it. `clock` is a boot clock; `threads` read a large range.

    `journals` is the folder where pushes that are cut off leave what the next one goes on with;
    None where none can go on.
    """

    broker: Broker
    steward: Steward
    places: Places
    credentials: Credentials
    trust: TrustFile
    pins: Pins
    clock: Clock
    threads: int
    journals: Path | None = None

    @property
    def vault(self) -> str:
        """The vault's id, by the pinned trust file."""
        return self.trust.vault

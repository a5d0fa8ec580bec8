"""What every walk of a session needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from modelvault.artifact.meter import Meter
from modelvault.client.credentials import Credentials
from modelvault.client.pins import Pins
from modelvault.clock import Clock
from modelvault.manifest import FileEntry
from modelvault.ports.broker import Broker, Steward
from modelvault.ports.objects import CachedReader, ObjectReader, Places
from modelvault.record import TrustFile


class Cache(Protocol):
    """Ciphertext kept near, for the next load of it. Thread-safe."""

    def over(self, store: ObjectReader, files: Sequence[FileEntry], meter: Meter) -> CachedReader:
        """Reads `files` from here where it can, and else from `store`; `meter` is told of what
        came from here, as `cache`."""
        ...


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One vault as one client sees it. `clock` is a boot clock; `threads` read a large range.

    `journals` is the folder where pushes that are cut off leave what the next one goes on with;
    None where none can go on. `cache` is for stores that are far away.
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
    cache: Cache | None = None

    @property
    def vault(self) -> str:
        """The vault's id, by the pinned trust file."""
        return self.trust.vault

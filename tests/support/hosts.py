"""Models in memory whose holder serves other processes."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from modelvault.access import Obligations
from modelvault.artifact.meter import Meter
from modelvault.clock import boot_ms
from modelvault.loader.metrics import Stats
from modelvault.loader.model import Model
from modelvault.sharing.host import Host
from support.loading import Version

LEASE_S = 600


def lasting(seconds: float = LEASE_S, grace_s: float = 0, now: int | None = None) -> Stats:
    """Of a lease that lasts longer than any test, or `seconds` from `now` on."""
    expires_at = (boot_ms() if now is None else now) + round(seconds * 1000)
    return Stats(
        lease_seconds_left=seconds,
        expires_at=expires_at,
        dead_at=expires_at + round(grace_s * 1000),
        costs=Meter().costs(),
    )


class Hosted:
    """A version, the model of it that this process holds, and the host that serves it."""

    def __init__(
        self, files: Mapping[str, bytes], obligations: Obligations | None, **more: Any
    ) -> None:
        self.version = Version(files, segment_length=more.pop("segment_length", 4096))
        stats = more.pop("stats", lasting)
        self.model: Model = self.version.model(obligations=obligations, stats=stats)
        self.host = Host(self.model, **more)

    @property
    def address(self) -> str:
        return self.host.socket_path

    def reads(self, path: str) -> int:
        """Bytes of a file that were decrypted, each time counted."""
        return self.version.readers[path].bytes_read


@contextmanager
def hosted(
    files: Mapping[str, bytes], obligations: Obligations | None = None, **more: Any
) -> Iterator[Hosted]:
    made = Hosted(files, obligations, **more)
    try:
        with made.host:
            yield made
    finally:
        made.model.drop()


def in_a_child(use: Callable[[], bool]) -> bool:
    """Whether `use` said yes in a forked process, where it must not hang."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if use() else 1
        except BaseException:  # noqa: BLE001 - told, and the exit code says it
            traceback.print_exc()
        finally:
            os._exit(code)
    watch = threading.Timer(30, os.kill, (child, 9))
    watch.start()
    _, status = os.waitpid(child, 0)
    watch.cancel()
    return os.waitstatus_to_exitcode(status) == 0

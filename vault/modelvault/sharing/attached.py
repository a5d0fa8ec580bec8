"""`modelvault.attach()`: a model that another process of this host holds."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from modelvault.artifact.meter import Meter
from modelvault.clock import Clock, boot_ms
from modelvault.errors import AccessDenied, InvalidRequest, ModelVaultError, Unavailable
from modelvault.loader import metrics
from modelvault.loader.ending import this_process
from modelvault.loader.memory import check_fits
from modelvault.loader.metrics import Stats
from modelvault.loader.model import Model
from modelvault.loader.resident import Resident
from modelvault.loader.streams import WINDOW, Stream
from modelvault.manifest import FileEntry, Manifest
from modelvault.sharing.address import SOCKET, VARIABLE
from modelvault.sharing.link import Link
from modelvault.sharing.memory import Seen
from modelvault.sharing.messages import Description
from modelvault.sharing.page import ReadPage
from modelvault.sharing.stream import SharedStream

_GONE = "host_gone"
_SHORTEST_S, _LONGEST_S = 0.05, 5.0  # between two looks whether the lease is over


def attach(
    socket_path: str | Path | None = None,
    *,
    on_revoked: Callable[[str], None] | None = None,
    clock: Clock = boot_ms,
) -> Model:
    """The model of the `modelvault run` (or `Host`) that this process was started under.

    It has all that a loaded Model has, over memory that the holder decrypts into and all attached
    processes share: numpy arrays see the very same pages, and a torch tensor copies a page when it
    is written to. The lease is the holder's. When it is over, or the holder ends, every access
    raises, what has no live views is unmapped, and `on_revoked(reason)` is called from another
    thread; where the policy says `terminate_on_revoke`, this process ends with the lease, as the
    holder does, and also where that was stopped or killed.
    `spawn` and `fork` both do: each process attaches by itself.

    Raises InvalidRequest (`no_run`) where nothing says who holds a model; AccessDenied
    (`foreign_process`, `foreign_user`, and once the lease is over); Unavailable (`host_gone`,
    `too_many_attached`).
    """
    address = os.environ.get(VARIABLE) if socket_path is None else os.fspath(socket_path)
    if not address:
        raise InvalidRequest(
            "no_run",
            f"this process runs under no `modelvault run`: {VARIABLE} isn't set",
            f"start it by `modelvault run`, or with the environment of a Host ({VARIABLE})",
        )
    if os.path.isdir(address):  # noqa: PTH112
        address = os.path.join(address, SOCKET)  # noqa: PTH118
    watching = Link(address)
    try:
        return _join(address, watching, on_revoked, clock)
    except BaseException:
        watching.close()
        raise


def _join(
    address: str, watching: Link, on_revoked: Callable[[str], None] | None, clock: Clock
) -> Model:
    description, page = _described(watching, clock)
    watch = _Watch(page)
    watch.check()
    link = Link(address, watch.check)
    grace = description.obligations.grace_s or 0

    def stats() -> Stats:
        dead_at = page.until
        return Stats(
            lease_seconds_left=max(0, page.seconds_left - grace),
            expires_at=max(0, dead_at - grace * 1000),
            dead_at=dead_at,
            costs=Meter().costs(),
        )

    def closed() -> None:
        watching.close()
        link.close()

    model = AttachedModel(
        Manifest.from_bytes(description.manifest),
        description.paths,
        lambda entry: _Reader(link, entry),
        description.obligations,
        watch,
        closed,
        stats=stats,
        memories=lambda entry, holder: Attached(link, entry, holder),
    )
    metrics.watch(model)
    weakref.finalize(model, closed)
    terminate = description.obligations.terminate_on_revoke
    watch.follow(watching, weakref.ref(model), on_revoked, terminate)
    return model


class AttachedModel(Model):
    """A Model whose tensors in a stream are views, too: what others decrypted isn't copied."""

    def __init__(self, *parts: Any, **more: Any) -> None:  # noqa: ANN401
        """As Model. Whether files fit is the holder's to see, copies of them are this process's."""
        super().__init__(*parts, fits=_nothing, **more)
        self._fits = check_fits

    def _check_fits(self, residents: Iterable[Resident]) -> None:
        """The holder looks at that."""

    def iter_tensors(self, *paths: str, device: object = None, window: int = WINDOW) -> Stream:
        """(name, torch.Tensor) of the files named or of all, one after the other, over the shared
        memory; the holder decrypts what comes next meanwhile. Without `device` (or on the CPU)
        there is no window: the memory is the holder's, and all of it stays until this model is
        closed. Otherwise as `Model.iter_tensors`.
        """
        from modelvault.loader.engines import torch

        if device is not None and torch.other_device(device) is not None:
            return super().iter_tensors(*paths, device=device, window=window)
        stream = SharedStream(
            self._located(torch, paths).values(), self._cleared, torch.view, self.check
        )
        self._streams.add(stream)
        return stream


class Attached(Seen):
    """A file's memory, which the holder fills."""

    def __init__(self, link: Link, entry: FileEntry, holder: object = None) -> None:
        """Raises what the holder answers, Unavailable (`insufficient_memory`)."""
        self._link = link
        self._path = entry.path
        descriptor = link.take(entry.path)
        try:
            if os.fstat(descriptor).st_size < entry.size:  # a look behind its end would be a signal
                raise Unavailable("host_unreadable", f"{entry.path}: the memory is too short")
            super().__init__(descriptor, entry.size, holder)
        except BaseException:
            os.close(descriptor)
            raise

    def fill(self, begin: int, end: int, read: Callable[[memoryview], None]) -> None:  # noqa: ARG002
        """Have the holder do it; `read` isn't needed."""
        self._link.need(self._path, begin, end, self.descriptor)


class _Reader:
    """A Reader that copies out of the shared memory."""

    def __init__(self, link: Link, entry: FileEntry) -> None:
        self._link = link
        self._entry = entry
        self._memory: Attached | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See `loader.source.Reader`."""
        memory = self._memory or Attached(self._link, self._entry)
        self._memory = memory
        memory.fill(offset, offset + len(buffer), _nothing)
        with memory.view(offset, offset + len(buffer)) as view:
            buffer[:] = view

    def wipe(self) -> None:
        """Let go of the memory."""
        self._memory = None


class _Watch:
    """A Guard: the holder's page, and whether the holder is still there."""

    def __init__(self, page: ReadPage) -> None:
        self._page = page
        self._gone = False

    def check(self) -> None:
        """Raise what the holder says, or Unavailable (`host_gone`)."""
        self._page.check()
        if self._gone:
            raise Unavailable(
                _GONE,
                "the process that held this model's lease has ended without a word",
                "start it again, with what it runs",
            )

    def follow(
        self,
        watching: Link,
        model: Callable[[], Model | None],
        on_revoked: Callable[[str], None] | None,
        grace_s: int | None,
    ) -> None:
        """From another thread: when the holder hangs up, or says nothing any more, let go of all
        that isn't looked at; and end this process once the lease is over, where the policy gives it
        `grace_s` seconds.

        Raises Unavailable (`no_thread`).
        """

        def wait() -> None:
            while not watching.wait(self._pause_s()) and self._page.seconds_left:
                pass
            if watching.closed:
                return
            self._gone = True
            ended = self._why()
            denied = grace_s is not None and isinstance(ended, AccessDenied)
            finish = this_process(grace_s or 0) if denied else _nobody
            try:
                _drop(model())
                if on_revoked is not None:
                    on_revoked(ended.code)
                    _drop(model())
            finally:
                finish()
                if grace_s is not None and ended.code == _GONE:
                    self._outlast(watching, grace_s)

        try:
            threading.Thread(target=wait, name="modelvault-attached", daemon=True).start()
        except RuntimeError:
            raise Unavailable(
                "no_thread",
                "the system gives this process no further thread, and an attached model needs one",
                "raise its limit on processes (ulimit -u, pids.max) or on memory",
            ) from None

    def _outlast(self, watching: Link, grace_s: int) -> None:
        """Nobody is there to renew: the lease holds for as long as it was said to."""
        while self._page.seconds_left and not watching.closed:
            threading.Event().wait(self._pause_s())
        if not watching.closed:
            this_process(grace_s)()

    def _pause_s(self) -> float:
        """Not longer than the lease holds; and a wait doesn't count while the machine sleeps."""
        return min(max(self._page.seconds_left, _SHORTEST_S), _LONGEST_S)

    def _why(self) -> ModelVaultError:
        try:
            self.check()
        except ModelVaultError as error:
            return error
        return Unavailable(_GONE, "the holder hung up")


def _drop(model: Model | None) -> None:
    if model is not None:
        model.drop()


def _nobody() -> None:
    """Nobody is to be ended."""


def _nothing(_buffer: object) -> None:
    return


def _described(link: Link, clock: Clock) -> tuple[Description, ReadPage]:
    document, page = link.describe()
    try:
        size = os.fstat(document).st_size
        with mmap.mmap(document, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as whole:
            description = Description.parse(whole[:])
        return description, ReadPage(page, clock)
    finally:
        os.close(document)
        os.close(page)

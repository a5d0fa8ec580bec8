"""One process holds a model's lease and decrypts; processes that it started read what it shares.

    with vault.load("minilm:prod", purpose="inference") as model, Host(model) as host:
        subprocess.run(command, env=os.environ | host.environment)   # they call modelvault.attach()

Each segment is read from the store and decrypted at most once, whoever asks, into memory that only
this process can write to. What others have mapped can't be taken from them: when the lease ends
they are told, get nothing more, and the Model that `attach` gave them lets go of what it has.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from modelvault.clock import Clock, boot_ms, steady_ns
from modelvault.errors import AccessDenied, Conflict, ModelVaultError, Unavailable
from modelvault.loader.model import Model
from modelvault.sharing import address as addresses
from modelvault.sharing import messages, peers
from modelvault.sharing.address import SOCKET, VARIABLE
from modelvault.sharing.memory import sealed
from modelvault.sharing.messages import Description
from modelvault.sharing.page import WrittenPage
from modelvault.sharing.peers import Peer
from modelvault.sharing.served import Served
from modelvault.sharing.shelf import Shelf

__all__ = ["SOCKET", "VARIABLE", "Host"]

MAX_CONNECTIONS = 512
MAX_OF_ONE = 8  # connections of one process
LINGER_S = 60.0

_LOG = logging.getLogger("modelvault.sharing")
_TICK_S = 0.5
_JOIN_NS = 5_000_000_000


class Host:
    """Serves one model to the processes that this one has started. Thread-safe.

    It has a thread, and one for each connection. Stop it before the model is closed: processes
    that are attached are told that it was closed, and keep what they have mapped.
    """

    def __init__(
        self,
        model: Model,
        socket_path: str | Path | None = None,
        *,
        linger_s: float = LINGER_S,
        clock: Clock = boot_ms,
    ) -> None:
        """`socket_path` doesn't exist yet, and lies in a folder that is nobody else's; without
        one, a folder is made. Memory that no process has any more is given back after `linger_s`
        seconds. `clock` is a boot clock in milliseconds.

        Raises InvalidRequest (`bad_socket_path`), Unavailable (`no_shared_memory`).
        """
        address = addresses.make(socket_path)
        self.socket_path = address.path
        self._model = model
        self._clock = clock
        self._own = Peer(os.getpid(), os.geteuid())
        self._shelf = Shelf(model, clock, round(linger_s * 1000))
        self._page = WrittenPage()
        self._description = sealed(Description.of(model.manifest, model.files, model.obligations))
        self._listener: socket.socket | None = None
        self._connections: set[Served] = set()
        self._lock = threading.Lock()
        self._over: ModelVaultError | None = None
        self._over_at = 0
        self._wiped = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelvault-host", daemon=True)
        # Also runs when the interpreter ends.
        self._remove = weakref.finalize(self, addresses.remove, address, self._own.pid)
        weakref.finalize(self, os.close, self._description)

    @property
    def environment(self) -> dict[str, str]:
        """What a process's environment must have for `modelvault.attach()` to find this host."""
        return {VARIABLE: self.socket_path}

    def start(self) -> Self:
        """Begin to serve. Once only.

        Raises what an access to the model would, AccessDenied (`isolated_memory`), InvalidRequest
        (`bad_socket_path`), Unavailable (`no_thread`).
        """
        self._check()
        self._look()
        self._listener = addresses.listen(self.socket_path, MAX_CONNECTIONS)
        self._listener.settimeout(_TICK_S)
        _hosts.add(self)
        try:
            self._thread.start()
        except RuntimeError:
            self.stop()
            raise _no_thread() from None
        return self

    def stop(self) -> None:
        """Tell all who are attached that the model was closed, and end. Twice is fine.

        What they have mapped stays theirs until they end or let go of it.
        """
        if self._own.pid != os.getpid():
            return
        self._end(
            Conflict("closed", "the process that holds this model has closed it", "start it again")
        )
        self._stopping.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        # Who still reads for a process is left behind: a store that never answers holds nobody up.
        until = steady_ns() + _JOIN_NS
        for served in self._serving():
            served.join(max(0, until - steady_ns()) / 1e9)
        if self._thread.is_alive():
            self._thread.join(max(0, until - steady_ns()) / 1e9)
        if listener is not None:
            listener.close()
        self._remove()
        self._wipe(at_once=True)
        self._shelf.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        listener = self._listener
        try:
            while listener is not None and not self._stopping.is_set():
                self._look()
                self._shelf.tidy()
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                except OSError:  # it was stopped, or there are no descriptors left: not for ever
                    self._stopping.wait(_TICK_S)
                    continue
                self._receive(connection)
        finally:  # whatever unforeseen ends this thread: fail closed
            self._end(Unavailable("host_failed", "the model's holder failed", "see its log"))

    def _receive(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        try:
            self._admit(connection)
        except ModelVaultError as refused:
            _LOG.warning("a process was refused: %s", refused.message)
            with suppress(OSError), connection:
                connection.setblocking(False)
                messages.send(connection, messages.refusal(refused), [])
        except OSError:  # it is gone already
            connection.close()

    def _look(self) -> None:
        """Say on the page what holds now."""
        try:
            self._check()
        except AccessDenied as denied:
            self._end(denied)
            self._wipe(at_once=False)
        except Conflict as closed:
            if self._model.closed:  # else somebody is trying to, and may not succeed
                self._end(closed)
        else:
            # A moment, and no time from now on: this process may be stopped in between.
            until = self._model.stats().dead_at
            if until:  # else it ended just now, and the next look says why
                self._page.extend(until)

    def _check(self) -> None:
        self._model.check()
        if self._model.obligations.isolated_memory and not peers.hidden():
            raise AccessDenied(
                "isolated_memory",
                f"{self._model.name} may not lie where other processes of this user could open it",
                "share it by `modelvault run --stream`, on a machine that allows private mounts",
                model=self._model.name,
                reasons=["isolated_memory"],
            )

    def _end(self, error: ModelVaultError) -> None:
        """Nobody gets anything more. Their sockets close, so that they look at the page at once."""
        with self._lock:
            self._over = self._over or error
            self._page.end(error)
        for served in self._serving():
            served.hang_up()

    def _wipe(self, *, at_once: bool) -> None:
        """Where the policy says `terminate_on_revoke`, nothing is left to who outlives a denial by
        that long: he looks at zeros. Nobody else's memory is ever wiped under him."""
        grace_s = self._model.obligations.terminate_on_revoke
        if grace_s is None or not isinstance(self._over, AccessDenied):
            return
        self._over_at = self._over_at or self._clock()
        due = self._clock() - self._over_at >= grace_s * 1000
        # While a connection is there, its last request may still be writing.
        if not self._wiped and (at_once or (due and not self._serving())):
            self._wiped = True
            self._shelf.wipe()

    def _admit(self, connection: socket.socket) -> None:
        peer = peers.identify(connection, self._own)
        served = Served(connection, peer, self._shelf, self._described, self._ended)
        with self._lock:
            if self._over is not None:
                raise self._over
            of_one = sum(other.peer.pid == peer.pid for other in self._connections)
            if of_one >= MAX_OF_ONE or len(self._connections) >= MAX_CONNECTIONS:
                raise Unavailable(
                    "too_many_attached",
                    f"{of_one} connections of this process, {len(self._connections)} of all; "
                    f"the limits are {MAX_OF_ONE} and {MAX_CONNECTIONS}",
                    "attach once in a process and close the model when it is done",
                )
            try:
                served.start()
            except RuntimeError:
                raise _no_thread() from None
            self._connections.add(served)

    def _described(self) -> list[int]:
        return [self._description, self._page.descriptor]

    def _serving(self) -> list[Served]:
        with self._lock:
            return list(self._connections)

    def _ended(self, served: Served) -> None:
        with self._lock:
            self._connections.discard(served)

    def _forget(self) -> None:
        """In a forked child: nothing here is its own, and it must not keep a line open."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()
        for served in self._connections:
            served.forget()


_hosts: weakref.WeakSet[Host] = weakref.WeakSet()


def _in_child() -> None:
    for host in list(_hosts):
        host._forget()


os.register_at_fork(after_in_child=_in_child)


def _no_thread() -> Unavailable:
    return Unavailable(
        "no_thread",
        "the system gives this process no further thread, and each attached process needs one",
        "raise its limit on processes (ulimit -u, pids.max) or on memory",
    )

"""Holds lease and folder while the command runs, and sees to their end.

It is the only process of a run with keys, and with a thread that renews. Nobody talks to it but the
front and the warden, by whose ends it notices that they were killed. It tells them until when the
lease holds: when it is stopped itself, they act for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from modelvault.errors import AccessDenied, ModelVaultError, Unavailable
from modelvault.loader.model import Model
from modelvault.loader.ramdir import RamFolder
from modelvault.running import command, kernel, private, streams
from modelvault.running import signals as handling
from modelvault.running.place import Place, nowhere
from modelvault.running.private import PrivateFolder
from modelvault.running.term import Term
from modelvault.running.warden import Job, Warden
from modelvault.sharing.host import SOCKET, Host

# Between SIGTERM and SIGKILL, where the policy gives no `terminate_on_revoke`.
DEFAULT_GRACE_S = 10
_TELL_S = 0.5

RunFolder = RamFolder | PrivateFolder
_End = Literal["ended", "revoked", "alone"]


class Holder:
    """One run's; made by `front.run`, in a process of its own."""

    def __init__(
        self,
        job: Job,
        name: str,
        place: Place,
        warden: Warden,
        front: socket.socket,
        term: Term,
        *,
        hidden: bool,
    ) -> None:
        """`term` is what the others are told by; `hidden` says whether this process and the warden
        have mounts of their own."""
        self._job = job
        self._name = name
        self._place = place
        self._warden = warden
        self._front = front
        self._term = term
        self._hidden = hidden
        self._reason = ""
        self._woken, self._wake = socket.socketpair()

    def on_revoked(self, reason: str) -> None:
        """For `Session.load`: the lease is over, and the command is to be ended."""
        self._reason = reason
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    @contextmanager
    def folder(self, model: Model, paths: Sequence[str]) -> Iterator[RunFolder]:
        """An empty folder for these files; at the end no process reads them, and it is gone.

        Raises Unavailable (`no_ram_folder`).
        """
        folder = self._private(model, paths) if self._hidden else self._links()
        try:
            yield folder
        finally:
            self._warden.stop()  # who reads the files ends before they do
            with contextlib.suppress(OSError):  # a root's command may have unmounted it
                folder.close()

    @contextmanager
    def sharing(self, model: Model) -> Iterator[None]:
        """Let the command's processes `modelvault.attach()` to the model meanwhile.

        Raises what `Host.start` does.
        """
        with Host(model, self._place.path / SOCKET):
            yield

    def run(self, model: Model, folder: RunFolder) -> int:
        """Run the command, whose folder is filled, until it and all that it started have ended.

        Returns its exit code (128 + the signal that ended it). Raises AccessDenied (with the
        lease's reason, where that ended before the command; `lease_expired` where it did while this
        process was stopped), InvalidRequest (`command_not_found`, `command_not_executable`),
        Unavailable (`run_killed`, `not_started`).
        """
        folder.lock()
        self._tell(model)
        self._start()
        how = self._watch(model)
        if how == "revoked":
            self._term.end(self._grace(model))
            folder.hide()
            self._warden.end(self._grace(model))
        elif how == "alone":
            self._warden.stop()
        status = self._warden.wait()
        if how == "revoked":
            raise self._revoked(model)
        if self._term.taken or self._term.over:
            raise self._stopped(model)
        return self._code(status)

    def leave(self) -> None:
        """End what still runs, and remove the folder's name. For every way out."""
        self._warden.stop()
        self._place.remove()

    def _private(self, model: Model, paths: Sequence[str]) -> PrivateFolder:
        sizes = {entry.path: entry.size for entry in model.manifest.files}
        size = private.rounded(sizes[path] for path in paths)
        try:
            folder = PrivateFolder(self._place.path, self._name, size)
        except OSError as error:
            raise _no_folder(error) from None
        with contextlib.suppress(OSError):
            kernel.hide()
        return folder

    def _links(self) -> RamFolder:
        if not self._place.ours:  # an empty folder of the machine's: only to be mounted on
            raise nowhere()
        root = self._place.path / self._name
        root.mkdir(mode=0o700)
        return RamFolder(root)

    def _start(self) -> None:
        os.setpgid(0, 0)
        handling.ignore_all()
        error = self._warden.start()
        if error:
            raise _not_started(error, self._job.words[0])
        streams.let_go()

    def _tell(self, model: Model) -> None:
        self._term.tell(model.stats(), self._grace(model))

    def _watch(self, model: Model) -> _End:
        ends: dict[object, _End] = {
            self._warden.descriptor: "ended",
            self._woken: "revoked",
            self._front: "alone",  # the front was killed: its end of the socket is closed
        }
        with selectors.DefaultSelector() as ready:
            for source in ends:
                ready.register(source, selectors.EVENT_READ)  # type: ignore[arg-type]
            found: set[_End] = set()
            while not found:
                self._tell(model)
                found = {ends[key.fileobj] for key, _ in ready.select(_TELL_S)}
        return next(how for how in ends.values() if how in found)

    def _grace(self, model: Model) -> int:
        grace_s = model.obligations.terminate_on_revoke
        return DEFAULT_GRACE_S if grace_s is None else grace_s

    def _code(self, status: int) -> int:
        if os.WIFSIGNALED(status):
            raise Unavailable(
                "run_killed",
                "the process that looks after the command was killed, and the command with it",
                "see who kills it: the system's log tells of a lack of memory",
            )
        return os.waitstatus_to_exitcode(status)

    def _revoked(self, model: Model) -> AccessDenied:
        return AccessDenied(
            self._reason,
            f"the lease of {model.name} is over ({self._reason}): {self._job.words[0]} was ended",
            "run it again, or ask the model's owner if that is refused",
            model=model.name,
        )

    def _stopped(self, model: Model) -> AccessDenied:
        return AccessDenied(
            "lease_expired",
            f"the lease of {model.name} ran out while the process that holds it was stopped: "
            f"{self._job.words[0]} was ended",
            "see who stops it (SIGSTOP, a debugger, a frozen container), and run it again",
            model=model.name,
        )


def _no_folder(error: OSError) -> Unavailable:
    return Unavailable(
        "no_ram_folder",
        f"a file system in memory couldn't be mounted: {os.strerror(error.errno or 0)}",
        "raise the limit that was reached, or ask the machine's admin",
    )


def _not_started(number: int, program: str) -> ModelVaultError:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return command.not_found(program)
    if number in (errno.EACCES, errno.ENOEXEC, errno.EPERM, errno.EISDIR):
        return command.not_executable(program, os.strerror(number))
    return Unavailable(
        "not_started",
        f"{program} couldn't be started: {os.strerror(number)}",
        "raise the limit that was reached (ulimit -a, pids.max)",
    )

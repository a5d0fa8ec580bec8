"""`modelvault hold`: a model as files in somebody else's folder in memory, for others to open.

For a pod: the folder is a volume that its containers share, an emptyDir with `medium: Memory`, and
this is the sidecar that fills it, keeps the lease, and empties it at the end. It can't end those
who read: the mark `.modelvault/held` is there as long as the model may be used, and goes first; a
probe of theirs that looks for it does the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from modelvault.errors import AccessDenied, Conflict, InvalidRequest, Unavailable
from modelvault.loader.filesystems import in_memory
from modelvault.loader.folders import Tell
from modelvault.loader.model import Model
from modelvault.loader.ramfiles import RamFiles, not_in_memory, wipe
from modelvault.running import kernel
from modelvault.running import signals as handling

OURS = ".modelvault"
HELD = "held"  # in it; what probes look for
_LOOK_S = 1.0


class Hold:
    """One folder that is filled and emptied. Entered before the lease is taken, left when the
    model is no longer to be used, and before its lease is given back."""

    def __init__(self, root: Path) -> None:
        """From here on no debugger of this user gets into this process, nor a dump out of it: to
        be made before anything secret is there. Whoever may read the folder still does.

        Raises InvalidRequest (`no_folder`, `not_in_memory`), Unavailable (`cant_write`).
        """
        with contextlib.suppress(OSError):
            kernel.hide()
        with _reported(root):
            if not root.is_dir():
                raise InvalidRequest(
                    "no_folder", f"there is no folder {root}", "mount a tmpfs there, and name that"
                )
            if not in_memory(root):
                raise not_in_memory(root)
        self._ours = root / OURS
        self._files = RamFiles(root)
        self._reason = ""
        self._over = threading.Event()
        self._before = handling.inherited()

    def __enter__(self) -> Self:
        """Make the folder ours. Of a holder that was killed it is, with all that is in it.

        Raises Conflict (`folder_in_use`, `folder_not_empty`), Unavailable (`cant_write`).
        """
        root = self._files.root
        with _reported(root):
            self._lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _reported(root):
                self._take(root)
        except BaseException:
            os.close(self._lock)
            raise
        handling.unwind_when_asked(self._before)
        return self

    def _take(self, root: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                "folder_in_use",
                f"another process holds a model in {root}",
                "name another folder, or end that process",
            ) from None
        if self._ours.is_dir():
            wipe(root)
        elif any(root.iterdir()):
            raise Conflict(
                "folder_not_empty",
                f"there are files in {root} that aren't a holder's",
                "name an empty folder",
            )
        self._ours.mkdir(mode=0o750)

    def on_revoked(self, reason: str) -> None:
        """For `Session.hold`: the lease is over. What is in the folder goes at once, wherever who
        fills it is by now."""
        self._reason = reason
        self._empty()
        self._over.set()

    def fill(self, model: Model, tell: Tell | None = None) -> None:
        """Put the model there; then there is the mark.

        Raises AccessDenied (`terminate_on_revoke`, `isolated_memory`, the lease's reason where it
        ended meanwhile), and as `Model.fill`.
        """
        _check(model)
        try:
            model.fill(self._files, tell=tell)
        except Conflict:
            if self._files.closed:
                raise self._ended(model) from None
            raise
        (self._ours / HELD).touch(mode=0o440)
        if self._files.closed:
            self._empty()

    def wait(self, model: Model) -> None:
        """Until the lease is over, which raises AccessDenied with its reason, or SystemExit by a
        signal that asks for the end."""
        while not self._over.wait(_LOOK_S):
            _check(model)  # a renewal may have brought it
        raise self._ended(model)

    def _empty(self) -> None:
        """First the mark, then the files. Twice is fine."""
        mark = self._ours / HELD
        mark.unlink(missing_ok=True)
        self._files.close()
        mark.unlink(missing_ok=True)  # `fill` may have been about to make it

    def _ended(self, model: Model) -> AccessDenied:
        return AccessDenied(
            self._reason,
            f"the lease of {model.name} is over ({self._reason}): {self._files.root} was emptied",
            "hold it again, or ask the model's owner if that is refused",
            model=model.name,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        handling.ignore_all()  # whoever asks twice mustn't leave plaintext there
        self._empty()
        with contextlib.suppress(OSError):  # where it is gone, so much the better
            self._ours.rmdir()
        os.close(self._lock)


@contextlib.contextmanager
def _reported(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "cant_write",
            f"can't write {root}: {os.strerror(error.errno or 0)}",
            "check the permissions of the folder and of those above it",
        ) from None


def _check(model: Model) -> None:
    if model.obligations.terminate_on_revoke is not None:
        raise AccessDenied(
            "terminate_on_revoke",
            f"who uses {model.name} must be ended with its lease, and a holder can't end others",
            "use `modelvault run`, or ask the model's owner",
            model=model.name,
            reasons=["terminate_on_revoke"],
        )

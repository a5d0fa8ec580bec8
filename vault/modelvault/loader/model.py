"""A granted version, as a job uses it."""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from modelvault.access import Obligations
from modelvault.errors import AccessDenied, Conflict, ModelVaultError, NotFound
from modelvault.loader.folders import Folder, Folders, Tell
from modelvault.loader.formats import Formats
from modelvault.loader.lent import Lent
from modelvault.loader.memory import check_fits
from modelvault.loader.metrics import Stats
from modelvault.loader.opened import opened
from modelvault.loader.resident import Resident, private
from modelvault.loader.screen import Screen
from modelvault.loader.shards import Shards
from modelvault.loader.source import Fits, Gate, Guard, Memories, Readers
from modelvault.loader.tensors import Tensors
from modelvault.manifest import Manifest
from modelvault.reference import Reference


class Model(Tensors, Formats):
    """The granted files of one version; bytes are decrypted when they are first used, once.

    All may be called by many threads at once. Every access raises AccessDenied once the lease is
    gone, Conflict (`closed`) after `close()`, IntegrityError (naming the file) for bytes that
    aren't what was signed, Unavailable (`insufficient_memory`) before a byte is read that
    wouldn't fit, AccessDenied (`pickle_refused`) for pickles that the policy doesn't allow,
    AccessDenied (`file_not_granted`) and NotFound (`no_file`) for other paths.

    What was handed out (arrays, tensors, memoryviews) keeps its file's memory alive, and with it
    this model and its lease: drop it before the end of the `with`, or before `close()`.
    """

    def __init__(
        self,
        manifest: Manifest,
        paths: Sequence[str],
        readers: Readers,
        obligations: Obligations,
        guard: Guard,
        on_close: Callable[[], None],
        *,
        stats: Callable[[], Stats],
        fits: Fits = check_fits,
        memories: Memories = private,
    ) -> None:
        """`paths` are the granted ones; `on_close` is called once, after the memory is gone;
        `stats` tells of the lease and the reads; `memories` gives what files are decrypted to."""
        self.manifest = manifest
        self.obligations = obligations
        self.closed = False
        self._gate = Gate(guard)
        self._fits = fits
        self._on_close = on_close
        self._stats = stats
        self._residents = {
            entry.path: Resident(entry, readers, self._gate, fits, self, memories)
            for entry in manifest.files
            if entry.path in set(paths)
        }
        self._screen = Screen(obligations.allow_pickle, manifest.hints.pickles)
        version = tuple(entry.path for entry in manifest.files)
        self._shards = Shards(version, self.files, self._cleared)
        self._lent = Lent(self._gate, self)
        self._streams = weakref.WeakSet()
        self._folders = Folders(self.name, self._granted, fits, self._screen)
        self._lock = threading.Lock()

    @property
    def files(self) -> tuple[str, ...]:
        """The granted paths."""
        return tuple(self._residents)

    @property
    def size(self) -> int:
        """Plaintext bytes of the granted files."""
        return sum(resident.size for resident in self._residents.values())

    @property
    def name(self) -> str:
        """The exact reference of this version: `[tenant/]model@version`."""
        manifest = self.manifest
        return str(Reference(manifest.tenant, manifest.model, version=manifest.version))

    @property
    def labels(self) -> dict[str, str]:
        """A copy of the version's labels."""
        return dict(self.manifest.labels)

    def stats(self) -> Stats:
        """For how long the lease runs, how many bytes came from where, and what took the time.
        May be asked at any time, also after `close()`."""
        return self._stats()

    def read_bytes(self, path: str) -> memoryview:
        """A whole file as a read-only memoryview over the decrypted memory."""
        resident = self._granted(path)
        self._check_fits([resident])
        self._screen.check(resident)
        return resident.view(0, resident.size)

    def open(self, path: str) -> io.BufferedReader:
        """A file, seekable and binary. Only what is read is decrypted; it stays in memory."""
        return opened(self._cleared(path))

    def path(self, *paths: str) -> Path:
        """A folder whose files are in memory alone, for engines that want names (`ramdir`).

        Holds the files named, or all granted ones; the same folder grows when called again. It is
        a second copy beside `tensors()`, read-only, and is gone after `close()`. This process must
        live as long as the engine. Raises Unavailable (`no_ram_folder`), AccessDenied
        (`isolated_memory`) where the policy wants what only `modelvault run` can give.
        """
        with self._lock:
            return self._folders.own(paths or self.files, self.obligations)

    def fill(self, folder: Folder, *paths: str, tell: Tell | None = None) -> None:
        """Put files into a folder that somebody else keeps and ends, as `path` does.

        `tell(done, total)` gets the bytes put there. Raises as `path`.
        """
        with self._lock:
            self._folders.fill(folder, paths or self.files, self.obligations, tell)

    def heed(self, obligations: Obligations) -> None:
        """What the policy asks from now on. Raises AccessDenied where that can't be kept."""
        self._folders.heed(obligations)
        self.obligations = obligations

    def check(self) -> None:
        """Raise what an access would: AccessDenied once the lease is over, Conflict (`closed`)."""
        self._gate.check()

    def lend(self, path: str) -> Resident:
        """A file's memory, to share it with other processes (`sharing`)."""
        return self._cleared(path)

    def close(self) -> None:
        """Wipe and unmap all, remove the folder, end the lease. Doing it twice is fine.

        Not in a signal handler, which may have interrupted what holds a lock here: raise there
        (`sys.exit()`), and let the `with` close it.

        Raises Conflict (`views_alive`) naming the files whose memory is in use; the model stays
        open then, and a later close works.
        """
        if self._gate.forked:
            self._leave()
            return
        self._gate.shut()  # before the lock: whoever fills the folder gives up at its next stride
        with self._lock:
            if self.closed:
                return
            self._gate.shut()  # again: a close that failed meanwhile has reopened it
            alive = self._release()
            if alive:
                self._gate.reopen()
                raise self._in_use(alive)
            self.closed = True
            self._end()
        self._on_close()

    def release(self) -> None:
        """As `close`, but the lease stays, and what is used later is decrypted anew."""
        with self._lock:
            alive = self._release()
            self._folders.close()
        if alive:
            raise self._in_use(alive)

    def drop(self) -> tuple[str, ...]:
        """The lease is gone: deny access for good, wipe and unmap what has no live views.

        The rest goes when its last view dies. Returns the paths of that rest.
        """
        self._gate.drop()
        with self._lock:
            self._end()
            alive = [path for path, resident in self._residents.items() if resident.alive]
            return tuple(dict.fromkeys([*alive, *self._lent.alive()]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._close_after(error)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Model can't be pickled, so not be sent to a process that is spawned: load it there, "
            "or share one among all processes with `modelvault run` and `modelvault.attach()`"
        )

    def __repr__(self) -> str:
        return f"<Model {self.name}, {len(self._residents)} files{', closed' * self.closed}>"

    def _close_after(self, error: BaseException) -> None:
        """Close while `error` is on its way, whose traceback may well hold views.

        The error matters more than the views: they are noted on it, and their memory is wiped
        when the last of them dies.
        """
        if self._gate.forked:
            self._leave()
            return
        self._gate.shut()
        with self._lock:
            if self.closed:
                return
            alive = self._release()
            self.closed = True
            self._end()
        if alive:
            error.add_note(f"views of {', '.join(alive)} live on; wiped when the last one dies")
        try:
            self._on_close()
        except ModelVaultError as second:
            error.add_note(f"closing the model failed as well: {second}")

    def _leave(self) -> None:
        """Close in a forked child, where there is nothing to wipe, and no lock may be taken."""
        self._gate.shut()
        if not self.closed:
            self.closed = True
            self._on_close()

    def _in_use(self, alive: list[str]) -> Conflict:
        return Conflict(
            "views_alive",
            f"{self.name}: views of {', '.join(alive[:3])} are still in use"
            + (f" (and of {len(alive) - 3} more files)" if len(alive) > 3 else ""),
            "drop the arrays, tensors and memoryviews taken from the model (`del`), "
            "also those that a function's local names hold, then close again",
            files=alive,
        )

    def _release(self) -> list[str]:
        self._end_streams()
        alive = [path for path, resident in self._residents.items() if not resident.release()]
        return list(dict.fromkeys([*alive, *self._lent.alive()]))

    def _end_streams(self) -> None:
        for stream in list(self._streams):
            stream.close()

    def _end(self) -> None:
        self._end_streams()
        for resident in self._residents.values():
            resident.seal()
        self._folders.close()

    def _cleared(self, path: str) -> Resident:
        resident = self._granted(path)
        self._screen.check(resident)
        return resident

    def _granted(self, path: str) -> Resident:
        self._gate.check()
        resident = self._residents.get(path)
        if resident is not None:
            return resident
        if self.manifest.file(path) is not None:
            raise AccessDenied(
                "file_not_granted",
                f"{path} belongs to {self.name}, but this lease is for other files",
                "name it in files=[...] when loading, or ask for a grant that includes it",
                file=path,
                reasons=["file_not_granted"],
            )
        raise NotFound("no_file", f"{self.name} has no file {path!r}", "see model.files")

"""Files of a model put where engines can open them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from modelvault.access import Obligations
from modelvault.errors import AccessDenied
from modelvault.loader.ramdir import Fill, RamFolder
from modelvault.loader.resident import Resident
from modelvault.loader.screen import Screen
from modelvault.loader.source import Fits

Tell = Callable[[int, int], None]


class Folder(Protocol):
    """A folder whose files are in memory alone.

    `isolated` says whether it is hidden from all processes but those that it is for.
    """

    isolated: bool
    root: Path

    def __contains__(self, path: str) -> bool:
        """Whether the file is in it."""
        ...

    def add(self, path: str, size: int, fill: Fill) -> None:
        """Put a file of `size` bytes, written by `fill`, at the relative `path`."""
        ...


class Folders:
    """The folders that files of one model were put into. Not thread-safe."""

    def __init__(
        self, name: str, granted: Callable[[str], Resident], fits: Fits, screen: Screen
    ) -> None:
        """`name` is the model's; `granted` gives a path's file, or raises."""
        self._name = name
        self._granted = granted
        self._fits = fits
        self._screen = screen
        self._own: RamFolder | None = None
        self._open = False  # whether a folder is in use that others can look into

    def own(self, paths: Sequence[str], obligations: Obligations) -> Path:
        """The folder of this process itself, made at first use, with these files in it.

        Raises AccessDenied (`isolated_memory`), Unavailable (`no_ram_folder`).
        """
        if obligations.isolated_memory:
            raise self._refused()
        for path in paths:
            self._granted(path)
        if self._own is None:
            self._own = RamFolder()
        self.fill(self._own, paths, obligations)
        return self._own.root

    def fill(
        self,
        folder: Folder,
        paths: Sequence[str],
        obligations: Obligations,
        tell: Tell | None = None,
    ) -> None:
        """Put those files into `folder` that aren't there yet; `tell(done, total)` gets bytes.

        Raises AccessDenied (`isolated_memory`) before anything is decrypted.
        """
        if obligations.isolated_memory and not folder.isolated:
            raise self._refused()
        self._open |= not folder.isolated
        residents = [self._granted(path) for path in dict.fromkeys(paths)]
        new = [resident for resident in residents if resident.path not in folder]
        total = sum(resident.size for resident in new)
        if new:
            self._fits(total)
        for resident in new:
            self._screen.check(resident)
        count = _counter(total, tell)
        for resident in new:
            folder.add(resident.path, resident.size, partial(resident.fill, count=count))

    def heed(self, obligations: Obligations) -> None:
        """A renewal may ask for more: AccessDenied (`isolated_memory`) where it comes too late."""
        if obligations.isolated_memory and self._open:
            raise self._refused()

    def close(self) -> None:
        """Remove this process's own folder; a later `own` makes another."""
        folder, self._own = self._own, None
        if folder is not None:
            folder.close()

    def _refused(self) -> AccessDenied:
        return AccessDenied(
            "isolated_memory",
            f"{self._name} may not lie where other processes of this user could open it",
            "use `modelvault run` on a machine that allows private mounts (`modelvault doctor`), "
            "or tensors() and read_bytes()",
            model=self._name,
            reasons=["isolated_memory"],
        )


def _counter(total: int, tell: Tell | None) -> Callable[[int], None]:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if tell is not None:
            tell(done, total)

    return count

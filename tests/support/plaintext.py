"""What a framework left on a disk: nothing of the model in the clear, or the test fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from modelvault_cli.demo.search import Leak, Windows, search


class Plaintext:
    """The bytes of some files, taken while they lie in the clear, to be looked for later.

    Two KiB of it in a row are found anywhere in any file; whoever wants more must look for it.
    """

    def __init__(self, *files: Path) -> None:
        """The files named, and all files below the folders among them."""
        self._windows = Windows(file.read_bytes() for file in _below(files))
        assert len(self._windows), "nothing to look for: the files are too short or all alike"

    def left(self, *folders: Path) -> list[Leak]:
        """Where it lies under the folders: an empty list is what a test wants.

        First it is planted, and must be found: a search that sees nothing proves nothing.
        """
        for folder in folders:
            planted = folder / "planted"
            planted.mkdir()
            (planted / "file").write_bytes(b"x" * 333 + self._windows.sample())
            try:
                assert search(planted, self._windows, ()), "the search is blind"
            finally:
                shutil.rmtree(planted)
        return [leak for folder in folders for leak in search(folder, self._windows, ())]


def _below(files: Iterable[Path]) -> list[Path]:
    return [
        path
        for file in files
        for path in ([file] if file.is_file() else sorted(file.rglob("*")))
        if path.is_file()
    ]

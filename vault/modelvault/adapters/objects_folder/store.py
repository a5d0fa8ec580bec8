"""ObjectStore over a folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import accumulate
from pathlib import Path

from modelvault.adapters.objects_folder import drafts, listing, place
from modelvault.adapters.objects_folder.descriptors import Descriptors
from modelvault.adapters.objects_folder.drafts import Draft
from modelvault.artifact.parallel import run_blocks
from modelvault.errors import Conflict, IntegrityError
from modelvault.ports.objects import ObjectInfo, piecewise

MAX_OPEN = 64


class FolderStore:
    """Each object is the file root/<its name>, of mode 0600 in folders of mode 0700.

    `root` must exist. `put` works with `threads` threads (the cores, 4 at most, where None), each
    with one buffer of the largest part. All methods may raise Unavailable: `store_missing`,
    `store_unreadable`, `store_unwritable`, `store_full`; InvalidRequest (`bad_object_name`); and
    reading IntegrityError (`bad_object`) for what isn't a plain file.

    Open files are kept for the next read. `size` opens anew, so whoever asks for the size before
    reading, as `artifact.reader` does, reads what lies there now.
    """

    def __init__(self, root: Path, *, threads: int | None = None) -> None:
        self.root = root
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._descriptors = Descriptors(lambda name: place.open_file(root, name), MAX_OPEN)

    def close(self) -> None:
        """Close the files that are kept open. Reading opens them again."""
        self._descriptors.close()

    def size(self, name: str) -> int:
        """See `ObjectReader`."""
        with self._descriptors.use_fresh(name) as descriptor, place.reading(self.root, name):
            return os.fstat(descriptor).st_size

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `ObjectReader`."""
        with self._descriptors.use(name) as descriptor, place.reading(self.root, name):
            done = 0
            while done < len(buffer):
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
                if count == 0:
                    raise IntegrityError(
                        "truncated",
                        f"the object {name} ends at byte {offset + done}; "
                        f"{offset + len(buffer)} were to be read",
                        "restore it from a copy, or load another version",
                    )
                done += count

    def stream(
        self,
        name: str,
        offset: int,
        size: int,  # noqa: ARG002  a descriptor is all it takes
    ) -> AbstractContextManager[Callable[[memoryview], None]]:
        """See `ObjectReader`."""
        return piecewise(self, name, offset)

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        """See `ObjectWriter`. What `fill` raises comes out as it is."""
        parts, file = place.split(name)
        size = sum(sizes)
        with ExitStack() as stack:
            with place.writing(self.root, size):
                place.make_folders(self.root, parts)
                folder = stack.enter_context(place.folder(self.root, parts))
                if _exists(folder, file):
                    raise _taken(name)
                draft = stack.enter_context(drafts.drafted(folder, file))
                draft.reserve(size)
            self._fill(draft, sizes, fill)
            with place.writing(self.root, size):
                try:
                    draft.publish()
                except FileExistsError:
                    raise _taken(name) from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        with place.reading(self.root, prefix):
            for parts in listing.folders(self.root):
                path = "/".join(parts) + "/"
                if path.startswith(prefix) or prefix.startswith(path):
                    found = listing.objects(self.root, parts)
                    yield from (info for info in found if info.name.startswith(prefix))

    def delete(self, name: str) -> None:
        """See `ObjectStore`. The removal is durable when this returns."""
        parts, file = place.split(name)
        with place.writing(self.root):
            try:
                with place.folder(self.root, parts) as folder:
                    os.unlink(file, dir_fd=folder)
                    os.fsync(folder)
            except FileNotFoundError:
                if not self.root.is_dir():
                    raise
            finally:  # afterwards: a read that came before may just have opened it
                self._descriptors.forget(name)

    def sweep(self, before: int) -> int:
        """See `ObjectStore`. A put that is still at work is left alone, however old."""
        removed = 0
        with place.writing(self.root):
            for parts in listing.folders(self.root):
                with suppress(FileNotFoundError), place.folder(self.root, parts) as folder:
                    removed += drafts.remove_left(folder, before)
        return removed

    def _fill(
        self, draft: Draft, sizes: Sequence[int], fill: Callable[[int, memoryview], None]
    ) -> None:
        offsets = list(accumulate(sizes, initial=0))
        largest = max(sizes, default=0)
        own = threading.local()

        def work(part: int, _stop: int) -> None:
            if not hasattr(own, "buffer"):
                own.buffer = memoryview(bytearray(largest))
            buffer = own.buffer[: sizes[part]]
            fill(part, buffer)
            with place.writing(self.root, offsets[-1]):
                draft.write(offsets[part], buffer)

        run_blocks(work, len(sizes), 1, self._threads)


def _exists(folder: int, file: str) -> bool:
    try:
        os.stat(file, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _taken(name: str) -> Conflict:
    return Conflict(
        "object_exists",
        f"there is an object {name} already",
        "nothing is overwritten: push again, under fresh names",
    )

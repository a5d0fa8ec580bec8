"""Objects of a vault whose store this process can reach by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelvault.crypto import derive
from modelvault.ports.objects import ObjectReader, ObjectStore, Track, UploadStore


class Direct:
    """`ports.objects.Places` over one store."""

    source = "folder"

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def leased(  # as the port says
        self,
        lease: str,  # noqa: ARG002
        key_hash: str,  # noqa: ARG002
        objects: Sequence[str],  # noqa: ARG002
    ) -> ObjectReader:
        """The store."""
        return self._store

    def pulled(self, reference: str, objects: Sequence[str]) -> ObjectReader:  # noqa: ARG002
        """The store."""
        return self._store

    def opened(self, upload: str, key_hash: str | None) -> UploadStore:  # noqa: ARG002
        """The store, under names of this upload."""
        return _Opened(self._store, upload)


class _Opened:
    def __init__(self, store: ObjectStore, upload: str) -> None:
        self._store = store
        self._upload = upload

    def name(self, seed: str) -> str:
        return derive.object_name(self._upload, seed)

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        self._store.put(name, sizes, fill)

    def put_tracked(
        self,
        name: str,
        sizes: Sequence[int],
        fill: Callable[[int, memoryview], None],
        track: Track,  # noqa: ARG002  a store that is near keeps nothing half put
    ) -> None:
        self._store.put(name, sizes, fill)

    def delete(self, name: str) -> None:
        self._store.delete(name)

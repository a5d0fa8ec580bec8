"""`KeyAdmin` over transit: makes, rotates, rewraps and retires KEKs, and can't unwrap."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import hvac

from modelvault.adapters.keys_hcvault.connection import Connection, unavailable
from modelvault.adapters.keys_hcvault.service import (
    asked,
    checked,
    data_of,
    encoded,
    error_of,
    text_of,
    wrapped_of,
)
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.ports.keys import WrappedKey

MAX_BATCH = 200  # OpenBao refuses 250 with contexts


class HcvaultAdmin:
    """The steward's identity. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # OpenBao calls rotations at one moment failed that were done.
        self._rotating = threading.Lock()

    def create(self, key: str) -> None:
        """Make a KEK at version 1. Raises Conflict (`kek_exists`).

        `derived` binds every data key to its context. Transit makes a key once, under a lock, and
        leaves one that is there alone; but it doesn't tell two callers at the same moment which of
        them made it, and both are told that it is made.
        """
        name = checked(key)
        with suppress(NotFound):
            self._versions(name)
            raise Conflict("kek_exists", f"the key service has a KEK {key} already", "use it")
        self._call(
            name,
            lambda client: client.secrets.transit.create_key(
                name=name,
                derived=True,
                key_type="aes256-gcm96",
                mount_point=self._connection.mount,
            ),
        )
        self._versions(name)

    def rotate(self, key: str) -> int:
        """Add a version and return its number."""
        name = checked(key)
        self._versions(name)  # a missing key must not be an answer of any other kind
        with self._rotating:
            answer = self._call(
                name,
                lambda client: client.secrets.transit.rotate_key(
                    name=name, mount_point=self._connection.mount
                ),
            )
        newest = data_of(answer).get("latest_version")
        if type(newest) is not int:
            raise unavailable("it doesn't say which version it made")
        return newest

    def versions(self, key: str) -> tuple[int, int]:
        """(lowest version that may decrypt, newest version)."""
        return self._versions(checked(key))

    def rewrap(self, key: str, batch: list[tuple[WrappedKey, bytes]]) -> list[WrappedKey]:
        """Each under the newest version; all or nothing: one that fails fails the batch."""
        if len(batch) > MAX_BATCH:
            raise InvalidRequest("batch_too_large", f"at most {MAX_BATCH} keys at a time", "split")
        name = checked(key)
        if not batch:
            self.versions(key)
            return []
        items = [
            {"ciphertext": text_of(wrapped), "context": encoded(context)}
            for wrapped, context in batch
        ]
        answer = self._call(
            name,
            lambda client: client.secrets.transit.rewrap_data(
                name=name, ciphertext="", batch_input=items, mount_point=self._connection.mount
            ),
        )
        results = data_of(answer).get("batch_results")
        if not isinstance(results, list) or len(results) != len(batch):
            raise unavailable("it answered with another number of keys than were sent")
        return [self._rewrapped(result, key) for result in results]

    def retire(self, key: str, below: int) -> None:
        """From now on no version under `below` decrypts; their key bytes are destroyed.

        `min_decryption_version` alone could be lowered again; what is trimmed is gone. Read back,
        so that nothing is called retired which isn't.
        """
        name = checked(key)
        lowest, newest = self.versions(key)
        if not 1 <= below <= newest:
            raise InvalidRequest(
                "bad_kek_version", f"{key} has versions up to {newest}, not {below}", "see rotate"
            )
        if lowest < below:  # one after the other: hvac won't send two equal floors together
            for floor in ("min_encryption_version", "min_decryption_version"):
                self._configure(name, floor, below)
        self._call(
            name,
            lambda client: client.secrets.transit.trim_key(
                name=name, min_version=max(lowest, below), mount_point=self._connection.mount
            ),
        )
        if self.versions(key)[0] < below:
            raise unavailable("it says that old versions are retired, but they aren't")

    def _configure(self, name: str, setting: str, version: int) -> None:
        self._call(
            name,
            lambda client: client.secrets.transit.update_key_configuration(
                name=name, mount_point=self._connection.mount, **{setting: version}
            ),
        )

    def _rewrapped(self, result: object, key: str) -> WrappedKey:
        if not isinstance(result, dict):
            raise unavailable("its answer can't be read")
        if result.get("error"):
            raise error_of(str(result["error"]), key)
        return wrapped_of(result.get("ciphertext"))

    def _versions(self, name: str) -> tuple[int, int]:
        answer = self._call(
            name,
            lambda client: client.secrets.transit.read_key(
                name=name, mount_point=self._connection.mount
            ),
        )
        data = data_of(answer)
        lowest, newest = data.get("min_decryption_version"), data.get("latest_version")
        if type(lowest) is not int or type(newest) is not int or not 1 <= lowest <= newest:
            raise unavailable("its answer can't be read")
        if data.get("derived") is not True or data.get("type") != "aes256-gcm96":
            raise unavailable(f"its key {name} isn't one that this vault made")
        return lowest, newest

    def _call(self, name: str, ask: Any) -> Any:  # noqa: ANN401  hvac has no types
        def call(client: hvac.Client) -> Any:  # noqa: ANN401
            return ask(client)

        return asked(name, lambda: self._connection.call(call))

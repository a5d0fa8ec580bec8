"""Who asks a served vault for leases and nothing else."""

from __future__ import annotations

import secrets
import threading

from modelvault.access import OBLIGATION_TYPES, Caller
from modelvault.adapters.broker_http import Address, Connection, RemoteBroker
from modelvault.crypto import hpke
from modelvault.identity.binding import key_hash
from modelvault.lease import Lease, LeaseAsk, Recipient
from modelvault.ports.broker import Broker
from support.servers.stack import Stack


def remote(made: Stack, broker: int) -> RemoteBroker:
    """A broker by HTTPS, over connections of its own."""
    return RemoteBroker(Connection(Address(url=made.urls[broker], ca=made.ca)))


class Asker:
    """Takes leases of one model at one broker and gives them back. Thread-safe.

    The recipient key is made once: that is the job's work, not the broker's.
    """

    def __init__(
        self,
        made: Stack,
        reference: str,
        broker: int = 0,
        *,
        token: str | None = None,
        at: Broker | None = None,
    ) -> None:
        given = token or made.token(f"job-{secrets.token_hex(4)}", "inference")
        self.broker = at or remote(made, broker)
        self.caller = Caller(token=given, client="bench")
        self._reference = reference
        key = hpke.generate()
        self.recipient = Recipient(suite=key.suite, public_key=key.public)
        self._key_hash = key_hash(key.suite, key.public)
        self._lock = threading.Lock()
        self._taken: list[str] = []

    def lease(self) -> Lease:
        ask = LeaseAsk(
            reference=self._reference,
            purpose="inference",
            nonce=secrets.token_bytes(16),
            recipient=self.recipient,
            fulfils=tuple(sorted(OBLIGATION_TYPES)),
        )
        lease = self.broker.lease(self.caller, ask)
        with self._lock:
            self._taken.append(lease.id)
        return lease

    def release(self, lease: str) -> None:
        self.broker.release(self.caller, lease)

    def renew(self, lease: str) -> None:
        self.broker.renew(self.caller, lease, self._key_hash)

    def release_all(self) -> None:
        with self._lock:
            taken, self._taken = self._taken, []
        for lease in taken:
            self.broker.release(self.caller, lease)

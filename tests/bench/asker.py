"""Who asks for leases and nothing else, and who asks the key service alone."""

from __future__ import annotations

import base64
import secrets
import tempfile
import threading

import hvac

from modelvault import wiring
from modelvault.access import OBLIGATION_TYPES, Caller
from modelvault.crypto import hpke
from modelvault.identity.binding import key_hash
from modelvault.lease import Lease, LeaseAsk, Recipient
from modelvault.ports.broker import Broker
from support.servers.hcvault import ROOT
from support.servers.stack import Stack


def remote(made: Stack, token: str, broker: int) -> Broker:
    """A broker by HTTPS, as a session has it."""
    return wiring.connect_with(
        {
            "MODELVAULT_CA": str(made.ca),
            "MODELVAULT_TRUST": str(made.trust),
            "MODELVAULT_TOKEN": token,
            "HOME": tempfile.mkdtemp(dir=made.folder),
        },
        made.urls[broker],
    )._context.broker


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
        self.broker = at or remote(made, given, broker)
        self.caller = Caller(token=given, client="bench")
        self._reference = reference
        key = hpke.generate()
        self._recipient = Recipient(suite=key.suite, public_key=key.public)
        self._key_hash = key_hash(key.suite, key.public)
        self._lock = threading.Lock()
        self._taken: list[str] = []

    def lease(self) -> Lease:
        ask = LeaseAsk(
            reference=self._reference,
            purpose="inference",
            nonce=secrets.token_bytes(16),
            recipient=self._recipient,
            fulfils=tuple(sorted(OBLIGATION_TYPES)),
        )
        lease = self.broker.lease(self.caller, ask)
        with self._lock:
            self._taken.append(lease.id)
        return lease

    def renew(self, lease: str) -> None:
        self.broker.renew(self.caller, lease, self._key_hash)

    def release_all(self) -> None:
        with self._lock:
            taken, self._taken = self._taken, []
        for lease in taken:
            self.broker.release(self.caller, lease)


class Bare:
    """The key service by hvac: one decrypt, as a lease needs it."""

    def __init__(self, made: Stack) -> None:
        self._client = hvac.Client(url=made.hcvault.address, token=ROOT)
        self._transit = self._client.secrets.transit
        self._mount = made.mount
        self._name = f"bench-{secrets.token_hex(4)}"
        self._context = base64.b64encode(b"a context of the benchmark").decode()
        self._transit.create_key(self._name, derived=True, mount_point=self._mount)
        made_key = self._transit.generate_data_key(
            self._name, "plaintext", context=self._context, mount_point=self._mount
        )
        self._wrapped = made_key["data"]["ciphertext"]

    def decrypt(self) -> None:
        self._transit.decrypt_data(
            self._name, self._wrapped, context=self._context, mount_point=self._mount
        )

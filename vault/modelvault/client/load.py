"""A load: ask for a lease, verify the answer, open the keys, keep the lease alive."""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from modelvault.access import Obligations
from modelvault.artifact import trust as trusting
from modelvault.artifact.meter import Meter, Metered
from modelvault.artifact.reader import FileReader
from modelvault.artifact.trust import Verified
from modelvault.client import grant, lease_state
from modelvault.client import keys as filekeys
from modelvault.client.context import Context
from modelvault.client.ending import Ending, OnRevoked, Terminate
from modelvault.client.keeper import Keeper
from modelvault.client.keys import OneTimeKey
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, InvalidRequest, ModelVaultError
from modelvault.lease import Lease, LeaseAsk, Renewal
from modelvault.loader import metrics
from modelvault.loader.metrics import PROCESS
from modelvault.loader.model import Model
from modelvault.manifest import FileEntry, Manifest, object_names
from modelvault.ports.objects import ObjectReader
from modelvault.reference import Reference

# What keeps a model from being exported.
_OFF_DISKS = ("memory_only", "isolated_memory")


class Grant:
    """A running lease with its opened file keys. Close it; `keeper` renews it meanwhile."""

    def __init__(
        self,
        context: Context,
        action: str,
        lease: Lease,
        verified: Verified,
        files: tuple[FileEntry, ...],
        keys: dict[str, Secret],
        store: ObjectReader,
        meter: Meter,
    ) -> None:
        self._context = context
        far = Metered(store, context.places.source, meter)
        self._cached = None if context.cache is None else context.cache.over(far, files, meter)
        self._store = self._cached or far
        self.meter = meter
        self._action = action
        self._keys = keys
        self.lease = lease
        self.verified = verified
        self.files = files
        # Told at each renewal what the policy asks; raises AccessDenied where that can't be kept.
        self.heeds: Callable[[Obligations], None] = lambda _obligations: None

    @property
    def manifest(self) -> Manifest:
        """The verified manifest."""
        return self.verified.manifest

    @property
    def obligations(self) -> Obligations:
        """What the policy asks of the holder."""
        return self.lease.obligations

    def reader(self, entry: FileEntry) -> FileReader:
        """A reader of a granted file, with a key of its own that the reader wipes.

        InvalidRequest (`not_granted`) for any other file.
        """
        key = self._keys.get(entry.path)
        if key is None:
            raise InvalidRequest(
                "not_granted", f"the lease has no key for {entry.path}", "ask for that file too"
            )
        return FileReader(
            self._store,
            entry,
            Secret.copy_of(key.reveal()),
            self.manifest.digest_alg,
            self._context.threads,
            self.meter,
            self._cached,
        )

    def check(self, obligations: Obligations) -> None:
        """Raise AccessDenied (`memory_only`, `isolated_memory`) for an export that may not write
        to a disk (any more).

        The rest of what a policy may ask is the broker's or the loader's to keep.
        """
        kept = next((name for name in _OFF_DISKS if getattr(obligations, name)), None)
        if self._action == "export" and kept is not None:
            model = f"{self.manifest.tenant}/{self.manifest.model}"
            raise AccessDenied(
                kept,
                f"{model} may be had in memory only: the policy keeps it off disks",
                "use load, or ask the model's owner",
                model=model,
                action="export",
                owner=self.verified.model.owner,
                reasons=[kept],
            )

    def wipe(self) -> None:
        """Wipe the file keys: no further reader can be made."""
        filekeys.wipe(self._keys)


def take(
    context: Context,
    reference: Reference,
    *,
    purpose: str,
    action: Literal["load", "export"],
    files: Sequence[str] | None,
    ticket: str | None,
    on_end: Callable[[str], None],
) -> tuple[Grant, Keeper]:
    """Ask for a lease and open its keys; the keeper isn't started yet.

    Raises what Broker raises, and IntegrityError when the answer isn't what its documents, the
    pinned trust and this ask say. No key is used then.
    """
    once = OneTimeKey()
    ask = LeaseAsk(
        reference=str(reference),
        purpose=purpose,
        action=action,
        files=None if files is None else tuple(sorted(set(files))),
        ticket=ticket,
        nonce=once.nonce,
        recipient=once.recipient,
        fulfils=grant.FULFILS,
    )
    try:
        return _take(context, reference, once, ask, on_end)
    finally:
        once.drop()


def _take(
    context: Context,
    reference: Reference,
    once: OneTimeKey,
    ask: LeaseAsk,
    on_end: Callable[[str], None],
) -> tuple[Grant, Keeper]:
    meter = Meter(PROCESS)
    seen = context.pins.seen()
    asked_at = context.clock()
    with meter.timing("lease"):
        lease = context.broker.lease(context.credentials.caller(once.hash), ask)
    try:
        with meter.timing("verify"):
            verified = trusting.verify(lease.signed, reference, context.trust, seen)
            return _opened(context, once, ask, lease, verified, asked_at, meter, on_end)
    except BaseException:
        # Nobody will use this lease: it shouldn't hold a slot until it runs out.
        with suppress(ModelVaultError):
            context.broker.release(context.credentials.caller(), lease.id)
        raise


def _opened(
    context: Context,
    once: OneTimeKey,
    ask: LeaseAsk,
    lease: Lease,
    verified: Verified,
    asked_at: int,
    meter: Meter,
    on_end: Callable[[str], None],
) -> tuple[Grant, Keeper]:
    files = grant.granted_files(ask, lease, verified)
    keys = once.open(lease.sealed, grant.info(ask, lease, verified), lease.paths)
    store = context.places.leased(lease.id, once.hash, object_names(files))
    granted = Grant(context, ask.action, lease, verified, files, keys, store, meter)
    try:
        context.pins.remember(verified.seen)
        return granted, _keeper(context, granted, once.hash, asked_at, on_end)
    except BaseException:
        granted.wipe()
        raise


def _keeper(
    context: Context,
    granted: Grant,
    key_hash: str,
    asked_at: int,
    on_end: Callable[[str], None],
) -> Keeper:
    lease = granted.lease
    broker, credentials = context.broker, context.credentials
    state = lease_state.begin(
        asked_at,
        lease.ttl_s,
        lease.obligations.grace_s or 0,
        secrets.randbelow(lease.ttl_s * 100 + 1),
    )

    def renew() -> Renewal:
        renewal = broker.renew(credentials.caller(key_hash), lease.id, key_hash)
        granted.check(renewal.obligations)
        granted.heeds(renewal.obligations)
        return renewal

    return Keeper(
        state,
        subject=f"{lease.tenant}/{lease.model}@{lease.version}",
        renew=renew,
        release=lambda: broker.release(credentials.caller(), lease.id),
        on_end=on_end,
        clock=context.clock,
    )


def load(
    context: Context,
    reference: Reference,
    *,
    purpose: str,
    files: Sequence[str] | None,
    ticket: str | None,
    on_revoked: OnRevoked | None,
    terminate: Terminate,
) -> Model:
    """A model whose bytes are decrypted at first use, for as long as its lease lives.

    `terminate(seconds)` keeps the obligation `terminate_on_revoke`.
    """
    ending = Ending(on_revoked, terminate)
    granted, keeper = take(
        context,
        reference,
        purpose=purpose,
        action="load",
        files=files,
        ticket=ticket,
        on_end=ending,
    )

    def closed() -> None:
        granted.wipe()
        keeper.stop()

    try:
        model = Model(
            granted.manifest,
            granted.lease.paths,
            granted.reader,
            granted.obligations,
            keeper,
            closed,
            stats=lambda: keeper.stats(granted.meter.costs()),
        )
    except BaseException:
        closed()
        raise
    ending.watch(model, granted.wipe)
    granted.heeds = ending.heed
    metrics.watch(model)
    # A model that is forgotten instead of closed gives its lease back when it is collected.
    weakref.finalize(model, closed)
    try:
        keeper.start()
    except BaseException:
        model.close()
        raise
    return model

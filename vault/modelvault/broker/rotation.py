"""Rotation of a model's KEK: every wrapped key under a new version, the older ones retired.

DEKs stay inside the key service and no weights are touched. Each step can be repeated, and where
an interrupted rotation stands is read from the key service and the ledger:

    newest KEK version > floor        the version was made; raise the floor
    a key under the floor             rewrap, put its copy, swap the row
    lowest KEK version < floor        all keys are moved; retire the versions below
"""

from __future__ import annotations

from collections.abc import Sequence

from modelvault.access import Caller
from modelvault.broker.asked import Authorised, entry
from modelvault.broker.gate import Gate
from modelvault.broker.keycopy import deposit
from modelvault.broker.parts import Parts
from modelvault.broker.steward import bare
from modelvault.catalog import KeyRow
from modelvault.errors import Conflict, NotFound, Unavailable
from modelvault.lease import Rotated
from modelvault.ports.keys import WrappedKey

_BATCH = 200
_IDLE_ROUNDS = 8
_GONE = ("key_moved", "kek_version_retired")


class Rotator:
    """`rotate` of ports.broker.Steward. Thread-safe; two at once finish one another's work."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate

    def rotate(self, caller: Caller, reference: str) -> Rotated:
        """Finish an interrupted rotation, or begin and finish a new one."""
        who = self._gate.authenticate(caller, "rotate", None)
        model = self._gate.records.model(bare(reference))
        asked = self._gate.authorise(who, "rotate", model.resource())
        tenant, name = model.record.tenant, model.record.model
        target = self._target(tenant, name, model.row.kek_floor)
        self._parts.ledger.raise_floor(
            tenant, name, target, entry(asked, "done", step="floor", kek_version=target)
        )
        rewrapped = self._move(asked, tenant, name, target)
        kek = self._parts.kek(tenant, name)
        if self._parts.admin.versions(kek)[0] < target:
            told = entry(asked, "done", step="retire", kek_version=target, rewrapped=rewrapped)
            self._parts.ledger.append(told)
            # The last step: that it is done is what tells a finished rotation from another.
            self._parts.admin.retire(kek, target)
        return Rotated(tenant=tenant, model=name, kek_version=target, rewrapped=rewrapped)

    def _target(self, tenant: str, model: str, floor: int) -> int:
        """The version to move to: the newest of an unfinished rotation, else a new one."""
        kek = self._parts.kek(tenant, model)
        lowest, newest = self._parts.admin.versions(kek)
        unfinished = lowest < newest or floor < newest
        if unfinished or self._parts.ledger.keys_below(tenant, model, newest, limit=1):
            return newest
        return self._parts.admin.rotate(kek)

    def _move(self, asked: Authorised, tenant: str, model: str, target: int) -> int:
        moved = idle = 0
        while True:
            batch = self._parts.ledger.keys_below(tenant, model, target, limit=_BATCH)
            if not batch:
                return moved
            done = self._move_batch(asked, tenant, model, batch)
            moved += done
            idle = 0 if done else idle + 1
            if idle == _IDLE_ROUNDS:
                raise Unavailable(
                    "rotation_stuck",
                    f"the keys of {tenant}/{model} keep changing under this rotation",
                    "rotate again: it goes on where it stopped",
                )

    def _move_batch(
        self, asked: Authorised, tenant: str, model: str, batch: Sequence[KeyRow]
    ) -> int:
        parts = self._parts
        wrapped = [
            (
                WrappedKey(row.wrapped, row.kek_version),
                parts.key_context(tenant, model, row.artifact),
            )
            for row in batch
        ]
        try:
            fresh = parts.admin.rewrap(parts.kek(tenant, model), wrapped)
        except Conflict as lost:  # another rotation has finished meanwhile: read the rows again
            if lost.code not in _GONE:
                raise
            return 0
        pairs = zip(batch, fresh, strict=True)
        return sum(self._swap(asked, before, after) for before, after in pairs)

    def _swap(self, asked: Authorised, before: KeyRow, after: WrappedKey) -> bool:
        """Copy first, then compare-and-swap; False when another rotation was faster."""
        row = KeyRow(
            artifact=before.artifact,
            tenant=before.tenant,
            model=before.model,
            wrapped=after.wrapped,
            kek_version=after.kek_version,
        )
        deposit(self._parts, row)
        told = entry(asked, "done", step="swap", artifact=row.artifact, kek_version=row.kek_version)
        try:
            self._parts.ledger.swap_key(row, before.wrapped, told)
        except (Conflict, NotFound) as lost:
            if lost.code not in {"key_moved", "no_key"}:
                raise
            return False
        return True

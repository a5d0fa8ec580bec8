"""What `modelvault doctor` looks at, and how to mend what it finds.

Each check is a function from facts to findings; a check that can't be done is a finding too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from modelvault.clock import Clock
from modelvault.errors import ModelVaultError
from modelvault.wiring import machine as facts
from modelvault.wiring.embedded import Parts
from modelvault.wiring.home import Home
from modelvault.wiring.machine import Machine

MAX_SKEW_MS = 30_000
LOW_DISK = 1 << 30

Status = Literal["ok", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """One check: how it went, what was found, and how to mend it (empty where all is well)."""

    check: str
    status: Status
    text: str
    mend: str = ""


def examine(
    home: Home, open_parts: Callable[[], Parts], clock: Clock, machine: Machine
) -> tuple[Finding, ...]:
    """All checks of an embedded vault. Changes nothing but a probe file that is removed again.

    `open_parts` opens keyring, ledger and policy engine; they are closed here.
    """
    return tuple(_examine(home, open_parts, clock, machine))


def _examine(
    home: Home, open_parts: Callable[[], Parts], clock: Clock, machine: Machine
) -> Iterator[Finding]:
    try:
        described = home.read()
    except ModelVaultError as error:
        yield _failed("home", error)
        yield from of_machine(machine)
        return
    yield Finding("home", "ok", f"vault {described.vault} in {home.path}")
    yield of_modes(home)
    yield from of_disk(home, clock)
    try:
        parts = open_parts()
    except ModelVaultError as error:
        yield _failed("keys", error)
    else:
        try:
            yield Finding("keys", "ok", f"the root key ({described.root.kind}) opens the keyring")
            yield of_ledger(parts, clock)
            yield of_policy(parts)
        finally:
            parts.close()
    yield from of_machine(machine)


def of_modes(home: Home) -> Finding:
    """Nobody else may look into the home."""
    inside = [home.description, home.keyring, home.ledger, home.trust, home.pins, home.policy]
    wide = facts.open_to_others([home.path, *inside, home.path / "objects"])
    if not wide:
        return Finding("permissions", "ok", "the home is private to its owner")
    names = " ".join(str(path) for path in wide)
    return Finding(
        "permissions",
        "failed",
        f"not private to this user: {names}",
        f"chmod -R go= {home.path}; if it belongs to another user, work as that user",
    )


def of_disk(home: Home, clock: Clock) -> Iterator[Finding]:
    """The store can be written, has room, and its clock agrees with ours."""
    try:
        free = facts.free_bytes(home.path)
        skew = abs(facts.written_at(home.path) - clock())
    except OSError as error:
        yield Finding(
            "store",
            "warning",
            f"{home.path} can't be written: {os.strerror(error.errno or 0)}",
            "models load, but pushes are refused, and older tags are noticed within one process "
            "only; give this user write permission",
        )
        return
    yield Finding("store", "ok", f"{home.path} can be written")
    room = f"{free / (1 << 30):.1f} GiB free"
    if free < LOW_DISK:
        yield Finding("disk", "warning", room, "run `modelvault gc`, or make room")
    else:
        yield Finding("disk", "ok", room)
    yield _of_skew("clock", "the file system", skew)


def of_ledger(parts: Parts, clock: Clock) -> Finding:
    """The ledger opens and its clock agrees with ours."""
    try:
        return _of_skew("ledger", "the ledger", abs(parts.ledger.now() - clock()))
    except ModelVaultError as error:
        return _failed("ledger", error)


def of_policy(parts: Parts) -> Finding:
    """The policies in force evaluate, and nothing was edited without being published."""
    try:
        revision = parts.policy_in_force()
        edited = parts.policy_edited() != revision
    except ModelVaultError as error:
        return _failed("policy", error)
    text = f"revision {revision[:19]}… is in force and answers"
    if edited:
        return Finding(
            "policy",
            "warning",
            text + "; the edited copy isn't in force",
            "modelvault policy publish",
        )
    return Finding("policy", "ok", text)


def of_machine(machine: Machine) -> Iterator[Finding]:
    """Plaintext and keys in memory stay in memory."""
    if machine.swaps:
        yield Finding(
            "swap",
            "warning",
            f"memory may be written to {', '.join(machine.swaps)}",
            "swapoff -a, or make sure that swap is encrypted with a key that a reboot forgets",
        )
    else:
        yield Finding("swap", "ok", "swap is off")
    if machine.core_bytes == 0:
        yield Finding("core dumps", "ok", "off")
    else:
        yield Finding(
            "core dumps",
            "warning",
            "a crash may write this process's memory to a disk",
            "ulimit -c 0 (or LimitCORE=0 in the service's unit)",
        )
    locked = machine.locked_bytes
    if locked is None:
        yield Finding("locked memory", "ok", "unlimited")
    else:
        yield Finding("locked memory", "ok", f"this user may lock {locked >> 10} KiB")


def _of_skew(check: str, whose: str, skew_ms: int) -> Finding:
    if skew_ms <= MAX_SKEW_MS:
        return Finding(check, "ok", f"{whose} and this machine's clock agree")
    return Finding(
        check,
        "failed",
        f"{whose} and this machine's clock are {skew_ms / 1000:.0f} s apart",
        "set the clock by NTP: tokens and leases depend on it",
    )


def _failed(check: str, error: ModelVaultError) -> Finding:
    return Finding(check, "failed", f"{error.message} ({error.code})", error.hint)

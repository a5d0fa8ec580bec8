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
KEYS_ROOM = 1 << 16  # bytes: what the first thousand keys take

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
    yield of_swap(machine)
    yield of_dumps(machine)
    yield of_locking(machine)
    if machine.memory_files:
        yield Finding("files in memory", "ok", "they can be made and sealed")
    else:
        yield Finding(
            "files in memory",
            "warning",
            "there is no memfd_create: path() is refused",
            "use tensors(), state_dict() or read_bytes(), or have the seccomp filter allow it",
        )
    if machine.private_mounts:
        yield Finding("private folders", "ok", "`modelvault run` can hide a model's folder")
    else:
        yield Finding(
            "private folders",
            "warning",
            "no mounts of one's own: other processes of this user can open what `modelvault run` "
            "shows, and it is refused where the policy says isolated_memory",
            "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 and "
            "kernel.apparmor_restrict_unprivileged_userns=0 where they exist), or CAP_SYS_ADMIN",
        )
    if machine.huge_pages == "never":
        yield Finding(
            "huge pages",
            "warning",
            "off: loads take longer",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    else:
        yield Finding("huge pages", "ok", machine.huge_pages or "the system doesn't tell")


def of_swap(machine: Machine) -> Finding:
    """Memory isn't written to a disk, or what matters of it is locked."""
    if not machine.swaps:
        return Finding("swap", "ok", "swap is off")
    if machine.locked_bytes is None:
        return Finding(
            "swap", "ok", f"on ({', '.join(machine.swaps)}), but weights and keys are locked"
        )
    return Finding(
        "swap",
        "warning",
        f"memory may be written to {', '.join(machine.swaps)}",
        "swapoff -a, or raise the limit on locked memory, or make sure that swap is encrypted with "
        "a key that a reboot forgets",
    )


def of_dumps(machine: Machine) -> Finding:
    """A crash leaves nothing on a disk. Weights and keys of ours never do: the rest is copies that
    libraries have made."""
    left_out = "it holds no weights or keys of ours, but what libraries copied"
    if machine.core_pipe:
        return Finding(
            "core dumps",
            "warning",
            f"a crash's memory goes to {machine.core_pipe}, whatever the limit says; {left_out}",
            "sysctl kernel.core_pattern=core with ulimit -c 0, or have that program keep nothing",
        )
    if machine.core_bytes == 0:
        return Finding("core dumps", "ok", "off")
    return Finding(
        "core dumps",
        "warning",
        f"a crash may write this process's memory to a disk; {left_out}",
        "ulimit -c 0 (or LimitCORE=0 in the service's unit)",
    )


def of_locking(machine: Machine) -> Finding:
    """Weights and keys can be kept out of swap."""
    locked = machine.locked_bytes
    if locked is None:
        return Finding("locked memory", "ok", "unlimited: weights and keys are locked")
    told = f"this user may lock {locked >> 10} KiB"
    if locked >= KEYS_ROOM:
        told += ": keys are locked, weights as far as whole files fit"
    else:
        told += ": not even keys are locked"
    if not machine.swaps:
        return Finding("locked memory", "ok", told + "; with swap off nothing is lost by that")
    return Finding(
        "locked memory",
        "warning",
        told,
        "ulimit -l unlimited (LimitMEMLOCK=infinity in the service's unit, "
        "--ulimit memlock=-1 for a container)",
    )


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

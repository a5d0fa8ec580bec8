"""Many jobs at once against a served vault, and what must hold afterwards."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from modelvault.client.session import Session
from modelvault.errors import ModelVaultError, Unavailable
from support.asker import Asker
from support.changed_policy import changed_policy
from support.servers.stack import Stack

ACCOUNT = "vllm"
PATIENCE_S = 120.0


@contextmanager
def pods_may_load(admin: Session, stack: Stack) -> Iterator[None]:
    """A policy with a grant for the pods of one service account; what was in force before, is
    afterwards."""
    granted = {
        "role": "inference",
        "groups": [f"pods:serviceaccount:serving:{ACCOUNT}"],
        "tenants": ["*"],
        "models": ["*"],
    }
    with changed_policy(stack, admin, lambda data: data["grants"].append(granted)):
        yield


@dataclass
class Seen:
    """What jobs saw, counted by many threads. `held` are leases that weren't given back."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    receipts: dict[str, str] = field(default_factory=dict)  # lease: its entry in the log
    held: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)  # whose release had no answer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, name: str, do: Callable[[], object]) -> bool:
        """Whether it was done. A documented 503 may be; whatever else is raised is wrong."""
        begun = time.monotonic()
        try:
            do()
        except Unavailable as told:
            with self.lock:
                self.refused[told.code] += 1
            return False
        except ModelVaultError as error:
            self._wrong(f"{name}: [{error.code}] {error.message}")
            return False
        except Exception as error:  # noqa: BLE001  told with the others
            self._wrong(f"{name}: {type(error).__name__}: {error}")
            return False
        with self.lock:
            self.seconds.setdefault(name, []).append(time.monotonic() - begun)
        return True

    def _wrong(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)

    def taken(self, asker: Asker) -> str:
        lease = asker.lease()
        with self.lock:
            self.receipts[lease.id] = lease.receipt.entry
            self.held.add(lease.id)
        return lease.id

    def given_back(self, asker: Asker, lease: str) -> None:
        if self.call("release", lambda: asker.release(lease)):
            with self.lock:
                self.held.discard(lease)
        else:
            with self.lock:
                self.unsure.add(lease)

    def told(self) -> str:
        """A line for each kind of call."""
        lines = []
        for name, taken in sorted(self.seconds.items()):
            ordered = sorted(taken)
            median, late = (ordered[int((len(ordered) - 1) * at)] for at in (0.5, 0.99))
            lines.append(
                f"{name:8} {len(ordered):6} done  median {median * 1000:7.0f} ms"
                f"  p99 {late * 1000:7.0f} ms"
            )
        refused = ", ".join(f"{code} {count}" for code, count in self.refused.items())
        return "\n".join([*lines, f"503: {refused or 'none'}", f"wrong: {len(self.wrong)}"])


def storm(stack: Stack, reference: str, pods: int) -> Seen:
    """Each pod of one service account asks at the same moment for a lease, and again where it is
    told to come later, as pods do."""
    seen = Seen()
    start = threading.Barrier(pods)

    def pod(number: int) -> None:
        asker = Asker(stack, reference, number % len(stack.urls), token=stack.pod(ACCOUNT))
        start.wait()
        until = time.monotonic() + PATIENCE_S
        begun = time.monotonic()
        while not seen.call("ask", lambda: seen.taken(asker)) and time.monotonic() < until:
            time.sleep(secrets.randbelow(1000) / 1000)
        with seen.lock:  # from the first ask on, whatever it took
            seen.seconds.setdefault("lease", []).append(time.monotonic() - begun)
        asker.broker.close()

    _together([lambda number=number: pod(number) for number in range(pods)])
    return seen


class Mixed:
    """Leases, renewals, releases, lists, shows and pushes at both brokers while keys are rotated,
    for so many seconds; every third lease is left running."""

    def __init__(self, stack: Stack, name: str, model: Path, seconds: float) -> None:
        self._stack = stack
        self._name = name
        self._model = model
        self._until = time.monotonic() + seconds
        self.seen = Seen()

    def run(self) -> Seen:
        """Everything at once; returns when all have ended."""
        jobs = [self._rotating]
        for broker in range(len(self._stack.urls)):
            jobs += [partial(self._leasing, broker)] * 2
            jobs += [partial(self._looking, broker), partial(self._pushing, broker)]
        _together(jobs)
        return self.seen

    def _goes_on(self) -> bool:
        return time.monotonic() < self._until

    def _leasing(self, broker: int) -> None:
        asker = Asker(self._stack, f"{self._name}:prod", broker)
        for number in count():
            if not self._goes_on():
                return
            taken: list[str] = []
            if not self.seen.call("lease", lambda to=taken: to.append(self.seen.taken(asker))):
                continue
            self.seen.call("renew", lambda lease=taken[0]: asker.renew(lease))
            if number % 3:
                self.seen.given_back(asker, taken[0])

    def _looking(self, broker: int) -> None:
        with self._stack.connect(self._stack.token("looker", "inference"), broker) as session:
            while self._goes_on():
                self.seen.call("show", lambda: session.show(self._name))
                self.seen.call("list", lambda: session.list(limit=5))

    def _pushing(self, broker: int) -> None:
        with self._stack.connect(self._stack.admin(), broker) as session:
            while self._goes_on():
                self.seen.call("push", lambda: session.push(self._model, self._name))

    def _rotating(self) -> None:
        with self._stack.connect(self._stack.admin()) as session:
            while self._goes_on():
                self.seen.call("rotate", lambda: session.rotate(self._name))
                time.sleep(1)


_LEASES = """
SELECT l.id, (SELECT e.id FROM entries e WHERE e.seq = l.entry_seq), l.ended_at IS NULL,
       EXISTS (SELECT FROM charges c WHERE c.lease = l.id)
FROM leases l WHERE l.model = %(name)s
"""
_LOG = "SELECT count(*), max(seq), (SELECT seq FROM head) FROM entries"
_VERSIONS = "SELECT version FROM versions WHERE model = %(name)s ORDER BY version"
_HEAD = "SELECT head_version FROM models WHERE model = %(name)s"


def check(stack: Stack, name: str, seen: Seen) -> list[str]:
    """What doesn't hold in the ledger, read past the brokers: it should be nothing."""
    with stack.postgresql.connect(stack.database) as connection:
        leases, log, versions, head = (
            connection.execute(query, {"name": name}).fetchall()
            for query in (_LEASES, _LOG, _VERSIONS, _HEAD)
        )
    entries = {lease: entry for lease, entry, _, _ in leases}
    running = {lease for lease, _, runs, _ in leases if runs}
    known = set(seen.receipts)
    numbers = [number for (number,) in versions]
    # An ask whose answer was lost may stand, and so may a release whose answer was.
    holds = {
        "each lease has the entry that its receipt names": all(
            entries.get(lease) == entry for lease, entry in seen.receipts.items()
        ),
        "no lease is without an entry": None not in entries.values(),
        "each lease was charged": all(charged for *_, charged in leases),
        "the log has no gap": len(set(log[0])) == 1,
        "who holds a lease has a slot": seen.held - seen.unsure <= running,
        "nobody else has one": not running & (known - seen.held),
        "no lease that nobody was given": bool(seen.refused) or set(entries) == known,
        "versions have no gap": numbers == list(range(1, len(numbers) + 1)),
        "the newest is the head": head == [(len(numbers),)],
        "no acknowledged push is lost": len(numbers) >= len(seen.seconds.get("push", ())),
    }
    return [*seen.wrong, *(what for what, so in holds.items() if not so)]


def _together(jobs: list[Callable[[], None]]) -> None:
    """Run all at once, each in a thread of its own; what one raises isn't swallowed."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as failure:  # noqa: BLE001  raised below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

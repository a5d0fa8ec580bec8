"""One issuer's keys, kept fresh by a thread of their own.

Requests look at what is known and hardly ever wait: only for the first fetch, and for the one that
an unknown key id may cause. How often that is, is up to the clock and not to the tokens that come:
who invents key ids makes neither the issuer nor the broker work.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable

from modelvault.adapters.issuers_jwks.document import MAX_KID, Keys, find
from modelvault.adapters.issuers_jwks.fetching import NotFetched
from modelvault.clock import Clock
from modelvault.errors import AuthenticationError, Unavailable
from modelvault.identity.presets import KeySource
from modelvault.ports.identity import VerifyingKey

# Longer than a fetch takes. Few may wait at once: the broker's other threads go on serving.
WAIT_S = 10.0
MAX_WAITING = 4
FIRST_RETRY_MS = 1_000
LOOK_MS = 60_000
MISSES = 512
MISS_MS = 60_000

_LOG = logging.getLogger("modelvault.issuers")


class KeptKeys:
    """The keys of the issuer `name`. Thread-safe. `fetch` gives them, or raises NotFetched."""

    def __init__(
        self, name: str, fetch: Callable[[], Keys], times: KeySource, clock: Clock
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._refresh_ms, self._stale_ms, self._unknown_ms = (
            round(seconds * 1000) for seconds in (times.refresh_s, times.stale_s, times.unknown_s)
        )
        self._clock = clock
        self._changed = threading.Condition()
        self._keys: Keys = {}
        self._fetched_at: int | None = None  # when the last fetch began that brought keys
        self._tried_at: int | None = None  # when the last fetch began
        self._due_at = clock()
        self._failures = 0
        self._rounds = 0  # fetches that have ended
        self._under_way = True  # a fetch is wanted or running
        self._waiting = 0
        self._misses: dict[str | None, int] = {}
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"modelvault-issuer-{name}", daemon=True
        )
        self._thread.start()

    def key(self, kid: str | None) -> VerifyingKey:
        """The key. Raises AuthenticationError (`unknown_signing_key`), Unavailable
        (`issuer_unavailable`): no keys are known, or they are too old, or whether there is such a
        key can't be found out now."""
        with self._changed:
            found = self._find(kid)
            if found is None and self._worth_a_fetch(kid):
                self._wait()
                found = self._find(kid)
            if found is None:
                raise self._missing(kid)
            return found

    def close(self) -> None:
        """Let the thread end; it isn't waited for. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _stands(self) -> bool:
        """Whether keys are known that aren't too old."""
        return self._fetched_at is not None and self._clock() - self._fetched_at < self._stale_ms

    def _find(self, kid: str | None) -> VerifyingKey | None:
        return find(self._keys, kid) if self._stands() else None

    def _worth_a_fetch(self, kid: str | None) -> bool:
        if self._closed or (kid is not None and len(kid) > MAX_KID):
            return False
        if self._under_way:
            return True
        now = self._clock()
        if now - self._misses.get(kid, now - MISS_MS) < MISS_MS:
            return False
        return self._tried_at is None or now - self._tried_at >= self._unknown_ms

    def _wait(self) -> None:
        """Until the fetch that runs, or one that starts now, has ended. The lock is held."""
        if self._waiting >= MAX_WAITING:
            raise _unavailable(self._name, "too many requests wait for its keys")
        if not self._under_way:
            self._under_way = True
            self._changed.notify_all()
        seen = self._rounds
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: self._rounds != seen or self._closed, WAIT_S)
        finally:
            self._waiting -= 1

    def _missing(self, kid: str | None) -> AuthenticationError | Unavailable:
        if not self._stands():
            return _unavailable(self._name, "its signing keys can't be fetched")
        if self._failures or self._under_way:
            return _unavailable(self._name, "whether it has a new signing key can't be found out")
        self._note(kid)
        return AuthenticationError(
            "unknown_signing_key",
            f"the token names a signing key that issuer {self._name} doesn't have",
            "get a fresh token from your issuer",
        )

    def _note(self, kid: str | None) -> None:
        """Remember that the issuer has no such key; the longest known ones are forgotten first."""
        if kid is not None and len(kid) <= MAX_KID and kid not in self._misses:
            while len(self._misses) >= MISSES:
                del self._misses[next(iter(self._misses))]
            self._misses[kid] = self._clock()

    # the thread

    def _run(self) -> None:
        while self._until_due():
            keys = self._fetched()
            with self._changed:
                self._take(keys)
                self._changed.notify_all()

    def _until_due(self) -> bool:
        """Wait; False when there is nothing more to do."""
        with self._changed:
            while not (self._closed or self._under_way):
                left = self._due_at - self._clock()
                if left <= 0:
                    break
                self._changed.wait(min(left, LOOK_MS) / 1000)
            self._under_way = True
            self._tried_at = self._clock()
            return not self._closed

    def _fetched(self) -> Keys | None:
        try:
            return self._fetch()
        except NotFetched as why:
            if self._failures == 0:
                _LOG.warning("issuer %s: keys not fetched: %s", self._name, why)
            return None

    def _take(self, keys: Keys | None) -> None:
        began = self._tried_at or 0
        self._rounds += 1
        self._under_way = False
        if keys is None:
            self._failures += 1
            self._due_at = self._clock() + self._pause_ms()
            return
        if self._failures:
            _LOG.info("issuer %s: keys fetched again", self._name)
        self._keys, self._fetched_at, self._failures = keys, began, 0
        now = self._clock()
        self._misses = {kid: at for kid, at in self._misses.items() if now - at < MISS_MS}
        self._due_at = began + self._refresh_ms

    def _pause_ms(self) -> int:
        """Longer with each failure, and never the same for all the brokers of a vault."""
        longest: int = min(FIRST_RETRY_MS << min(self._failures, 16), self._refresh_ms)
        return longest // 2 + secrets.randbelow(longest // 2 + 1)


def _unavailable(name: str, why: str) -> Unavailable:
    return Unavailable(
        "issuer_unavailable",
        f"issuer {name}: {why}",
        "try again; if that doesn't help, check that the broker reaches the issuer's key set",
    )

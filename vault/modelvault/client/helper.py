"""Tokens from a command of the user's own: `kubectl create token`, `gcloud auth`, a script.

The command is a list of words and no shell ever reads it. It is told the audience that the token
should have, so that it can ask its platform for one that is bound to the request's key; a helper
that can't do that gives a bearer token.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from modelvault.client.credentials import MAX_TOKEN_BYTES, checked
from modelvault.clock import Clock, boot_ms
from modelvault.errors import AuthenticationError, unframed
from modelvault.identity import binding, peek

AUDIENCE = "MODELVAULT_AUDIENCE"
TIMEOUT_S = 30.0
MAX_KEPT = 64
SHOWN = 300

# What is ours is no business of the helper's.
_NOT_PASSED_ON = frozenset({"MODELVAULT_TOKEN", "MODELVAULT_PASSPHRASE"})
_LONGEST_MARGIN_MS = 60_000
_JWT = re.compile(r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?")


class _Kept(msgspec.Struct, frozen=True):
    token: str
    until: int

    def __repr__(self) -> str:
        return f"<a token kept until {self.until}>"


class HelperToken:
    """A TokenSource: what the command prints, kept until shortly before it ends.

    `vault` is the vault's id, `clock` the wall clock, `env` what the command gets besides
    MODELVAULT_AUDIENCE. What isn't a JWT with an `exp` is never kept. Thread-safe.
    """

    def __init__(
        self,
        command: Sequence[str],
        vault: str,
        *,
        env: Mapping[str, str],
        clock: Clock,
        ticks: Clock = boot_ms,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._command = tuple(command)
        self._vault = vault
        self._env = {name: text for name, text in env.items() if name not in _NOT_PASSED_ON}
        self._clock = clock
        self._ticks = ticks
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def __call__(self, key_hash: str | None) -> str:
        """A token. AuthenticationError: `helper_failed`, `bad_token`."""
        if key_hash is None:
            audience = binding.plain_audience(self._vault)
        else:
            audience = binding.bound_audience(self._vault, key_hash)
        with self._lock:
            kept = self._kept.get(audience)
            if kept is None or self._clock() >= kept.until:
                try:
                    kept = self._fresh(audience)
                except AuthenticationError as refused:
                    raise unframed(refused) from None
                self._keep(audience, kept)
            return kept.token

    def __repr__(self) -> str:
        return f"<HelperToken {self._name!r}>"

    @property
    def _name(self) -> str:
        return os.path.basename(self._command[0]) if self._command else ""  # noqa: PTH119

    def _fresh(self, audience: str) -> _Kept:
        # As seen before the command ran: a slow one must not make a token look younger.
        now = self._clock()
        output = self._run(self._env | {AUDIENCE: audience})
        token = checked(output.strip(), f"what the token helper {self._name!r} printed")
        ends = peek.expires_at(token)
        if ends is None:
            return _Kept(token, now)
        return _Kept(token, ends - min(_LONGEST_MARGIN_MS, max(ends - now, 0) // 5))

    def _keep(self, audience: str, kept: _Kept) -> None:
        self._kept.pop(audience, None)
        while len(self._kept) >= MAX_KEPT:  # each load has a key of its own: most are used once
            del self._kept[next(iter(self._kept))]
        self._kept[audience] = kept

    def _run(self, env: Mapping[str, str]) -> str:
        try:
            child = subprocess.Popen(  # noqa: S603  the words are the user's own, and no shell's
                self._command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that what it starts ends with it
            )
        except (OSError, ValueError, IndexError) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "no command"
            raise self._failed(f"can't be run: {why}", "") from None
        with child:
            try:
                return self._output(child)
            finally:
                if child.poll() is None:  # so the process group is still its own
                    with suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)

    def _output(self, child: subprocess.Popen[bytes]) -> str:
        until = self._ticks() + round(self._timeout_s * 1000)
        out, told = bytearray(), bytearray()
        assert child.stdout is not None and child.stderr is not None  # noqa: S101, PT018
        with selectors.DefaultSelector() as pipes:
            pipes.register(child.stdout, selectors.EVENT_READ, out)
            pipes.register(child.stderr, selectors.EVENT_READ, told)
            while pipes.get_map():
                left = until - self._ticks()
                if left <= 0:
                    raise self._failed(f"took more than {self._timeout_s:g} s", _shown(told))
                for ready, _ in pipes.select(left / 1000):
                    chunk = os.read(ready.fd, 4096)
                    ready.data.extend(chunk)
                    if not chunk:
                        pipes.unregister(ready.fileobj)
                if len(out) > MAX_TOKEN_BYTES:
                    raise self._failed("printed more than a token", _shown(told))
                del told[:-4096]
        try:
            status = child.wait(max(until - self._ticks(), 0) / 1000)
        except subprocess.TimeoutExpired:
            raise self._failed(f"took more than {self._timeout_s:g} s", _shown(told)) from None
        if status:
            raise self._failed(f"ended with status {status}", _shown(told))
        return out.decode("ascii", "replace")

    def _failed(self, why: str, told: str) -> AuthenticationError:
        return AuthenticationError(
            "helper_failed",
            f"the token helper {self._name!r} {why}" + (f"; it says: {told}" if told else ""),
            f"run it by hand with {AUDIENCE} set: it must print one token and nothing else",
        )


def _shown(stderr: bytearray) -> str:
    """The end of what a helper said, on one line, without anything that looks like a token."""
    text = _JWT.sub("[token]", stderr.decode("utf-8", "replace"))
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= SHOWN else "…" + line[-SHOWN:]

"""The in-process policy engine: regorus, in a child process that can be killed.

regorus has no timer and holds the interpreter's lock while it evaluates, so a looping rule would
hang the vault. It therefore runs in one long-lived child with no environment, no inherited files,
a memory limit, and no right to open files or connections; a question that isn't answered in time
costs the child its life and the asker an Unavailable. The next question starts a new child.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelvault.access import Evaluation
from modelvault.clock import Clock, boot_ms
from modelvault.errors import Unavailable
from modelvault.policy.bundle import Bundle
from modelvault.policy.rego import Facts, Finding, inspect

RULE = "data.modelvault.authz.decision"
MAX_ANSWER_BYTES = 1 << 20
START_S = 15.0
CHECK_S = 5.0

_WORKER = Path(__file__).with_name("policy_regorus_worker.py")
_FACTS = msgspec.json.Decoder(tuple[Facts, ...])
_REFUSED = msgspec.json.Decoder(tuple[tuple[str, int, str], ...])


class RegorusEngine:
    """`data.modelvault.authz.decision` over Rego modules and data, by regorus.

    `modules` maps a file name to Rego text, `data` is the whole base document. Starts its child at
    the first question. Any number of threads may ask at once: they take turns, each waiting at
    most `deadline_s` for its turn and `deadline_s` for its answer. Safe to use on both sides of a
    fork: the other side gets a child of its own.
    """

    def __init__(
        self,
        modules: Mapping[str, str],
        data: Mapping[str, Any],
        revision: str,
        deadline_s: float = 1.0,
        memory_bytes: int = 512 << 20,
        clock: Clock = boot_ms,
    ) -> None:
        self.revision = revision
        self._start = _Start(dict(modules), dict(data), memory_bytes, int(deadline_s) + 5)
        self._deadline_s = deadline_s
        self._clock = clock
        self._turn = threading.Lock()
        self._child: _Child | None = None
        _ENGINES.add(self)

    @classmethod
    def of(cls, bundle: Bundle, deadline_s: float = 1.0) -> RegorusEngine:
        """An engine for `bundle`, under the bundle's own revision."""
        return cls(bundle.modules, bundle.document, bundle.revision, deadline_s)

    def __enter__(self) -> RegorusEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def evaluate(self, document: dict[str, Any]) -> Evaluation:
        """The decision for `document`, unexamined but for being an object.

        Raises Unavailable (`policy_unavailable`).
        """
        try:
            question = json.dumps(document, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise _unavailable("the question isn't JSON") from None
        if not self._turn.acquire(timeout=self._deadline_s):
            raise _unavailable("the engine is busy with other questions")
        try:
            answer = self._ask(question)
        finally:
            self._turn.release()
        return Evaluation(_value(answer), self.revision, secrets.token_hex(16))

    def close(self) -> None:
        """End the child. Idempotent; a later question starts a new one."""
        with self._turn:
            self._end()

    def _ask(self, question: bytes) -> bytes:
        try:
            if self._child is None or not self._child.alive():
                self._end()
                self._child = _Child(self._clock)
                findings = self._start.send(self._child)
                if findings:
                    first = findings[0]
                    raise _unavailable(f"{first.file}:{first.line}: {first.text}")
            return self._child.ask(question, self._deadline_s)
        except TimeoutError:
            self._end()
            raise _unavailable(f"no answer within {self._deadline_s:g} s") from None
        except OSError:
            self._end()
            raise _unavailable("the engine died: out of memory, or killed") from None
        except BaseException:  # also Ctrl-C: a half-read answer must not become the next one's
            self._end()
            raise

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _forked(self) -> None:
        """In a forked process: the lock may be held by nobody, and the child is our parent's."""
        self._turn = threading.Lock()
        child, self._child = self._child, None
        if child is not None:
            child.forget()


def check(bundle: Bundle, sample: dict[str, Any], clock: Clock = boot_ms) -> list[Finding]:
    """What is wrong with a bundle's Rego: it doesn't parse, it must not be used, or it fails on
    `sample`, a well-formed input. Empty when nothing is.

    Raises Unavailable (`policy_unavailable`) when the engine can't be run at all.
    """
    start = _Start(bundle.modules, bundle.document, 512 << 20, 10)
    try:
        child = _Child(clock)
        try:
            findings = start.send(child)
            answer = b"" if findings else child.ask(json.dumps(sample).encode(), CHECK_S)
        finally:
            child.end()
    except OSError:
        return [Finding("", 0, "evaluation_failed", "it takes too long, or kills the engine")]
    if findings or answer[:1] == b"V":
        return findings
    why = answer[1:].decode(errors="replace")
    place = re.search(r"at ([^:]+):(\d+)$", why)
    file, line = (place[1], int(place[2])) if place else ("", 0)
    return [Finding(file, line, "evaluation_failed", "the engine can't evaluate this")]


class _Start:
    """What a child is started with; the same each time."""

    def __init__(
        self, modules: dict[str, str], document: dict[str, Any], memory_bytes: int, cpu_s: int
    ) -> None:
        self._document = document
        self._frame = json.dumps(
            {
                "modules": modules,
                "data": json.dumps(document),
                "rule": RULE,
                "packages": _regorus_folder(),
                "memory_bytes": memory_bytes,
                "answer_bytes": MAX_ANSWER_BYTES,
                "cpu_s": cpu_s,
            }
        ).encode()

    def send(self, child: _Child) -> list[Finding]:
        """Make the child ready; what is wrong with the modules, if they can't be used."""
        answer = child.ask(self._frame, START_S)
        try:
            if answer[:1] == b"R":
                return inspect(_FACTS.decode(answer[1:]), self._document)
            refused = _REFUSED.decode(answer[1:])
        except msgspec.DecodeError:
            raise ConnectionAbortedError from None
        return [Finding(file, line, "bad_rego", text) for file, line, text in refused]


class _Child:
    """One worker process and the socket to it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603  # our interpreter, our file
                    [sys.executable, "-I", "-S", "-X", "utf8", str(_WORKER)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    close_fds=True,
                    start_new_session=True,  # a Ctrl-C at the terminal isn't for it
                )
            except BaseException:
                self._socket.close()
                raise

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, frame: bytes, seconds: float) -> bytes:
        """One frame there, one back; TimeoutError or another OSError when that doesn't work."""
        end = self._clock() + int(seconds * 1000)
        self._socket.settimeout(seconds)
        self._socket.sendall(struct.pack(">I", len(frame)) + frame)
        size = struct.unpack(">I", self._receive(4, end))[0]
        if size > MAX_ANSWER_BYTES:
            raise ConnectionAbortedError
        return self._receive(size, end)

    def _receive(self, size: int, end: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            left = (end - self._clock()) / 1000
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(size - len(got))
            if not piece:
                raise ConnectionResetError
            got += piece
        return bytes(got)

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Let go without ending it: closes this process's copy of the socket only."""
        self._socket.close()
        self._process.returncode = 0  # not our child: nothing to wait for


def _value(answer: bytes) -> dict[str, Any]:
    if answer[:1] != b"V":
        raise _unavailable(answer[1:].decode(errors="replace"))
    value: object = None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(answer[1:])
    if not isinstance(value, dict):  # regorus gives the text "<undefined>" for no value
        raise _unavailable("the decision is undefined or isn't an object")
    return value


def _regorus_folder() -> str:
    spec = importlib.util.find_spec("regorus")
    if spec is None or not spec.origin:
        raise _unavailable("regorus isn't installed")
    return str(Path(spec.origin).parent.parent)


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        "policy_unavailable",
        f"no policy decision: {why}",
        "run `modelvault policy check` and `modelvault policy test`; nothing was granted",
    )


_ENGINES: weakref.WeakSet[RegorusEngine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine._forked()


os.register_at_fork(after_in_child=_after_fork)

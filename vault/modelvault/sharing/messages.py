"""What a process and the holder of a model say to each other: one message is one packet of JSON.

The socket keeps packets apart (SOCK_SEQPACKET), so nothing has to be framed, and what is larger
than a packet comes as a sealed memory file beside it. Both sides parse strictly.
"""

from __future__ import annotations

import socket
from typing import Annotated

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.access import Obligations
from modelvault.errors import InvalidRequest, ModelVaultError, Unavailable
from modelvault.manifest import MAX_BYTES, MAX_PATH_BYTES, Count, Manifest
from modelvault.wire import problem
from modelvault.wire.problem import Problem

MAX_REQUEST = 8 << 10
MAX_ANSWER = 64 << 10
MAX_DOCUMENT = 2 * MAX_BYTES  # the manifest and the list of paths, as text within text

Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH_BYTES)]


class Describe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="describe"):
    """What is shared? Answered by `Done` with a `Description` and the holder's page."""


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="memory"):
    """The memory of a file, which the asker may have until it hangs up. `Done`, with it."""

    path: Path


class Need(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="need"):
    """Bytes `begin` to `end` of a file whose memory the asker has. `Done` once they are there."""

    path: Path
    begin: Count
    end: Count


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="done"):
    """It is so."""


class Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refused"):
    """It isn't; the same error as in the holder."""

    problem: Problem


Request = Describe | Memory | Need
Answer = Done | Refused


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A loaded version: its verified manifest, the granted paths, what the policy asks."""

    manifest: bytes
    paths: tuple[str, ...]
    obligations: Obligations

    @classmethod
    def of(cls, manifest: Manifest, paths: tuple[str, ...], obligations: Obligations) -> bytes:
        """The document."""
        return canonical.encode(
            cls(manifest=manifest.to_bytes(), paths=paths, obligations=obligations)
        )

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Description:
        """Raises Unavailable for what no holder of this version of the program says."""
        return canonical.decode(
            data, cls, limit=MAX_DOCUMENT, what="the holder's description", error=Unavailable
        )


def send(connection: socket.socket, message: Request | Answer, descriptors: list[int]) -> None:
    """Send one packet. OSError when nobody is there to take it."""
    socket.send_fds(connection, [msgspec.json.encode(message)], descriptors)


def request(data: bytes) -> Request:
    """What was asked. Raises InvalidRequest: `too_large`, `too_deep`, `bad_json`,
    `bad_document`."""
    return canonical.decode(
        data,
        Request,  # type: ignore[arg-type]
        limit=MAX_REQUEST,
        what="request",
        error=InvalidRequest,
    )


def refusal(error: ModelVaultError) -> Refused:
    """An error as an answer that fits into a packet."""
    answer = Refused(problem.of(error, 0, ""))
    if len(msgspec.json.encode(answer)) > MAX_ANSWER:
        answer = Refused(
            problem.of(type(error)(error.code, error.message[:2000], error.hint[:2000]), 0, "")
        )
    return answer


def answer(data: bytes) -> None:
    """Raises the error that the answer is, or Unavailable for what isn't an answer."""
    found: Answer = canonical.decode(
        data,
        Answer,  # type: ignore[arg-type]
        limit=MAX_ANSWER,
        what="the holder's answer",
        error=Unavailable,
    )
    if isinstance(found, Refused):
        raise problem.error_of(found.problem)

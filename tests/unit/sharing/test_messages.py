from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.access import Obligations
from modelvault.errors import (
    AccessDenied,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    Unavailable,
)
from modelvault.sharing import messages
from modelvault.sharing.messages import Describe, Description, Done, Memory, Need
from modelvault.sharing.page import ReadPage, WrittenPage
from support.loading import Version

PATH = "model.safetensors"


@pytest.mark.parametrize("sent", [Describe(), Memory(PATH), Need(PATH, 0, 10)])
def test_requests_arrive_as_they_were_sent(sent: Any) -> None:
    assert messages.request(msgspec.json.encode(sent)) == sent


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"type":"describe"',
        b'{"type":"wipe"}',
        b'{"type":"describe","more":1}',
        b'{"type":"memory"}',
        b'{"type":"memory","path":""}',
        b'{"type":"memory","path":7}',
        b'{"type":"memory","path":"' + b"x" * 1025 + b'"}',
        b'{"type":"need","path":"a","begin":-1,"end":2}',
        b'{"type":"need","path":"a","begin":0,"end":1.5}',
        b'{"type":"need","path":"a","begin":0,"end":9007199254740993}',
        b'{"type":"need","path":"a","begin":0,"end":1,"end":2}',
        b'{"type":"done"}',
        b"\xff\xfe",
        b"[" * 4000,
        b" " * (messages.MAX_REQUEST + 1),
    ],
)
def test_what_isnt_a_request(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        messages.request(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_only_our_errors_escape(data: bytes) -> None:
    for parse in (messages.request, messages.answer, Description.parse):
        try:
            parse(data)
        except ModelVaultError:
            continue


def test_an_error_arrives_with_its_family() -> None:
    for error in (
        AccessDenied("revoked", "it was revoked", "ask", model="m", reasons=["revoked"]),
        IntegrityError("altered", "m: a segment was altered", "restore it", file="m"),
        Unavailable("store_unreachable", "no answer"),
    ):
        with pytest.raises(type(error)) as caught:
            messages.answer(msgspec.json.encode(messages.refusal(error)))
        again = caught.value
        assert (again.code, again.message, again.hint) == (error.code, error.message, error.hint)
        assert again.details == error.details


def test_an_error_that_fits_into_no_packet_is_cut() -> None:
    large = Unavailable("big", "m" * 10_000, "h" * 10_000, files=["f" * 1000] * 100)
    packet = msgspec.json.encode(messages.refusal(large))
    assert len(packet) <= messages.MAX_ANSWER
    with pytest.raises(Unavailable) as caught:
        messages.answer(packet)
    assert caught.value.message == "m" * 2000


def test_done() -> None:
    messages.answer(msgspec.json.encode(Done()))
    with pytest.raises(Unavailable):
        messages.answer(msgspec.json.encode(Describe()))


def test_a_description_is_all_that_a_model_is_made_of() -> None:
    manifest = Version({PATH: b"weights", "b": b""}).manifest
    obligations = Obligations(allow_pickle=True, grace_s=5, files=(PATH,))
    found = Description.parse(Description.of(manifest, (PATH,), obligations))
    assert found.paths == (PATH,)
    assert found.obligations == obligations
    assert type(manifest).from_bytes(found.manifest) == manifest


class Clock:
    def __init__(self) -> None:
        self.ms = 1000

    def __call__(self) -> int:
        return self.ms


class TestPage:
    def pages(self) -> tuple[WrittenPage, ReadPage, Clock]:
        clock, written = Clock(), WrittenPage()
        return written, ReadPage(written.descriptor, clock), clock

    def test_it_says_until_when(self) -> None:
        written, read, clock = self.pages()
        with pytest.raises(AccessDenied):  # nothing was said yet
            read.check()
        written.extend(5000)
        read.check()
        assert read.seconds_left == 4
        clock.ms = 5000
        assert read.seconds_left == 0
        with pytest.raises(AccessDenied) as caught:
            read.check()
        assert caught.value.code == "lease_expired"
        written.extend(9000)
        read.check()

    def test_the_first_end_stands(self) -> None:
        written, read, _ = self.pages()
        written.extend(5000)
        written.end(AccessDenied("revoked", "it was revoked", "ask", reasons=["revoked"]))
        written.end(Unavailable("other", "something else"))
        written.extend(9000)
        for _ in range(2):
            with pytest.raises(AccessDenied, match="it was revoked") as caught:
                read.check()
            assert caught.value.code == "revoked"
            assert caught.value.details == {"reasons": ["revoked"]}
        assert read.seconds_left == 0

    def test_an_error_longer_than_the_page_is_cut(self) -> None:
        written, read, _ = self.pages()
        written.end(AccessDenied("revoked", "m" * 9000, "h" * 9000, files=["f"] * 9000))
        with pytest.raises(AccessDenied) as caught:
            read.check()
        assert caught.value.message == "m" * 500

    def test_what_cant_be_read_is_no_access(self) -> None:
        written, read, _ = self.pages()
        written.extend(5000)
        written._numbers[1] = 7
        with pytest.raises(Unavailable):
            read.check()

    def test_nobody_else_can_write_on_it(self) -> None:
        written, _, _ = self.pages()
        with pytest.raises(PermissionError):
            os.pwrite(written.descriptor, b"x", 0)

"""A Secret gives nothing away, whoever asks and however."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import threading
import traceback
from io import BytesIO

import msgspec
import pytest

from modelvault.crypto import derive, hpke
from modelvault.crypto.secret import Secret
from modelvault.errors import InvalidRequest

KEY = b"sixteen of these" * 2
TRACES = (KEY.decode(), KEY.hex(), str(list(KEY))[1:-1], "sixteen")


@pytest.fixture
def secret() -> Secret:
    return Secret.copy_of(KEY)


def shows_nothing(text: str) -> bool:
    return not any(trace in text for trace in TRACES)


@pytest.mark.parametrize(
    "show",
    [repr, str, "{}".format, "{!r}".format, "{:x>100}".format, "%s".__mod__, ascii, dir],
    ids=lambda show: getattr(show, "__qualname__", repr(show)),
)
def test_no_text_of_it_shows_the_key(secret: Secret, show) -> None:
    text = str(show(secret))
    assert shows_nothing(text)
    assert "32 bytes" in text or "reveal" in text


@pytest.mark.parametrize(
    "take",
    [
        pickle.dumps,
        lambda secret: pickle.dumps(secret, protocol=0),
        lambda secret: pickle._Pickler(BytesIO()).dump(secret),
        copy.copy,
        copy.deepcopy,
        vars,
        hash,
        bytes,
        list,
        iter,
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
        lambda secret: secret[0],
        lambda secret: secret + b"",
        lambda secret: secret.__reduce__(),
        lambda secret: secret.__reduce_ex__(4),
        lambda secret: secret.__getstate__(),
        lambda secret: {secret},
        memoryview,
        bytearray,
    ],
)
def test_no_way_of_taking_it_apart(secret: Secret, take) -> None:
    with pytest.raises((TypeError, AttributeError)) as error:
        take(secret)
    assert shows_nothing(str(error.value))


def test_a_traceback_with_locals_shows_nothing(secret: Secret) -> None:
    derived = derive.expand(secret, b"label")
    try:
        hpke.seal(secret, hpke.HYBRID, b"too short", b"info")
    except InvalidRequest:
        report = traceback.TracebackException(*sys.exc_info(), capture_locals=True)
    text = "".join(report.format())
    assert "secret = <Secret, 32 bytes>" in text
    assert shows_nothing(text)
    assert bytes(derived.reveal()).hex() not in text


def test_wiping_zeroes_the_buffer_itself() -> None:
    buffer = bytearray(KEY)
    secret = Secret(buffer)
    view = secret.reveal()
    secret.wipe()
    assert buffer == bytes(32) == bytes(view)
    assert secret.wiped
    assert len(secret) == 0
    assert repr(secret) == f"{secret}" == "<Secret, wiped>"
    secret.wipe()
    with pytest.raises(InvalidRequest) as error:
        secret.reveal()
    assert error.value.code == "wiped"


def test_the_end_of_a_with_wipes_also_after_an_error() -> None:
    buffer = bytearray(KEY)
    with Secret(buffer) as secret:
        assert bytes(secret.reveal()) == KEY
    assert buffer == bytes(32)
    buffer[:] = KEY
    with pytest.raises(ZeroDivisionError), Secret(buffer):
        1 / 0  # noqa: B018
    assert buffer == bytes(32)


def test_what_is_revealed_cant_be_written(secret: Secret) -> None:
    with pytest.raises(TypeError):
        secret.reveal()[0] = 1


def test_equality(secret: Secret) -> None:
    assert secret == Secret.copy_of(KEY)
    assert secret != Secret.copy_of(KEY[:-1] + b"x")
    assert secret != Secret.copy_of(KEY[:-1])
    assert secret != KEY


def test_random_is_fresh_and_as_long_as_asked() -> None:
    assert len(Secret.random(48)) == 48
    assert Secret.random(32) != Secret.random(32)


def test_threads_that_read_while_another_wipes_get_the_key_or_the_error() -> None:
    for _ in range(50):
        secret, odd = Secret.copy_of(KEY), []

        def read(secret: Secret = secret, odd: list = odd) -> None:
            for _ in range(50):
                try:
                    seen = bytes(secret.reveal())
                except InvalidRequest:
                    return
                if len(seen) != 32:
                    odd.append(seen)

        threads = [threading.Thread(target=read), threading.Thread(target=secret.wipe)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not odd
        assert secret.wiped

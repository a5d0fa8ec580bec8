"""objects_http: ranges and parts by links, through a network that fails in every way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from modelvault.adapters.objects_http.links import ReadLinks
from modelvault.adapters.objects_http.reader import HttpReader
from modelvault.adapters.objects_http.transport import TRIES, Transport
from modelvault.adapters.objects_http.writer import HttpUploads
from modelvault.artifact.grouping import PART_BYTES
from modelvault.crypto import derive
from modelvault.errors import (
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.lease import Link, Links
from modelvault.upload import PutAsk, Putting
from support.servers.fake_http import Asked, FakeServer, Reply
from support.vaults import Clock

NAME = "objects/" + "a" * 32
UPLOAD = "b" * 32
SEED = "c" * 32
CONTENT = os.urandom(300_000)
SIGNATURE = "X-Amz-Signature-canary"


def ranged(asked: Asked, content: bytes = CONTENT) -> Reply:
    """What S3 answers to a range."""
    first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers["Range"]).groups())
    if first >= len(content):
        return Reply(416)
    part = content[first : last + 1]
    told = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
    return Reply(206, part, {"Content-Range": told})


class Store:
    """A fake store, and a broker that gives links to it."""

    def __init__(self) -> None:
        self.reply: Callable[[Asked], Reply] = ranged
        self.server = FakeServer(self._reply)
        self.pauses: list[float] = []
        self.transport = Transport(pause=self.pauses.append, timeout_s=5)
        self.clock = Clock(0)
        self.asked: list[tuple[str, ...]] = []
        self.ttl_s = 100

    def _reply(self, asked: Asked) -> Reply:
        return self.reply(asked)

    def links(self, names: tuple[str, ...]) -> Links:
        self.asked.append(names)
        number = len(self.asked)
        links = [
            Link(object=name, url=f"{self.server.url}/{name}?{SIGNATURE}={number}")
            for name in names
        ]
        return Links(links=tuple(links), ttl_s=self.ttl_s)

    def reader(self, *objects: str) -> HttpReader:
        return HttpReader(self.transport, ReadLinks(self.links, self.clock, objects))

    def close(self) -> None:
        self.transport.close()
        self.server.close()


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


def read(
    reader: HttpReader, offset: int = 0, size: int = len(CONTENT), piece: int = 70_000
) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    with reader.stream(NAME, offset, size) as fill:
        for at in range(0, size, piece):
            fill(view[at : at + piece])
    return bytes(data)


def told(error: ModelVaultError) -> str:
    return f"{error} {error.hint} {error.details} {error.__context__!r} {error.__cause__!r}"


class TestReading:
    def test_a_stream_is_one_request(self, store: Store) -> None:
        assert read(store.reader()) == CONTENT
        assert read(store.reader(), 5, 1000, 7) == CONTENT[5:1005]
        assert len(store.server.asked) == 2
        assert store.reader().size(NAME) == len(CONTENT)

    def test_links_are_asked_for_once_and_renewed_before_they_end(self, store: Store) -> None:
        reader = store.reader()
        for advance in (0, 50, 29, 2, 50):
            store.clock.advance(advance)
            read(reader, 0, 10)
        assert len(store.asked) == 2

    def test_with_one_link_come_those_of_the_next_objects(self, store: Store) -> None:
        names = [f"objects/{number:032x}" for number in range(40)]
        reader = store.reader(*names)
        for name in (names[5], names[20], names[0], names[21], names[39]):
            reader.read_into(name, 0, memoryview(bytearray(10)))
        assert store.asked == [
            tuple(names[5:21]),
            (names[0], *names[1:5]),
            tuple(names[21:37]),
            (names[39],),
        ]
        assert read(reader, 0, 10) == CONTENT[:10]  # also a name that nobody told of before
        assert store.asked[-1] == (NAME,)

    @pytest.mark.parametrize("cut", [1, 1000, 69_999, 70_000, 299_999])
    def test_a_stream_that_is_cut_goes_on_where_it_stopped(self, store: Store, cut: int) -> None:
        number = count()

        def reply(asked: Asked) -> Reply:
            whole = ranged(asked)
            if next(number) == 0:
                return Reply(206, whole.body[:cut], whole.headers, declared=len(whole.body))
            return whole

        store.reply = reply
        assert read(store.reader()) == CONTENT
        assert store.server.asked[1].headers["Range"] == f"bytes={cut}-{len(CONTENT) - 1}"

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
    def test_what_may_pass_is_asked_again(self, store: Store, status: int) -> None:
        number = count()
        store.reply = lambda asked: (
            Reply(status, b"<Error>SlowDown</Error>") if next(number) < 2 else ranged(asked)
        )
        assert read(store.reader(), 0, 100) == CONTENT[:100]
        assert len(store.pauses) == 2
        assert store.pauses[1] > store.pauses[0] / 3

    @pytest.mark.parametrize(
        "reply",
        [
            lambda _asked: Reply(503, SIGNATURE.encode()),
            lambda asked: Reply(200, CONTENT),
            lambda asked: Reply(206, CONTENT[:10], {"Content-Range": "bytes 7-16/300000"}),
            lambda asked: Reply(206, CONTENT[:10]),
            lambda asked: Reply(206, b"", ranged(asked).headers, declared=300_000),
            lambda asked: Reply(206, CONTENT, ranged(asked).headers, declared=-1),
            lambda asked: Reply(302, b"", {"Location": "http://127.0.0.1:9/"}),
        ],
        ids=[
            "always 503",
            "no range",
            "another range",
            "no Content-Range",
            "nothing",
            "no length",
            "elsewhere",
        ],
    )
    def test_what_stays_is_an_outage_in_bounded_time(
        self, store: Store, reply: Callable[[Asked], Reply]
    ) -> None:
        store.reply = reply
        with pytest.raises(Unavailable) as caught:
            read(store.reader())
        assert caught.value.code == "store_unavailable"
        assert SIGNATURE not in told(caught.value)
        assert len(store.server.asked) <= TRIES + 1

    def test_a_silent_store_is_an_outage(self, store: Store) -> None:
        store.reply = lambda asked: Reply(206, b"", ranged(asked).headers, delay=2.0)
        store.transport = Transport(pause=store.pauses.append, timeout_s=0.05)
        with pytest.raises(Unavailable):
            read(store.reader(), 0, 10)

    def test_a_store_that_drips_is_an_outage(self, store: Store) -> None:
        """No read of it ever waits for long, and yet nobody may be held up by it for hours."""
        store.reply = lambda asked: replace(ranged(asked), drip=0.005)
        store.transport.timeout_s = 0.05
        with pytest.raises(Unavailable) as caught:
            read(store.reader())
        assert caught.value.code == "store_unavailable"
        assert len(store.server.asked) == TRIES

    def test_nor_does_it_help_to_give_a_byte_for_each_connection(self, store: Store) -> None:
        store.reply = lambda asked: Reply(
            206, ranged(asked).body[:1], ranged(asked).headers, declared=300_000, delay=0.01
        )
        store.transport.timeout_s = 0.05
        with pytest.raises(Unavailable):
            read(store.reader())
        assert TRIES <= len(store.server.asked) < 10 * TRIES

    def test_one_that_dripped_for_a_while_goes_on_where_it_stopped(self, store: Store) -> None:
        def reply(asked: Asked) -> Reply:
            return replace(ranged(asked), drip=0.005 if len(store.server.asked) < TRIES else 0)

        store.reply = reply
        store.transport.timeout_s = 0.05
        assert read(store.reader()) == CONTENT
        firsts = [int(asked.headers["Range"][6:].split("-")[0]) for asked in store.server.asked]
        assert len(firsts) == TRIES
        assert firsts == sorted(set(firsts))  # each got some further

    def test_an_expired_link_is_exchanged(self, store: Store) -> None:
        store.reply = lambda asked: ranged(asked) if f"{SIGNATURE}=2" in asked.path else Reply(403)
        assert read(store.reader(), 0, 100) == CONTENT[:100]
        assert len(store.asked) == 2

    def test_links_that_are_always_refused(self, store: Store) -> None:
        store.reply = lambda _asked: Reply(403, b"<Code>RequestTimeTooSkewed</Code>")
        with pytest.raises(Unavailable) as caught:
            read(store.reader(), 0, 100)
        assert len(store.asked) == 3
        assert SIGNATURE not in told(caught.value)

    def test_what_isnt_there_and_what_ends_too_soon(self, store: Store) -> None:
        store.reply = lambda _asked: Reply(404)
        for call in (lambda: read(store.reader(), 0, 1), lambda: store.reader().size(NAME)):
            with pytest.raises(NotFound):
                call()
        store.reply = ranged
        for offset in (len(CONTENT), 1 << 40):
            with pytest.raises(IntegrityError) as caught:
                read(store.reader(), offset, 1)
            assert caught.value.code == "truncated"
        with pytest.raises((IntegrityError, Unavailable)):
            read(store.reader(), len(CONTENT) - 5, 10)

    def test_an_empty_object(self, store: Store) -> None:
        store.reply = lambda asked: ranged(asked, b"")
        assert store.reader().size(NAME) == 0
        store.reader().read_into(NAME, 0, memoryview(bytearray()))

    @pytest.mark.parametrize("name", ["", "objects/../x", "http://evil", "objects/" + "g" * 32])
    def test_no_other_name(self, store: Store, name: str) -> None:
        for call in (
            lambda: store.reader().size(name),
            lambda: store.reader().read_into(name, 0, memoryview(bytearray(1))),
            lambda: store.reader().stream(name, 0, 1),
        ):
            with pytest.raises(InvalidRequest):
                call()
        assert store.asked == []

    @pytest.mark.parametrize(
        "links", [(), (Link(object="objects/" + "0" * 32, url="http://127.0.0.1:9/"),)]
    )
    def test_a_broker_that_gives_other_links(self, store: Store, links: tuple) -> None:
        reader = HttpReader(
            store.transport,
            ReadLinks(lambda _names: Links(links=links, ttl_s=5), store.clock, ()),
        )
        with pytest.raises(InvalidRequest):
            read(reader, 0, 1)

    def test_what_the_broker_refuses_comes_out(self, store: Store) -> None:
        def ask(_names: tuple[str, ...]) -> Links:
            raise Unavailable("broker_unavailable", "gone", "look")

        with pytest.raises(Unavailable, match="gone"):
            read(HttpReader(store.transport, ReadLinks(ask, store.clock, ())), 0, 1)


class Uploads:
    """A fake store for puts, and a broker that gives links to it."""

    def __init__(self, store: Store, threads: int = 2) -> None:
        self.store = store
        self.got: dict[int, bytes] = {}
        self.asks: list[PutAsk] = []
        self.finished: list[PutAsk] = []
        self.fails: Callable[[int, int], Reply | None] = lambda _part, _try: None
        self.tries: dict[int, int] = {}
        store.reply = self._put
        self.uploads = HttpUploads(
            UPLOAD, store.transport, self._ask, self.finished.append, store.clock, threads
        )
        self.name = self.uploads.name(SEED)

    def put(self, sizes: list[int]) -> None:
        self.uploads.put(self.name, sizes, fill)

    def _ask(self, ask: PutAsk) -> Putting:
        self.asks.append(ask)
        parts = ask.parts or (None,)
        links = tuple(
            Link(
                object=self.name,
                url=f"{self.store.server.url}/put?part={part or 1}&{SIGNATURE}={len(self.asks)}",
                headers={"Content-Length": str(ask.sizes[(part or 1) - 1]), "If-None-Match": "*"},
                part=part,
            )
            for part in parts
        )
        transfer = None if len(ask.sizes) == 1 else "t"
        return Putting(object=self.name, transfer=transfer, done=(), links=links, ttl_s=100)

    def _put(self, asked: Asked) -> Reply:
        part = int(re.search(r"part=(\d+)", asked.path)[1])
        self.tries[part] = self.tries.get(part, 0) + 1
        failed = self.fails(part, self.tries[part])
        if failed is not None:
            return failed
        assert asked.headers["Content-Length"] == str(len(asked.body))
        self.got[part] = asked.body
        return Reply(200)

    @property
    def whole(self) -> bytes:
        return b"".join(self.got[part] for part in sorted(self.got))


def fill(piece: int, buffer: memoryview) -> None:
    buffer[:] = bytes([piece % 251]) * len(buffer)


def wanted(sizes: list[int]) -> bytes:
    return b"".join(bytes([piece % 251]) * size for piece, size in enumerate(sizes))


LARGE = [(1 << 20) + 74] + [1 << 20] * 19 + [77]


class TestWriting:
    def test_a_small_object_is_one_request(self, store: Store) -> None:
        made = Uploads(store)
        made.put([74, 100, 5])
        assert made.name == derive.object_name(UPLOAD, SEED)
        assert made.whole == wanted([74, 100, 5])
        assert [(ask.seed, ask.sizes, ask.parts) for ask in made.asks] == [(SEED, (179,), ())]
        assert store.server.asked[0].headers["If-None-Match"] == "*"
        assert made.finished == []

    def test_a_large_one_goes_in_parts_and_is_finished(self, store: Store) -> None:
        made = Uploads(store)
        made.put(LARGE)
        assert made.whole == wanted(LARGE)
        assert all(size >= PART_BYTES for size in made.asks[0].sizes[:-1])
        (done,) = made.finished
        assert (done.transfer, done.sizes) == ("t", made.asks[0].sizes)

    @pytest.mark.parametrize(
        "failure", [Reply(500), Reply(503), Reply(404), Reply(200, b"", declared=5)], ids=str
    )
    def test_a_part_is_sent_again_as_it_was(self, store: Store, failure: Reply) -> None:
        made = Uploads(store)
        calls: list[int] = []
        made.fails = lambda part, number: failure if part == 2 and number <= 2 else None

        def once(piece: int, buffer: memoryview) -> None:
            calls.append(piece)
            fill(piece, buffer)

        made.uploads.put(made.name, LARGE, once)
        assert made.whole == wanted(LARGE)
        assert sorted(calls) == list(range(len(LARGE)))  # nothing was made twice
        assert made.tries[2] == 3

    def test_refused_links_are_renewed_and_then_given_up(self, store: Store) -> None:
        made = Uploads(store, threads=1)
        made.fails = lambda _part, number: Reply(403) if number == 1 else None
        made.put([10])
        assert len(made.asks) == 2
        made.fails = lambda _part, _number: Reply(403)
        with pytest.raises(Unavailable) as caught:
            made.put([10])
        assert SIGNATURE not in told(caught.value)

    def test_a_store_that_stays_down(self, store: Store) -> None:
        made = Uploads(store)
        made.fails = lambda _part, _number: Reply(503)
        with pytest.raises(Unavailable) as caught:
            made.put(LARGE)
        assert caught.value.code == "store_unavailable"
        assert SIGNATURE not in told(caught.value)
        assert made.finished == []

    def test_what_is_there_already(self, store: Store) -> None:
        """Is a refusal at first, and our own doing after an answer that was lost."""
        made = Uploads(store)
        made.fails = lambda _part, _number: Reply(412)
        with pytest.raises(Conflict):
            made.put([10])
        made.tries.clear()
        made.fails = lambda _part, number: Reply(500) if number == 1 else Reply(412)
        made.put([10])

    def test_what_fill_raises_comes_out(self, store: Store) -> None:
        made = Uploads(store)

        def broken(piece: int, buffer: memoryview) -> None:
            raise OSError("the file is gone")

        with pytest.raises(OSError, match="the file is gone"):
            made.uploads.put(made.name, LARGE, broken)

    def test_names_of_nobody(self, store: Store) -> None:
        made = Uploads(store)
        with pytest.raises(InvalidRequest):
            made.uploads.put(NAME, [1], fill)
        made.uploads.delete(made.name)

    def test_a_broker_that_gives_links_to_other_parts(self, store: Store) -> None:
        made = Uploads(store)
        real = made._ask
        made.uploads._ask = lambda ask: real(PutAsk(seed=ask.seed, sizes=ask.sizes, parts=(1,)))
        with pytest.raises(InvalidRequest):
            made.put(LARGE)

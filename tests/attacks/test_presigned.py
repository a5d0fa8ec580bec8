"""Links that the broker signed, in the hands of somebody who wants more than they are for.

Against a real S3 server: what is refused here is refused by the signature, not by us.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import urllib3

from modelvault.adapters.objects_s3 import S3Signer, S3Store
from modelvault.lease import Link
from support.servers.s3 import S3Server

MINE, OTHERS, NEW = (f"objects/{digit * 32}" for digit in "abc")
CONTENT = {MINE: b"m" * 1000, OTHERS: b"o" * 1000}
HTTP = urllib3.PoolManager(retries=False, timeout=10)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    made = S3Server("versitygw")
    yield made
    made.stop()


@pytest.fixture
def store(server: S3Server) -> Iterator[S3Store]:
    made = S3Store(server.bucket())
    for name, content in CONTENT.items():

        def fill(_part: int, buffer: memoryview, content: bytes = content) -> None:
            buffer[:] = content

        made.put(name, [len(content)], fill)
    yield made
    made.close()


@pytest.fixture
def signer(store: S3Store) -> S3Signer:
    return S3Signer(store)


def ask(
    method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    answer = HTTP.request(method, url, body=body, headers=headers, redirect=False)
    return answer.status, answer.data


def untouched(store: S3Store) -> None:
    """The objects are what they were, and there are no more."""
    names = [info.name for info in store.list("objects/")]
    assert names == [MINE, OTHERS]
    for name, content in CONTENT.items():
        buffer = bytearray(len(content))
        store.read_into(name, 0, memoryview(buffer))
        assert buffer == content


def altered(link: Link, before: str, after: str) -> str:
    assert before in link.url
    return link.url.replace(before, after)


class TestALinkToRead:
    def test_is_for_its_object_alone(self, signer: S3Signer, store: S3Store) -> None:
        (link,) = signer.download([MINE], 60)
        assert ask("GET", link.url) == (200, CONTENT[MINE])
        status, body = ask("GET", altered(link, "a" * 32, "b" * 32))
        assert status == 403
        assert CONTENT[OTHERS] not in body
        listing = link.url.partition("objects/")[0] + "?" + link.url.partition("?")[2]
        assert ask("GET", listing)[0] == 403

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
    def test_is_for_reading_alone(self, signer: S3Signer, store: S3Store, method: str) -> None:
        (link,) = signer.download([MINE], 60)
        assert ask(method, link.url, b"x")[0] >= 400
        untouched(store)

    def test_ends(self, signer: S3Signer) -> None:
        (link,) = signer.download([MINE], 1)
        time.sleep(2.1)
        status, body = ask("GET", link.url)
        assert status == 403
        assert CONTENT[MINE] not in body

    def test_cant_be_made_longer(self, signer: S3Signer) -> None:
        (link,) = signer.download([MINE], 60)
        assert ask("GET", altered(link, "Expires=60", "Expires=60000"))[0] == 403


class TestALinkToPut:
    @pytest.fixture
    def link(self, signer: S3Signer) -> Link:
        return signer.upload(NEW, 1000, 60)

    def test_is_for_so_many_bytes(self, link: Link, store: S3Store) -> None:
        for size in (999, 1001, 0):
            headers = {**link.headers, "Content-Length": str(size)}
            assert ask("PUT", link.url, b"x" * size, headers)[0] in {400, 403}
        untouched(store)

    def test_is_for_its_object_alone(self, link: Link, store: S3Store) -> None:
        for digit in "bd":
            url = altered(link, "c" * 32, digit * 32)
            assert ask("PUT", url, b"x" * 1000, dict(link.headers))[0] == 403
        untouched(store)

    def test_overwrites_nothing(self, signer: S3Signer, store: S3Store) -> None:
        link = signer.upload(MINE, 1000, 60)
        assert ask("PUT", link.url, b"x" * 1000, dict(link.headers))[0] == 412
        bare = {name: text for name, text in link.headers.items() if name != "If-None-Match"}
        for headers in (bare, {**bare, "If-None-Match": "nothing"}):
            assert ask("PUT", link.url, b"x" * 1000, headers)[0] in {400, 403}
        untouched(store)

    def test_is_for_no_other_method(self, signer: S3Signer, store: S3Store) -> None:
        link = signer.upload(MINE, 1000, 60)
        for method in ("GET", "DELETE"):
            assert ask(method, link.url, b"x" * 1000, dict(link.headers))[0] >= 400
        untouched(store)


def test_a_link_to_a_part_is_for_that_part(signer: S3Signer, store: S3Store) -> None:
    size = 5 << 20
    transfer = signer.begin(NEW)
    (link,) = signer.upload_parts(NEW, transfer, {1: size}, 60)
    other = signer.begin(NEW)
    for url in (
        altered(link, "partNumber=1", "partNumber=2"),
        altered(link, transfer, other),
        altered(link, "c" * 32, "b" * 32),
    ):
        assert ask("PUT", url, b"x" * size, dict(link.headers))[0] in {400, 403}
    assert signer.parts(NEW, transfer) == signer.parts(NEW, other) == ()
    for each in (transfer, other):
        signer.abort(NEW, each)
    untouched(store)

"""`UploadStore` by links: parts in parallel, each sent again as it was until it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from modelvault.adapters.objects_http.transport import Again, Expired, Transport, bad_link
from modelvault.artifact.grouping import Group, group
from modelvault.artifact.parallel import run_blocks
from modelvault.clock import Clock
from modelvault.crypto import derive
from modelvault.errors import Conflict, InvalidRequest, Unavailable, sealed
from modelvault.lease import Link
from modelvault.ports.objects import Track
from modelvault.upload import PutAsk, Putting

AskPut = Callable[[PutAsk], Putting]
PutDone = Callable[[PutAsk], None]

_BATCH = 64  # links asked for at once
_MARGIN = 5
_REFUSALS = 2


class HttpUploads:
    """Puts the objects of one upload. Threads may use it at once; each object is sent by
    `threads`, which bounds its memory to as many parts."""

    def __init__(
        self,
        upload: str,
        transport: Transport,
        ask: AskPut,
        done: PutDone,
        clock: Clock,
        threads: int,
    ) -> None:
        self._upload = upload
        self._transport = transport
        self._ask = ask
        self._done = done
        self._clock = clock
        self._threads = threads
        self._seeds: dict[str, str] = {}
        self._lock = threading.Lock()

    def name(self, seed: str) -> str:
        """See `UploadStore`."""
        name = derive.object_name(self._upload, seed)
        with self._lock:
            self._seeds[name] = seed
        return name

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        """See `ObjectWriter`. Raises NotFound (`no_upload`) and Unavailable as the broker does."""
        self.put_tracked(name, sizes, fill, _Untracked())

    def put_tracked(
        self,
        name: str,
        sizes: Sequence[int],
        fill: Callable[[int, memoryview], None],
        track: Track,
    ) -> None:
        """See `UploadStore`."""
        with self._lock:
            seed = self._seeds.get(name)
        if seed is None:
            raise InvalidRequest("bad_object_name", "not a name of this upload", "use `name`")
        groups = group(sizes)
        ask = PutAsk(seed=seed, sizes=tuple(each.size for each in groups), transfer=track.transfer)
        missing = self._missing(ask, groups, track)
        links = _PutLinks(self._ask, ask, name, self._clock, track.begun)
        own = threading.local()

        def send(at: int, _stop: int) -> None:
            number = missing[at]
            if not hasattr(own, "buffer"):
                own.buffer = memoryview(bytearray(max(each.size for each in groups)))
            part = own.buffer[: groups[number].size]
            groups[number].fill(sizes, fill, part)
            self._send(links, number + 1, part)
            track.sent(groups[number].start, groups[number].stop)

        run_blocks(send, len(missing), 1, self._threads)
        if len(groups) > 1:
            self._done(links.ask)

    def _missing(self, ask: PutAsk, groups: Sequence[Group], track: Track) -> list[int]:
        """The numbers, from 0, of the groups to send: all that the store or the track lacks."""
        if ask.transfer is None:
            return list(range(len(groups)))
        there = set(self._ask(ask).done)
        return [
            number
            for number, each in enumerate(groups)
            if number + 1 not in there
            or not all(track.has(piece) for piece in range(each.start, each.stop))
        ]

    def delete(self, name: str) -> None:
        """Nothing: a client has no right to delete. `gc` takes what a dead upload left."""

    @sealed
    def _send(self, links: _PutLinks, number: int, part: memoryview) -> None:
        """The same bytes, until they are there: encrypting a position twice with other bytes is
        what must never happen, and sending ciphertext twice is harmless."""
        failures = refusals = 0
        while True:
            link = links.get(number)
            try:
                status = self._transport.put(link, part)
            except Expired:
                links.drop()
                refusals += 1
                if refusals > _REFUSALS:
                    raise _refused() from None
            except (Again, LookupError, EOFError):
                failures += 1
                self._transport.patiently(failures)
            else:
                # Taken already: by an earlier try of ours whose answer was lost. The name is ours
                # alone, and the commit checks every leaf that it stands for.
                if status == 412 and not failures:
                    raise _taken(links.name)
                return


class _Untracked:
    """Remembers nothing."""

    transfer: str | None = None

    def has(self, piece: int) -> bool:  # noqa: ARG002  as Track
        return False

    def begun(self, transfer: str) -> None:
        pass

    def sent(self, start: int, stop: int) -> None:
        pass


class _PutLinks:
    """Links for the parts of one object, asked for in batches and renewed before they end."""

    def __init__(
        self,
        ask: AskPut,
        wanted: PutAsk,
        name: str,
        clock: Clock,
        begun: Callable[[str], None],
    ) -> None:
        self._begun = begun
        self._ask_broker = ask
        self.ask = wanted
        self.name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[int, Link] = {}
        self._until = 0

    def get(self, number: int) -> Link:
        with self._lock:
            if self._clock() >= self._until or number not in self._links:
                self._fetch(number)
            return self._links[number]

    def drop(self) -> None:
        with self._lock:
            self._until = 0

    def _fetch(self, number: int) -> None:
        last = len(self.ask.sizes)
        parts = tuple(range(number, min(number + _BATCH, last + 1))) if last > 1 else ()
        asked_at = self._clock()
        answer = self._ask_broker(msgspec.structs.replace(self.ask, parts=parts))
        links = {link.part or 1: link for link in answer.links}
        if answer.object != self.name or set(links) != set(parts or (1,)):
            raise bad_link()
        if any(link.object != self.name for link in answer.links):
            raise bad_link()
        if answer.transfer is not None and answer.transfer != self.ask.transfer:
            self._begun(answer.transfer)
            self.ask = msgspec.structs.replace(self.ask, transfer=answer.transfer)
        self._until = asked_at + answer.ttl_s * 1000 * (_MARGIN - 1) // _MARGIN
        self._links = links


def _taken(name: str) -> Conflict:
    return Conflict(
        "object_exists", f"there is an object {name} already", "push again, under fresh names"
    )


def _refused() -> Unavailable:
    return Unavailable(
        "store_unavailable",
        "the object store refuses the broker's links",
        "check the clocks of the broker and the store, and the broker's rights at the bucket",
    )

"""Links to read with, kept until shortly before they end."""

from __future__ import annotations

import threading
from collections.abc import Callable

from modelvault.adapters.objects_http.transport import bad_link
from modelvault.clock import Clock
from modelvault.lease import Link, Links

AskLinks = Callable[[tuple[str, ...]], Links]

# Renewed with this part of their time left, so that a request which begins now can end.
_MARGIN = 5


class ReadLinks:
    """Thread-safe. `ask` gets links for some objects; `clock` is a boot clock."""

    def __init__(self, ask: AskLinks, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, tuple[Link, int]] = {}

    def get(self, name: str) -> Link:
        """A link that is good for a while. Raises what the broker raises."""
        with self._lock:
            found = self._links.get(name)
            if found is not None and self._clock() < found[1]:
                return found[0]
            return self._renew(name)

    def drop(self, name: str, link: Link) -> None:
        """The store refused this link: the next `get` asks for another."""
        with self._lock:
            found = self._links.get(name)
            if found is not None and found[0] is link:
                del self._links[name]

    def _renew(self, name: str) -> Link:
        asked_at = self._clock()
        answer = self._ask((name,))
        if [link.object for link in answer.links] != [name]:
            raise bad_link()
        until = asked_at + answer.ttl_s * 1000 * (_MARGIN - 1) // _MARGIN
        self._links[name] = (answer.links[0], until)
        return answer.links[0]

"""Links to read with, kept until shortly before they end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from modelvault.adapters.objects_http.transport import bad_link
from modelvault.clock import Clock
from modelvault.lease import Link, Links

AskLinks = Callable[[tuple[str, ...]], Links]

# Renewed with this part of their time left, so that a request which begins now can end.
_MARGIN = 5
# Asked for in one call. More would be signed in vain where only one tensor is wanted.
_AT_ONCE = 16


class ReadLinks:
    """Thread-safe. `ask` gets links for some objects; `clock` is a boot clock.

    With the link that is wanted come those of the next `objects`, so that a model of a hundred
    files isn't two hundred calls to its broker, one after the other.
    """

    def __init__(self, ask: AskLinks, clock: Clock, objects: Sequence[str]) -> None:
        self._ask = ask
        self._clock = clock
        self._objects = objects
        self._places = {name: at for at, name in enumerate(objects)}
        self._lock = threading.Lock()
        self._links: dict[str, tuple[Link, int]] = {}

    def get(self, name: str) -> Link:
        """A link that is good for a while. Raises what the broker raises."""
        with self._lock:
            if not self._good(name):
                self._renew(name)
            return self._links[name][0]

    def drop(self, name: str, link: Link) -> None:
        """The store refused this link: the next `get` asks for another."""
        with self._lock:
            found = self._links.get(name)
            if found is not None and found[0] is link:
                del self._links[name]

    def _good(self, name: str) -> bool:
        found = self._links.get(name)
        return found is not None and self._clock() < found[1]

    def _renew(self, name: str) -> None:
        asked_at = self._clock()
        names = (name, *self._next(name))
        answer = self._ask(names)
        if tuple(link.object for link in answer.links) != names:
            raise bad_link()
        until = asked_at + answer.ttl_s * 1000 * (_MARGIN - 1) // _MARGIN
        self._links.update({link.object: (link, until) for link in answer.links})

    def _next(self, name: str) -> list[str]:
        at = self._places.get(name)
        if at is None:
            return []
        following = self._objects[at + 1 : at + _AT_ONCE]
        return [each for each in following if not self._good(each)]

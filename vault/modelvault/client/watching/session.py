"""The watching part of a Session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, get_args, overload

from modelvault.client.context import Context
from modelvault.client.ending import OnRevoked
from modelvault.client.looking import look
from modelvault.client.watching.follower import Follower, Swap, Watched
from modelvault.client.watching.live import Live
from modelvault.client.watching.telling import OnChange, OnError
from modelvault.errors import AccessDenied, InvalidRequest, NotFound
from modelvault.loader.memory import check_fits
from modelvault.loader.model import Model
from modelvault.reference import Reference

Prepared = TypeVar("Prepared")

_LONGEST_S = 366 * 86_400  # the system's waits have an end, too


class _Vault(Protocol):
    """What of a Session is used here."""

    _context: Context
    _lives: set[Live[Any]]

    def load(
        self,
        reference: str,
        *,
        purpose: str,
        files: Sequence[str] | None,
        ticket: str | None,
        on_revoked: OnRevoked | None,
    ) -> Model: ...


class Watching:
    """The part of a Session that follows tags; errors as there."""

    _lives: set[Live[Any]]  # a thread follows until it is told to stop, also where nobody else asks

    @overload
    def watch(
        self: _Vault, reference: str, *, purpose: str, files: Sequence[str] | None = None,
        ticket: str | None = None, swap: Swap = "beside", every_s: float = 15.0,
        prepare: None = None, on_change: OnChange | None = None, on_error: OnError | None = None,
    ) -> Live[None]: ...  # fmt: skip

    @overload
    def watch(
        self: _Vault, reference: str, *, purpose: str, files: Sequence[str] | None = None,
        ticket: str | None = None, swap: Swap = "beside", every_s: float = 15.0,
        prepare: Callable[[Model], Prepared], on_change: OnChange | None = None,
        on_error: OnError | None = None,
    ) -> Live[Prepared]: ...  # fmt: skip

    def watch(
        self: _Vault, reference: str, *, purpose: str, files: Sequence[str] | None = None,
        ticket: str | None = None, swap: Swap = "beside", every_s: float = 15.0,
        prepare: Callable[[Model], Any] | None = None, on_change: OnChange | None = None,
        on_error: OnError | None = None,
    ) -> Live[Any]:  # fmt: skip
        """Load what a tag means (or a bare name: the newest version), and follow it when it moves.

        A look is a `show`, each `every_s` seconds, give or take a tenth. What it means by then is
        loaded as by `load`, and prepared: `prepare(model)` makes what requests use, say a module
        or a session of a framework; without it all files are decrypted. Then requests that begin
        get the new version, those that run end with the old one, and that is wiped.

        `swap="beside"`: the old one serves all the while, and memory holds two versions, never
        three. `swap="in_place"`: requests wait while the old one's last ones end, its memory is
        wiped, and the new one is loaded; memory holds one.

        A version that can't be loaded leaves the old one serving: `on_error(error)` is told, and it
        is tried again, less and less often. No answer of the broker is no change; an older record
        than was seen is refused. `on_change(old, new)` gets exact references. Both are called from
        the watching thread, as `prepare` is after the first time.

        Raises as `load`, what `prepare` raises, InvalidRequest (`never_moves`: an exact version;
        `bad_interval`, `bad_swap`).
        """
        named = Reference.parse(reference)
        _check(named, swap, every_s)

        def load(on_revoked: OnRevoked) -> Model:
            return self.load(
                reference, purpose=purpose, files=files, ticket=ticket, on_revoked=on_revoked
            )

        watched: Watched[Any] = Watched(
            name=str(named),
            look=lambda: _version(self._context, reference),
            load=load,
            prepare=_decrypt if prepare is None else prepare,
            swap=swap,
            every_s=every_s,
            clock=self._context.clock,
            on_change=on_change,
            on_error=on_error,
        )
        follower = Follower(watched)
        live = Live(follower, self._lives.discard)
        try:
            follower.start()
        except BaseException:
            live.close()
            raise
        self._lives.add(live)
        return live

    def _close_lives(self) -> None:
        for live in list(self._lives):
            live.close()


def _check(reference: Reference, swap: str, every_s: float) -> None:
    if reference.version is not None or reference.digest is not None:
        raise InvalidRequest(
            "never_moves",
            f"{reference} is an exact version, which never changes",
            "watch a tag (name:prod), or a bare name for the newest version; or use load",
        )
    if swap not in get_args(Swap):
        raise InvalidRequest("bad_swap", f"no way to swap: {swap!r}", "beside, or in_place")
    if not 0 < every_s <= _LONGEST_S:
        raise InvalidRequest(
            "bad_interval",
            f"a look each {every_s} s",
            "give a time above 0 and of a year at most; look() looks at once",
        )


def _version(context: Context, reference: str) -> int:
    _, verified = look(context, reference)
    if verified is None:
        raise NotFound("no_version", f"{reference} has no version", "push one")
    return verified.manifest.version


def _decrypt(model: Model) -> None:
    """Bring all files into memory, so that no request waits for it."""
    check_fits(model.size)
    for path in model.files:
        try:
            model.read_bytes(path).release()
        except AccessDenied as refused:
            # Nobody can read it, before or after a swap: no reason to keep an older version.
            if refused.code != "pickle_refused":
                raise

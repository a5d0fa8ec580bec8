"""Many processes write one version: each has the keys of its own files alone, and one commits.

The process that opens it declares all files by path and size, and tells the others the ticket. Each
of them, of the same identity, gets the keys of its own paths, sealed to a key of its own, puts its
files and hands its `Sent` entries, in which there is no key, to the first one, which commits. While
one is missing there is no version; an upload that isn't committed is given up or expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

import msgspec

from modelvault.client.content import Content
from modelvault.client.context import Context
from modelvault.client.keys import OneTimeKey
from modelvault.client.opening import declare, join, open_keys
from modelvault.client.publishing import (
    Claims,
    Pushed,
    check_pushable,
    draft,
    give_up,
    inspection,
    verify,
)
from modelvault.client.saving_plan import tensors_of, weights_file, with_files
from modelvault.client.tag import tag_new
from modelvault.client.upload import Sent, Uploader
from modelvault.errors import Conflict, IntegrityError, InvalidRequest
from modelvault.manifest import check_paths
from modelvault.reference import Reference
from modelvault.upload import DeclaredFile, Upload


class Ticket(msgspec.Struct, frozen=True):
    """What a process needs to join: nothing secret, and of no use to another identity."""

    upload: str
    reference: str


class Part(msgspec.Struct, frozen=True):
    """What one process writes: its files, by path. Nothing of it is copied."""

    contents: tuple[Content, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """{path: bytes}, for whoever opens the version."""
        return {content.path: content.size for content in self.contents}


def part(path: str, state: Mapping[str, object], files: Mapping[str, bytes] | None = None) -> Part:
    """A safetensors file of these tensors, and maybe small files. Errors as `saving_plan.plan`."""
    tensors, tied = tensors_of(state)
    return Part(with_files({path: weights_file(path, tensors, tied)}, files or {}))


class Joint:
    """One process's end of a version that many write. Its methods are one thread's."""

    def __init__(
        self,
        context: Context,
        reference: Reference,
        upload: Upload,
        once: OneTimeKey,
        own: Sequence[str],
    ) -> None:
        self.ticket = Ticket(upload.id, str(reference))
        self._context = context
        self._reference = reference
        self._upload = upload
        self._once = once
        self._store = context.places.opened(upload.id, once.hash)
        self._keys = open_keys(context.vault, once, reference, upload, own)
        self._left = set(own)

    def write(self, part: Part, *, public_metadata: bool = False) -> tuple[Sent, ...]:
        """Encrypt and put files of this process, each once. What it gives goes to the process that
        commits; there is no key in it.

        Raises Conflict (`not_ours`) for a file that isn't this process's, or was written already,
        and what store and contents raise; nothing of `part` stays in the store then, and it can be
        written anew.
        """
        if not self._left.issuperset(part.sizes):
            raise Conflict(
                "not_ours",
                "this process has no keys of a file that it is to write, or has written it",
                "name each file once, among the own ones, when the version is opened or joined",
            )
        uploader = Uploader(
            self._upload,
            self._keys,
            self._store,
            public_metadata=public_metadata,
            progress=_nothing,
        )
        sent = uploader.send(part.contents)
        self._left -= set(part.sizes)
        return sent

    def close(self) -> None:
        """Wipe the keys: nothing more can be written. Idempotent."""
        self._left.clear()
        self._keys.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Leading(Joint):
    """The end of the process that opened the version, and that alone can end it. Left without a
    `commit`, it gives the version up."""

    def __init__(
        self,
        context: Context,
        reference: Reference,
        upload: Upload,
        once: OneTimeKey,
        own: Sequence[str],
        sizes: Mapping[str, int],
    ) -> None:
        super().__init__(context, reference, upload, once, own)
        self._sizes = dict(sizes)
        self._ended = False

    def commit(self, sent: Iterable[Sent], claims: Claims | None = None) -> Pushed:
        """Publish what all processes have written, and move the tag.

        Raises InvalidRequest (`not_as_declared`) where a file is missing or another came, and what
        broker and trust raise. The upload is given up then.
        """
        told = claims or Claims()
        done = sorted(sent, key=lambda each: each.file.path)
        self._check_open()
        context = self._context
        try:
            self._check_ours(done)
            _check_all(done, self._sizes)
            found = inspection({each.file.path: each.format for each in done}, self._sizes)
            drafted = draft(done, found, told)
            seen = context.pins.seen()
            caller = context.credentials.caller(self._once.hash)
            published = context.broker.commit(caller, self._upload.id, drafted)
        except BaseException:
            self.abandon(done)
            raise
        self._ended = True
        self.close()
        verified = verify(context, self._reference, published, self._upload, drafted, (), seen)
        if self._reference.tag is not None:
            tag_new(context, verified, self._reference.tag)
        return Pushed(
            tenant=self._reference.tenant,
            model=self._reference.model,
            version=verified.manifest.version,
            manifest=verified.digest,
            tag=self._reference.tag,
            found=found,
            unchanged=(),
            unchanged_size=0,
            published=published,
        )

    def abandon(self, sent: Sequence[Sent] = ()) -> None:
        """Give the version up: no commit of it succeeds from now on. Idempotent, and never fails:
        what the broker can't be told now, expires."""
        self.close()
        if not self._ended:
            self._ended = True
            # Others' word for what they have put: of it only what can be of no other upload goes.
            ours = [each for each in sent if self._is_ours(each)]
            give_up(self._context, self._store, self._upload.id, self._once.hash, ours)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def _is_ours(self, sent: Sent) -> bool:
        names = [self._store.name(seed) for seed in sent.seeds or ()]
        return names == [sent.file.object, sent.file.leaves]

    def _check_ours(self, done: Sequence[Sent]) -> None:
        for each in done:
            if not self._is_ours(each):
                raise InvalidRequest(
                    "not_as_declared",
                    f"what is told of {each.file.path} isn't of this save",
                    "commit what the write() calls of this very save gave, and nothing older",
                )

    def _check_open(self) -> None:
        if self._ended:
            raise Conflict("upload_closed", "this version was committed or given up", "open anew")


def lead(
    context: Context, reference: Reference, sizes: Mapping[str, int], own: Sequence[str]
) -> Leading:
    """Open a version of the files in `sizes` (bytes by path), of which `own` are this process's."""
    check_pushable(reference)
    _check_own(own)
    check_paths(sorted(sizes))
    declared = tuple(DeclaredFile(path, sizes[path]) for path in sorted(sizes))
    once = OneTimeKey()
    upload = declare(context, once, declared, reference, tuple(own))
    try:
        return Leading(context, reference, upload, once, own, sizes)
    except BaseException:
        store = context.places.opened(upload.id, once.hash)
        give_up(context, store, upload.id, once.hash, ())
        raise


def follow(context: Context, ticket: Ticket, own: Sequence[str]) -> Joint:
    """Join a version that another process of this identity has opened."""
    reference = Reference.parse(ticket.reference)
    _check_own(own)
    once = OneTimeKey()
    upload = join(context, once, ticket.upload, tuple(own))
    if (upload.id, upload.tenant, upload.model) != (
        ticket.upload, reference.tenant, reference.model,
    ):  # fmt: skip
        raise IntegrityError(
            "not_what_was_asked",
            "the broker answered with another upload than was asked for",
            "don't trust this broker",
        )
    return Joint(context, reference, upload, once, own)


def _check_own(own: Sequence[str]) -> None:
    if isinstance(own, str) or not own:
        raise InvalidRequest(
            "not_as_declared",
            "no file is named that this process is to write",
            "give a list of at least one path; a process that writes none need not join, and the "
            "one that opens the version can write a small file, as its config.json",
        )


def _check_all(done: Sequence[Sent], sizes: Mapping[str, int]) -> None:
    written = {each.file.path: each.file.size for each in done}
    differs = {path for path in {*sizes, *written} if written.get(path) != sizes.get(path)}
    twice = {one.file.path for one, next_ in pairwise(done) if one.file.path == next_.file.path}
    if differs or twice:
        raise InvalidRequest(
            "not_as_declared",
            "not all processes have written just what was declared, each file once: "
            + ", ".join(sorted(differs | twice)[:3]),
            "save again once all of them run",
        )


def _nothing(_count: int) -> None:
    """Progress that nobody watches."""

"""Saving out of memory: a state of tensors becomes a version, and no file with it in the clear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from modelvault.client import saving_ranks
from modelvault.client.content import Content
from modelvault.client.context import Context
from modelvault.client.progress import Progress
from modelvault.client.publishing import Claims, Pushed, check_claims, check_pushable
from modelvault.client.push import push
from modelvault.client.saving_background import Saving, Savings
from modelvault.client.saving_copy import Copy
from modelvault.client.saving_plan import plan
from modelvault.client.saving_pruned import NotPruned, check_keep, prune
from modelvault.client.saving_ranks import Joint, Leading, Part, Ticket
from modelvault.client.upload import Sent
from modelvault.manifest import Provenance
from modelvault.reference import Reference

State = Mapping[str, object]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stands: `name` is its exact reference, `size` its plaintext bytes.

    `pruned` are the numbers of the older versions that `keep` deleted, `not_pruned` those that
    couldn't be deleted, and why."""

    name: str
    version: int
    manifest: str
    tag: str | None
    size: int
    pruned: tuple[int, ...] = ()
    not_pruned: tuple[NotPruned, ...] = ()


class Saves:
    """The trainers' part of a Session; errors as there."""

    _context: Context
    _savings: Savings

    def save(
        self,
        state: State,
        reference: str,
        *,
        files: Mapping[str, bytes] | None = None,
        max_shard_size: int | None = None,
        keep: int | None = None,
        labels: Mapping[str, str] | None = None,
        provenance: Provenance | None = None,
        public_metadata: bool = False,
        progress: Progress | None = None,
    ) -> Saved:
        """Encrypt tensors out of memory into the model's next version, as safetensors.

        `state` is {name: torch tensor or numpy array}: of any type that safetensors has, on any
        device, contiguous or not. Without `max_shard_size` (bytes) it becomes `model.safetensors`,
        else shards with an index. A tensor under several names is stored once. `files` are small
        files beside it (`config.json`), by name. Nothing is copied: beside the tensors it needs a
        buffer of a segment for each thread. Nobody may write to them before it returns.

        `keep` deletes older checkpoints of the same series after this one stands: versions that the
        same identity made, whose only tags differ from this one's in nothing but the number at
        their ends. The newest `keep` stay. That a deletion is refused is told in the result.

        The rest is as in `push`, but that no file is looked at for being unchanged. Raises
        InvalidRequest (`nothing_to_save`, `not_a_tensor`, `bad_tensor_name`, `unsupported_dtype`,
        `unsupported_tensor`, `file_clash`, `bad_keep`, `bad_labels`, ...) before anything is
        asked for, and Conflict (`file_changed`) for a tensor that was written to meanwhile.
        """
        named = _target(reference, keep)
        contents = plan(state, files or {}, max_shard_size)
        claims = _claims(labels, provenance, public_metadata=public_metadata)
        return _put(self._context, contents, named, keep, claims, progress)

    def begin_save(
        self,
        state: State,
        reference: str,
        *,
        max_copy: int | None = None,
        files: Mapping[str, bytes] | None = None,
        max_shard_size: int | None = None,
        keep: int | None = None,
        labels: Mapping[str, str] | None = None,
        provenance: Provenance | None = None,
        public_metadata: bool = False,
        progress: Progress | None = None,
    ) -> Saving[Saved]:
        """As `save`, in the background: returns once the tensors are copied.

        The copy takes just the bytes of the tensors (and of their header), in memory that is kept
        out of core dumps and wiped when the save has ended. It is the only one: a session saves one
        state in the background at a time. Whatever the save fails with is raised by `wait()` of
        what this returns, or else by closing the session, which waits for it.

        Raises at once what is wrong with the arguments, Unavailable (`insufficient_memory`) for
        more than `max_copy` bytes or more than there is, and Conflict (`save_running`).
        """
        named = _target(reference, keep)
        contents = plan(state, files or {}, max_shard_size)
        claims = _claims(labels, provenance, public_metadata=public_metadata)
        context = self._context

        def start() -> Saving[Saved]:
            copy = Copy(contents, max_copy, context.threads)

            def work() -> Saved:
                with copy:
                    return _put(context, copy.contents, named, keep, claims, progress)

            try:
                return Saving(reference, work)
            except BaseException:
                copy.wipe()
                raise

        return self._savings.begin(start)

    # many processes, one version

    def part(self, path: str, state: State, *, files: Mapping[str, bytes] | None = None) -> Part:
        """What this process is to write into a version that many write: one safetensors file, and
        maybe small files. `sizes` of it is what `open_joint` must be told."""
        return saving_ranks.part(path, state, files)

    def open_joint(self, reference: str, sizes: Mapping[str, int], own: Sequence[str]) -> Leading:
        """Open a version that many processes write, of the files in `sizes` (bytes by path).

        This process gets the keys of its `own` paths and no others. The others `join_joint` by the
        `ticket`; what each `write()` gives, `commit()` must be told. Raises as `push`, and
        InvalidRequest (`not_as_declared`) for an own path that isn't among `sizes`.
        """
        return saving_ranks.lead(self._context, Reference.parse(reference), sizes, own)

    def join_joint(self, ticket: Ticket, own: Sequence[str]) -> Joint:
        """Join a version that another process of the same identity has opened.

        Raises NotFound (`no_upload`: also another identity's), Conflict (`upload_closed`,
        `too_many_ranks`), InvalidRequest (`not_as_declared`).
        """
        return saving_ranks.follow(self._context, ticket, own)

    def commit_joint(
        self,
        joint: Leading,
        sent: Iterable[Sent],
        *,
        keep: int | None = None,
        labels: Mapping[str, str] | None = None,
        provenance: Provenance | None = None,
    ) -> Saved:
        """Publish what all processes have written; `keep` as in `save`. A version that can't be
        committed is given up; what is wrong with the arguments is raised before that."""
        named = _target(joint.ticket.reference, keep)
        pushed = joint.commit(sent, _claims(labels, provenance, public_metadata=False))
        return _saved(self._context, pushed, named, keep)


def _target(reference: str, keep: int | None) -> Reference:
    named = Reference.parse(reference)
    check_pushable(named)
    check_keep(named, keep)
    return named


def _claims(
    labels: Mapping[str, str] | None, provenance: Provenance | None, *, public_metadata: bool
) -> Claims:
    claims = Claims(
        labels=dict(labels or {}),
        provenance=provenance or Provenance(),
        public_metadata=public_metadata,
    )
    check_claims(claims)
    return claims


def _put(
    context: Context,
    contents: tuple[Content, ...],
    named: Reference,
    keep: int | None,
    claims: Claims,
    progress: Progress | None,
) -> Saved:
    pushed = push(context, contents, named, claims=claims, upload_all=True, progress=progress)
    return _saved(context, pushed, named, keep)


def _saved(context: Context, pushed: Pushed, named: Reference, keep: int | None) -> Saved:
    """What stands, once what is superfluous is deleted."""
    saved = Saved(
        name=str(Reference(named.tenant, named.model, version=pushed.version)),
        version=pushed.version,
        manifest=pushed.manifest,
        tag=pushed.tag,
        size=pushed.found.size,
    )
    if keep is None:
        return saved
    pruned = prune(context, named, pushed.version, keep)
    return msgspec.structs.replace(saved, pruned=pruned.versions, not_pruned=pruned.failed)

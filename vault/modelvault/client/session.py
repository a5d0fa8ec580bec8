"""A vault as a job, a pusher or an admin sees it, embedded or behind a broker."""

from __future__ import annotations

import builtins
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelvault.access import Principal
from modelvault.client import export as exporting
from modelvault.client import push as pushing
from modelvault.client.administration import Administration
from modelvault.client.bases import Bases
from modelvault.client.between import Between
from modelvault.client.context import Context
from modelvault.client.copied import PURPOSE
from modelvault.client.holding import Holding
from modelvault.client.local import Local
from modelvault.client.looking import look
from modelvault.client.owning import Owning
from modelvault.client.progress import Progress
from modelvault.client.publishing import Claims, Inspection, Pushed
from modelvault.client.saving import Saves
from modelvault.client.saving_background import Savings
from modelvault.client.scan import scan
from modelvault.client.watching import Live, Watching
from modelvault.copies import Importing
from modelvault.errors import Conflict, ModelVaultError
from modelvault.lease import ModelDetail, ModelSummary
from modelvault.loader.model import Model
from modelvault.manifest import Manifest, Provenance
from modelvault.record import TrustFile
from modelvault.reference import DEFAULT_TENANT, Reference

_Names = Sequence[str]


class Session(Administration, Bases, Between, Holding, Owning, Saves, Watching):
    """A connection to one vault; `modelvault.connect()` makes it.

    Threads may use it at once. Every method may raise AuthenticationError, AccessDenied,
    NotFound (also for what the caller may not see), IntegrityError (an answer that the pinned
    trust doesn't confirm) and Unavailable. References are text:
    `[tenant/]name[:tag | @version | @sha256:...]`.
    """

    def __init__(
        self,
        context: Context,
        local: Local | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`local` is what only the owner of an embedded vault's home can do; `close` lets go of
        what the context holds."""
        super().__init__(context)
        self._local = local
        self._let_go = close
        self._models: weakref.WeakSet[Model] = weakref.WeakSet()
        self._savings = Savings()
        self._lives: set[Live[Any]] = set()
        self._closed = False

    # in and out

    def inspect(self, path: str | Path, *, follow_links: bool = False) -> Inspection:
        """What a push of `path` would take; nothing is sent.

        Raises InvalidRequest naming the file that can't be pushed, and what to do about it.
        """
        return pushing.inspect(scan(path, follow_links=follow_links))

    def push(
        self,
        path: str | Path,
        reference: str,
        *,
        labels: Mapping[str, str] | None = None,
        provenance: Provenance | None = None,
        public_metadata: bool = False,
        follow_links: bool = False,
        upload_all: bool = False,
        progress: Progress | None = None,
    ) -> Pushed:
        """Encrypt a file or a folder into the model's next version; tag it if `reference` has one.

        A file that is as it was in the newest version that the same identity pushed is not uploaded
        again, unless `upload_all`. Every byte is read once; twice where an earlier file has the
        same path and size and yet was another. `labels` and `provenance` are the pusher's word.
        With `public_metadata` names, dtypes and shapes of tensors can be read without a key.
        `follow_links` takes files that links outside the folder point to (Hugging Face caches).
        `progress(done, total)` gets plaintext bytes, from several threads, one call at a time; a
        file that is compared counts twice, once for that.

        Nothing is visible before the version stands whole. Raises InvalidRequest for what can't
        be pushed, Conflict (`file_changed`) when a file changes meanwhile, NotFound (`no_model`)
        before the model was made by `create`.
        """
        scanned = scan(path, follow_links=follow_links)
        return pushing.push(
            self._context,
            scanned.files,
            Reference.parse(reference),
            claims=Claims(
                labels=labels or {},
                provenance=provenance or Provenance(),
                public_metadata=public_metadata,
            ),
            skipped=scanned.skipped,
            upload_all=upload_all,
            progress=progress,
        )

    def export(
        self,
        reference: str,
        folder: str | Path,
        *,
        purpose: str = "export",
        files: _Names | None = None,
        ticket: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Write a version in the clear into a new folder: an action of its own for the policy.

        Files are private to the user. Raises AccessDenied (`memory_only`) where the policy keeps
        the model off disks, Conflict (`folder_exists`). `progress(done, total)` as in `push`.
        """
        return exporting.export(
            self._context,
            Reference.parse(reference),
            Path(folder),
            purpose=purpose,
            files=files,
            ticket=ticket,
            progress=progress,
        )

    def pull(
        self,
        reference: str,
        folder: str | Path,
        *,
        invited: Importing | None = None,
        purpose: str = PURPOSE,
        ticket: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Copy a version's ciphertext and signed documents into a new folder, all checked.

        With what another vault's `invite` gave, also the keys, sealed for that import alone: then
        it is an `export` to that vault, for `purpose`.
        """
        return exporting.pull(
            self._context,
            Reference.parse(reference),
            Path(folder),
            invited=invited,
            purpose=purpose,
            ticket=ticket,
            progress=progress,
        )

    # looking

    def list(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        filter: str = "",
        limit: int = 100,
        after: str = "",
    ) -> tuple[ModelSummary, ...]:
        """The models that the caller may show, by name; `filter` is a shell-style pattern."""
        return self._context.broker.list(
            self._caller(), tenant=tenant, filter=filter, limit=limit, after=after
        )

    def show(self, reference: str) -> ModelDetail:
        """A model with its versions and tags; the signed documents in it are verified."""
        return look(self._context, reference)[0]

    def whoami(self) -> Principal:
        """Who the token says is asking."""
        return self._context.broker.whoami(self._caller())

    @property
    def trust(self) -> TrustFile:
        """The pinned trust file."""
        return self._context.trust

    def close(self) -> None:
        """Close all models that are open or watched, wait for a save in the background, close the
        vault. Idempotent.

        Raises Conflict (`views_alive`), with everything still open, while a tensor of one is used;
        and once all is closed, what a save in the background failed with that nobody waited for.
        """
        if self._closed:
            return
        self._close_lives()
        for model in builtins.list(self._models):
            model.close()
        self._closed = True
        try:
            self._savings.finish()
        finally:
            self._context.credentials.close()
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ModelVaultError as failed:
            if error is None:
                raise
            # The error that is on its way tells more: it may hold the frames whose views are alive.
            if not (isinstance(failed, Conflict) and failed.code in ("views_alive", "in_use")):
                error.add_note(f"a save in the background failed, too: {failed}")

    def __repr__(self) -> str:
        return f"<Session of vault {self._context.vault}>"

"""The broker's calls as HTTP requests: one table, from which the server's routes, the OpenAPI
document and the client's requests are made."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from modelvault.access import Principal
from modelvault.copies import HandedOver, HandOverAsk, ImportAsk, ImportDraft, Importing
from modelvault.errors import NotFound
from modelvault.lease import (
    EntryPage,
    Explanation,
    Lease,
    LeaseAsk,
    LeaseSummary,
    Links,
    ModelDetail,
    ModelSummary,
    PolicyBundle,
    PolicyRevision,
    Renewal,
    Rotated,
    Swept,
)
from modelvault.manifest import MAX_BYTES
from modelvault.record import Entry, SignedVersion
from modelvault.upload import (
    CompareAsk,
    Compared,
    Draft,
    Published,
    PushAsk,
    PutAsk,
    Putting,
    ResumeAsk,
    Upload,
)
from modelvault.wire import bodies

API = "1"
HEADER = "Modelvault-Api"  # both sides name the interface that they speak

_ID = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)

SMALL = 64 << 10
MEDIUM = 4 << 20
LARGE = 2 * MAX_BYTES

Side = Literal["broker", "steward"]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call: `path` may hold `{id}`; `body` comes as JSON, or as a query where the method is
    GET; `limit` bounds the body in bytes. `again` says that a request whose answer was lost may
    simply be sent once more."""

    name: str
    side: Side
    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    summary: str
    body: Any = None
    answer: Any = None
    limit: int = SMALL
    again: bool = False


def _call(side: Side, name: str, request: str, summary: str, **more: Any) -> Call:  # noqa: ANN401
    method, path = request.split()
    return Call(name=name, side=side, method=method, path=f"/v1{path}", summary=summary, **more)  # type: ignore[arg-type]


_CALLS = (
    _call("broker", "open_version", "POST /uploads", "Begin a new version of a model.",
          body=PushAsk, answer=Upload, limit=MEDIUM),
    _call("broker", "compare", "POST /uploads/{id}/compare", "Which files are unchanged.",
          body=CompareAsk, answer=Compared, limit=2 * MEDIUM, again=True),
    _call("broker", "commit", "POST /uploads/{id}/commit", "Publish what was uploaded.",
          body=Draft, answer=Published, limit=LARGE, again=True),
    _call("broker", "abandon", "DELETE /uploads/{id}", "Give an upload up."),
    _call("broker", "resume", "POST /uploads/{id}/resume", "Go on with an open upload.",
          body=ResumeAsk, answer=Upload, again=True),
    _call("broker", "put_links", "POST /uploads/{id}/links", "Links to put one object.",
          body=PutAsk, answer=Putting, limit=MEDIUM),
    _call("broker", "put_done", "POST /uploads/{id}/objects", "Make an object of its parts.",
          body=PutAsk, limit=MEDIUM, again=True),
    _call("broker", "lease", "POST /leases", "Ask for the keys of a version's files.",
          body=LeaseAsk, answer=Lease, limit=MEDIUM, again=True),
    _call("broker", "renew", "POST /leases/{id}/renew", "Renew a lease.",
          body=bodies.RenewAsk, answer=Renewal, again=True),
    _call("broker", "release", "DELETE /leases/{id}", "Give a lease back.", again=True),
    _call("broker", "lease_links", "POST /leases/{id}/links", "Links to read granted objects.",
          body=bodies.ObjectsAsk, answer=Links, again=True),
    _call("broker", "list", "GET /models", "List models.",
          body=bodies.ListAsk, answer=tuple[ModelSummary, ...], again=True),
    _call("broker", "show", "GET /model", "Show a model, or one version of it.",
          body=bodies.Named, answer=ModelDetail, again=True),
    _call("broker", "pull", "POST /pulls", "The documents of a version, to copy its ciphertext.",
          body=bodies.Named, answer=SignedVersion, again=True),
    _call("broker", "pull_links", "POST /pulls/links", "Links to read a version's objects.",
          body=bodies.PullObjectsAsk, answer=Links, again=True),
    _call("broker", "open_import", "POST /imports", "Begin to take in a version of another vault.",
          body=ImportAsk, answer=Importing, limit=LARGE),
    _call("broker", "commit_import", "POST /imports/{id}/commit", "Publish what was taken in.",
          body=ImportDraft, answer=Published, limit=LARGE, again=True),
    _call("broker", "hand_over", "POST /handovers", "Hand a version's keys over to another vault.",
          body=HandOverAsk, answer=HandedOver, again=True),
    _call("broker", "whoami", "GET /whoami", "Whom the vault takes the caller for.",
          answer=Principal, again=True),
    _call("steward", "create", "POST /models", "Create a model.",
          body=bodies.CreateAsk, answer=ModelSummary),
    _call("steward", "classify", "PATCH /model", "Change a model's owner or classification.",
          body=bodies.ClassifyAsk, answer=ModelSummary, again=True),
    _call("steward", "tag", "POST /tags", "Make a tag mean a version.",
          body=bodies.TagAsk, answer=SignedVersion, again=True),
    _call("steward", "delete", "POST /deletions", "Hide a version or a model.",
          body=bodies.DeleteAsk, again=True),
    _call("steward", "rotate", "POST /rotations", "Rewrap a model's keys under a new KEK version.",
          body=bodies.Named, answer=Rotated),
    _call("steward", "revoke", "POST /revocations", "Revoke a principal, a lease or a version.",
          body=bodies.RevokeAsk, answer=bodies.Ended),
    _call("steward", "leases", "GET /leases", "List leases.",
          body=bodies.LeasesAsk, answer=tuple[LeaseSummary, ...], again=True),
    _call("steward", "explain", "POST /explanations", "What the policy says of a request.",
          body=bodies.ExplainAsk, answer=Explanation, again=True),
    _call("steward", "entries", "GET /entries", "Read the audit log.",
          body=bodies.EntriesAsk, answer=EntryPage, again=True),
    _call("steward", "last_entries", "GET /entries/last", "Read the end of the audit log.",
          body=bodies.LastEntriesAsk, answer=tuple[Entry, ...], again=True),
    _call("steward", "keep_policy", "POST /policies", "Sign a policy and keep it.",
          body=PolicyBundle, answer=bodies.Revision, limit=4 * MEDIUM, again=True),
    _call("steward", "policies", "GET /policies", "The policies that are kept.",
          answer=tuple[PolicyRevision, ...], again=True),
    _call("steward", "policy", "GET /policy", "A policy's contents.",
          body=bodies.PolicyAsk, answer=PolicyBundle, again=True),
    _call("steward", "publish_policy", "POST /policies/publish", "Make a policy count.",
          body=bodies.PublishAsk, again=True),
    _call("steward", "gc", "POST /gc", "Remove what was deleted, and what dead pushes left.",
          body=bodies.GcAsk, answer=Swept),
)  # fmt: skip

CALLS: dict[str, Call] = {call.name: call for call in _CALLS}


def check_id(call: Call, id: str) -> None:
    """Raises NotFound (`no_upload`, `no_lease`) for what can't be the id of anything: neither side
    puts it into a path or asks the ledger for it."""
    if "{id}" in call.path and not _ID.fullmatch(id):
        kind = "lease" if call.path.startswith("/v1/leases/") else "upload"
        raise NotFound(f"no_{kind}", f"there is no such {kind}", "use the id as it was given")

"""From a call's name to the method that answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from modelvault.access import Action, Caller, Principal
from modelvault.ports.broker import Broker, Steward
from modelvault.wire import bodies

# (side, caller, the id in the path or "", the body)
Answer = Callable[[Any, Caller, str, Any], Any]


def _revoke(to: Steward, who: Caller, body: bodies.RevokeAsk) -> bodies.Ended:
    ended = to.revoke(who, kind=body.kind, target=body.target, reason=body.reason, for_s=body.for_s)
    return bodies.Ended(ended=ended)


def _explain(to: Steward, who: Caller, body: bodies.ExplainAsk) -> Any:  # noqa: ANN401
    told = body.subject
    subject = None
    if told is not None:
        subject = Principal(**msgspec.structs.asdict(told))
    action = cast("Action", body.action)  # the broker looks whether it is one
    return to.explain(
        who,
        action=action,
        reference=body.reference,
        purpose=body.purpose,
        subject=subject,
        destination=body.destination,
    )


def _broker() -> Mapping[str, Callable[[Broker, Caller, str, Any], Any]]:
    return {
        "open_version": lambda to, who, _key, body: to.open_version(who, body),
        "compare": lambda to, who, key, body: to.compare(who, key, body),
        "commit": lambda to, who, key, body: to.commit(who, key, body),
        "abandon": lambda to, who, key, _body: to.abandon(who, key),
        "resume": lambda to, who, key, body: to.resume(who, key, body),
        "put_links": lambda to, who, key, body: to.put_links(who, key, body),
        "put_done": lambda to, who, key, body: to.put_done(who, key, body),
        "open_import": lambda to, who, _key, body: to.open_import(who, body),
        "commit_import": lambda to, who, key, body: to.commit_import(who, key, body),
        "hand_over": lambda to, who, _key, body: to.hand_over(who, body),
        "lease": lambda to, who, _key, body: to.lease(who, body),
        "renew": lambda to, who, key, body: to.renew(who, key, body.key_hash),
        "release": lambda to, who, key, _body: to.release(who, key),
        "lease_links": lambda to, who, key, body: to.lease_links(who, key, body.objects),
        "list": lambda to, who, _key, body: to.list(
            who, tenant=body.tenant, filter=body.filter, limit=body.limit, after=body.after
        ),
        "show": lambda to, who, _key, body: to.show(who, body.reference),
        "pull": lambda to, who, _key, body: to.pull(who, body.reference),
        "pull_links": lambda to, who, _key, body: to.pull_links(who, body.reference, body.objects),
        "whoami": lambda to, who, _key, _body: to.whoami(who),
    }


def _steward() -> Mapping[str, Callable[[Steward, Caller, str, Any], Any]]:
    return {
        "create": lambda to, who, _key, body: to.create(
            who, body.reference, owner=body.owner, classification=body.classification
        ),
        "classify": lambda to, who, _key, body: to.classify(
            who, body.reference, owner=body.owner, classification=body.classification
        ),
        "tag": lambda to, who, _key, body: to.tag(who, body.reference, body.tag),
        "delete": lambda to, who, _key, body: to.delete(who, body.reference, body.tags),
        "rotate": lambda to, who, _key, body: to.rotate(who, body.reference),
        "revoke": lambda to, who, _key, body: _revoke(to, who, body),
        "leases": lambda to, who, _key, body: to.leases(
            who, reference=body.reference, ended=body.ended, limit=body.limit
        ),
        "explain": lambda to, who, _key, body: _explain(to, who, body),
        "entries": lambda to, who, _key, body: to.entries(
            who, after=body.after, limit=body.limit, reference=body.reference
        ),
        "last_entries": lambda to, who, _key, body: to.last_entries(
            who, before=body.before, limit=body.limit, reference=body.reference
        ),
        "keep_policy": lambda to, who, _key, body: bodies.Revision(
            revision=to.keep_policy(who, body)
        ),
        "policies": lambda to, who, _key, _body: to.policies(who),
        "policy": lambda to, who, _key, body: to.policy(who, body.revision),
        "publish_policy": lambda to, who, _key, body: to.publish_policy(who, body.revision),
        "gc": lambda to, who, _key, body: to.gc(who, dry_run=body.dry_run),
    }


ANSWERS: Mapping[str, Answer] = {**_broker(), **_steward()}

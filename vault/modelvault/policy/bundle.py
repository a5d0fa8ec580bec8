"""A set of policies as a value: Rego modules, the admin's data, and the revision over both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from modelvault import canonical
from modelvault.errors import InvalidRequest, Unavailable

MAX_BYTES = 8 << 20


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine evaluates.

    `modules` maps a path within the bundle (`modelvault/authz/authz.rego`) to Rego text, tests
    left out; `data` is data.json's content, which rules see as `data.modelvault`.
    """

    modules: dict[str, str]
    data: dict[str, Any]

    @property
    def revision(self) -> str:
        """`sha256:` and 64 hex digits over the canonical JSON of modules and data."""
        content = canonical.dumps({"schema": 1, "modules": self.modules, "data": self.data})
        return "sha256:" + hashlib.sha256(content).hexdigest()

    @property
    def document(self) -> dict[str, Any]:
        """The base document: what `data` means to a rule."""
        return {"modelvault": self.data}

    def at(self, revision: str) -> Bundle:
        """The same bundle, if it is that revision; else Unavailable (`policy_unavailable`)."""
        if self.revision != revision:
            raise Unavailable(
                "policy_unavailable",
                f"the policies found are {self.revision[:19]}…, but {revision[:19]}… is in force",
                "publish the policies again with `modelvault policy publish`",
            )
        return self


def combine(shipped: Mapping[str, str], data: dict[str, Any], site: Mapping[str, str]) -> Bundle:
    """The shipped modules with an admin's data and site rules; site paths get `site/` in front."""
    modules = dict(shipped) | {f"site/{name}": text for name, text in site.items()}
    return Bundle(modules=modules, data=data)


def parse_data(text: bytes) -> dict[str, Any]:
    """data.json's content; InvalidRequest (`bad_policy`) when it isn't a strict JSON object."""
    try:
        value = canonical.loads(text, MAX_BYTES)
    except InvalidRequest as refused:
        raise _bad_data(refused.message) from None
    if not isinstance(value, dict):
        raise _bad_data("it isn't an object")
    return value


def _bad_data(why: str) -> InvalidRequest:
    return InvalidRequest(
        "bad_policy", f"policy data.json: {why}", "`modelvault policy check` names the line"
    )

"""Checks of edited policies, against the models that there are."""

from __future__ import annotations

import re

from modelvault import canonical
from modelvault.adapters import opa_tool, policy_regorus
from modelvault.adapters.policy_files import PolicyFolder
from modelvault.client.session import Session
from modelvault.errors import ModelVaultError
from modelvault.policy import bundle, cases
from modelvault.policy.check import check_data
from modelvault.policy.rego import Finding
from modelvault.reference import DEFAULT_TENANT, NAME

_PAGE = 1000


def check(folder: PolicyFolder, session: Session) -> list[Finding]:
    """Findings about data.json and about the Rego over it, in that order.

    Patterns are held against the models that the caller may list. Raises InvalidRequest
    (`bad_policy_folder`), and as `Session.list`.
    """
    text = folder.data_text(errors="surrogateescape")
    findings = check_data(text, _models(session, _tenants(text)))
    if any(one.code == "bad_json" for one in findings):
        return findings  # there is nothing to evaluate over
    findings += policy_regorus.check(folder.working(), cases.shipped()[0].input)
    return findings + _second_opinion(folder)


def _second_opinion(folder: PolicyFolder) -> list[Finding]:
    """What `opa` finds, where it is installed; the site's rules must be covered by tests."""
    opa = opa_tool.locate()
    if opa is None:
        return []
    sources = folder.sources()
    rules = [path for path in sources if not path.endswith("_test.rego")]
    return opa_tool.OpaTool(opa).review(sources, [one for one in rules if one.startswith("site/")])


def _tenants(text: str) -> list[str]:
    """The default one, and those that data.json names without a wildcard."""
    try:
        data = canonical.loads(text.encode("utf-8", "surrogateescape"), bundle.MAX_BYTES)
        named = {str(one) for grant in data["grants"] for one in grant["tenants"]}
    except (ModelVaultError, LookupError, TypeError):  # check_data will say what is wrong
        named = set()
    return sorted({DEFAULT_TENANT, *(one for one in named if re.fullmatch(NAME, one))})


def _models(session: Session, tenants: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for tenant in tenants:
        after = ""
        while page := session.list(tenant=tenant, limit=_PAGE, after=after):
            found += [(row.tenant, row.model) for row in page]
            after = page[-1].model
    return found

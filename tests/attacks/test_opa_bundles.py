"""Somebody between OPA and the brokers, or in OPA's place of the bundles: other policies than the
one in force. Against a real OPA server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.errors import AccessDenied, ModelVaultError, Unavailable
from modelvault.policy import archive, shipped
from modelvault.policy.bundle import Bundle
from support.servers.opa import EcSigner, Served
from support.serving import until
from support.vaults import Vault, opened, opening_entry

STRICT = shipped.bundle()
EVE = {"role": "admin", "subjects": ["local:eve"], "tenants": ["*"], "models": ["*"]}
OPEN = Bundle(modules=STRICT.modules, data={**STRICT.data, "grants": [*STRICT.data["grants"], EVE]})
FILES = {"a.bin": b"weights"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("opa"))
    yield made
    made.close()


@pytest.fixture
def vault(served: Served, tmp_path: Path) -> Iterator[Vault]:
    """A vault in which OPA decides, and the strict policy is in force. OPA has just loaded the
    open one, which was in force before."""
    with opened(tmp_path) as made:
        made.create("m")
        made.push("m", FILES)
        for bundle in (STRICT, OPEN):
            made.engines[bundle.revision] = served.Engine(
                served.address, bundle.revision, settle_s=0.5
            )
        served.bundles.put(archive.pack(OPEN, served.signer.sign))
        enforce(made, OPEN)
        until(lambda: outcome(made) == "granted")
        enforce(made, STRICT)
        yield made


def enforce(vault: Vault, bundle: Bundle) -> None:
    vault.ledger.set_policy_revision(bundle.revision, opening_entry(vault.clock()))


def outcome(vault: Vault, sub: str = "eve") -> str:
    """What asking for a lease comes to."""
    try:
        vault.lease("m", caller=vault.caller(sub, groups=("inference",) if sub != "eve" else ()))
    except ModelVaultError as refused:
        return refused.code
    return "granted"


def test_an_older_policy_that_was_signed_decides_nothing(vault: Vault) -> None:
    """Signed by the vault, and no longer in force: neither a yes nor a no to anybody."""
    before = vault.keys.count("unwrap")
    assert outcome(vault) == "policy_unavailable"
    assert outcome(vault, "job") == "policy_unavailable"
    assert vault.keys.count("unwrap") == before


@pytest.mark.parametrize(
    "forged",
    [
        archive.pack(OPEN, EcSigner().sign),
        archive.pack(OPEN, None),
        b"not an archive at all",
    ],
    ids=["signed by another key", "not signed", "no archive"],
)
def test_what_the_vault_didnt_sign_is_never_loaded(
    vault: Vault, served: Served, forged: bytes
) -> None:
    served.bundles.put(archive.pack(STRICT, served.signer.sign))
    until(lambda: outcome(vault, "job") == "granted")
    asked = len(served.bundles.requests)
    served.bundles.put(forged)
    until(lambda: len(served.bundles.requests) > asked + 1, 20)  # OPA has seen it, and asks anew
    assert outcome(vault) == "no_model"
    assert outcome(vault, "job") == "granted"


def test_a_forged_one_in_a_true_ones_name(vault: Vault, served: Served) -> None:
    """The revision that OPA tells is the archive's own word: it must be signed, too."""

    class Named(Bundle):
        @property
        def revision(self) -> str:
            return STRICT.revision

    named = Named(modules=OPEN.modules, data=OPEN.data)
    asked = len(served.bundles.requests)
    served.bundles.put(archive.pack(named, EcSigner().sign))
    until(lambda: len(served.bundles.requests) > asked + 1, 20)
    assert outcome(vault) == "policy_unavailable"


def test_refusals_are_of_the_right_kind(vault: Vault, served: Served) -> None:
    with pytest.raises(Unavailable):
        vault.lease("m", caller=vault.caller("job", groups=("inference",)))
    served.bundles.put(archive.pack(STRICT, served.signer.sign))
    until(lambda: outcome(vault, "job") == "granted")
    with pytest.raises(AccessDenied):
        vault.lease("m", caller=vault.caller("job", groups=("inference",)), purpose="debug")

"""Keys on their way from one vault to another: who tries to get them without being a vault.

A DEK opens a version for good. So whoever carries a copy must not be able to have one sealed to a
key of their own, to use what was sealed for anything else, or to bring in what no vault signed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from modelvault import binding
from modelvault.clock import to_text
from modelvault.copies import (
    INVITATION_TYPE,
    HandOverAsk,
    ImportDraft,
    Importing,
    Invitation,
)
from modelvault.crypto import derive, dsse, hpke
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, Conflict, IntegrityError, ModelVaultError, NotFound
from modelvault.lease import LeaseAsk, Recipient
from modelvault.manifest import PAYLOAD_TYPE, CopiedFrom
from modelvault.record import SignedVersion
from support.copying import (
    FILES,
    befriend,
    begin,
    carry,
    documents,
    hand_over,
    manifest_of,
    pair,
    put_objects,
)
from support.honest import Keys
from support.vaults import FULFILS, Vault, deny


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Vault, Vault]]:
    with pair(tmp_path) as made:
        yield made


@dataclass
class Scene:
    giver: Vault
    receiver: Vault
    importing: Importing
    key: hpke.RecipientKey  # the attacker's

    @property
    def invitation(self) -> Invitation:
        return Invitation.from_bytes(self.importing.invitation.payload)

    def forged(self, **changes: object) -> Invitation:
        mine = Recipient(self.key.suite, self.key.public)
        return msgspec.structs.replace(self.invitation, **({"recipient": mine} | changes))

    def signed(
        self, invitation: Invitation, sign: Callable[[bytes], Signature], kind: str = ""
    ) -> Envelope:
        return dsse.sign(kind or INVITATION_TYPE, invitation.to_bytes(), sign)


@pytest.fixture
def scene(both: tuple[Vault, Vault]) -> Scene:
    giver, receiver = both
    importing = begin(receiver, "n", documents(giver, "m@1"))
    return Scene(giver, receiver, importing, hpke.generate())


def own_key(scene: Scene) -> Envelope:
    """The attacker's key under the real signature."""
    payload = scene.forged().to_bytes()
    return msgspec.structs.replace(scene.importing.invitation, payload=payload)


def self_signed(scene: Scene) -> Envelope:
    keys = Keys("ab" * 16)
    return keys.sign("manifest", INVITATION_TYPE, scene.forged().to_bytes())


def self_signed_under_the_real_key_id(scene: Scene) -> Envelope:
    keys = Keys("ab" * 16)
    made = keys.sign("manifest", INVITATION_TYPE, scene.forged().to_bytes())
    real = scene.importing.invitation.signatures[0].keyid
    (signature,) = made.signatures
    return msgspec.structs.replace(
        made, signatures=(msgspec.structs.replace(signature, keyid=real),)
    )


def a_vault_of_ones_own(scene: Scene) -> Envelope:
    """Properly signed, by a vault that nobody has pinned."""
    keys = Keys(secrets.token_hex(16))
    return keys.sign("manifest", INVITATION_TYPE, scene.forged(vault=keys.vault).to_bytes())


def the_givers_own_key(scene: Scene) -> Envelope:
    """An invitation of the giver itself, for its own import, under the receiver's name."""
    sign = partial(scene.giver.keyring.sign, "manifest")
    return scene.signed(scene.forged(), sign)


def key_of_another_purpose(scene: Scene) -> Envelope:
    """The receiver's record key signs what its steward says, not what brokers invite to."""
    return scene.signed(scene.forged(), partial(scene.receiver.keyring.sign, "record"))


def signed_as_a_manifest(scene: Scene) -> Envelope:
    sign = partial(scene.receiver.keyring.sign, "manifest")
    made = scene.signed(scene.forged(), sign, PAYLOAD_TYPE)
    return msgspec.structs.replace(made, payload_type=INVITATION_TYPE)


FORGERIES = [
    (own_key, IntegrityError, "bad_signature"),
    (self_signed, IntegrityError, "unknown_key"),
    (self_signed_under_the_real_key_id, IntegrityError, "bad_signature"),
    (a_vault_of_ones_own, AccessDenied, "untrusted_vault"),
    (the_givers_own_key, IntegrityError, "unknown_key"),
    (key_of_another_purpose, IntegrityError, "unknown_key"),
    (signed_as_a_manifest, IntegrityError, "bad_signature"),
]


@pytest.mark.parametrize(
    ("forge", "family", "code"), FORGERIES, ids=lambda value: getattr(value, "__name__", value)
)
def test_keys_for_a_key_of_ones_own(
    scene: Scene,
    forge: Callable[[Scene], Envelope],
    family: type[ModelVaultError],
    code: str,
) -> None:
    """Nothing is unwrapped, the policy isn't even asked for it, and the log tells of the try."""
    giver = scene.giver
    before = giver.keys.count("unwrap")
    ask = HandOverAsk(reference="m@1", purpose="copy", invitation=forge(scene))
    with pytest.raises(family) as caught:
        giver.broker.hand_over(giver.caller(), ask)
    assert caught.value.code == code
    assert giver.keys.count("unwrap") == before
    assert not [each for each in giver.policy.asked if each["action"]["name"] == "export"]
    (tried,) = [e for e in giver.entries("export") if e.outcome == "denied"]
    assert (tried.actor, tried.reasons) == ("local:alice", (code,))


def test_an_invitation_tells_nothing_of_models(scene: Scene) -> None:
    """A bad one is refused in the same words whether or not there is such a model."""
    giver = scene.giver
    told = []
    for reference in ("m@1", "nosuch@1"):
        ask = HandOverAsk(reference=reference, purpose="copy", invitation=self_signed(scene))
        with pytest.raises(IntegrityError) as caught:
            giver.broker.hand_over(giver.caller("eve"), ask)
        told.append((caught.value.code, caught.value.message))
    assert told[0] == told[1]
    giver.policy.rule = lambda _: deny("no")
    with pytest.raises(NotFound):
        hand_over(giver, "m@1", scene.importing, sub="eve")


def test_a_signing_key_that_was_retired(both: tuple[Vault, Vault]) -> None:
    """It signed the past, and may have been lost since: it invites nobody any more."""
    giver, receiver = both
    importing = begin(receiver, "n", documents(giver, "m@1"))
    retired = [
        msgspec.structs.replace(key, retired=to_text(giver.clock()))
        if key.purpose == "manifest"
        else key
        for key in receiver.trust.keys
    ]
    trust = msgspec.structs.replace(receiver.trust, keys=tuple(retired), serial=2)
    giver.broker = giver.another_broker(trusted={receiver.id: trust})
    with pytest.raises(IntegrityError) as caught:
        hand_over(giver, "m@1", importing)
    assert caught.value.code == "unknown_key"


def test_an_invitation_that_is_over(scene: Scene) -> None:
    scene.giver.clock.advance(25 * 3600)
    with pytest.raises(Conflict) as caught:
        hand_over(scene.giver, "m@1", scene.importing)
    assert caught.value.code == "invitation_expired"


def test_one_invitation_for_two_versions(scene: Scene) -> None:
    """The keys of one version were allowed; those of the next are another question."""
    giver = scene.giver
    giver.push("m", {"secret": b"s"})
    hand_over(giver, "m@1", scene.importing)
    with pytest.raises(Conflict) as caught:
        hand_over(giver, "m@2", scene.importing)
    assert caught.value.code == "ask_reused"


def test_what_was_sealed_opens_for_nobody_but_that_import(scene: Scene) -> None:
    giver = scene.giver
    handed = hand_over(giver, "m@1", scene.importing)
    source = manifest_of(documents(giver, "m@1"))
    origin = CopiedFrom(giver.id, "default", "m", 1, handed.manifest)
    info = binding.copy_info(origin, scene.invitation, [source.artifact])
    with pytest.raises(IntegrityError) as caught:
        scene.key.open(handed.sealed, info)
    assert caught.value.code == "not_for_us"


def _draft(scene: Scene, reference: str, sealed: bytes) -> ImportDraft:
    source = documents(scene.giver, reference)
    files = put_objects(scene.giver, scene.receiver, manifest_of(source))
    return ImportDraft(source=source, sealed=sealed, files=files)


def test_keys_of_another_import_or_version(scene: Scene) -> None:
    """Sealed for one import, they open in none beside it, and with no other version's documents."""
    giver, receiver = scene.giver, scene.receiver
    giver.push("m", FILES)
    handed = hand_over(giver, "m@1", scene.importing)
    other = begin(receiver, "n", None)
    tries = [
        (other.id, _draft(scene, "m@1", handed.sealed)),
        (scene.importing.id, _draft(scene, "m@2", handed.sealed)),
        (scene.importing.id, _draft(scene, "m@1", handed.sealed[:-1] + b"x")),
    ]
    for upload, draft in tries:
        with pytest.raises(IntegrityError) as caught:
            receiver.broker.commit_import(receiver.caller(), upload, draft)
        assert caught.value.code == "not_for_us"
    assert receiver.broker.show(receiver.caller(), "n").versions == ()
    good = _draft(scene, "m@1", handed.sealed)
    receiver.broker.commit_import(receiver.caller(), scene.importing.id, good)
    assert receiver.load("n") == FILES


def test_keys_that_the_carrier_sealed(scene: Scene) -> None:
    """The invitation is public: anybody can seal to it. What opens nothing is found out by nobody's
    word but the ciphertext's, so such a version gives its loader an error and no bytes."""
    giver, receiver = scene.giver, scene.receiver
    source = manifest_of(documents(giver, "m@1"))
    digest = giver.ledger.version("default", "m", 1).digest
    origin = CopiedFrom(giver.id, "default", "m", 1, digest)
    info = binding.copy_info(origin, scene.invitation, [source.artifact])
    with Secret.random(32) as mine:
        recipient = scene.invitation.recipient
        sealed = hpke.seal(mine, recipient.suite, recipient.public_key, info)
    draft = _draft(scene, "m@1", sealed)
    receiver.broker.commit_import(receiver.caller(), scene.importing.id, draft)
    with pytest.raises(IntegrityError):
        receiver.load("n@1")


def test_somebody_elses_import(scene: Scene) -> None:
    handed = hand_over(scene.giver, "m@1", scene.importing)
    draft = _draft(scene, "m@1", handed.sealed)
    receiver = scene.receiver
    with pytest.raises(NotFound) as caught:
        receiver.broker.commit_import(receiver.caller("eve"), scene.importing.id, draft)
    assert caught.value.code == "no_upload"


def test_file_keys_for_the_invitations_key(scene: Scene) -> None:
    """A lease that names the receiver's key is of another kind: neither passes for the other."""
    giver, receiver = scene.giver, scene.receiver
    invitation = scene.invitation
    ask = LeaseAsk(
        reference="m@1", purpose="inference", nonce=invitation.nonce,
        recipient=invitation.recipient, fulfils=FULFILS,
    )  # fmt: skip
    lease = giver.broker.lease(giver.caller(), ask)
    draft = _draft(scene, "m@1", lease.sealed)
    with pytest.raises(IntegrityError) as caught:
        receiver.broker.commit_import(receiver.caller(), scene.importing.id, draft)
    assert caught.value.code == "not_for_us"
    with pytest.raises(Conflict) as conflict:  # and the lease's ask isn't the hand-over's
        hand_over(giver, "m@1", scene.importing)
    assert conflict.value.code == "ask_reused"


def unsigned(giver: Vault) -> SignedVersion:
    """A manifest of the giver's name, signed by a key of the attacker's."""
    source = documents(giver, "m@1")
    keys = Keys(giver.id)
    return SignedVersion(
        model=source.model, manifest=keys.sign("manifest", PAYLOAD_TYPE, source.manifest.payload)
    )


def of_a_vault_of_ones_own(giver: Vault) -> SignedVersion:
    source = documents(giver, "m@1")
    keys = Keys(secrets.token_hex(16))
    made = msgspec.structs.replace(manifest_of(source), vault=keys.vault)
    return SignedVersion(
        model=source.model, manifest=keys.sign("manifest", PAYLOAD_TYPE, made.to_bytes())
    )


def altered(giver: Vault) -> SignedVersion:
    source = documents(giver, "m@1")
    made = msgspec.structs.replace(manifest_of(source), labels={"audited": "yes"})
    changed = msgspec.structs.replace(source.manifest, payload=made.to_bytes())
    return SignedVersion(model=source.model, manifest=changed)


def another_models_record(giver: Vault) -> SignedVersion:
    """The classification that is told must be the version's own model's."""
    giver.create("harmless", classification="public")
    giver.push("harmless", FILES)
    return SignedVersion(
        model=documents(giver, "harmless@1").model, manifest=documents(giver, "m@1").manifest
    )


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (unsigned, "unknown_key"),
        (of_a_vault_of_ones_own, "untrusted_vault"),
        (altered, "bad_signature"),
        (another_models_record, "wrong_model"),
    ],
)
def test_versions_that_no_trusted_vault_signed(
    both: tuple[Vault, Vault], forge: Callable[[Vault], SignedVersion], code: str
) -> None:
    giver, receiver = both
    with pytest.raises(ModelVaultError) as caught:
        begin(receiver, "n", forge(giver))
    assert caught.value.code == code
    (tried,) = [e for e in receiver.entries("push") if e.outcome == "denied"]
    assert tried.reasons == (code,)


def lying_about(both: tuple[Vault, Vault], artifact: str) -> ModelVaultError:
    """What the receiver says to a trusted vault whose manifest names that artifact for its files,
    and which hands a key of its own over for it."""
    giver, receiver = both
    source = documents(giver, "m@1")
    lying = msgspec.structs.replace(
        manifest_of(source),
        artifact=secrets.token_hex(16),
        files=tuple(
            msgspec.structs.replace(file, artifact=artifact) for file in manifest_of(source).files
        ),
    )
    sign = partial(giver.keyring.sign, "manifest")
    forged = SignedVersion(
        model=source.model, manifest=dsse.sign(PAYLOAD_TYPE, lying.to_bytes(), sign)
    )
    importing = begin(receiver, "n", forged)
    invitation = Invitation.from_bytes(importing.invitation.payload)
    origin = CopiedFrom(giver.id, "default", "m", 1, forged.manifest.digest)
    with Secret.random(32) as dek:
        sealed = hpke.seal(
            dek, invitation.recipient.suite, invitation.recipient.public_key,
            binding.copy_info(origin, invitation, [artifact]),
        )  # fmt: skip
    files = put_objects(giver, receiver, manifest_of(source))
    with pytest.raises(ModelVaultError) as caught:
        receiver.broker.commit_import(
            receiver.caller(), importing.id, ImportDraft(source=forged, sealed=sealed, files=files)
        )
    return caught.value


def test_an_artifact_that_isnt_the_givers(both: tuple[Vault, Vault]) -> None:
    """Were it believed, whoever may load the copy would get the file keys of another version."""
    giver, receiver = both
    carry(giver, "m@1", receiver, "n")  # an artifact that both hold: fine as long as the keys agree
    receiver.push("n", {"a.bin": b"secret" * 100})
    stolen = manifest_of(documents(receiver, "n@2")).artifact
    assert lying_about(both, stolen).code == "other_key"
    assert [v.version for v in receiver.broker.show(receiver.caller(), "n").versions] == [2, 1]


def test_the_place_of_a_content_key(both: tuple[Vault, Vault]) -> None:
    """Before the first push, and after it: no copy brings the key that pushes are compared with."""
    receiver = both[1]
    place = derive.content_artifact(receiver.id, "default", "n")
    assert lying_about(both, place).code == "other_key"
    receiver.push("n", {"a.bin": b"a"})
    before = receiver.ledger.key(place)
    assert lying_about(both, place).code == "other_key"
    assert receiver.ledger.key(place) == before


def test_trust_goes_one_way(tmp_path: Path) -> None:
    """That a vault gives to another doesn't let the other bring versions in, nor the reverse."""
    with pair(tmp_path) as (giver, receiver):
        giver.broker = giver.another_broker(trusted={})
        with pytest.raises(AccessDenied) as caught:
            hand_over(giver, "m@1", begin(receiver, "n", documents(giver, "m@1")))
        assert caught.value.code == "untrusted_vault"
        befriend(giver, receiver)
        receiver.broker = receiver.another_broker(trusted={})
        with pytest.raises(AccessDenied) as caught:
            begin(receiver, "n", documents(giver, "m@1"))
        assert caught.value.code == "untrusted_vault"


def test_a_trusted_vault_under_another_vaults_name(both: tuple[Vault, Vault]) -> None:
    """Each document is believed by the keys of the very vault that it names."""
    giver, receiver = both
    third_id = secrets.token_hex(16)
    third = Keys(third_id)
    giver.broker = giver.another_broker(
        trusted={receiver.id: receiver.trust, third_id: third.trust()}
    )
    importing = begin(receiver, "n", documents(giver, "m@1"))
    invitation = Invitation.from_bytes(importing.invitation.payload)
    forged = third.sign("manifest", INVITATION_TYPE, invitation.to_bytes())
    ask = HandOverAsk(reference="m@1", purpose="copy", invitation=forged)
    with pytest.raises(IntegrityError) as caught:
        giver.broker.hand_over(giver.caller(), ask)
    assert caught.value.code == "unknown_key"

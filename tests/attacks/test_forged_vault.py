"""An attacker who owns the whole disk and once was an allowed job, but has no root key.

They hold a file key, so they can make objects that decrypt; what they can't make is a signature
that counts, wherever they write.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelvault import connect, wiring
from modelvault.crypto.dsse import Envelope
from modelvault.errors import IntegrityError
from modelvault.manifest import PAYLOAD_TYPE, Manifest
from modelvault.record import TrustFile
from support.attacked import Forger, change, folder, forge_file
from support.homes import isolated

GOOD, EVIL = b"weights" * 1000, b"other weights" * 1000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=4096)
    return place


@pytest.fixture
def stolen(home: Path, tmp_path: Path) -> tuple[Manifest, bytes]:
    """The manifest of `m@1` and the key of its file, as the job held them in its memory."""
    with connect() as vault:
        vault.create("m")
        vault.push(folder(tmp_path / "m", {"a.dat": GOOD}), "m")
        with vault.load("m", purpose="inference") as model:
            reader = model._residents["a.dat"]._open_reader(model.manifest.files[0])
            return model.manifest, bytes(reader._key.reveal())


def forged(home: Path, stolen: tuple[Manifest, bytes]) -> Manifest:
    manifest, key = stolen
    file = forge_file(home, manifest.files[0], key, EVIL, manifest.digest_alg)
    return msgspec.structs.replace(manifest, files=(file,))


def put(home: Path, envelope: Envelope) -> None:
    change(home, "update versions set manifest = ?, digest = ?, size = ?",
           envelope.to_bytes(), envelope.digest, len(EVIL))  # fmt: skip
    change(home, "update models set head_manifest = ?", envelope.digest)


def refused(code: str) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught, connect() as vault:
        vault.load("m", purpose="inference").read_bytes("a.dat")
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def test_a_signature_by_a_key_of_their_own(home: Path, stolen: tuple[Manifest, bytes]) -> None:
    put(home, Forger().sign(PAYLOAD_TYPE, forged(home, stolen)))
    (home / "pins.json").unlink()
    refused("unknown_key")


def test_their_key_in_the_trust_file(home: Path, stolen: tuple[Manifest, bytes]) -> None:
    """All that lies in the home agrees; but the keyring under the root key never had that key."""
    forger = Forger()
    put(home, forger.sign(PAYLOAD_TYPE, forged(home, stolen)))
    trust = TrustFile.from_bytes((home / "trust.json").read_bytes())
    (home / "trust.json").write_bytes(forger.into(trust, "manifest").to_bytes())
    (home / "pins.json").unlink()
    assert str(home / "trust.json") in refused("trust_altered").message


def test_the_old_signature_on_it(home: Path, stolen: tuple[Manifest, bytes]) -> None:
    with connect() as vault:
        signed = vault.show("m@1").signed
    assert signed is not None
    payload = forged(home, stolen).to_bytes()
    put(home, msgspec.structs.replace(signed.manifest, payload=payload))
    refused("bad_signature")


def one_key_for_two(trust: TrustFile) -> TrustFile:
    """The record key, once more, as a manifest key: one of our own, but of another purpose."""
    (record,) = [key for key in trust.keys if key.purpose == "record"]
    others = [key for key in trust.keys if key.purpose not in ("record", "manifest")]
    as_manifest = msgspec.structs.replace(record, purpose="manifest")
    return msgspec.structs.replace(trust, keys=(*others, as_manifest))


def exchanged(trust: TrustFile) -> TrustFile:
    names = {"manifest": "record", "record": "manifest"}
    keys = [
        msgspec.structs.replace(key, purpose=names.get(key.purpose, key.purpose))
        for key in trust.keys
    ]
    return msgspec.structs.replace(trust, keys=tuple(keys))


@pytest.mark.parametrize("alter", [one_key_for_two, exchanged])
def test_keys_of_ours_for_another_purpose(
    home: Path, stolen: tuple[Manifest, bytes], alter: Callable[[TrustFile], TrustFile]
) -> None:
    trust = TrustFile.from_bytes((home / "trust.json").read_bytes())
    (home / "trust.json").write_bytes(alter(trust).to_bytes())
    refused("trust_altered")


def test_a_trust_file_without_keys_trusts_nothing(
    home: Path, stolen: tuple[Manifest, bytes]
) -> None:
    trust = TrustFile.from_bytes((home / "trust.json").read_bytes())
    (home / "trust.json").write_bytes(msgspec.structs.replace(trust, keys=()).to_bytes())
    refused("unknown_key")


def test_untouched_it_loads(home: Path, stolen: tuple[Manifest, bytes]) -> None:
    with connect() as vault, vault.load("m", purpose="inference") as model:
        assert model.open("a.dat").read() == GOOD

"""The worked example of docs/format.md: the page holds it, and modelvault agrees with it."""

from __future__ import annotations

import json

from modelvault import binding, canonical
from modelvault.artifact import leaves
from modelvault.artifact.reader import FileReader
from modelvault.crypto import derive, dsse
from modelvault.crypto.dsse import Envelope
from modelvault.crypto.secret import Secret
from modelvault.lease import Recipient
from modelvault.manifest import PAYLOAD_TYPE, Manifest
from support.memory_store import MemoryStore
from vectors import make_example as example


def test_the_page_holds_what_the_script_makes() -> None:
    assert example.between(example.PAGE.read_text()) == example.render()


def test_keys() -> None:
    key = derive.file_key(Secret.copy_of(example.DEK), example.ARTIFACT, example.PATH)
    assert bytes(key.reveal()) == example.FILE_KEY
    assert derive.file_aad(example.ARTIFACT, example.PATH) == example.AAD
    names = (example.VAULT, "default", "minilm")
    assert derive.kek_name(*names) == example.KEK_NAME
    assert derive.key_context(*names, example.ARTIFACT) == example.KEY_CONTEXT


def test_digests() -> None:
    assert leaves.digest("blake3", example.LEAF_LIST) == example.DIGEST
    assert leaves.digest("sha256", example.LEAF_LIST_SHA256) == example.DIGEST_SHA256
    assert [leaves.leaf("blake3", part) for part in example.PARTS] == [
        example.LEAF_LIST[at : at + 32] for at in range(0, 96, 32)
    ]


def test_envelope_and_file() -> None:
    text = canonical.dumps(example.ENVELOPE)
    envelope = Envelope.from_bytes(text, limit=len(text), what="example")
    keys = {dsse.keyid(example.PUBLIC): example.PUBLIC}
    manifest = Manifest.from_bytes(dsse.verify(envelope, PAYLOAD_TYPE, keys, "example"))
    assert manifest.to_bytes() == envelope.payload == canonical.dumps(example.MANIFEST)
    assert json.loads(envelope.payload) == example.MANIFEST
    store = MemoryStore()
    store.objects = {example.OBJECT: b"".join(example.PARTS), example.LEAVES: example.LEAF_LIST}
    (entry,) = manifest.files
    out = bytearray(entry.size)
    key = Secret.copy_of(example.FILE_KEY)
    FileReader(store, entry, key, manifest.digest_alg, 1).read_into(0, memoryview(out))
    assert out == example.PLAIN


def test_info() -> None:
    info = binding.info(
        kind="lease",
        vault=example.VAULT,
        lease="1e" * 16,
        tenant="default",
        model="minilm",
        version=1,
        manifest=dsse.keyid(canonical.dumps(example.MANIFEST)),
        purpose="inference",
        paths=[example.PATH],
        recipient=Recipient("x25519", example.RECIPIENT),
        nonce=example.NONCE,
    )
    assert info == canonical.dumps(example.INFO)

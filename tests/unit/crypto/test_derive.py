"""Labels and derivations."""

from __future__ import annotations

import itertools
import re

import pytest

from modelvault.crypto import derive
from modelvault.crypto.secret import Secret
from oracle import second_reader

ARTIFACT = "0123456789abcdef" * 2
DEK = bytes(range(32))


def test_no_label_equals_or_begins_another() -> None:
    assert len(derive.LABELS) > 4
    for one, other in itertools.permutations(derive.LABELS, 2):
        assert not other.startswith(one)


def test_every_label_of_the_module_is_in_the_list() -> None:
    constants = {
        value if isinstance(value, bytes) else value.encode()
        for name, value in vars(derive).items()
        if name.isupper() and isinstance(value, bytes | str)
    }
    assert constants == set(derive.LABELS)


def test_no_label_holds_a_zero_byte() -> None:
    assert not any(b"\0" in label for label in derive.LABELS)


@pytest.mark.parametrize("path", ["a", "a/b.safetensors", "größe/模型.bin"])
def test_file_key_is_what_the_format_says(path: str) -> None:
    with derive.file_key(Secret.copy_of(DEK), ARTIFACT, path) as key:
        assert bytes(key.reveal()) == second_reader.file_key(DEK, ARTIFACT, path)
    expected = b"modelvault/file/v1\0" + ARTIFACT.encode() + b"\0" + path.encode()
    assert derive.file_aad(ARTIFACT, path) == expected


def test_each_part_changes_the_key() -> None:
    dek, other = Secret.copy_of(DEK), Secret.copy_of(DEK[::-1])
    keys = [
        derive.file_key(dek, ARTIFACT, "a"),
        derive.file_key(dek, ARTIFACT, "b"),
        derive.file_key(dek, ARTIFACT[::-1], "a"),
        derive.file_key(other, ARTIFACT, "a"),
        *(derive.expand(dek, label) for label in derive.LABELS),
    ]
    assert len({bytes(key.reveal()) for key in keys}) == len(keys)
    assert all(len(key) == 32 for key in keys)


def test_names_and_contexts() -> None:
    vault = "f" * 32
    name = derive.kek_name(vault, "default", "minilm")
    assert re.fullmatch(r"mv-[a-z2-7]{40}", name)
    contexts = {
        derive.key_context(vault, tenant, model, artifact)
        for tenant, model, artifact in itertools.product("ab", "ab", (ARTIFACT, "0" * 32))
    }
    assert len(contexts) == 8
    assert {len(context) for context in contexts} == {32}
    names = {
        derive.kek_name(vault, tenant, model) for tenant, model in itertools.product("ab", "ab")
    }
    assert len(names) == 4

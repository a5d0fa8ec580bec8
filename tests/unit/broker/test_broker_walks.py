"""The everyday walks, whole: what goes in comes out, and the log tells of it."""

from __future__ import annotations

from support.vaults import Vault

FILES = {
    "config.json": b"{}",
    "empty": b"",
    "exact": bytes(32),
    "sub/model.bin": bytes(range(256)) * 3,
}


def test_push_and_load(vault: Vault) -> None:
    published = vault.push("m", FILES, labels={"team": "nlp"})
    assert (published.version, vault.load("m")) == (1, FILES)
    assert vault.load("m@1") == vault.load(f"m@{published.manifest}") == FILES
    assert [one.action for one in vault.entries()][-4:] == ["push", "load", "load", "load"]

"""The embedded vault's key service: one file of sealed keys under one root key."""

from modelvault.adapters.keys_local.keyring import LocalKeyring
from modelvault.adapters.keys_local.root import KeyFile, OsKeyring, Passphrase, RootSource

__all__ = ["KeyFile", "LocalKeyring", "OsKeyring", "Passphrase", "RootSource"]

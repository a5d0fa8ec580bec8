"""HashiCorp Vault's transit engine, or OpenBao's, as key service: hvac behind three ports."""

from modelvault.adapters.keys_hcvault.admin import HcvaultAdmin
from modelvault.adapters.keys_hcvault.connection import Connection
from modelvault.adapters.keys_hcvault.login import AppRole, Login, TokenFile, Workload
from modelvault.adapters.keys_hcvault.server import Server
from modelvault.adapters.keys_hcvault.service import HcvaultKeys
from modelvault.adapters.keys_hcvault.signer import HcvaultBundleSigner, HcvaultSigner

__all__ = [
    "AppRole",
    "Connection",
    "HcvaultAdmin",
    "HcvaultBundleSigner",
    "HcvaultKeys",
    "HcvaultSigner",
    "Login",
    "Server",
    "TokenFile",
    "Workload",
]

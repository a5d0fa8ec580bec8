"""Issuers' public keys out of the JWKS documents that the configuration names."""

from modelvault.adapters.issuers_jwks.issuers import JwksIssuers

__all__ = ["JwksIssuers"]

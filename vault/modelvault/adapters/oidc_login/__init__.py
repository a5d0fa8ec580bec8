"""Logins of people at an OpenID provider, by urllib3, and where they are kept."""

from modelvault.adapters.oidc_login.browser import log_in_by_browser
from modelvault.adapters.oidc_login.device import log_in_by_device
from modelvault.adapters.oidc_login.provider import OidcProvider
from modelvault.adapters.oidc_login.shelves import FileShelf, KeyringShelf, best_shelf

__all__ = [
    "FileShelf",
    "KeyringShelf",
    "OidcProvider",
    "best_shelf",
    "log_in_by_browser",
    "log_in_by_device",
]

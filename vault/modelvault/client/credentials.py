"""Where a session's tokens come from.

A `TokenSource` gives the token for one request. `key_hash` is the hash of the recipient key that
the request names (`identity.binding.key_hash`), or None where it names none: a source that can
mint binds the token to that key, one that was handed a token gives what it has.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from modelvault.access import Caller
from modelvault.errors import AuthenticationError, Conflict, unframed

TokenSource = Callable[[str | None], str]
MAX_TOKEN_BYTES = 16 << 10


def given(token: str) -> TokenSource:
    """The same token each time."""
    text = checked(token.strip(), "the given token")

    def source(_key_hash: str | None) -> str:
        return text

    return source


class FileToken:
    """The token in a file, read again whenever the file has changed.

    Kubernetes and others replace such files before the token in them expires. Thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._mark: tuple[int, int, int, int] | None = None
        self._token = ""

    def __call__(self, _key_hash: str | None) -> str:
        """The token as the file holds it now. AuthenticationError (`no_token`, `bad_token`)."""
        with self._lock:
            try:
                found = self._path.stat()
                mark = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
                if mark != self._mark:
                    self._token = checked(self._read(), f"the token in {self._path}")
                    self._mark = mark
            except OSError as error:
                raise AuthenticationError(
                    "no_token",
                    f"can't read the token file {self._path}: {os.strerror(error.errno or 0)}",
                    "check MODELVAULT_TOKEN_FILE and the file's permissions",
                ) from None
            except AuthenticationError as refused:
                raise unframed(refused) from None
            return self._token

    def _read(self) -> str:
        with self._path.open("rb") as file:
            return file.read(MAX_TOKEN_BYTES + 1).decode("ascii", "replace").strip()


class EnvironmentToken:
    """The token in an environment variable, looked at anew each time. Thread-safe."""

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        """`env` is the environment itself (`os.environ`), not a copy of it."""
        self._name = name
        self._env = env

    def __call__(self, _key_hash: str | None) -> str:
        """The token. AuthenticationError (`no_token`, `bad_token`)."""
        if not self._env.get(self._name, "").strip():
            raise AuthenticationError(
                "no_token",
                f"the environment variable {self._name} holds no token",
                f"set {self._name}, or name another source of tokens in the profile",
            )
        try:
            return checked(self._env[self._name].strip(), f"the token in {self._name}")
        except AuthenticationError as refused:
            raise unframed(refused) from None

    def __repr__(self) -> str:
        return f"<EnvironmentToken {self._name}>"


def minted(mint: Callable[[str | None], str]) -> TokenSource:
    """A fresh short token for each request, bound to the request's key where it has one."""
    return mint


def choose(
    *,
    token: str | None,
    token_file: Path | None,
    further: TokenSource | None = None,
    mint: Callable[[str | None], str] | None = None,
) -> TokenSource:
    """The first that there is: a given token, a token file, a further source (a variable, a
    helper, a login), an identity to mint tokens for.

    Raises AuthenticationError (`no_token`) when there is none of them.
    """
    if token is not None:
        return given(token)
    if token_file is not None:
        return FileToken(token_file)
    if further is not None:
        return further
    if mint is not None:
        return minted(mint)
    raise AuthenticationError(
        "no_token",
        "no token to show",
        "set MODELVAULT_TOKEN_FILE or MODELVAULT_TOKEN, or run `modelvault login`",
    )


class Credentials:
    """Makes the `Caller` of each request. The repr shows no token."""

    def __init__(self, source: TokenSource, client: str) -> None:
        self._source = source
        self._client = client
        self._closed = False

    def close(self) -> None:
        """Make no more callers: the session is closed."""
        self._closed = True

    def caller(self, key_hash: str | None = None) -> Caller:
        """A caller with a token for a request that names the key with `key_hash`, or none.

        Raises Conflict (`session_closed`), and what the token's source does.
        """
        if self._closed:
            raise Conflict("session_closed", "this session was closed", "connect to the vault anew")
        return Caller(token=self._source(key_hash), client=self._client)

    def __repr__(self) -> str:
        return "<Credentials>"


def checked(token: str, what: str) -> str:
    """The token, if it can be one; `what` says in the message where it is from.

    Raises AuthenticationError (`bad_token`), which doesn't show it.
    """
    if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise AuthenticationError(
            "bad_token",
            f"{what} isn't a token of at most {MAX_TOKEN_BYTES >> 10} KiB",
            "get a fresh one from your issuer",
        )
    return token

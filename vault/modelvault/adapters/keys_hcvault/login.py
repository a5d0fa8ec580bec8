"""Ways to log in: each makes a token out of something that this process can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import hvac
import msgspec
from msgspec import Meta

from modelvault.errors import Unavailable

_MAX_FILE = 16 << 10


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """A token and for how long it is good, in seconds; 0 means until somebody revokes it."""

    token: str
    lease_s: int
    renewable: bool

    def __repr__(self) -> str:
        return f"<Granted for {self.lease_s} s>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token can't be pickled")


class AppRole(msgspec.Struct, frozen=True, kw_only=True):
    """AppRole. The secret id is read anew for each login, so that it can be exchanged."""

    role_id: str
    secret_id_file: Path
    mount: str = "approle"

    def log_in(self, client: hvac.Client) -> Granted:
        """Raises what hvac raises; Unavailable where the file can't be read."""
        answer = client.auth.approle.login(
            role_id=self.role_id,
            secret_id=read_secret(self.secret_id_file),
            use_token=False,
            mount_point=self.mount,
        )
        return granted(answer)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """The Kubernetes or JWT method, with the workload's own token out of a file."""

    role: str
    token_file: Path
    mount: str

    def log_in(self, client: hvac.Client) -> Granted:
        """As `AppRole.log_in`. Both methods take the same request."""
        answer = client.auth.jwt.jwt_login(
            role=self.role, jwt=read_secret(self.token_file), use_token=False, path=self.mount
        )
        return granted(answer)


class TokenFile(msgspec.Struct, frozen=True, kw_only=True):
    """A token that somebody else keeps fresh in a file, as Vault Agent does."""

    token_file: Path

    def log_in(self, client: hvac.Client) -> Granted:  # noqa: ARG002  as the other ways
        """The token as the file holds it now; it is looked at again after a minute."""
        return Granted(token=read_secret(self.token_file), lease_s=60, renewable=False)


class _Auth(msgspec.Struct):
    client_token: Annotated[str, Meta(min_length=1)]
    lease_duration: Annotated[int, Meta(ge=0)]
    renewable: bool


class _Answer(msgspec.Struct):
    auth: _Auth


Login = AppRole | Workload | TokenFile


def granted(answer: object) -> Granted:
    """What a login's or a renewal's answer gives. Raises ValueError for any other answer."""
    try:
        auth = msgspec.convert(answer, _Answer).auth
    except msgspec.ValidationError:
        raise ValueError("no token in the answer") from None
    return Granted(token=auth.client_token, lease_s=auth.lease_duration, renewable=auth.renewable)


def read_secret(path: Path) -> str:
    """One line of a file. Raises Unavailable (`key_service_unavailable`), which names the file."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE + 1).decode("ascii").strip()
    except OSError as error:
        raise _unreadable(path, os.strerror(error.errno or 0)) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "it isn't plain text") from None
    if not text or len(text) > _MAX_FILE or not text.isprintable():
        raise _unreadable(path, "it doesn't hold one line")
    return text


def _unreadable(path: Path, why: str) -> Unavailable:
    return Unavailable(
        "key_service_unavailable",
        f"can't log in at the key service: {path}: {why}",
        "check [keys] in the deployment file, and who may read that file",
    )

"""Making the home of an embedded vault: it appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modelvault import canonical
from modelvault import clock as clocks
from modelvault.client.pins import write_private
from modelvault.crypto import dsse
from modelvault.errors import Conflict, ModelVaultError, Unavailable
from modelvault.record import Entry, KeyPurpose, TrustFile, TrustKey
from modelvault.settings import Settings
from modelvault.wiring import roots
from modelvault.wiring.home import Description, Home, Root, RootKind
from modelvault.wiring.roots import Ask

if TYPE_CHECKING:
    from modelvault.adapters.keys_local import LocalKeyring

_PURPOSES: tuple[KeyPurpose, ...] = ("manifest", "record", "log", "bundle")


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A new vault: its id, its home, where its root key comes from, and the policies in force."""

    vault: str
    home: Path
    root: Root
    policy_revision: str


def make(home: Home, described: Description, settings: Settings, ask: Ask | None) -> Made:
    """Make `home` as `described`, in a folder beside it that takes its name in the end.

    An empty folder of that name is replaced, in the same step: one that isn't empty by then stays.

    Raises Conflict (`home_exists`), Unavailable (`cant_write`), and what root key and adapters
    raise. A root key file that was made is removed again when a later step fails.
    """
    if home.taken:
        raise exists(home)
    draft = Home(home.path.with_name(f".{home.path.name}.{secrets.token_hex(8)}"))
    try:
        home.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.path.mkdir(mode=0o700)
        revision = _fill(draft, described, settings, ask)
        draft.path.rename(home.path)
    except BaseException as error:
        shutil.rmtree(draft.path, ignore_errors=True)
        if described.root.path is not None:  # its name holds this vault's fresh id: it's ours
            with suppress(OSError):
                Path(described.root.path).unlink()
        if isinstance(error, OSError):
            raise _cant_write(home, error) from None
        raise
    return Made(
        vault=described.vault, home=home.path, root=described.root, policy_revision=revision
    )


def foresee(home: Home, root: RootKind, settings: Settings) -> None:
    """Raise what `make` would meet, as far as that can be seen without writing or asking."""
    if home.taken:
        raise exists(home)
    if os.path.ismount(home.path):
        raise _cant_write(home, OSError(errno.EBUSY, ""))
    refused = _refused(home.path)
    if refused:
        raise _cant_write(home, OSError(refused, ""))
    if root == "file":
        refused = _refused(settings.config_home / "root.key")
        if refused:
            raise Unavailable(
                "root_key_unavailable",
                f"can't make a root key in {settings.config_home}: {os.strerror(refused)}",
                "check the permissions of the folders above it, or name another place with "
                "XDG_CONFIG_HOME",
            )
    given = settings.passphrase is not None or settings.passphrase_file is not None
    if root == "passphrase" and (given or roots.terminal() is None):
        roots.forget(roots.source(Root(root), "", settings, None))


def _refused(path: Path) -> int:
    """Why nothing new can be made at `path`, as an errno; 0 where it seems that it can."""
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return errno.ENOTDIR
    if os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return 0
    return errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES


def _fill(draft: Home, described: Description, settings: Settings, ask: Ask | None) -> str:
    """All that a home holds; returns the revision of the policies put into force."""
    from modelvault.adapters.keys_local import LocalKeyring
    from modelvault.adapters.policy_files import PolicyFolder

    source = roots.source(described.root, described.vault, settings, ask)
    LocalKeyring.make(draft.keyring, source)
    with LocalKeyring(draft.keyring, source) as keyring:
        trust = _trust(described, keyring)
    roots.forget(source)
    write_private(draft.trust, canonical.encode(trust))
    write_private(draft.description, canonical.encode(described))
    draft.objects.mkdir(mode=0o700)
    draft.policy.mkdir(mode=0o700)
    policies = PolicyFolder(draft.policy)
    policies.start()
    revision = policies.publish(policies.working())
    _begin_ledger(draft, described, revision)
    for path in draft.path.rglob("*"):  # whatever umask and adapters made of it
        path.chmod(0o700 if path.is_dir() else 0o600)
    return revision


def _trust(described: Description, keyring: LocalKeyring) -> TrustFile:
    keys = []
    for purpose in _PURPOSES:
        public_key = keyring.public_key(purpose)
        keys.append(
            TrustKey(
                keyid=dsse.keyid(public_key),
                purpose=purpose,
                public_key=public_key,
                valid_from=described.created_at,
            )
        )
    return TrustFile(vault=described.vault, keys=tuple(keys), serial=1)


def _begin_ledger(draft: Home, described: Description, revision: str) -> None:
    """An empty ledger whose first entry says who made the vault, under which policies."""
    from modelvault.adapters.ledger_sql import SqlLedger

    entry = Entry(
        id=secrets.token_hex(16),
        at=described.created_at,
        actor=f"local:{described.identity.sub}",
        action="init",
        outcome="done",
        revision=revision,
    )
    ledger = SqlLedger.create(draft.ledger_url, clocks.utc_ms)
    try:
        ledger.set_policy_revision(revision, entry)
    finally:
        ledger.close()


def exists(home: Home) -> Conflict:
    """The refusal to make a vault where something is."""
    if not os.path.lexists(home.description):
        return Conflict(
            "home_exists",
            f"{home.path} exists already, and isn't a vault",
            "name another folder with --home, or one that is empty",
        )
    return Conflict(
        "home_exists",
        f"{home.path} exists already",
        "use the vault that is there, or name another folder with --home",
    )


def _cant_write(home: Home, error: OSError) -> ModelVaultError:
    overtaken = error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
    if overtaken and os.path.lexists(home.path):  # another init was first
        return exists(home)
    if error.errno == errno.EBUSY:
        return Conflict(
            "home_exists",
            f"{home.path} is where a disk is mounted, and can't be replaced",
            f"name a folder in it: --home {home.path / 'vault'}",
        )
    return Unavailable(
        "cant_write",
        f"can't make {home.path}: {os.strerror(error.errno or 0)}",
        "check the permissions of the folder above it and the free space, or name another place "
        "with --home or MODELVAULT_HOME",
    )

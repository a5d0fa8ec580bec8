"""Puts a vault together: the one place that names adapters.

Everything heavy is imported inside the functions that need it, so `import modelvault` costs next
to nothing, and a command loads only what it uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from modelvault.adapters.policy_files import PolicyFolder
    from modelvault.adapters.policy_regorus import RegorusEngine
    from modelvault.client.session import Session
    from modelvault.lease import PolicyBundle
    from modelvault.policy.bundle import Bundle
    from modelvault.ports.login import Prompt
    from modelvault.settings import Settings
    from modelvault.wiring.checkup import Finding
    from modelvault.wiring.identity import LoggedIn
    from modelvault.wiring.making import Made

ADMIN_GROUP = "admins"


def init(
    home: str | Path | None = None,
    *,
    root: Literal["file", "passphrase", "keyring"] = "file",
    user: str | None = None,
    groups: Sequence[str] = (ADMIN_GROUP,),
    digest_alg: Literal["blake3", "sha256"] = "blake3",
    segment_length: int = 1 << 20,
    ask: Callable[[str], str] | None = None,
) -> Made:
    """Make an embedded vault in `home` (MODELVAULT_HOME, or ~/.modelvault).

    `root` says where its root key comes from: a key file outside the home, a passphrase (from
    MODELVAULT_PASSPHRASE_FILE, MODELVAULT_PASSPHRASE, or `ask(prompt)`), or the system's keyring.
    `user` and `groups` are the default identity that push and load show; the user's own name, and
    an admin, unless told otherwise. `segment_length` is in bytes.

    Raises Conflict (`home_exists`), InvalidRequest, Unavailable (`cant_write`).
    """
    import secrets

    from modelvault import canonical, clock
    from modelvault.errors import InvalidRequest
    from modelvault.wiring import making, roots
    from modelvault.wiring.home import Description, Home, Identity

    settings = _settings(home, None, None)
    vault = secrets.token_hex(16)
    described = Description(
        vault=vault,
        created_at=clock.to_text(clock.utc_ms()),
        digest_alg=digest_alg,
        segment_length=segment_length,
        root=roots.choose(root, vault, settings),
        identity=Identity(user or _user(), tuple(groups)),
    )
    # Checked as it will be read: a home that can't be opened again must not be made.
    canonical.decode(
        canonical.encode(described), Description, limit=1 << 16, what="vault", error=InvalidRequest
    )
    asking = ask or roots.twice(roots.terminal())
    return making.make(Home(settings.home), described, settings, asking)


def connect(
    url: str | None = None,
    *,
    home: str | Path | None = None,
    profile: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
) -> Session:
    """A session with a broker, or with the embedded vault of a home folder.

    `url` is a broker's address (or MODELVAULT_BROKER, or the profile's `broker`), unless a `home`
    is named; without any the home's (MODELVAULT_HOME, the profile's, or ~/.modelvault) vault is
    opened in this process. `token` (or MODELVAULT_TOKEN, or the file MODELVAULT_TOKEN_FILE) says
    who is asking; without any, an embedded home's default identity is. `cache` (or
    MODELVAULT_CACHE) is a folder that keeps a broker's ciphertext for the next load.

    Raises NotFound (`no_home`, `no_trust_file`), AuthenticationError (`wrong_root_key`,
    `no_token`), InvalidRequest (`bad_broker`).
    """
    settings = _settings(home, profile, token, cache)
    return connected(url, settings, embedded=home is not None)


def connect_with(env: Mapping[str, str], url: str | None = None) -> Session:
    """As `connect`, by what `env` holds and not by this process's environment."""
    from modelvault import settings

    return connected(url, settings.read(env, cpus=os.cpu_count()), embedded=False)


def connected(url: str | None, settings: Settings, *, embedded: bool) -> Session:
    """As `connect`, by these settings; `embedded` where a home was named."""
    from modelvault.wiring import roots
    from modelvault.wiring.home import Home

    address = url or (None if embedded else settings.broker)
    if address is not None:
        from modelvault.wiring import remote

        return remote.session(address, settings)
    from modelvault.wiring import joining

    return joining.session(Home(settings.home), settings, roots.terminal())


def migrate_home(home: str | Path | None = None) -> tuple[int, int]:
    """Bring a home's ledger to this program's schema: (version before, after)."""
    from modelvault.adapters.ledger_sql.migrating import migrate
    from modelvault.wiring.home import Home

    place = Home(_settings(home, None, None).home)
    place.read()
    return migrate(place.ledger_url)


def policy_folder(home: str | Path | None = None) -> PolicyFolder:
    """The policies of a home: the working copy, and the revisions that were published."""
    from modelvault.adapters.policy_files import PolicyFolder
    from modelvault.wiring.home import Home

    place = Home(_settings(home, None, None).home)
    place.read()
    return PolicyFolder(place.policy)


def policy_bundle(home: str | Path | None = None) -> Bundle:
    """The working copy of a home's policies: shipped rules, the admin's data and site rules."""
    return policy_folder(home).working()


def policy_edited(
    folder: str | Path | None,
    url: str | None,
    *,
    home: str | Path | None = None,
    profile: str | None = None,
) -> PolicyFolder:
    """The policies that an admin edits: in a folder, or else in the home that `connect` would open.

    Raises InvalidRequest (`no_folder`) where that is a broker: a home's policies mustn't be taken
    for those of its vault.
    """
    from modelvault.adapters.policy_files import PolicyFolder
    from modelvault.errors import InvalidRequest

    if folder is not None:
        return PolicyFolder(Path(folder))
    broker = url or (None if home is not None else _settings(None, profile, None).broker)
    if broker is not None:
        raise InvalidRequest(
            "no_folder",
            f"nothing says where the edited policies are, for the broker {broker}",
            "name a FOLDER (`modelvault policy fetch FOLDER` writes one), or a home with --home",
        )
    return policy_folder(home)


def policy_published(home: str | Path | None, revision: str | None) -> Bundle:
    """A published policy of a home, or the one that was published last."""
    folder = policy_folder(home)
    return folder.published(revision or folder.revisions()[0])


def policy_document(bundle: Bundle) -> PolicyBundle:
    """A policy as a broker takes it."""
    from modelvault import canonical
    from modelvault.lease import PolicyBundle

    return PolicyBundle(modules=bundle.modules, data=canonical.dumps(bundle.data).decode())


def policy_of(document: PolicyBundle) -> Bundle:
    """A policy as a broker gives it."""
    from modelvault.policy import bundle as bundles

    data = bundles.parse_data(document.data.encode())
    return bundles.Bundle(modules=document.modules, data=data)


def policy_written(document: PolicyBundle, folder: Path) -> str:
    """Write what an admin may edit of a policy into a new folder; the policy's revision.

    Raises Conflict (`folder_exists`), InvalidRequest (`bad_policy_folder`).
    """
    from modelvault.adapters.policy_files import PolicyFolder
    from modelvault.errors import IntegrityError

    site = {
        path.removeprefix("site/"): text
        for path, text in document.modules.items()
        if path.startswith("site/")
    }
    if any({"", ".", ".."}.intersection(name.split("/")) for name in site):
        # A broker's word, about to become paths on this disk.
        raise IntegrityError(
            "bad_policy_archive",
            "the policy holds a file outside its folder",
            "don't trust this broker: ask who runs the vault",
        )
    PolicyFolder.write(folder, document.data, site)
    return policy_of(document).revision


def policy_engine(home: str | Path | None = None, bundle: Bundle | None = None) -> RegorusEngine:
    """An engine over `bundle`, or over the home's working copy. Grants nothing; close it."""
    from modelvault.adapters.policy_regorus import RegorusEngine

    return RegorusEngine.of(policy_bundle(home) if bundle is None else bundle)


def doctor(home: str | Path | None = None) -> tuple[Finding, ...]:
    """Look at a home and at this machine: what is well, what isn't, and how to mend it.

    Raises InvalidRequest (`not_a_home`) where the settings name a broker and nobody a home.
    """
    from modelvault import clock
    from modelvault.errors import InvalidRequest
    from modelvault.wiring import checkup, embedded, machine, roots
    from modelvault.wiring.home import Home

    settings = _settings(home, None, None)
    if home is None and settings.broker is not None:
        raise InvalidRequest(
            "not_a_home",
            f"the settings name the broker {settings.broker}, and only a home can be checked",
            "name a home with --home; whether the broker answers tells `modelvault whoami`",
        )
    place = Home(settings.home)
    return checkup.examine(
        place,
        lambda: embedded.open_parts(place, settings, roots.terminal()),
        clock.utc_ms,
        machine.machine(),
    )


def login_by_browser(show: Callable[[str], None], *, profile: str | None = None) -> LoggedIn:
    """Log in as a person with a browser on this machine; `show` gets the address to open.

    Raises InvalidRequest (`bad_login`), AuthenticationError (`login_failed`), Unavailable.
    """
    from modelvault.wiring import identity

    return identity.log_in_by_browser(_settings(None, profile, None), show)


def login_by_device(tell: Callable[[Prompt], None], *, profile: str | None = None) -> LoggedIn:
    """Log in as a person with any other device; `tell` gets what to open and to type there.

    Raises as `login_by_browser`.
    """
    from modelvault.wiring import identity

    return identity.log_in_by_device(_settings(None, profile, None), tell)


def logout(*, profile: str | None = None) -> bool | None:
    """End a person's login. False: the provider couldn't be told. None: there was none."""
    from modelvault.wiring import identity

    return identity.log_out(_settings(None, profile, None))


def _settings(
    home: str | Path | None,
    profile: str | None,
    token: str | None,
    cache: str | Path | None = None,
) -> Settings:
    from modelvault import settings
    from modelvault.errors import ModelVaultError, unframed

    given = {"home": home, "cache": cache}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    try:
        return settings.read(os.environ, **paths, profile=profile, token=token, cpus=os.cpu_count())
    except ModelVaultError as refused:
        raise unframed(refused) from None


def _user() -> str:
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have it
        return f"uid-{os.getuid()}"

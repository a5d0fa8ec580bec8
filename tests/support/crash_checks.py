"""What must hold of a home after one of the walks of `crash_walks` was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import modelvault
from modelvault import clock, wiring
from modelvault.client.session import Session
from modelvault.crypto import derive
from modelvault.errors import Conflict, ModelVaultError, NotFound
from modelvault.manifest import Manifest

Files = dict[str, bytes]

FIRST = {"weights.dat": b"one" * 3000, "config.json": b"{}"}
SECOND = {"weights.dat": b"two" * 3000, "config.json": b"{2}"}
NEW = {"weights.dat": b"new" * 4000, "config.json": b"{3}", "empty.txt": b""}
NEXT = {"a": b"next" * 2000}
SEGMENT = 4096  # so that three of these files have three segments
SITE_RULE = """package modelvault.site

import rego.v1

denies contains "site:no_debug" if input.context.purpose == "debug"
"""
HOME_FILES = {
    "vault.json", "trust.json", "keyring.json", "keyring.json.lock", "ledger.db", "pins.json",
    "pins.json.lock", "policy/data.json", "ledger.db-wal", "ledger.db-shm",
}  # fmt: skip


class Seen(NamedTuple):
    """What a session shows of the model `m`: contents, or the code of the refusal, by version;
    versions by tag; and (action, version) of each entry that tells of something done."""

    versions: dict[int, Files | str]
    tags: dict[str, int]
    log: list[tuple[str, int | None]]


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def contents(vault: Session, reference: str) -> Files:
    with vault.load(reference, purpose="inference") as model:
        return {path: bytes(model.read_bytes(path)) for path in model.files}


def see(vault: Session) -> Seen:
    detail = vault.show("m")
    versions: dict[int, Files | str] = {}
    for version in detail.versions:
        try:
            versions[version.version] = contents(vault, f"m@{version.version}")
        except ModelVaultError as error:
            versions[version.version] = error.code
    entries = vault.entries(limit=1000).entries
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    return Seen(
        versions=versions,
        tags={found.tag: found.version for found in detail.summary.tags},
        log=[(entry.action, entry.version) for entry in entries if entry.outcome == "done"],
    )


ahead = 0
real_utc_ms = clock.utc_ms
clock.utc_ms = lambda: real_utc_ms() + ahead


def a_month_passes() -> None:
    """By every clock that the vault reads, in this process."""
    global ahead
    ahead += 30 * 86_400_000


def publish_policy(vault: Session, home: Path) -> None:
    (home / "policy" / "site").mkdir(exist_ok=True)
    (home / "policy" / "site" / "note.rego").write_text(SITE_RULE)
    vault.publish_policy()


# All of it with its entry, or nothing.
BEFORE: dict[int, Files | str] = {1: FIRST, 2: SECOND}


def pushed_or_not(seen: Seen) -> None:
    whole = 3 in seen.versions
    assert seen.versions == {**BEFORE, **({3: NEW} if whole else {})}
    assert (("push", 3) in seen.log) == whole
    assert seen.tags == {"prod": 3 if ("tag", 3) in seen.log else 2}
    assert whole or seen.tags == {"prod": 2}


def tagged_or_not(seen: Seen) -> None:
    assert seen.versions == BEFORE
    moved = seen.log.count(("tag", 1)) == 2  # the first push tagged too
    assert seen.tags == {"prod": 1 if moved else 2}


def revoked_or_not(seen: Seen) -> None:
    told = ("revoke", 1) in seen.log
    assert seen.versions == {1: "revoked" if told else FIRST, 2: SECOND}


def deleted_or_not(seen: Seen) -> None:
    told = ("delete", 1) in seen.log
    assert seen.versions == ({2: SECOND} if told else BEFORE)
    assert told or ("gc", 1) not in seen.log


def as_before(seen: Seen) -> None:
    assert seen.versions == BEFORE
    assert seen.tags == {"prod": 2}


def afterwards(
    check: Callable[[Seen], None], more: Callable[[Session, Path], None] = lambda *_: None
) -> Callable[[Path], None]:
    """`check` and `more`; rotate, push and load work; gc leaves nothing that isn't in use."""

    def checked(home: Path) -> None:
        with modelvault.connect(home=home) as vault:
            seen = see(vault)
            check(seen)
            more(vault, home)
            vault.rotate("m")
            pushed = vault.push(write(home.parent / "next", NEXT), "m:next")
            assert pushed.version == max(seen.versions) + 1
            a_month_passes()
            vault.gc()
            after = see(vault)
            assert after.versions == {**seen.versions, pushed.version: NEXT}
            assert after.tags == {**seen.tags, "next": pushed.version}
            nothing_unused(home, vault)

    return checked


def nothing_unused(home: Path, vault: Session) -> None:
    """Each object belongs to a file, each key copy to an artifact, and no draft lies about."""
    wanted: set[str] = set()
    artifacts: set[str] = set()
    for version in vault.show("m").versions:
        signed = vault.show(f"m@{version.version}").signed
        assert signed is not None
        manifest = Manifest.from_bytes(signed.manifest.payload)
        artifacts.add(manifest.artifact)  # maybe of no file
        for file in manifest.files:
            wanted |= {file.object, file.leaves}
            artifacts.add(file.artifact)
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    copies = {name for name in found if name.startswith("keys/")}
    assert {name for name in found if name.startswith("objects/")} == wanted
    content = derive.content_artifact(vault.trust.vault, "default", "m")  # once it was rotated
    copied = sorted(name.split("/")[1] for name in copies)
    assert [artifact for artifact in copied if artifact != content] == sorted(artifacts)
    assert copied.count(content) <= 1
    rest = found - wanted - copies - HOME_FILES
    assert all(name.startswith(("policy/published/", "policy/site/")) for name in rest), rest


def created_or_not(vault: Session, home: Path) -> None:
    """A second create says that it is there, or makes it."""
    there = "n" in {summary.model for summary in vault.list()}
    try:
        vault.create("n")
    except Conflict:
        assert there
    else:
        assert not there
    done = [entry for entry in vault.entries(limit=1000).entries if entry.outcome == "done"]
    assert [entry.action for entry in done if entry.model == "n"] == ["create"]
    assert vault.push(home.parent / "new", "n").version == 1
    assert contents(vault, "n") == NEW
    vault.delete("n")  # gc takes it: what is looked at later is the other model


def exported_or_not(vault: Session, home: Path) -> None:
    """The folder is whole, or not there and can be made."""
    out = home.parent / "out"
    if out.exists():
        assert {path.name: path.read_bytes() for path in out.iterdir()} == SECOND
    else:
        vault.export("m@2", out)


def published_or_not(vault: Session, home: Path) -> None:
    def allowed() -> bool:
        return vault.explain("load", "m", purpose="debug").allowed

    done = [entry for entry in vault.entries(limit=1000).entries if entry.outcome == "done"]
    told = [entry.action for entry in done].count("write_policy")
    assert allowed() == (told == 1), told
    publish_policy(vault, home)
    assert not allowed()
    assert len(wiring.policy_folder(home).revisions()) == 2


def check_init(home: Path) -> None:
    """The new home is whole, or not there and can be made; what is left beside it is hidden."""
    fresh = home.with_name("fresh")
    mine = {"fresh", "config", "home", "new", "log"}
    others = {path.name for path in home.parent.iterdir()} - mine
    assert all(name.startswith(".fresh.") for name in others), others
    if not fresh.exists():
        try:
            modelvault.connect(home=fresh).close()
        except NotFound:
            pass
        else:
            raise AssertionError("there is no home, and yet it opens")
        wiring.init(fresh, segment_length=SEGMENT)
    assert not [one for one in wiring.doctor(fresh) if one.status == "failed"]
    with modelvault.connect(home=fresh) as vault:
        assert [entry.action for entry in vault.entries().entries] == ["init"]
        vault.create("m")
        assert vault.push(home.parent / "new", "m").version == 1
        assert contents(vault, "m") == NEW

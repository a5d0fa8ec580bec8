"""`copy`, `migrate vault` and `trust`, between two homes in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from modelvault import wiring
from modelvault.adapters.keys_local import KeyFile, LocalKeyring
from modelvault.client.pins import read_trust
from modelvault_cli.commands.plan import UNCHECKED
from modelvault_cli.documents import Plan
from support.command import Told, call, model_folder
from support.homes import isolated


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two homes; the first has a model `m` of two versions."""
    isolated(tmp_path, monkeypatch)
    made = tmp_path / "one", tmp_path / "other"
    for home in made:
        wiring.init(home, user="me")
    plain = model_folder(tmp_path / "plain")
    with wiring.connect(home=made[0]) as vault:
        vault.create("m", classification="restricted")
        vault.push(plain, "m", labels={"team": "search"})
        vault.push(plain, "m:prod")
    return made


@pytest.fixture
def run(homes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """A command at the first home, or at the second."""

    def at(place: int, *line: object) -> Told:
        return call(capsys, "--home", homes[place], *line)

    return at


@pytest.fixture
def friends(run, tmp_path: Path) -> None:
    for place in (0, 1):
        assert run(place, "trust", "export", tmp_path / f"{place}.json").code == 0
    for place in (0, 1):
        assert run(place, "trust", "pin", tmp_path / f"{1 - place}.json").code == 0


class TestTrust:
    def test_export_and_pin(self, run, homes: tuple[Path, Path], tmp_path: Path) -> None:
        file = tmp_path / "other.json"
        told = run(1, "trust", "export", file, "--json").document("trust export")
        assert told.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert told.vault == read_trust(homes[1] / "trust.json").vault
        assert [key.purpose for key in told.keys] == ["manifest", "record", "log", "bundle"]
        assert run(1, "trust", "export", file, "--json").error.code == "file_exists"
        assert run(0, "trust", "pin", file, "--dry-run").code == 0
        assert not (homes[0] / "trusted").exists()
        assert run(0, "trust", "pin", file, "--json").document("trust pin").vault == told.vault
        entry = run(0, "audit", "--json").document("audit").entries[-1]
        assert (entry.action, entry.details["other_vault"]) == ("trust", told.vault)
        with wiring.connect(home=homes[0]) as vault:
            assert vault.trust.vault != told.vault

    def test_what_isnt_pinned(self, run, homes: tuple[Path, Path], tmp_path: Path) -> None:
        own = tmp_path / "own.json"
        run(0, "trust", "export", own)
        assert run(0, "trust", "pin", own, "--json").error.code == "same_vault"
        assert run(0, "trust", "pin", tmp_path / "no.json", "--json").error.code == "no_trust_file"

    def test_unpin(self, run, friends, homes: tuple[Path, Path], tmp_path: Path) -> None:
        other = read_trust(tmp_path / "1.json")
        (pinned,) = run(0, "trust", "pins", "--json").document("trust pins").pins
        assert (pinned.vault, pinned.serial) == (other.vault, other.serial)
        assert pinned.sha256 == hashlib.sha256(other.to_bytes()).hexdigest()
        assert run(0, "trust", "unpin", other.vault, "--dry-run").code == 0
        assert other.vault in run(0, "trust", "pins").out
        told = run(0, "trust", "unpin", other.vault, "--json").document("trust unpin")
        assert told.vault == other.vault
        assert run(0, "trust", "pins", "--json").document("trust pins").pins == ()
        entry = run(0, "audit", "--json").document("audit").entries[-1]
        assert (entry.action, entry.details) == (
            "trust", {"other_vault": other.vault, "serial": None},
        )  # fmt: skip
        again = run(0, "trust", "unpin", "../keyring", "--json")
        assert (again.error.code, again.code) == ("not_pinned", 4)
        run(1, "create", "n")
        told = run(0, "copy", "m", "n", "--to-home", homes[1], "--json")
        assert told.error.code == "untrusted_vault"

    def test_a_pin_that_somebody_put_there(
        self, run, friends, homes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Whoever writes to the home but can't open its keyring makes no vault trusted."""
        (pinned,) = (homes[0] / "trusted").iterdir()
        (theirs,) = (homes[1] / "trusted").iterdir()
        for content in (theirs.read_bytes(), pinned.read_bytes().replace(b"a", b"b"), b"{}"):
            pinned.write_bytes(content)
            assert run(0, "list", "--json").error.code == "trusted_altered"

    def test_no_older_one(self, run, friends, tmp_path: Path) -> None:
        newer = replace(read_trust(tmp_path / "1.json"), serial=2)
        (tmp_path / "newer.json").write_bytes(newer.to_bytes())
        assert run(0, "trust", "pin", tmp_path / "newer.json").code == 0
        told = run(0, "trust", "pin", tmp_path / "1.json", "--json")
        assert told.error.code == "older_trust_file"


class TestRotate:
    def test_a_chain_of_successors(self, run, homes: tuple[Path, Path], tmp_path: Path) -> None:
        held = tmp_path / "held.json"
        run(0, "trust", "export", held)
        first, second = tmp_path / "first.json", tmp_path / "second.json"
        assert run(0, "trust", "rotate", "record", first, "--dry-run").code == 0
        assert not first.exists()
        told = run(0, "trust", "rotate", "record", first, "--yes", "--json").document(
            "trust rotate"
        )
        assert (told.serial, [key.retired is None for key in told.keys]) == (
            2, [True, False, True, True, True],
        )  # fmt: skip
        assert run(0, "trust", "rotate", "manifest", second, "--yes").code == 0
        with wiring.connect(home=homes[0]) as vault:
            vault.push(homes[0].parent / "plain", "m:new")
            for name in ("m@1", "m:prod", "m:new"):
                with vault.load(name, purpose="inference") as model:
                    assert model.tensors()
        update = ("trust", "update")
        skipped = run(0, *update, second, "--file", held, "--json")
        assert (skipped.error.code, skipped.code) == ("unknown_key", 5)
        assert run(0, *update, first, "--file", held, "--dry-run").code == 0
        assert read_trust(held).serial == 1
        for successor, serial in ((first, 2), (first, 2), (second, 3), (second, 3)):
            told = run(0, *update, successor, "--file", held, "--json").document("trust update")
            assert told.serial == serial
        assert held.read_bytes() == (homes[0] / "trust.json").read_bytes()
        assert run(0, *update, first, "--file", held, "--json").code == 5
        assert read_trust(held).serial == 3

    def test_cut_off_after_the_key_was_made(
        self, run, homes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """The next run takes the key that is there, rather than make a third."""
        taken = tmp_path / "taken.json"
        taken.write_text("{}")
        assert (
            run(0, "trust", "rotate", "log", taken, "--yes", "--json").error.code == "file_exists"
        )
        assert read_trust(homes[0] / "trust.json").serial == 1
        vault = read_trust(homes[0] / "trust.json").vault
        (key,) = (tmp_path / "config").rglob(f"{vault}.key")
        with LocalKeyring(homes[0] / "keyring.json", KeyFile(key)) as keyring:
            made = keyring.rotate_signing("log")
        assert run(0, "trust", "rotate", "log", tmp_path / "next.json", "--yes").code == 0
        trust = read_trust(homes[0] / "trust.json")
        assert [k.public_key for k in trust.keys if k.purpose == "log"][-1] == made
        with LocalKeyring(homes[0] / "keyring.json", KeyFile(key)) as keyring:
            assert keyring.public_key("log") == made

    def test_half_a_deployment(self, run, tmp_path: Path) -> None:
        told = run(
            0, "trust", "rotate", "log", tmp_path / "x", "--deployment", tmp_path, "--yes", "--json"
        )
        assert told.error.code == "usage"


class TestCopy:
    def test_the_whole_way(self, run, friends, homes: tuple[Path, Path]) -> None:
        other = ("--to-home", homes[1])
        assert run(0, "copy", "m:prod", "n", *other, "--json").error.code == "no_model"
        run(1, "create", "n")
        planned = run(0, "copy", "m:prod", "n:live", *other, "--dry-run", "--json")
        assert "grant:admin" in planned.out
        told = run(0, "copy", "m:prod", "n:live", *other, "--json").document("copy")
        assert (told.model, told.version, told.tag, told.new) == ("n", 1, "live", True)
        assert (told.source.model, told.source.version) == ("m", 2)
        assert run(0, "copy", "m:prod", "n:live", *other).out.startswith("n@1 is the copy of m@2")
        shown = run(1, "show", "n:live")
        assert f"m@2 of vault {told.source.vault}" in shown.out
        with (
            wiring.connect(home=homes[1]) as vault,
            vault.load("n:live", purpose="inference") as model,
        ):
            assert bytes(model.read_bytes("config.json")) == b'{"hidden": 256}'

    def test_nobody_is_trusted_at_first(self, run, homes: tuple[Path, Path]) -> None:
        run(1, "create", "n")
        told = run(0, "copy", "m", "n", "--to-home", homes[1], "--json")
        assert (told.error.code, told.code) == ("untrusted_vault", 3)
        assert "trust pin" in told.error.hint

    @pytest.mark.parametrize("pinned_at", [None, 0, 1])
    def test_the_dry_run_tells_who_refuses(
        self, run, homes: tuple[Path, Path], tmp_path: Path, pinned_at: int | None
    ) -> None:
        """The same words as the run's, whichever side hasn't pinned the other."""
        run(1, "create", "n")
        if pinned_at is not None:
            run(1 - pinned_at, "trust", "export", tmp_path / "t.json")
            run(pinned_at, "trust", "pin", tmp_path / "t.json")
        line = ("copy", "m", "n", "--to-home", homes[1], "--json")
        planned, done = run(0, *line, "--dry-run").error, run(0, *line).error
        vaults = [read_trust(home / "trust.json").vault for home in homes]
        assert planned.code == done.code == "untrusted_vault"
        if pinned_at is not None:  # with no pin at all both refuse, and the receiver is asked first
            assert planned.message == done.message
            assert planned.details["vault"] == done.details["vault"] == vaults[1 - pinned_at]
            assert f"an admin of vault {vaults[1 - pinned_at]}" in done.hint
        migration = run(0, "migrate", "vault", "--to-home", homes[1], "--dry-run", "--json")
        assert migration.error.message == planned.message

    def test_the_dry_run_refuses_what_is_revoked(
        self, run, friends, homes: tuple[Path, Path]
    ) -> None:
        run(1, "create", "n")
        with wiring.connect(home=homes[0]) as vault:
            vault.revoke("version", "m@2", reason="leaked")
        line = ("copy", "m:prod", "n", "--to-home", homes[1], "--json")
        planned, done = run(0, *line, "--dry-run").error, run(0, *line).error
        assert planned.code == done.code == "revoked"
        other = run(0, "copy", "m@1", "n", "--to-home", homes[1], "--dry-run", "--json")
        plan = msgspec.json.decode(other.out, type=Plan)
        assert plan.unchecked == UNCHECKED  # two homes: both pins can be seen

    def test_one_vault_is_no_two(self, run, homes: tuple[Path, Path]) -> None:
        line = ("copy", "m", "m", "--to-home", homes[0], "--json")
        assert run(0, *line, "--dry-run").error.code == "same_vault"

    def test_the_other_vault_must_be_named(self, run, monkeypatch) -> None:
        assert run(0, "copy", "m", "n", "--json").error.code == "no_other_vault"
        monkeypatch.setenv("MODELVAULT_TO_HOME", "/nonexistent/vault")
        assert run(0, "copy", "m", "n", "--json").error.code == "no_home"


class TestMigrate:
    def test_everything_and_again(self, run, friends, homes: tuple[Path, Path]) -> None:
        plain = homes[0].parent / "plain"
        with wiring.connect(home=homes[0]) as vault:
            vault.push(plain, "m")
            vault.delete("m@1")
            vault.tag("m@3", "next")
            vault.create("red/x", classification="public")
            vault.push(plain / "config.json", "red/x")
        other = ("--to-home", homes[1])
        planned = run(0, "migrate", "vault", *other, "--dry-run")
        assert "3 versions of 2 models" in planned.out
        assert run(1, "list").out.splitlines()[1:] == []
        told = run(0, "migrate", "vault", *other, "--json").document("migrate vault")
        m, x = told.models
        assert (m.in_order, m.left_out) == (True, ())
        assert (m.made, m.tags, m.tags_kept) == (True, ("next", "prod"), ())
        assert [(v.version, v.became, v.new) for v in m.versions] == [(2, 1, True), (3, 2, True)]
        assert (x.tenant, x.model, len(x.versions)) == ("red", "x", 1)
        with wiring.connect(home=homes[1]) as vault:
            assert vault.show("m").summary.classification == "restricted"
            assert vault.show("m:next").summary.latest == 2
            vault.tag("m@1", "next")  # somebody moves it there
        again = run(0, "migrate", "vault", *other, "--json").document("migrate vault")
        assert not any(version.new for model in again.models for version in model.versions)
        assert (again.size, again.models[0].tags_kept) == (0, ("next", "prod"))
        with wiring.connect(home=homes[1]) as vault:
            tags = {tag.tag: tag.version for tag in vault.show("m").summary.tags}
        assert tags == {"next": 1, "prod": 1}
        assert "  @3 is @2 there" in run(0, "migrate", "vault", *other).out

    def test_a_revoked_version_is_left_out(self, run, friends, homes: tuple[Path, Path]) -> None:
        other = ("--to-home", homes[1])
        with wiring.connect(home=homes[0]) as vault:
            vault.tag("m@1", "old")
            vault.push(homes[0].parent / "plain", "m")
            vault.revoke("version", "m@1", reason="leaked data")
        planned = run(0, "migrate", "vault", *other, "--dry-run")
        assert planned.code == 1
        assert "copy 2 versions of 1 model " in planned.out
        assert "left out: m@1 is revoked (leaked data); tags not set: old" in planned.out
        told = run(0, "migrate", "vault", *other, "--json")
        assert told.code == 1
        (m,) = told.document("migrate vault").models
        assert [(v.version, v.became) for v in m.versions] == [(2, 1), (3, 2)]
        (left,) = m.left_out
        assert (left.version, left.reference, left.reason, left.tags) == (
            1, "m@1", "leaked data", ("old",),
        )  # fmt: skip
        assert m.tags == ("prod",)
        again = run(0, "migrate", "vault", *other)
        assert again.code == 1
        last = again.out.splitlines()[-1]
        assert last == "left out: m@1 is revoked (leaked data); tags not set: old"

    def test_who_is_revoked_gets_nothing(self, run, friends, homes: tuple[Path, Path]) -> None:
        with wiring.connect(home=homes[0]) as vault:
            me = vault.whoami().id
            token = vault.mint_token(sub="other", groups=["admins"])
        with wiring.connect(home=homes[0], token=token) as other:
            other.revoke("principal", me, reason="gone")
        told = run(0, "migrate", "vault", "--to-home", homes[1], "--json")
        assert (told.error.code, told.code) == ("revoked", 3)

    def test_another_order_is_told(self, run, friends, homes: tuple[Path, Path]) -> None:
        with wiring.connect(home=homes[0]) as vault:
            vault.push(homes[0].parent / "plain", "m")
        run(1, "create", "m")
        assert run(0, "copy", "m@3", "m", "--to-home", homes[1]).code == 0
        planned = run(0, "migrate", "vault", "--to-home", homes[1], "--dry-run")
        assert planned.code == 0
        assert "copy 2 versions of 1 model " in planned.out
        assert "m: they won't be in their order there" in planned.out
        told = run(0, "migrate", "vault", "--to-home", homes[1])
        assert told.code == 0
        assert "  @3 is @1 there" in told.out
        assert "not in their order there" in told.out
        (m,) = (
            run(0, "migrate", "vault", "--to-home", homes[1], "--json")
            .document("migrate vault")
            .models
        )
        assert not m.in_order

    def test_whose_the_models_are(self, run, friends, homes: tuple[Path, Path]) -> None:
        run(0, "migrate", "vault", "--to-home", homes[1], "--owner", "idp:ml-team")
        with wiring.connect(home=homes[1]) as vault:
            assert vault.show("m").summary.owner == "idp:ml-team"


class TestByHand:
    def test_invite_pull_import(
        self, run, friends, homes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        run(1, "create", "n")
        invitation, folder = tmp_path / "invitation.json", tmp_path / "sealed"
        assert run(1, "invite", "n:live", invitation, "--dry-run").code == 0
        assert not invitation.exists()
        told = run(1, "invite", "n:live", invitation, "--json").document("invite")
        assert (told.model, told.file) == ("n", str(invitation))
        pulled = run(0, "pull", "m:prod", folder, "--for", invitation, "--json").document("pull")
        assert pulled.version == 2
        assert {path.name for path in folder.iterdir()} == {
            "keys.json", "manifest.json", "model.json", "objects", "tag.json", "trust.json",
        }  # fmt: skip
        assert run(1, "import", folder, "other", "--json").error.code == "other_model"
        assert run(1, "import", folder, "n", "--dry-run").code == 0
        taken = run(1, "import", folder, "n:live", "--json").document("import")
        assert (taken.version, taken.tag, taken.new, taken.source.version) == (1, "live", True, 2)
        before = sorted((homes[1] / "objects").iterdir())
        again = run(1, "import", folder, "n:live", "--json").document("import")
        assert (again.version, again.new) == (1, False)
        assert sorted((homes[1] / "objects").iterdir()) == before
        with (
            wiring.connect(home=homes[1]) as vault,
            vault.load("n:live", purpose="inference") as model,
        ):
            assert bytes(model.read_bytes("config.json")) == b'{"hidden": 256}'

    def test_no_keys_or_others(
        self, run, friends, homes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        run(1, "create", "n")
        first, second = tmp_path / "first.json", tmp_path / "second.json"
        assert run(1, "invite", "n", first).code == run(1, "invite", "n", second).code == 0
        for name, wanted in (
            ("bare", ()),
            ("with-first", ("--for", first)),
            ("with-second", ("--for", second)),
        ):
            assert run(0, "pull", "m@1", tmp_path / name, *wanted).code == 0
        assert run(1, "import", tmp_path / "bare", "n", "--json").error.code == "not_invited"
        assert run(1, "import", tmp_path / "nowhere", "n", "--json").code == 4
        keys = tmp_path / "with-second" / "keys.json"
        sealed = json.loads((tmp_path / "with-first" / "keys.json").read_bytes())["handed"][
            "sealed"
        ]
        mixed = json.loads(keys.read_bytes())
        mixed["handed"]["sealed"] = sealed
        keys.write_text(json.dumps(mixed))
        assert run(1, "import", tmp_path / "with-second", "n", "--json").error.code == "not_for_us"
        objects = sorted(
            (tmp_path / "with-first" / "objects").iterdir(), key=lambda p: p.stat().st_size
        )
        data = bytearray(objects[-1].read_bytes())
        data[-1] ^= 1
        objects[-1].write_bytes(data)
        assert run(1, "import", tmp_path / "with-first", "n", "--json").error.code == "altered"
        data[-1] ^= 1
        objects[-1].write_bytes(data)
        assert run(1, "import", tmp_path / "with-first", "n").code == 0

    def test_an_untrusted_folder_is_refused_before_anything_is_carried(
        self, run, friends, homes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        run(1, "create", "n")
        run(1, "invite", "n", tmp_path / "i.json")
        run(0, "pull", "m@1", tmp_path / "f", "--for", tmp_path / "i.json")
        (pinned,) = (homes[1] / "trusted").iterdir()
        pinned.unlink()
        assert run(1, "import", tmp_path / "f", "n", "--json").error.code == "untrusted_vault"
        assert list((homes[1] / "objects").iterdir()) == []

"""Each command against a real embedded vault, in this process: its lines and its documents."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault import wiring
from modelvault.errors import AccessDenied
from modelvault_cli.frame import Declined
from support.command import Told, call, model_folder
from support.homes import isolated

Run = Callable[..., Told]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A vault with a model `minilm`: two versions, and the tag `prod` on the second."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        isolated(folder, patch)
        wiring.init(user="me")
        plain = model_folder(folder / "plain")
        with wiring.connect() as vault:
            vault.create("minilm")
            vault.push(plain, "minilm", labels={"team": "search"})
            vault.push(plain, "minilm:prod")
        yield folder


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *line: call(capsys, *line)


def fresh(run: Run, name: str) -> str:
    """A model of its own for a test that changes it."""
    assert run("create", name).code == 0
    return name


def test_list(run: Run) -> None:
    told = run("list", "--filter", "mini*")
    assert told.code == 0
    header, row = told.out.splitlines()
    assert header.split() == ["MODEL", "LATEST", "TAGS", "CLASSIFICATION", "OWNER", "SIZE"]
    assert row.split()[:4] == ["minilm", "2", "prod→2", "internal"]
    listing = run("list", "--filter", "mini*", "--json").document("list")
    assert [model.model for model in listing.models] == ["minilm"]
    assert listing.next is None


def test_list_in_pages(run: Run) -> None:
    for name in ("page-a", "page-b", "page-c"):
        fresh(run, name)
    first = run("list", "--filter", "page-*", "--limit", 2, "--json").document("list")
    assert [model.model for model in first.models] == ["page-a", "page-b"]
    assert first.next == "page-b"
    told = run("list", "--filter", "page-*", "--limit", 2)
    assert "--after page-b" in told.err
    rest = run("list", "--filter", "page-*", "--after", first.next, "--json").document("list")
    assert [model.model for model in rest.models] == ["page-c"]


@pytest.mark.parametrize(
    "line",
    [
        ["show"], ["load", "-p", "inference"], ["audit", "--model"], ["lease", "list", "--model"],
        ["pull", "--dry-run", "{}", "./sealed"], ["export", "--dry-run", "{}", "./plain"],
        ["tag", "--dry-run", "{}", "there"], ["policy", "explain", "load", "-p", "inference"],
    ],
)  # fmt: skip
def test_an_address_is_a_reference(run: Run, line: list[str]) -> None:
    def calls(reference: str) -> Told:
        words = line if "{}" in line else [*line, "{}"]
        return run(*[word.format(reference) for word in words])

    told = calls("modelvault://minilm:prod" if line[-1] != "--model" else "modelvault://minilm")
    assert told.code == 0, told.err
    assert "modelvault://" not in told.out
    refused = calls("modelvault://minilm:prod/config.json")
    assert refused.code == 2
    assert refused.err.startswith("error[bad_reference]: ")
    assert "names a file of the model minilm:prod" in refused.err
    assert "tenant/name:tag" in calls("modelvault://team/minilm").err


def test_an_address_of_a_target(run: Run, place: Path, tmp_path: Path) -> None:
    fresh(run, "addressed")
    assert run("push", place / "plain", "modelvault://addressed:one").code == 0
    base = "modelvault://minilm:prod"
    assert run("push", place / "plain", "addressed", "--base", base).code == 0
    shown = run("show", "addressed", "--json").document("show").selected
    assert shown.provenance.base == "minilm@2"
    address = "modelvault://addressed:one/"
    assert run("invite", address, tmp_path / "invitation.json", "--dry-run").code == 0
    line = ("revoke", "version", "modelvault://addressed@1", "--reason", "x", "--dry-run")
    assert "would revoke version default/addressed@1" in run(*line).out


def test_nothing_to_list(run: Run) -> None:
    told = run("list", "--filter", "nothing-like-it")
    assert (told.code, told.out, told.err) == (0, "", "no models\n")
    assert run("list", "--filter", "nothing-like-it", "--json").err == ""


def test_show(run: Run) -> None:
    told = run("show", "minilm@1")
    assert told.code == 0
    for part in ("minilm", "prod→2", "team=search", "safetensors", "extra/notes.txt", "local:me"):
        assert part in told.out
    shown = run("show", "minilm:prod", "--json").document("show")
    assert shown.selected.version == 2
    assert [one.version for one in shown.versions] == [2, 1]
    assert shown.selected.manifest == shown.versions[0].manifest
    assert shown.selected.previous == shown.versions[1].manifest
    assert {file.path for file in shown.selected.files} == {
        "config.json", "extra/notes.txt", "model.safetensors",
    }  # fmt: skip


def test_show_without_a_version(run: Run) -> None:
    fresh(run, "empty")
    shown = run("show", "empty", "--json").document("show")
    assert shown.selected is None
    assert shown.versions == ()
    assert "internal" in run("show", "empty").out


def test_push_tells_what_it_found(run: Run, place: Path) -> None:
    name = fresh(run, "pushed")
    folder = model_folder(place / "with-pickle")
    (folder / ".hidden").write_text("x")
    (folder / "old.pt").write_bytes(b"\x80\x04K\x01.")
    (folder / "shard-2.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    line = (
        "push", folder, f"{name}:new", "--label", "a=b=c", "--base", "bert", "--training-run", "r1",
        "--source-commit", "abc", "--base-digest", "sha256:" + "0" * 64, "--public-metadata",
    )  # fmt: skip
    told = run(*line)
    assert told.code == 0
    assert "found 5 files" in told.err
    assert "2 safetensors shards" in told.err
    assert "warning: old.pt is a pickle" in told.err
    assert ".hidden" in told.err
    assert "pushed:   pushed@1" in told.out
    shown = run("show", f"{name}:new", "--json").document("show").selected
    assert shown.labels == {"a": "b=c"}
    assert shown.provenance.base == "bert"
    assert shown.provenance.training_run == "r1"
    assert shown.provenance.source_commit == "abc"
    assert shown.hints.pickles == ("old.pt",)
    assert shown.tensors == 4
    assert "pickles:" in run("show", name).out


def test_push_names_the_path_as_typed(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert "./nowhere doesn't exist" in run("push", "./nowhere", "minilm").err
    swapped = run("push", "minilm:prod", "./plain")
    assert swapped.code == 2
    assert "error[no_such_path]: minilm:prod doesn't exist, but ./plain does" in swapped.err
    assert "hint: the path comes first: modelvault push ./plain minilm:prod" in swapped.err


def test_push_document(run: Run, place: Path) -> None:
    name = fresh(run, "pushed-json")
    told = run("push", place / "plain" / "config.json", name, "--json")
    pushed = told.document("push")
    assert (pushed.version, pushed.files, pushed.size) == (1, 1, 15)
    assert pushed.formats == ("json",)
    assert not pushed.dry_run
    assert "found 1 file, 15 B" in told.err


def test_push_dry_run_pushes_nothing(run: Run, place: Path) -> None:
    name = fresh(run, "pushed-dry")
    planned = run("push", place / "plain", name, "--dry-run", "--json").document("push")
    assert planned.dry_run
    assert planned.version is None
    assert planned.files == 3
    assert "would push" in run("push", place / "plain", name, "--dry-run").out
    assert run("show", name, "--json").document("show").versions == ()


@pytest.mark.parametrize(
    ("line", "code", "exit_code"),
    [
        (["push", "/nowhere", "minilm"], "no_such_path", 2),
        (["push", "", "minilm"], "usage", 2),
        (["export", "minilm", ""], "usage", 2),
        (["list", "--home", ""], "usage", 2),
        (["push", ".", "not a reference"], "bad_reference", 2),
        (["push", ".", "minilm", "--base-digest", "sha1:00"], "bad_provenance", 2),
        (["push", ".", "minilm", "--label", f"note={'x' * 300}"], "bad_labels", 2),
        (["show", "nosuch"], "no_model", 4),
        (["show", "minilm:nosuch"], "no_tag", 4),
        (["show", "minilm@99"], "no_version", 4),
        (["load", "minilm", "-p", "marketing"], "denied", 3),
        (["create", "minilm"], "model_exists", 4),
        (["classify", "minilm"], "usage", 2),
        (["delete", "minilm@1"], "needs_yes", 2),
        (["gc"], "needs_yes", 2),
        (["revoke", "version", "minilm", "--reason", "x"], "bad_reference", 2),
        (["lease", "show", "0" * 32], "no_lease", 4),
        (["policy", "explain", "frobnicate", "minilm"], "bad_action", 2),
        (["policy", "explain", "load", "minilm", "--group", "x"], "usage", 2),
        (["policy", "rollback", "sha256:" + "0" * 64, "--yes"], "no_policy", 4),
        (["policy", "rollback", "sha256:0", "--yes"], "bad_revision", 2),
        (["init"], "home_exists", 4),
        (["init", "--dry-run"], "home_exists", 4),
        (["init", "--broker", "https://b"], "usage", 2),
        (["doctor", "--broker", "https://b"], "usage", 2),
        (["list", "--broker", "https://b"], "no_trust_file", 4),
        (["list", "--broker", "http://b"], "bad_broker", 2),
        (["list", "--profile", "nosuch"], "no_profile", 4),
        (["list", "--home", "/nowhere"], "no_home", 4),
        (["token", "mint", "--for", "9d"], "bad_lifetime", 2),
    ],
)
def test_refusals(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], code: str,
    exit_code: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(place / "plain")
    told = run(*line)
    assert told.code == exit_code
    assert told.out == ""
    assert f"error[{code}]: " in told.err
    assert "Traceback" not in told.err
    document = run(*line, "--json")
    assert document.code == exit_code
    assert document.error.code == code


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["init", "--home", "plain"], "isn't a vault"),
        (["init", "--home", "plain"], "one that is empty"),
        (["init", "--home", "plain", "--dry-run"], "one that is empty"),
        (["init", "--dry-run"], "use the vault that is there"),
        (["list", "--home", "plain"], "something else is there"),
        (["list", "--home", "/nowhere"], "make one with `modelvault init`"),
        (["list", "--profile", "nosuch"], "write [profiles.nosuch] into "),
        (["list", "--profile", "nosuch"], "config.toml"),
        (["policy", "revisions"], "policy/published/"),
        (["revoke", "lease", "123", "--reason", "x", "--yes"], "`modelvault lease list`"),
        (["delete", "minilm@2", "--yes"], "`modelvault tag default/minilm@<version> <tag>`"),
        (["trust", "pin", "plain/config.json"], "it isn't a trust file"),
    ],
)
def test_hints_say_what_to_do(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], told: str
) -> None:
    monkeypatch.chdir(place)
    failed = run(*line)
    assert failed.code != 0
    assert told in failed.err


def test_a_denial_tells_all_there_is(run: Run) -> None:
    error = run("load", "minilm:prod", "-p", "marketing", "--json").error
    assert error.family == "access_denied"
    assert {"subject", "action", "model", "purpose", "reasons", "decision_id", "owner"} <= set(
        error.details
    )


def test_load(run: Run) -> None:
    told = run("load", "minilm:prod", "--purpose", "inference")
    assert told.code == 0
    assert "64 x 256" in told.out
    assert "loaded: minilm@2 for inference" in told.out
    loaded = run("load", "minilm:prod", "-p", "inference", "--json").document("load")
    assert {tensor.name: tensor.shape for tensor in loaded.tensors} == {
        "a.weight": (64, 256),
        "b.bias": (4,),
    }
    assert loaded.size == sum(file.size for file in loaded.files)
    assert loaded.obligations.max_ttl_s is not None


def test_load_some_files(run: Run) -> None:
    line = ("load", "minilm", "-p", "inference", "--file", "config.json", "--json")
    loaded = run(*line).document("load")
    assert [file.path for file in loaded.files] == ["config.json"]
    assert loaded.tensors == ()
    assert "config.json" in run(*line[:-1]).out


def test_pull(run: Run, tmp_path: Path) -> None:
    assert "would copy" in run("pull", "minilm:prod", tmp_path / "c", "--dry-run").out
    assert not (tmp_path / "c").exists()
    pulled = run("pull", "minilm:prod", tmp_path / "c", "--json").document("pull")
    assert pulled.version == 2
    assert (tmp_path / "c" / "manifest.json").is_file()
    assert run("pull", "minilm:prod", tmp_path / "c").code == 4
    assert "ciphertext" in run("pull", "minilm:prod", tmp_path / "d").out


def test_export(run: Run, place: Path, tmp_path: Path) -> None:
    assert "would write" in run("export", "minilm", tmp_path / "p", "--dry-run").out
    assert not (tmp_path / "p").exists()
    told = run("export", "minilm", tmp_path / "p")
    assert told.code == 0
    assert "in the clear" in told.err
    for name in ("config.json", "extra/notes.txt", "model.safetensors"):
        assert (tmp_path / "p" / name).read_bytes() == (place / "plain" / name).read_bytes()
    line = ("export", "minilm", tmp_path / "q", "--file", "config.json", "--json")
    exported = run(*line).document("export")
    assert [file.path for file in exported.files] == ["config.json"]


def test_create_and_classify(run: Run) -> None:
    assert "would create" in run("create", "classified", "--dry-run").out
    made = run("create", "classified", "-c", "restricted", "--owner", "local:team", "--json")
    model = made.document("create").model
    assert (model.classification, model.owner) == ("restricted", "local:team")
    assert "would set public" in run("classify", "classified", "-c", "public", "--dry-run").out
    changed = run("classify", "classified", "-c", "public", "--json").document("classify").model
    assert (changed.classification, changed.owner) == ("public", "local:team")
    assert "owner local:you" in run("classify", "classified", "--owner", "local:you").out


def test_a_dry_run_tells_of_what_would_be_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("create", "minilm", "--dry-run", "--json").error.code == "model_exists"
    token = run("token", "mint", "--sub", "ci", "--group", "inference").out.strip()
    monkeypatch.setenv("MODELVAULT_TOKEN", token)
    error = run("delete", "minilm@1", "--dry-run", "--json").error
    assert error.code == "would_be_denied"
    assert error.exit_code == 3
    assert error.details["reasons"]


def test_a_classification_that_the_policy_lacks(run: Run) -> None:
    warning = "warning: the policy has no classification 'secrt'"
    told = run("create", "misspelt", "-c", "secrt")
    assert told.code == 0
    assert warning in told.err
    assert run("load", "misspelt", "-p", "inference").code != 0
    assert "warning" not in run("classify", "misspelt", "-c", "internal").err
    told = run("classify", "misspelt", "-c", "secrt", "--json")
    assert warning in told.err
    assert told.document("classify").model.classification == "secrt"
    assert "warning" not in run("classify", "misspelt", "--owner", "local:olga").err


def test_a_warning_never_fails_what_was_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: Any, **_options: Any) -> Any:
        raise AccessDenied("denied", "no", "ask")

    monkeypatch.setattr("modelvault.client.session.Session.explain", refused)
    told = run("create", "unexplained", "-c", "secrt")
    assert (told.code, "warning" in told.err) == (0, False)


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder that all may look into; `home` and `file` in it are for nobody else to open."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "home").mkdir(mode=0o700)
        (Path(folder) / "file").touch(mode=0o600)
        yield Path(folder)


def as_nobody(act: Callable[[], Told]) -> Told:
    """In this process, since another user may see neither Python nor the code."""
    act()  # all imports are done
    os.setresuid(65534, 65534, 0)
    try:
        return act()
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
@pytest.mark.parametrize(
    ("line", "code", "exit_code"),
    [
        (["list"], "no_home", 4),
        (["list", "--home", "{}/home"], "no_home", 4),
        (["push", "{}/file", "m", "--home", "{}/home"], "no_home", 4),
        (["pull", "m", "there", "--for", "{}/file"], "no_invitation", 4),
        (["trust", "pin", "{}/file"], "no_trust_file", 4),
        (["serve", "{}/file"], "bad_deployment", 2),
    ],
)
def test_what_cant_be_read_is_told_by_its_reader(
    run: Run, theirs: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], code: str,
    exit_code: int,
) -> None:  # fmt: skip
    """In the same words, whether an option names it or a variable."""
    monkeypatch.setenv("MODELVAULT_HOME", str(theirs / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")  # the test's own is root's
    words = [word.format(theirs) for word in line]
    error = as_nobody(lambda: run(*words, "--json")).error
    assert (error.code, error.exit_code) == (code, exit_code)


def test_verbose_shows_the_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("logging.basicConfig", lambda **settings: asked.append(settings["level"]))
    assert run("list", "-v").code == 0
    assert asked == [logging.INFO]
    assert run("list").code == 0
    assert len(asked) == 1


def test_tag(run: Run) -> None:
    assert "would make beta mean minilm@1" in run("tag", "minilm@1", "beta", "--dry-run").out
    tagged = run("tag", "minilm@1", "beta", "--json").document("tag")
    assert (tagged.version, tagged.serial) == (1, 1)
    assert run("tag", "minilm@2", "beta").out == "minilm:beta is now version 2\n"


def test_delete_and_gc(run: Run, place: Path) -> None:
    name = fresh(run, "deleted")
    for _ in range(2):
        assert run("push", place / "plain", name).code == 0
    assert "would hide" in run("delete", f"{name}@1", "--dry-run").out
    assert run("delete", f"{name}@1", "--yes").code == 0
    assert run("load", f"{name}@1", "-p", "inference").code == 4
    assert run("delete", name, "--yes", "--json").document("delete").target == name
    assert run("show", name).code == 4
    swept = run("gc", "--dry-run", "--json").document("gc")
    assert swept.dry_run
    assert "would remove 0 versions" in run("gc", "--dry-run").out
    assert "removed 0 versions" in run("gc", "--yes").out


def test_a_no_changes_nothing_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no(question: str, *, yes: bool) -> None:
        asked.append(question)
        assert not yes
        raise Declined

    monkeypatch.setattr("modelvault_cli.output.confirm", no)
    for line in (
        ["delete", "minilm"],
        ["gc"],
        ["revoke", "principal", "local:x", "--reason", "r"],
        ["lease", "revoke", "0" * 32, "--reason", "r"],
        ["policy", "publish"],
    ):
        told = run(*line)
        assert (told.code, told.out, told.err) == (1, "", "nothing was changed\n")
    assert len(asked) == 5
    error = run("gc", "--json").error
    assert (error.code, error.exit_code) == ("declined", 1)


def test_rotate(run: Run, place: Path) -> None:
    name = fresh(run, "rotated")
    assert run("push", place / "plain", name).code == 0
    assert "would rewrap" in run("rotate", name, "--dry-run").out
    rotated = run("rotate", name, "--json").document("rotate")
    assert (rotated.kek_version, rotated.rewrapped) == (2, 2)  # DEK and content key
    assert "key version 3" in run("rotate", name).out
    assert run("load", name, "-p", "inference").code == 0


@pytest.mark.parametrize(
    ("line", "missing", "code"),
    [
        (["demo"], "tokenizers", "no_demo_model"),
        (["serve", "broker.toml"], "anyio", "missing_extra"),
        (["serve", "broker.toml"], "modelvault.server.app", "internal"),  # ours: that is a bug
    ],
)
def test_what_is_not_installed_is_no_bug(line: list[str], missing: str, code: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; "
        "from modelvault_cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *line, "--json"], capture_output=True, check=False
    )
    error = json.loads(ended.stdout)["error"]
    assert (error["code"], "pip install" in error["hint"]) == (code, code != "internal")


def test_revoke_a_version(run: Run, place: Path) -> None:
    name = fresh(run, "revoked")
    assert run("push", place / "plain", name).code == 0
    line = ("revoke", "version", f"{name}@1", "--reason", "leaked")
    assert "would revoke version default/revoked@1" in run(*line, "--dry-run").out
    revoked = run(*line, "--yes", "--json").document("revoke")
    assert (revoked.target, revoked.ended) == ("default/revoked@1", 0)
    assert run("load", f"{name}@1", "-p", "inference").code in {3, 4}
    assert run("push", place / "plain", name).code == 0
    versions = run("show", name, "--json").document("show").versions
    assert [one.revoked_at is not None for one in versions] == [False, True]
    told = [line.split() for line in run("show", name).out.splitlines()]
    assert [row[0] for row in told if "revoked" in row[2:]] == ["1"]


def test_revoke_a_principal(run: Run) -> None:
    token = run("token", "mint", "--sub", "bad", "--group", "admins").out.strip()
    line = ("revoke", "principal", "local:bad", "--reason", "stolen", "--for", "1h")
    assert "would revoke" in run(*line, "--dry-run").out
    assert "revoked principal local:bad" in run(*line, "--yes").out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELVAULT_TOKEN", token)
        assert run("load", "minilm", "-p", "inference", "--json").error.code == "revoked"


def test_leases(run: Run) -> None:
    with wiring.connect() as vault, vault.load("minilm", purpose="inference"):
        (lease,) = run("lease", "list", "--json").document("lease list").leases
        assert "running" in run("lease", "list", "--model", "minilm").out
        shown = run("lease", "show", lease.id, "--json").document("lease show").lease
        assert shown.purpose == "inference"
        assert lease.id in run("lease", "show", lease.id).out
        line = ("lease", "revoke", lease.id, "--reason", "test")
        assert "would revoke" in run(*line, "--dry-run").out
        assert run(*line, "--yes", "--json").document("lease revoke").ended == 1
        assert f"revoked lease {lease.id}" in run(*line, "--yes").out
    assert "ended: " in run("lease", "list", "--ended").out
    told = run("lease", "list")
    assert (told.out, told.err) == ("", "no running leases\n")


def test_whoami_and_tokens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    who = run("whoami", "--json").document("whoami")
    assert (who.id, who.groups) == ("local:me", ("local:admins",))
    assert "local:admins" in run("whoami").out
    line = ("token", "mint", "--sub", "ci", "--group", "pushers", "--for", "2m", "--claim", "a=b")
    minted = run(*line, "--json").document("token mint")
    assert minted.lifetime_s == 120
    monkeypatch.setenv("MODELVAULT_TOKEN", minted.token)
    who = run("whoami", "--json").document("whoami")
    assert (who.id, who.groups, who.bound_by) == ("local:ci", ("local:pushers",), "bearer")
    denied = run("load", "minilm", "-p", "inference")
    assert denied.code == 3
    assert minted.token not in denied.err
    monkeypatch.setenv("MODELVAULT_TOKEN", "rubbish")
    assert run("whoami").code == 7


def test_audit(run: Run) -> None:
    fresh(run, "newest")
    newest = run("audit", "--limit", 2, "--json").document("audit")
    assert (newest.entries[-1].model, newest.next) == ("newest", None)
    assert newest.previous == newest.entries[0].seq
    told = run("audit", "--limit", 2)
    assert [row.split()[0] for row in told.out.splitlines()[1:]] == [
        str(entry.seq) for entry in newest.entries
    ]
    assert f"--before {newest.previous}" in told.err
    whole = run("audit", "--after", 0, "--limit", 1000, "--json").document("audit")
    assert [entry.seq for entry in whole.entries] == list(range(1, len(whole.entries) + 1))
    assert (whole.previous, whole.next) == (None, None)
    assert whole.entries[-2:] == newest.entries


def test_audit_in_pages(run: Run) -> None:
    page = run("audit", "--after", 2, "--model", "minilm", "--json").document("audit")
    assert {entry.model for entry in page.entries} == {"minilm"}
    assert page.entries[0].seq > 2
    told = run("audit", "--after", 0, "--limit", 2)
    assert " init " in told.out
    assert "--after 2" in told.err
    back = run("audit", "--before", 3, "--json").document("audit")
    assert ([entry.seq for entry in back.entries], back.previous, back.next) == ([1, 2], None, 2)
    between = run("audit", "--after", 1, "--before", 4, "--json").document("audit")
    assert [entry.seq for entry in between.entries] == [2, 3]
    assert (between.previous, between.next) == (2, None)
    none = run("audit", "--before", 1)
    assert (none.code, none.out, none.err) == (0, "", "no entries\n")


def test_audit_says_what_was_changed(run: Run) -> None:
    name = fresh(run, "audited")
    assert " explain " not in run("audit", "--model", name).out  # nothing was named to look up
    assert run("classify", name, "-c", "restricted").code == 0
    assert run("classify", name, "--owner", "local:olga").code == 0
    line = ("revoke", "principal", "local:gone", "--reason", "left")
    assert run(*line, "--yes").out == "revoked principal local:gone; 0 running leases ended\n"
    rows = run("audit", "--model", name).out.splitlines()
    asked = [row for row in rows if " explain " in row]
    assert {row.split()[-3:] == ["load", "by", "local:me"] for row in asked} == {True}
    rows = [row for row in rows if row not in asked]
    assert rows[0].endswith("WHAT")
    assert rows[1].endswith("classification internal, owner local:me")
    assert rows[2].endswith("classification internal→restricted")
    assert rows[3].endswith("owner local:me→local:olga")
    whole = run("audit", "--limit", 1000).out.splitlines()
    assert any(row.endswith("principal local:gone") for row in whole)


def test_policy_explain(run: Run) -> None:
    told = run("policy", "explain", "load", "minilm", "-p", "inference")
    assert told.code == 0
    assert "decision:    allowed" in told.out
    line = ("policy", "explain", "load", "minilm", "-p", "inference", "--sub", "x", "--json")
    answer = run(*line)
    assert answer.code == 1
    assert not answer.document("policy explain").allowed
    line = (*line[:-1], "--group", "inference", "--json")
    assert run(*line).document("policy explain").allowed
    line = ("policy", "explain", "load", "minilm", "-p", "inference", "--json")
    named = ("--sub", "local:x", "--group", "local:inference")  # as data.json and whoami write it
    assert run(*line, *named).document("policy explain").allowed


def test_policy_publish(run: Run, place: Path) -> None:
    data = place / "home" / "policy" / "data.json"
    text = data.read_text()
    changed = json.loads(text)
    changed["limits"]["max_concurrent_leases"] = 999
    data.write_text(json.dumps(changed))
    try:
        planned = run("policy", "publish", "--dry-run", "--json").document("policy publish")
        assert "would publish" in run("policy", "publish", "--dry-run").out
        published = run("policy", "publish", "--yes", "--json").document("policy publish")
        assert published.revision == planned.revision
        assert (
            run("policy", "explain", "list", "minilm", "--json").document("policy explain").revision
            == published.revision
        )
    finally:
        data.write_text(text)
    assert "in force" in run("policy", "publish", "--yes").out


def test_policy_check(run: Run, place: Path) -> None:
    assert run("policy", "check").out == "no findings\n"
    data = place / "home" / "policy" / "data.json"
    text = data.read_text()
    data.write_text(text.replace('"purposes": ["inference"]', '"purpose": ["inference"]'))
    try:
        told = run("policy", "check", "--json")
        assert told.code == 1
        assert "unknown_key" in {one.code for one in told.document("policy check").findings}
        assert "data.json:" in run("policy", "check").out
        data.write_text("{")
        assert "bad_json" in run("policy", "check").out
    finally:
        data.write_text(text)
    site = place / "home" / "policy" / "site" / "broken.rego"
    site.write_text("package modelvault.site\n\ngrants contains")
    try:
        assert "site/broken.rego" in run("policy", "check").out
    finally:
        site.unlink()


def test_policy_test(run: Run, place: Path) -> None:
    told = run("policy", "test", "--json")
    assert told.code == 0
    assert told.document("policy test").cases >= 180
    table = place / "table.json"
    table.write_text(json.dumps({"cases": [{"input": {}, "decision": True, "reasons": []}]}))
    told = run("policy", "test", table)
    assert told.code == 1
    assert "1 cases, 1 failed" in told.out
    table.write_text("[]")
    assert run("policy", "test", table, "--json").error.code == "bad_cases"


def test_policies_of_a_folder(run: Run, place: Path, tmp_path: Path) -> None:
    """The folder's are looked at, and not the home's, which have no mistake."""
    folder = tmp_path / "policies"
    shutil.copytree(place / "home" / "policy", folder)
    assert run("policy", "check", folder).out == "no findings\n"
    assert run("policy", "test", folder).code == 0
    data = folder / "data.json"
    data.write_text(data.read_text().replace('"purposes": ["inference"]', '"purpose": ["other"]'))
    assert run("policy", "check", folder).code == 1
    assert run("policy", "check").code == 0
    revisions = [
        run("policy", "test", *named, "--json").document("policy test").revision
        for named in ((), (folder,))
    ]
    assert revisions[0] != revisions[1]
    assert run("policy", "test", folder, folder.parent, "--json").error.code == "usage"
    for command in ("check", "publish"):
        told = run("policy", command, tmp_path / "none", "--json")
        assert told.error.code == "bad_policy_folder"


@pytest.mark.parametrize("command", ["check", "test", "publish", "diff"])
def test_a_brokers_policies_are_no_homes(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """With a broker set and no FOLDER, nothing is asked and no home is looked at."""
    monkeypatch.setenv("MODELVAULT_BROKER", "https://vault.example")
    told = run("policy", command, "--json")
    assert (told.error.code, told.code) == ("no_folder", 2)
    assert "https://vault.example" in told.error.message
    assert "FOLDER" in told.error.hint
    home = os.environ["MODELVAULT_HOME"]
    assert run("policy", "test", "--home", home).code == 0


def test_policy_test_without_a_vault(run: Run, tmp_path: Path) -> None:
    told = run("policy", "test", "--home", tmp_path)
    assert told.code == 0
    assert "shipped policies" in told.err


def test_init(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "new"
    assert "would make a vault" in run("init", "--home", home, "--dry-run").out
    assert not home.exists()
    line = ("init", "--home", home, "--user", "you", "--group", "pushers", "--digest", "sha256")
    made = run(*line, "--json").document("init")
    assert made.home == str(home)
    assert Path(made.root_key).is_file()
    who = run("whoami", "--home", home, "--json").document("whoami")
    assert (who.id, who.groups) == ("local:you", ("local:pushers",))
    assert "next: modelvault create" in run("init", "--home", tmp_path / "other").out


def test_doctor_checks_homes_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_BROKER", "https://broker.example")
    told = run("doctor")
    assert told.code == 2
    assert "error[not_a_home]" in told.err
    assert "modelvault whoami" in told.err


def test_doctor(run: Run, place: Path) -> None:
    told = run("doctor", "--json")
    assert told.code == 0
    checkup = told.document("doctor")
    assert checkup.healthy
    assert {"home", "permissions", "keys", "policy", "clock", "swap", "core dumps"} <= {
        finding.check for finding in checkup.findings
    }
    ledger = place / "home" / "ledger.db"
    ledger.chmod(0o644)
    try:
        told = run("doctor")
        assert told.code == 1
        assert "✗ permissions" in told.out
        assert "mend: chmod" in told.out
    finally:
        ledger.chmod(0o600)


@pytest.mark.parametrize(
    ("start", "offered"),
    [("mini", {"minilm", "minilm:prod"}), ("minilm:p", {"minilm:prod"}), ("nosuch", set())],
)
def test_completes_references(run: Run, place: Path, start: str, offered: set[str]) -> None:
    from support.command import spawn

    env = {
        "_MODELVAULT_COMPLETE": "zsh_complete",
        "COMP_WORDS": f"modelvault show {start}",
        "COMP_CWORD": "2",
    }
    told = spawn(env={**os.environ, **env})
    assert {line for line in told.out.splitlines() if line.startswith("mini")} - {
        "minilm:beta"
    } == offered


def test_completes_addresses(run: Run, place: Path) -> None:
    import click

    from modelvault_cli.commands import arguments
    from modelvault_cli.frame import Globals
    from modelvault_cli.main import cli

    context = click.Context(cli, obj=Globals())
    offered = arguments.complete_reference(context, click.Argument(["x"]), "modelvault://minilm:p")
    assert offered == ["modelvault://minilm:prod"]


def test_completes_nothing_without_a_vault(run: Run, tmp_path: Path) -> None:
    import click

    from modelvault_cli.commands import arguments
    from modelvault_cli.frame import Globals
    from modelvault_cli.main import cli

    options = Globals()
    options.home = tmp_path
    context = click.Context(cli, obj=options)
    assert arguments.complete_reference(context, click.Argument(["x"]), "") == []

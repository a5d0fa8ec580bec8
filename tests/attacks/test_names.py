"""Names that look like other names, and texts that look like patterns or SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, AuthenticationError, InvalidRequest, NotFound
from support.attacked import as_somebody, folder, rows
from support.command import call
from support.homes import isolated


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=4096)
    return place


@pytest.fixture
def vault(home: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def push(vault: Session, place: Path, content: str, reference: str) -> None:
    vault.push(folder(place / content, {"a.dat": content.encode()}), reference)


def content(vault: Session, reference: str) -> str:
    with vault.load(reference, purpose="inference") as model:
        return model.open("a.dat").read().decode()


def test_tags_that_are_called_like_versions(vault: Session, tmp_path: Path) -> None:
    vault.create("m")
    push(vault, tmp_path, "one", "m")
    push(vault, tmp_path, "two", "m")
    for tag in ("2", "02", "v2", "sha256", "latest", "head"):
        vault.tag("m@1", tag)
        assert content(vault, f"m:{tag}") == "one"
    assert content(vault, "m@2") == "two"
    assert content(vault, "m") == "two"
    digest = vault.show("m@1").versions[1].manifest
    assert content(vault, f"m@{digest}") == "one"
    with pytest.raises(InvalidRequest):
        vault.tag("m@1", digest)
    with pytest.raises(InvalidRequest):
        vault.tag("m@1", "@2")


def test_names_that_differ_in_case_or_tenant_are_others(
    home: Path, vault: Session, tmp_path: Path
) -> None:
    for name in ("m", "M", "acme/m", "Default/m"):
        vault.create(name)
        push(vault, tmp_path, name.replace("/", "-"), f"{name}:prod")
    for name in ("m", "M", "acme/m", "Default/m"):
        assert content(vault, f"{name}:prod") == name.replace("/", "-")
    assert content(vault, "default/m:prod") == "m"
    keyring = json.loads((home / "keyring.json").read_text())
    assert len(keyring["keks"]) == 4
    assert [one.model for one in vault.list()] == ["M", "m"]
    assert [one.model for one in vault.list(tenant="acme")] == ["m"]
    assert vault.list(tenant="ACME") == ()
    vault.delete("acme/m")
    assert content(vault, "m:prod") == "m"


LOOKALIKES = (
    "rn\u200b", "m\u0301", "\uff4d", "\u043c", "m ", " m", "m\n", "m\0", "m%00", "m/../n", "../m",
    "/m", "m/", "a/b/m", "m@", "m:", "m@0", "m@01", "m@-1", "m@1.0", "m@1e1", "m@\u0661", "m@1@2",
    "m:a@1", "m@1:a", "m@sha256:00", "m@sha256:" + "A" * 64, "m@md5:" + "0" * 64, "m:a:b", "m:-a",
    ".m", "-m", "m;n", "m'--", 'm"', "m*", "m?", "[m]", "$m", "~m", "m\\n", "m" * 97, "", "@1",
)  # fmt: skip


def test_what_is_no_name(vault: Session, tmp_path: Path) -> None:
    vault.create("m")
    place = folder(tmp_path / "in", {"a.dat": b"a"})
    for name in LOOKALIKES:
        for use in (
            lambda name=name: vault.show(name),
            lambda name=name: vault.load(name, purpose="inference"),
            lambda name=name: vault.push(place, name),
            lambda name=name: vault.delete(name),
            lambda name=name: vault.revoke("version", name, reason="x"),
        ):
            with pytest.raises((InvalidRequest,)) as caught:
                use()
            assert caught.value.message.isprintable(), name
    assert vault.show("m").versions == ()


def test_lists_know_no_sql(vault: Session) -> None:
    for name in ("mini", "maxi", "m_x", "mAx"):
        vault.create(name)
    found = {
        "": 4, "m*": 4, "m?x?": 1, "m_x": 1, "%": 0, "m%": 0, "_ini": 0, "m[ai]*": 2, "MINI": 0,
        "' OR 1=1 --": 0, "m' OR 'a'='a": 0, "*'*": 0, "\\": 0, "[": 0, "[]": 0, "*" * 256: 4,
        "*a" * 128: 0, "[!a]*": 4,
    }  # fmt: skip
    for pattern, count in found.items():
        assert len(vault.list(filter=pattern)) == count, pattern
    for after in ("' OR 1=1 --", "m' --", "%"):
        assert len(vault.list(after=after)) in {0, 4}
    for tenant in ("default' OR 'a'='a", "%", "d%", "default\0", "*", "?", ""):
        with pytest.raises(InvalidRequest):
            vault.list(tenant=tenant)


ODD = {"a[1].w": b"literal", "a1.w": b"other", "*.w": b"star", "config.json": b"{}"}


def test_files_are_asked_for_by_name_and_not_by_pattern(vault: Session, tmp_path: Path) -> None:
    vault.create("m")
    vault.push(folder(tmp_path / "in", ODD), "m")
    for path, data in ODD.items():
        with vault.load("m", purpose="inference", files=[path]) as model:
            assert model.files == (path,)
            assert model.open(path).read() == data
    for path in ("*", "a?.w", "[a]1.w", "A1.w", "./a1.w", "a1.dat/", "../a1.w", ""):
        with pytest.raises(NotFound) as caught:
            vault.load("m", purpose="inference", files=[path])
        assert caught.value.code == "no_file"
    with pytest.raises(NotFound):
        vault.load("m", purpose="inference", files=[])


def test_files_that_a_policy_allows(home: Path, vault: Session, tmp_path: Path) -> None:
    """Two limits on files allow what both do; who names more is refused, and nobody gets more."""
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["limits"]["files"] = ["*a*", "*.json"]
    data["classifications"]["internal"]["limits"]["files"] = ["[ab]*.w", "config.*"]
    path.write_text(json.dumps(data))
    vault.publish_policy()
    vault.create("m")
    vault.push(folder(tmp_path / "in", ODD | {"b1.w": b"not both"}), "m")
    with pytest.raises(AccessDenied) as caught:
        vault.load("m", purpose="inference", files=["b1.w"])
    assert "files_not_allowed" in caught.value.details["reasons"]
    try:
        with vault.load("m", purpose="inference") as model:
            assert "b1.w" not in model.files
            assert "*.w" not in model.files
    except AccessDenied as refused:  # stricter than both is fine too
        assert "files_not_allowed" in refused.details["reasons"]  # noqa: PT017


def test_the_exit_code_of_each_family(
    home: Path, vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each says what to do next, on one line, and none shows a token."""
    vault.create("m")
    push(vault, tmp_path, "one", "m:prod")
    stranger = vault.mint_token(sub="stranger", groups=[])
    job = vault.mint_token(sub="job", groups=["inference"])
    forged = job[:-6] + "AAAAAA"
    load = ("load", "m:prod", "--purpose")

    def told(code: int, error: str, *line: str, token: str | None = None) -> None:
        with monkeypatch.context() as patched:
            if token is not None:
                patched.setenv("MODELVAULT_TOKEN", token)
            seen = call(capsys, *line, "--json")
            plain = call(capsys, *line)
        assert (seen.code, seen.error.code, plain.code) == (code, error, code), line
        assert seen.error.hint, line
        assert plain.err.count("\n") == 2, plain.err
        assert plain.out == ""
        assert token is None or token[-40:] not in plain.err + seen.out

    told(2, "bad_reference", "load", "m@0", "--purpose", "inference")
    told(3, "denied", *load, "fine-tuning", token=job)
    told(4, "no_model", *load, "inference", token=stranger)
    told(4, "no_tag", "load", "m:nothing", "--purpose", "inference")
    told(4, "model_exists", "create", "m")
    told(7, "bad_signature", *load, "inference", token=forged)
    told(7, "malformed_token", *load, "inference", token="a.b.c")
    told(7, "bad_token", *load, "inference", token="x" * (20 << 10))
    vault.revoke("principal", "local:job", reason="x")
    told(3, "revoked", *load, "inference", token=job)
    ((name,),) = rows(home, "select object from version_objects limit 1")
    (home / str(name)).write_bytes(b"plaintext")
    told(5, "wrong_size", *load, "inference")
    (home / str(name)).unlink()
    told(5, "missing_object", *load, "inference")
    (bundle,) = (home / "policy" / "published").glob("*/bundle.json")
    bundle.write_bytes(b"{}")
    told(6, "policy_unavailable", *load, "inference")


def test_identities_are_no_patterns(vault: Session) -> None:
    """A subject called like a pattern matches nobody else's revocation, lease or grant."""
    vault.create("m")
    with as_somebody(vault, "*", "admins") as star, as_somebody(vault, "bob", "admins") as bob:
        vault.revoke("principal", "local:*", reason="x")
        with pytest.raises(AccessDenied):
            star.list()
        assert bob.list()
    with pytest.raises(AuthenticationError), connect(token=" ") as nobody:
        nobody.list()

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.client import credentials
from modelvault.client.credentials import (
    MAX_TOKEN_BYTES,
    Credentials,
    EnvironmentToken,
    FileToken,
    choose,
)
from modelvault.errors import AuthenticationError


def mint(key_hash: str | None) -> str:
    return f"minted-for-{key_hash}"


def test_the_order_of_sources(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert choose(token="given", token_file=file, mint=mint)("hash") == "given"
    assert choose(token=None, token_file=file, mint=mint)("hash") == "from-file"
    assert choose(token=None, token_file=None, mint=mint)("hash") == "minted-for-hash"
    assert choose(token=None, token_file=None, mint=mint)(None) == "minted-for-None"
    with pytest.raises(AuthenticationError) as caught:
        choose(token=None, token_file=None)
    assert (caught.value.code, "MODELVAULT_TOKEN_FILE" in caught.value.hint) == ("no_token", True)


def test_a_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    source = FileToken(path)
    assert source(None) == "first"
    with monkeypatch.context() as patched:
        patched.setattr(FileToken, "_read", lambda _self: pytest.fail("read again for nothing"))
        assert source(None) == "first"
    new = tmp_path / "new"  # replaced by renaming, as Kubernetes does it
    new.write_text("other")
    new.replace(path)
    assert source(None) == "other"


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="No such file") as caught:
        FileToken(tmp_path / "token")(None)
    assert caught.value.code == "no_token"


@pytest.mark.parametrize(
    "text", ["", " \n", "a" * (MAX_TOKEN_BYTES + 1), "two\nlines", "sch\u00f6n", "nul\0"]
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    for use in (lambda: FileToken(path)(None), lambda: credentials.given(text)):
        with pytest.raises(AuthenticationError) as caught:
            use()
        assert caught.value.code == "bad_token"
        assert not text.strip() or text not in str(caught.value) + caught.value.hint


def test_the_caller_carries_the_token_and_nothing_shows_it() -> None:
    made = Credentials(credentials.given("s3cret-token"), "modelvault/0")
    assert made.caller("hash").token == "s3cret-token"
    assert made.caller().client == "modelvault/0"
    assert "s3cret" not in repr(made) + repr(made.caller())


def test_a_variable_is_looked_at_each_time() -> None:
    env = {"CI_TOKEN": " first\n"}
    source = EnvironmentToken("CI_TOKEN", env)
    assert source("hash") == "first"
    env["CI_TOKEN"] = "second"
    assert source(None) == "second"
    assert "second" not in repr(source)
    assert choose(token=None, token_file=None, further=source, mint=mint)(None) == "second"


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "no_token"), ("", "no_token"), (" ", "no_token"), ("two\nlines", "bad_token")],
)
def test_a_variable_without_a_token(text: str | None, code: str) -> None:
    env = {} if text is None else {"CI_TOKEN": text}
    with pytest.raises(AuthenticationError, match="CI_TOKEN") as caught:
        EnvironmentToken("CI_TOKEN", env)(None)
    assert caught.value.code == code
    assert "lines" not in str(caught.value) + caught.value.hint

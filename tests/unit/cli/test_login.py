from __future__ import annotations

import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backends.fail
import pytest
import urllib3

from support.command import Told, call
from support.homes import isolated
from support.servers.oidc import CLIENT, Provider


@pytest.fixture
def idp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(keyring, "get_keyring", keyring.backends.fail.Keyring)
    with Provider() as running:
        config = tmp_path / "config.toml"
        config.write_text(f'[login]\nissuer = "{running.issuer}"\nclient_id = "{CLIENT}"\n')
        monkeypatch.setenv("MODELVAULT_CONFIG", str(config))
        yield running


def opened(url: str) -> bool:
    threading.Thread(target=urllib3.request, args=("GET", url)).start()
    return True


def test_login_and_logout(
    idp: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", opened)
    told = call(capsys, "login")
    assert (told.code, told.out.split()) == (
        0,
        ["logged", "in", "at:", idp.issuer, "until:", "you", "log", "out"],
    )
    assert f"  {idp.issuer}/authorize?" in told.err
    assert shows_no_token(idp, told)
    out = call(capsys, "logout")
    assert (out.code, out.out) == (0, "logged out\n")
    assert call(capsys, "logout").out == "nobody was logged in\n"


def test_documents(
    idp: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", opened)
    told = call(capsys, "login", "--json")
    document = told.document("login")
    assert (document.issuer, document.renewable) == (idp.issuer, True)
    assert shows_no_token(idp, told)
    idp.metadata = {"revocation_endpoint": None}
    left = call(capsys, "logout", "--json").document("logout")
    assert (left.was_logged_in, left.revoked) == (True, False)


def test_another_device(
    idp: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_seconds: float) -> None:
        for code in idp.devices.values():
            code.said = "yes"

    monkeypatch.setattr("time.sleep", sleep)
    told = call(capsys, "login", "--device")
    assert told.code == 0
    (code,) = idp.devices.values()
    assert code.user_code in told.err
    assert f"{idp.issuer}/device" in told.err


def test_no_browser(
    idp: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(url: str) -> bool:
        opened(url)
        raise webbrowser.Error("no browser")

    monkeypatch.setattr(webbrowser, "open", none)
    told = call(capsys, "login")
    assert told.code == 0
    assert "open the address yourself" in told.err


def test_refused(
    idp: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", opened)
    idp.claims = {"aud": "another"}
    told = call(capsys, "login", "--json")
    assert (told.code, told.error.code) == (7, "login_failed")
    monkeypatch.delenv("MODELVAULT_CONFIG")
    assert call(capsys, "login").code == 2


def shows_no_token(idp: Provider, told: Told) -> bool:
    return "eyJ" not in told.out + told.err and not any(
        token in told.out + told.err for token in idp.sessions
    )

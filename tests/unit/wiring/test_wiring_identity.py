from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backends.fail
import msgspec
import pytest
import urllib3

from modelvault import wiring
from modelvault.client.credentials import EnvironmentToken
from modelvault.client.helper import HelperToken
from modelvault.client.login import LoginToken
from modelvault.errors import AuthenticationError, InvalidRequest
from modelvault.identity import peek
from modelvault.identity.binding import bound_audience
from modelvault.ports.login import Prompt
from modelvault.settings import Login, Settings, read
from modelvault.wiring.identity import further_source
from support.homes import isolated
from support.servers.oidc import CLIENT, Provider
from support.tokens import VAULT


@pytest.fixture
def idp() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(keyring, "get_keyring", keyring.backends.fail.Keyring)
    return tmp_path / "state" / "modelvault"


def profile(text: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text(text)
    monkeypatch.setenv("MODELVAULT_CONFIG", str(path))


@pytest.fixture
def configured(
    idp: Provider, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Provider:
    profile(
        f'[profiles.work]\nlogin = {{ issuer = "{idp.issuer}", client_id = "{CLIENT}" }}\n',
        monkeypatch,
        tmp_path,
    )
    return idp


def opened(url: str) -> None:
    threading.Thread(target=urllib3.request, args=("GET", url)).start()


def settings(**told: object) -> Settings:
    return msgspec.structs.replace(read({"HOME": "/nonexistent"}), **told)


def work() -> Settings:
    return wiring._settings(None, "work", None)


def test_log_in_show_tokens_and_log_out(configured: Provider, state: Path) -> None:
    found = wiring.login_by_browser(opened, profile="work")
    assert (found.issuer, found.renewable) == (configured.issuer, True)
    (kept,) = (state / "logins").glob("*.json")
    token = json.loads(kept.read_text())["token"]
    source = further_source(work(), VAULT)
    assert source is not None
    assert source("hash") == token
    assert wiring.logout(profile="work") is True
    assert len(configured.revoked) == 1
    assert not kept.exists()
    assert wiring.logout(profile="work") is None
    again = further_source(work(), VAULT)
    assert again is not None
    with pytest.raises(AuthenticationError) as caught:
        again(None)
    assert caught.value.code == "not_logged_in"


def test_a_login_goes_on_by_itself(configured: Provider, state: Path) -> None:
    configured.lifetime_s = 10
    wiring.login_by_browser(opened, profile="work")
    configured.groups = ["admins"]
    configured.lifetime_s = 300
    source = further_source(work(), VAULT)
    assert source is not None
    token = source(None)
    assert (peek.claims(token) or {})["groups"] == ["admins"]
    assert source(None) == token


def test_by_device(configured: Provider, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def tell(prompt: Prompt) -> None:
        configured.say(prompt.code, "yes")

    assert wiring.login_by_device(tell, profile="work").renewable
    assert list((state / "logins").glob("*.json"))


def test_a_profile_without_login(state: Path) -> None:
    for use in (lambda: wiring.login_by_browser(opened), wiring.logout):
        with pytest.raises(InvalidRequest) as caught:
            use()
        assert caught.value.code == "bad_login"
        assert "issuer" in caught.value.hint


def test_which_source_a_profile_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    login = Login(issuer="https://idp.example", client_id="c")
    assert further_source(settings(), VAULT) is None
    found = further_source(settings(login=login, state_home=tmp_path), VAULT)
    assert isinstance(found, LoginToken)
    helper = further_source(
        settings(login=login, token_command=("sh", "-c", 'echo "$MODELVAULT_AUDIENCE"')), VAULT
    )
    assert isinstance(helper, HelperToken)
    assert helper("k") == bound_audience(VAULT, "k")
    variable = further_source(
        settings(login=login, token_command=("false",), token_variable="CI_ID_TOKEN"), VAULT
    )
    assert isinstance(variable, EnvironmentToken)
    monkeypatch.setenv("CI_ID_TOKEN", "from-ci")
    assert variable(None) == "from-ci"


def test_what_the_file_may_say(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(
        'token_variable = "CI_ID_TOKEN"\n[profiles.cloud]\ntoken_command = ["cloud", "token"]\n'
        '[profiles.people.login]\nissuer = "https://idp.example"\nclient_id = "c"\n'
        'scopes = ["openid", "groups"]\nshows = "access_token"\nca = "~/ca.pem"\n',
        monkeypatch,
        tmp_path,
    )
    assert wiring._settings(None, None, None).token_variable == "CI_ID_TOKEN"
    assert wiring._settings(None, "cloud", None).token_command == ("cloud", "token")
    assert wiring._settings(None, "people", None).login == Login(
        issuer="https://idp.example",
        client_id="c",
        scopes=("openid", "groups"),
        shows="access_token",
        ca="~/ca.pem",
    )
    profile('[login]\nissuer = "https://idp.example"\n', monkeypatch, tmp_path)
    with pytest.raises(InvalidRequest, match="client_id"):
        wiring._settings(None, None, None)

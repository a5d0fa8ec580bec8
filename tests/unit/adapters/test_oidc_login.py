"""Logins at a real OpenID provider on loopback, and at one that lies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import msgspec
import pytest
import urllib3

from modelvault import clock
from modelvault.adapters.issuers_jwks import JwksIssuers
from modelvault.adapters.oidc_login import OidcProvider, log_in_by_browser, log_in_by_device
from modelvault.adapters.oidc_login import browser as browser_module
from modelvault.errors import AuthenticationError, InvalidRequest, ModelVaultError, Unavailable
from modelvault.identity import presets, tokens
from modelvault.ports.login import Granted, Prompt
from modelvault.settings import Login
from support.servers.oidc import CLIENT, Provider
from support.servers.process import free_port
from support.tokens import VAULT

Change = Callable[[dict[str, list[str]]], None]


@pytest.fixture
def idp() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def client(idp: Provider, **more: Any) -> OidcProvider:
    return OidcProvider(Login(**({"issuer": idp.issuer, "client_id": CLIENT} | more)), clock.utc_ms)


@pytest.fixture
def provider(idp: Provider) -> Iterator[OidcProvider]:
    made = client(idp)
    yield made
    made.close()


def get(url: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", url, redirect=False, retries=False, timeout=10)


class Browser:
    """Opens what it is shown, in a thread as a real one would; `change` alters the answer."""

    def __init__(self, change: Change = lambda _query: None) -> None:
        self._change = change
        self.statuses: list[int] = []
        self.shown = ""

    def __call__(self, url: str) -> None:
        self.shown = url
        self._thread = threading.Thread(target=self._open)
        self._thread.start()

    def _open(self) -> None:
        target = urlsplit(get(self.shown).headers["Location"])
        query = parse_qs(target.query)
        self._change(query)
        again = target._replace(query=urlencode(query, doseq=True))
        self.statuses.append(get(again.geturl()).status)

    def done(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def browse(provider: OidcProvider, change: Change = lambda _query: None) -> Granted:
    browser = Browser(change)
    try:
        return log_in_by_browser(provider, browser, wait_s=10)
    finally:
        browser.done()


def device(
    idp: Provider, provider: OidcProvider, said: str = "yes"
) -> tuple[Granted, Prompt, list[float]]:
    prompts: list[Prompt] = []
    pauses: list[float] = []

    def tell(prompt: Prompt) -> None:
        prompts.append(prompt)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            idp.say(prompts[0].code, said)

    return log_in_by_device(provider, tell, pause), prompts[0], pauses


def failed(use: Callable[[], object], family: type[ModelVaultError]) -> ModelVaultError:
    with pytest.raises(ModelVaultError) as caught:
        use()
    error = caught.value
    assert type(error) is family
    assert error.hint
    assert error.__context__ is error.__cause__ is None
    return error


def test_by_browser(idp: Provider, provider: OidcProvider) -> None:
    browser = Browser()
    granted = log_in_by_browser(provider, browser)
    browser.done()
    assert browser.statuses == [200]
    assert jwt.decode(granted.token, options={"verify_signature": False})["sub"] == "alice"
    query = parse_qs(urlsplit(browser.shown).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"][0].startswith("http://127.0.0.1:")
    assert {len(query[name][0]) for name in ("state", "nonce", "code_challenge")} == {43}
    ((_, form),) = [asked for asked in idp.asked if asked[0] == "/token"]
    assert len(form["code_verifier"]) == 64
    assert granted.refresh_token in idp.sessions


def test_each_login_has_secrets_of_its_own(idp: Provider, provider: OidcProvider) -> None:
    for _ in range(2):
        browse(provider)
    first, second = [form for path, form in idp.asked if path == "/authorize"]
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]


def test_by_device(idp: Provider, provider: OidcProvider) -> None:
    idp.slow_downs = 1
    granted, prompt, pauses = device(idp, provider)
    assert (prompt.url, prompt.lasts_s) == (f"{idp.issuer}/device", 600)
    assert prompt.whole_url == f"{idp.issuer}/device?user_code={prompt.code}"
    assert pauses == [1, 6, 6]
    assert granted.refresh_token in idp.sessions


def test_what_was_given_is_what_a_vault_takes(idp: Provider, provider: OidcProvider) -> None:
    told = {
        "name": "idp", "iss": idp.issuer, "jwks": f"{idp.issuer}/keys", "audience": CLIENT,
    }  # fmt: skip
    trusted = presets.read([told])
    keys = JwksIssuers(trusted, clock.boot_ms)
    try:
        token = browse(provider).token
        who = tokens.verify(token, (trusted[0].issuer,), keys, clock.utc_ms(), vault=VAULT)
    finally:
        keys.close()
    assert (who.id, who.groups) == ("idp:alice", ("idp:ml-engineers",))


def test_refresh_and_revoke(idp: Provider, provider: OidcProvider) -> None:
    first = browse(provider)
    second = provider.refresh(first)
    assert second.refresh_token not in {None, first.refresh_token}
    assert provider.revoke(second) is True
    assert idp.revoked == [second.refresh_token]
    ended = failed(lambda: provider.refresh(second), AuthenticationError)
    assert ended.code == "login_ended"


def test_a_refresh_token_that_stays(idp: Provider, provider: OidcProvider) -> None:
    first = browse(provider)

    def without(path: str, status: int, body: dict[str, Any]) -> tuple[int, Any]:
        return status, {name: one for name, one in body.items() if name != "refresh_token"}

    idp.answer = without
    assert provider.refresh(first).refresh_token == first.refresh_token


def test_without_a_refresh_token(idp: Provider) -> None:
    provider = client(idp, scopes=("openid",))
    granted = browse(provider)
    assert granted.refresh_token is None
    assert provider.revoke(granted) is False  # nothing that could be
    assert idp.asked[-1][0] != "/revoke"


def test_access_tokens(idp: Provider) -> None:
    provider = client(idp, shows="access_token", scopes=("openid",), resource="https://broker")
    granted = browse(provider)
    assert granted.token.count(".") == 0
    assert 295_000 < granted.expires_at - clock.utc_ms() <= 300_000
    assert provider.revoke(granted) is True
    assert idp.asked[-1] == (
        "/revoke",
        {"token": granted.token, "token_type_hint": "access_token", "client_id": CLIENT},
    )
    device(idp, provider)
    asked = {path: form for path, form in idp.asked if "resource" in form}
    assert set(asked) == {"/authorize", "/device_authorization"}


def test_a_provider_without_revocation(idp: Provider, provider: OidcProvider) -> None:
    idp.metadata = {"revocation_endpoint": None}
    assert provider.revoke(browse(provider)) is False


def test_a_provider_that_refuses_to_revoke(idp: Provider, provider: OidcProvider) -> None:
    granted = browse(provider)
    idp.answer = lambda *_: (401, {"error": "invalid_client"})
    assert "invalid_client" in failed(lambda: provider.revoke(granted), AuthenticationError).message


# A browser's answers


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"iss": ["https://evil.example"]}, "another provider's"),
        ({"code": ["made up"]}, "invalid_grant"),
        ({"code": None}, "no reason given"),
        ({"code": None, "error": ["access_denied"]}, "access_denied"),
        ({"code": None, "error": ["<script>"]}, "no reason given"),
    ],
    ids=str,
)
def test_an_answer_that_is_none(
    provider: OidcProvider, changes: dict[str, list[str] | None], told: str
) -> None:
    def change(query: dict[str, list[str]]) -> None:
        for name, value in changes.items():
            query.pop(name, None)
            query.update({name: value} if value else {})

    error = failed(lambda: browse(provider, change), AuthenticationError)
    assert (error.code, told in error.message) == ("login_failed", True)


def test_the_providers_name_in_the_answer(idp: Provider, provider: OidcProvider) -> None:
    idp.metadata = {"authorization_response_iss_parameter_supported": True}
    assert "whose" in failed(lambda: browse(provider), AuthenticationError).message
    browse(provider, lambda query: query.update(iss=[idp.issuer]))


def test_strangers_requests_are_turned_away(provider: OidcProvider) -> None:
    """Whoever else is on this machine can reach the port, and knows neither state nor path."""
    statuses = []

    def before(query: dict[str, list[str]]) -> None:
        target = urlsplit(browser.shown)
        callback = parse_qs(target.query)["redirect_uri"][0]
        state = query["state"][0]
        for bad in (
            callback,
            f"{callback}?code=c",
            f"{callback}?code=c&state=",
            f"{callback}?code=c&state=made-up",
            f"{callback}?code=c&state=%ff",
            f"{callback}?code=c&state={state}&state={state}",
            f"{callback}?code=c;state={state}",
            f"{callback}?" + "&".join(f"p{number}=1" for number in range(30)),
            callback.replace("/callback", "/other") + f"?code=c&state={state}",
        ):
            statuses.append(get(bad).status)
        statuses.append(
            urllib3.request("POST", f"{callback}?code=c&state={state}", retries=False).status
        )

    browser = Browser(before)
    log_in_by_browser(provider, browser, wait_s=10)
    browser.done()
    assert statuses == [404] * 9 + [501]


def test_an_answer_sooner_than_the_browser_was_opened(provider: OidcProvider) -> None:
    def show(url: str) -> None:
        browser(url)
        browser.done()

    browser = Browser()
    assert log_in_by_browser(provider, show, wait_s=10).token
    assert browser.statuses == [200]


def test_nobody_comes(provider: OidcProvider) -> None:
    error = failed(
        lambda: log_in_by_browser(provider, lambda _url: None, wait_s=0.05), AuthenticationError
    )
    assert "in time" in error.message


# Providers that lie


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://evil.example"}, "another issuer's"),
    "another client": ({"aud": "wiki"}, "another client's"),
    "two clients": ({"aud": [CLIENT, "wiki"]}, "another client's"),
    "another login": ({"nonce": "made-up"}, "another login"),
    "no nonce": ({"nonce": None}, "another login"),
}


@pytest.mark.parametrize("case", LIES)
def test_an_id_token_of_another(idp: Provider, provider: OidcProvider, case: str) -> None:
    idp.claims, told = LIES[case]
    assert told in failed(lambda: browse(provider), AuthenticationError).message


ANSWERS: dict[str, tuple[int, Any, type[ModelVaultError]]] = {
    "no id token": (200, {"access_token": "a"}, AuthenticationError),
    "an opaque id token": (200, {"id_token": "opaque"}, AuthenticationError),
    "an id token of no JSON": (200, {"id_token": "a.b.c"}, AuthenticationError),
    "a token of 20 KiB": (200, {"id_token": "x" * 20_000}, AuthenticationError),
    "a token of two lines": (200, {"id_token": "a.b\n.c"}, AuthenticationError),
    "a refresh token that isn't text": (
        200,
        {"id_token": "a.b.c", "refresh_token": 7},
        AuthenticationError,
    ),
    "a list": (200, [], Unavailable),
    "not JSON": (200, b"<html>", Unavailable),
    "nothing": (200, b"", AuthenticationError),
    "a refusal without words": (400, b"", AuthenticationError),
    "a refusal in HTML": (403, b"<html>", AuthenticationError),
    "broken": (500, {}, Unavailable),
    "elsewhere": (302, {}, Unavailable),
    "two megabytes": (200, b"x" * (2 << 20), Unavailable),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_token_endpoint_may_say(idp: Provider, provider: OidcProvider, case: str) -> None:
    granted = browse(provider)
    status, body, family = ANSWERS[case]
    idp.answer = lambda *_: (status, body)
    failed(lambda: provider.refresh(granted), family)


def test_access_tokens_beside_no_id_token_need_a_nonce(idp: Provider) -> None:
    provider = client(idp, shows="access_token")

    def without(path: str, status: int, body: dict[str, Any]) -> tuple[int, Any]:
        if path != "/token":
            return status, body
        return status, {name: one for name, one in body.items() if name != "id_token"}

    idp.answer = without
    failed(lambda: browse(provider), AuthenticationError)
    granted, _, _ = device(idp, provider)
    assert provider.refresh(granted).token


@pytest.mark.parametrize("lifetime", [None, 0, -5, "300", True, 10**9])
def test_how_long_an_opaque_token_lasts(idp: Provider, lifetime: object) -> None:
    provider = client(idp, shows="access_token")
    granted = provider.granted({"access_token": "opaque", "expires_in": lifetime})
    left = granted.expires_at - clock.utc_ms()
    assert left <= (86_400_000 if lifetime == 10**9 else 60_000)
    assert left > 50_000


METADATA: dict[str, tuple[dict[str, Any], type[ModelVaultError]]] = {
    "another issuer": ({"issuer": "https://evil.example"}, InvalidRequest),
    "a token endpoint in the clear": ({"token_endpoint": "http://idp.example/t"}, InvalidRequest),
    "a device endpoint in the clear": (
        {"device_authorization_endpoint": "http://idp.example/d"},
        InvalidRequest,
    ),
    "a revocation endpoint in the clear": (
        {"revocation_endpoint": "http://idp.example/r"},
        InvalidRequest,
    ),
    "a browser's endpoint of another kind": (
        {"authorization_endpoint": "file:///etc/passwd"},
        InvalidRequest,
    ),
    "no token endpoint": ({"token_endpoint": None}, Unavailable),
    "no browser's endpoint": ({"authorization_endpoint": None}, InvalidRequest),
    "PKCE in the clear alone": ({"code_challenge_methods_supported": ["plain"]}, InvalidRequest),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_isnt_taken(idp: Provider, provider: OidcProvider, case: str) -> None:
    idp.metadata, family = METADATA[case]
    failed(lambda: log_in_by_browser(provider, lambda _url: None), family)
    assert not [path for path, _ in idp.asked if path != "/.well-known/openid-configuration"]


def test_no_metadata(idp: Provider, provider: OidcProvider) -> None:
    idp.answer = lambda *_: (404, {})
    failed(lambda: log_in_by_browser(provider, lambda _url: None), Unavailable)


def test_nobody_listens() -> None:
    login = Login(issuer=f"http://127.0.0.1:{free_port()}/", client_id=CLIENT)
    provider = OidcProvider(login, clock.utc_ms)
    error = failed(lambda: log_in_by_browser(provider, lambda _url: None), Unavailable)
    assert error.code == "login_unavailable"


@pytest.mark.parametrize(
    "issuer",
    ["http://idp.example", "https://u@idp.example", "https://[", "idp.example", "https://x#y", ""],
)
def test_issuers_that_arent_taken(issuer: str) -> None:
    with pytest.raises(InvalidRequest):
        OidcProvider(Login(issuer=issuer, client_id="c"), clock.utc_ms)


def test_a_ca_that_cant_be_read(tmp_path: Path) -> None:
    login = Login(issuer="https://idp.example", client_id="c", ca=str(tmp_path / "gone.pem"))
    with pytest.raises(InvalidRequest, match="gone"):
        OidcProvider(login, clock.utc_ms)
    OidcProvider(Login(issuer="http://localhost:1", client_id="c"), clock.utc_ms)


# Devices


@pytest.mark.parametrize(
    ("said", "told"), [("no", "told no"), ("expired", "in time")], ids=["no", "late"]
)
def test_the_person_says_no_or_nothing(
    idp: Provider, provider: OidcProvider, said: str, told: str
) -> None:
    error = failed(lambda: device(idp, provider, said), AuthenticationError)
    assert told in error.message


def test_the_time_is_over(idp: Provider) -> None:
    now = clock.utc_ms()

    def ticking() -> int:
        return now

    def pause(seconds: float) -> None:
        nonlocal now
        now += round(seconds * 1000)

    idp.device_lasts_s = 10
    provider = OidcProvider(Login(issuer=idp.issuer, client_id=CLIENT), ticking)
    failed(lambda: log_in_by_device(provider, lambda _prompt: None, pause), AuthenticationError)
    assert len([path for path, _ in idp.asked if path == "/token"]) == 10


def test_a_provider_that_is_away_for_a_while(idp: Provider, provider: OidcProvider) -> None:
    def flaky(path: str, status: int, body: Any) -> tuple[int, Any]:
        return (503, {}) if path == "/token" and len(idp.asked) < 5 else (status, body)

    idp.answer = flaky
    _, _, pauses = device(idp, provider)
    assert pauses == [1, 6, 11]


@pytest.mark.parametrize(
    "answer",
    [
        {"device_code": None},
        {"user_code": 7},
        {"user_code": "A\x1b[2J"},
        {"verification_uri": "http://idp.example/device"},
        {"verification_uri": None},
    ],
    ids=str,
)
def test_a_device_code_that_isnt_one(
    idp: Provider, provider: OidcProvider, answer: dict[str, Any]
) -> None:
    def changed(path: str, status: int, body: dict[str, Any]) -> tuple[int, Any]:
        return status, body | (answer if path == "/device_authorization" else {})

    idp.answer = changed
    failed(lambda: device(idp, provider), Unavailable)


def test_odd_values_of_a_device_code(idp: Provider, provider: OidcProvider) -> None:
    odd = {"interval": 10**6, "expires_in": 10**6, "verification_uri_complete": "http://a.example"}

    def changed(path: str, status: int, body: dict[str, Any]) -> tuple[int, Any]:
        return status, body | (odd if path == "/device_authorization" else {})

    idp.answer = changed
    _, prompt, pauses = device(idp, provider)
    assert (prompt.lasts_s, prompt.whole_url, pauses) == (1800, None, [60, 60, 60])


def test_a_provider_that_refuses_devices(idp: Provider, provider: OidcProvider) -> None:
    def refusing(path: str, status: int, body: Any) -> tuple[int, Any]:
        return (400, {"error": "invalid_scope"}) if "device" in path else (status, body)

    idp.answer = refusing
    assert "invalid_scope" in failed(lambda: device(idp, provider), AuthenticationError).message
    other = client(idp)
    idp.metadata = {"device_authorization_endpoint": None}
    failed(lambda: device(idp, other), InvalidRequest)


def test_a_device_that_is_refused_for_another_reason(idp: Provider, provider: OidcProvider) -> None:
    def refusing(path: str, status: int, body: Any) -> tuple[int, Any]:
        return (400, {"error": "unauthorized_client"}) if path == "/token" else (status, body)

    idp.answer = refusing
    told = failed(lambda: device(idp, provider), AuthenticationError).message
    assert "unauthorized_client" in told


# Nothing shows


def test_no_token_shows_in_an_error_or_a_repr(idp: Provider, provider: OidcProvider) -> None:
    granted = browse(provider)
    assert granted.refresh_token
    secrets = [granted.refresh_token, granted.token.split(".")[2]]
    idp.answer = lambda *_: (400, {"error": "invalid_request", "d": granted.refresh_token})
    for use in (provider.refresh, provider.revoke):
        with pytest.raises(ModelVaultError) as caught:
            use(granted)
        shown = [str(caught.value), caught.value.hint, repr(caught.value)]
        trace = caught.value.__traceback__
        while trace is not None:
            if "tests" not in trace.tb_frame.f_code.co_filename:
                shown += [repr(value) for value in trace.tb_frame.f_locals.values()]
            trace = trace.tb_next
        assert len(shown) > 4
        assert not any(secret in text for secret in secrets for text in shown)
    assert "eyJ" not in repr(granted)
    with pytest.raises(TypeError):
        granted.__reduce__()
    assert msgspec.json.decode(msgspec.json.encode(granted), type=Granted) == granted


def test_a_login_under_way_shows_nothing() -> None:
    ask = browser_module._Ask(state="s3", nonce="n3", verifier="v3", redirect="r3")
    answer = browser_module._Answer({"code": "c3", "state": "s3"})
    assert not any(secret in f"{ask!r} {answer!r}" for secret in ("s3", "n3", "v3", "c3"))

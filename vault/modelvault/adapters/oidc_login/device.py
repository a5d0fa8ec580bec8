"""Login on another device: the device authorization grant (RFC 8628)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelvault.adapters.oidc_login.provider import OidcProvider, failed, refused
from modelvault.adapters.oidc_login.transport import allowed, bad_login, unavailable
from modelvault.errors import ModelVaultError, Unavailable, unframed
from modelvault.ports.login import Granted, Prompt

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
MAX_LASTS_S = 1800
LEAST_INTERVAL_S = 1
SLOWER_S = 5
MAX_INTERVAL_S = 60


def log_in_by_device(
    provider: OidcProvider, tell: Callable[[Prompt], None], pause: Callable[[float], None]
) -> Granted:
    """Tell the person what to open and what to type, and wait for it; half an hour at most.

    Raises AuthenticationError (`login_failed`), Unavailable, InvalidRequest (`bad_login`) where
    the provider doesn't do this.
    """
    try:
        return _logged_in(provider, tell, pause)
    except ModelVaultError as refusal:
        raise unframed(refusal) from None


def _logged_in(
    provider: OidcProvider, tell: Callable[[Prompt], None], pause: Callable[[float], None]
) -> Granted:
    endpoint = provider.metadata().device_authorization_endpoint
    if endpoint is None:
        raise bad_login("the provider has no login by device code; log in with a browser")
    login = provider.login
    form = {"client_id": login.client_id, "scope": " ".join(login.scopes)}
    if login.resource is not None:
        form["resource"] = login.resource
    status, answer = provider.transport.post(endpoint, form)
    if status != 200:
        raise refused(answer)
    device_code, prompt, interval = _started(answer)
    until = provider.clock() + prompt.lasts_s * 1000
    tell(prompt)
    while provider.clock() < until:
        pause(interval)
        status, answer = _asked(provider, device_code)
        if status == 200:
            return provider.granted(answer)
        interval = _slower(answer, interval)
    raise failed("nobody logged in in time", "run `modelvault login` again")


def _started(answer: Mapping[str, Any]) -> tuple[str, Prompt, int]:
    code, user_code = answer.get("device_code"), answer.get("user_code")
    url, whole = answer.get("verification_uri"), answer.get("verification_uri_complete")
    usable = (
        isinstance(code, str)
        and isinstance(user_code, str)
        and user_code.isprintable()
        and allowed(url)
    )
    if not usable:
        raise unavailable("it gives no usable device code")
    prompt = Prompt(
        url=str(url),
        code=str(user_code),
        whole_url=whole if isinstance(whole, str) and allowed(whole) else None,
        lasts_s=_whole(answer.get("expires_in"), MAX_LASTS_S, MAX_LASTS_S),
    )
    interval = max(_whole(answer.get("interval"), SLOWER_S, MAX_INTERVAL_S), LEAST_INTERVAL_S)
    return str(code), prompt, interval


def _asked(provider: OidcProvider, device_code: str) -> tuple[int, dict[str, Any]]:
    form = {
        "grant_type": GRANT,
        "device_code": device_code,
        "client_id": provider.login.client_id,
    }
    try:
        return provider.transport.post(provider.metadata().token_endpoint, form)
    except Unavailable:
        return 503, {"error": "slow_down"}  # RFC 8628, 3.5: ask less often when it times out


def _slower(answer: Mapping[str, Any], interval: int) -> int:
    match answer.get("error"):
        case "authorization_pending":
            return interval
        case "slow_down":
            return min(interval + SLOWER_S, MAX_INTERVAL_S)
        case "access_denied":
            raise failed("it was told no", "log in again, and say yes")
        case "expired_token":
            raise failed("nobody logged in in time", "run `modelvault login` again")
        case _:
            raise refused(answer)


def _whole(value: object, otherwise: int, most: int) -> int:
    return min(value, most) if type(value) is int and value > 0 else otherwise

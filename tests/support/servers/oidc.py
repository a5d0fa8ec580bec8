"""An OpenID provider on loopback, made of Authlib's server parts: code flow with PKCE, device code,
refresh tokens that are good for one use, revocation. Its people say yes at once."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import jwt
import msgspec
from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant
from cryptography.hazmat.primitives.asymmetric import ec

from support.servers.jwks import document, jwk

CLIENT = "modelvault-cli"
KID = "idp-1"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Client(ClientMixin):
    """The one client: public, with loopback addresses of any port (RFC 8252, section 7.3)."""

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, uri: str) -> bool:
        parts = urlsplit(uri)
        return (parts.scheme, parts.hostname, parts.path) == ("http", "127.0.0.1", "/callback")

    def check_client_secret(self, _secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, kind: str) -> bool:
        return kind == "code"

    def check_grant_type(self, kind: str) -> bool:
        return kind in {"authorization_code", "refresh_token", DEVICE_GRANT}


class Code(msgspec.Struct):
    """A code that was given to a browser, or asked for by a device."""

    user: str
    scope: str
    redirect: str = ""
    nonce: str | None = None
    code_challenge: str | None = None
    code_challenge_method: str | None = None
    user_code: str = ""
    said: str = "nothing"

    def get_redirect_uri(self) -> str:
        return self.redirect

    def get_scope(self) -> str:
        return self.scope

    def get_client_id(self) -> str:
        return CLIENT

    def get_user_code(self) -> str:
        return self.user_code

    def is_expired(self) -> bool:
        return self.said == "expired"


class Session(msgspec.Struct):
    """A refresh token and what it stands for."""

    user: str
    scope: str
    refresh_token: str

    def check_client(self, _client: Client) -> bool:
        return True

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


class Provider(AuthorizationServer):
    """`lifetime_s` is that of tokens; `metadata` and `answer` let a test make it lie."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.user = "alice"
        self.groups = ["ml-engineers"]
        self.lifetime_s = 300
        self.codes: dict[str, Code] = {}
        self.devices: dict[str, Code] = {}
        self.sessions: dict[str, Session] = {}
        self.used: set[str] = set()
        self.revoked: list[str] = []
        self.slow_downs = 0
        self.device_lasts_s = 600
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.metadata: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.answer: Callable[[str, int, dict[str, Any]], tuple[int, Any]] = lambda _, *found: found
        self._now = threading.local()
        grants_of(self)
        self._server = _http(self)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    # what Authlib asks of a framework

    def query_client(self, client_id: str) -> Client | None:
        return Client() if client_id == CLIENT else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        scope = token.get("scope") or ""
        if "refresh_token" in token:
            self.sessions[token["refresh_token"]] = Session(
                request.user, scope, token["refresh_token"]
            )

    def generate_token(self, **how: Any) -> dict[str, Any]:
        code = self._now.request.authorization_code
        made = {
            "token_type": "Bearer",
            "access_token": secrets.token_urlsafe(24),
            "expires_in": self.lifetime_s,
            "scope": how["scope"],
            "id_token": self.id_token(how["user"], None if code is None else code.nonce),
        }
        if "offline_access" in how["scope"]:
            made["refresh_token"] = secrets.token_urlsafe(24)
        return made

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        self._now.request = request
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, Any]:
        return status, body, headers

    def send_signal(self, *_: Any, **__: Any) -> None:
        pass

    # what people and tests do

    def id_token(self, user: str, nonce: str | None) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": user,
            "iat": now,
            "exp": now + self.lifetime_s,
            "groups": self.groups,
            "nonce": nonce,
        } | self.claims
        said = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(said, self.key, "ES256", {"kid": KID})

    def say(self, user_code: str, said: str) -> None:
        """The person at the other device says `yes`, or `no`, or waits until it is `expired`."""
        (code,) = [code for code in self.devices.values() if code.user_code == user_code]
        code.said = said

    def well_known(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "device_authorization_endpoint": f"{self.issuer}/device_authorization",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        } | self.metadata

    def handle(self, path: str, form: dict[str, str], method: str) -> tuple[int, Any, Any]:
        self.asked.append((path, form))
        request = OAuth2Request(method, f"https://provider.example{path}")
        request.payload = BasicOAuth2Payload(form)
        request._body = form
        if path == "/.well-known/openid-configuration":
            return 200, self.well_known(), []
        if path == "/keys":
            return 200, json.loads(document(jwk(self.key, KID))), []
        if path == "/authorize":
            grant = self.get_consent_grant(request, self.user)
            return self.create_authorization_response(request, self.user, grant)
        if path == "/token":
            return self.create_token_response(request)
        names = {"/device_authorization": "device_authorization", "/revoke": "revocation"}
        if path in names:
            return self.create_endpoint_response(names[path], request)
        return 404, {}, []

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def grants_of(server: Provider) -> None:  # noqa: C901  a class for each thing it can do
    public = ["none"]

    class ByCode(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = public

        def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
            data = request.payload.data
            server.codes[code] = Code(
                request.user, data.get("scope", ""), data["redirect_uri"], data.get("nonce"),
                data.get("code_challenge"), data.get("code_challenge_method"),
            )  # fmt: skip

        def query_authorization_code(self, code: str, _client: Client) -> Code | None:
            return server.codes.get(code)

        def delete_authorization_code(self, code: Code) -> None:
            server.codes = {text: one for text, one in server.codes.items() if one is not code}

        def authenticate_user(self, code: Code) -> str:
            return code.user

    class ByRefresh(grants.RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = public
        INCLUDE_NEW_REFRESH_TOKEN = True

        def authenticate_refresh_token(self, token: str) -> Session | None:
            if token in server.used:
                server.sessions.clear()  # used twice: somebody has stolen it
            return server.sessions.get(token)

        def authenticate_user(self, session: Session) -> str:
            return session.user

        def revoke_old_credential(self, session: Session) -> None:
            server.used.add(session.refresh_token)
            server.sessions.pop(session.refresh_token)

    class ByDevice(DeviceCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = public

        def query_device_credential(self, code: str) -> Code | None:
            return server.devices.get(code)

        def query_user_grant(self, user_code: str) -> tuple[str, bool] | None:
            (code,) = [one for one in server.devices.values() if one.user_code == user_code]
            return None if code.said == "nothing" else (server.user, code.said == "yes")

        def should_slow_down(self, _code: Code) -> bool:
            server.slow_downs -= 1
            return server.slow_downs >= 0

    class Devices(DeviceAuthorizationEndpoint):
        CLIENT_AUTH_METHODS = public
        INTERVAL = 1

        @property
        def EXPIRES_IN(self) -> int:  # noqa: N802  Authlib's name
            return server.device_lasts_s

        def get_verification_uri(self) -> str:
            return f"{server.issuer}/device"

        def save_device_credential(self, _client: str, scope: str, data: dict[str, Any]) -> None:
            server.devices[data["device_code"]] = Code(
                server.user, scope, user_code=data["user_code"]
            )

    class Revocations(RevocationEndpoint):
        CLIENT_AUTH_METHODS = public

        def query_token(self, token: str, _hint: str | None) -> Session | None:
            return server.sessions.get(token)

        def revoke_token(self, session: Session, _request: OAuth2Request) -> None:
            server.revoked.append(session.refresh_token)
            server.sessions.pop(session.refresh_token)

    server.register_grant(ByCode, [CodeChallenge(required=True)])
    server.register_grant(ByRefresh)
    server.register_grant(ByDevice)
    server.register_endpoint(Devices)
    server.register_endpoint(Revocations)


def _http(provider: Provider) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._answer(parts.path, dict(parse_qsl(parts.query)))

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._answer(self.path, dict(parse_qsl(text)))

        def _answer(self, path: str, form: dict[str, str]) -> None:
            status, body, headers = provider.handle(path, form, self.command)
            status, body = provider.answer(path, status, body)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, text in headers:
                if name == "Location":
                    self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server

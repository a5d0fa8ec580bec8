"""keys_hcvault: logins, renewals, and what a key service says when it isn't well."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault.adapters.keys_hcvault import (
    AppRole,
    Connection,
    HcvaultAdmin,
    HcvaultBundleSigner,
    HcvaultKeys,
    HcvaultSigner,
    Server,
    TokenFile,
    Workload,
)
from modelvault.adapters.keys_hcvault.login import Granted
from modelvault.adapters.keys_hcvault.setup import Credential, GivenToken
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, NotFound, Unavailable
from modelvault.ports.keys import WrappedKey
from support.servers.fake_http import Asked, FakeServer, Reply, answer
from support.vaults import Clock

KEY = "mv-" + "a" * 40
CONTEXT = bytes(32)
CANARY = base64.b64encode(b"a canary of a plaintext key").decode()
WRAPPED = WrappedKey(bytes(60), 1)
GOOD_KEY = base64.b64encode(bytes(range(32))).decode()


# RFC 8032, section 7.1, test 1; RFC 5903, section 8.1 (a point of P-256).
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
P256 = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""


class Fake:
    """A key service whose logins work, and whose other answers a test gives."""

    def __init__(self) -> None:
        self.logins = 0
        self.renewals = 0
        self.ttl = 60
        self.reply: Callable[[Asked], Reply] = lambda _asked: answer({"data": {}})
        self.renew: Callable[[], Reply] = lambda: self.auth(f"t{self.logins}")
        self.server = FakeServer(self._answer)

    def auth(self, token: str, *, renewable: bool = True) -> Reply:
        told = {"client_token": token, "lease_duration": self.ttl, "renewable": renewable}
        return answer({"auth": told})

    def _answer(self, asked: Asked) -> Reply:
        if asked.path.endswith("/login"):
            self.logins += 1
            return self.auth(f"t{self.logins}")
        if asked.path.endswith("/renew-self"):
            self.renewals += 1
            return self.renew()
        return self.reply(asked)


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000)


@pytest.fixture
def connection(fake: Fake, clock: Clock, tmp_path: Path) -> Iterator[Connection]:
    (tmp_path / "secret").write_text("secret-id\n")
    login = AppRole(role_id="role", secret_id_file=tmp_path / "secret")
    server = Server(address=fake.server.url, mount="mv", namespace="team", timeout_s=0.5)
    made = Connection(server, login, clock)
    yield made
    made.close()


def tokens(fake: Fake) -> list[str | None]:
    return [a.headers.get("X-Vault-Token") for a in fake.server.asked if "datakey" in a.path]


def data_key(_asked: Asked) -> Reply:
    ciphertext = "vault:v3:" + base64.b64encode(bytes(60)).decode()
    return answer({"data": {"plaintext": GOOD_KEY, "ciphertext": ciphertext}})


class TestLogin:
    def test_once_for_many_calls(self, fake: Fake, connection: Connection) -> None:
        fake.reply = data_key
        keys = HcvaultKeys(connection)
        for _ in range(3):
            dek, wrapped = keys.data_key(KEY, CONTEXT)
            assert bytes(dek.reveal()) == bytes(range(32))
            assert wrapped == WrappedKey(bytes(60), 3)
        assert (fake.logins, tokens(fake)) == (1, ["t1"] * 3)
        assert fake.server.asked[0].headers["X-Vault-Namespace"] == "team"

    def test_renewed_at_two_thirds(self, fake: Fake, connection: Connection, clock: Clock) -> None:
        fake.reply = data_key
        keys = HcvaultKeys(connection)
        for elapsed in (0, 30, 11, 41):
            clock.advance(elapsed)
            keys.data_key(KEY, CONTEXT)
        assert (fake.logins, fake.renewals) == (1, 2)

    @pytest.mark.parametrize("renewal", ["refused", "capped", "broken"])
    def test_what_cant_be_renewed_logs_in_anew(
        self, fake: Fake, connection: Connection, clock: Clock, renewal: str
    ) -> None:
        fake.reply = data_key
        keys = HcvaultKeys(connection)
        keys.data_key(KEY, CONTEXT)

        def renew() -> Reply:
            if renewal == "capped":  # near its maximum a token gets less and less
                return answer(
                    {"auth": {"client_token": "t1", "lease_duration": 5, "renewable": True}}
                )
            return Reply(403) if renewal == "refused" else Reply(200, b"no json")

        fake.renew = renew
        clock.advance(45)
        keys.data_key(KEY, CONTEXT)
        assert (fake.logins, tokens(fake)) == (2, ["t1", "t2"])

    def test_an_outage_at_renewal_is_no_harm_while_the_token_is_good(
        self, fake: Fake, connection: Connection, clock: Clock
    ) -> None:
        fake.reply = data_key
        keys = HcvaultKeys(connection)
        keys.data_key(KEY, CONTEXT)
        fake.renew = lambda: Reply(503)
        real = fake._answer
        fake.server.reply = lambda a: Reply(503) if a.path.endswith("/login") else real(a)
        clock.advance(45)
        keys.data_key(KEY, CONTEXT)
        clock.advance(20)
        with pytest.raises(Unavailable):
            keys.data_key(KEY, CONTEXT)

    def test_a_token_that_was_revoked_is_exchanged_once(
        self, fake: Fake, connection: Connection
    ) -> None:
        fake.reply = lambda a: Reply(403) if a.headers["X-Vault-Token"] == "t1" else data_key(a)
        HcvaultKeys(connection).data_key(KEY, CONTEXT)
        assert (fake.logins, tokens(fake)) == (2, ["t1", "t2"])

    def test_what_stays_forbidden_is_an_outage_and_no_loop(
        self, fake: Fake, connection: Connection
    ) -> None:
        fake.reply = lambda _asked: Reply(403)
        with pytest.raises(Unavailable, match="denies"):
            HcvaultKeys(connection).data_key(KEY, CONTEXT)
        assert (fake.logins, len(tokens(fake))) == (2, 2)

    @pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"two\nlines"])
    def test_a_secret_that_cant_be_read(
        self, fake: Fake, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content)
        login = AppRole(role_id="r", secret_id_file=path)
        with pytest.raises(Unavailable, match="can't log in"):
            HcvaultKeys(Connection(Server(address=fake.server.url), login)).data_key(KEY, CONTEXT)

    @pytest.mark.parametrize("status", [400, 403, 404])
    def test_a_login_that_is_refused(self, fake: Fake, connection: Connection, status: int) -> None:
        fake.server.reply = lambda _asked: answer({"errors": [CANARY]}, status)
        with pytest.raises(Unavailable, match="refuses this login") as caught:
            HcvaultKeys(connection).data_key(KEY, CONTEXT)
        assert CANARY not in str(caught.value)

    def test_by_a_workloads_token_and_by_a_token_file(
        self, fake: Fake, clock: Clock, tmp_path: Path
    ) -> None:
        fake.reply = data_key
        path = tmp_path / "token"
        path.write_text("jwt-1")
        server = Server(address=fake.server.url)
        workload = Workload(role="broker", token_file=path, mount="kubernetes")
        HcvaultKeys(Connection(server, workload, clock)).data_key(KEY, CONTEXT)
        assert fake.server.asked[0].path == "/v1/auth/kubernetes/login"
        assert b'"jwt": "jwt-1"' in fake.server.asked[0].body
        kept = HcvaultKeys(Connection(server, TokenFile(token_file=path), clock))
        kept.data_key(KEY, CONTEXT)
        path.write_text("fresh")
        clock.advance(61)
        kept.data_key(KEY, CONTEXT)
        assert tokens(fake)[1:] == ["jwt-1", "fresh"]

    def test_no_secret_shows_itself(self) -> None:
        for value in (
            Granted(token="s.secret", lease_s=1, renewable=False),
            GivenToken(token="s.secret"),
            Credential(role_id="r", secret_id="s.secret"),
        ):
            assert "s.secret" not in repr(value)
        with pytest.raises(TypeError):
            pickle.dumps(Granted(token="s.secret", lease_s=1, renewable=False))
        with pytest.raises(TypeError):
            pickle.dumps(Credential(role_id="r", secret_id="s.secret"))


class TestAnswers:
    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (answer({"errors": ["Vault is sealed"]}, 503), "sealed"),
            (answer({"errors": [CANARY]}, 429), "limits requests"),
            (answer({"errors": [CANARY]}, 500), "failed by itself"),
            (answer({"errors": ["JSON string value exceeds allowed length"]}, 500), "too long"),
            (answer({"errors": [CANARY]}, 501), "initialised"),
            (answer({"errors": [CANARY]}, 502), "standby"),
            (answer({"errors": [CANARY]}, 472), "isn't understood"),
            (answer({"errors": [CANARY]}, 473), "isn't understood"),
            (answer({"errors": [CANARY, "words that nobody knows"]}, 400), "should take"),
            (Reply(307, b"", {"Location": "http://127.0.0.1:1/"}), "can't be rea"),
            (Reply(200, b"<html>"), "can't be read"),
            (answer([1]), "can't be read"),
            (answer({"data": None}), "can't be read"),
            (answer({"data": {"plaintext": CANARY, "ciphertext": "x"}}), "another length"),
            (answer({"data": {"plaintext": GOOD_KEY, "ciphertext": "vault:v1:x"}}), "be read"),
            (answer({"data": {"plaintext": "§"}}), "can't be read"),
            (answer({"data": {}}, delay=1.0), "in time"),
            (Reply(200, b'{"data":', declared=1000), "can't be re"),
        ],
        ids=lambda value: value if isinstance(value, str) else str(value.status),
    )  # fmt: skip
    def test_an_outage_in_our_own_words(
        self, fake: Fake, connection: Connection, reply: Reply, says: str
    ) -> None:
        fake.reply = lambda _asked: reply
        with pytest.raises(Unavailable, match=says) as caught:
            HcvaultKeys(connection).data_key(KEY, CONTEXT)
        assert caught.value.code == "key_service_unavailable"
        told = f"{caught.value} {caught.value.hint} {caught.value.__context__!r}"
        assert CANARY not in told
        assert GOOD_KEY not in told

    @pytest.mark.parametrize(
        ("text", "family", "code"),
        [
            ("cipher: message authentication failed", IntegrityError, "bad_wrapped_key"),
            ("invalid ciphertext: no prefix", IntegrityError, "bad_wrapped_key"),
            ("ciphertext or signature version is disallowed by policy (too old)", Conflict,
             "kek_version_retired"),
            ("encryption key not found", NotFound, "no_kek"),
        ],
    )  # fmt: skip
    def test_what_a_400_says_about_the_key(
        self, fake: Fake, connection: Connection, text: str, family: type, code: str
    ) -> None:
        fake.reply = lambda _asked: answer({"errors": [text]}, 400)
        with pytest.raises(family) as caught:
            HcvaultKeys(connection).unwrap(KEY, WRAPPED, CONTEXT)
        assert caught.value.code == code

    @pytest.mark.parametrize("key", ["", "mv/../x", "MV-A", "a" * 64, "-a", "mv-a\n", "é"])
    def test_no_other_name_reaches_a_url(
        self, fake: Fake, connection: Connection, key: str
    ) -> None:
        for call in (
            lambda: HcvaultKeys(connection).data_key(key, CONTEXT),
            lambda: HcvaultKeys(connection).unwrap(key, WRAPPED, CONTEXT),
            lambda: HcvaultAdmin(connection).create(key),
        ):
            with pytest.raises(NotFound):
                call()
        assert not [a for a in fake.server.asked if "login" not in a.path]

    def test_nobody_there(self, tmp_path: Path) -> None:
        (tmp_path / "t").write_text("t")
        login = TokenFile(token_file=tmp_path / "t")
        with pytest.raises(Unavailable, match="can't be reached"):
            HcvaultKeys(Connection(Server(address="http://127.0.0.1:9"), login)).data_key(
                KEY, CONTEXT
            )

    @pytest.mark.parametrize(
        "address", ["http://vault.example:8200", "vault:8200", "https://", "https://v/x", "ftp://v"]
    )
    def test_addresses_that_arent_taken(self, address: str) -> None:
        with pytest.raises(InvalidRequest):
            Server(address=address)


class TestAdmin:
    def test_a_batch_that_failed_in_part_gives_nothing(
        self, fake: Fake, connection: Connection
    ) -> None:
        good = "vault:v2:" + base64.b64encode(bytes(60)).decode()
        results: list[object] = [
            {"ciphertext": good},
            {"error": "cipher: message authentication failed"},
        ]
        fake.reply = lambda _asked: answer({"data": {"batch_results": results}})
        admin = HcvaultAdmin(connection)
        with pytest.raises(IntegrityError):
            admin.rewrap(KEY, [(WRAPPED, CONTEXT), (WRAPPED, CONTEXT)])
        for broken in ([], [{"ciphertext": good}], [7, 8], "x"):
            results = broken  # type: ignore[assignment]
            fake.reply = lambda _asked, told=broken: answer({"data": {"batch_results": told}})
            with pytest.raises(Unavailable):
                admin.rewrap(KEY, [(WRAPPED, CONTEXT), (WRAPPED, CONTEXT)])

    @pytest.mark.parametrize(
        "data",
        [
            {"min_decryption_version": 1, "latest_version": 1, "derived": False,
             "type": "aes256-gcm96"},
            {"min_decryption_version": 1, "latest_version": 1, "derived": True, "type": "rsa-4096"},
            {"min_decryption_version": 2, "latest_version": 1, "derived": True,
             "type": "aes256-gcm96"},
            {"min_decryption_version": "1", "latest_version": 1},
            {},
        ],
    )  # fmt: skip
    def test_a_key_that_isnt_ours(self, fake: Fake, connection: Connection, data: dict) -> None:
        fake.reply = lambda _asked: answer({"data": data})
        with pytest.raises(Unavailable):
            HcvaultAdmin(connection).versions(KEY)

    def test_retired_is_what_reads_back_as_retired(
        self, fake: Fake, connection: Connection
    ) -> None:
        standing = {"min_decryption_version": 1, "latest_version": 3, "derived": True,
                    "type": "aes256-gcm96"}  # fmt: skip
        fake.reply = lambda _asked: answer({"data": standing})
        admin = HcvaultAdmin(connection)
        with pytest.raises(Unavailable, match="but they aren't"):
            admin.retire(KEY, 2)
        for below in (0, 4):
            with pytest.raises(InvalidRequest):
                admin.retire(KEY, below)

    def test_too_large_a_batch(self, connection: Connection) -> None:
        with pytest.raises(InvalidRequest):
            HcvaultAdmin(connection).rewrap(KEY, [(WRAPPED, CONTEXT)] * 201)


class TestSigner:
    def signer(self, connection: Connection) -> HcvaultSigner:
        return HcvaultSigner({"manifest": connection})

    @pytest.mark.parametrize(
        "signature",
        ["vault:v1:" + base64.b64encode(bytes(64)).decode(), "vault:v1:AAAA", "x", "a:b:c", None],
    )
    def test_a_signature_that_doesnt_verify(
        self, fake: Fake, connection: Connection, signature: str | None
    ) -> None:
        public = base64.b64encode(
            bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        ).decode()
        key = {"type": "ed25519", "latest_version": 1, "keys": {"1": {"public_key": public}}}
        fake.reply = lambda a: answer(
            {"data": {"signature": signature} if "/sign/" in a.path else key}
        )
        with pytest.raises(Unavailable):
            self.signer(connection).sign("manifest", b"message")

    @pytest.mark.parametrize(
        "data",
        [{}, {"type": "ed25519", "latest_version": 1, "keys": {"1": {"public_key": "AAAA"}}},
         {"type": "ed25519", "latest_version": 1, "keys": {"1": {"public_key": "§"}}},
         {"type": "rsa-2048", "latest_version": 1, "keys": {"1": {"public_key": "AAAA"}}}],
    )  # fmt: skip
    def test_a_public_key_that_isnt_one(
        self, fake: Fake, connection: Connection, data: dict
    ) -> None:
        fake.reply = lambda _asked: answer({"data": data})
        with pytest.raises(Unavailable):
            self.signer(connection).public_key("manifest")

    def test_a_key_that_is_missing_and_a_purpose_without_identity(
        self, fake: Fake, connection: Connection
    ) -> None:
        fake.reply = lambda _asked: Reply(404)
        with pytest.raises(Unavailable, match="lacks a signing key"):
            self.signer(connection).public_key("manifest")
        with pytest.raises(InvalidRequest):
            self.signer(connection).sign("record", b"")

    def test_a_bundles_signature_that_doesnt_verify(
        self, fake: Fake, connection: Connection
    ) -> None:
        signature = "vault:v1:" + base64.urlsafe_b64encode(bytes(64)).decode().rstrip("=")
        pem = P256
        key = {"type": "ecdsa-p256", "latest_version": 1, "keys": {"1": {"public_key": pem}}}
        fake.reply = lambda a: answer(
            {"data": {"signature": signature} if "/sign/" in a.path else key}
        )
        with pytest.raises(Unavailable, match="doesn't verify"):
            HcvaultBundleSigner(connection).sign(b"message")

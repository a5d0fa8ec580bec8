"""deployment: the file of `modelvault serve`."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault import deployment
from modelvault.errors import InvalidRequest

WHOLE = """
[vault]
trust = "trust.json"

[serve]
host = "0.0.0.0"
port = 8443
tls = {certificate = "tls/server.pem", key = "/etc/tls/server.key"}

[keys]
address = "https://hcvault:8200"
broker = {approle = {role_id = "r", secret_id_file = "secret-id"}}
steward = {token_file = "token"}

[ledger]
url = "postgresql+psycopg://modelvault@db/modelvault"

[objects]
bucket = "models"

[[issuers]]
name = "idp"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "broker.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    told = deployment.read(written(tmp_path, WHOLE))
    assert told.vault.trust == tmp_path / "trust.json"
    assert told.serve.tls is not None
    assert told.serve.tls.certificate == tmp_path / "tls/server.pem"
    assert told.serve.tls.key == Path("/etc/tls/server.key")
    assert told.keys.broker is not None
    assert told.keys.broker.approle is not None
    assert told.keys.broker.approle.secret_id_file == tmp_path / "secret-id"
    assert told.serve.role == "both"
    assert told.policy.opa is None
    assert told.issuers == ({"name": "idp"},)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("[vault]", "[vaults]", "vault"),
        ('trust = "trust.json"', 'trust = ""', "vault.trust"),
        ('trust = "trust.json"', "trust = 7", "vault.trust"),
        ("port = 8443", "port = 0", "serve.port"),
        ("port = 8443", 'port = "8443"', "serve.port"),
        ("port = 8443", "prot = 8443", "prot"),
        ("port = 8443", "port = 8443\nnotice_s = -1", "serve.notice_s"),
        ("port = 8443", "port = 8443\nnotice_s = 301", "serve.notice_s"),
        ("port = 8443", "port = 8443\ndrain_s = 0", "serve.drain_s"),
        ("steward = {", "steward = {kubernetes = {role = 'r', token_file = 't', mount = 'k'}, ",
         "exactly one"),
        ('steward = {token_file = "token"}', "steward = {}", "exactly one"),
        ('bucket = "models"', "", "bucket"),
        ('[[issuers]]\nname = "idp"', "", "issuers"),
        ("[ledger]", "[ledger", "line"),
    ],
)  # fmt: skip
def test_a_wrong_file_names_what_is_wrong(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    assert before in WHOLE
    with pytest.raises(InvalidRequest) as caught:
        deployment.read(written(tmp_path, WHOLE.replace(before, after)))
    assert caught.value.code == "bad_deployment"
    assert named in caught.value.message


def test_a_file_that_cant_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(InvalidRequest, match="can't be used"):
            deployment.read(path)
    big = written(tmp_path, "#" * (deployment.MAX_FILE + 1))
    with pytest.raises(InvalidRequest, match="more than"):
        deployment.read(big)


@pytest.mark.parametrize(
    ("content", "held"), [(b"s.abc\n", "s.abc"), (b"", None), (b"\xff", None), (b"a\nb", None)]
)
def test_a_file_of_one_secret(tmp_path: Path, content: bytes, held: str | None) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    if held is not None:
        assert deployment.secret_text(path) == held
        return
    with pytest.raises(InvalidRequest) as caught:
        deployment.secret_text(path)
    assert caught.value.code == "bad_secret_file"
    assert "\xff" not in caught.value.message


def test_a_secret_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        deployment.secret_text(tmp_path / "none")
    assert caught.value.code == "bad_secret_file"


def test_paths_of_issuers_count_from_the_files_folder_too(tmp_path: Path) -> None:
    path = tmp_path / "modelvault.toml"
    path.write_text(
        WHOLE.replace('name = "idp"', 'name = "idp"\nca = "ca.pem"\njwks_file = "/etc/keys.json"')
    )
    (issuer,) = deployment.read(path).issuers
    assert issuer == {
        "name": "idp", "ca": str(tmp_path / "ca.pem"), "jwks_file": "/etc/keys.json",
    }  # fmt: skip

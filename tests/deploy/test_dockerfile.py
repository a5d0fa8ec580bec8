"""examples/deploy/Dockerfile, by BuildKit's own parser and linter."""

from __future__ import annotations

import http.server
import json
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from support import dockerfile

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
LINE = re.compile(r"^([a-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)


def told() -> dict:
    return dockerfile.read(dockerfile.FILE.read_text("utf-8"))


def test_the_parser_has_nothing_to_say() -> None:
    assert told()["warnings"] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("FROM a\nRUNN x\n", "unknown instruction"), ("RUN x\n", "no build stage")],
)
def test_the_parser_would_say_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        dockerfile.read(text)


def test_the_linter_would_say_it() -> None:
    found = dockerfile.read("FROM a as B\nCMD x\n")["warnings"]
    assert {one.partition(":")[0] for one in found} >= {"FromAsCasing", "StageNameCasing"}


def test_the_image_is_the_last_of_two_stages_and_runs_as_nobody() -> None:
    build, last = told()["stages"]
    assert build["name"] == "build"
    assert last["base"] == build["base"] == "${PYTHON}"
    uid, _, gid = dockerfile.last("USER")["User"].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    names = [one["name"] for one in last["commands"]]
    assert "RUN" not in names, "what builds stays in the first stage"
    assert dockerfile.entrypoint() == ["modelvault"]


def test_what_is_installed_is_pinned_by_hashes_and_from_no_named_index() -> None:
    runs = [
        " ".join(one["args"]["CmdLine"])
        for one in told()["stages"][0]["commands"]
        if one["name"] == "RUN"
    ]
    installs = [line for line in runs if " install " in line]
    assert "--require-hashes" in installs[0]
    assert "--no-build-isolation" in installs[1]
    text = dockerfile.FILE.read_text("utf-8")
    assert not re.search(r"index-url|https?://|trusted-host", text)


def test_what_is_copied_is_there_and_let_through() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    sources: set[str] = set()
    for one in told()["stages"][0]["commands"]:
        if one["name"] == "COPY":
            sources |= set(one["args"]["SourcePaths"])
    assert sources == let_through
    assert not {source for source in sources if not (ROOT / source).exists()}


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested = dict(LINE.findall((ROOT / "requirements" / "dev.lock").read_text("utf-8")))
    shipped = dict(LINE.findall((ROOT / "requirements" / "serve.lock").read_text("utf-8")))
    assert {"boto3", "fastapi", "hvac", "psycopg", "gordon-to-regorus"} <= shipped.keys()
    assert {name: tested.get(name) for name in shipped} == shipped


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A port where /healthz is well and /readyz isn't, behind a certificate of no matter."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": self.path}).encode()
            self.send_response(200 if self.path == "/healthz" else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.example").configure_cert(context)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("path", "code"), [("/healthz", 0), ("/readyz", 1)])
def test_the_probe_tells_by_its_exit(broker: int, path: str, code: int) -> None:
    assert probe(path, broker).returncode == code


def test_the_probe_fails_where_nobody_listens() -> None:
    done = probe("/healthz", 1)
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert not done.stderr


def probe(path: str, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "probe.py", path, str(port)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

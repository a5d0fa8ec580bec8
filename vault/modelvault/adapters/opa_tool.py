"""The `opa` command, where it is installed: a second opinion on policies, and a second engine.

Neither is needed to decide: the vault never asks it for access. Policies hold no secrets, so they
may lie in a temporary folder while it looks at them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from modelvault.access import Evaluation
from modelvault.errors import Unavailable
from modelvault.policy.bundle import Bundle
from modelvault.policy.rego import Finding
from modelvault_policies import files

T = TypeVar("T")

TIMEOUT_S = 60.0
_MAX_ANSWER_BYTES = 1 << 20


def locate() -> Path | None:
    """The `opa` on the PATH, if there is one."""
    found = shutil.which("opa")
    return Path(found) if found else None


class OpaTool:
    """Runs one `opa` executable. Raises Unavailable (`opa_failed`) when it can't be run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def review(self, sources: Mapping[str, str], covered: Sequence[str]) -> list[Finding]:
        """`opa fmt`, `check --strict`, `test` and `test --coverage` over a bundle's files.

        `sources` maps paths within the bundle to text, tests and data.json among them; every line
        of the `covered` ones must be run by a test. Codes: `not_formatted`, `opa_check`,
        `opa_test`, `not_covered`.
        """
        with _folder(sources) as root:
            found = self._format(root) + self._check(root)
            return sorted(set(found or self._test(root, covered)))

    def _format(self, root: Path) -> list[Finding]:
        listed = self._run(root, "fmt", "--list", ".").stdout.splitlines()
        text = "`opa fmt` would write this otherwise"
        return [Finding(_plain(name), 0, "not_formatted", text) for name in listed]

    def _check(self, root: Path) -> list[Finding]:
        options = ("--strict", "--format", "json", "--schema", f"{files.HERE}/schemas")
        limits = ("--capabilities", f"{files.HERE}/capabilities.json")
        done = self._run(root, "check", *options, *limits, "-b", ".")
        if done.returncode == 0:
            return []
        errors = _json(done.stderr or done.stdout, dict).get("errors", [])
        return [
            _finding("opa_check", error.get("location", {}), error.get("message", ""))
            for error in errors
        ] or [Finding("", 0, "opa_check", "it doesn't compile")]

    def _test(self, root: Path, covered: Sequence[str]) -> list[Finding]:
        done = self._run(root, "test", "--format", "json", "-b", ".")
        results = _json(done.stdout or "[]", list)
        failed = [one for one in results if one.get("fail") or one.get("error")]
        if failed:
            return [_finding("opa_test", one["location"], one["name"]) for one in failed]
        if done.returncode != 0:
            return [Finding("", 0, "opa_test", "the tests don't run")]
        report = _json(self._run(root, "test", "--coverage", "-b", ".").stdout, dict)
        by_path = {_plain(name): lines for name, lines in report.get("files", {}).items()}
        nothing = {"not_covered": [{"start": {"row": 1}}]}
        return [
            Finding(path, gap["start"]["row"], "not_covered", "no test runs this")
            for path in covered
            for gap in by_path.get(path, nothing).get("not_covered", [])
        ]

    def _run(self, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        # In the folder: given an absolute one, OPA 1.22 counts each file of it twice.
        try:
            return subprocess.run(  # noqa: S603  # the executable that the user has as `opa`
                [str(self._path), *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                cwd=root, env={}, timeout=TIMEOUT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise _failed(f"`opa {arguments[0]}` can't be run, or takes too long") from None


class OpaServer:
    """A PolicyEngine: `opa run --server` on a Unix socket of its own, for comparing engines.

    A context manager; the server ends with it. May be used by many threads.
    """

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self._path = path
        self._bundle = bundle
        self._stack = contextlib.ExitStack()
        self._socket = Path()

    def __enter__(self) -> OpaServer:
        with self._stack as stack:
            sources = dict(self._bundle.modules)
            sources["modelvault/data.json"] = json.dumps(self._bundle.data)
            root = stack.enter_context(_folder(sources))
            self._socket = stack.enter_context(_scratch()) / "opa"
            stack.enter_context(self._serving(root))
            self._wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def evaluate(self, document: dict[str, Any]) -> Evaluation:
        """As PolicyEngine says; an error of a builtin is an error, not an undefined value."""
        path = "/v1/data/modelvault/authz/decision?strict-builtin-errors=true"
        answer = self._request("POST", path, json.dumps({"input": document}))
        if not isinstance(answer.get("result"), dict):
            raise Unavailable("policy_unavailable", "OPA has no decision", "see `opa check`")
        return Evaluation(answer["result"], self._bundle.revision, secrets.token_hex(16))

    @contextlib.contextmanager
    def _serving(self, root: Path) -> Iterator[None]:
        options = ("--skip-version-check", "--disable-telemetry", "--log-level", "error")
        process = subprocess.Popen(  # noqa: S603  # the executable that the user has as `opa`
            [
                str(self._path), "run", "--server", *options,
                "--addr", f"unix://{self._socket}", "-b", str(root),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={},
        )  # fmt: skip
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def _wait(self) -> None:
        for _ in range(400):
            with contextlib.suppress(Unavailable):
                self._request("GET", "/health", None)
                return
            sleep(0.025)
        raise _failed("`opa run --server` doesn't come up")

    def _request(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read(_MAX_ANSWER_BYTES)
            if response.status != 200:
                raise _failed("OPA answered with an error")
            return _json(text.decode(), dict)
        except (OSError, http.client.HTTPException, ValueError):
            raise _failed("OPA doesn't answer") from None
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder. Raises Unavailable where nothing can be written to."""
    try:
        made = tempfile.TemporaryDirectory()
    except OSError:
        raise Unavailable(
            "cant_write",
            "there is no folder for temporary files, which `opa` reads the policies from",
            "name one that can be written to with TMPDIR",
        ) from None
    with made as name:
        yield Path(name)


@contextlib.contextmanager
def _folder(sources: Mapping[str, str]) -> Iterator[Path]:
    with _scratch() as root:
        for path, text in ({".manifest": '{"roots": ["modelvault"]}'} | dict(sources)).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        yield root


def _finding(code: str, location: Mapping[str, Any], text: str) -> Finding:
    return Finding(_plain(location.get("file", "")), location.get("row", 0), code, text)


def _plain(name: str) -> str:
    return name.removeprefix("./").removeprefix("/")


def _json(text: str, kind: type[T]) -> T:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise _failed("`opa` answered with something else than JSON")
    return value


def _failed(why: str) -> Unavailable:
    return Unavailable("opa_failed", why, "see `opa version`; 1.21.3 or later is needed")

"""A job in a container that gives it nothing: a root that can't be written, no HOME, a user who has
no name, no capabilities, no locked memory, Docker's default seccomp profile."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.container import Container, Mount, give
from support.servers.stack import Stack

UID = 54321

FACTS = """
import ctypes, json, os, pathlib, pwd, resource
libc = ctypes.CDLL(None, use_errno=True)
def denied(call, *arguments):
    return libc.syscall(call, *arguments) == -1 and ctypes.get_errno() == 1
def written(folder):
    try:
        pathlib.Path(folder, "x").write_text("x")
        return True
    except OSError:
        return False
def named():
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
print(json.dumps({
    "uid": os.getuid(), "named": named(), "home": os.environ.get("HOME"),
    "written": [folder for folder in ("/", "/tmp", "/var/tmp", "/etc", ".") if written(folder)],
    "seccomp": status["Seccomp"].strip(), "caps": int(status["CapEff"], 16),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
    "denied": [name for name, call in (("unshare", 272), ("keyctl", 250), ("userfaultfd", 323))
               if denied(call, 0x10000000 if name == "unshare" else 0, 0, 0, 0, 0)],
}))
"""

LOAD = """
import hashlib, json, os, pathlib, subprocess, sys
import modelvault
with modelvault.connect() as vault, vault.load(sys.argv[1], purpose="inference") as model:
    tensors = model.tensors()
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()}
    del tensors
    with model.open("config.json") as file:
        config = file.read().decode()
    folder = model.path()
    child = subprocess.check_output(["sha256sum", folder / "model.safetensors"], text=True)
    print(json.dumps({"sums": sums, "config": config, "by_name": child.split()[0]}))
"""


@dataclass(frozen=True)
class Place:
    """Runs a command in such a container, with what a job is given and no more. NAME in it is the
    model's."""

    stack: Stack
    folder: Path
    model: Path
    name: str

    def run(
        self, *command: str, token: str, more: tuple[Mount, ...] = (), **env: str
    ) -> CompletedProcess[str]:
        mounts = [
            Mount(self.stack.ca, "/etc/modelvault/ca.pem"),
            Mount(
                self._file("trust.json", self.stack.trust.read_text()), "/etc/modelvault/trust.json"
            ),
            Mount(self._file("token", token), "/run/secrets/token"),
            Mount(self.model, "/models/it"),
            *more,
        ]
        told = {
            "MODELVAULT_BROKER": self.stack.urls[0],
            "MODELVAULT_CA": "/etc/modelvault/ca.pem",
            "MODELVAULT_TRUST": "/etc/modelvault/trust.json",
            "MODELVAULT_TOKEN_FILE": "/run/secrets/token",
        }
        made = Container(
            command=["prlimit", "--memlock=0:0", *(p.replace("NAME", self.name) for p in command)],
            uid=UID,
            gid=UID,
            env={name: text for name, text in (told | env).items() if text},
            mounts=mounts,
        )
        place = self.folder / f"container-{len(list(self.folder.iterdir()))}"
        place.mkdir()
        return made.run(place)

    def _file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        give(path, UID, UID)
        path.chmod(0o400)
        return path


@pytest.fixture(scope="module")
def place(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With a model of 1 MB in many segments."""
    model, folder = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("place")
    weights = np.random.default_rng(11).standard_normal((500, 500), dtype=np.float32)
    save_file({"weights": weights, "steps": np.arange(3)}, model / "model.safetensors")
    (model / "config.json").write_text('{"hidden_size": 500}')
    for each, mode in ((model, 0o755), *((file, 0o644) for file in model.iterdir())):
        each.chmod(mode)
    name = f"hard-{secrets.token_hex(4)}"
    with stack.connect(stack.admin()) as admin:
        admin.create(name, classification="internal")
        admin.push(model, f"{name}:prod")
    return Place(stack, folder, model, name)


def test_the_place_is_as_hard_as_it_says(place: Place) -> None:
    done = place.run("python", "-c", FACTS, token="x")
    assert json.loads(done.stdout) == {
        "uid": UID,
        "named": None,
        "home": None,
        "written": [],
        "seccomp": "2",
        "caps": 0,
        "no_new_privs": "1",
        "memlock": 0,
        "denied": ["unshare", "keyctl", "userfaultfd"],
    }


def test_the_library_loads_in_every_way(place: Place, stack: Stack, model: Path) -> None:
    done = place.run("python", "-c", LOAD, "NAME:prod", token=stack.token("job", "inference"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sums"] == {
        name: hashlib.sha256(array.tobytes()).hexdigest()
        for name, array in load_file(place.model / "model.safetensors").items()
    }
    assert told["config"] == (place.model / "config.json").read_text()
    whole = (place.model / "model.safetensors").read_bytes()
    assert told["by_name"] == hashlib.sha256(whole).hexdigest()


def test_the_command_loads_and_tells_who_it_is(place: Place, stack: Stack, model: Path) -> None:
    token = stack.token("job", "inference")
    done = place.run("modelvault", "load", "NAME:prod", "-p", "inference", "--json", token=token)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = json.loads(done.stdout)
    assert {one["name"]: one["shape"] for one in loaded["tensors"]} == {
        name: list(array.shape)
        for name, array in load_file(place.model / "model.safetensors").items()
    }
    (line,) = done.stderr.splitlines()
    assert "XDG_STATE_HOME" in line, "what isn't remembered is said, once"
    told = json.loads(place.run("modelvault", "whoami", "--json", token=token).stdout)
    assert told["id"] == "idp:job"


def test_a_command_is_run_there(place: Place, stack: Stack, model: Path) -> None:
    """Through links: nothing can be mounted, and nothing be written but shared memory."""
    script = "sha256sum {model}/model.safetensors; stat -c %F {model}/config.json; exit 7"
    done = place.run(
        "modelvault", "run", "NAME:prod", "-p", "inference", "--", "sh", "-c", script,
        token=stack.token("job", "inference"),
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    digest, path, *kind = done.stdout.split()
    assert digest == hashlib.sha256((place.model / "model.safetensors").read_bytes()).hexdigest()
    assert path.startswith("/dev/shm/modelvault-run-")
    assert kind == ["symbolic", "link"]


def test_an_admin_pushes_from_there(place: Place, stack: Stack) -> None:
    done = place.run("modelvault", "push", "/models/it", "NAME:next", "--json", token=stack.admin())
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["version"] == 2


SECRET = "/run/secrets/closed"


@pytest.mark.parametrize(
    ("command", "env", "code", "word"),
    [
        (("whoami",), {"MODELVAULT_TOKEN_FILE": SECRET}, "no_token", "permissions"),
        (("whoami",), {"MODELVAULT_TOKEN_FILE": "/run/none"}, "no_token", "MODELVAULT_TOKEN_FILE"),
        (("whoami",), {"MODELVAULT_TRUST": SECRET}, "no_trust_file", "user read it"),
        (("whoami",), {"MODELVAULT_TRUST": ""}, "no_trust_file", "MODELVAULT_TRUST"),
        (("whoami",), {"MODELVAULT_CA": SECRET}, "bad_tls_files", "readable"),
        (("whoami",), {"MODELVAULT_CONFIG": SECRET}, "bad_settings", "mend"),
        (("pull", "NAME:prod", "/out"), {}, "cant_write", "permissions"),
        (("export", "NAME:prod", "/out", "-p", "export"), {}, "cant_write", "permissions"),
        (("init",), {"MODELVAULT_BROKER": ""}, "cant_write", "MODELVAULT_HOME"),
        (
            ("init",),
            {"MODELVAULT_BROKER": "", "MODELVAULT_HOME": "/dev/shm/home"},
            "root_key_unavailable",
            "XDG_CONFIG_HOME",
        ),
        (("doctor",), {}, "not_a_home", "whoami"),
        (("demo",), {"MODELVAULT_BROKER": ""}, "cant_write", "TMPDIR"),
    ],
    ids=lambda value: "-".join(value[:1] if isinstance(value, tuple) else ()) or None,
)
def test_what_cant_work_says_what_to_do(
    place: Place, stack: Stack, command: tuple[str, ...], env: dict[str, str],
    code: str, word: str,
) -> None:  # fmt: skip
    closed = place.folder / "closed"
    closed.write_text("nobody's")
    closed.chmod(0o000)
    give(closed, 1, 1)
    done = place.run(
        "modelvault", *command, "--json", token=stack.admin(), more=(Mount(closed, SECRET),), **env
    )
    error = json.loads(done.stdout)["error"]
    assert (error["code"], done.returncode) == (code, error["exit_code"]), done.stdout
    assert word in error["hint"]
    assert "Traceback" not in done.stderr

"""A container as a runtime makes it, of this machine's programs: a mount namespace of its own, a
root that can't be written, only the files that it was given, a user who isn't root and has no name,
no capabilities, no new privileges, and Docker's seccomp profile.

Names of other containers are loopback addresses, one for each, in its /etc/hosts: so ports needn't
be exchanged, and two containers may listen on the same one.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support import seccomp
from support.servers import process
from support.servers.process import Process, absent

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix).resolve()
SOURCES = "/image/sources"
PROFILE = "/image/seccomp.json"
PATH = "/opt/modelvault/bin:/image:/usr/local/bin:/usr/bin:/bin"
_SYSTEM = ("bin", "lib", "lib64", "sbin", "usr")
_ETC = ("ld.so.cache", "ssl")


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host, seen at `target`. Files of `settings` may name addresses."""

    source: Path
    target: str
    writable: bool = False
    settings: bool = False


@dataclass(frozen=True, kw_only=True)
class Container:
    """What a Compose service or a pod's container says of itself. `uid` isn't root; `address` is
    its own, and `hosts` are the others' names and addresses."""

    command: Sequence[str]
    uid: int
    gid: int
    groups: Sequence[int] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    tmpfs: Sequence[str] = ()
    address: str = "127.0.0.1"
    hosts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    named: str | None = None
    cwd: str = "/"

    def __post_init__(self) -> None:
        assert self.uid > 0, "a container runs as root"
        assert self.gid > 0, "a container runs as root's group"

    def argv(self, folder: Path) -> list[str]:
        """The command line that makes and enters it, with an empty `folder` to make it in. It
        becomes the container's first process: whoever started it has the pid of that."""
        script = folder / "enter.sh"
        script.write_text(self._script(folder / "root"))
        return [*_unshare(), "/bin/sh", "-eu", str(script)]

    def environment(self) -> dict[str, str]:
        """What the image and the container's own settings put into its environment, and where the
        sources lie, which an image has installed."""
        sources = ":".join(f"{SOURCES}/{name}" for name in ("vault", "cli", "policies"))
        return {"PATH": PATH, "PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1", **self.env}

    def start(self, folder: Path, ready: Callable[[], bool], ready_s: float = 30.0) -> Process:
        """Run it until it is stopped; see Process. Its log is in `folder`."""
        return Process(
            self.argv(folder), log=folder / "log", ready=ready, env=self.environment(),
            ready_s=ready_s,
        )  # fmt: skip

    def run(self, folder: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        made = dataclasses.replace(self, **changes)
        return subprocess.run(
            made.argv(folder), env=made.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def _script(self, root: Path) -> str:
        """The steps of a runtime, in its order: the image, what is mounted into it, then read-only,
        then no rights."""
        root.mkdir()
        etc = root.parent / "etc"
        etc.mkdir()
        self._etc(etc)
        lines = [f"mount -t tmpfs -o mode=755 image {root}"]
        lines += [_system(root, name) for name in _SYSTEM]
        lines += [
            _bind(root, Mount(source, target))
            for source, target in (
                (Path(sys.base_prefix), sys.base_prefix),
                (VENV, str(VENV)),  # its scripts name their interpreter there
                (ROOT, SOURCES),
                (seccomp_profile(), PROFILE),
                (ROOT / "examples/deploy/probe.py", "/opt/modelvault/bin/probe.py"),
            )
        ]
        lines += [
            f"ln -s {VENV}/{name} {root}/opt/modelvault/{name}"
            for name in ("lib", "pyvenv.cfg", "bin/python", "bin/modelvault")
        ]
        lines += [f"mkdir {root}/etc", *(f"cp -r {path} {root}/etc/" for path in etc.iterdir())]
        lines += [_bind(root, Mount(Path("/etc") / name, f"/etc/{name}")) for name in _ETC]
        lines += [f"mkdir {root}/{name}\nmount --rbind /{name} {root}/{name}" for name in _KERNEL]
        lines += [f"mount -t tmpfs -o mode=1777 shm {root}/dev/shm"]
        lines += [_tmpfs(root, target) for target in self.tmpfs]
        lines += [_bind(root, self._settings(root.parent, mount)) for mount in self.mounts]
        lines += [f"mount -o remount,ro,bind {root}", f"cd {root}", self._enter()]
        return "\n".join(lines) + "\n"

    def _enter(self) -> str:
        python = shlex.quote(str(Path(sys.base_prefix) / "bin" / "python3"))
        command = shlex.join(self._told(part) for part in self.command)
        groups = ",".join(str(each) for each in self.groups)
        user = (
            f"setpriv --reuid {self.uid} --regid {self.gid} "
            + (f"--groups {groups}" if groups else "--clear-groups")
            if os.geteuid() == 0
            else f"unshare --map-user {self.uid} --map-group {self.gid} setpriv"
        )
        # Not by chroot: whoever has changed his root so may make no further user namespace.
        enter = f"{program('pivot_root')} . .\numount -l .\ncd /\nexec {user} --no-new-privs"
        last = f"{python} -I {SOURCES}/tests/support/seccomp.py {PROFILE} {command}"
        return f"{enter} --inh-caps=-all --bounding-set=-all {last}"

    def _settings(self, folder: Path, mount: Mount) -> Mount:
        if not mount.settings:
            return mount
        copy = folder / mount.target.strip("/").replace("/", "-")
        subprocess.run(["cp", "-a", mount.source, copy], check=True)
        for file in copy.iterdir() if copy.is_dir() else (copy,):
            file.write_text(self._told(file.read_text("utf-8")), "utf-8")
        return dataclasses.replace(mount, source=copy)

    def _told(self, part: str) -> str:
        """All addresses of a container are its own one here."""
        return part.replace("0.0.0.0", self.address).replace("127.0.0.1", self.address)  # noqa: S104

    def _etc(self, etc: Path) -> None:
        lines = [f"{self.address} localhost"]
        lines += [f"{each} {name}" for name, listed in self.hosts.items() for each in listed]
        (etc / "hosts").write_text("\n".join(lines) + "\n")
        (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
        passwd = ["root:x:0:0:root:/root:/bin/sh"]
        if self.named is not None:
            passwd.append(f"{self.named}:x:{self.uid}:{self.gid}::/:/bin/false")
        (etc / "passwd").write_text("\n".join(passwd) + "\n")
        (etc / "group").write_text("root:x:0:\n")


_KERNEL = ("proc", "dev", "sys")


def give(path: Path, uid: int, gid: int) -> None:
    """Make a file a container user's. Where the tests don't run as root, that user is who runs
    them, under another number."""
    if os.geteuid() == 0:
        os.chown(path, uid, gid)


def program(name: str) -> str:
    """Its path; such namespaces are Linux's."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"{name} isn't here: containers are Linux's")
    return found


@cache
def _unshare() -> list[str]:
    outer = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = [program("unshare"), *outer, "--mount", "--"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        absent("a right to mount namespaces")
    return command


def seccomp_profile() -> Path:
    """Docker's default profile."""
    found = sorted(process.folder().glob("seccomp-*/default.json"))
    if not found or seccomp.library() is None:
        absent("seccomp profile or libseccomp")
    return found[-1]


def _system(root: Path, name: str) -> str:
    here = Path("/") / name
    if here.is_symlink():
        return f"ln -s {here.readlink()} {root}/{name}"
    return _bind(root, Mount(here, f"/{name}")) if here.exists() else ":"


def _tmpfs(root: Path, target: str) -> str:
    path = shlex.quote(f"{root}{target}")
    return f"mkdir -p {path}\nmount -t tmpfs -o mode=1777 tmp {path}"


def _bind(root: Path, mount: Mount) -> str:
    source, target = shlex.quote(str(mount.source)), shlex.quote(f"{root}{mount.target}")
    make = (
        f"mkdir -p {target}"
        if mount.source.is_dir()
        else f"mkdir -p $(dirname {target})\n: > {target}"
    )
    protect = "" if mount.writable else f"\nmount -o remount,ro,bind {target}"
    return f"{make}\nmount --bind {source} {target}{protect}"

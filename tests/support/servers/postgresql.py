"""A real PostgreSQL: a cluster of our own on a free loopback port, under a user that isn't root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from support.servers.process import Process, absent, find, free_port, listening

USER = "modelvault"
# A crash of the whole machine is not what these tests play.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Cluster:
    """A running server. `fresh` gives an empty database of its own."""

    def __init__(self, *settings: str) -> None:
        self._bin = programs()
        # Not below pytest's folder: that is closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="mv-pg-"))
        self.user = _user()
        self.data = self.folder / "data"
        self.data.mkdir()
        if self.user is not None:
            shutil.chown(self.folder, self.user)
            shutil.chown(self.data, self.user)
        self.port = free_port()
        self._settings = settings
        self._run("initdb", "--no-sync", "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C")
        self.process = self._start()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            f"postgresql://{USER}@127.0.0.1:{self.port}/{database}", autocommit=True
        )

    def fresh(self, template: str = "template0") -> str:
        """The name of a new database, empty or a copy of `template`."""
        name = f"mv_{secrets.token_hex(8)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def crash(self) -> None:
        """End all its processes at once, without a checkpoint: as `pg_ctl stop -m immediate`."""
        self.process.signal(signal.SIGQUIT)
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()

    def stop(self) -> None:
        if self.process.running():
            self.process.signal(signal.SIGINT)  # fast shutdown: doesn't wait for clients
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> Process:
        settings = [
            f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=",
            "max_connections=200", "shared_buffers=64MB", *self._settings,
        ]  # fmt: skip
        return Process(
            [self._bin / "postgres", "-D", self.data, *(f"-c{each}" for each in settings)],
            log=self.folder / "log",
            ready=self._ready,
            user=self.user,
            cwd=self.folder,
        )

    def _ready(self) -> bool:
        if not listening(self.port):
            return False
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, "-D", self.data, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            user=self.user,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C at the terminal isn't for it
        )


def programs() -> Path:
    """The folder of its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    named = find("postgres")
    if named is None:
        absent("PostgreSQL")
    return named.parent


def _user() -> str | None:
    """Who runs it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"

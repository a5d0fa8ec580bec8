"""A job that forks: the child is no second holder of the lease, and ends nothing of its parent's.

With a broker that is never asked through a ledger: nothing but the client itself protects it here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import modelvault
from modelvault import Model, connect, wiring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, Conflict, Unavailable
from support.attacked import folder
from support.homes import isolated
from support.honest import HonestBroker, Store, context

CONTENT = b"weights" * 5000
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def in_a_child(use: Callable[[], bool]) -> bool:
    """Whether `use` said yes in a forked process; it must not hang there."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if use() else 1
        finally:
            os._exit(code)
    watch = threading.Timer(20, os.kill, (child, 9))
    watch.start()
    _, status = os.waitpid(child, 0)
    watch.cancel()
    return os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def broker() -> HonestBroker:
    return HonestBroker()


@pytest.fixture
def session(broker: HonestBroker, tmp_path: Path) -> Session:
    made = Session(context(broker, store=Store()))
    made.push(folder(tmp_path / "in", {"a.dat": CONTENT, "b.dat": CONTENT}), "m")
    return made


def test_a_child_that_was_let_inherit_reads_what_its_parent_may_read(session: Session) -> None:
    with session.load("m", purpose="inference") as model:
        views = [model.read_bytes("a.dat")]

        def child() -> bool:
            return bytes(views[0]) == CONTENT == bytes(model.read_bytes("b.dat"))

        with modelvault.inherited():
            assert in_a_child(child)
        assert bytes(views.pop()) == CONTENT
    assert session._context.broker.released  # type: ignore[attr-defined]


def test_a_child_finds_nothing_of_it_and_is_told(session: Session) -> None:
    """Neither what was decrypted before, nor keys for the rest; closing there is no error."""
    with session.load("m", purpose="inference") as model:
        views = [model.read_bytes("a.dat")]

        def child() -> bool:
            said = []
            for use in (model.read_bytes, model.open):
                for path in ("a.dat", "b.dat"):
                    with pytest.raises(Conflict) as told:
                        use(path)
                    said.append(told.value.code == "forked" and "spawn" in told.value.hint)
            views.clear()
            model.close()
            return all(said)

        assert in_a_child(child)
        assert bytes(views.pop()) == CONTENT == bytes(model.read_bytes("b.dat"))


def test_a_child_that_closes_ends_its_own_access_only(
    session: Session, broker: HonestBroker
) -> None:
    model = session.load("m", purpose="inference")
    model.read_bytes("a.dat")

    def child() -> bool:
        model.close()
        gc.collect()
        try:
            model._residents["a.dat"]._gate._guard.check()
        except AccessDenied:
            return broker.released == []
        return False

    assert in_a_child(child)
    assert bytes(model.read_bytes("a.dat")) == CONTENT
    assert broker.released == []
    model.close()
    assert len(broker.released) == 1


def test_a_child_that_forgets_the_model(session: Session, broker: HonestBroker) -> None:
    models = [session.load("m", purpose="inference")]

    def child() -> bool:
        models.clear()
        gc.collect()
        return broker.released == []

    assert in_a_child(child)
    assert models[0].open("a.dat").read() == CONTENT
    models[0].close()


def test_a_lock_that_was_held_at_the_fork(session: Session, broker: HonestBroker) -> None:
    """The keeper's thread may hold its lock just then; in the child nobody would give it back."""
    model = session.load("m", purpose="inference")
    keeper = model._gate._guard
    with keeper._lock:  # type: ignore[attr-defined]

        def child() -> bool:
            model.close()
            return broker.released == []

        assert in_a_child(child)
    model.close()


def memory_files() -> int:
    """How many of this process's descriptors are files in memory of ours."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            names.append(str(descriptor.readlink()))
    return sum("memfd:modelvault" in name for name in names)


def test_files_in_memory_stay_behind_and_are_found_by_their_names(session: Session) -> None:
    with session.load("m", purpose="inference") as model:
        folder = model.path()

        def child() -> bool:
            return memory_files() == 0 and (folder / "a.dat").read_bytes() == CONTENT

        assert memory_files() == 2
        assert in_a_child(child)
        with modelvault.inherited():
            assert in_a_child(lambda: memory_files() == 2)
        assert (folder / "b.dat").read_bytes() == CONTENT
    assert memory_files() == 0


def test_locks_of_the_loader_that_were_held_at_the_fork(session: Session) -> None:
    """A thread decrypts ahead while another one forks."""
    model = session.load("m", purpose="inference")
    model.open("a.dat").read(1)
    resident, lent = model._residents["a.dat"], model._lent
    with model._lock, resident._lock, lent._lock:
        held = threading.Event()

        def child() -> bool:
            held.set()
            for ending in (model.close, model.close):
                ending()
            with pytest.raises(Conflict, match="closed"):
                model.open("a.dat")
            return model.closed

        # As another thread's: the one that forks could take its own locks again.
        forked: list[bool] = []
        thread = threading.Thread(target=lambda: forked.append(in_a_child(child)))
        thread.start()
        thread.join(30)
        assert forked == [True]
    assert model.open("b.dat").read() == CONTENT
    assert in_a_child(lambda: fails_within(model))
    model.close()


def fails_within(model: Model) -> bool:
    with pytest.raises(ZeroDivisionError), model:
        raise ZeroDivisionError
    return model.closed


def test_a_child_of_an_embedded_vault_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite doesn't survive a fork; a child that wants more connects by itself."""
    isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=4096)
    with connect() as vault:
        vault.create("m")
        vault.push(folder(tmp_path / "in", {"a.dat": CONTENT}), "m")
        model = vault.load("m", purpose="inference")

        def child() -> bool:
            try:
                vault.load("m", purpose="inference")
            except Unavailable as refused:
                said = refused.hint
            model.close()
            with connect() as own, own.load("m", purpose="inference") as other:
                return "connect again" in said and other.open("a.dat").read() == CONTENT

        assert in_a_child(child)
        assert model.open("a.dat").read() == CONTENT
        assert [lease.end_reason for lease in vault.leases()] == [None]
        model.close()

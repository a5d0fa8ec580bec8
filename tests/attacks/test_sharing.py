"""What processes of the same machine try on a model that one of them holds."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from modelvault import attach
from modelvault.access import Obligations
from modelvault.errors import ModelVaultError, Unavailable
from modelvault.sharing import messages
from modelvault.sharing.messages import Memory, Need
from support.hosts import Hosted, hosted, in_a_child, lasting

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
MODEL = "model.safetensors"
WEIGHTS = np.arange(300_000, dtype="f4")
FILES = {MODEL: save({"w": WEIGHTS, "b": np.ones(3)}), "notes.txt": b"weights" * 1000}


@pytest.fixture
def shared() -> Iterator[Hosted]:
    with hosted(FILES) as made:
        yield made


def whole(address: str) -> bool:
    """Whether a process that behaves gets what it should."""
    with attach(address) as model:
        return bool(np.array_equal(model.tensor("w"), WEIGHTS))


@contextmanager
def elsewhere(run: Callable[[int], None]) -> Iterator[tuple[int, Callable[[], str]]]:
    """A forked process that runs `run(pipe)`; its id, and what gets the next line from it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # What is stopped goes on when a process ends that was the last tie of its group to the
            # session (`setpgid(2)`): in another test, if this were one of its group.
            os.setsid()
            os.close(read)
            run(write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as lines:
        try:
            yield child, lambda: lines.readline().strip()
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def tell(pipe: int, text: str) -> None:
    os.write(pipe, text.encode() + b"\n")


def outcome(use: Callable[[], object]) -> str:
    try:
        use()
    except ModelVaultError as error:
        return error.code
    return "had"


def test_only_what_the_holder_started_gets_anything() -> None:
    """Not its own parent, though of the same user, and not what detached itself."""

    def holder(pipe: int) -> None:
        with hosted(FILES) as shared:
            tell(pipe, shared.address)
            tell(pipe, str(in_a_child(lambda: whole(shared.address))))
            if os.fork() == 0:  # a daemon: its parent ends, and it becomes somebody else's child
                if os.fork() == 0:
                    while os.getppid() not in (1, os.getpid()) and _alive(os.getppid()):
                        time.sleep(0.01)
                    time.sleep(0.1)
                    tell(pipe, outcome(lambda: attach(shared.address)))
                os._exit(0)
            os.wait()
            signal.pause()

    with elsewhere(holder) as (_, line):
        address = line()
        assert line() == "True"
        assert outcome(lambda: attach(address)) == "foreign_process"
        assert line() == "foreign_process"
        assert outcome(lambda: attach(address)) == "foreign_process"


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_gets_nothing_even_where_the_folder_lets_him_in() -> None:
    folder = Path(tempfile.mkdtemp())
    with hosted(FILES, socket_path=folder / "s") as shared:
        folder.chmod(0o755)
        (folder / "s").chmod(0o777)

        def stranger() -> bool:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line.connect(shared.address)
            answer = line.recv(messages.MAX_ANSWER)
            return (
                b"foreign_user" in answer
                and outcome(lambda: attach(shared.address)) == "foreign_host"
            )  # nor would he be told weights by whoever he is

        assert in_a_child(stranger)
        assert whole(shared.address)
    folder.rmdir()


def test_no_attached_process_changes_what_others_see(shared: Hosted) -> None:
    with attach(shared.address) as model:
        seen = [model.tensor("w")]

        def hostile() -> bool:
            own = attach(shared.address)
            own.tensors()
            descriptors = [
                int(entry.name) for entry in Path("/proc/self/fd").iterdir() if _shared(entry)
            ]
            assert descriptors
            refused = 0
            attempts = (
                lambda fd: os.pwrite(fd, b"evil", 0),
                lambda fd: os.ftruncate(fd, 0),
                lambda fd: mmap.mmap(fd, 1, mmap.MAP_SHARED),
                lambda fd: os.pwrite(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"evil", 0),
            )
            for descriptor in descriptors:
                for attempt in attempts:
                    with suppress(OSError):
                        attempt(descriptor)
                        return False
                    refused += 1
            edited = own.lend(MODEL).shared(0, len(FILES[MODEL]))
            edited[:] = bytes(len(edited))
            return refused == len(attempts) * len(descriptors)

        assert in_a_child(hostile)
        np.testing.assert_array_equal(seen.pop(), WEIGHTS)
        assert whole(shared.address)


def _shared(entry: Path) -> bool:
    with suppress(OSError):
        return str(entry.readlink()).startswith("/memfd:")
    return False


def connected(address: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.settimeout(20)
    line.connect(address)
    return line


GARBAGE = (
    b"\0",
    b"{" * 3000,
    b'{"type":"describe","path":"x"}',
    b'{"type":"memory","path":"../../etc/passwd","more":[]}',
    b"x" * (messages.MAX_REQUEST + 1),
    b"x" * 150_000,
)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_and_ends_one_line_only(shared: Hosted, garbage: bytes) -> None:
    with attach(shared.address) as model, connected(shared.address) as line:
        line.send(garbage)
        with pytest.raises(ModelVaultError):
            messages.answer(line.recv(messages.MAX_ANSWER))
        assert line.recv(1) == b""
        np.testing.assert_array_equal(model.tensor("w"), WEIGHTS)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (Need(MODEL, 0, 10), "not_taken"),
        (Memory("../secret"), "no_file"),
        (Memory("/etc/passwd"), "no_file"),
        (Memory("model.safetensors\0"), "no_file"),
    ],
)
def test_well_formed_requests_for_what_isnt_theirs(
    shared: Hosted, asked: messages.Request, code: str
) -> None:
    with connected(shared.address) as line:
        for _ in range(2):  # the line goes on
            messages.send(line, asked, [])
            with pytest.raises(ModelVaultError) as caught:
                messages.answer(line.recv(messages.MAX_ANSWER))
            assert caught.value.code == code


def test_ranges_outside_of_a_file(shared: Hosted) -> None:
    size = len(FILES[MODEL])
    with connected(shared.address) as line:
        messages.send(line, Memory(MODEL), [])
        _, descriptors, _, _ = socket.recv_fds(line, 1000, 1)
        os.close(descriptors[0])
        for begin, end in ((0, size + 1), (5, 4), (size + 1, size + 2), (0, 2**53 - 1)):
            messages.send(line, Need(MODEL, begin, end), [])
            with pytest.raises(ModelVaultError) as caught:
                messages.answer(line.recv(messages.MAX_ANSWER))
            assert caught.value.code == "bad_range"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"type":"need","path":"m","begin":-1,"end":0}', type=Need)


def test_silence_floods_and_stuffed_descriptors_hold_nobody_up(shared: Hosted) -> None:
    silent = [connected(shared.address) for _ in range(3)]
    flood = connected(shared.address)
    flood.setblocking(False)
    with suppress(BlockingIOError):
        while True:  # asks and never listens
            messages.send(flood, Memory(MODEL), [])
    stuffed = connected(shared.address)
    open_at: list[int] = []
    for _ in range(50):
        messages.send(stuffed, Memory(MODEL), [0, 1, 2] * 20)
        _, given, _, _ = socket.recv_fds(stuffed, 1000, 1)
        os.close(given[0])
        open_at.append(len(list(Path("/proc/self/fd").iterdir())))
    assert open_at[-1] <= open_at[0]
    assert in_a_child(lambda: whole(shared.address))
    for line in (*silent, flood, stuffed):
        line.close()


def test_one_that_dies_while_it_is_answered_is_no_trouble(shared: Hosted) -> None:
    reader = shared.version.readers[MODEL]
    reader.before = lambda: time.sleep(0.5)

    def dying() -> bool:
        with connected(shared.address) as line:
            messages.send(line, Memory(MODEL), [])
            line.recv(1000)
            messages.send(line, Need(MODEL, 0, len(FILES[MODEL])), [])
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    assert not in_a_child(dying)
    reader.before = None
    assert whole(shared.address)


def test_a_holder_that_is_killed_leaves_nobody_with_access() -> None:
    def holder(pipe: int) -> None:
        with hosted(FILES) as shared:
            if os.fork() == 0:
                reasons: list[str] = []
                model = attach(shared.address, on_revoked=reasons.append)
                kept = model.tensor("b")
                tell(pipe, "attached")
                end = time.monotonic() + 30
                while not reasons and time.monotonic() < end:
                    time.sleep(0.01)
                tell(pipe, reasons[0])
                tell(pipe, outcome(lambda: model.tensor("w")))
                tell(pipe, outcome(lambda: attach(shared.address)))
                tell(pipe, str(kept.sum()))
                os._exit(0)
            signal.pause()

    with elsewhere(holder) as (pid, line):
        assert line() == "attached"
        os.kill(pid, signal.SIGKILL)
        assert [line() for _ in range(4)] == ["host_gone", "host_gone", "host_gone", "3.0"]


def test_a_holder_that_is_stopped_gives_nobody_a_second_more() -> None:
    def holder(pipe: int) -> None:
        with hosted(FILES, stats=lambda: lasting(1)) as shared:
            if os.fork() == 0:
                model = attach(shared.address)
                model.tensor("b")
                tell(pipe, "attached")
                end = time.monotonic() + 30
                while outcome(lambda: model.tensor("b")) == "had" and time.monotonic() < end:
                    time.sleep(0.05)
                tell(pipe, outcome(lambda: model.tensor("b")))  # here already
                tell(pipe, outcome(lambda: model.tensor("w")))  # nobody would answer
                os._exit(0)
            signal.pause()

    with elsewhere(holder) as (pid, line):
        assert line() == "attached"
        os.kill(pid, signal.SIGSTOP)
        assert [line(), line()] == ["lease_expired", "lease_expired"]


def test_who_outlives_terminate_on_revoke_looks_at_zeros() -> None:
    with hosted(FILES, Obligations(terminate_on_revoke=1)) as shared:

        def hostile(pipe: int) -> None:
            """It keeps the memory by itself, and no Model that would end this process."""
            size = len(FILES[MODEL])
            line = connected(shared.address)
            messages.send(line, Memory(MODEL), [])
            _, (descriptor,), _, _ = socket.recv_fds(line, 1000, 1)
            kept = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
            messages.send(line, Need(MODEL, 0, size), [])
            line.recv(1000)
            assert kept[:] == FILES[MODEL]
            tell(pipe, "kept")
            assert line.recv(1) == b""
            tell(pipe, "denied" if kept[:] == FILES[MODEL] else "too early")
            end = time.monotonic() + 20
            while any(kept[:]) and time.monotonic() < end:
                time.sleep(0.05)
            tell(pipe, "zeros" if not any(kept[:]) else "weights")

        with elsewhere(hostile) as (_, line):
            assert line() == "kept"
            shared.version.lease.revoked = True
            assert [line(), line()] == ["denied", "zeros"]


def test_who_is_attached_ends_where_the_policy_says_so() -> None:
    with hosted(FILES, Obligations(terminate_on_revoke=20)) as shared:

        def job(pipe: int) -> None:
            model = attach(shared.address, on_revoked=lambda reason: tell(pipe, reason))
            model.tensor("b")
            tell(pipe, "attached")
            time.sleep(60)

        with elsewhere(job) as (pid, line):
            assert line() == "attached"
            shared.version.lease.revoked = True
            assert line() == "revoked"
            assert line() == ""  # its end of the pipe is closed: it has ended
            status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert status is not None
            assert status.si_status == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_without_its_holder_it_ends_with_the_lease(number: signal.Signals) -> None:
    """Who is attached sees to its own end: nobody else may be left to do so."""

    def holder(pipe: int) -> None:
        ends = Obligations(terminate_on_revoke=1)
        address, told = os.pipe()
        if os.fork() == 0:  # before there are threads, whose locks it would inherit
            where = os.read(address, 4096).decode()
            model = attach(where, on_revoked=lambda reason: tell(pipe, reason))
            kept = model.tensor("b")
            tell(pipe, str(os.getpid()))
            time.sleep(60)
            tell(pipe, f"lives, with {len(kept)} numbers")
            os._exit(0)
        with hosted(FILES, ends, stats=lambda: lasting(2)) as shared:
            os.write(told, shared.address.encode())
            signal.pause()

    with elsewhere(holder) as (pid, line):
        child = line()
        os.kill(pid, number)
        assert line() == ("lease_expired" if number == signal.SIGSTOP else "host_gone")
        end = time.monotonic() + 20
        while _runs(child) and time.monotonic() < end:
            time.sleep(0.05)
        assert not _runs(child)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_a_socket_of_somebody_elses_isnt_believed(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)

    def fooled() -> bool:
        try:
            attach(tmp_path / "s")
        except Unavailable as error:
            return error.code == "host_unreadable"
        return False

    with listener, elsewhere(lambda pipe: tell(pipe, str(fooled()))) as (_, line):
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.send(b'{"type":"done"}')  # and no memory with it
            assert line() == "True"

"""A holder and those who attach to it, in one process and in forked ones."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import modelvault
from modelvault import attach
from modelvault.access import Obligations
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.sharing import address, peers
from modelvault.sharing.address import SOCKET, VARIABLE
from modelvault.sharing.host import MAX_OF_ONE, Host
from support.engines import need
from support.hosts import Hosted, hosted, in_a_child, lasting
from support.loading import BROKEN, Version

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
ARRAYS = {
    "w": np.arange(200_000, dtype="f4"),
    "b": np.ones(3, "f8"),
    "v": np.arange(50_000, dtype="i8").reshape(500, 100),
}
MODEL = "model.safetensors"
FILES = {MODEL: save(ARRAYS), "config.json": b'{"a": 1}' * 3000, "empty.txt": b""}


@pytest.fixture
def shared() -> Iterator[Hosted]:
    with hosted(FILES) as made:
        yield made


def eventually(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 15
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_an_attached_model_is_the_model(shared: Hosted) -> None:
    with attach(shared.address) as model:
        assert model.manifest == shared.model.manifest
        assert model.files == shared.model.files
        assert model.obligations == shared.model.obligations
        assert model.name == shared.model.name
        assert 0 < model.stats().lease_seconds_left <= 600
        tensors = model.tensors()
        for name, wanted in ARRAYS.items():
            np.testing.assert_array_equal(tensors[name], wanted)
        assert not tensors["w"].flags.writeable
        np.testing.assert_array_equal(model.tensor("v"), ARRAYS["v"])
        assert set(model.tensor_infos()) == set(ARRAYS)
        assert bytes(model.read_bytes("config.json")) == FILES["config.json"]
        assert bytes(model.read_bytes("empty.txt")) == b""
        with model.open("config.json") as file:
            file.seek(8)
            assert file.read(8) == b'{"a": 1}'
        assert (model.path("config.json") / "config.json").read_bytes() == FILES["config.json"]
        part = model.get_slice("v", framework="numpy")[10:20, 5:7]
        np.testing.assert_array_equal(part, ARRAYS["v"][10:20, 5:7])
        with pytest.raises(NotFound):
            model.read_bytes("other")
        del tensors, part
    assert model.closed
    assert not shared.model.closed


def test_nothing_is_decrypted_twice_whoever_asks(shared: Hosted) -> None:
    with attach(shared.address) as one, attach(shared.address) as two:
        one.tensor("b")
        few = shared.reads(MODEL)
        assert few < len(FILES[MODEL]) / 2
        everybody = [
            threading.Thread(target=model.tensors) for model in (one, two, shared.model) * 2
        ]
        for thread in everybody:
            thread.start()
        for thread in everybody:
            thread.join()
        assert shared.reads(MODEL) == len(FILES[MODEL])
        assert in_a_child(lambda: bool(attach(shared.address).tensors()))
        assert shared.reads(MODEL) == len(FILES[MODEL])


def test_what_the_holder_had_already_is_shared_as_well() -> None:
    version = Version(FILES)
    with version.model(stats=lasting) as model:
        model.read_bytes(MODEL)
        read = version.bytes_read
        with Host(model) as host, attach(host.socket_path) as attached:
            np.testing.assert_array_equal(attached.tensor("w"), ARRAYS["w"])
            assert version.bytes_read == read
        del host


def test_torch_tensors_are_everybodys_own_once_written_to(shared: Hosted) -> None:
    need("torch")
    with attach(shared.address) as one, attach(shared.address) as two:
        mine, its = one.state_dict(), two.state_dict()
        mine["w"].zero_()
        assert float(its["w"][7]) == 7.0 == float(one.tensor("w")[7])
        again = one.state_dict()
        assert float(again["w"][7]) == 7.0
        del mine, its, again


def test_an_edit_beside_what_isnt_decrypted_yet_hides_nothing_of_it(shared: Hosted) -> None:
    """Pages and segments have different borders: an edited page must be whole before."""
    with attach(shared.address) as model:
        resident = model.lend(MODEL)
        edited = []
        for at in range(3000, 60_000, 4096 - 28):
            part = resident.shared(at, at + 4)
            part[:] = b"edit"
            edited.append((at, part))
        wanted = FILES[MODEL]
        for at, part in edited:
            assert bytes(part) == b"edit"
            assert bytes(resident.view(at, at + 9000)) == wanted[at : at + 9000]
        del edited, part


def test_tensors_in_a_stream_are_views_of_the_same_memory(shared: Hosted) -> None:
    torch = need("torch")
    with attach(shared.address) as model:
        with model.iter_tensors() as stream:
            found = dict(stream)
        assert set(found) == set(ARRAYS)
        assert torch.equal(found["w"], torch.from_numpy(ARRAYS["w"]))
        assert shared.reads(MODEL) == len(FILES[MODEL])
        with model.iter_tensors(MODEL, device="cpu") as stream:
            name, tensor = next(stream)
            assert torch.equal(tensor, found[name])
        with pytest.raises(Conflict):
            next(stream)
        module = torch.nn.Module()
        module.w = torch.nn.Parameter(torch.empty(200_000, device="meta"))
        module.b = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        loaded = model.load_into(module, strict=False)
        assert loaded.unexpected == ("v",)
        assert torch.equal(module.w, found["w"])
        assert torch.equal(module.b, found["b"])
        del found, tensor, module, stream


def test_half_of_a_stream_isnt_the_whole(shared: Hosted) -> None:
    """Of several threads that share one, only one is told what went wrong."""
    need("torch")
    with attach(shared.address) as model:
        model.tensor_infos()
        shared.version.readers[MODEL].error = BROKEN
        stream = model.iter_tensors()
        with pytest.raises(IntegrityError):
            next(stream)
        with pytest.raises(Conflict) as ended:
            next(stream)
        assert ended.value.code == "closed"
        shared.version.readers[MODEL].error = None
        whole = model.iter_tensors()
        assert len(dict(whole)) == len(ARRAYS)
        assert list(whole) == []


def test_a_revocation_reaches_everybody_at_once(shared: Hosted) -> None:
    reasons: list[str] = []
    model = attach(shared.address, on_revoked=reasons.append)
    kept = model.tensor("b")
    model.read_bytes("config.json")
    shared.version.lease.revoked = True
    eventually(lambda: reasons)
    assert reasons == ["revoked"]
    for use in (
        lambda: model.tensor("b"),
        lambda: model.read_bytes("config.json"),
        lambda: attach(shared.address),
    ):
        with pytest.raises(AccessDenied) as caught:
            use()
        assert caught.value.code == "revoked"
    assert not model._residents["config.json"].alive
    np.testing.assert_array_equal(kept, ARRAYS["b"])  # what is looked at stays
    del kept
    model.close()


def test_a_request_that_comes_before_the_page_knows_is_denied_too(shared: Hosted) -> None:
    with attach(shared.address) as model:
        model.tensor_infos()
        shared.version.lease.revoked = True
        with pytest.raises(AccessDenied, match="the lease was revoked"):
            model.tensor("w")
        model.drop()


def test_a_host_that_stops_says_so(shared: Hosted) -> None:
    reasons: list[str] = []
    model = attach(shared.address, on_revoked=reasons.append)
    kept = model.tensor("b")
    shared.host.stop()
    eventually(lambda: reasons)
    with pytest.raises(Conflict) as caught:
        model.tensor("w")
    assert caught.value.code == "closed" == reasons[0]
    np.testing.assert_array_equal(kept, ARRAYS["b"])
    with pytest.raises(Unavailable) as gone:
        attach(shared.address)
    assert gone.value.code == "host_gone"
    assert not Path(shared.address).exists()
    del kept
    model.close()
    shared.host.stop()


def test_a_closed_model_ends_the_sharing(shared: Hosted) -> None:
    model = attach(shared.address)
    kept = model.tensor("b")
    shared.model.close()
    with pytest.raises(Conflict):
        model.tensor("w")
    eventually(lambda: model._gate._dropped)
    np.testing.assert_array_equal(kept, ARRAYS["b"])  # never zeroed under a reader
    del kept


def test_a_holder_that_is_silent_gives_nobody_a_second_more() -> None:
    now = [100_000]
    granted = lasting(5, grace_s=2, now=now[0])
    stats = lambda: granted  # noqa: E731  renewals fail: the grace runs
    with hosted(FILES, Obligations(grace_s=2), stats=stats, clock=lambda: now[0]) as shared:
        model = attach(shared.address, clock=lambda: now[0])
        model.tensor("b")
        assert model.stats().lease_seconds_left == 5
        now[0] += 6900
        time.sleep(0.6)
        model.tensor("b")
        assert model.stats().lease_seconds_left == 0
        now[0] += 200
        with pytest.raises(AccessDenied) as caught:
            model.tensor("b")
        assert caught.value.code == "lease_expired"
        model.close()


def test_errors_of_the_holder_are_errors_here(shared: Hosted) -> None:
    with attach(shared.address) as model:
        shared.version.readers[MODEL].error = BROKEN
        for _ in range(2):
            with pytest.raises(IntegrityError) as caught:
                model.tensors()
            assert caught.value.code == BROKEN.code
            assert MODEL in caught.value.message
        shared.version.readers[MODEL].error = RuntimeError("a bug, with a secret in its text")
        with pytest.raises(Unavailable) as failed:
            model.tensors()
        assert failed.value.code == "host_failed"
        assert "secret" not in str(failed.value)
        shared.version.readers[MODEL].error = None
        np.testing.assert_array_equal(model.tensor("w"), ARRAYS["w"])


def test_obligations_hold_on_both_sides() -> None:
    files = {"a.dat": b"plain" * 100, "p.pkl": b"\x80\x04K\x01." * 50}
    with hosted(files) as shared, attach(shared.address) as model:
        with pytest.raises(AccessDenied) as caught:
            model.read_bytes("p.pkl")
        assert caught.value.code == "pickle_refused"
        model._screen._allowed = True  # a process that looks away: the holder doesn't
        with pytest.raises(AccessDenied) as caught:
            model.read_bytes("p.pkl")
        assert caught.value.code == "pickle_refused"
    with hosted(files, Obligations(allow_pickle=True)) as shared, attach(shared.address) as model:
        assert bytes(model.read_bytes("p.pkl")) == files["p.pkl"]


def test_isolated_memory_needs_a_holder_that_nobody_looks_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = Version(FILES)
    monkeypatch.setattr(peers, "hidden", lambda: False)  # another test may have hidden us
    with version.model(obligations=Obligations(isolated_memory=True), stats=lasting) as model:
        with pytest.raises(AccessDenied) as caught:
            Host(model).start()
        assert caught.value.code == "isolated_memory"
        monkeypatch.setattr(peers, "hidden", lambda: True)
        with Host(model) as host, attach(host.socket_path) as attached:
            attached.tensor("b")


def test_memory_that_nobody_has_is_given_back_and_comes_again() -> None:
    with hosted(FILES, linger_s=0.1) as shared:
        model = attach(shared.address)
        model.tensors()
        time.sleep(1.2)
        assert shared.model._residents[MODEL].alive  # it is attached
        model.close()
        eventually(lambda: not shared.model._residents[MODEL].alive)
        with attach(shared.address) as again:
            np.testing.assert_array_equal(again.tensor("w"), ARRAYS["w"])
        assert shared.reads(MODEL) > len(FILES[MODEL])


def test_memory_that_the_model_let_go_of_is_never_read_for_what_it_holds_now(
    shared: Hosted,
) -> None:
    with attach(shared.address) as model:
        model.tensor("b")
        shared.model.release()
        with pytest.raises(Conflict) as caught:
            model.tensor("w")
        assert caught.value.code == "memory_replaced"
    with attach(shared.address) as model:
        np.testing.assert_array_equal(model.tensor("w"), ARRAYS["w"])


class TestForks:
    def test_a_child_attaches_by_itself(self, shared: Hosted) -> None:
        with attach(shared.address) as model:
            model.tensor("b")

            def child() -> bool:
                with pytest.raises(Conflict) as caught:
                    model.tensor("b")
                with attach(shared.address) as own:
                    same = np.array_equal(own.tensor("w"), ARRAYS["w"])
                    return caught.value.code == "forked" and bool(same)

            assert in_a_child(child)
            np.testing.assert_array_equal(model.tensor("w"), ARRAYS["w"])

    def test_a_child_that_inherits_goes_on_with_its_parents_model(self, shared: Hosted) -> None:
        with attach(shared.address) as model:
            seen = [model.tensor("b")]

            def child() -> bool:
                whole = model.tensors()  # over a line of its own
                same = [np.array_equal(whole[name], ARRAYS[name]) for name in ARRAYS]
                return all(same) and bool(np.array_equal(seen[0], ARRAYS["b"]))

            with modelvault.inherited():
                assert in_a_child(child)
            np.testing.assert_array_equal(model.tensor("w"), ARRAYS["w"])
            assert shared.reads(MODEL) == len(FILES[MODEL])
            seen.clear()

    def test_a_revocation_reaches_such_a_child(self, shared: Hosted) -> None:
        with attach(shared.address) as model:
            model.tensor("b")
            shared.version.lease.revoked = True
            eventually(lambda: model._gate._dropped)

            def child() -> bool:
                try:
                    model.tensor("b")
                except AccessDenied as denied:
                    return denied.code == "revoked"
                return False

            with modelvault.inherited():
                assert in_a_child(child)

    def test_the_holders_child_attaches_and_harms_nothing(self, shared: Hosted) -> None:
        shared.model.tensor("b")

        def child() -> bool:
            shared.host.stop()
            with attach(shared.address) as model:
                return bool(np.array_equal(model.tensor("w"), ARRAYS["w"]))

        assert in_a_child(child)
        with attach(shared.address) as model:
            np.testing.assert_array_equal(model.tensor("w"), ARRAYS["w"])


class TestFinding:
    def test_by_the_environment(self, shared: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
        assert set(shared.host.environment) == {VARIABLE}
        monkeypatch.setenv(VARIABLE, shared.host.environment[VARIABLE])
        with modelvault.attach() as model:
            model.tensor("b")

    def test_by_the_runs_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with hosted(FILES, socket_path=tmp_path / SOCKET):
            monkeypatch.setenv(VARIABLE, str(tmp_path))
            with attach() as model:
                model.tensor("b")
        assert not list(tmp_path.iterdir())

    def test_nobody_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(VARIABLE, raising=False)
        with pytest.raises(InvalidRequest) as caught:
            attach()
        assert caught.value.code == "no_run"

    def test_a_run_that_shares_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable) as caught:
            attach(tmp_path)
        assert caught.value.code == "host_gone"
        assert "--stream" in caught.value.hint

    @pytest.mark.parametrize("name", ["x" * 120, "no/such/folder", "."])
    def test_sockets_that_cant_be(self, tmp_path: Path, name: str) -> None:
        with Version(FILES).model(stats=lasting) as model, pytest.raises(InvalidRequest) as caught:
            Host(model, tmp_path / name).start()
        assert caught.value.code == "bad_socket_path"
        assert not [path for path in tmp_path.iterdir() if path.is_socket()]

    @pytest.mark.parametrize("named", [True, False])
    def test_a_folder_whose_path_no_address_has_room_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
    ) -> None:
        folder = tmp_path / ("x" * 150)
        folder.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        more = {"socket_path": folder / SOCKET} if named else {}
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        with hosted(FILES, **more) as shared:
            assert Path(shared.address).is_relative_to(folder)
            assert Path(shared.address).stat().st_mode & 0o777 == 0o600
            for _ in range(2):
                with attach(shared.address) as model:
                    np.testing.assert_array_equal(model.tensor("b"), ARRAYS["b"])
        assert not list(folder.iterdir())
        del shared, model
        gc.collect()
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
        with pytest.raises(Unavailable) as gone:
            attach(folder)
        assert gone.value.code == "host_gone"

    def test_such_a_folder_on_another_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(address.sys, "platform", "darwin")
        with pytest.raises(InvalidRequest, match="longer than 107 bytes") as caught:
            address.make(tmp_path / ("x" * 150) / SOCKET)
        assert caught.value.code == "bad_socket_path"

    def test_what_killed_holders_left_is_removed_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        (tmp_path / "modelvault-host-others").mkdir()
        (tmp_path / "modelvault-host-others/host").write_text("left")
        (tmp_path / "else").mkdir()
        with hosted(FILES) as first:
            living = Path(first.address).parent
            with hosted(FILES) as second:
                assert {path.name for path in tmp_path.iterdir()} == {
                    "else", living.name, Path(second.address).parent.name,
                }  # fmt: skip
        assert [path.name for path in tmp_path.iterdir()] == ["else"]

    def test_it_is_private_and_removed(self, shared: Hosted) -> None:
        path = Path(shared.address)
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
        shared.host.stop()
        assert not path.parent.exists()


def test_a_store_that_never_answers_for_one_file_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor what the holder has to say, nor its end."""
    monkeypatch.setattr("modelvault.sharing.host._JOIN_NS", 100_000_000)
    begun, waits, answer = threading.Event(), threading.Event(), threading.Event()

    def stall() -> None:
        begun.set()
        assert answer.wait(10)

    with hosted(FILES, linger_s=0) as shared:
        take = shared.host._shelf.take

        def taking(path: str, taker: object) -> int:
            if begun.is_set() and path == MODEL:
                waits.set()
            return take(path, taker)

        monkeypatch.setattr(shared.host._shelf, "take", taking)
        with attach(shared.address) as one, attach(shared.address) as two:
            one.tensor("b")  # it is looked at, and begun
            shared.version.readers[MODEL].before = stall
            lines = [threading.Thread(target=outcome, args=(each,)) for each in (one, two)]
            lines[0].start()
            assert begun.wait(20)
            lines[1].start()
            assert waits.wait(20)
            time.sleep(0.2)  # it waits for the first one's answer by now
            with attach(shared.address) as other:
                assert bytes(other.read_bytes("config.json")) == FILES["config.json"]
            assert not answer.is_set()
            assert lines[0].is_alive()
            shared.version.lease.revoked = True
            for each in (one, two):
                eventually(lambda each=each: denied(each))
            shared.host.stop()
            assert not Path(shared.address).exists()
            answer.set()
            for line in lines:
                line.join(20)


def outcome(model: modelvault.Model) -> None:
    with suppress(ModelVaultError):
        model.tensor("w")


def denied(model: modelvault.Model) -> bool:
    try:
        model.check()
    except AccessDenied as error:
        return error.code == "revoked"
    return False


def test_limits(shared: Hosted) -> None:
    lines = []
    for _ in range(MAX_OF_ONE):
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.connect(shared.address)
        lines.append(line)
    with pytest.raises(Unavailable) as caught:
        attach(shared.address)
    assert caught.value.code == "too_many_attached"
    for line in lines:
        line.close()
    eventually(lambda: not shared.host._connections)
    with attach(shared.address) as model:
        model.tensor("b")


def test_a_forgotten_model_lets_go(shared: Hosted) -> None:
    model = attach(shared.address)
    model.tensor("b")
    assert shared.host._connections
    del model
    gc.collect()
    eventually(lambda: not shared.host._connections)


def test_descriptors_are_given_back(shared: Hosted) -> None:
    def use() -> None:
        with attach(shared.address) as model:
            model.tensors()
        eventually(lambda: not shared.host._connections)

    use()
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        use()
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_holder_whose_thread_fails_serves_nobody_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(str(args.exc_value)))
    with hosted(FILES) as shared:
        model = attach(shared.address)
        model.tensor("b")

        def fail() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(shared.host._shelf, "tidy", fail)
        eventually(lambda: model._gate._dropped)
        with pytest.raises(Unavailable) as caught:
            model.tensor("b")
        assert caught.value.code == "host_failed"
        eventually(lambda: told == ["a bug"])  # told when the thread has ended
        model.close()


def test_what_the_holder_has_needs_no_room_here_but_copies_do(
    shared: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Unavailable("insufficient_memory", "the machine is full")

    def refuse(size: int) -> None:
        assert size
        raise full

    with attach(shared.address) as model:
        model._fits = refuse
        np.testing.assert_array_equal(model.tensors()["w"], ARRAYS["w"])
        with pytest.raises(Unavailable):
            model.get_slice("v", framework="numpy")[1:2]


def test_a_machine_that_is_full_is_an_error_in_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a byte is read: a look at a page that can't be had would be a signal."""
    with hosted(FILES) as shared, attach(shared.address) as model:
        model.tensor_infos()

        def refused(*_: int) -> None:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr("os.posix_fallocate", refused)
        before = shared.reads(MODEL)
        with pytest.raises(Unavailable) as caught:
            model.tensors()
        assert caught.value.code == "insufficient_memory"
        assert shared.reads(MODEL) == before

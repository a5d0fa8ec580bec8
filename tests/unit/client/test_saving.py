"""Saves into an embedded vault: what comes back, what is refused, what is left when they fail."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.adapters.objects_folder import FolderStore
from modelvault.client.session import Session
from modelvault.errors import (
    AccessDenied,
    Conflict,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.manifest import Provenance
from support.engines import need
from support.homes import isolated

STATE = {
    "layer.weight": np.arange(3000, dtype="f4").reshape(50, 60),
    "layer.turned": np.arange(3000, dtype="f4").reshape(60, 50).T,
    "step": np.array(7),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = isolated(tmp_path_factory.mktemp("saving"), patch)
        wiring.init()
        yield made


@pytest.fixture
def model(home: Path, request: pytest.FixtureRequest) -> str:
    """A model that this test has for itself."""
    name = "m-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:80]
    with connect() as vault:
        vault.create(name)
    return name


@pytest.fixture
def vault(home: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def objects(home: Path) -> set[Path]:
    return {path for path in (home / "objects").rglob("*") if path.is_file()}


def loaded(
    vault: Session, reference: str, purpose: str = "inference"
) -> dict[str, np.ndarray[Any, Any]]:
    with vault.load(reference, purpose=purpose) as model:
        return {name: np.array(array) for name, array in model.tensors().items()}


def same(found: dict[str, Any], state: dict[str, Any]) -> bool:
    return found.keys() == state.keys() and all(
        np.array_equal(found[name], state[name]) for name in state
    )


# The save begins in earnest only when the main thread has ended, and then, as in Python 3.12, no
# further thread begins.
_ENDS = """
import threading
import numpy as np
import modelvault
from modelvault.client import saving

put, main = saving._put, threading.main_thread()

def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def late(*args):
    main.join()
    threading.Thread.start = refuse
    return put(*args)

saving._put = late
vault = modelvault.connect()
state = {{"small": np.arange(9), "large": np.zeros(1 << 19)}}
vault.begin_save(state, "{model}:step-1", files={{"config.json": b"{{}}"}}, max_shard_size=1000)
"""


class TestSave:
    def test_what_goes_in_comes_out(self, vault: Session, model: str) -> None:
        saved = vault.save(
            STATE, f"{model}:step-1", files={"config.json": b'{"a": 1}'}, labels={"team": "x"},
            provenance=Provenance(training_run="r7"), public_metadata=True,
        )  # fmt: skip
        assert (saved.name, saved.version, saved.tag) == (f"{model}@1", 1, "step-1")
        assert same(loaded(vault, f"{model}:step-1"), STATE)
        with vault.load(model, purpose="inference") as opened:
            assert opened.files == ("config.json", "model.safetensors")
            assert bytes(opened.read_bytes("config.json")) == b'{"a": 1}'
            assert opened.size == saved.size
            manifest = opened.manifest
        assert manifest.labels == {"team": "x"}
        assert manifest.provenance.training_run == "r7"
        assert {one.name for one in manifest.tensors or ()} == set(STATE)
        assert manifest.hints.formats == ("json", "safetensors")

    def test_in_shards(self, vault: Session, model: str) -> None:
        vault.save({**STATE, "again": STATE["layer.weight"]}, model, max_shard_size=12_000)
        found = loaded(vault, model)  # the index is checked on the way
        assert same(found, {**STATE, "again": STATE["layer.weight"]})

    def test_names_of_one_tensor_share_its_memory(self, vault: Session, model: str) -> None:
        vault.save({"a": STATE["layer.weight"], "b": STATE["layer.weight"]}, model)
        with vault.load(model, purpose="inference") as opened:
            found = opened.tensors()
            assert np.shares_memory(found["a"], found["b"])
            assert np.array_equal(opened.tensor("b"), STATE["layer.weight"])
            del found

    def test_a_pickle_among_the_files_is_told(self, vault: Session, model: str) -> None:
        vault.save(STATE, model, files={"odd.json": b"\x80\x04N."})
        with pytest.raises(AccessDenied) as refused:
            vault.load(model, purpose="inference")
        assert "pickle_not_allowed" in refused.value.details["reasons"]

    def test_progress_counts_plaintext(self, vault: Session, model: str) -> None:
        told: list[tuple[int, int]] = []
        saved = vault.save(STATE, model, progress=lambda *now: told.append(now))
        assert told[-1] == (saved.size, saved.size)

    @pytest.mark.parametrize(
        ("call", "code"),
        [
            (lambda v, m: v.save({}, m), "nothing_to_save"),
            (lambda v, m: v.save({"a": 1}, m), "not_a_tensor"),
            (lambda v, m: v.save(STATE, f"{m}@3"), "bad_reference"),
            (lambda v, m: v.save(STATE, "not a name"), "bad_reference"),
            (lambda v, m: v.save(STATE, m, keep=3), "bad_keep"),
            (lambda v, m: v.save(STATE, m, labels={"step": 1000}), "bad_labels"),
            (lambda v, m: v.save(STATE, m, labels={"": "x"}), "bad_labels"),
            (lambda v, m: v.save(STATE, m, labels={"x": "\ud800"}), "bad_labels"),
            (
                lambda v, m: v.save(STATE, m, provenance=Provenance(training_run=7)),
                "bad_provenance",
            ),
            (lambda v, m: v.begin_save(STATE, m, labels={"step": "x" * 257}), "bad_labels"),
            (lambda v, m: v.begin_save(STATE, m, max_copy="1 GiB"), "bad_max_copy"),
            (lambda v, m: v.begin_save(STATE, m, max_copy=-1), "bad_max_copy"),
            (lambda v, m: v.push(__file__, m, labels={"step": 1000}), "bad_labels"),
            (lambda v, m: v.begin_save(STATE, f"{m}@3"), "bad_reference"),
            (lambda v, m: v.begin_save({"a": None}, m), "not_a_tensor"),
        ],
    )
    def test_what_is_refused_asks_the_vault_for_nothing(
        self, vault: Session, model: str, call: Callable[[Session, str], object], code: str
    ) -> None:
        before = len(vault.entries(limit=1000).entries)
        with pytest.raises(InvalidRequest) as refused:
            call(vault, model)
        assert refused.value.code == code
        assert len(vault.entries(limit=1000).entries) == before

    def test_names_too_long_to_be_public(self, vault: Session, model: str) -> None:
        state = {"x" * 1025: np.ones(3)}
        with pytest.raises(InvalidRequest) as refused:
            vault.save(state, model, public_metadata=True)
        assert refused.value.code == "bad_tensors"
        assert refused.value.hint
        vault.save(state, model)

    def test_a_model_that_isnt_there(self, vault: Session) -> None:
        with pytest.raises(NotFound) as refused:
            vault.save(STATE, "nosuch")
        assert refused.value.code == "no_model"


class TestFailures:
    def test_a_full_disk_leaves_nothing_and_the_next_save_works(
        self, vault: Session, model: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = objects(home)

        def full(*_: object) -> None:
            raise Unavailable("store_full", f"the store is full (errno {errno.ENOSPC})")

        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "put", full)
            with pytest.raises(Unavailable):
                vault.save(STATE, f"{model}:step-1")
            background = vault.begin_save(STATE, f"{model}:step-1")
            with pytest.raises(Unavailable):
                background.wait()
        assert objects(home) == before
        assert vault.save(STATE, f"{model}:step-2").version == 1
        assert same(loaded(vault, model), STATE)

    def test_a_tensor_that_is_written_to_meanwhile(
        self, vault: Session, model: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch = need("torch")
        weight = torch.zeros(1000)
        before = objects(home)
        real = FolderStore.put

        def put(self: FolderStore, *args: Any) -> None:
            weight.add_(1)
            real(self, *args)

        monkeypatch.setattr(FolderStore, "put", put)
        with pytest.raises(Conflict) as refused:
            vault.save({"w": weight}, model)
        assert refused.value.code == "file_changed"
        assert objects(home) == before
        # A copy was taken first: what training does meanwhile is no part of it.
        weight.zero_()
        vault.begin_save({"w": weight}, model).wait()
        assert not loaded(vault, model)["w"].any()
        assert weight.any()

    @pytest.mark.parametrize("call", ["open_version", "commit"])
    def test_a_vault_that_is_down_for_a_while(
        self, vault: Session, model: str, home: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        before = objects(home)

        def down(*_: object) -> None:
            raise Unavailable("broker_unavailable", "the broker doesn't answer")

        with monkeypatch.context() as patch:
            patch.setattr(type(vault._context.broker), call, down)
            with pytest.raises(Unavailable):
                vault.save(STATE, f"{model}:step-1")
            saving = vault.begin_save(STATE, f"{model}:step-1", keep=1)
            with pytest.raises(Unavailable):
                saving.wait()
        assert objects(home) == before
        assert vault.begin_save(STATE, f"{model}:step-2", keep=1).wait().version == 1

    def test_a_revoked_identity(self, home: Path, model: str) -> None:
        with connect() as admin:
            token = admin.mint_token(sub="trainer", groups=["admins"])
            with connect(token=token) as trainer:
                trainer.save(STATE, f"{model}:step-1")
                admin.revoke("principal", "local:trainer", reason="left")
                with pytest.raises(AccessDenied) as refused:
                    trainer.save(STATE, f"{model}:step-2")
                assert refused.value.code == "revoked"
                saving = trainer.begin_save(STATE, f"{model}:step-2")
                with pytest.raises(AccessDenied):
                    saving.wait()


class TestBackground:
    def test_what_was_there_when_it_began(self, vault: Session, model: str) -> None:
        state = {name: array.copy() for name, array in STATE.items()}
        saving = vault.begin_save(state, f"{model}:step-1", files={"config.json": b"{}"})
        for array in state.values():
            array[...] = 0
        assert saving.wait().version == 1
        assert same(loaded(vault, f"{model}:step-1"), STATE)

    def test_no_larger_copy_than_was_allowed(self, vault: Session, model: str) -> None:
        with pytest.raises(Unavailable) as refused:
            vault.begin_save(STATE, model, max_copy=20_000)
        assert refused.value.code == "insufficient_memory"
        assert refused.value.details["needed"] > refused.value.details["available"] == 20_000
        vault.begin_save(STATE, model, max_copy=30_000).wait()

    def test_its_memory_is_wiped_whether_it_fails_or_not(
        self, vault: Session, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from modelvault.client import saving_copy

        regions = []
        real = saving_copy.Region

        def region(size: int) -> Any:
            regions.append(real(size))
            return regions[-1]

        monkeypatch.setattr(saving_copy, "Region", region)
        vault.begin_save(STATE, model).wait()
        saving = vault.begin_save(STATE, "nosuch")
        with pytest.raises(NotFound):
            saving.wait()
        assert len(regions) == 2
        assert not any(one.alive for one in regions)

    def test_one_at_a_time(
        self, vault: Session, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release, real = threading.Event(), FolderStore.put

        def put(self: FolderStore, *args: Any) -> None:
            release.wait(10)
            real(self, *args)

        monkeypatch.setattr(FolderStore, "put", put)
        saving = vault.begin_save(STATE, f"{model}:step-1")
        with pytest.raises(Conflict) as refused:
            vault.begin_save(STATE, f"{model}:step-2")
        assert refused.value.code == "save_running"
        release.set()
        saving.wait()
        assert vault.begin_save(STATE, f"{model}:step-2").wait().version == 2

    def test_closing_waits(self, home: Path, model: str) -> None:
        with connect() as session:
            saving = session.begin_save(STATE, f"{model}:step-1")
        assert saving.done
        with connect() as session:
            assert same(loaded(session, f"{model}:step-1"), STATE)
            session.close()
            with pytest.raises(ModelVaultError):
                session.begin_save(STATE, f"{model}:step-2")

    def test_a_script_that_just_ends_saves(self, vault: Session, model: str) -> None:
        script = _ENDS.format(model=model)
        subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
        found = loaded(vault, f"{model}:step-1")
        assert same(found, {"small": np.arange(9), "large": np.zeros(1 << 19)})

    def test_closing_raises_what_nobody_waited_for(self, home: Path) -> None:
        session = connect()
        session.begin_save(STATE, "nosuch:step-1")
        with pytest.raises(NotFound) as told:
            session.close()
        assert told.value.code == "no_model"
        assert told.value.__notes__[-1] == "this was the save of nosuch:step-1 in the background"
        session.close()

    def test_an_error_on_its_way_isnt_covered(self, home: Path) -> None:
        def train() -> None:
            with connect() as session:
                session.begin_save(STATE, "nosuch:step-1")
                raise KeyError("training failed")

        with pytest.raises(KeyError) as told:
            train()
        assert "no model nosuch" in told.value.__notes__[-1]


class TestKeep:
    def test_the_newest_stay(self, vault: Session, model: str) -> None:
        for step in range(1, 6):
            saved = vault.save(STATE, f"{model}:step-{step}", keep=2)
            assert saved.not_pruned == ()
            assert saved.pruned == ((step - 2,) if step > 2 else ())
        shown = vault.show(model)
        assert sorted(one.version for one in shown.versions) == [4, 5]
        assert [one.tag for one in shown.summary.tags] == ["step-4", "step-5"]

    def test_what_another_tag_means_stays(self, vault: Session, model: str) -> None:
        for step in (1, 2, 3):
            vault.save(STATE, f"{model}:step-{step}")
        vault.tag(f"{model}@2", "best")
        vault.save(STATE, model)  # without any tag
        with connect(token=vault.mint_token(sub="other", groups=["admins"])) as other:
            other.save(STATE, f"{model}:step-4")
        saved = vault.save(STATE, f"{model}:step-9", keep=1)
        assert saved.pruned == (3, 1)
        assert sorted(one.version for one in vault.show(model).versions) == [2, 4, 5, 6]

    def test_a_step_that_comes_again(self, vault: Session, model: str) -> None:
        """Its tag goes on with a higher serial: this client remembers the old one's."""
        for step in (1, 2, 1):
            vault.save(STATE, f"{model}:step-{step}", keep=1)
            assert same(loaded(vault, f"{model}:step-{step}"), STATE)
        tags = vault.show(model).summary.tags
        assert [(one.tag, one.version, one.serial) for one in tags] == [("step-1", 3, 2)]

    def test_a_denied_deletion_is_told(
        self, home: Path, model: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Engineers may push and tag, not delete: the checkpoint stands all the same."""
        with connect() as admin:
            token = admin.mint_token(sub="engineer", groups=["ml-engineers"])
        with connect(token=token) as vault:
            vault.save(STATE, f"{model}:step-1")
            saved = vault.begin_save(STATE, f"{model}:step-2", keep=1).wait()
            assert saved.pruned == ()
            (kept,) = saved.not_pruned
            assert (kept.version, kept.code) == (1, "denied")
            assert "own_versions" in kept.hint
            assert f"an older checkpoint stays: {kept.message}; {kept.hint}" in caplog.text
            assert same(loaded(vault, f"{model}:step-1"), STATE)

    def test_a_trainer_prunes_what_it_has_made_and_nothing_else(
        self, vault: Session, model: str
    ) -> None:
        """docs/engines/saving.md: under the shipped policy, by a grant with own_versions."""
        vault.save(STATE, f"{model}:step-0")
        token = vault.mint_token(sub="run-7", groups=["trainers"])
        with connect(token=token) as trainer:
            for step in (1, 2, 3):
                saved = trainer.save(STATE, f"{model}:step-{step}", keep=2)
            assert (saved.pruned, saved.not_pruned) == ((2,), ())
            for refused in (
                lambda: trainer.delete(f"{model}@1"),
                lambda: trainer.delete(model),
                lambda: trainer.tag(f"{model}@1", "step-1"),
                lambda: trainer.load(model, purpose="inference"),
            ):
                with pytest.raises(AccessDenied):
                    refused()
            assert same(loaded(trainer, f"{model}:step-3", purpose="fine-tuning"), STATE)
        assert sorted(one.version for one in vault.show(model).versions) == [1, 3, 4]

    def test_tagged_meanwhile(
        self, vault: Session, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody finds a checkpoint the best one between the look at it and its deletion."""
        vault.save(STATE, f"{model}:step-1")
        steward = vault._context.steward
        real = type(steward).delete

        def delete(self: Any, caller: Any, reference: str, tags: tuple[str, ...] = ()) -> None:
            vault.tag(f"{model}@1", "best")
            real(self, caller, reference, tags)

        monkeypatch.setattr(type(steward), "delete", delete)
        saved = vault.save(STATE, f"{model}:step-2", keep=1)
        assert [(one.version, one.code) for one in saved.not_pruned] == [(1, "tagged")]
        assert same(loaded(vault, f"{model}:best"), STATE)

"""torch.distributed.checkpoint through a vault: real processes, and no pickle."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError, NotFound
from modelvault.weights import checkpoint, pickles
from support.disk import Disk
from support.engines import ROOT, need
from support.homes import isolated

torch = need("torch")
dcp = need("torch.distributed.checkpoint")
integration = need("modelvault.integrations.distributed_checkpoint")

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

WORLD = 3
MIB = 1 << 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = isolated(tmp_path_factory.mktemp("dcp"), patch)
        wiring.init()
        with connect() as vault:
            for name in ("run", "lost", "alone", "keep", "lying", "plain"):
                vault.create(name)
        yield made


@pytest.fixture
def vault(home: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


@pytest.fixture(scope="module")
def ranks(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the three processes have told."""
    root = tmp_path_factory.mktemp("ranks")
    disk = Disk(root / "disk")
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **disk.environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "support.checkpoint_ranks", str(rank), str(root / "meeting")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(WORLD)
    ]  # fmt: skip
    ended = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0, -9], ended
    assert not [path for path in (root / "disk").rglob("*") if path.is_file()]
    documents = [[line for line in said.splitlines() if line[:1] == "{"] for said, _ in ended]
    return [dict(ChainMap(*map(json.loads, lines))) for lines in documents]


class TestProcesses:
    def test_each_had_the_keys_of_its_own_file_alone(self, ranks: list[dict[str, Any]]) -> None:
        first, second, third = (told["keys"] for told in ranks)
        assert first == [["checkpoint.json", "rank-00000.safetensors"]] * 3
        assert second == [["rank-00001.safetensors"]] * 2  # the save that failed got no further
        assert third == []

    def test_the_coordinator_committed(self, ranks: list[dict[str, Any]]) -> None:
        assert [told.get("saved") for told in ranks] == ["run@1", None, None]
        assert [told.get("async") for told in ranks] == ["run@2", None, None]

    def test_a_process_that_failed_failed_for_all(
        self, ranks: list[dict[str, Any]], vault: Session
    ) -> None:
        assert [told.get("failed") for told in ranks] == [[1], [1], None]
        shown = vault.show("run")
        assert [one.tag for one in shown.summary.tags] == ["step-1", "step-2"]
        assert sorted(one.version for one in shown.versions) == [1, 2]

    def test_one_that_is_killed_stops_a_save_and_not_the_next(
        self, ranks: list[dict[str, Any]], vault: Session
    ) -> None:
        """docs/engines/saving.md: what was begun is given up; no version holds a part of it."""
        assert [told.get("lost") for told in ranks] == [
            ["failed", "lost@1"], ["failed"], None,
        ]  # fmt: skip
        assert [(one.tag, one.version) for one in vault.show("lost").summary.tags] == [
            ("step-2", 1)
        ]

    def test_two_saved_and_three_and_one_loaded(self, ranks: list[dict[str, Any]]) -> None:
        assert [told["three"] for told in ranks] == [True] * 3
        assert ranks[0]["one"]

    def test_sharded_training_goes_on_to_the_same_loss(self, ranks: list[dict[str, Any]]) -> None:
        """FSDP's weights and AdamW's state, in three parts, in one, and never saved at all."""
        assert [told["steps"] for told in ranks] == [3] * 3
        assert {loss for told in ranks for loss in told["losses"]} == {ranks[0]["losses"][0]}
        assert len(ranks[0]["losses"]) == 3

    def test_each_read_only_what_it_needs(self, ranks: list[dict[str, Any]]) -> None:
        """A third of 24 MiB, and some segments at its edges, of headers and small tensors."""
        for told in ranks:
            assert 8 * MIB < told["read"] < 16 * MIB, told["read"] / MIB

    def test_nothing_in_it_is_a_pickle(self, ranks: list[dict[str, Any]], vault: Session) -> None:
        with vault.load("run:step-2", purpose="fine-tuning") as model:
            assert model.files == (
                "checkpoint.json", "rank-00000.safetensors", "rank-00001.safetensors",
            )  # fmt: skip
            for path in model.files:
                head = bytes(model.read_bytes(path)[:4096])
                assert not pickles.has_header(head)
                assert not pickles.runs_on(head)
            assert b"\x80\x02" not in bytes(model.read_bytes("checkpoint.json"))
            assert {"net.same", "net.rows[0,0]", "net.rows[6144,0]"} <= set(model.tensor_infos())


def state() -> dict[str, Any]:
    tied = torch.arange(6.0).reshape(2, 3)
    return {
        "net": {"w": tied, "turned": tied.T, "e4m3": tied.to(torch.float8_e4m3fn)},
        "nested": {"list": [1, 2.5, "x"], "tuple": (1, (2,)), "empty": {}, "big": 2**80},
        "step": 7, "nan": float("nan"), "flag": True,
    }  # fmt: skip


def zeros() -> dict[str, Any]:
    return {
        "net": {name: torch.zeros_like(one) for name, one in state()["net"].items()},
        "nested": {"list": [0, 0.0, ""], "tuple": (), "empty": {}, "big": 0},
        "step": 0, "nan": 0.0, "flag": False,
    }  # fmt: skip


def bits(tensor: Any) -> list[int]:
    return list(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


class TestAlone:
    def test_there_and_back(self, vault: Session) -> None:
        writer = integration.VaultWriter(vault, "alone:step-1", labels={"run": "a"})
        dcp.save(state(), storage_writer=writer, no_dist=True)
        assert writer.saved is not None
        found = zeros()
        with integration.VaultReader(vault, "alone:step-1", purpose="fine-tuning") as reader:
            dcp.load(found, storage_reader=reader, no_dist=True)
        expected = state()
        for name, tensor in expected.pop("net").items():
            assert bits(found["net"][name]) == bits(tensor), name
        found.pop("net")
        assert found.pop("nan") != expected.pop("nan") != found
        assert found == expected
        with vault.load("alone:step-1", purpose="fine-tuning") as model:
            assert model.labels == {"run": "a"}
            assert set(model.state_dict()) == {"net.w", "net.turned", "net.e4m3"}

    def test_keep_and_checkpoint_ids(self, vault: Session) -> None:
        writer = integration.VaultWriter(vault, "keep:step-1", keep=2)
        for step in range(1, 5):
            dcp.save(
                {"w": torch.full((3,), step)}, checkpoint_id=f"keep:step-{step}",
                storage_writer=writer, no_dist=True,
            )  # fmt: skip
            assert writer.checkpoint_id == f"keep:step-{step}"
        assert [one.tag for one in vault.show("keep").summary.tags] == ["step-3", "step-4"]
        found = {"w": torch.zeros(3, dtype=torch.int64)}
        with integration.VaultReader(vault, "keep:step-3", purpose="fine-tuning") as reader:
            dcp.load(found, checkpoint_id="keep:step-4", storage_reader=reader, no_dist=True)
        assert found["w"].tolist() == [4, 4, 4]

    def test_versions_that_were_saved_otherwise(self, vault: Session) -> None:
        vault.save({"a": torch.ones(3, 4), "b": torch.tensor(2.5)}, "plain", max_shard_size=20)
        found = {"a": torch.zeros(3, 4), "b": torch.tensor(0.0)}
        with integration.VaultReader(vault, "plain", purpose="fine-tuning") as reader:
            dcp.load(found, storage_reader=reader, no_dist=True)
        assert found["a"].eq(1).all()
        assert found["b"] == 2.5
        wrong = {"a": torch.zeros(3, 5)}
        with (
            integration.VaultReader(vault, "plain", purpose="fine-tuning") as reader,
            pytest.raises((dcp.CheckpointException, ValueError)),
        ):
            dcp.load(wrong, storage_reader=reader, no_dist=True)

    @pytest.mark.parametrize(
        ("saved", "options", "code"),
        [
            ({"o": object, "w": torch.ones(1)}, {}, "not_plain"),
            ({"s": {1, 2}, "w": torch.ones(1)}, {}, "not_plain"),
            ({"v": "x" * 5000}, {"max_values": 1000}, "values_too_large"),
            ({"v": "x"}, {"max_values": 256 * MIB}, "index_too_large"),
            ({"w": torch.ones(1, dtype=torch.complex128)}, {}, "unsupported_dtype"),
        ],
    )
    def test_what_cant_be_saved(
        self, vault: Session, home: Path, saved: dict[str, Any], options: dict[str, Any], code: str
    ) -> None:
        before = {path for path in (home / "objects").rglob("*") if path.is_file()}
        writer = integration.VaultWriter(vault, "alone:step-5", **options)
        with pytest.raises(dcp.CheckpointException) as refused:
            dcp.save(saved, storage_writer=writer, no_dist=True)
        (failure,) = refused.value.failures.values()
        assert code in str(failure[0]) or failure[0].code == code
        assert {path for path in (home / "objects").rglob("*") if path.is_file()} == before
        with pytest.raises(NotFound):
            vault.load("alone:step-5", purpose="fine-tuning")

    def test_small_tensors_share_their_segments(
        self, vault: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As an optimizer has them by the thousand: no segment is decrypted for each of them, also
        where what was decrypted is let go of in between."""
        saved = {f"p{at}": torch.full((1000,), at, dtype=torch.int64) for at in range(400)}
        saved["scalar"] = torch.tensor(7)
        saved["none"] = torch.empty(0, 3)
        writer = integration.VaultWriter(vault, "alone:step-20")
        dcp.save(saved, storage_writer=writer, no_dist=True)
        for kept, most in ((64 * MIB, 5), (1 * MIB, 8)):
            monkeypatch.setattr("modelvault.integrations.checkpoint_parts.KEPT", kept)
            found = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
            with integration.VaultReader(vault, "alone:step-20", purpose="fine-tuning") as reader:
                dcp.load(found, storage_reader=reader, no_dist=True)
                decrypted = reader._opened().stats().costs.decrypted_bytes
            assert all(torch.equal(found[name], saved[name]) for name in saved)
            assert decrypted < most * MIB, decrypted / MIB

    def test_a_save_that_didnt_end_is_given_up(self, vault: Session) -> None:
        """Another process failed: nobody told this one's writer, but for its next save."""
        writer = integration.VaultWriter(vault, "alone:step-8")
        plan = dcp.SavePlan([])
        (given,) = writer.prepare_global_plan([plan])
        ticket = given.storage_data.ticket
        dcp.save({"w": torch.ones(3)}, storage_writer=writer, no_dist=True)
        assert writer.saved is not None
        with pytest.raises(NotFound):
            vault.join_joint(ticket, [checkpoint.FILE])
        writer.prepare_global_plan([plan])
        writer.abandon()
        writer.abandon()

    def test_plans_of_an_earlier_save(self, vault: Session) -> None:
        planner = dcp.DefaultSavePlanner(enable_plan_caching=True)
        writer = integration.VaultWriter(vault, "alone:step-6")
        try:
            dcp.save({"w": torch.ones(3)}, storage_writer=writer, planner=planner, no_dist=True)
            with pytest.raises(dcp.CheckpointException) as refused:
                dcp.save({"w": torch.ones(3)}, storage_writer=writer, planner=planner, no_dist=True)
        finally:
            for cached in ("save_plan", "final_save_plan", "all_plans", "global_plan", "metadata"):
                getattr(dcp.SavePlanner, f"_cached_{cached}").clear()
        (failure,) = refused.value.failures.values()
        assert failure[0].code == "plan_caching"

    def test_without_collectives(self, vault: Session) -> None:
        writer = integration.VaultWriter(vault, "alone:step-7")
        with pytest.raises(InvalidRequest) as refused:
            dcp.save({"w": torch.ones(3)}, storage_writer=writer, no_dist=True,
                     use_collectives=False)  # fmt: skip
        assert refused.value.code == "needs_collectives"

    @pytest.mark.parametrize("reference", ["alone@1", "not a name", ""])
    def test_references(self, vault: Session, reference: str) -> None:
        with pytest.raises(InvalidRequest):
            integration.VaultWriter(vault, reference)
        with pytest.raises(InvalidRequest):
            integration.VaultWriter(vault, "alone:step-1", labels={"step": 1})  # type: ignore[dict-item]
        assert not integration.VaultWriter.validate_checkpoint_id(reference)
        assert integration.VaultWriter.validate_checkpoint_id("alone:step-1")

    def test_the_lease_is_denied(self, vault: Session) -> None:
        with pytest.raises(ModelVaultError):
            integration.VaultReader(vault, "alone:step-1", purpose="gossip")

    def test_a_reader_that_was_closed(self, vault: Session) -> None:
        reader = integration.VaultReader(vault, "alone", purpose="fine-tuning")
        reader.close()
        reader.close()
        with pytest.raises(ModelVaultError) as refused:
            reader.read_metadata()
        assert refused.value.code == "closed"


class TestLies:
    """Versions whose pusher made an index that doesn't fit: authentic, and wrong."""

    @pytest.fixture
    def index(self) -> checkpoint.Index:
        chunk = checkpoint.Chunk((0,), (3,), "model.safetensors", "w")
        return checkpoint.Index(1, {"w": checkpoint.Stored("F32", (3,), (chunk,))}, {}, {})

    def saved(self, vault: Session, text: bytes) -> None:
        vault.save({"w": torch.ones(3)}, "lying", files={checkpoint.FILE: text})

    @pytest.mark.parametrize(
        ("changes", "family"),
        [
            ({"sizes": (2,)}, IntegrityError),
            ({"name": "v"}, NotFound),
            ({"file": "checkpoint.json"}, ModelVaultError),
            ({"file": "../secret"}, NotFound),
        ],
    )
    def test_chunks(
        self, vault: Session, index: checkpoint.Index, changes: dict[str, Any],
        family: type[ModelVaultError],
    ) -> None:  # fmt: skip
        (chunk,) = index.tensors["w"].chunks
        stored = checkpoint.Stored("F32", (3,), (msgspec.structs.replace(chunk, **changes),))
        lying = msgspec.structs.replace(index, tensors={"w": stored})
        self.saved(vault, checkpoint.write(lying))
        found = {"w": torch.zeros(3)}
        with integration.VaultReader(vault, "lying", purpose="fine-tuning") as reader:
            with pytest.raises((dcp.CheckpointException, AssertionError)) as refused:
                dcp.load(found, storage_reader=reader, no_dist=True)
            if isinstance(refused.value, dcp.CheckpointException):
                (failure,) = refused.value.failures.values()
                assert isinstance(failure[0], (family, ValueError, AssertionError))
        assert not found["w"].any()

    @pytest.mark.parametrize(("dtype", "size"), [("I32", 3), ("F32", 2)])
    def test_tensors_of_another_type_or_shape(
        self, vault: Session, index: checkpoint.Index, dtype: str, size: int
    ) -> None:
        """Neither is converted nor cut silently."""
        (chunk,) = index.tensors["w"].chunks
        chunk = msgspec.structs.replace(chunk, sizes=(size,))
        stored = checkpoint.Stored(dtype, (size,), (chunk,))
        self.saved(vault, checkpoint.write(msgspec.structs.replace(index, tensors={"w": stored})))
        found = {"w": torch.zeros(size, dtype={"I32": torch.int32, "F32": torch.float32}[dtype])}
        with (
            integration.VaultReader(vault, "lying", purpose="fine-tuning") as reader,
            pytest.raises(dcp.CheckpointException) as refused,
        ):
            dcp.load(found, storage_reader=reader, no_dist=True)
        (failure,) = refused.value.failures.values()
        assert failure[0].code == "bad_checkpoint"
        assert not found["w"].any()

    def test_values_that_arent_plain(self, vault: Session, index: checkpoint.Index) -> None:
        lying = msgspec.structs.replace(index, values={"lr": {"pickle": "gASVAAAA"}})
        self.saved(vault, checkpoint.write(lying))
        with (
            integration.VaultReader(vault, "lying", purpose="fine-tuning") as reader,
            pytest.raises(dcp.CheckpointException) as refused,
        ):
            dcp.load({"w": torch.zeros(3), "lr": 0.5}, storage_reader=reader, no_dist=True)
        (failure,) = refused.value.failures.values()
        assert failure[0].code == "bad_checkpoint"


def test_the_example_goes_on_where_it_ended(
    vault: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.create("example")
    monkeypatch.setenv("RUN", "example")
    for begins, ends in ((1, 5), (6, 10)):
        runpy.run_path(str(ROOT / "examples/distributed_checkpoint.py"), run_name="__main__")
        said = capsys.readouterr().out.splitlines()
        steps = [line.split()[1] for line in said if line.startswith("step ")]
        assert steps == [str(step) for step in range(begins, ends + 1)]
        assert said[-1] == f"saved example@{ends // 5}"


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("modelvault.integrations.check")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidRequest) as refused:
        runpy.run_path(integration.__file__)
    assert refused.value.code == "missing_extra"
    assert "[torch]" in refused.value.hint

"""onnxruntime over decrypted memory: real models, external data, more than 2 GiB, and lies."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault.client.session import Session
from modelvault.errors import Conflict, IntegrityError, InvalidRequest
from modelvault.weights import onnx_light
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.models import EXTENT, recognisers, two_layers

onnx = need("onnx")
runtime = need("onnxruntime")
helper = need("onnx.helper")

CPU = ["CPUExecutionProvider"]
ROW = bytes(at % 100 for at in range(1024))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("plain")
    outside = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": True}
    return {
        "within": two_layers(root / "within"),
        "beside": two_layers(root / "beside", location="model.onnx.data", **outside),
        "apart": two_layers(root / "apart", all_tensors_to_one_file=False, **outside),
        **{f"read{at}": path for at, path in enumerate(recognisers())},
    }


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path]) -> Iterator[Session]:
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), plain) as session:
        yield session


def feeds(session: Any) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(1)
    extents = {0: 1, 1: 3, 2: 64, 3: 96}
    return {
        one.name: chance.random(
            [extent if isinstance(extent, int) else extents[at]
             for at, extent in enumerate(one.shape)], np.float32,
        )
        for one in session.get_inputs()
    }  # fmt: skip


def outputs(session: Any) -> list[np.ndarray]:
    return list(session.run(None, feeds(session)))


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) > 0 and all(map(np.array_equal, found, expected))


def file_of(plain: Path) -> Path:
    return plain if plain.is_file() else plain / "model.onnx"


NAMES = ["within", "beside", "apart", "read0", "read1", "read2"]


@pytest.mark.parametrize("name", NAMES)
def test_a_session_gives_the_same_to_the_bit(
    vault: Session, plain: dict[str, Path], name: str
) -> None:
    path = file_of(plain[name])
    with vault.load(f"{name}:prod", purpose="inference") as model:
        session = model.onnx_session(path.name, providers=CPU)
        found = outputs(session)
    assert same(found, outputs(runtime.InferenceSession(path, providers=CPU)))
    assert same(outputs(session), found), "the session has a copy of its own"


@pytest.mark.parametrize("name", ["within", "read0", "read1", "read2"])
def test_so_does_one_of_bytes_or_of_the_folder(
    vault: Session, plain: dict[str, Path], name: str
) -> None:
    path = file_of(plain[name])
    expected = outputs(runtime.InferenceSession(path, providers=CPU))
    with vault.load(f"{name}:prod", purpose="inference") as model:
        copy = bytes(model.read_bytes(path.name))
        assert same(outputs(runtime.InferenceSession(copy, providers=CPU)), expected)
        link = model.path(path.name) / path.name
        assert same(outputs(runtime.InferenceSession(link, providers=CPU)), expected)


def test_what_a_session_takes_is_as_documented(vault: Session, plain: dict[str, Path]) -> None:
    """docs/engines/onnx.md: bytes but no memoryview; and external data not through links."""
    with vault.load("within:prod", purpose="inference") as model:
        view = model.read_bytes("model.onnx")
        with pytest.raises(TypeError, match="memoryview"):
            runtime.InferenceSession(view, providers=CPU)
        del view
    with (
        vault.load("beside:prod", purpose="inference") as model,
        pytest.raises(Exception, match="External data path validation failed"),
    ):
        runtime.InferenceSession(model.path() / "model.onnx", providers=CPU)


def test_what_was_decrypted_for_a_session_is_wiped_when_it_stands(vault: Session) -> None:
    with vault.load("beside:prod", purpose="inference") as model:
        session = model.onnx_session("model.onnx", providers=CPU)
        assert [path for path in model.files if model._residents[path].alive] == []
        kept = model.read_bytes("model.onnx.data")
        model.onnx_session("model.onnx", providers=CPU)  # a view of somebody else's stays whole
        assert bytes(kept) == bytes(model.open("model.onnx.data").read())
        with pytest.raises(Conflict, match=r"model\.onnx\.data are still in use"):
            model.close()
        del kept
        assert session.get_providers() == CPU


def test_a_session_isnt_made_again_of_memory_that_is_gone(vault: Session) -> None:
    with vault.load("beside:prod", purpose="inference") as model:
        session = model.onnx_session("model.onnx", providers=CPU)
    for again in (lambda: session.set_providers(CPU), session.get_session_options):
        with pytest.raises(InvalidRequest, match="is wiped") as caught:
            again()
        assert caught.value.code == "session_spent"


def test_an_error_of_onnxruntimes_holds_no_memory(vault: Session, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(looking_up([]))  # a node without what it needs
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    vault.create("broken")
    vault.push(tmp_path / "model.onnx", "broken")
    with vault.load("broken", purpose="inference") as loaded:
        with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
            loaded.onnx_session("model.onnx", providers=CPU)
        loaded.close()  # with the error, and so its frames, still there
    assert caught.value.__traceback__ is not None


def test_options_are_the_callers(vault: Session) -> None:
    seen = []

    def configure(options: Any) -> None:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        seen.append(options)

    with vault.load("within:prod", purpose="inference") as model:
        session = model.onnx_session("model.onnx", configure=configure, providers=CPU)
        assert outputs(session)
    assert [type(one) for one in seen] == [runtime.SessionOptions]


@pytest.mark.parametrize("name", ["within", "read0", "read1", "read2"])
def test_what_is_handed_over_has_no_large_tensor_and_is_the_same_else(
    plain: dict[str, Path], name: str
) -> None:
    path = file_of(plain[name])
    data = path.read_bytes()
    light = onnx_light.lighten(lambda begin, end: data[begin:end], len(data), path.name)
    ours, theirs = onnx.ModelProto.FromString(light), onnx.ModelProto.FromString(data)
    moved = 0
    for one, other in zip(tensors_of(ours), tensors_of(theirs), strict=True):
        assert len(one.raw_data) < onnx_light.LARGE
        if len(other.raw_data) >= onnx_light.LARGE:
            told = {entry.key: entry.value for entry in one.external_data}
            assert told["location"] == path.name
            begin, count = int(told["offset"]), int(told["length"])
            assert data[begin : begin + count] == other.raw_data
            one.raw_data = other.raw_data
            one.ClearField("external_data")
            one.ClearField("data_location")
            other.ClearField("data_location")
            moved += count
    assert ours == theirs
    assert moved > 0 or name == "read2", "its weights are in no raw data"
    assert len(light) <= len(data) - 0.8 * moved


def tensors_of(model: Any) -> list[Any]:
    constants = [
        attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    return [*model.graph.initializer, *constants]


@pytest.mark.parametrize("location", ["../up.bin", "/{}/up.bin", "sub/../../up.bin"])
def test_data_outside_of_the_folder_is_refused_before_onnxruntime_sees_it(
    vault: Session, plain: dict[str, Path], tmp_path: Path, location: str
) -> None:
    name = f"escape{len(vault.list())}"
    place = location.format(str(tmp_path).strip("/"))
    model = onnx.load(plain["beside"] / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    vault.create(name)
    vault.push(tmp_path / "model.onnx", name)
    with vault.load(name, purpose="inference") as loaded:
        for way in (loaded.onnx_session, loaded.read_bytes, loaded.path, loaded.open):
            with pytest.raises(IntegrityError, match="external data at") as caught:
                way("model.onnx")
            assert caught.value.code == "bad_onnx"


def test_the_example(
    vault: Session, plain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "examples/onnx_session.py"))["main"]
    capsys.readouterr()
    main("beside:prod", "model.onnx")
    session = runtime.InferenceSession(plain["within"] / "model.onnx", providers=CPU)
    (expected,) = session.run(None, {"x": np.ones((1, EXTENT), np.float32)})
    assert capsys.readouterr().out == f"y: (1, {EXTENT}), mean {expected.mean():.6f}\n"


RUN = """
import sys
import numpy, onnxruntime
from pathlib import Path
from modelvault import connect

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

CPU = {"providers": ["CPUExecutionProvider"]}
WAYS = {
    "session": lambda model: model.onnx_session("model.onnx", **CPU),
    "bytes": lambda model: onnxruntime.InferenceSession(
        bytes(model.read_bytes("model.onnx")), **CPU
    ),
}
name, way, feed = sys.argv[1:]
with connect() as vault, vault.load(name, purpose="inference") as model:
    before = status("VmRSS")
    session = WAYS[way](model)
    after = status("VmRSS")
    (row,) = session.run(None, {session.get_inputs()[0].name: numpy.array([int(feed)])})
    print(row.tolist(), "|", (status("VmHWM") - before) / model.size, (after - before) / model.size)
"""


def in_a_child(name: str, way: str, feed: int) -> tuple[str, float, float]:
    """What a session answers; the highest memory while it is made, and what is held afterwards,
    both in sizes of the model."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, name, way, str(feed)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, told = done.stdout.split(" | ")
    peak, held = map(float, told.split())
    return answer, peak, held


@pytest.mark.parametrize(("way", "copies", "stay"), [("session", 3, 1), ("bytes", 4, 3)])
def test_how_much_memory_a_session_takes(tmp_path: Path, way: str, copies: int, stay: int) -> None:
    """The figures of docs/engines/onnx.md: ours and two copies of onnxruntime's for a moment, one
    of its in the end; with bytes those beside it, and our memory, stay."""
    rows = 32 << 10
    table = onnx.TensorProto(
        name="a", dims=[rows, len(ROW)], data_type=3, raw_data=bytes((rows - 1) * len(ROW)) + ROW
    )
    plain = tmp_path / "model.onnx"
    plain.write_bytes(looking_up([table]))
    with vault_on_its_disk(tmp_path, {"table": plain}):
        answer, peak, held = in_a_child("table:prod", way, rows - 1)
    assert answer == str([list(ROW)])
    assert copies - 0.5 < peak < copies + 0.5  # 16 MiB for all that isn't weights
    assert stay - 0.5 < held < stay + 0.5


@pytest.mark.slow
def test_a_model_of_more_than_2_gib(tmp_path: Path) -> None:
    """Two tables: onnxruntime packs nothing of them anew, and most of them is zeros."""
    rows = 1_060_000
    (tmp_path / "row.data").write_bytes(ROW)
    with vault_on_its_disk(tmp_path, {"row": tmp_path / "row.data"}) as vault:
        folder = giant(tmp_path / "giant", rows)
        assert sum(path.stat().st_size for path in folder.iterdir()) > 2**31
        vault.create("giant")
        vault.push(folder, "giant:prod")
        shutil.rmtree(folder)
        answer, peak, held = in_a_child("giant:prod", "session", rows - 1)
        shutil.rmtree(tmp_path / "disk/vault/home/objects")  # ciphertext: too long to search
    assert answer == str([list(ROW + ROW)])
    assert peak < 3.1
    assert held < 1.1


def giant(folder: Path, rows: int) -> Path:
    """A model whose two tables lie in one file beside it, zeros but for the last row of each."""
    size = rows * len(ROW)
    tables = [
        onnx.TensorProto(name=name, dims=[rows, len(ROW)], data_type=3, data_location=1)
        for name in "ab"
    ]
    for at, table in enumerate(tables):
        for key, told in (("location", "w.data"), ("offset", at * size), ("length", size)):
            table.external_data.add(key=key, value=str(told))
    folder.mkdir()
    (folder / "model.onnx").write_bytes(looking_up(tables))
    with (folder / "w.data").open("wb") as file:
        for at in (1, 2):
            file.truncate(at * size)
            file.seek(at * size - len(ROW))
            file.write(ROW)
    return folder


def looking_up(tables: list[Any]) -> bytes:
    """A model that gives one row of each table, side by side."""
    value = helper.make_tensor_value_info
    found = [f"{table.name}_row" for table in tables]
    graph = helper.make_graph(
        [
            *(helper.make_node("Gather", [table.name, "at"], [row])
              for table, row in zip(tables, found, strict=True)),
            helper.make_node("Concat", found, ["y"], axis=1),
        ],
        "tables", [value("at", 7, [1])], [value("y", 3, [1, len(ROW) * len(tables)])], tables,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())

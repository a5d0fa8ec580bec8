"""A tag that moves under real engines: no error, no answer of two versions, memory counted."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault.client.session import Session
from modelvault.loader.model import Model
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.serving import until

onnx = need("onnx")
onnxruntime = need("onnxruntime")
safetensors_torch = need("safetensors.torch")
torch = need("torch")

WIDTH = 256
VERSIONS = (1, 2, 3)
TURNS = 8
LARGE = 32 << 20
THREADS = 3
SLACK = 16 << 20
ASKED = np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float32)


def layers(version: int) -> list[np.ndarray]:
    """Two weights; an answer by the first of one version and the second of another is neither's."""
    numbers = np.random.default_rng(version)
    return [numbers.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 16 for _ in range(2)]


def write_torch(folder: Path, version: int) -> None:
    first, second = (torch.from_numpy(each) for each in layers(version))
    safetensors_torch.save_file({"0.weight": first}, folder / "a.safetensors")
    safetensors_torch.save_file({"1.weight": second}, folder / "b.safetensors")


def write_onnx(folder: Path, version: int) -> None:
    helper, numbers = onnx.helper, onnx.numpy_helper
    first, second = layers(version)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("MatMul", ["h", "b"], ["y"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, WIDTH])],
        [numbers.from_array(first.T.copy(), "a"), numbers.from_array(second.T.copy(), "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def torch_engine(model: Model) -> Callable[[], np.ndarray]:
    with torch.device("meta"):
        network = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.Linear(WIDTH, WIDTH, bias=False)
        )
    network.load_state_dict(model.state_dict(), assign=True)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(ASKED)).numpy()

    return run


def onnx_engine(model: Model) -> Callable[[], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with model.read_bytes("model.onnx") as data:
        session = onnxruntime.InferenceSession(bytes(data), options)
    return lambda: session.run(None, {"x": ASKED})[0]


ENGINES = {"torch": (write_torch, torch_engine), "onnx": (write_onnx, onnx_engine)}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    plain = tmp_path_factory.mktemp("plain")
    folders = {}
    for engine, (write, _) in ENGINES.items():
        for version in VERSIONS:
            folder = plain / f"{engine}{version}"
            folder.mkdir()
            write(folder, version)
            folders[f"{engine}{version}"] = folder
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), folders) as session:
        for engine in ENGINES:
            session.create(engine)
            for version in VERSIONS:
                session.push(folders[f"{engine}{version}"], f"{engine}@{version}".split("@")[0])
        yield session


def expected(version: int) -> np.ndarray:
    first, second = layers(version)
    return ASKED @ first.T @ second.T


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("swap", ["beside", "in_place"])
def test_continuous_requests(vault: Session, engine: str, swap: Any) -> None:
    right = {version: expected(version) for version in VERSIONS}
    stop = threading.Event()
    problems: list[object] = []
    changes: list[str] = []
    answered: set[int] = set()

    def requests() -> None:
        try:
            while not stop.is_set():
                with live.prepared() as run, live.model() as model:
                    version = model.manifest.version
                    first, second = run(), run()
                np.testing.assert_array_equal(first, second)
                np.testing.assert_allclose(first, right[version], rtol=1e-3, atol=1e-4)
                answered.add(version)
                del run, model, first, second
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    vault.tag(f"{engine}@1", "live")
    with vault.watch(
        f"{engine}:live",
        purpose="inference",
        prepare=ENGINES[engine][1],
        swap=swap,
        every_s=0.02,
        on_change=lambda _old, new: changes.append(new),
        on_error=problems.append,
    ) as live:
        threads = [threading.Thread(target=requests) for _ in range(THREADS)]
        for each in threads:
            each.start()
        for turn in range(TURNS):
            vault.tag(f"{engine}@{VERSIONS[(turn + 1) % len(VERSIONS)]}", "live")
            until(lambda: len(changes) > turn or bool(problems), 30)  # noqa: B023
        stop.set()
        for each in threads:
            each.join()
        assert problems == []
    assert len(changes) == TURNS
    assert answered == set(VERSIONS)
    assert vault.leases(engine) == ()


def most() -> int:
    """Bytes of memory that this process has had at most, since it was last told to forget."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)


@pytest.fixture(scope="module")
def large(vault: Session, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two versions of LARGE bytes."""
    folder = tmp_path_factory.mktemp("large")
    vault.create("large")
    for version in (1, 2):
        tensor = torch.full((LARGE // 4,), float(version))
        safetensors_torch.save_file({"w": tensor}, folder / "model.safetensors")
        vault.push(folder, "large")
    (folder / "model.safetensors").unlink()
    return "large"


@pytest.mark.parametrize(("swap", "models"), [("in_place", 1), ("beside", 2)])
def test_the_peak_is_what_is_promised(vault: Session, large: str, swap: Any, models: int) -> None:
    """Under torch, which shares the memory: counted by the kernel."""
    vault.tag(f"{large}@1", "live")

    def prepare(model: Model) -> Any:
        weights = model.state_dict()
        weights["w"].sum()  # touches all of it
        return weights

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this kernel doesn't forget a process's peak")
    before = _status("VmRSS")
    with vault.watch(
        f"{large}:live", purpose="inference", prepare=prepare, swap=swap, every_s=0.02
    ) as live:
        for version in (2, 1, 2):
            vault.tag(f"{large}@{version}", "live")
            until(lambda: live.name == f"{large}@{version}", 30)  # noqa: B023
            with live.prepared() as weights:
                assert weights["w"][7] == version
            del weights
        peak = most() - before
    assert models * LARGE <= peak + SLACK
    assert peak < models * LARGE + SLACK
    until(lambda: _status("VmRSS") < before + SLACK)


def test_the_example(
    vault: Session, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("example")
    vault.create("scorer")
    for version in (1, 2):
        weights = {
            "0.weight": torch.eye(4), "0.bias": torch.zeros(4),
            "2.weight": torch.full((1, 4), float(version)), "2.bias": torch.zeros(1),
        }  # fmt: skip
        safetensors_torch.save_file(weights, folder / "model.safetensors")
        vault.push(folder, "scorer:prod" if version == 1 else "scorer")
    (folder / "model.safetensors").unlink()
    example = runpy.run_path(str(ROOT / "examples/watch_and_swap.py"))

    def requests() -> Iterator[str]:
        yield "1 2 3 -4"
        vault.tag("scorer@2", "prod")
        until(lambda: "scorer@2 serves" in _said(capsys, heard))
        yield "1 2 3 4"

    heard: list[str] = []
    example["main"]("scorer:prod", requests(), every_s=0.02)
    assert _said(capsys, heard).splitlines() == [
        "scorer@1: 6.0000",
        "scorer@2 serves, and no longer scorer@1",
        "scorer@2: 20.0000",
    ]


def _said(capsys: pytest.CaptureFixture[str], heard: list[str]) -> str:
    heard.append(capsys.readouterr().out)
    return "".join(heard)

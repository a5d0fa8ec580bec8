"""What the command tells of files of weights: GGUF, unsound ones, several under one name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from modelvault import wiring
from support.command import Told, call
from support.gguf_files import file_of, key, tensor, text
from support.homes import isolated, safetensors_bytes
from support.onnx_files import external, graph_of, model_of

Run = Callable[..., Told]
GGUF = file_of(
    [key("general.architecture", 8, text(b"llama")), key("general.file_type", 4, b"\7\0\0\0")],
    [tensor("w", (2,), 0, 0), tensor("q", (64, 2), 8, 32)],
    32 + 136,
)
WEIGHTS = safetensors_bytes({"w": np.arange(4, dtype=np.float32)})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        isolated(folder, patch)
        wiring.init()
        yield folder


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *line: call(capsys, *line)


def pushed(run: Run, folder: Path, name: str, files: dict[str, bytes], *options: str) -> Told:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    assert run("create", name).code == 0
    told = run("push", folder, f"{name}:prod", *options)
    assert told.code == 0, told.err
    return told


def test_gguf(run: Run, tmp_path: Path) -> None:
    told = pushed(run, tmp_path, "g", {"m.gguf": GGUF}, "--public-metadata")
    assert "warning" not in told.err
    document = run("load", "g:prod", "-p", "inference", "--json").document("load")
    (found,) = document.gguf
    assert (found.path, found.architecture, found.quantisation) == ("m.gguf", "llama", "Q8_0")
    rows = [(one.name, one.dtype, one.shape, one.bytes) for one in document.tensors]
    assert rows == [("q", "Q8_0", (2, 64), 136), ("w", "F32", (2,), 8)]
    assert "gguf:   llama Q8_0" in run("load", "g:prod", "-p", "inference").out
    shown = run("show", "g:prod", "--json").document("show").selected
    assert (shown.tensors, shown.dtypes) == (2, {"F32": 8, "Q8_0": 136})
    assert "2: 136 B Q8_0, 8 B F32" in run("show", "g:prod").out


def test_what_isnt_public_isnt_shown(run: Run, tmp_path: Path) -> None:
    pushed(run, tmp_path, "private", {"m.gguf": GGUF})
    shown = run("show", "private:prod", "--json").document("show").selected
    assert (shown.tensors, shown.dtypes) == (None, None)
    assert "Q8_0" not in run("show", "private:prod").out


def test_two_files_with_one_name_are_both_shown(run: Run, tmp_path: Path) -> None:
    pushed(run, tmp_path, "both", {"a/m.safetensors": WEIGHTS, "b/m.safetensors": WEIGHTS})
    document = run("load", "both:prod", "-p", "inference", "--json").document("load")
    assert [one.name for one in document.tensors] == ["w", "w"]
    assert document.gguf == ()


INDEX = json.dumps({"weight_map": {"w": "m-1.safetensors", "v": "m-2.safetensors"}}).encode()
UNSOUND = {
    "truncated": ({"m.safetensors": WEIGHTS[:-1]}, "m.safetensors: not a sound safetensors file"),
    "too long": ({"m.safetensors": WEIGHTS + b"x"}, "1 bytes behind the last tensor"),
    "another format": ({"m.safetensors": b"version https://git-lfs"}, "not a sound safetensors"),
    "empty": ({"m.safetensors": b"", "a": b""}, "0 bytes are too few"),
    "gguf": ({"m.gguf": GGUF[:-1]}, "m.gguf: not a sound GGUF file"),
    "gguf by its name": ({"m.gguf": b"x"}, "m.gguf: not a sound GGUF file"),
    "old gguf": ({"m.gguf": file_of(version=1)}, "it is of version 1"),
    "gguf without its rest": ({"m-00001-of-00002.gguf": GGUF}, "'m-00002-of-00002.gguf'"),
    "shard": (
        {"m.safetensors.index.json": INDEX, "m-1.safetensors": WEIGHTS}, "'m-2.safetensors'"
    ),
    "index of pickles": ({"m.bin.index.json": b'{"weight_map":{"a":"../x"}}'}, "outside"),
    "index": ({"m.safetensors.index.json": b"{}"}, "not a sound index of shards"),
    "onnx": ({"m.onnx": model_of(graph_of(external("w.data")))}, "'w.data', which isn't there"),
    "onnx that climbs": ({"m.onnx": model_of(graph_of(external("../w")))}, "outside"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSOUND)
def test_what_engines_wont_load_is_told_and_pushed_all_the_same(
    run: Run, tmp_path: Path, case: str
) -> None:
    files, why = UNSOUND[case]
    name = case.replace(" ", "-")
    told = pushed(run, tmp_path, name, files)
    (warning,) = [line for line in told.err.splitlines() if line.startswith("warning: ")]
    assert why in warning
    assert "engines won't load it" in warning
    planned = run("push", tmp_path, name, "--dry-run", "--json").document("push")
    (unsound,) = planned.unsound
    assert unsound in warning
    again = run("push", tmp_path, name, "--json").document("push")
    assert again.unsound == planned.unsound


def test_an_unsound_file_has_no_public_metadata(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF[:-1])
    assert run("create", "unsound").code == 0
    refused = run("push", tmp_path, "unsound", "--public-metadata", "--json").error
    assert refused.code == "bad_gguf"
    assert refused.message.startswith("m.gguf: not a sound GGUF file")
    assert "without --public-metadata" in refused.hint


@pytest.mark.parametrize(
    ("file", "data", "code", "why"),
    [
        ("m.safetensors", b'{"hidden": 256}', "bad_safetensors", "it is JSON"),
        ("m.gguf", b'{"hidden": 256}', "bad_gguf", "it is JSON"),
        ("m.gguf", WEIGHTS, "bad_gguf", "it is a safetensors file"),
        ("m.gguf", bytes(64), "bad_gguf", "it doesn't begin with GGUF"),
    ],
)
def test_a_load_says_what_a_file_is_instead(
    run: Run, tmp_path: Path, file: str, data: bytes, code: str, why: str
) -> None:
    name = f"instead-{len(data)}-{code.replace('_', '-')}"
    pushed(run, tmp_path, name, {file: data})
    error = run("load", f"{name}:prod", "-p", "inference", "--json").error
    assert (error.code, error.exit_code) == (code, 5)
    assert error.message.startswith(f"{file}: not a sound ")
    assert why in error.message
    assert "push the file that was meant" in error.hint

"""The examples for torch, on a real sentence encoder; what they leave is searched for plaintext."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator

import pytest

from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.models import minilm


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Bytes of the model's tensors."""
    need("torch")
    need("transformers")
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), {"minilm": minilm()}) as vault:
        with vault.load("minilm:prod", purpose="inference") as model:
            size = sum(info.size for info in model.tensor_infos().values())
        yield size


def run(example: str, *arguments: str) -> None:
    runpy.run_path(str(ROOT / "examples" / example))["main"](*arguments)


def test_a_module_over_the_decrypted_memory(
    pushed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "torch_module.py",
        "minilm:prod",
        "A man is eating food.",
        "A man is eating a piece of bread.",
    )
    assert float(capsys.readouterr().out) == pytest.approx(0.7553, abs=2e-4)


def test_a_stream_and_a_part(pushed: int, capsys: pytest.CaptureFixture[str]) -> None:
    name = "embeddings.word_embeddings.weight"
    run("torch_stream.py", "minilm:prod", name, "0", "2")
    out = capsys.readouterr().out
    assert f"{pushed:,} bytes of tensors on" in out
    told = re.search(r"([\d,]+) bytes of .* for rank 0, ([\d,]+) decrypted", out)
    assert told is not None
    part, read = (int(number.replace(",", "")) for number in told.groups())
    assert part == 30522 // 2 * 384 * 4
    assert part <= read <= part + 3 * (1 << 20)  # its own segments, and the header's

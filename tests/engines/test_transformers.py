"""transformers reads a model's folder in memory, and gives what it gives from plain files."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault.client.session import Session
from modelvault.errors import IntegrityError
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.models import minilm, tiny_llama

safetensors = need("safetensors")
torch = need("torch")
transformers = need("transformers")

TOKENS = torch.arange(3, 60)[None]
PROMPT = "A line of text, with ümlauts and <tool> calls"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in the clear, away from the disk that is searched."""
    root = tmp_path_factory.mktemp("plain")
    folders = {
        "llama": tiny_llama(root / "llama"),
        "sharded": tiny_llama(root / "sharded", shard="60KB"),
    }
    for folder in folders.values():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>", "</tool>"]})
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        tokenizer.save_pretrained(folder)
        settings = transformers.GenerationConfig(
            max_new_tokens=7, do_sample=False, repetition_penalty=1.3, bos_token_id=0,
            eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        settings.save_pretrained(folder)
    assert len(list(folders["sharded"].glob("*.safetensors"))) > 2
    return {**folders, "minilm": minilm()}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path]) -> Iterator[Session]:
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), plain) as session:
        yield session


def answers(folder: Path) -> tuple[Any, ...]:
    """Logits, what is generated, what the tokenizer makes of a text, and the configurations."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = network(TOKENS).logits
        generated = network.generate(ids)
    return (
        logits.clone(), generated, ids, tokenizer.decode(ids[0]), tokenizer.chat_template,
        tokenizer.special_tokens_map, network.config.to_diff_dict(),
        network.generation_config.to_diff_dict(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "sharded"])
def test_the_same_to_the_bit(vault: Session, plain: dict[str, Path], name: str) -> None:
    expected = answers(plain[name])
    with vault.load(f"{name}:prod", purpose="inference") as model:
        found = answers(model.path())
    for one, other in zip(found, expected, strict=True):
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, (one, other)
    assert "<tool>" in found[3]
    assert found[1].shape[1] == found[2].shape[1] + 7  # as the generation config says


def test_a_sentence_encoder_gives_the_same_to_the_bit(
    vault: Session, plain: dict[str, Path]
) -> None:
    def encode(folder: Path) -> Any:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        network = transformers.AutoModel.from_pretrained(folder, use_safetensors=True)
        with torch.inference_mode():
            return network(**tokenizer([PROMPT], return_tensors="pt")).last_hidden_state.clone()

    with vault.load("minilm:prod", purpose="inference") as model:
        found = encode(model.path())
    assert torch.equal(found, encode(plain["minilm"]))


def test_a_module_on_the_meta_device_takes_the_tensors(
    vault: Session, plain: dict[str, Path]
) -> None:
    """No folder at all: the decrypted memory is what the network computes with."""
    expected = transformers.AutoModelForCausalLM.from_pretrained(plain["sharded"])
    with vault.load("sharded:prod", purpose="inference") as model:
        config = transformers.LlamaConfig(**json.loads(model.open("config.json").read()))
        with torch.device("meta"):
            network = transformers.LlamaForCausalLM(config)
        network.load_state_dict(model.state_dict(), assign=True)
        network.model.rotary_emb = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(
            config
        )
        with torch.inference_mode():
            assert torch.equal(network.eval()(TOKENS).logits, expected(TOKENS).logits)
        del network


def test_the_example(
    vault: Session, plain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    runpy.run_path(str(ROOT / "examples/transformers_model.py"))["main"]("llama:prod", "Once")
    found = capsys.readouterr().out
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain["llama"])
    network = transformers.AutoModelForCausalLM.from_pretrained(plain["llama"])
    expected = network.generate(
        **tokenizer("Once", return_tensors="pt"), max_new_tokens=8, do_sample=False
    )
    assert found == tokenizer.decode(expected[0]) + "\n"


# Folders that aren't sound: what we refuse, and what is left to transformers.


def without_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def shard_outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    first = next(iter(told["weight_map"]))
    told["weight_map"][first] = "../" + told["weight_map"][first]
    index.write_text(json.dumps(told))


def named_twice(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    first = next(iter(json.loads(text)["weight_map"]))
    index.write_text(text.replace('"weight_map": {', f'"weight_map": {{"{first}": "x",', 1))


def across_the_end(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-2])


BAD = {
    "without a shard": (without_a_shard, "missing_shard", FileNotFoundError),
    "shard outside": (shard_outside, "bad_index", None),
    "named twice": (named_twice, "bad_index", None),
    "across the end": (across_the_end, "bad_safetensors", safetensors.SafetensorError),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_isnt_sound(
    vault: Session, plain: dict[str, Path], tmp_path: Path, case: str
) -> None:
    spoil, code, theirs = BAD[case]
    folder = shutil.copytree(plain["sharded"], tmp_path / "bad")
    spoil(folder)
    name = case.replace(" ", "-")
    vault.create(name)
    vault.push(folder, f"{name}:prod")
    shutil.rmtree(folder)
    with vault.load(f"{name}:prod", purpose="inference") as model:
        for wanted in (model.tensor_infos, model.state_dict):
            with pytest.raises(IntegrityError) as caught:
                wanted()
            assert caught.value.code == code
        if code == "bad_index":  # it could name files elsewhere, so nobody gets it
            with pytest.raises(IntegrityError, match=r"safetensors\.index\.json"):
                model.path()
            return
        with pytest.raises(theirs):
            transformers.AutoModelForCausalLM.from_pretrained(model.path())

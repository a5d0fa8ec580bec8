"""PEFT puts an adapter on the base that its signed manifest names: both from the vault."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault.client.session import Session
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.models import tiny_llama

torch = need("torch")
transformers = need("transformers")
peft = need("peft")

pytestmark = [
    # peft asks transformers by a name that goes away in its next version.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, and an adapter of it whose weights aren't zero."""
    root = tmp_path_factory.mktemp("plain")
    base = tiny_llama(root / "base")
    network = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(1)
    peft.get_peft_model(network, config).save_pretrained(root / "adapter")
    return {"base": base, "adapter": root / "adapter"}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path]) -> Iterator[Session]:
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), plain) as session:
        session.create("poet")
        session.push(plain["adapter"], "poet:prod", provenance=session.based_on("base:prod"))
        yield session


def logits(base: Path, adapter: Path | None) -> Any:
    network = transformers.AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
    if adapter is not None:
        network = peft.PeftModel.from_pretrained(network, str(adapter))
    with torch.inference_mode():
        return network(TOKENS).logits.clone()


def test_the_same_to_the_bit_under_two_leases(vault: Session, plain: dict[str, Path]) -> None:
    expected = logits(plain["base"], plain["adapter"])
    assert not torch.equal(expected, logits(plain["base"], None))
    with vault.load_with_base("poet:prod", purpose="inference") as pair:
        assert len(vault.leases()) == 2
        found = logits(pair.base.path(), pair.adapter.path())
    assert torch.equal(found, expected)
    assert vault.leases() == ()
    allowed = [
        (entry.model, entry.decision_id)
        for entry in vault.entries(limit=1000).entries
        if entry.action == "load" and entry.outcome == "allowed"
    ]
    assert [model for model, _ in allowed] == ["poet", "base"]
    assert len({decision for _, decision in allowed}) == 2


def test_without_any_folder(vault: Session, plain: dict[str, Path]) -> None:
    """The adapter's tensors from memory, into a network that has adapters already."""
    network = transformers.AutoModelForCausalLM.from_pretrained(plain["base"])
    with vault.load_with_base("poet:prod", purpose="inference") as pair:
        config = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        network = peft.get_peft_model(network, config).eval()
        weights = {name: one.clone() for name, one in pair.adapter.state_dict().items()}
        peft.set_peft_model_state_dict(network, weights)
    with torch.inference_mode():
        assert torch.equal(network(TOKENS).logits, logits(plain["base"], plain["adapter"]))


def test_the_example(vault: Session, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples/peft_adapter.py"))["main"]
    capsys.readouterr()
    main("poet:prod", "Roses are")
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert first == "poet@1 on base@1"
    assert rest.startswith("Roses are")

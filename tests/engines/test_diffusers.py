"""diffusers reads a pipeline's folders in memory, and paints what it paints from plain files."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault.client.session import Session
from modelvault.errors import IntegrityError
from support.disk import vault_on_its_disk
from support.engines import ROOT, need

torch = need("torch")
diffusers = need("diffusers")
transformers = need("transformers")

PROMPT = "a lighthouse"


def tiny_pipeline(folder: Path) -> Path:
    """UNet, VAE, text encoder, tokenizer and scheduler, random and small, in their folders."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
        attention_head_dim=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    config = transformers.CLIPTextConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=298, eos_token_id=299, pad_token_id=299,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=transformers.CLIPTextModel(config),
        tokenizer=_tokenizer(folder.parent),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer(folder: Path) -> Any:
    """Letters, alone and at a word's end."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {word: at for at, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 298, "<|endoftext|>": 299}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("plain") / "pipeline")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Iterator[Session]:
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), {"painter": plain}) as session:
        yield session


def paint(folder: Path) -> Any:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    assert {name for name, part in pipeline.components.items() if part is not None} == {
        "vae", "unet", "text_encoder", "tokenizer", "scheduler",
    }  # fmt: skip
    chance = torch.Generator().manual_seed(7)
    return pipeline(PROMPT, num_inference_steps=3, generator=chance, output_type="np").images


def test_the_same_picture_to_the_bit(vault: Session, plain: Path) -> None:
    expected = paint(plain)
    assert expected.std() > 0.01, "a picture of one colour proves nothing"
    with vault.load("painter:prod", purpose="inference") as model:
        found = paint(model.path())
    assert (found == expected).all()


def test_tensors_are_had_by_their_file(vault: Session, plain: Path) -> None:
    """Two parts of a pipeline may give two tensors one name, so their file is named with them."""
    part = "unet/diffusion_pytorch_model.safetensors"
    with vault.load("painter:prod", purpose="inference") as model:
        ours = model.state_dict(part)
        network = diffusers.UNet2DConditionModel.from_pretrained(plain / "unet")
        theirs = network.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        del ours


def test_two_parts_with_one_name(vault: Session, plain: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    for name in ("text_encoder", "text_encoder_2"):
        (both / name).mkdir(parents=True)
        data = (plain / "text_encoder/model.safetensors").read_bytes()
        (both / name / "model.safetensors").write_bytes(data)
    vault.create("both")
    vault.push(both, "both")
    with vault.load("both", purpose="inference") as model:
        with pytest.raises(IntegrityError, match="name the file that you want") as caught:
            model.tensor_infos()
        assert caught.value.code == "duplicate_tensor"
        assert model.tensor_infos("text_encoder_2/model.safetensors")


def test_the_example(
    vault: Session, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    main = runpy.run_path(str(ROOT / "examples/diffusers_pipeline.py"))["main"]
    capsys.readouterr()
    main("painter:prod", PROMPT, str(picture))
    assert capsys.readouterr().out == f"{picture}: 32 x 32\n"
    assert picture.read_bytes().startswith(b"\x89PNG")

"""The real torch: every dtype, modules of transformers, safetensors' slices, pickles."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import modelvault
from modelvault import wiring
from modelvault.access import Obligations
from modelvault.errors import AccessDenied, Conflict, InvalidRequest
from support.engines import need
from support.homes import isolated
from support.loading import Sealed, Version
from support.models import tiny_llama

MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def torch() -> Any:
    return need("torch")


def same(found: Any, wanted: Any) -> bool:
    """Equal to the bit: some of these types know no comparison."""
    import torch

    return bool(
        found.shape == wanted.shape
        and found.dtype == wanted.dtype
        and (
            not wanted.numel()
            or torch.equal(
                found.contiguous().reshape(-1).view(torch.uint8),
                wanted.contiguous().reshape(-1).view(torch.uint8),
            )
        )
    )


def every_dtype(torch: Any) -> dict[str, Any]:
    """A tensor of each type that safetensors writes for torch."""
    names = (
        "bool", "uint8", "int8", "int16", "uint16", "float16", "bfloat16", "int32", "uint32",
        "float32", "int64", "uint64", "float64", "complex64", "float8_e4m3fn", "float8_e5m2",
        "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn_x2",
    )  # fmt: skip
    made = {}
    for seed, name in enumerate(names):
        dtype = getattr(torch, name)
        width = torch.empty(0, dtype=dtype).element_size()
        generator = torch.Generator().manual_seed(seed)
        raw = torch.randint(0, 2, (3, 4 * width), generator=generator, dtype=torch.uint8)
        made[name] = raw.view(torch.bool if name == "bool" else dtype)
    return made


@pytest.fixture(scope="module")
def dtypes(torch: Any) -> dict[str, Any]:
    return every_dtype(torch)


@pytest.fixture(scope="module")
def file(torch: Any, dtypes: dict[str, Any]) -> bytes:
    save = need("safetensors.torch").save
    return bytes(save({**dtypes, "scalar": torch.tensor(3.5), "none": torch.empty(0, 3)}))


@pytest.fixture(scope="module")
def wanted(file: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By safetensors itself, whose `load` of bytes knows no F4."""
    place = tmp_path_factory.mktemp("plain") / MODEL
    place.write_bytes(file)
    return dict(need("safetensors.torch").load_file(place))


def test_a_state_dict_of_every_dtype_shares_the_memory(file: bytes, wanted: dict[str, Any]) -> None:
    model = Sealed({MODEL: file}).model()
    state = model.state_dict()
    assert set(state) == set(wanted)
    for name, plain in wanted.items():
        assert same(state[name], plain), name
    model.state_dict()["float32"][0, 0] = 9
    assert state["float32"][0, 0] == 9
    with pytest.raises(Conflict, match="views of"):
        model.close()
    del state
    model.close()


def test_streams_of_every_dtype(file: bytes, wanted: dict[str, Any]) -> None:
    with Sealed({MODEL: file}).model() as model:
        for name, tensor in model.iter_tensors():
            assert same(tensor, wanted[name]), name
        del tensor


def test_slices_as_safetensors_gives_them(
    torch: Any, tmp_path: Path, dtypes: dict[str, Any], file: bytes
) -> None:
    safe_open = need("safetensors").safe_open
    (tmp_path / MODEL).write_bytes(file)
    indices = (..., (), 0, -1, slice(1, 3), slice(-2, None), (slice(None), slice(1, 3)),
               (..., 0), (1, 2), slice(None, None, 2), slice(2, 1))  # fmt: skip
    with Sealed({MODEL: file}).model() as model, safe_open(tmp_path / MODEL, "pt") as plain:
        for name in dtypes:
            ours, theirs = model.get_slice(name), plain.get_slice(name)
            assert ours.get_shape() == theirs.get_shape()
            assert ours.get_dtype() == theirs.get_dtype()
            if name == "float4_e2m1fn_x2":  # safetensors 0.8 can't slice them at all
                assert same(ours[1:, 2:6], dtypes[name][1:, 1:3])
                continue
            for index in indices:
                assert same(ours[index], theirs[index]), (name, index)
        assert same(model.get_slice("scalar")[...], torch.tensor(3.5))


def packed(dtype: str, shape: str, size: int) -> bytes:
    header = f'{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{size}]}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(1, size + 1))


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "seen"),
    [
        ("F6_E2M3", "[2,8]", 12, (2, 6)),
        ("F6_E3M2", "[4,4]", 12, (4, 3)),
        ("F6_E3M2", "[2,2]", 3, (3,)),
    ],
)
def test_types_that_torch_has_not_come_as_their_bytes(
    torch: Any, dtype: str, shape: str, size: int, seen: tuple[int, ...]
) -> None:
    with Version({MODEL: packed(dtype, shape, size)}).model() as model:
        tensor = model.state_dict()["x"]
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, seen)
        assert tensor.reshape(-1).tolist() == list(range(1, size + 1))
        del tensor


def test_gradients_flow_through_what_is_shared(torch: Any) -> None:
    save = need("safetensors.torch").save
    with Version({MODEL: save({"w": torch.ones(3, 2)})}).model() as model:
        weight = model.state_dict()["w"].requires_grad_()
        (weight.sum() * 2).backward()
        assert weight.grad.tolist() == [[2, 2]] * 3
        del weight


# modules


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), shard="200KB")


@pytest.fixture(scope="module")
def llama_files(llama: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in llama.iterdir()}


def logits(torch: Any, module: Any) -> Any:
    with torch.no_grad():
        return module.eval()(torch.arange(7)[None]).logits


def test_a_transformers_model_is_filled(
    torch: Any, llama: Path, llama_files: dict[str, bytes]
) -> None:
    """On the meta device over the decrypted memory; else copied, to the module's own dtype."""
    transformers = need("transformers")
    plain = transformers.AutoModelForCausalLM.from_pretrained(llama)
    wanted = logits(torch, plain)
    config = transformers.AutoConfig.from_pretrained(llama)
    sealed = Sealed(llama_files)
    model = sealed.model()
    with torch.device("meta"):
        bare = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    told = model.load_into(bare)
    assert (told.missing, told.unexpected) == ((), ())
    # Of no state dict, and so of no file: whoever makes a module on meta computes it.
    assert all("inv_freq" in name for name in told.meta)
    assert told.meta
    state = model.state_dict()
    for name, held in bare.state_dict().items():
        assert held.data_ptr() == state[name].data_ptr()
    bare.model.rotary_emb = type(bare.model.rotary_emb)(config)
    assert torch.equal(logits(torch, bare), wanted)
    read = sum(size for _, _, size in sealed.store.reads)
    filled = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert model.load_into(filled, window=1 << 20).meta == ()
    assert sum(size for _, _, size in sealed.store.reads) == read  # it was in memory
    assert torch.equal(logits(torch, filled), wanted)
    single = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_into(single)
    for name, held in single.state_dict().items():
        assert held.dtype == torch.float32
        assert torch.equal(held, state[name].float())
    del bare, state, held, filled
    model.close()
    assert logits(torch, single).isfinite().all()  # copies are the module's own


def tied(torch: Any) -> Any:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 4, bias=False)
            self.head = torch.nn.Linear(4, 4)
            self.head.weight = self.first.weight
            self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
            self.register_buffer("cache", torch.zeros(2), persistent=False)

    return Tied()


@pytest.fixture
def tied_model(torch: Any) -> Any:
    state = {
        "first.weight": torch.randn(4, 4), "head.bias": torch.randn(4),
        "steps": torch.tensor([3, 4]),
    }  # fmt: skip
    return Sealed({MODEL: need("safetensors.torch").save(state)}), state


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_weights_are_one_and_stay_tied(torch: Any, tied_model: Any, device: str) -> None:
    sealed, state = tied_model
    with torch.device(device):
        module = tied(torch)
    module.first.weight.requires_grad_(False)
    module.head.bias.of_ours = "kept"
    with sealed.model() as model:
        told = model.load_into(module)
        assert told.missing == told.unexpected == ()
        assert told.meta == (("cache",) if device == "meta" else ())
        assert module.head.weight is module.first.weight
        assert torch.equal(module.head.weight, state["first.weight"])
        assert torch.equal(module.head.bias, state["head.bias"])
        assert module.steps.tolist() == [3, 4]
        assert not module.first.weight.requires_grad
        assert module.head.bias.requires_grad
        assert module.head.bias.of_ours == "kept"
        del module


def test_layouts_other_than_the_files(torch: Any) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    module = torch.nn.Linear(4, 3, bias=False)
    module.weight = torch.nn.Parameter(torch.zeros(4, 3).t())
    assert not module.weight.is_contiguous()
    with Sealed({MODEL: need("safetensors.torch").save({"weight": weight})}).model() as model:
        model.load_into(module)
    assert torch.equal(module.weight, weight)


def test_a_parameter_that_has_no_shape_yet(torch: Any) -> None:
    save = need("safetensors.torch").save
    module = torch.nn.LazyLinear(3, bias=False)
    refused = pytest.raises(InvalidRequest, match="none yet in the module")
    with Sealed({MODEL: save({"weight": torch.ones(3, 4)})}).model() as model, refused:
        model.load_into(module)


def test_what_doesnt_fit_is_told_before_anything_changes(torch: Any, tied_model: Any) -> None:
    sealed, state = tied_model
    extra = {**state, "more": torch.ones(2)}
    del extra["head.bias"]
    other = Sealed({MODEL: need("safetensors.torch").save(extra)})
    module = tied(torch)
    before = {name: held.clone() for name, held in module.state_dict().items()}
    with other.model() as model:
        with pytest.raises(InvalidRequest) as caught:
            model.load_into(module)
        assert caught.value.code == "state_mismatch"
        assert caught.value.details["missing"] == ["head.bias"]
        assert caught.value.details["unexpected"] == ["more"]
        assert all(torch.equal(before[name], held) for name, held in module.state_dict().items())
        told = model.load_into(module, strict=False)
        assert (told.missing, told.unexpected) == (("head.bias",), ("more",))
        assert torch.equal(module.first.weight, state["first.weight"])
        assert torch.equal(module.head.bias, before["head.bias"])
    module.head = torch.nn.Linear(4, 9)
    with sealed.model() as model:
        for strict in (True, False):
            with pytest.raises(InvalidRequest, match="1 of another shape"):
                model.load_into(module, strict=strict)
        with pytest.raises(InvalidRequest) as caught:
            model.load_into({"not": "a module"})
        assert caught.value.code == "not_a_module"


# workers


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_data_loader_that_forks_gets_an_error_and_never_zeros(
    torch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """What doesn't touch the model's tensors works; who reads one is told of in the parent."""
    table = {"table": torch.arange(10.0)}
    with Version({MODEL: need("safetensors.torch").save(table)}).model() as model:
        weights = model.state_dict()["table"]

        class Rows(torch.utils.data.Dataset):  # type: ignore[misc]
            def __init__(self, held: Any) -> None:
                self.held = held

            def __len__(self) -> int:
                return 4

            def __getitem__(self, at: int) -> Any:
                return self.held[at].clone()

        def batches(held: Any) -> list[float]:
            loader = torch.utils.data.DataLoader(
                Rows(held), num_workers=1, multiprocessing_context="fork"
            )
            return [float(batch[0]) for batch in loader]

        own = weights.clone()
        assert batches(own) == [0, 1, 2, 3]
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            batches(weights)
        assert "egmentation fault" in capfd.readouterr().err
        with modelvault.inherited():
            assert batches(weights) == [0, 1, 2, 3]
        del weights


# pickles

ALLOWED = Obligations(allow_pickle=True)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/modelvault-was-here",)


@pytest.fixture
def checkpoint(torch: Any, tmp_path: Path) -> bytes:
    torch.save({"model": {"w": torch.arange(5.0)}, "step": 7}, tmp_path / "c.pt")
    return (tmp_path / "c.pt").read_bytes()


def test_a_checkpoint_needs_the_obligation(torch: Any, checkpoint: bytes) -> None:
    version = Version({"c.pt": checkpoint})
    with version.model() as model, pytest.raises(AccessDenied) as caught:
        model.load_checkpoint("c.pt")
    assert caught.value.code == "pickle_refused"
    assert version.bytes_read == 0
    with version.model(obligations=ALLOWED) as model:
        found = model.load_checkpoint("c.pt")
        assert found["step"] == 7
        assert torch.equal(found["model"]["w"], torch.arange(5.0))


@pytest.mark.parametrize("allowed", [False, True])
def test_the_policy_is_what_allows_it(
    torch: Any, checkpoint: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """A real vault: who may load no pickle gets no lease for one."""
    home = isolated(tmp_path, monkeypatch)
    wiring.init()
    data = home / "policy/data.json"
    told = json.loads(data.read_text())
    told["classifications"]["internal"]["limits"]["allow_pickle"] = allowed
    data.write_text(json.dumps(told))
    with modelvault.connect() as vault:
        vault.publish_policy()
        vault.create("m")
        vault.push(tmp_path / "c.pt", "m")
        if not allowed:
            with pytest.raises(AccessDenied, match="pickle"):
                vault.load("m", purpose="inference")
            assert vault.leases("m", ended=True) == ()
            return
        with vault.load("m", purpose="inference") as model:
            found = model.load_checkpoint("c.pt")
        assert torch.equal(found["model"]["w"], torch.arange(5.0))


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
def test_a_checkpoint_never_runs_code(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_here = Path("/tmp/modelvault-was-here")
    was_here.unlink(missing_ok=True)
    torch.save({"w": Evil()}, tmp_path / "zip.pt")
    torch.save({"w": Evil()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    files = {
        "zip.pt": (tmp_path / "zip.pt").read_bytes(),
        "old.pt": (tmp_path / "old.pt").read_bytes(),
        "bare.pkl": pickle.dumps(Evil()),
        "text.pt": b"not at all a checkpoint",
        "empty.pt": b"",
    }
    for insisted in ("", "1"):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", insisted)
        with Version(files).model(obligations=ALLOWED) as model:
            for path in files:
                with pytest.raises(InvalidRequest) as caught:
                    model.load_checkpoint(path)
                assert caught.value.code == "bad_checkpoint"
                assert "was-here" not in str(caught.value)
    assert not was_here.exists()

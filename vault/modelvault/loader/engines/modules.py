"""Weights into a torch module: into its parameters, or in the place of those without memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from modelvault.errors import InvalidRequest
from modelvault.loader.engines.torch import described, library
from modelvault.weights.safetensors import TensorInfo


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a module was given. `missing` are its own names that no tensor is called; `unexpected`
    are tensors that it has no place for; `meta` is what is still without memory afterwards, buffers
    among it that belong to no state dict."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    meta: tuple[str, ...]


class Targets:
    """The parameters and buffers of a module by their names in its state dict.

    Names that mean one and the same parameter (tied weights) are one target: any of them fills it.
    """

    def __init__(self, module: Any) -> None:  # noqa: ANN401
        """Raises InvalidRequest (`missing_extra`, `not_a_module`)."""
        torch = library()
        if not isinstance(module, torch.nn.Module):
            raise InvalidRequest(
                "not_a_module",
                f"a {type(module).__name__} isn't a torch.nn.Module",
                "give the module that the weights are for, or take state_dict()",
            )
        self._module = module
        places = _places(module)
        one_each: dict[int, _Target] = {}
        self._named: dict[str, _Target] = {}
        for name, held in module.state_dict(keep_vars=True).items():
            if isinstance(held, torch.Tensor):  # modules may keep other things there
                target = _Target(held, places.get(id(held), []))
                self._named[name] = one_each.setdefault(id(held), target)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        """The parameter or buffer."""
        return self._named[name].tensor

    def choose(self, infos: Iterable[TensorInfo], strict: bool) -> tuple[list[str], list[str]]:
        """(missing, unexpected). Raises InvalidRequest, before anything is changed:
        `state_mismatch` for shapes that differ and, if `strict`, for any of the two."""
        found = {info.name: info for info in infos}
        filled = {id(self._named[name]) for name in found if name in self._named}
        missing = [name for name, target in self._named.items() if id(target) not in filled]
        unexpected = [name for name in found if name not in self._named]
        others = [
            f"{name}: {ours} in the module, {theirs} in the file"
            for name, target in self._named.items()
            if name in found
            and (ours := _shape(target.tensor)) != (theirs := list(described(found[name])[1]))
        ]
        if others or (strict and (missing or unexpected)):
            raise _mismatch(self._module, missing, unexpected, others)
        return missing, unexpected

    def assign(self, name: str, tensor: Any) -> None:  # noqa: ANN401
        """Put the tensor in the place of one, wherever the module and its parts hold that one."""
        target = self._named[name]
        old, new = target.tensor, tensor
        if isinstance(old, library().nn.Parameter):
            new = library().nn.Parameter(tensor, requires_grad=old.requires_grad)
            new.__dict__.update(old.__dict__)
        for owner, attribute in target.places:
            setattr(owner, attribute, new)
        target.tensor = new

    def on_meta(self) -> list[str]:
        """Names of parameters and buffers without memory."""
        named = [*self._module.named_parameters(), *self._module.named_buffers()]
        return [name for name, held in named if held.is_meta]


def fits_in_place(target: Any, info: TensorInfo) -> bool:  # noqa: ANN401
    """Whether the file's bytes can be copied into the target as they are."""
    return bool(target.dtype == described(info)[0] and target.is_contiguous())


def converted(target: Any, tensor: Any) -> None:  # noqa: ANN401
    """Copy with another dtype or layout, and wipe what it was copied from."""
    with library().no_grad():
        target.copy_(tensor)
        tensor.untyped_storage().fill_(0)


class _Target:
    """A parameter or buffer, and where in the module it is held."""

    def __init__(self, tensor: Any, places: list[tuple[Any, str]]) -> None:  # noqa: ANN401
        self.tensor = tensor
        self.places = places


def _places(module: Any) -> dict[int, list[tuple[Any, str]]]:  # noqa: ANN401
    """{id of a parameter or buffer: (the module that has it, by which attribute)}."""
    found: dict[int, list[tuple[Any, str]]] = {}
    for owner in module.modules():
        for held in (owner._parameters, owner._buffers):
            for attribute, one in held.items():
                found.setdefault(id(one), []).append((owner, attribute))
    return found


def _shape(tensor: Any) -> object:  # noqa: ANN401
    """The extents; of a lazy parameter, which has none before its first use, a word."""
    return "none yet" if library().nn.parameter.is_lazy(tensor) else list(tensor.shape)


def _mismatch(
    module: Any,  # noqa: ANN401
    missing: list[str],
    unexpected: list[str],
    others: list[str],
) -> InvalidRequest:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": others}
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
        if names
    ]
    return InvalidRequest(
        "state_mismatch",
        f"the weights aren't those of this {type(module).__name__}: {'; '.join(told)}",
        "make the module with the model's own configuration; strict=False passes over names that "
        "are missing or unexpected, never over shapes",
        missing=missing,
        unexpected=unexpected,
        shapes=others,
    )

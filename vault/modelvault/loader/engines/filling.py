"""Copying a file's tensors into a module's own parameters, on whatever device each of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelvault.loader.engines.modules import Targets, converted, fits_in_place
from modelvault.loader.engines.staging import StagedTensors, empty_on
from modelvault.loader.lent import Lent
from modelvault.loader.resident import Resident
from modelvault.loader.source import Fits
from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo


def copy(
    targets: Targets,
    located: Mapping[str, Located],
    residents: Callable[[str], Resident],
    lent: Lent,
    fits: Fits,
    window: int,
    streams: Any,  # noqa: ANN401
) -> None:
    """Fill the targets named, device by device; a model that is closed ends what is in `streams`.

    Where dtype and layout are those of the file, bytes go straight into the parameter.
    """
    devices: dict[Any, list[Located]] = {}
    for name, one in located.items():
        devices.setdefault(targets[name].device, []).append(one)
    for device, wanted in devices.items():
        place = _places(targets, empty_on(device))
        with StagedTensors(wanted, residents, lent, place, device, fits, window) as stream:
            streams.add(stream)
            for name, tensor in stream:
                if not fits_in_place(targets[name], located[name][1]):
                    converted(targets[name], tensor)


def _places(targets: Targets, empty: Callable[[TensorInfo], Any]) -> Callable[[TensorInfo], Any]:
    def place(info: TensorInfo) -> Any:  # noqa: ANN401
        target = targets[info.name]
        return target.detach() if fits_in_place(target, info) else empty(info)

    return place

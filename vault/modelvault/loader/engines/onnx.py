"""onnxruntime over the loader's memory. onnxruntime is imported when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.loader.resident import Resident
from modelvault.weights import onnx, onnx_light

_MOST = 2**31  # bytes of one tensor

Residents = Callable[[str], Resident]
Configure = Callable[[Any], object]


def session(
    path: str,
    residents: Residents,
    held: Collection[str],
    configure: Configure | None,
    more: dict[str, Any],
) -> Any:  # noqa: ANN401
    """An onnxruntime.InferenceSession of the model at `path`, with `more` keywords for it.

    `residents` gives the files that may be read, `held` are all paths of the version. The weights
    are handed over where they lie; onnxruntime makes its own copy of each while the session is
    made, and then the memory here is wiped.

    Raises InvalidRequest (`missing_extra`, `tensor_too_large`), IntegrityError (`bad_onnx`,
    `missing_external_data`), and what reading the files raises.
    """
    runtime = _onnxruntime()
    model = residents(path)
    used = {onnx_light.location(path): model}
    for each in onnx.externals(model.copy, model.size, path):
        used[each.location] = _external(path, each, residents, held)
    options = runtime.SessionOptions()
    if configure is not None:
        configure(options)
    made = _made(runtime, model, used, options, more)
    for resident in used.values():
        resident.release()  # not where somebody else has a view of it
    return made


def _made(
    runtime: Any,  # noqa: ANN401
    model: Resident,
    used: dict[str, Resident],
    options: Any,  # noqa: ANN401
    more: dict[str, Any],
) -> Any:  # noqa: ANN401
    light = onnx_light.lighten(model.copy, model.size, model.path)
    views = [resident.view(0, resident.size) for resident in used.values()]
    try:
        options.add_external_initializers_from_files_in_memory(
            list(used), views, [len(view) for view in views]
        )
        session = _class(runtime)(light, options, **more)
    finally:
        for view in views:  # also where an error keeps this frame: nobody reads them any more
            view.release()
    session.disable_fallback()  # to other providers, for which it would be made again
    return session


def _class(runtime: Any) -> Any:  # noqa: ANN401
    """InferenceSession, but never made a second time out of the options that it was made with:
    these point to memory that is gone by then."""

    class InferenceSession(runtime.InferenceSession):  # type: ignore[misc]
        """An onnxruntime session whose weights came out of a vault's memory."""

        def set_providers(self, *_args: object, **_more: object) -> None:
            raise _spent("other providers can't be set")

        def get_session_options(self) -> object:
            raise _spent("its options can't be had")

    return InferenceSession


def _external(
    path: str, each: onnx.External, residents: Residents, held: Collection[str]
) -> Resident:
    if each.path not in held:
        raise IntegrityError(
            "missing_external_data",
            f"{path}: its weights lie in {each.path!r}, which this version doesn't hold",
            "push the model's folder again with all its files",
        )
    resident = residents(each.path)
    if each.needed > resident.size:
        raise IntegrityError(
            "bad_onnx",
            f"{path}: it wants {each.needed:,} bytes of {each.path}, which has {resident.size:,}",
            "export the model anew, its external data beside it, and push that folder",
        )
    if each.largest >= _MOST:
        raise InvalidRequest(
            "tensor_too_large",
            f"{path}: a tensor of {each.largest:,} bytes; onnxruntime takes none of 2 GiB or more "
            "from memory",
            "run it as a command, `modelvault run`, where the model is a folder, or split the "
            "tensor",
        )
    return resident


def _spent(what: str) -> InvalidRequest:
    return InvalidRequest(
        "session_spent",
        f"{what}: the memory that this session was made from is wiped",
        "make another session with onnx_session(path, providers=..., configure=...)",
    )


def _onnxruntime() -> Any:  # noqa: ANN401
    try:
        import onnxruntime
    except ImportError:
        raise InvalidRequest(
            "missing_extra",
            "onnx_session() needs onnxruntime, which isn't installed",
            "pip install 'encrypted-model-vault[onnx]', or onnxruntime-gpu by itself",
        ) from None
    if not hasattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory"):
        raise InvalidRequest(
            "missing_extra",
            f"onnxruntime {onnxruntime.__version__} takes no weights from memory",
            "pip install -U 'encrypted-model-vault[onnx]', for onnxruntime 1.24 or later",
        )
    return onnxruntime

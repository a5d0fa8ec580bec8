"""What a model knows of formats that hold more than tensors: ONNX graphs, GGUF metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.loader.resident import Resident
from modelvault.loader.shards import Shards
from modelvault.manifest import Manifest
from modelvault.weights import gguf


class Formats:
    """A Model's part that knows of formats; errors as there."""

    manifest: Manifest
    _shards: Shards

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The granted paths whose tensors `tensors()` and the like give when none is named: all
        safetensors files, or where there are none all GGUF files."""
        return self._shards.files

    def onnx_session(
        self,
        path: str,
        *,
        configure: Callable[[Any], object] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """An `onnxruntime.InferenceSession` of an ONNX file, its external data taken from the
        version's other files. `configure` gets the SessionOptions before the session is made;
        `options` (`providers=...`) go to the session.

        onnxruntime copies the weights into memory of its own, which isn't wiped when the lease
        ends: drop the session then. What was decrypted for it here is wiped as soon as it stands.

        Raises InvalidRequest (`missing_extra`, `tensor_too_large`), IntegrityError (`bad_onnx`,
        `missing_external_data`), and what onnxruntime raises for a model that it can't run.
        """
        from modelvault.loader.engines import onnx

        held = {file.path for file in self.manifest.files}
        return onnx.session(path, self._cleared, held, configure, options)

    def gguf_header(self, path: str) -> gguf.Header:
        """A GGUF file's metadata and tensors; only its header is decrypted.

        Raises IntegrityError (`bad_gguf`), InvalidRequest (`unsupported_gguf`).
        """
        resident = self._cleared(path)
        try:
            return gguf.parse(resident.copy, resident.size)
        except (IntegrityError, InvalidRequest) as refused:
            raise resident.named(refused) from None

    def _cleared(self, path: str) -> Resident:
        raise NotImplementedError

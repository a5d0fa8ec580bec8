"""`load`: what a job does, as a check that it could."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelvault.errors import IntegrityError
from modelvault_cli.commands import arguments
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.loader.model import Model
    from modelvault.weights.safetensors import TensorInfo
    from modelvault_cli.documents import FileSize, GgufFile, Load, Tensor


@command(
    "load",
    "modelvault load minilm:prod --purpose inference",
    "modelvault load minilm@3 -p evaluation --file model.safetensors --json",
)
@arguments.reference
@arguments.purpose
@arguments.files
@arguments.ticket
@pass_globals
def load(
    options: Globals, reference: str, purpose: str, files: tuple[str, ...], ticket: str | None
) -> None:
    """Take a lease, decrypt the model in memory, show what it holds, and wipe it.

    Nothing is written anywhere. This is the check that a job with this identity and purpose could
    load the model here.
    """
    from modelvault.clock import boot_ms
    from modelvault_cli.documents import Load, Obligations
    from modelvault_cli.output import emit

    start = boot_ms()
    with (
        options.session() as session,
        session.load(reference, purpose=purpose, files=files or None, ticket=ticket) as model,
    ):
        sizes = _decrypt(model)
        document = Load(
            model=model.name.rpartition("@")[0],
            version=model.manifest.version,
            purpose=purpose,
            files=sizes,
            tensors=_tensors(model),
            gguf=_gguf(model),
            size=model.size,
            obligations=Obligations.of(model.obligations),
            elapsed_ms=boot_ms() - start,
        )
    emit(options, document, _lines(document))


def _decrypt(model: Model) -> tuple[FileSize, ...]:
    """Bring all files into memory; no view outlives this, so that the model can be wiped."""
    from modelvault_cli.documents import FileSize

    sizes = []
    for path in model.files:
        with model.read_bytes(path) as view:
            sizes.append(FileSize(path, view.nbytes))
    return tuple(sizes)


def _tensors(model: Model) -> tuple[Tensor, ...]:
    from modelvault_cli.documents import Tensor

    if not model.weight_files:
        return ()
    infos = sorted(_infos(model), key=lambda info: info.name)
    return tuple(Tensor(info.name, info.dtype, tuple(info.shape), info.size) for info in infos)


def _infos(model: Model) -> list[TensorInfo]:
    """Of all files. Parts of one pipeline may give two tensors one name, which a job asks for by
    their files."""
    try:
        return list(model.tensor_infos().values())
    except IntegrityError as error:
        if error.code != "duplicate_tensor":
            raise
    return [info for path in model.weight_files for info in model.tensor_infos(path).values()]


def _gguf(model: Model) -> tuple[GgufFile, ...]:
    from modelvault_cli.documents import GgufFile

    found = []
    for path in model.files:
        if path.lower().endswith(".gguf"):
            header = model.gguf_header(path)
            found.append(
                GgufFile(
                    path=path, architecture=header.architecture, quantisation=header.quantisation
                )
            )
    return tuple(found)


def _lines(document: Load) -> list[str]:
    from modelvault_cli.output import counted, fields, seconds, size, table

    tensors = table(
        ("TENSOR", "DTYPE", "SHAPE", "SIZE"),
        (
            (one.name, one.dtype, " x ".join(map(str, one.shape)), size(one.bytes))
            for one in document.tensors
        ),
    )
    files = table(("FILE", "SIZE"), ((one.path, size(one.size)) for one in document.files))
    gguf = (" ".join(filter(None, (one.architecture, one.quantisation))) for one in document.gguf)
    told = fields(
        {
            "loaded": f"{document.model}@{document.version} for {document.purpose}",
            "size": f"{size(document.size)} in {counted(len(document.files), 'file')}, "
            f"{counted(len(document.tensors), 'tensor')}",
            "gguf": "; ".join(gguf),
            "time": f"{seconds(document.elapsed_ms)}, lease and verification included",
            "memory": "wiped",
        }
    )
    return [*tensors, *([""] if tensors else []), *files, "", *told]

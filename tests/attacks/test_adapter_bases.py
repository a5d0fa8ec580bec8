"""An adapter is put on the very version that its manifest names, or on none."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.client.session import Session
from modelvault.errors import IntegrityError
from modelvault.manifest import Manifest
from modelvault.reference import Reference
from support.honest import HonestBroker, Store, context


class Swapping(HonestBroker):
    """Answers with another version, or another model, than the digest that is asked for."""

    answer = Reference("default", "base", version=2)

    def find(self, reference: Reference) -> Manifest:
        return super().find(reference if reference.digest is None else self.answer)


@pytest.mark.parametrize(
    ("model", "version", "code"), [("base", 2, "wrong_digest"), ("other", 1, "wrong_model")]
)
def test_a_broker_that_swaps_the_base_is_refused(
    tmp_path: Path, model: str, version: int, code: str
) -> None:
    broker = Swapping()
    broker.answer = Reference("default", model, version=version)
    session = Session(context(broker, store=Store()))
    (tmp_path / "w.dat").write_bytes(b"weights")
    session.push(tmp_path / "w.dat", "base")
    base = session.based_on("base@1")
    for name in ("base", "other"):
        session.push(tmp_path / "w.dat", name)
    session.push(tmp_path / "w.dat", "adapter", provenance=base)
    with pytest.raises(IntegrityError, match="the base of adapter@1") as caught:
        session.load_with_base("adapter@1", purpose="inference")
    assert caught.value.code == code
    assert len(broker.released) == 2  # the adapter's lease too

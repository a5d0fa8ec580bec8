"""States are saved out of memory through real brokers into a real object store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from modelvault.adapters.objects_http.transport import Transport
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, NotFound
from support.servers.stack import Stack

STATES = [{f"layer.{rank}": np.full((700, 1000), rank, "f4").T} for rank in range(2)]


def test_saved_in_the_background_and_pruned(admin: Session, name: str) -> None:
    admin.create(name)
    for step in (1, 2, 3):
        saving = admin.begin_save({**STATES[0], **STATES[1]}, f"{name}:step-{step}", keep=2)
        saved = saving.wait()
    assert (saved.version, saved.pruned, saved.not_pruned) == (3, (1,), ())
    with admin.load(f"{name}:step-3", purpose="inference") as model:
        found = model.tensors()
        for state in STATES:
            for key, array in state.items():
                assert np.array_equal(found[key], array)
        del found
    with pytest.raises(NotFound):
        admin.load(f"{name}:step-1", purpose="inference")


def test_a_trainer_prunes_what_it_has_made(
    stack: Stack, admin: Session, session: Callable[..., Session], name: str
) -> None:
    """By the shipped roles, as OPA decides them; what somebody else made stays."""
    admin.create(name, classification="internal")
    admin.save(STATES[0], f"{name}:step-0")
    trainer = session(stack.token("run-7", "trainers"))
    for step in (1, 2):
        saved = trainer.save(STATES[0], f"{name}:step-{step}", keep=1)
    assert (saved.pruned, saved.not_pruned) == ((2,), ())
    for refused in (
        lambda: trainer.delete(f"{name}@1"),
        lambda: trainer.delete(name),
        lambda: trainer.tag(f"{name}@1", "step-3"),
    ):
        with pytest.raises(AccessDenied):
            refused()
    with trainer.load(f"{name}:step-2", purpose="fine-tuning") as model:
        assert model.tensor_infos().keys() == STATES[0].keys()


def test_two_processes_at_two_brokers_write_one_version(
    stack: Stack,
    admin: Session,
    session: Callable[..., Session],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second joins at another broker, and puts by links that it is given there: several parts,
    so that the store puts them together."""
    admin.create(name)
    put = []
    real = Transport.put

    def count(self: Transport, *args: object) -> object:
        put.append(args)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Transport, "put", count)
    one, two = session(stack.admin(), 0), session(stack.admin(), 1)
    first = one.part("rank-0.safetensors", STATES[0], files={"config.json": b"{}"})
    large = {f"{key}.{at}": np.full((3000, 1000), at, "f4") for at in range(2) for key in STATES[1]}
    second = two.part("rank-1.safetensors", large)
    leading = one.open_joint(f"{name}:step-1", {**first.sizes, **second.sizes}, [*first.sizes])
    with two.join_joint(leading.ticket, [*second.sizes]) as joint:
        sent = joint.write(second)
    sent += leading.write(first)
    assert one.commit_joint(leading, sent).version == 1
    assert len(put) > 6  # two objects for each of three files, one of them in parts
    with two.load(f"{name}:step-1", purpose="inference") as model:
        found = model.tensors()
        for key, array in {**STATES[0], **large}.items():
            assert np.array_equal(found[key], array)
        del found
    with pytest.raises(NotFound):
        session(stack.token("somebody", "ml-engineers")).join_joint(
            leading.ticket, ["rank-1.safetensors"]
        )

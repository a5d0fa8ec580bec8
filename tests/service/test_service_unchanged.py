"""Unchanged files through brokers, PostgreSQL, S3 and HashiCorp Vault."""

from __future__ import annotations

from modelvault.manifest import Manifest


def test_only_what_changed_goes_over_the_wire(
    stack, session, admin, name, model, check, sent
) -> None:
    """A version of files of three artifacts, pushed at one broker and loaded at the other, before
    and after a rotation, and once the versions that brought its files are gone."""
    admin.create(name, classification="internal")
    assert admin.push(model, name).unchanged == ()
    assert sum(sent) > 2_000_000
    sent.clear()
    (model / "config.json").write_text(changed := '{"hidden_size": 128}')
    second = session(stack.admin(), 1).push(model, name)
    assert second.unchanged == ("model.safetensors",)
    assert sum(sent) == 74 + len(changed) + 32 + 2 * 32
    (model / "extra.txt").write_text("e")
    third = admin.push(model, f"{name}:prod")
    assert third.unchanged == ("config.json", "model.safetensors")
    sent.clear()
    assert len(admin.push(model, name).unchanged) == 3
    assert sent == []
    job = session(stack.token("job", "inference"), 1)
    for step in ("as it is", "rotated", "deleted", "rotated"):
        if step == "rotated":
            admin.rotate(name)
        elif step == "deleted":
            for version in (1, 2):
                admin.delete(f"{name}@{version}")
        with job.load(f"{name}:prod", purpose="inference") as loaded:
            files = Manifest.from_bytes(loaded.manifest.to_bytes()).files
            assert len({file.artifact for file in files}) == 3
            check(loaded.tensors())
            assert loaded.open("config.json").read().decode() == changed
            assert loaded.open("extra.txt").read() == b"e"


def test_what_is_told_of_it(stack, admin, name, model) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    told = admin.entries(reference=name).entries[-1].details
    assert told["unchanged"] == 0
    again = admin.push(model, name)
    assert again.unchanged_size == sum(path.stat().st_size for path in model.iterdir())
    told = admin.entries(reference=name).entries[-1].details
    assert (told["files"], told["unchanged"]) == (2, 2)

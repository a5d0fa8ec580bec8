"""Contract: models and tags."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from modelvault.errors import Conflict, InvalidRequest, NotFound
from support.ledger_scene import BOB, Scene, entry, envelope, refused


class TestModels:
    def test_a_model_reads_back_as_written(self, scene: Scene) -> None:
        row = scene.create("other", kek_floor=3, owner="local:ü")
        assert scene.ledger.model("default", "other") == row

    def test_a_name_is_given_once(self, scene: Scene) -> None:
        with refused(scene.ledger, Conflict, "model_exists"):
            scene.create("m", owner=BOB)
        assert scene.ledger.model("default", "m").owner != BOB

    def test_a_hidden_model_keeps_its_name(self, scene: Scene) -> None:
        scene.ledger.hide("default", "m", None, scene.now, entry())
        with refused(scene.ledger, Conflict, "model_exists"):
            scene.create("m")

    def test_the_same_name_in_another_tenant_is_another_model(self, scene: Scene) -> None:
        row = scene.create("m", tenant="other")
        assert scene.ledger.model("other", "m") == row
        assert scene.ledger.models("other") == [row]

    @pytest.mark.parametrize("name", [("default", "x"), ("x", "m"), ("", ""), ("default", "M")])
    def test_missing(self, scene: Scene, name: tuple[str, str]) -> None:
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.model(*name)

    def test_listing_is_by_name_in_pages_without_hidden_ones(self, scene: Scene) -> None:
        for name in ("b", "a", "Z", "c", "a.1", "a-1"):
            scene.create(name)
        scene.ledger.hide("default", "b", None, scene.now, entry())
        found = [row.model for row in scene.ledger.models("default")]
        assert found == ["Z", "a", "a-1", "a.1", "c", "m"]
        page = scene.ledger.models("default", after="a", limit=2)
        assert [row.model for row in page] == ["a-1", "a.1"]
        assert not scene.ledger.models("default", after="m")

    @pytest.mark.parametrize("limit", [0, -1, 10_001])
    def test_a_page_has_a_sane_size(self, scene: Scene, limit: int) -> None:
        with refused(scene.ledger, InvalidRequest, "bad_limit"):
            scene.ledger.models("default", limit=limit)


class TestRecords:
    def test_update_changes_the_record_and_nothing_else(self, scene: Scene) -> None:
        scene.push()
        before = scene.ledger.model("default", "m")
        asked = scene.model_row(
            owner=BOB, classification="secret", serial=2, record=envelope(b"2"), kek_floor=9,
            created_at=1, head_version=7,
        )  # fmt: skip
        scene.ledger.update_record(asked, 1, entry())
        assert scene.ledger.model("default", "m") == replace(
            before, owner=BOB, classification="secret", serial=2, record=envelope(b"2")
        )

    @pytest.mark.parametrize(("serial", "expected"), [(3, 2), (1, 0), (3, 1), (1, 1), (2, 0)])
    def test_only_the_next_serial_is_taken(self, scene: Scene, serial: int, expected: int) -> None:
        with refused(scene.ledger, Conflict, "serial_moved"):
            scene.ledger.update_record(scene.model_row(serial=serial), expected, entry())

    def test_not_of_a_hidden_or_missing_model(self, scene: Scene) -> None:
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.update_record(scene.model_row("x", serial=2), 1, entry())
        scene.ledger.hide("default", "m", None, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_model"):
            scene.ledger.update_record(scene.model_row(serial=2), 1, entry())


class TestTags:
    def test_a_tag_moves_there_and_back(self, scene: Scene) -> None:
        first, second = scene.push(), scene.push()
        for serial, version in enumerate((first, second, first), start=1):
            row = scene.tag(version, serial=serial)
            assert scene.ledger.tag("default", "m", "prod") == row

    def test_listing_is_by_name(self, scene: Scene) -> None:
        version = scene.push()
        rows = [scene.tag(version, name) for name in ("b", "A", "c")]
        assert scene.ledger.tags("default", "m") == [rows[1], rows[0], rows[2]]
        assert not scene.ledger.tags("default", "x")

    def test_missing(self, scene: Scene) -> None:
        with refused(scene.ledger, NotFound, "no_tag"):
            scene.ledger.tag("default", "m", "prod")

    @pytest.mark.parametrize(("serial", "expected"), [(1, 0), (3, 2), (3, 1), (1, 1)])
    def test_only_the_next_serial_is_taken(self, scene: Scene, serial: int, expected: int) -> None:
        version = scene.push()
        stands = scene.tag(version)
        with refused(scene.ledger, Conflict, "serial_moved"):
            scene.ledger.put_tag(scene.tag_row(version, serial=serial), expected, entry())
        assert scene.ledger.tag("default", "m", "prod") == stands

    def test_a_new_tag_starts_at_one(self, scene: Scene) -> None:
        version = scene.push()
        with refused(scene.ledger, Conflict, "serial_moved"):
            scene.ledger.put_tag(scene.tag_row(version, serial=2), 0, entry())

    def test_not_of_a_hidden_or_missing_version(self, scene: Scene) -> None:
        version = scene.push()
        with refused(scene.ledger, NotFound, "no_version"):
            scene.tag(replace(version, version=2))
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        with refused(scene.ledger, NotFound, "no_version"):
            scene.tag(version)

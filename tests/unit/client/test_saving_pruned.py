"""Which older checkpoints are of one series, and may go."""

from __future__ import annotations

import pytest

from modelvault.client.saving_pruned import check_keep, series
from modelvault.errors import InvalidRequest
from modelvault.lease import ModelDetail, ModelSummary, TagSummary, VersionSummary
from modelvault.reference import Reference

WHEN = "2026-01-01T00:00:00.000Z"
DIGEST = "sha256:" + "0" * 64


def detail(versions: dict[int, tuple[str, tuple[str, ...]]]) -> ModelDetail:
    """{number: (who made it, its tags)}."""
    tags = tuple(
        TagSummary(tag=tag, version=number, serial=1)
        for number, (_, names) in versions.items()
        for tag in names
    )
    summary = ModelSummary(
        tenant="default", model="run", owner="o", classification="internal", created_at=WHEN,
        versions=len(versions), latest=max(versions), size=1, tags=tags,
    )  # fmt: skip
    listed = tuple(
        VersionSummary(
            version=number, manifest=DIGEST, created_at=WHEN, created_by=maker, size=1, files=1,
            kek_version=1, hidden_at=None,
        )
        for number, (maker, _) in versions.items()
    )  # fmt: skip
    return ModelDetail(summary=summary, versions=listed, signed=None)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, (9,)),
        ({1: ("me", ("step-100",)), 2: ("me", ("step-200",))}, (9, 2, 1)),
        ({2: ("me", ("step-200",)), 1: ("me", ("step-300",))}, (9, 2, 1)),  # by version, not step
        ({1: ("me", ("step-100", "best"))}, (9,)),
        ({1: ("me", ("step-100", "step-101"))}, (9, 1)),
        ({1: ("me", ("prod",))}, (9,)),
        ({1: ("me", ())}, (9,)),
        ({1: ("you", ("step-100",))}, (9,)),
        ({1: ("me", ("other-step-100",))}, (9,)),
        ({1: ("me", ("step-100-final",))}, (9,)),
        ({1: ("me", ("step-",))}, (9,)),
        ({12: ("me", ("step-800",))}, (9,)),  # newer than this one: somebody else's business
    ],
)
def test_a_series(
    others: dict[int, tuple[str, tuple[str, ...]]], expected: tuple[int, ...]
) -> None:
    shown = detail({**others, 9: ("me", ("step-900",))})
    assert series(shown, "step-900", 9) == expected


def test_another_save_to_the_same_tag_at_once() -> None:
    shown = detail({1: ("me", ("step-800",)), 8: ("me", ("step-900",)), 9: ("me", ())})
    assert series(shown, "step-900", 9) == (9,)


def test_the_number_is_all_that_may_differ() -> None:
    tags = {1: "run2-step-5", 2: "run1-step-5", 3: "run2-step-6"}
    shown = detail({number: ("me", (tag,)) for number, tag in tags.items()})
    assert series(shown, "run2-step-6", 3) == (3, 1)


@pytest.mark.parametrize(
    ("reference", "keep"),
    [("run", 3), ("run:best", 3), ("run:step-1", 0), ("run:step-1", -1), ("run:step-1", True),
     ("run:step-1", "3"), ("run:step-1x", 1)],
)  # fmt: skip
def test_what_says_nothing_of_a_series(reference: str, keep: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_keep(Reference.parse(reference), keep)
    assert refused.value.code == "bad_keep"


def test_what_says_enough() -> None:
    check_keep(Reference.parse("run"), None)
    check_keep(Reference.parse("run:step-1"), 1)
    check_keep(Reference.parse("run:20260101"), 1)

"""Times as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import clock
from modelvault.errors import InvalidRequest

LAST = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
        (951_782_400_001, "2000-02-29T00:00:00.001Z"),
        (LAST, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_text(ms: int, text: str) -> None:
    assert clock.to_text(ms) == text
    assert clock.from_text(text) == ms


@given(st.integers(0, LAST))
def test_round_trip(ms: int) -> None:
    assert clock.from_text(clock.to_text(ms)) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.678",
        "2026-01-02T03:04:05.678+00:00",
        "2026-01-02 03:04:05.678Z",
        "2026-01-02T03:04:05.678Z\n",
        "2026-01-02T03:04:05.6789Z",
        "2026-02-30T03:04:05.678Z",
        "2026-13-01T03:04:05.678Z",
        "2026-01-02T24:04:05.678Z",
        "2026-01-02T03:04:60.678Z",
        "0000-01-02T03:04:05.678Z",
        "\u0662\u0660\u0662\u0666-01-02T03:04:05.678Z",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        clock.from_text(text)
    assert error.value.code == "bad_time"


def test_clocks_count_milliseconds_and_the_boot_clock_never_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert clock.utc_ms() > 1_700_000_000_000
    first = clock.boot_ms()
    assert clock.boot_ms() >= first
    monkeypatch.delattr("time.CLOCK_BOOTTIME", raising=False)
    second = clock.boot_ms()
    assert clock.boot_ms() >= second > 0

from __future__ import annotations

import msgspec
import pytest

from modelvault.access import Obligations


class Before(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The obligations that clients knew before `isolated_memory` and `terminate_on_revoke`."""

    max_ttl_s: int | None = None
    max_total_s: int | None = None
    grace_s: int | None = None
    files: tuple[str, ...] | None = None
    memory_only: bool = False
    allow_pickle: bool = False
    max_bytes_per_day: int | None = None
    max_concurrent_leases: int | None = None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_ttl_s": 60, "grace_s": 0, "files": (), "memory_only": True},
        {"files": ("*.json",), "allow_pickle": True, "max_bytes_per_day": 0},
    ],
)
def test_a_client_from_before_reads_what_it_can_be_given(given: dict[str, object]) -> None:
    told = msgspec.json.encode(msgspec.convert(given, Obligations))
    read = msgspec.json.decode(told, type=Before)
    assert read == msgspec.convert(given, Before)
    # And what such a broker tells is read here.
    assert msgspec.json.decode(msgspec.json.encode(read), type=Obligations) == msgspec.convert(
        given, Obligations
    )


@pytest.mark.parametrize("given", [{"isolated_memory": True}, {"terminate_on_revoke": 0}])
def test_what_it_could_not_keep_is_nothing_that_it_reads(given: dict[str, object]) -> None:
    told = msgspec.json.encode(msgspec.convert(given, Obligations))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(told, type=Before)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.client import lease_state
from modelvault.client.lease_state import End, LeaseState, Renew, Wait, begin

T0 = 5_000_000


def fresh(ttl_s: int = 60, grace_s: int = 30) -> LeaseState:
    return begin(T0, ttl_s, grace_s, 0)


@pytest.mark.parametrize(
    ("after_ms", "step"),
    [
        (0, Wait(40_000)),
        (39_999, Wait(1)),
        (40_000, Renew()),
        (60_000, Renew()),
        (89_999, Renew()),
        (90_000, End("lease_expired")),
        (10_000_000, End("lease_expired")),
    ],
)
def test_steps_of_a_lease_that_nobody_renews(after_ms: int, step: object) -> None:
    assert lease_state.next_step(fresh(), T0 + after_ms) == step


def test_jitter_asks_earlier_never_later() -> None:
    assert begin(T0, 60, 0, 6_000).renew_at == T0 + 34_000
    assert begin(T0, 1, 0, 5_000).renew_at == T0  # and never before the ask itself


def test_an_outage_keeps_the_grace() -> None:
    state = lease_state.failed(fresh(), T0 + 41_000, "unreachable")
    assert lease_state.next_step(state, T0 + 41_000) == Wait(10_000)
    assert lease_state.alive(state, T0 + 89_999)
    assert not lease_state.alive(state, T0 + 90_000)


def test_a_broker_that_answers_without_extending_leaves_the_ttl_and_no_grace() -> None:
    state = lease_state.failed(fresh(), T0 + 41_000, "refused")
    state = lease_state.failed(state, T0 + 51_000, "unreachable")
    assert lease_state.alive(state, T0 + 59_999)
    assert lease_state.next_step(state, T0 + 60_000) == End("lease_expired")


def test_a_renewal_after_refusals_brings_the_grace_back() -> None:
    state = lease_state.failed(fresh(), T0 + 41_000, "refused")
    state = lease_state.renewed(state, T0 + 50_000, 60, 30, 0)
    assert state == begin(T0 + 50_000, 60, 30, 0)


def test_the_end_is_final_and_its_first_reason_stands() -> None:
    state = lease_state.ended(fresh(), "revoked")
    state = lease_state.ended(state, "closed")
    state = lease_state.renewed(state, T0 + 50_000, 60, 30, 0)
    assert lease_state.next_step(state, T0 + 1) == End("revoked")
    assert not lease_state.alive(state, T0 + 1)


def test_pauses_between_tries_are_bounded() -> None:
    short = lease_state.failed(begin(T0, 1, 0, 0), T0, "unreachable")
    long = lease_state.failed(begin(T0, 86_400, 0, 0), T0, "unreachable")
    assert (short.renew_at - T0, long.renew_at - T0) == (200, 30_000)


events = st.lists(
    st.tuples(
        st.sampled_from(["renewed", "unreachable", "refused", "ended"]),
        st.integers(0, 50_000),
        st.integers(1, 100),
        st.integers(0, 100),
    ),
    max_size=20,
)


@settings(max_examples=200)
@given(events)
def test_never_alive_beyond_the_last_grant_and_its_grace(
    history: list[tuple[str, int, int, int]],
) -> None:
    """Against a model that knows only grants: (asked_at + ttl + grace) of the newest one."""
    now, state = T0, begin(T0, 60, 30, 0)
    latest, over = T0 + 90_000, False
    for what, pause, ttl_s, grace_s in history:
        now += pause
        if what == "renewed" and not over:
            latest = now + (ttl_s + grace_s) * 1000
        over = over or what == "ended"
        state = {
            "renewed": lambda s, n=now, t=ttl_s, g=grace_s: lease_state.renewed(s, n, t, g, 0),
            "unreachable": lambda s, n=now: lease_state.failed(s, n, "unreachable"),
            "refused": lambda s, n=now: lease_state.failed(s, n, "refused"),
            "ended": lambda s: lease_state.ended(s, "revoked"),
        }[what](state)
        assert not (over and lease_state.alive(state, now))
        assert not lease_state.alive(state, latest)
        assert state.expires_at <= latest
        assert state.dead_at >= state.expires_at
        step = lease_state.next_step(state, now)
        assert isinstance(step, End) is not lease_state.alive(state, now)
        if isinstance(step, Wait):
            assert 0 < step.ms <= state.dead_at - now

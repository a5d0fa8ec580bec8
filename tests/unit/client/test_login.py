from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from modelvault.client.login import MARGIN_MS, LoginToken, log_out
from modelvault.errors import AuthenticationError, ModelVaultError, Unavailable
from modelvault.ports.login import Granted

HOUR = 3_600_000


class World:
    """A shelf, a provider and a clock. Refresh tokens are good for one use."""

    def __init__(self) -> None:
        self.now = HOUR
        self.kept: Granted | None = Granted(
            token="t0", refresh_token="r0", expires_at=self.now + HOUR
        )
        self.refreshes = 0
        self.refused: ModelVaultError | None = None
        self.revoked: list[Granted] = []
        self.lock = threading.Lock()

    # the shelf

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.lock:
            yield

    def get(self) -> Granted | None:
        return self.kept

    def put(self, granted: Granted) -> None:
        assert self.lock.locked()
        self.kept = granted

    def remove(self) -> None:
        assert self.lock.locked()
        self.kept = None

    # the provider

    def refresh(self, granted: Granted) -> Granted:
        if self.refused is not None:
            raise self.refused
        assert granted.refresh_token == f"r{self.refreshes}"
        self.refreshes += 1
        n = self.refreshes
        return Granted(token=f"t{n}", refresh_token=f"r{n}", expires_at=self.now + HOUR)

    def revoke(self, granted: Granted) -> bool:
        if self.refused is not None:
            raise self.refused
        self.revoked.append(granted)
        return True

    def source(self) -> LoginToken:
        return LoginToken(self, self, lambda: self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_renewed_shortly_before_it_ends(world: World) -> None:
    source = world.source()
    assert source("hash") == "t0"
    world.now += HOUR - MARGIN_MS - 1
    assert source(None) == "t0"
    world.now += 1
    assert source(None) == source(None) == "t1"
    assert world.kept is not None
    assert world.kept.refresh_token == "r1"
    assert "t1" not in repr(source)


def test_another_process_was_faster(world: World) -> None:
    source = world.source()
    source(None)
    world.now += HOUR
    world.kept = Granted(token="theirs", refresh_token="r9", expires_at=world.now + HOUR)
    assert source(None) == "theirs"
    assert world.refreshes == 0


def test_another_process_is_just_about_it(world: World) -> None:
    world.now += HOUR
    tokens: list[str] = []
    threads = [
        threading.Thread(target=lambda: tokens.append(world.source()(None))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert tokens == ["t1"] * 8
    assert world.refreshes == 1


def test_a_provider_that_is_away(world: World) -> None:
    source = world.source()
    world.refused = Unavailable("login_unavailable", "away", "wait")
    world.now += HOUR - 1
    assert source(None) == "t0"  # it isn't over yet
    world.now += 1
    with pytest.raises(Unavailable):
        source(None)
    world.refused = None
    assert source(None) == "t1"


@pytest.mark.parametrize("case", ["nobody", "no refresh token", "refused"])
def test_when_a_person_is_needed(world: World, case: str) -> None:
    world.now += HOUR
    assert world.kept is not None
    if case == "nobody":
        world.kept = None
    elif case == "no refresh token":
        world.kept = msgspec.structs.replace(world.kept, refresh_token=None)
    else:
        world.refused = AuthenticationError("login_ended", "over", "run `modelvault login`")
    with pytest.raises(AuthenticationError) as caught:
        world.source()(None)
    assert caught.value.code == ("not_logged_in" if case == "nobody" else "login_ended")
    assert "modelvault login" in caught.value.hint


def test_log_out(world: World) -> None:
    kept = world.kept
    assert log_out(world, world) is True
    assert (world.kept, world.revoked) == (None, [kept])
    assert log_out(world, world) is None


def test_log_out_while_the_provider_is_away(world: World) -> None:
    world.refused = Unavailable("login_unavailable", "away", "wait")
    assert log_out(world, world) is False
    assert world.kept is None

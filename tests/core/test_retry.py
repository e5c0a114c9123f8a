"""A call is retried until its deadline, and only where a retry may help."""

import time
from collections.abc import Callable

import pytest

from tests.support.clock import is_within
from worker.core import retry
from worker.core.errors import BackendError


def failing(times: int, kind: str = "unreachable") -> Callable[[], int]:
    calls = [0]

    def call() -> int:
        calls[0] += 1
        if calls[0] <= times:
            raise BackendError("service", kind)
        return calls[0]

    return call


def test_what_passes_is_tried_again() -> None:
    assert retry.until(time.monotonic() + 5, failing(2)) == 3


def test_a_refusal_is_final() -> None:
    with pytest.raises(BackendError, match="refused"):
        retry.until(time.monotonic() + 5, failing(1, "refused"))


def test_it_ends_with_the_deadline_not_after_it() -> None:
    def give_up() -> None:
        with pytest.raises(BackendError, match="unreachable"):
            retry.until(time.monotonic() + 0.5, failing(100), longest_pause=2.0)

    assert is_within(0.6, give_up)


def test_a_call_always_gets_some_time_and_never_more_than_it_may_take() -> None:
    now = time.monotonic()
    assert retry.seconds_left(now - 10, 2.0) == retry.SHORTEST_CALL_SECONDS
    assert retry.seconds_left(now + 10, 2.0) == 2.0


def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    retry.until(time.monotonic() + 60, failing(4), longest_pause=0.5)
    assert pauses == [0.2, 0.4, 0.5, 0.5]

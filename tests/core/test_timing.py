"""The budgets of the lease protocol satisfy the inequalities between them."""

import pytest

from worker.core import timing


@pytest.mark.parametrize("promise", timing.INVARIANTS)
def test_every_inequality_holds(promise: str) -> None:
    assert timing.INVARIANTS[promise]


def test_the_times_that_apps_see_are_the_contracts() -> None:
    assert 10 <= timing.HEARTBEAT_SECONDS <= 15
    assert timing.LEASE_SECONDS == 90
    assert timing.WATCH_SECONDS <= 5
    assert timing.PROGRESS_SECONDS >= 1

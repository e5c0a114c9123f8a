"""The keeper: it renews a document's lease while its job lives, and passes what it reads there to the job."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS, Busy
from tests.support.fakes import MemoryDocumentStore, fails_times, is_down
from worker.core import timing
from worker.core.errors import Cancelled, Internal
from worker.core.stop import StopSignal
from worker.core.types import Owner, Progress
from worker.document.lease import Lease, LeaseKeeper
from worker.document.schema import ClaimRequest
from worker.document.session import DocumentSession

PATH = "generations/user/files/file"
TICK = 0.05


class Kept:
    """A claimed document in memory, its keeper and the job's stop signal."""

    def __init__(self, *, claimed: bool = True) -> None:
        self.documents = MemoryDocumentStore()
        self.asked: list[str] = []
        self.documents.before = lambda call, _path: self.asked.append(call)
        self.document = DocumentSession(
            self.documents, Owner("user", "file"), ClaimRequest("job-1", "w", "hash", "n1"), {}
        )
        if claimed:
            self.document.claim(time.monotonic() + 5)
        self.stop = StopSignal()
        self.keeper = LeaseKeeper(self.document, self.stop)

    @property
    def fields(self) -> dict[str, Any]:
        return self.documents.stored[PATH][0]

    @property
    def writes(self) -> int:
        return len(self.documents.history[PATH]) - 1


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PROGRESS_SECONDS", TICK)
    monkeypatch.setattr(timing, "WATCH_SECONDS", 2 * TICK)
    monkeypatch.setattr(timing, "HEARTBEAT_SECONDS", 4 * TICK)


def step(number: int) -> Progress:
    return Progress("generating", number, 100)


async def reached(found: Callable[[], object]) -> None:
    """Wait until `found` returns something true."""
    async with asyncio.timeout(SOON_SECONDS):
        while not found():
            await asyncio.sleep(TICK / 10)


def taken_over(kept: Kept, job: str = "job-1") -> None:
    bid = ClaimRequest(job, "w2", "hash", "n2")
    DocumentSession(kept.documents, Owner("user", "file"), bid, {}).claim(time.monotonic() + 5)


async def test_a_heartbeat_is_written_again_and_again() -> None:
    kept, began = Kept(), time.monotonic()
    first = kept.fields["expires_at"]
    await reached(lambda: kept.writes >= 2)
    await kept.keeper.close()
    assert time.monotonic() - began >= 2 * timing.HEARTBEAT_SECONDS
    assert kept.fields["expires_at"] > first
    assert kept.fields["progress"]["stage"] == "queued"


async def test_progress_is_written_at_most_once_an_interval_and_the_newest_counts() -> None:
    kept = Kept()
    began = time.monotonic()
    for number in range(1, 41):
        kept.keeper.note(step(number))
        await asyncio.sleep(TICK / 10)
    await reached(lambda: kept.fields["progress"]["step"] == 40)
    await kept.keeper.close()
    intervals = (time.monotonic() - began) / TICK
    steps = [state["progress"]["step"] for state in kept.documents.history[PATH]]
    assert kept.writes <= intervals + 1
    assert steps == sorted(steps)


async def test_nothing_is_written_after_close() -> None:
    kept = Kept()
    kept.keeper.note(step(1))
    await kept.keeper.close()
    writes = kept.writes
    kept.keeper.note(step(2))
    await asyncio.sleep(6 * TICK)
    assert kept.writes == writes


async def test_close_waits_for_a_write_under_way() -> None:
    kept = Kept()
    writing: list[bool] = []

    def slow(call: str, _path: str) -> None:
        if call == "update":
            writing.append(True)
            time.sleep(0.2)
            writing.pop()

    kept.documents.before = slow
    kept.keeper.note(step(1))
    await reached(lambda: writing)
    await kept.keeper.close()
    assert not writing
    assert kept.fields["progress"]["step"] == 1


@pytest.mark.parametrize("who", ["the keeper", "whoever confirms"])
async def test_an_end_waits_for_no_look_and_what_that_finds_changes_nothing(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(timing, "BEAT_PATIENCE_SECONDS", 60.0)
    kept = Kept()
    looking, answered = threading.Event(), threading.Event()

    def held(call: str, _path: str) -> None:
        if call == "read":
            looking.set()
            assert answered.wait(10)

    kept.documents.before = held
    confirming = asyncio.create_task(kept.keeper.confirm()) if who != "the keeper" else None
    assert await asyncio.to_thread(looking.wait, 10)
    await kept.keeper.close()
    await asyncio.to_thread(kept.document.complete, {"images": ["a"]}, time.monotonic() + 5)
    assert not answered.is_set()
    done = dict(kept.fields)
    answered.set()
    if confirming is not None:
        await confirming
    await asyncio.wait({kept.keeper._task})
    assert (kept.fields, done["status"], kept.stop.reason) == (done, "completed", None)


async def test_nothing_is_asked_for_after_close() -> None:
    kept = Kept()
    await kept.keeper.close()
    await asyncio.wait({kept.keeper._task})
    kept.asked.clear()
    await kept.keeper.confirm()
    assert kept.asked == []


@pytest.mark.parametrize("busy", [True, False])
async def test_a_cancel_wish_stops_the_job_whether_or_not_there_is_progress(busy: bool) -> None:
    kept = Kept()
    kept.documents.write_as_app(PATH, {"cancel_requested": True})
    if busy:
        kept.keeper.note(step(1))
    assert isinstance(await asyncio.wait_for(kept.stop.wait(), SOON_SECONDS), Cancelled)
    await kept.keeper.close()


async def test_anything_but_true_is_no_cancel_wish() -> None:
    kept = Kept()
    for value in (False, "true", 1, None):
        kept.documents.write_as_app(PATH, {"cancel_requested": value})
        await asyncio.sleep(3 * TICK)
    assert kept.stop.reason is None
    await kept.keeper.close()


async def test_a_deleted_document_ends_the_job() -> None:
    kept = Kept()
    kept.documents.write_as_app(PATH, None)
    assert (await asyncio.wait_for(kept.stop.wait(), SOON_SECONDS)).code == "deleted"
    await kept.keeper.close()
    assert PATH not in kept.documents.stored


async def test_a_takeover_ends_the_job() -> None:
    kept = Kept()
    taken_over(kept)
    assert (await asyncio.wait_for(kept.stop.wait(), SOON_SECONDS)).code == "superseded"
    await kept.keeper.close()
    assert kept.fields["worker_id"] == "w2"


async def test_news_that_are_fresh_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FRESH_SECONDS", 60.0)
    kept = Kept()
    kept.asked.clear()
    await kept.keeper.confirm()
    assert kept.asked == []
    await kept.keeper.close()


@pytest.mark.parametrize("what", ["superseded", "deleted", "cancelled"])
async def test_old_news_are_asked_for_and_what_ends_the_job_is_told_at_once(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(timing, "WATCH_SECONDS", 60.0)
    kept = Kept()
    if what == "superseded":
        taken_over(kept)
    else:
        kept.documents.write_as_app(PATH, None if what == "deleted" else {"cancel_requested": True})
    await kept.keeper.confirm()
    assert kept.stop.reason is not None
    assert kept.stop.reason.code == what
    await kept.keeper.close()


async def test_a_firestore_that_is_away_stops_nobody_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FRESH_SECONDS", 0.0)
    kept = Kept()
    kept.documents.before = is_down("firestore")
    await kept.keeper.confirm()
    assert kept.stop.reason is None
    await kept.keeper.close()
    kept.asked.clear()
    await kept.keeper.confirm()
    assert kept.asked == [], "who has closed asks nothing any more"


async def test_a_document_that_could_not_be_claimed_is_claimed_when_firestore_is_back() -> None:
    kept = Kept(claimed=False)
    kept.documents.before = fails_times(1, is_down("firestore"))
    kept.keeper.note(step(7))
    await reached(lambda: kept.document.claimed and kept.fields["progress"]["step"] == 7)
    assert (kept.fields["status"], kept.fields["job_id"]) == ("processing", "job-1")
    assert kept.fields["progress"]["step"] == 7
    assert kept.stop.reason is None
    await kept.keeper.close()


@pytest.mark.parametrize("ended", [True, False])
async def test_a_late_claim_that_another_job_was_faster_with_ends_this_one(ended: bool) -> None:
    kept = Kept(claimed=False)
    if ended:
        data = {"storage": "firebase", "images": ["https://u"]}
        done = {"status": "completed", "claim": {"request_hash": "hash"}, "generation_data": data}
        kept.documents.write_as_app(PATH, done)
    else:
        taken_over(kept, "job-2")
    before = dict(kept.documents.stored)
    reason = await asyncio.wait_for(kept.stop.wait(), SOON_SECONDS)
    assert reason.code == ("superseded" if ended else "duplicate_in_progress")
    await kept.keeper.close()
    assert kept.documents.stored == before


async def test_an_outage_is_survived_and_no_progress_is_lost_for_good() -> None:
    kept = Kept()
    kept.documents.before = fails_times(3, is_down("firestore"))
    kept.keeper.note(step(5))
    await reached(lambda: kept.fields["progress"]["step"] == 5)
    assert kept.stop.reason is None
    await kept.keeper.close()


async def test_after_a_write_whose_answer_was_lost_the_next_one_is_written() -> None:
    kept = Kept()
    kept.documents.after = fails_times(1, is_down("firestore"))
    kept.keeper.note(step(1))
    await reached(lambda: kept.fields["progress"]["step"] == 1)
    kept.keeper.note(step(2))
    await reached(lambda: kept.fields["progress"]["step"] == 2)
    await kept.keeper.close()
    assert (kept.fields["progress"]["step"], kept.stop.reason) == (2, None)


async def test_a_mistake_of_ours_does_not_end_the_job() -> None:
    """Keeping the document up to date is worth less than the generation."""
    kept = Kept()

    def broken(call: str, _path: str) -> None:
        raise RuntimeError(call)

    kept.documents.before = broken
    kept.keeper.note(step(1))
    await asyncio.sleep(3 * TICK)
    await kept.keeper.close()
    assert kept.stop.reason is None


async def test_a_cancelled_job_keeps_its_lease_until_it_has_stopped() -> None:
    """A stop does not shorten a long step: until it ends, nobody may declare the job dead."""
    kept = Kept()
    kept.documents.write_as_app(PATH, {"cancel_requested": True})
    assert isinstance(await asyncio.wait_for(kept.stop.wait(), SOON_SECONDS), Cancelled)
    before = kept.fields["expires_at"]
    await reached(lambda: kept.fields["expires_at"] > before)
    await kept.keeper.close()


async def test_a_heartbeat_leaves_a_preview_as_it_stands_and_writes_none_again() -> None:
    kept, written = Kept(), []
    update = kept.documents.update

    def watched(path: str, fields: Any, **options: Any) -> Any:
        written.append(dict(fields))
        return update(path, fields, **options)

    kept.documents.update = watched  # type: ignore[method-assign]
    kept.keeper.note(Progress("generating", 1, 100, preview="data:image/webp;base64,AAAA"))
    await reached(lambda: any("heartbeat_at" in fields for fields in written))
    await kept.keeper.close()
    assert [fields["progress"]["preview"] for fields in written if "progress" in fields] == [
        "data:image/webp;base64,AAAA"
    ]
    assert kept.fields["progress"]["preview"] == "data:image/webp;base64,AAAA"


async def test_what_waits_for_a_thread_has_all_its_time_when_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding may occupy every thread; a result whose document is given up because of that looks lost."""
    busy = Busy()
    asyncio.get_running_loop().set_default_executor(busy)
    left: dict[str, float] = {}

    def watch(name: str) -> None:
        original = getattr(DocumentSession, name)

        def watched(session: DocumentSession, *args: Any, **how: Any) -> Any:
            (deadline,) = (arg for arg in args if isinstance(arg, float))
            left[name] = deadline - busy.begun
            return original(session, *args, **how)

        monkeypatch.setattr(DocumentSession, name, watched)

    for name in ("claim", "complete", "fail", "refuse"):
        watch(name)
    documents = MemoryDocumentStore()
    for file_uid in ("completed", "failed", "refused"):
        lease = Lease(documents, Owner("user", file_uid), job_id="job-1", worker_id="w")
        if file_uid != "refused":
            await lease.claim({}, "hash", StopSignal(), pytest.fail)
        if file_uid == "completed":
            assert await lease.complete({"storage": "firebase"})
        else:
            await lease.fail(Internal(), {})
        assert documents.stored[f"generations/user/files/{file_uid}"][0]["status"] in {"completed", "failed"}
    assert left.pop("claim") >= timing.CLAIM_SECONDS
    assert set(left) == {"complete", "fail", "refuse"}
    assert min(left.values()) >= timing.TERMINAL_SECONDS

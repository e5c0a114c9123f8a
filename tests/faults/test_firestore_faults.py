"""Cases 30-35: Firestore responds late or not at all, or its document has changed."""

import asyncio
import base64
import time
from typing import Any

import pytest

from tests.faults.conftest import MakeWorld
from tests.support.clock import FIREBASE_DOWN_SECONDS, until, while_the_loop_turns
from tests.support.faulty_firebase import Fault
from tests.support.faulty_world import World, cloud, path_of
from tests.support.firestore_limits import MAX_DOCUMENT_BYTES, document_bytes
from tests.support.memory_world import data_uri
from tests.support.painting_worker import Script
from worker.core import timing
from worker.document.lease import UNREACHED
from worker.document.schema import LEFT_OUT
from worker.job.runner import UNSYNCED


def _take_down(world: World, how: str) -> None:
    match how:
        case "refuses":
            world.firebase.firestore_proxy.refuse()
        case "hangs":
            world.firebase.firestore_proxy.black_hole()
        case _:
            for method in ("Commit", "BatchGetDocuments"):
                world.firebase.fail_firestore(method, how, times=None)


def _heal(world: World) -> None:
    world.firebase.firestore_proxy.pass_through()
    world.firebase.clear_firestore_faults()


@pytest.mark.parametrize("how", ["refuses", "hangs", "UNAVAILABLE", "PERMISSION_DENIED"])
async def test_case_30_and_32_firestore_is_down_from_the_claim_on(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "hangs":  # one of them waits for the real timeout
        monkeypatch.setattr(timing, "CLAIM_SECONDS", 1.0)
        monkeypatch.setattr(timing, "TERMINAL_SECONDS", 1.0)
    _take_down(world, how)
    started = time.monotonic()
    response, stood_still = await while_the_loop_turns(world.serve(cloud("c30")))
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    assert stood_still < 0.5, "the event loop was blocked"
    _heal(world)
    assert response["storage"] == "firebase", response
    assert {UNREACHED, UNSYNCED} <= set(response["warnings"])
    assert world.document("c30") is None
    assert len(world.results("c30")) == 1
    await world.lives()
    again = await world.serve(cloud("c30"), "job-2")
    world.check_completed("c30", again)
    assert again["images"] == response["images"]
    assert world.ledger.painted("c30") == 1


async def test_case_30_firestore_is_back_before_the_end(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CLAIM_SECONDS", 1.0)
    world = make_world(Script(step_seconds=0.1))
    _take_down(world, "UNAVAILABLE")
    job = asyncio.create_task(world.serve(cloud("c30b", num_inference_steps=25)))
    await asyncio.sleep(1.7)
    _heal(world)
    response = await job
    world.check_completed("c30b", response)
    assert UNSYNCED not in response["warnings"]


async def test_case_30_firestore_is_back_and_holds_the_result_of_another_request(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the end shows that the file_uid was taken; its document stays, and an operator can see why."""
    monkeypatch.setattr(timing, "CLAIM_SECONDS", 0.5)
    world = make_world(Script(step_seconds=0.1))
    first = await world.serve(cloud("c30d"))
    _take_down(world, "UNAVAILABLE")
    late = asyncio.create_task(world.serve(cloud("c30d", "another fox", num_inference_steps=15), "job-2"))
    await asyncio.to_thread(until, lambda: _unclaimed(caplog))
    _heal(world)
    response = await late
    assert response["error_code"] == "idempotency_mismatch"
    assert _unclaimed(caplog) == ["job-2"]
    world.check_completed("c30d", first)
    await world.lives()


def _unclaimed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages of jobs that go on without their documents."""
    entries = [entry for entry in caplog.records if getattr(entry, "action", "") == "unclaimed"]
    return [getattr(entry, "job_id", "") for entry in entries]


async def test_case_30_a_job_that_firestore_did_not_know_is_claimed_when_it_is_back(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not only at its end: if its worker dies now, there is a document whose lease expires."""
    monkeypatch.setattr(timing, "CLAIM_SECONDS", 0.5)
    monkeypatch.setattr(timing, "WATCH_SECONDS", 0.3)
    world, another = make_world(Script(step_seconds=0.1)), make_world()
    _take_down(world, "UNAVAILABLE")
    job = asyncio.create_task(world.serve(cloud("c30c", num_inference_steps=60)))
    await asyncio.to_thread(until, lambda: _unclaimed(caplog))
    assert world.ledger.begun("c30c") == 1
    assert world.writes("c30c") == []
    _heal(world)
    await asyncio.to_thread(until, lambda: world.status("c30c") == "processing")
    again = await another.serve(cloud("c30c", num_inference_steps=60), "job-2")
    assert again["error_code"] == "duplicate_in_progress"
    response = await job
    document = world.check_completed("c30c", response)
    assert (document["job_id"], document["attempt"]) == ("job-1", 1)
    assert UNSYNCED not in response["warnings"]
    assert world.statuses("c30c") == ["processing", "completed"]
    assert world.ledger.painted("c30c") == 1


async def test_case_30_a_job_that_was_done_elsewhere_meanwhile_spoils_nothing(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown to Firestore, it paints the same again, is stopped, and leaves the other one's result as it is."""
    monkeypatch.setattr(timing, "CLAIM_SECONDS", 0.3)
    monkeypatch.setattr(timing, "WATCH_SECONDS", 60.0)
    unknown, another = make_world(), make_world()
    request = cloud("c30d", "hangs at the second: a fox", num_images=2)
    another.painter.released.set()
    _take_down(unknown, "UNAVAILABLE")
    job = asyncio.create_task(unknown.serve(request, "job-unknown"))
    await asyncio.to_thread(until, lambda: len(unknown.results("c30d")) == 1)
    _heal(unknown)
    response = await another.serve(request, "job-2")
    document = another.check_completed("c30d", response, count=2)
    job.cancel()
    unknown.painter.released.set()
    await asyncio.wait({job})
    another.check_completed("c30d", response, count=2)
    assert another.document("c30d") == document
    await unknown.lives()


async def test_case_30_a_refused_request_in_an_outage_is_answered_and_leaves_no_document(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(timing, "TERMINAL_SECONDS", 0.5)
    _take_down(world, "UNAVAILABLE")
    response = await world.serve(cloud("c30e", width=1023))
    _heal(world)
    assert (response["error_code"], response["retryable"]) == ("invalid_input", False)
    assert world.document("c30e") is None
    assert [entry for entry in caplog.records if getattr(entry, "action", "") == "not_written"]
    assert world.ledger.begun("c30e") == 0
    again = await world.serve(cloud("c30e", width=1023))
    world.check_failed("c30e", again, "invalid_input", retryable=False)
    await world.lives()


@pytest.mark.parametrize("how", ["refuses", "hangs", "UNAVAILABLE", "PERMISSION_DENIED"])
async def test_case_31_and_32_firestore_is_down_at_the_completion(
    make_world: MakeWorld, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, another = make_world(), make_world()
    request = cloud("c31", "hangs: until Firestore is down")
    job = asyncio.create_task(world.serve(request))
    await asyncio.to_thread(until, lambda: world.status("c31") == "processing")
    _take_down(world, how)
    for painter in (world.painter, another.painter):
        painter.released.set()
    started = time.monotonic()
    with monkeypatch.context() as patch:
        if how != "hangs":  # one of them waits for the real timeout
            patch.setattr(timing, "TERMINAL_SECONDS", 1.0)
        response, stood_still = await while_the_loop_turns(job)
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    assert stood_still < 0.5, "the event loop was blocked"
    _heal(world)
    assert response["storage"] == "firebase", response
    assert UNSYNCED in response["warnings"]
    # The proxy delivers the writes that it held once the connection is open again.
    assert world.status("c31") in ("processing", "completed") if how == "hangs" else world.status("c31") == "processing"
    again = await another.serve(request)
    another.check_completed("c31", again)
    assert again["images"] == response["images"]
    assert world.ledger.painted("c31") == 1
    await world.lives()


async def test_case_32_a_slow_firestore_is_waited_for(world: World) -> None:
    world.firebase.firestore_proxy.latency = 0.3
    response = await world.serve(cloud("c32"))
    world.firebase.firestore_proxy.latency = 0.0
    assert response["warnings"] == []
    world.check_completed("c32", response)


@pytest.mark.parametrize("when", ["painting", "ending"])
async def test_case_34_the_user_deletes_the_document_in_between(make_world: MakeWorld, when: str) -> None:
    world = make_world()
    job = asyncio.create_task(world.serve(cloud("c34", "hangs at the second: a fox", num_images=2)))
    await asyncio.to_thread(until, lambda: len(world.objects("c34")) == 2)
    if when == "ending":
        world.firebase.storage_proxy.add(Fault("delay", method="POST|PUT", path="/upload/", seconds=3.0))
        world.painter.released.set()
        await asyncio.to_thread(until, lambda: world.uploads("delay"))
    world.firebase.documents.document("generations/user-1/files/c34").delete()
    world.painter.released.set()
    response = await job
    assert (response["error_code"], response["retryable"]) == ("deleted", False)
    assert world.document("c34") is None
    assert [write.kind for write in world.writes("c34")][-1] == "delete"
    assert world.objects("c34") == {}
    await world.lives()


@pytest.mark.parametrize("seconds", [0, 4], ids=["before its end", "and the keeper sees it"])
async def test_case_35_a_status_that_somebody_else_wrote_is_not_the_truth(world: World, seconds: int) -> None:
    job = asyncio.create_task(world.serve(cloud("c35", "hangs: until it is forged")))
    await asyncio.to_thread(until, lambda: world.status("c35") == "processing")
    world.write_as_app("c35", {"status": "completed", "generation_data": {"images": ["https://evil.example/x"]}})
    await asyncio.sleep(seconds)
    world.painter.released.set()
    response = await job
    document = world.document("c35")
    assert document is not None
    assert "evil.example" not in str(document), "the forged result is still in the document"
    world.check_completed("c35", response)
    await world.lives()


@pytest.mark.parametrize("size", [35_000, 960_000])
async def test_a_picture_whose_data_uri_is_in_capitals_costs_nobody_the_document(world: World, size: int) -> None:
    """ai-dynamo/dynamo#14424, browser-use#5808, excalidraw#4839: it was copied into the document, or prevented one."""
    picture = base64.b64decode(data_uri().partition(",")[2]) + bytes(size)
    ref = "DATA:image/jpeg;base64," + base64.b64encode(picture).decode()
    uid = f"capitals-{size}"
    response = await world.serve(cloud(uid, task_type="img2img", image_url=ref))
    document = world.check_completed(uid, response)
    assert document["request_data"]["image_url"] == f"(inline image, {len(ref)} characters)"
    assert not [warning for warning in response["warnings"] if "firestore" in warning]


def filled(room: int, file_uid: str) -> dict[str, Any]:
    """Return an app's fields for a document in which so many bytes are left."""
    own = {"status": "queued", "labels": ["mine"], "notes": ""}
    return {**own, "notes": "x" * (MAX_DOCUMENT_BYTES - room - document_bytes(path_of(file_uid), own))}


@pytest.mark.parametrize("room", [10_000, 3000])
@pytest.mark.parametrize("ends", ["completed", "invalid_input", "url_blocked"])
async def test_a_document_that_its_app_has_filled_ends_all_the_same(world: World, room: int, ends: str) -> None:
    uid = f"full-{room}-{ends}"
    world.write_as_app(uid, filled(room, uid))
    more: dict[str, Any] = {"invalid_input": {"width": 1023}, "url_blocked": {"image_url": "https://127.0.0.1/a.png"}}
    task = {"task_type": "img2img"} if ends == "url_blocked" else {}
    response = await world.serve(cloud(uid, "🦊" * 3000, **task, **more.get(ends, {})))
    if ends == "completed":
        world.check_files(uid, response)
        assert response["warnings"] == [LEFT_OUT]
    else:
        assert response["error_code"] == ends
    document = world.document(uid)
    assert document is not None
    assert document["status"] == ("completed" if ends == "completed" else "failed")
    assert (document["labels"], len(document["notes"])) == (["mine"], len(filled(room, uid)["notes"]))
    await world.lives()

"""Cases 22-29: Cloud Storage responds late, wrongly or not at all, or denies access."""

import logging
import time
from typing import Any

import pytest

from tests.faults.conftest import MakeWorld
from tests.support.clock import FIREBASE_DOWN_SECONDS
from tests.support.faulty_firebase import Fault
from tests.support.faulty_world import World, cloud, fetch
from tests.support.painting_worker import Script
from tools import showing
from worker.core import timing

UPLOAD: dict[str, Any] = {"method": "POST|PUT", "path": "/upload/"}


PASSING: dict[str, Fault] = {
    "503 twice": Fault("status", **UPLOAD, times=2, status=503),
    "429": Fault("status", **UPLOAD, status=429),
    "reset soon": Fault("reset", **UPLOAD, after_bytes=300),
    "reset in the middle": Fault("reset", **UPLOAD, after_bytes=4000),
    "lost answer after commit": Fault("lose_answer", **UPLOAD),
    "503 after commit": Fault("status_after", **UPLOAD, status=503),
    "corrupted twice": Fault("corrupt", **UPLOAD, times=2),
    "an answer that is cut": Fault("cut_answer", **UPLOAD, after_bytes=20),
    "slow": Fault("delay", **UPLOAD, seconds=2.0),
}


@pytest.mark.parametrize("name", PASSING)
async def test_case_22_to_25_what_passes_ends_in_one_object_whose_url_serves_it(world: World, name: str) -> None:
    fault = PASSING[name]
    world.firebase.storage_proxy.add(fault)
    started = time.monotonic()
    response = await world.serve(cloud("c22"))
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    world.check_completed("c22", response)
    assert response["warnings"] == []
    (blob,) = world.results("c22").values()
    assert response["image_url"].endswith(f"token={blob.metadata['firebaseStorageDownloadTokens']}")
    showing.check_image(showing.content(response["image_url"]), 64, 64)
    assert world.uploads(fault.kind) == fault.times
    await world.lives()


@pytest.mark.parametrize("how", ["reset", "corrupt"])
async def test_case_23_and_25_a_resumable_upload_is_reset_or_corrupted_on_its_way(
    make_world: MakeWorld, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "UPLOAD_SECONDS", 60.0)  # twelve megabytes twice, on a machine of any speed
    world = make_world(max_image_pixels=2048 * 2048)
    world.firebase.storage_proxy.add(Fault(how, method="PUT", path="/upload/", after_bytes=5_000_000))
    big = {"width": 2048, "height": 2048, "num_inference_steps": 1}
    world.check_completed("c23b", await world.serve(cloud("c23b", **big)))
    assert world.uploads(how) == 1


async def test_case_25_every_upload_is_corrupted(world: World) -> None:
    world.firebase.storage_proxy.add(Fault("corrupt", **UPLOAD, times=None))
    started = time.monotonic()
    response = await world.serve(cloud("c25c"))
    assert 4 < time.monotonic() - started < FIREBASE_DOWN_SECONDS, "it was not tried for as long as an upload may take"
    assert world.uploads("corrupt") > 2
    world.firebase.storage_proxy.clear()
    _check_inline(world, "c25c", response)
    await world.lives()


async def test_case_25_what_the_bucket_says_of_an_upload_is_told_once_a_try_by_its_name(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.firebase.storage_proxy.add(Fault("corrupt", **UPLOAD))
    response = await world.serve(cloud("c25d"))
    assert (response["storage"], response["warnings"]) == ("firebase", [])
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "backend_error"]
    assert told == ["storage: BadRequest"]


async def test_case_28_of_two_images_of_which_one_cannot_be_stored_none_stays(world: World) -> None:
    world.firebase.storage_proxy.add(Fault("delay", **UPLOAD, seconds=0.1))
    world.firebase.storage_proxy.add(Fault("status", **UPLOAD, times=None, status=403))
    response = await world.serve(cloud("c28b", num_images=2))
    assert len(response["images"]) == 2
    world.firebase.storage_proxy.clear()
    _check_inline(world, "c28b", response)


@pytest.mark.parametrize("how", ["refused", "503", "hangs"])
async def test_case_26_storage_is_down_and_the_image_is_small(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "refused":  # one of the three waits for the real timeout
        monkeypatch.setattr(timing, "UPLOAD_SECONDS", 2.0)
    _take_down(world, how)
    started = time.monotonic()
    response = await world.serve(cloud("c26", num_images=2))
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    _heal(world)
    _check_inline(world, "c26", response)
    await world.lives()


async def test_case_27_storage_is_down_and_the_result_is_large(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "UPLOAD_SECONDS", 1.0)
    world = make_world(Script(side=512), max_result_bytes=20_000)
    _take_down(world, "503")
    response = await world.serve(cloud("c27", num_images=2))
    _heal(world)
    world.check_failed("c27", response, "storage_unavailable", retryable=True)
    await world.lives()


@pytest.mark.parametrize("method", ["", "POST"])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_case_28_the_key_or_the_bucket_is_refused(
    world: World, status: int, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.firebase.storage_proxy.add(Fault("status", method=method, path="/b/", times=None, status=status))
    with caplog.at_level(logging.INFO, "worker"):
        response = await world.serve(cloud("c28"))
    assert world.uploads() == 2, "what is refused, a file and its thumbnail, is not tried again"
    told = [record for record in caplog.records if getattr(record, "action", "") == "backend_error"]
    assert len([record for record in told if record.kind == "refused"]) <= 3  # type: ignore[attr-defined]  # ours
    assert "token" not in caplog.text
    world.firebase.storage_proxy.clear()
    _check_inline(world, "c28", response)
    await world.lives()


async def test_case_29_no_acl_is_touched_and_the_url_needs_its_token(world: World) -> None:
    response = await world.serve(cloud("c29"))
    world.check_completed("c29", response)
    assert not [request for request in world.firebase.storage_proxy.requests if "/acl" in request.path.lower()]
    url = response["images"][0]
    assert fetch(url.split("&token=")[0]) is None
    assert fetch(url[:-4] + "0000") is None


def _take_down(world: World, how: str) -> None:
    if how == "refused":
        world.firebase.storage_proxy.refuse()
    else:
        kind: Any = "status" if how == "503" else "hang"
        world.firebase.storage_proxy.add(Fault(kind, times=None))


def _heal(world: World) -> None:
    world.firebase.storage_proxy.clear()
    world.firebase.storage_proxy.accept()


def _check_inline(world: World, file_uid: str, response: dict[str, Any]) -> None:
    """Check for whole pictures in the response, a completed document that says where they are, and an empty bucket."""
    assert "error" not in response, response
    assert response["storage"] == "base64"
    for uri in response["images"]:
        showing.opened(uri).load()
    assert any("upload failed" in warning for warning in response["warnings"])
    document = world.document(file_uid)
    assert document is not None
    assert document["status"] == "completed"
    data = document["generation_data"]
    assert (data["storage"], data["images"], data["image_url"]) == ("base64", [], None)
    assert document["job_id"] == "job-1"
    assert world.objects(file_uid) == {}


async def test_case_22_a_slow_storage_is_waited_for(world: World) -> None:
    world.firebase.set_latency(0.4)
    response = await world.serve(cloud("c22b", num_images=2))
    world.firebase.set_latency(0.0)
    world.check_completed("c22b", response, count=2)

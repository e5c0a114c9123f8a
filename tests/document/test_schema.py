"""A document's fields: each field of the contract at its moment, and none left over from the moment before."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.core.errors import InvalidInput
from worker.core.types import Owner, Progress
from worker.document import schema
from worker.document.schema import ClaimRequest
from worker.document.store import FieldValue

OWNER = Owner("user", "file")
BID = ClaimRequest("job-1", "worker-1", "hash", "n1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = {"images": ["https://u"], "storage": "firebase"}
SERVER, REMOVE = FieldValue.SERVER_TIME, FieldValue.REMOVE


def processing(found: dict[str, Any] | None) -> dict[str, Any]:
    return dict(schema.processing(found, OWNER, BID, {"prompt": "p"}, attempt=2, lost_workers=1, now=NOW))


def test_a_job_that_begins_says_who_it_is_and_until_when_it_is_to_be_believed() -> None:
    assert processing(None) == {
        "status": "processing",
        "user_id": "user",
        "file_uid": "file",
        "job_id": "job-1",
        "worker_id": "worker-1",
        "attempt": 2,
        "request_data": {"prompt": "p"},
        "claim": {"nonce": "n1", "request_hash": "hash", "deaths": 1},
        "progress": {"stage": "queued", "step": 0, "total_steps": 0, "percent": 0, "eta_seconds": None},
        "created_at": SERVER,
        "updated_at": SERVER,
        "heartbeat_at": SERVER,
        "expires_at": NOW + timedelta(seconds=90),
        "error": REMOVE,
        "generation_data": REMOVE,
        "usage": REMOVE,
        "completed_at": REMOVE,
        "delete_at": REMOVE,
    }


def test_a_document_that_is_there_keeps_its_beginning_and_what_its_app_wrote() -> None:
    changed = processing({"created_at": NOW, "label": "mine"})
    assert not {"created_at", "label"} & set(changed)


@pytest.mark.parametrize(("status", "goes"), [("queued", False), ("processing", False), ("failed", True)])
def test_a_wish_to_cancel_goes_with_the_attempt_that_it_was_meant_for(status: str, goes: bool) -> None:
    assert ("cancel_requested" in processing({"status": status, "cancel_requested": True})) is goes


@pytest.mark.parametrize("ended", [schema.completed(DATA), schema.failed("internal", "x", retryable=True)])
def test_what_has_ended_has_no_lease_and_no_progress_and_only_one_end(ended: dict[str, Any]) -> None:
    assert {name for name, value in ended.items() if value is REMOVE} >= {"progress", "heartbeat_at", "expires_at"}
    assert (ended["completed_at"], ended["updated_at"]) == (SERVER, SERVER)
    assert (ended["error"] is REMOVE) is (ended["generation_data"] is not REMOVE)


def test_a_refusal_disowns_whoever_held_the_document() -> None:
    held = {"attempt": 3, "created_at": NOW, "claim": {"nonce": "theirs", "request_hash": "h", "deaths": 2}}
    refused = schema.refused(held, OWNER, BID, InvalidInput([]), {"task_type": "text2img"})
    assert refused["claim"] == {"nonce": "", "request_hash": "h", "deaths": 2}
    assert (refused["status"], refused["attempt"], refused["error"]["code"]) == ("failed", 3, "invalid_input")
    assert schema.refused(None, OWNER, BID, InvalidInput([]), {})["attempt"] == 1


def test_of_progress_is_told_what_the_contract_names() -> None:
    assert Progress("generating", 5, 10, "decode", 0.5, percent=48, eta_seconds=70).public() == {
        "stage": "generating",
        "step": 5,
        "total_steps": 10,
        "percent": 48,
        "eta_seconds": 70,
    }


def test_a_preview_is_the_documents_alone() -> None:
    moment = Progress("generating", 5, 10, preview="data:image/webp;base64,AAAA")
    assert "preview" not in moment.public()
    assert schema.progressed(moment) == {**moment.public(), "preview": moment.preview}
    assert schema.progressed(Progress("queued")) == Progress("queued").public()


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ({"status": "completed", "generation_data": DATA, "label": "x"}, True),
        ({"status": "completed", "generation_data": {"images": ["https://evil.example"]}}, False),
        ({"status": "completed", "generation_data": DATA, "error": {"code": "x"}}, False),
        ({"status": "processing"}, False),
        (None, False),
    ],
)
def test_an_end_is_known_by_all_it_tells(found: dict[str, Any] | None, same: bool) -> None:
    assert schema.ends_like(found, schema.completed(DATA)) is same

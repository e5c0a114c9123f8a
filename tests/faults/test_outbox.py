"""A result that can be neither uploaded nor returned waits on the volume, for any worker that has it mounted."""

import json
from pathlib import Path

import pytest

from tests.support.clock import until
from tests.support.faulty_firebase import Fault
from tests.support.faulty_world import Endpoint, cloud

LARGE = {"num_images": 2, "width": 512, "height": 512}


@pytest.mark.e2e
def test_a_kept_result_is_delivered_by_the_next_worker_that_starts(endpoint: Endpoint, tmp_path: Path) -> None:
    volume = tmp_path / "outbox"
    env = {"OUTBOX_DIR": str(volume), "MAX_RESULT_BYTES": "20000"}
    first = endpoint.ready("worker-1", env)
    endpoint.firebase.storage_proxy.add(Fault("status", method="POST|PUT", path="/upload/", times=None, status=403))
    response = endpoint.serve(cloud("kept", **LARGE))
    # Not retryable: it is paid for, and will come.
    endpoint.check_failed("kept", response, "storage_unavailable", retryable=False)
    assert "delivered later" in response["error"]
    assert len(json.dumps(response)) < 2000, "a result that is kept is told, not sent"
    (entry,) = volume.iterdir()
    endpoint.firebase.storage_proxy.clear()
    endpoint.lives(first)
    first.terminate()
    assert first.wait() == 0
    second = endpoint.ready("worker-2", env)
    until(lambda: endpoint.status("kept") == "completed", what="delivery of the kept result")
    document = endpoint.document("kept")
    assert document is not None
    assert "error" not in document
    endpoint.check_files("kept", document["generation_data"], count=2)
    until(lambda: not list(volume.iterdir()), what="end of the entry")
    assert not entry.exists()
    again = endpoint.serve(cloud("kept", **LARGE))
    endpoint.check_completed("kept", again, count=2)
    assert endpoint.ledger.painted("kept") == 1
    endpoint.lives(second)


@pytest.mark.e2e
def test_a_kept_result_that_was_made_anew_meanwhile_changes_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    volume = tmp_path / "outbox"
    env = {"OUTBOX_DIR": str(volume), "MAX_RESULT_BYTES": "20000"}
    first = endpoint.ready("worker-1", env)
    endpoint.firebase.storage_proxy.add(Fault("status", method="POST|PUT", path="/upload/", times=None, status=403))
    assert endpoint.serve(cloud("anew", **LARGE))["error_code"] == "storage_unavailable"
    endpoint.firebase.storage_proxy.clear()
    response = endpoint.serve(cloud("anew", **LARGE))
    document = endpoint.check_completed("anew", response, count=2)
    generations = endpoint.generations("anew")
    first.terminate()
    first.wait()
    endpoint.ready("worker-2", env)
    until(lambda: not list(volume.iterdir()), what="end of the entry")
    assert (endpoint.document("anew"), endpoint.generations("anew")) == (document, generations)

"""Hundreds of small jobs on a bad day; afterwards the invariants I1 to I7 hold for everything that any party saw.

`FAULTS_SEED` repeats a plan (except for its timing); `FAULTS_JOBS`, `FAULTS_WORKERS` and `FAULTS_SECONDS` make a longer
run of it, by hand.
"""

import json
import os
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.example_functions import paid
from tests.support.faulty_world import MAX_POST_BYTES, Endpoint, Ledger, cloud, fetch, is_of, reap
from tests.support.storm import ENDS_IN_ITS_OWN_WAY, Storm
from tools.emulators.firebase import DocumentWrite
from tools.emulators.worker_process import WorkerProcess
from worker.document.transitions import SPOOLED, WORKER_LOST

SEED = int(os.environ.get("FAULTS_SEED", "20261122"))
JOBS = int(os.environ.get("FAULTS_JOBS", "200"))
WORKERS = int(os.environ.get("FAULTS_WORKERS", "3"))
SECONDS = float(os.environ.get("FAULTS_SECONDS", "45"))
TERMINAL = ("completed", "failed")


@pytest.mark.e2e
@pytest.mark.timeout(SECONDS * 3 + 300 + JOBS)
def test_a_bad_day_loses_nothing_does_nothing_twice_and_leaves_nothing_lying(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    print(f"\nseed {SEED}, {JOBS} generations, {WORKERS} workers, {SECONDS:g} s of faults")
    storm = Storm(endpoint, SEED, jobs=JOBS, workers=WORKERS, seconds=SECONDS)
    storm.run()
    storm.heal()
    storm.settle()
    left_alone = _deliver_the_lost_again(storm)
    lying = _let_the_reaper_look(endpoint, storm, left_alone)
    twice, fenced_off = _done_twice(endpoint, storm)
    asked_again = _ask_again_for_what_failed(endpoint, storm)
    storm.settle()
    wallets = ThreadPoolExecutor(1).submit(paid, history_of(endpoint), tmp_path)
    found = Verdict(endpoint, storm)
    found.check()
    rows = {
        "generations / jobs": f"{len(storm.generations)} / {sum(len(one.jobs) for one in storm.generations)}",
        "jobs left when the faults ended": storm.waiting,
        "faults tried": sum(storm.tried.values()),
        "survived": sum(storm.tried.values()) - len(found.broken),
        "generations started": len([event for event in endpoint.ledger.events() if event["event"] == "begin"]),
        "begun by an attempt fenced off": len(fenced_off),
        "documents the reaper closed": len(left_alone),
        "asked for again by the app": asked_again,
        "results lost": found.lost,
        "files that no document names": found.left,
        "jobs done twice": len(twice),
        "documents left lying": len(lying),
    }
    for name, count in sorted(storm.tried.items()):
        print(f"  {name:<32} {count:>5}")
    for title, value in rows.items():
        print(f"{title:<34} {value!s:>5}")
    print("outcomes:", dict(found.outcomes))
    print(wallets.result())
    for name in {*twice, *lying, *found.named}:
        print(found.story(name))
    assert found.broken == []
    assert (found.lost, found.left, twice, lying) == (0, 0, [], [])


def _deliver_the_lost_again(storm: Storm) -> list[str]:
    """Let RunPod redeliver some of the jobs that went down with a worker; returns the file_uids of those it forgot."""
    forgotten: list[str] = []
    lost = set(storm.unanswered())
    for index, generation in enumerate(storm.generations):
        jobs = [job for job in generation.jobs if job in lost]
        # A job that was never claimed exists only in RunPod's own queue.
        if len(jobs) == 1 and index % 3 == 0 and storm.endpoint.status(generation.file_uid) == "processing":
            forgotten.append(generation.file_uid)
            generation.forgotten += jobs
            continue
        for job in jobs:
            storm.plane.deliver_again(job)
    storm.settle()
    return forgotten


def _let_the_reaper_look(endpoint: Endpoint, storm: Storm, forgotten: list[str]) -> list[str]:
    """Let ninety seconds pass and the reaper run; returns the documents that are not terminal then."""
    for generation in storm.generations:
        if endpoint.status(generation.file_uid) == "processing":
            endpoint.let_lease_run_out(generation.file_uid)
    reap(endpoint.firebase)
    for file_uid in forgotten:
        document = endpoint.document(file_uid) or {}
        assert (document.get("error") or {}).get("code") == WORKER_LOST, document
    documents = {one.file_uid: endpoint.document(one.file_uid) for one in storm.generations}
    return [name for name, fields in documents.items() if fields is not None and fields["status"] not in TERMINAL]


def _done_twice(endpoint: Endpoint, storm: Storm) -> tuple[list[str], list[str]]:
    """Return generations painted although their result was stored: started anew, and by an attempt fenced off by then.

    Of two attempts that claim before there is a result, the earlier one may learn of the later one only after it began
    to paint; its result is discarded. An attempt that is given the job later is stopped at a step.
    """
    workers = {worker.worker_id: worker for worker in endpoint.workers}
    history = history_of(endpoint)
    twice: list[str] = []
    fenced_off: list[str] = []
    for event in endpoint.ledger.events():
        name, worker = event["file_uid"], workers[event["worker"]]
        if event["event"] != "painted" or name is None or any(write.kind == "delete" for write in history[name]):
            continue
        stored = [write.at for write in history[name] if _stores(write)]
        if not stored or event["at"] < stored[0]:
            continue
        claims = [write for write in history[name] if (write.fields or {}).get("worker_id") == worker.worker_id]
        in_time = any(write.at < stored[0] for write in claims) or _was_unreached(worker, name)
        (fenced_off if in_time else twice).append(name)
    return twice, fenced_off


def _stores(write: DocumentWrite) -> bool:
    fields = write.fields or {}
    return fields.get("status") == "completed" and fields["generation_data"]["storage"] == "firebase"


def _was_unreached(worker: WorkerProcess, name: str) -> bool:
    """Whether a worker logged that Firestore was unreachable at its claim, so that it knew of no other attempt."""
    return f"action=unclaimed job_id={name}-job-" in worker.log


def test_two_processes_that_get_one_number_are_two(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    told = [("begin", "worker-1", 7), ("begin", "worker-9", 7), ("end", "worker-9", 7)]
    lines = [json.dumps({"event": event, "worker": worker, "pid": pid}) + "\n" for event, worker, pid in told]
    ledger.path.write_text("".join(lines))
    assert ledger.overlaps() == 0
    ledger.path.write_text("".join(lines[:1] * 2))
    assert ledger.overlaps() == 1


@pytest.mark.e2e
def test_a_worker_that_could_not_claim_is_known_by_its_log(endpoint: Endpoint) -> None:
    worker = endpoint.ready()
    endpoint.answer(endpoint.plane.submit(cloud("reached"), "reached-job-0"))
    endpoint.firebase.firestore_proxy.refuse()
    endpoint.answer(endpoint.plane.submit(cloud("unreached"), "unreached-job-0"))
    assert [_was_unreached(worker, name) for name in ("reached", "unreached")] == [False, True]


def _ask_again_for_what_failed(endpoint: Endpoint, storm: Storm) -> int:
    """Retry every retryable failure as an app does; returns how many. Once everything is well, all of it succeeds."""
    count = 0
    for generation in storm.generations:
        document = endpoint.document(generation.file_uid)
        if generation.kind in ("inline", "stopped by RunPod", "deleted by its user"):
            continue
        failed = document is not None and document["status"] == "failed"
        if document is None or (failed and generation.kind not in ENDS_IN_ITS_OWN_WAY):
            storm.submit(generation)
            count += 1
    return count


def history_of(endpoint: Endpoint) -> defaultdict[str, list[DocumentWrite]]:
    """Return the writes to each generation's document, by file_uid."""
    history: defaultdict[str, list[DocumentWrite]] = defaultdict(list)
    for write in endpoint.firebase.writes():
        history[write.path.rsplit("/", 1)[1]].append(write)
    return history


class Verdict:
    """The invariants, checked against everything that any party saw."""

    def __init__(self, endpoint: Endpoint, storm: Storm) -> None:
        self.endpoint, self.storm = endpoint, storm
        self.broken: list[str] = []
        self.lost = self.left = 0
        self.outcomes: Counter[str] = Counter()
        self._results: dict[str, list[dict[str, Any]]] = {}
        for post in endpoint.plane.posts:
            if post.kind == "result" and post.payload is not None:
                self._results.setdefault(post.job_id, []).append(post.payload)

    def check(self) -> None:
        objects, history = defaultdict[str, dict[str, Any]](dict), history_of(self.endpoint)
        for path, blob in self.endpoint.objects().items():
            objects[re.split(r"[_.]", path.rsplit("/", 1)[1])[0]][path] = blob
        for generation in self.storm.generations:
            name = generation.file_uid
            document = self.endpoint.document(name)
            own = {path: blob for path, blob in objects[name].items() if is_of(path, name)}
            deleted = any(write.kind == "delete" for write in history[name])
            self._check_end(generation.kind, name, document, deleted=deleted)
            if document is not None and document["status"] == "completed":
                self._check_completed(name, document, own)
            if not deleted:
                self._check_answers(name, generation.jobs)
            self._check_history(name, history[name])
        if self.endpoint.ledger.overlaps():
            self.broken.append("I5: two generations at once in one worker")
        if not self.endpoint.nothing_outside():
            self.broken.append("I6: something was written elsewhere")
        for post in self.endpoint.plane.posts:
            if post.payload is None or len(post.body) > MAX_POST_BYTES:
                self.broken.append(f"I7: {post.job_id} posted what RunPod drops")

    def story(self, name: str) -> str:
        """Return everything known of one generation in order of time, to find out why it broke an invariant."""
        generation = next(one for one in self.storm.generations if one.file_uid == name)
        lines = [
            (event["at"], f"{event['event']} painting by {event['worker']}", "")
            for event in self.endpoint.ledger.events()
            if event["file_uid"] == name
        ]
        for write in history_of(self.endpoint)[name]:
            shown = {
                key: (write.fields or {}).get(key) for key in ("status", "attempt", "job_id", "worker_id", "error")
            }
            lines.append((write.at, f"document {write.kind}", str({key: val for key, val in shown.items() if val})))
        lines += [
            (post.at, f"result of {post.job_id} by {post.worker_id}: {post.answered}", str(post.payload)[:500])
            for post in self.endpoint.plane.posts
            if post.kind == "result" and post.job_id.startswith(f"{name}-")
        ]
        told = "\n".join(f"  {at:.3f} {what} {more}" for at, what, more in sorted(lines))
        return f"{name} ({generation.kind}), jobs {generation.jobs}:\n{told}"

    @property
    def named(self) -> set[str]:
        """The generations that are named in the broken invariants."""
        return {one.file_uid for one in self.storm.generations if any(one.file_uid in line for line in self.broken)}

    def _check_end(self, kind: str, name: str, document: dict[str, Any] | None, *, deleted: bool) -> None:
        status = (document or {}).get("status")
        code = ((document or {}).get("error") or {}).get("code")
        self.outcomes[code or str(status)] += 1
        if document is None:
            if not deleted and kind not in ("inline", "stopped by RunPod"):
                self.broken.append(f"I4: {name} ({kind}) has no document")
        elif status not in TERMINAL:
            self.broken.append(f"I4: {name} ({kind}) is {status}")
        elif status == "failed" and kind not in ENDS_IN_ITS_OWN_WAY and not deleted:
            self.broken.append(f"{name} ({kind}) failed in the end: {code}")

    def _check_completed(self, name: str, document: dict[str, Any], own: dict[str, Any]) -> None:
        data = document["generation_data"]
        if data["storage"] != "firebase":
            return
        named = {file[which] for file in data["files"] for which in ("storage_path", "thumbnail_path")}
        if nobodys := sorted(own.keys() - named):
            self.left += len(nobodys)
            self.broken.append(f"I3: {name}: {nobodys} is in no document")
            own = {path: blob for path, blob in own.items() if path in named}
        try:
            self.endpoint.check_files(name, data, count=len(data["files"]), objects=own)
        except AssertionError as error:
            self.lost += 1
            self.broken.append(f"I1/I3: {name}: {error}; {sorted(own)}")

    def _check_answers(self, name: str, jobs: list[str]) -> None:
        """Check that every URL that anyone was ever given serves its file."""
        for job in jobs:
            for payload in self._results.get(job, []):
                output = payload.get("output") or {}
                if "error" in payload or output.get("storage") != "firebase":
                    continue
                if any(fetch(url) is None for url in [file["url"] for file in output["files"]]):
                    self.lost += 1
                    self.broken.append(f"I1: a URL that {job} answered with serves nothing")

    def _check_history(self, name: str, writes: list[DocumentWrite]) -> None:
        """Check that only a newer attempt, or the outbox making up for an upload, changes a terminal status (I2)."""
        status, attempt, code = "", 0, ""
        for write in writes:
            fields = write.fields or {}
            if write.kind == "delete":
                status, attempt, code = "", 0, ""
                continue
            if "status" not in fields:
                continue
            new = int(fields.get("attempt") or attempt)
            made_up_for = (status, code, fields["status"]) == ("failed", SPOOLED, "completed")
            if status in TERMINAL and fields["status"] != status and new <= attempt and not made_up_for:
                self.broken.append(f"I2: {name} went from {status} to {fields['status']} in attempt {new}")
            if status == "completed" and fields["status"] == "completed":
                self.broken.append(f"I2: {name} was completed twice")
            status, attempt, code = fields["status"], new, str((fields.get("error") or {}).get("code", ""))

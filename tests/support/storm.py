"""A bad day, planned from a seed: jobs of every kind, and faults at random moments, until all is well again.

Knows what happens and when; `test_random` says what must hold afterwards.
"""

import contextlib
import functools
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from google.api_core.exceptions import GoogleAPIError

from tests.support.faulty_firebase import Fault
from tests.support.faulty_world import Endpoint, cloud, path_of
from tools.emulators.worker_process import WorkerProcess

UPLOADS: dict[str, Any] = {"method": "POST|PUT", "path": "/upload/"}
MOMENTS = ("after_claim", "loading", "generating", "before_upload", "after_upload", "before_document", "after_document")
CONCURRENCY = 2
FULL_DISK_BYTES = 200_000

KINDS = {
    "plain": 8,
    "delivered twice at once": 3,
    "delivered again later": 2,
    "asked for twice at once": 2,
    "asked for again later": 2,
    "another request later": 1,
    "stopped by RunPod": 2,
    "stopped by its user": 1,
    "stopped and asked for again": 2,
    "deleted by its user": 1,
    "not valid": 1,
    "out of memory": 1,
    "raises": 1,
    "gpu fault": 1,
    "a clip": 1,
    "inline": 1,
}
"""What can be done with a generation, with relative frequencies."""
ENDS_IN_ITS_OWN_WAY = {
    "stopped by RunPod",
    "stopped by its user",
    "not valid",
    "out of memory",
    "raises",
    "gpu fault",
    "inline",
}
"""Kinds whose generation need not end as completed."""


@dataclass(slots=True)
class Generation:
    """One file_uid: its request, and the jobs for it."""

    file_uid: str
    kind: str
    request: dict[str, Any]
    jobs: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    """Jobs that RunPod never hands out again."""


class Storm:
    """`run` executes it; `heal` ends all faults and submits again what was not answered."""

    def __init__(self, endpoint: Endpoint, seed: int, *, jobs: int, workers: int, seconds: float) -> None:
        self.endpoint, self.firebase, self.plane = endpoint, endpoint.firebase, endpoint.plane
        self._random = random.Random(seed)
        self.generations = [self._plan(number) for number in range(jobs)]
        self.tried: Counter[str] = Counter()
        self._seconds = seconds
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._slots: list[WorkerProcess] = []
        self._names = 0
        self._frozen: set[int] = set()
        self._mortals: set[str] = set()
        self._workers = workers
        self.waiting = 0
        """Jobs without a response when the faults ended: more on a slower machine."""
        self._phones = ThreadPoolExecutor(8, "phone")

    def _plan(self, number: int) -> Generation:
        kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
        name = f"g{number:04}"
        fields: dict[str, Any] = {"num_images": self._random.choice((1, 1, 2))}
        fields["num_inference_steps"] = self._random.choice((2, 5, 10, 30))
        if kind.startswith(("stopped", "deleted")):
            fields = {"num_images": 2, "num_inference_steps": 60}
        prompt = f"{kind}: a fox" if kind in ("out of memory", "raises", "gpu fault") else f"a fox, {number}"
        request = cloud(name, prompt, **fields)
        if kind == "a clip":
            clip = {"video_width": 256, "video_height": 256, "num_frames": 21}
            request = cloud(name, prompt, task_type="text2video", **clip)
        if kind == "not valid":
            request["width"] = 1023
        if kind == "inline":
            request["use_cloud_storage"] = False
        return Generation(name, kind, request)

    # -- what happens

    def run(self) -> None:
        """Execute everything that was planned, with faults until the last job is sent."""
        for _ in range(self._workers):
            self._slots.append(self._start())
        for slot in self._slots:
            slot.wait_ready()
        now = time.monotonic()
        for generation in self.generations:
            self._at(now + self._random.uniform(0, self._seconds), functools.partial(self._send, generation))
        self._after(1.0, self._next_fault)
        self._after(2.0, self._next_accident)
        end = now + self._seconds + 4
        while time.monotonic() < end:
            while self._due and self._due[0][0] <= time.monotonic():
                self._due.pop(0)[2]()
            self._restart_the_dead()
            time.sleep(0.02)
        self.waiting = len(self.unanswered())

    def heal(self) -> None:
        """End every fault and bring all workers up."""
        self._due.clear()
        self._heal_firebase()
        self._phones.shutdown()
        for pid in self._frozen:
            os.kill(pid, signal.SIGCONT)
        for slot in self._slots:
            if slot.worker_id in self._mortals:
                slot.kill()
                slot.wait()
        for index in range(len(self._slots)):
            self._have_one_ready(index)

    def _have_one_ready(self, index: int) -> None:
        """Wait until this place has a worker that takes jobs; replace one that leaves first, as after a GPU fault."""
        while True:
            try:
                self._slots[index].wait_ready()
            except RuntimeError:
                if self._slots[index].returncode is None:
                    raise
                self._slots[index] = self._start()
            else:
                return

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until every job was answered or went down with its worker, for at most `seconds` per response."""
        fewest, deadline = sys.maxsize, 0.0
        while left := self.unanswered(alive=True):
            if len(left) < fewest:
                fewest, deadline = len(left), time.monotonic() + seconds
            assert time.monotonic() < deadline, f"not answered: {left}"
            self._restart_the_dead()
            time.sleep(0.25)

    def unanswered(self, *, alive: bool = False) -> list[str]:
        """Return the jobs without a result; with `alive`, only those waiting or held by a worker that still runs."""
        running = {slot.worker_id for slot in self._slots if slot.returncode is None}
        answered = {post.job_id for post in self.plane.posts if post.kind == "result" and post.answered == 200}
        jobs = [job for one in self.generations for job in one.jobs if job not in one.forgotten]
        left = [job for job in jobs if job not in answered and self.plane.state(job) != "CANCELLED"]
        if not alive:
            return left
        return [job for job in left if self.plane.state(job) == "IN_QUEUE" or self.plane.workers_of(job)[-1] in running]

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._due.append((when, len(self._due), what))
        self._due.sort(key=lambda item: item[:2])

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._at(time.monotonic() + seconds, what)

    def submit(self, generation: Generation, **changes: Any) -> str:
        """Submit one more job for a generation."""
        job = f"{generation.file_uid}-job-{len(generation.jobs)}"
        generation.jobs.append(job)
        return self.plane.submit({**generation.request, **changes}, job)

    def _send(self, generation: Generation) -> None:
        job = self.submit(generation)
        soon, later = self._random.uniform(0.05, 1.0), self._random.uniform(3.0, 6.0)
        document = self.firebase.documents.document(path_of(generation.file_uid))
        match generation.kind:
            case "delivered twice at once":
                self._after(soon, lambda: self.plane.deliver_again(job))
            case "delivered again later":
                self._after(later, lambda: self.plane.deliver_again(job))
            case "asked for twice at once":
                self._after(soon, lambda: self._again(generation))
            case "asked for again later":
                self._after(later, lambda: self._again(generation))
            case "another request later":
                self._after(later, lambda: self._again(generation, prompt="another fox"))
            case "stopped by RunPod":
                self._after(soon, lambda: self.plane.stop(job))
            case "stopped by its user":
                self._after(soon, lambda: self._on_a_phone(lambda: document.update({"cancel_requested": True})))
            case "stopped and asked for again":
                self._after(soon, lambda: self.plane.stop(job))
                self._after(soon + self._random.uniform(0.0, 0.5), lambda: self._again(generation))
            case "deleted by its user":
                self._after(soon, lambda: self._on_a_phone(document.delete))
            case _:
                return
        self.tried[generation.kind] += 1

    def _again(self, generation: Generation, **changes: Any) -> None:
        self.submit(generation, **changes)

    def _on_a_phone(self, write: Callable[[], object]) -> None:
        """Write as a phone does: it meets the same outages, and retries as long as its library does."""

        def attempt() -> None:
            with contextlib.suppress(GoogleAPIError):  # such as NotFound, where there is nothing to change yet
                write()

        self._phones.submit(attempt)

    # -- Firebase's faults, one at a time

    def _next_fault(self) -> None:
        storage, firestore = self.firebase.storage_proxy, self.firebase.firestore_proxy
        fail = self.firebase.fail_firestore
        faults: dict[str, Callable[[], object]] = {
            "storage answers 503": lambda: storage.add(Fault("status", times=4)),
            "storage refuses connections": storage.refuse,
            "storage resets uploads": lambda: storage.add(Fault("reset", **UPLOADS, times=3, after_bytes=3000)),
            "storage loses answers": lambda: storage.add(Fault("lose_answer", **UPLOADS, times=3)),
            "storage gets corrupted bytes": lambda: storage.add(Fault("corrupt", **UPLOADS, times=2)),
            "storage hangs": lambda: storage.add(Fault("hang", times=2)),
            "storage forbids": lambda: storage.add(Fault("status", **UPLOADS, times=2, status=403)),
            "storage is slow": lambda: setattr(storage, "latency", 0.3),
            "firestore answers UNAVAILABLE": lambda: [
                fail(method, "UNAVAILABLE", times=None) for method in ("Commit", "BatchGetDocuments")
            ],
            "firestore loses answers": lambda: fail("Commit", "UNAVAILABLE", times=4, when="after"),
            "firestore aborts": lambda: fail("Commit", "ABORTED", times=4),
            "firestore refuses connections": firestore.refuse,
            "firestore resets connections": firestore.reset_connections,
            "firestore is silent": firestore.black_hole,
            "firestore is slow": lambda: setattr(firestore, "latency", 0.3),
            "RunPod answers 503": lambda: self.plane.answer_results(503, 503),
        }
        self._try(faults)
        self._after(self._random.uniform(0.5, 3.0), self._end_of_fault)

    def _try(self, faults: dict[str, Callable[[], object]]) -> None:
        name = self._random.choice(list(faults))
        faults[name]()
        self.tried[name] += 1

    def _end_of_fault(self) -> None:
        self._heal_firebase()
        self._after(self._random.uniform(0.3, 1.5), self._next_fault)

    def _heal_firebase(self) -> None:
        self.firebase.set_latency(0.0)
        self.firebase.storage_proxy.clear()
        self.firebase.storage_proxy.accept()
        self.firebase.firestore_proxy.pass_through()
        self.firebase.clear_firestore_faults()

    # -- workers

    def _start(self, *, mortal: bool = False, disk_bytes: int | None = None) -> WorkerProcess:
        self._names += 1
        script: dict[str, Any] = {"step_seconds": 0.01, "disk_bytes": disk_bytes}
        if mortal:
            script |= {"die_at": self._random.choice(MOMENTS), "die_on": self._random.randint(1, 4)}
            self._mortals.add(f"worker-{self._names}")
        return self.endpoint.start(f"worker-{self._names}", {"WORKER_CONCURRENCY": str(CONCURRENCY)}, **script)

    def _restart_the_dead(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot.returncode is not None:
                self._slots[index] = self._start()

    def _next_accident(self) -> None:
        """Let something happen to a worker, whatever Firebase does meanwhile."""
        self._try(
            {
                "a worker is killed": self._kill,
                "a worker is replaced by a mortal": self._replace_by_a_mortal,
                "a worker gets a full disk": self._fill_the_disk,
                "a worker is frozen": self._freeze,
                "a worker is told to leave": self._tell_to_leave,
            }
        )
        self._after(self._random.uniform(2.0, 6.0), self._next_accident)

    def _kill(self) -> None:
        index = self._random.randrange(len(self._slots))
        self._slots[index].kill()

    def _replace_by_a_mortal(self) -> None:
        index = self._random.randrange(len(self._slots))
        self._slots[index].kill()
        self._slots[index].wait()
        self._slots[index] = self._start(mortal=True)

    def _fill_the_disk(self) -> None:
        """Start the next worker in this place with disk space for a picture, but not for a clip."""
        index = self._random.randrange(len(self._slots))
        self._slots[index].kill()
        self._slots[index].wait()
        self._slots[index] = self._start(disk_bytes=FULL_DISK_BYTES)
        self._mortals.add(self._slots[index].worker_id)

    def _tell_to_leave(self) -> None:
        """Stop a worker as RunPod does when it scales down; a new one starts once it has left."""
        self._random.choice(self._slots).terminate()

    def _freeze(self) -> None:
        slot = self._random.choice(self._slots)
        if slot.returncode is None:
            self._frozen.add(slot.pid)
            os.kill(slot.pid, signal.SIGSTOP)
            self._after(self._random.uniform(0.5, 2.0), lambda: self._thaw(slot))

    def _thaw(self, slot: WorkerProcess) -> None:
        self._frozen.discard(slot.pid)
        if slot.returncode is None:
            os.kill(slot.pid, signal.SIGCONT)

"""Three users on one worker; one of them does at random whatever an account allows, for as long as the run lasts.

The SDK's real loop, the emulators, the real downloader and picture reader; a painter stands in for the models.
`HOSTILE_SECONDS` sets the length of the run: 300 is five minutes.
"""

import base64
import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.attacks.test_sdk_intake import HOSTILE
from tests.support.attacked_world import TABLE, Row, note
from tests.support.faulty_world import SCRIPT as PAINTING
from tests.support.hostile_pictures import chunk, saved
from tests.support.phone_files import scene
from tools.emulators.control_plane import ControlPlane
from tools.emulators.firebase import FirebaseEmulators
from tools.emulators.worker_process import ROOT, WorkerProcess

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "30"))
AT_ONCE = 4
GROWTH_BYTES = 60_000_000
BAD_DAY = (96, "all of it at random, beside two other users")

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120 + 3 * SECONDS)]


class Villain:
    """A signed-in user with a script: jobs, documents and objects of their own, and no keys."""

    def __init__(self, plane: ControlPlane, firebase: FirebaseEmulators, seed: int) -> None:
        self._plane, self._firebase, self._dice = plane, firebase, random.Random(seed)
        self._number = 0
        self.asked: list[str] = []

    def act(self) -> None:
        """Do one random thing of all that they can; the app's backend allows nobody more than `AT_ONCE` jobs."""
        if sum(not self._plane.results(job) for job in self.asked) >= AT_ONCE:
            return
        ways: list[Callable[[], object]] = [
            self.send_what_python_does_not_read,
            self.cancel_at_once,
            self.delete_and_make_anew,
            self.flip_a_label,
            self.name_an_encoded_object,
            self.send_a_picture_of_structure,
            self.ask_for_too_much,
            self.take_names_that_meet,
            self.name_many_pictures,
            self.list_what_is_none,
            self.ask_with_a_megabyte_of_reference,
        ]
        with contextlib.suppress(Exception):  # errors such as a deleted document are their own affair
            self._dice.choice(ways)()

    def job(self, **fields: Any) -> str:
        self._number += 1
        owner = {"user_id": "villain", "file_uid": f"v{self._number}", "use_cloud_storage": True}
        job = self._plane.submit({"prompt": "a fox", **owner, **fields})
        self.asked.append(job)
        return f"generations/villain/files/{fields.get('file_uid', owner['file_uid'])}"

    def document(self, path: str) -> Any:
        return self._firebase.documents.document(path)

    def send_what_python_does_not_read(self) -> None:
        self.asked.append(self._plane.submit(HOSTILE[self._dice.choice(sorted(HOSTILE))]))

    def cancel_at_once(self) -> None:
        self.document(self.job(num_inference_steps=100)).set({"status": "queued", "cancel_requested": True})

    def delete_and_make_anew(self) -> None:
        path = self.job(num_images=4)
        time.sleep(self._dice.random())
        self.document(path).delete()
        self.document(path).set({"status": "queued"})

    def flip_a_label(self) -> None:
        path = self.job()
        for flip in range(40):
            self.document(path).set({"favorite": flip % 2 == 0}, merge=True)

    def name_an_encoded_object(self) -> None:
        blob = self._firebase.objects.blob("uploads/villain/a.png")
        blob.content_encoding = self._dice.choice(["gzip", "br", "gzip, gzip"])
        blob.upload_from_string(os.urandom(241), content_type="image/png")
        self.job(task_type="img2img", image_url=f"gs://{self._firebase.bucket}/uploads/villain/a.png")

    def send_a_picture_of_structure(self) -> None:
        picture = saved(scene((64, 64)), "PNG")
        bomb = picture[:33] + chunk(b"tEXt", b"") * self._dice.choice([10, 100_000]) + picture[33:]
        uri = f"data:image/png;base64,{base64.b64encode(bomb).decode()}"
        self.job(task_type=self._dice.choice(["img2img", "img2video"]), image_url=uri)

    def ask_for_too_much(self) -> None:
        self.job(task_type="text2video", video_width=1280, video_height=1280, num_frames=121, num_inference_steps=100)

    def take_names_that_meet(self) -> None:
        self.job(file_uid="photo", num_images=2, seed=self._dice.randrange(10))
        self.job(file_uid="photo_0", seed=self._dice.randrange(10))

    def name_many_pictures(self) -> None:
        names = [f"gs://{self._firebase.bucket}/uploads/villain/{self._dice.randrange(3)}.png" for _ in range(5)]
        controls = [{"type": "tile", "image_url": name} for name in names[:3]]
        self.job(controlnets=controls, ip_adapters=[{"image_url": name} for name in names[3:]])

    def list_what_is_none(self) -> None:
        field = self._dice.choice(["loras", "controlnets", "ip_adapters"])
        self.job(**{field: self._dice.choice([[[]] * 1_000, {"path": "x"}, [{"path": "x\n"}] * 4, [{"scale": "x"}]])})

    def ask_with_a_megabyte_of_reference(self) -> None:
        self.job(task_type="img2img", image_url="https://x.example/" + "a" * 10**6)


def test_two_users_get_every_picture_while_a_third_does_whatever_an_account_allows(
    firebase: FirebaseEmulators,
) -> None:
    variables = {**firebase.env, "WORKER_CONCURRENCY": "3", "PYTHONPATH": str(ROOT)}
    with ControlPlane() as plane, WorkerProcess(plane, variables, script=PAINTING) as worker:
        worker.wait_ready()
        over = time.monotonic() + SECONDS
        villain = Villain(plane, firebase, seed=28)
        weights: list[int] = []

        def bad_day() -> None:
            while time.monotonic() < over:
                villain.act()
                time.sleep(0.1)

        storm = threading.Thread(target=bad_day)
        storm.start()
        served, entry = 0, TABLE.setdefault(BAD_DAY[0], Row(BAD_DAY[1]))
        while time.monotonic() < over:
            jobs = {
                user: plane.submit(
                    {
                        "prompt": "a fox",
                        "user_id": user,
                        "file_uid": f"{user}-{served}",
                        "use_cloud_storage": True,
                        "num_images": 2,
                    }
                )
                for user in ("alice", "bob")
            }
            for user, job in jobs.items():
                answer = plane.wait(job, 60)
                entry.others_lost += "error" in answer
                assert "error" not in answer, answer
                assert (answer["output"]["storage"], len(answer["output"]["images"])) == ("firebase", 2)
                document = firebase.documents.document(f"generations/{user}/files/{user}-{served}").get().to_dict()
                assert document["status"] == "completed"
            served += 1
            family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
            weights.append(sum(process.memory_info().rss for process in family if process.is_running()))
        storm.join()
        print(f"\n{served} jobs each of two users, beside {len(villain.asked)} hostile ones")
        answers = [plane.wait(job, 90) for job in villain.asked]
        replaced = sum(bool((answer.get("output") or {}).get("refresh_worker")) for answer in answers)
        entry.workers_lost += replaced + (worker.returncode is not None)
        refused = sum("error" in answer for answer in answers)
        note(BAD_DAY, refused=refused, harmless=len(answers) - refused + 2 * served)
        assert worker.returncode is None, worker.log[-2000:]
        assert not replaced
        codes = sorted({str((answer.get("output") or {}).get("error_code")) for answer in answers})
        print("the third user was told", ", ".join(codes))
        entry.crashed += "internal" in codes
        assert "internal" not in codes
        assert served > SECONDS / 10
        half = len(weights) // 2
        assert min(weights[half:]) - min(weights[:half]) < GROWTH_BYTES, [weight >> 20 for weight in weights]
        left = [found.id for found in firebase.documents.collection("generations/alice/files").stream()]
        assert len(left) == served

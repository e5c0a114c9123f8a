"""What a user with an account in the app, and no key, can do: each finding of a review, and variants of it.

Rows 80 to 99 of the table. Jobs go through the worker's own entry point; `test_sdk_intake.py` has what the SDK reads
before it, and `test_hostile_user.py` does everything at random beside two other users.
"""

import base64
import io
import math
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from benchmarks.full_size_models import WAN_14B_TRANSFORMER, WAN_TRANSFORMER
from tests.support import tokens
from tests.support.attacked_world import GOOD, OWNER, PATH, TABLE, Row, Watching, World, nested, note
from tests.support.clock import SOON_SECONDS
from tests.support.encoded_objects import bomb, serving
from tests.support.fakes import MemoryDocumentStore
from tests.support.hostile_pictures import box, boxes_of, chunk, flat_memory, saved
from tests.support.memory_world import ticket
from tests.support.model_folders import registry
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request
from worker.auth.tickets import Tickets
from worker.core import timing
from worker.core.config import load_settings
from worker.core.types import Control, Progress, TaskType
from worker.delivery.own_objects import OwnObjects
from worker.delivery.uploader import NAME_TAKEN
from worker.engine.engine import Engine
from worker.engine.estimate import Estimate, Estimator
from worker.engine.models import hub
from worker.engine.work import Networks
from worker.job.services import Services
from worker.reaper import reap
from worker.sources.loader import SourceLoader
from worker.storage.results import Storage
from worker.storage.store import ObjectInfo

pytestmark = pytest.mark.slow

Named = tuple[int, str]
ENCODED: Named = (80, "objects with a content encoding, or larger than they say")
LONG: Named = (81, "references of a megabyte")
WAITING: Named = (82, "flags, and slips that are deleted, while a job waits")
ANEW: Named = (83, "a document that is deleted, or made anew, while its job runs")
RESTLESS: Named = (84, "a document that never stands still")
SHARED: Named = (85, "two ids whose files have one name")
UNSERVED: Named = (86, "tasks that an endpoint does not serve, and weights that it may not fetch")
DEAF: Named = (87, "steps that are longer than a job may be deaf")
IN_A_STEP: Named = (88, "a cancel in the middle of a long step")
STRUCTURE: Named = (89, "20 MiB of structure and no picture")
MANY: Named = (90, "seven pictures, each in time and all too slow")
LISTS: Named = (91, "lists of anything but what they list")
REAPED: Named = (92, "documents of any shape before the reaper")
IN_LINE: Named = (93, "a long job before others")
PRICED: Named = (94, "models that evict each other for nothing")

SMALL = {"width": 64, "height": 64}
PICTURE = "data:image/png;base64," + base64.b64encode(saved(Image.new("RGB", (16, 16)))).decode()
UNSURE = ("invalid_input", "model_unavailable")
"""Errors that may come first for a request for a network that this worker does not have."""


def naming(ref: str) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    """Return field -> a job whose picture there is `ref`, and the codes that it may fail with before `ref` is read."""
    start = {"prompt": "a fox", **OWNER}
    image = start | {"task_type": "img2img", "image_url": PICTURE}
    return {
        "image_url": (image | {"image_url": ref}, ()),
        "mask_url": (image | {"task_type": "inpaint", "mask_url": ref}, ()),
        "end_image_url": (image | {"task_type": "img2video", "end_image_url": ref}, UNSURE),
        "controlnets.0.image_url": (start | {"controlnets": [{"type": "canny", "image_url": ref}]}, UNSURE),
        "ip_adapters.0.image_url": (start | {"ip_adapters": [{"image_url": ref}]}, UNSURE),
    }


# --- objects and references -------------------------------------------------------------------------------------------


class Reading(World):
    """A worker that reads its sources with Google's own client."""

    def __init__(self, log: io.StringIO, bucket: Any) -> None:
        self._read = OwnObjects(Storage(bucket), None)
        super().__init__(log)

    def services(self) -> Services:
        return replace(super().services(), sources=SourceLoader(self.settings, self._read, self.fetcher))


@pytest.mark.parametrize(
    "encoding",
    ["gzip", "br", "zstd", "deflate", "gzip, gzip", "br, gzip", "GZIP", "x-gzip", "aws-chunked", "identity, gzip", "x"],
)
def test_an_object_with_a_content_encoding_is_refused_unread(log: io.StringIO, encoding: str) -> None:
    """241 bytes of Brotli become 300 MiB when Google's client decompresses them."""
    with serving(bomb(encoding), encoding) as bucket:
        world = Reading(log, bucket)
        home = ("127.0.0.1", urlsplit(os.environ["STORAGE_EMULATOR_HOST"]).port)
        for job, unsure in naming("gs://demo-bucket/uploads/user/a.png").values():
            with flat_memory(40):
                world.attack(ENCODED, job, "download_failed", *unsure, dials=[home])
        world.good()
        world.close()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (partial(bomb, "br"), {"encoding": "br", "told_encoding": None}),
        (partial(bomb, "gzip"), {"encoding": "gzip", "told_encoding": None}),
        (partial(bytes, 300 << 20), {"told_size": 100}),
        (partial(bytes, 300 << 20), {"told_size": 65 << 20}),
        (bytes, {"told_size": 100}),
    ],
    ids=["br after it was looked at", "gzip after it was looked at", "larger than it says", "too large", "empty"],
)
def test_an_object_that_changes_under_its_reader_is_held_to_its_limit(
    log: io.StringIO, data: Callable[[], bytes], told: dict[str, Any]
) -> None:
    with serving(data(), **told) as bucket:
        world = Reading(log, bucket)
        home = ("127.0.0.1", urlsplit(os.environ["STORAGE_EMULATOR_HOST"]).port)
        codes = ("download_failed", "invalid_image", "storage_unavailable")
        for job, unsure in naming("gs://demo-bucket/uploads/user/a.png").values():
            with flat_memory(160):  # a source picture may have 64 MiB
                world.attack(ENCODED, job, *codes, *unsure, dials=[home])
        world.good()
        world.close()


def test_a_reference_of_a_megabyte_is_refused_and_its_document_says_so(world: World) -> None:
    for start in ("https://x.example/", "gs://demo-bucket/uploads/user/"):
        for rest in ("a" * 10**6, "%41" * 10**6, "é" * 10**6, "/" * 10**6, "\u202e" * 10**6, "?" + "b=1&" * 10**5):
            for field, (job, _unsure) in naming(start + rest).items():
                world.attack(LONG, job, "invalid_input", "url_blocked", names=field)
    for path in ("https://x.example/" + "a" * 10**6, "org/" + "n" * 10**6, "x" * 2049):
        for field in ("loras", "high_noise_loras"):
            task = "text2img" if field == "loras" else "text2video"
            job = {"task_type": task, "prompt": "a fox", **OWNER, field: [{"path": path}]}
            world.attack(LONG, job, "invalid_input", names=f"{field}.0.path")
    world.good()


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [True, False, "true", 1, None, [True], {"cancel": True}])
@pytest.mark.parametrize("status", ["queued", "completed!", 5, None, ["queued"], {"is": "queued"}])
def test_a_flag_before_the_claim_cancels_or_counts_for_nothing(world: World, flag: object, status: object) -> None:
    world.forget()
    world.documents.write_as_app(PATH, {"status": status, "cancel_requested": flag, "favorite": True})
    response = world.ask(GOOD)
    assert response.get("error_code") == ("cancelled" if flag is True else None), response
    assert len(world.paths) == (flag is not True)
    assert world.document["status"] == ("failed" if flag is True else "completed")
    assert world.document["favorite"] is True
    note(WAITING, refused=int(flag is True), harmless=int(flag is not True))
    world.good()


def test_a_slip_that_is_deleted_while_its_job_waits_ends_the_job(log: io.StringIO) -> None:
    world = World(log, tickets=Tickets(tokens.SECRET), token=ticket, require_id_token=True)
    for more in ({}, {"num_images": 4}, {"output_format": "webp"}):
        asked = {**GOOD, **more}
        world.attack(WAITING, {**asked, "id_token": ticket(asked, slip=True)}, "deleted", begun=True)
        assert not world.documents.stored
    world.good()
    world.close()


DONE_TO_IT: dict[str, Sequence[dict[str, Any] | None]] = {
    "deleted": [None],
    "made anew": [None, {"status": "queued"}],
    "made anew with a flag": [None, {"status": "queued", "cancel_requested": True}],
    "made anew with a label": [None, {"favorite": True}],
    "made anew as if it were done": [None, {"status": "completed", "attempt": 1}],
    "made anew twice": [None, {"status": "queued"}, None, {"status": "queued", "labels": ["x"]}],
}


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("what", DONE_TO_IT)
def test_what_is_made_for_a_document_that_is_gone_goes_with_it(world: World, what: str, after: int) -> None:
    """Otherwise its pictures, with working URLs, would be in no document."""
    world.forget()

    def interfere(call: str, _path: str) -> None:
        if call == "upload" and len(world.paths) == after:
            world.bucket.after = lambda *_: None
            for fields in DONE_TO_IT[what]:
                world.documents.write_as_app(PATH, fields)

    world.bucket.after = interfere
    response = world.ask({**GOOD, "num_images": 4})
    assert response["error_code"] == "deleted", response
    assert world.bucket.objects == {}, "its thumbnails go too"
    last = DONE_TO_IT[what][-1]
    assert (world.document if last else None) == last
    assert PATH in world.documents.stored or last is None
    note(ANEW, refused=1)
    world.good()


@pytest.mark.parametrize("call", ["update", "create", "read"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_document_that_never_stands_still_holds_no_worker(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str, exists: bool
) -> None:
    monkeypatch.setattr(timing, "CLAIM_SECONDS", 0.3)
    monkeypatch.setattr(timing, "TERMINAL_SECONDS", 0.3)
    world.forget()
    if exists:
        world.documents.write_as_app(PATH, {"status": "queued"})
    hook, flips = world.documents.before, iter(range(10**9))

    def flip(done: str, path: str) -> None:
        hook(done, path)
        if done == call:
            world.documents.write_as_app(path, {"favorite": next(flips) % 2 == 0})

    world.documents.before = flip
    started = time.monotonic()
    try:
        response = world.ask({**GOOD, "num_images": 2})
    finally:
        world.documents.before = hook
    assert time.monotonic() - started < SOON_SECONDS
    assert response.get("error_code") in {None, "superseded"}, response
    note(RESTLESS, harmless=1)
    world.good()


def test_a_refusal_of_a_document_that_never_stands_still_ends_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "TERMINAL_SECONDS", 0.3)
    hook = world.documents.before
    world.documents.before = lambda _call, path: world.documents.write_as_app(path, {"favorite": time.monotonic()})
    try:
        started = time.monotonic()
        response = world.ask({**GOOD, "width": 1023})
    finally:
        world.documents.before = hook
    assert response["error_code"] == "invalid_input"
    assert time.monotonic() - started < SOON_SECONDS
    note(RESTLESS, refused=1)
    world.good()


@pytest.mark.parametrize("first", ["several", "one"])
@pytest.mark.parametrize("uid", ["photo", "a_0", "0", "x_1_2"])
def test_a_file_whose_name_is_taken_is_told_so_and_the_other_one_stays(world: World, uid: str, first: str) -> None:
    for index in range(4):
        several = {**GOOD, "file_uid": uid, "num_images": 4}
        one = {**GOOD, "file_uid": f"{uid}_{index}", "seed": 100 + index}
        world.forget()
        before, after = (several, one) if first == "several" else (one, several)
        kept = world.ask(before)
        assert kept["storage"] == "firebase"
        objects = dict(world.bucket.objects)
        told = world.ask(after)
        assert (told["storage"], NAME_TAKEN in told["warnings"]) == ("base64", True)
        assert world.bucket.objects == objects
        for file, url in zip(kept["files"], kept["images"], strict=True):
            token = objects[file["storage_path"]][1].metadata["firebaseStorageDownloadTokens"]
            assert url.endswith(token)
        note(SHARED, harmless=1, refused=1)
    world.good()


# --- tasks, steps and time --------------------------------------------------------------------------------------------

SDXL, TI2V = "stabilityai/stable-diffusion-xl-base-1.0", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
PRESETS: dict[str, dict[str, Any]] = {
    "images only": {"sdxl_model": SDXL},
    "videos only": {"wan_model": TI2V},
    "pictures that move only": {"wan_i2v_model": "org/i2v"},
    "one task": {"tasks": "inpaint", "sdxl_model": SDXL, "wan_model": TI2V},
}
ASKED: dict[str, dict[str, Any]] = {
    "text2img": {},
    "img2img": {"image_url": PICTURE},
    "inpaint": {"image_url": PICTURE, "mask_url": PICTURE},
    "text2video": {},
    "img2video": {"image_url": PICTURE},
}


class Registered(Watching):
    """Describes what an operator's variables name, as the engine does, and paints."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def controlnet_types(self) -> Sequence[str]:
        return ()

    def models(self, task_type: TaskType) -> Sequence[str]:
        return self._engine.models(task_type)

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        return self._engine.describe(task_type, model)


def configured(world: World, monkeypatch: pytest.MonkeyPatch, **variables: Any) -> Engine:
    """Make the worker serve what these variables name; any download fails the test."""

    def download(hub_id: str, *_: object, **__: object) -> None:
        raise AssertionError(f"{hub_id} was to be downloaded")

    monkeypatch.setattr(hub, "download", download)
    engine = Engine(load_settings(**variables), registry=registry(cuda=True, **variables))
    monkeypatch.setattr(world, "generator", Registered(engine))
    return engine


@pytest.mark.parametrize("preset", PRESETS)
def test_a_task_that_is_not_served_downloads_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    with monkeypatch.context() as patch:
        engine = configured(world, patch, **PRESETS[preset])
        for task, fields in ASKED.items():
            if TaskType(task) in engine.registry.tasks:
                continue
            for model in (None, SDXL, TI2V, "org/i2v", "demo", "text2img"):
                job = {"task_type": task, "prompt": "a fox", **OWNER, **fields, "model": model}
                world.attack(UNSERVED, job, "model_unavailable")
    world.good()


def test_weights_that_may_not_be_fetched_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        configured(world, patch, sdxl_model=f"a={SDXL}, b=org/b", wan_model=TI2V, allow_downloads=False)
        for task, fields in ASKED.items():
            for model in (None, *(("a", "b") if "video" not in task else (TI2V,))):
                job = {"task_type": task, "prompt": "a fox", **OWNER, **fields, "model": model}
                world.attack(UNSERVED, job, "model_unavailable")
    world.good()


WAN_VAE = {"base_dim": 96, "scale_factor_spatial": 8}
WANS = {
    "Wan 2.1 1.3B": Networks("wan", WAN_TRANSFORMER, WAN_VAE),
    "Wan 2.1 14B": Networks("wan", WAN_14B_TRANSFORMER, WAN_VAE),
}
CARDS = ("NVIDIA A100 80GB PCIe", "NVIDIA GeForce RTX 4090", "NVIDIA RTX A6000", "NVIDIA H100 80GB HBM3")


class Estimating(Watching):
    """Paints clips of Wan's size, with the estimated time on a real card."""

    def __init__(self, networks: Networks, card: str) -> None:
        super().__init__()
        self._networks, self._estimator = networks, Estimator()
        self._estimator.card = card

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        return replace(super().describe(task_type, model), width=832, height=480, size_multiple=16)

    def estimate(self, request: Request, params: Params) -> Estimate:
        return self._estimator.estimate(self._networks, params, from_image="image_url" in type(request).model_fields)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("model", WANS)
def test_a_step_that_nothing_could_end_in_time_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, model: str, card: str
) -> None:
    """A clip of 1280 x 1280 with one step is 2 % of the largest cost, and cannot be stopped for minutes."""
    with monkeypatch.context() as patch:
        generator = Estimating(WANS[model], card)
        patch.setattr(world, "generator", generator)
        for side in (1280, 1024):
            for frames in (121, 81):
                for task in ("text2video", "img2video"):
                    size = {"video_width": side, "video_height": side, "num_frames": frames}
                    start = {"image_url": PICTURE} if task == "img2video" else {}
                    job = {"task_type": task, "prompt": "a fox", **OWNER, **size, **start, "num_inference_steps": 1}
                    quote = world.ask({"action": "quote", **job})
                    world.attack(DEAF, job, "invalid_input") if "error" in quote else note(DEAF, harmless=1)
                    assert "error" in quote or quote["estimated_seconds"] < 540
    world.good()


class Deaf(Watching):
    """Takes long for one step, during which its user cancels."""

    def __init__(self, world: World, seconds: float) -> None:
        super().__init__()
        self._world, self._seconds = world, seconds

    def estimate(self, request: Request, params: Params) -> Estimate:
        from worker.engine.estimate import Unit

        return Estimate((Unit("step", self._seconds),) * params.num_inference_steps, "card", "a card")

    def _steps(self, params: Params, control: Control, index: int, count: int) -> None:
        for step in range(params.num_inference_steps):
            control.raise_if_stopped()
            self._world.documents.write_as_app(PATH, {"cancel_requested": True})
            time.sleep(self._seconds)
            control.report(Progress("generating", step + 1, params.num_inference_steps))


def test_a_cancel_in_a_long_step_ends_the_job_and_no_worker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name, seconds in (("STOP_GRACE_SECONDS", 0.1), ("WATCH_SECONDS", 0.05), ("PROGRESS_SECONDS", 0.02)):
            patch.setattr(timing, name, seconds)
        patch.setattr(world, "generator", Deaf(world, 0.6))
        for _ in range(3):
            world.forget()
            response = world.ask({**GOOD, "num_images": 4})
            assert response["error_code"] == "cancelled", response
            TABLE.setdefault(IN_A_STEP[0], Row(IN_A_STEP[1])).workers_lost += world.gpu.stuck
            assert "refresh_worker" not in response
            assert not world.gpu.stuck
            assert not world.bucket.objects
            note(IN_A_STEP, refused=1)
    world.good()


def test_the_time_in_line_behind_a_long_job_is_not_counted(log: io.StringIO) -> None:
    world = World(log, job_timeout_seconds=3.5)
    world.generator.step_seconds = 0.25
    jobs = [{**GOOD, "user_id": user, "file_uid": user} for user in ("villain", "alice", "bob", "carol", "dave")]
    answers = world.ask_at_once(jobs)
    lost = sum("error" in answer for answer in answers)
    TABLE.setdefault(IN_LINE[0], Row(IN_LINE[1])).others_lost += lost
    assert not lost, answers
    note(IN_LINE, harmless=len(jobs))
    world.generator.step_seconds = 0.0
    world.good()
    world.close()


# --- pictures and lists -----------------------------------------------------------------------------------------------


SMALLEST = Image.new("RGB", (16, 16), (200, 30, 30))
MUCH = 19_500_000


def in_front(fmt: str, at: int, part: bytes) -> bytes:
    """Return a picture with 20 MB of such parts before its own."""
    picture = saved(SMALLEST, fmt)
    return picture[:at] + part * (MUCH // len(part)) + picture[at:]


def webp_of_chunks(*, behind: bool) -> bytes:
    own, parts = saved(SMALLEST, "WEBP", lossless=True)[12:], (b"ABCD" + bytes(4)) * (MUCH // 8)
    body = own + parts if behind else parts + own
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def gif_of_blocks(block: bytes) -> bytes:
    picture = saved(SMALLEST, "GIF")
    return in_front("GIF", 13 + 3 * 2 ** ((picture[10] & 7) + 1) if picture[10] & 0x80 else 13, block)


def tiff_of_directories() -> bytes:
    chain = b"".join(struct.pack("<HI", 0, 8 + 6 * (at + 1)) for at in range(MUCH // 6))
    return b"II*\0\x08\0\0\0" + chain


STRUCTURES: dict[str, Callable[[], bytes]] = {
    **{
        f"PNG {kind!r}": partial(in_front, "PNG", 33, chunk(kind, b"")) for kind in (b"tEXt", b"IDAT", b"fdAT", b"abCd")
    },
    **{
        f"JPEG {marker:02x}": partial(in_front, "JPEG", 2, bytes((0xFF, marker, 0, 2)))
        for marker in (0xFE, 0xE5, 0xE1, 0xE2, 0xDB, 0xC4, 0xDD)
    },
    "JPEG of fill bytes": partial(in_front, "JPEG", 2, b"\xff"),
    "JPEG of restarts": partial(in_front, "JPEG", -2, b"\xff\xd0"),
    "WebP of chunks behind": partial(webp_of_chunks, behind=True),
    "WebP of chunks before": partial(webp_of_chunks, behind=False),
    **{
        f"GIF {block[:2]!r}": partial(gif_of_blocks, block)
        for block in (b"!\xfe\0", b"!\xf9\4\0\0\0\0\0", b"!\xff\0", b"!\x01" + b"\1a" * 100 + b"\0")
    },
    "TIFF of entries": lambda: b"II*\0\x08\0\0\0\x60\xea" + struct.pack("<HHII", 40_000, 1, 1, 0) * 60_000 + bytes(4),
    "TIFF of directories": tiff_of_directories,
    "TIFF in a circle": lambda: b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8),
    "HEIC of boxes": lambda: boxes_of(b"heic", box(b"free", b"") * (MUCH // 8)),
    "AVIF of boxes": lambda: boxes_of(b"avif", box(b"free", b"") * (MUCH // 8)),
    "HEIC of nothing": lambda: boxes_of(b"heic", bytes(MUCH)),
    "AVIF of nothing": lambda: boxes_of(b"avif", bytes(MUCH)),
    "HEIC of references": lambda: boxes_of(b"heic", box(b"meta", bytes(4) + box(b"iref", bytes(4) + bytes(MUCH)))),
    "AVIF of references": lambda: boxes_of(b"avif", box(b"meta", bytes(4) + box(b"iref", bytes(4) + bytes(MUCH)))),
    "BMP of header": lambda: b"BM" + struct.pack("<IHHI", MUCH, 0, 0, MUCH - 4) + bytes(MUCH),
}
"""Kind of picture -> 20 MB of parts without information."""


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_file_that_is_all_structure_takes_neither_time_nor_memory(world: World, name: str) -> None:
    uri = "data:image/png;base64," + base64.b64encode(STRUCTURES[name]()).decode()
    job = {"task_type": "img2img", "prompt": "a fox", **OWNER, **SMALL, "image_url": uri}
    world.forget()
    started = time.monotonic()
    with flat_memory(400):
        response = world.ask(job)
    took = time.monotonic() - started
    entry = TABLE.setdefault(STRUCTURE[0], Row(STRUCTURE[1]))
    entry.slowest_ms = max(entry.slowest_ms, 1000 * took)
    refused = response.get("error_code") == "invalid_image"
    entry.crashed += not refused and "error" in response
    assert refused or "error" not in response, response
    assert took < 10
    note(STRUCTURE, refused=int(refused), harmless=int(not refused))
    world.good()


def test_seven_pictures_have_no_more_time_than_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes within its own limit: without a common one, they would hold a worker for two minutes and more."""
    png = saved(Image.new("RGB", (16, 16)))
    hook = world.bucket.before

    def slowly(call: str, path: str) -> None:
        if call == "read":
            time.sleep(0.4)

    def ref(name: str) -> str:
        return f"gs://demo-bucket/uploads/user/{name}.png"

    job = {
        "task_type": "inpaint",
        "prompt": "a fox",
        **OWNER,
        **SMALL,
        "image_url": ref("0"),
        "mask_url": ref("1"),
        "controlnets": [{"type": "tile", "image_url": ref(str(number))} for number in (2, 3, 4)],
        "ip_adapters": [{"image_url": ref(str(number))} for number in (5, 6)],
    }
    read = world.bucket.read
    with monkeypatch.context() as patch:
        patch.setattr(timing, "SOURCES_SECONDS", 1.0)
        patch.setattr(
            world.bucket,
            "read",
            lambda path, **limits: (read(path, **limits), (ObjectInfo(1, len(png), "", {}), png))[1],
        )
        world.bucket.before = slowly
        started = time.monotonic()
        answer = world.attack(MANY, job, "download_failed", *UNSURE)
        world.bucket.before = hook
    assert time.monotonic() - started < SOON_SECONDS
    assert "1 seconds together" in answer["error"] or answer["error_code"] in UNSURE
    world.good()


NO_LISTS: list[Any] = ["x", 5, True, 1.5, {}, {"0": {}}, {"path": "x"}, "[]", math.nan]
NO_ENTRIES: list[Any] = [
    5,
    "x",
    None,
    True,
    [],
    [[]],
    [{}],
    nested(900, lists=True),
    {"__proto__": 1},
    {"": 1},
    {"path": None},
]
GOOD_ENTRIES: dict[str, dict[str, Any]] = {
    "loras": {"path": "x"},
    "controlnets": {"type": "tile", "image_url": PICTURE},
    "ip_adapters": {"image_url": PICTURE},
}
SCALES: list[Any] = [-4.01, 4.01, "1", True, math.nan, math.inf, 10**400, [], {}]
REFERENCES: list[Any] = [
    "file:///etc/passwd",
    "x",
    5,
    [],
    {},
    "gs:/x/y",
    "data:,x",
    "ph://1/L0/001",
    "http://10.0.0.1/",
]
OTHERS: list[Any] = ["pose", "CANNY", "style\n", "FaceID", 5, [], {}, True, "x" * 10**5]
WRONG: dict[str, dict[str, list[Any]]] = {
    "loras": {
        "path": [5, [], {}, True, None, "", "  ", "a\x00b", "a\nb", "a\u202eb", "\ud800", "x" * 2049],
        "scale": SCALES,
        "weight_name": [
            *(
                "../x.safetensors",
                "/etc/x.safetensors",
                "a/../../x.safetensors",
                "x.ckpt",
                "x.safetensors\0",
                "",
                "x.pt",
            ),
            *("x.safetensors/", "\\x.safetensors", "~/x.safetensors", "x.safetensors?y", "é.bin"),
            *(5, [], {}, True),
        ],
        **{key: ["y"] for key in ("token", "sha256", "__class__", "source", "headers", "x" * 10**5)},
    },
    "controlnets": {
        "type": [*OTHERS, None],
        "image_url": [*REFERENCES, None],
        "preprocess": ["true", 1, [], "no", 0.0],
        "conditioning_scale": SCALES,
        "start_percentage": [*SCALES, 1, 1.0],
        "end_percentage": [*SCALES, 0, 0.0],
        "model": ["org/x"],
    },
    "ip_adapters": {"type": OTHERS, "image_url": [*REFERENCES, None], "scale": SCALES, "weights": ["x.bin"]},
}
MOST = {"loras": 4, "high_noise_loras": 4, "low_noise_loras": 4, "controlnets": 3, "ip_adapters": 2}


@pytest.mark.parametrize("field", MOST)
def test_a_list_takes_nothing_but_what_it_lists(world: World, field: str) -> None:
    task = "text2video" if "noise" in field else "text2img"
    start = {"task_type": task, "prompt": "a fox"}
    kind = "loras" if "loras" in field else field
    good = GOOD_ENTRIES[kind]
    many = [[good] * number for number in (MOST[field] + 1, 1_000, 100_000)]
    wrong = [good | {key: value} for key, values in WRONG[kind].items() for value in values]
    values = [*NO_LISTS, *many, *([entry] for entry in (*NO_ENTRIES, *wrong))]
    for value in values:
        answer = world.attack(LISTS, {**start, **OWNER, field: value}, "invalid_input", hides="\ud800")
        assert field in answer["error"], answer
    world.good()


# --- the reaper, and costs --------------------------------------------------------------------------------------------


class Old(MemoryDocumentStore):
    """Returns every document with this status, whatever its other fields."""

    def older(self, status: str, field: str, than: datetime, *, limit: int, timeout: float) -> Sequence[str]:
        return [path for path, (fields, _version) in self.stored.items() if fields.get("status") == status][:limit]


def test_the_reaper_gets_past_documents_of_any_shape() -> None:
    documents, past = Old(), datetime.now(UTC) - timedelta(days=2)
    odd: list[Any] = [None, "x", 5, -1, 1.5, True, [], ["x"], {}, {"deaths": "x"}, {"deaths": -5, "nonce": []}]
    shapes = [{"claim": value} for value in odd] + [{"attempt": value} for value in odd]
    shapes += [{"job_id": value} for value in odd] + [{"error": value} for value in odd]
    shapes += [{"progress": value} for value in odd] + [{"claim": {"deaths": 2**63 - 1}}]
    for number, shape in enumerate(shapes):
        path = f"generations/villain/files/{number}"
        documents.write_as_app(path, {"status": "processing", "expires_at": past} | shape)
    for number, value in enumerate(odd):
        documents.write_as_app(f"generations/odd/files/{number}", {"status": "queued", "created_at": value})
    lost = {"status": "processing", "expires_at": past, "job_id": "j", "claim": {"nonce": "n"}}
    documents.write_as_app("generations/alice/files/lost", lost)
    assert reap(documents, limit=10**6) == len(shapes) + 1
    ended = documents.stored["generations/alice/files/lost"][0]
    TABLE.setdefault(REAPED[0], Row(REAPED[1])).others_lost += ended["status"] != "failed"
    assert (ended["status"], ended["error"]["code"]) == ("failed", "worker_lost")
    assert {fields["status"] for path, (fields, _) in documents.stored.items() if "/odd/" in path} == {"queued"}
    note(REAPED, harmless=len(shapes) + len(odd))


def test_who_makes_models_evict_each_other_pays_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of 64 x 64 on another model each time costs tens of seconds of loading, and used to cost one unit."""
    clip = {"task_type": "text2video", "video_width": 64, "video_height": 64, "num_frames": 5}
    with monkeypatch.context() as patch:
        configured(world, patch, sdxl_model=f"a={SDXL}, b=org/b", wan_model=TI2V)
        tiny = {"action": "quote", "prompt": "a fox", "num_inference_steps": 1}
        units = [
            world.ask({**tiny, **fields})["units"]
            for fields in (SMALL, {**SMALL, "model": "b"}, {**SMALL, "model": "a"}, clip)
        ]
    assert units == [1, 31, 1, 121]
    note(PRICED, harmless=4)
    small = World(world.log, max_job_cost=29_000_000)
    with monkeypatch.context() as patch:
        configured(small, patch, sdxl_model=f"a={SDXL}, b=org/b", wan_model=TI2V)
        for fields in ({**SMALL, "model": "b"}, {**clip, "num_frames": 9}):
            job = {"prompt": "a fox", **OWNER, "num_inference_steps": 1, **fields}
            small.attack(PRICED, job, "invalid_input", names="num_inference_steps")
    small.good()
    small.close()

"""Delivery: files in the order of the seeds, all in the bucket or all inline, never half of each."""

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.clock import CHANCES, Busy, until
from tests.support.fakes import PATIENCE, MemoryBucket, fails_times, is_down
from tools.media_probe import probe
from tools.showing import content, opened
from worker.api.request import Text2VideoRequest, parse
from worker.core import timing
from worker.core.errors import BackendError, Cancelled, IdempotencyMismatch, ResultTooLarge, Superseded
from worker.core.types import Owner, Progress
from worker.delivery import uploader
from worker.delivery.delivered import Delivered
from worker.delivery.uploader import ENVELOPE_BYTES, NAME_TAKEN, NO_THUMBNAIL, Destination, Uploader
from worker.engine.protocol import Generated, GeneratedClip, GeneratedImage
from worker.media import mark
from worker.media.artifact import Artifact
from worker.media.inline import Fitted
from worker.storage.results import ObjectOwner, Storage
from worker.storage.store import ObjectInfo

LIMIT = 9_000_000
CLAIMED_AT = "2026-01-01T00:00:00.000000Z"
PATHS = [f"generating/user/image/file_{k}.png" for k in range(3)]


def image(index: int, side: int = 64) -> GeneratedImage:
    pixels = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return GeneratedImage(index, 7 + index, pixels)


def clip(frames: int = 5) -> GeneratedClip:
    return GeneratedClip(7, np.random.default_rng(0).integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8))


class Job:
    """One job's delivery into a bucket in memory, or inline where `cloud` is false."""

    def __init__(
        self,
        *,
        cloud: bool = True,
        count: int = 3,
        marked: bool = True,
        bucket: MemoryBucket | None = None,
        raise_if_stopped: Callable[[], None] = lambda: None,
        **fields: Any,
    ) -> None:
        self.bucket = bucket or MemoryBucket()
        self.progress: list[Progress] = []
        if fields.get("task_type") != "text2video":
            fields["num_images"] = count
        self.raise_if_stopped = raise_if_stopped
        self.admitted = asyncio.Event()
        self.admitted.set()
        owner = Owner("user", fields.get("file_uid", "file"))
        self.provenance = ObjectOwner("job-1", 1, "hash", CLAIMED_AT, file_uid=owner.file_uid)
        destination = Destination(Storage(self.bucket), owner, lambda: self.provenance, self.admission)
        request = parse({"prompt": "x", **fields})
        params = {"video_quality": request.video_quality} if isinstance(request, Text2VideoRequest) else {}
        self.delivery = Uploader(
            request,
            {"seed": 7, "model": "fake", "params": params},
            5,
            destination if cloud else None,
            self,
            marked=marked,
        )

    async def admission(self) -> None:
        await self.admitted.wait()

    def untimed(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)

    def warn(self, warning: str) -> None:
        raise AssertionError(warning)

    def viewer(self) -> None:
        return None

    async def deliver(self, *things: Generated, limit: int = LIMIT) -> Delivered:
        for thing in things:
            self.delivery.take(thing)
        return await self.delivery.finish(limit)


@pytest.mark.parametrize("claimed", [True, False])
async def test_what_was_found_is_taken_back_only_by_who_holds_the_claim(claimed: bool) -> None:
    """Without a claim it may be the result that another job's document is completed with."""
    theirs = Job(count=1)
    await theirs.deliver(image(0))
    mine = Job(count=1)
    mine.bucket.objects |= theirs.bucket.objects
    mine.provenance = replace(mine.provenance, job_id="job-2", claimed=claimed)
    delivered = await mine.deliver(image(0))
    assert delivered.storage == "firebase"
    await mine.delivery.discard()
    assert bool(mine.bucket.objects) is not claimed


async def test_files_come_in_the_order_of_the_images_however_long_each_upload_takes() -> None:
    job = Job()

    def first_is_slowest(call: str, path: str) -> None:
        if call == "upload":
            time.sleep(0.1 * (3 - int(path.rpartition(".")[0][-1])))

    job.bucket.before = first_is_slowest
    delivered = await job.deliver(image(0), image(1), image(2))
    assert [file.seed for file in delivered.files] == [7, 8, 9]
    assert [file.storage_path for file in delivered.files] == PATHS
    assert delivered.uris == tuple(file.url for file in delivered.files)
    assert (delivered.storage, delivered.warnings) == ("firebase", ())
    for file, index in zip(delivered.files, range(3), strict=True):
        assert file.storage_path is not None
        data = job.bucket.objects[file.storage_path][0]
        assert (len(data), file.width, file.height, file.content_type) == (file.size, 64, 64, "image/png")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image(index).pixels)


async def test_one_uploads_while_the_next_is_still_being_made() -> None:
    job = Job(count=2)
    job.delivery.take(image(0))
    await asyncio.to_thread(until, lambda: job.bucket.uploads)
    job.delivery.take(image(1))
    assert len((await job.delivery.finish(LIMIT)).files) == 2


async def test_uploads_run_side_by_side() -> None:
    job = Job()
    together = threading.Barrier(3, timeout=PATIENCE)

    def wait_for_the_others(call: str, path: str) -> None:
        if call == "upload" and "/thumbs/" not in path:
            together.wait()

    job.bucket.before = wait_for_the_others
    await job.deliver(image(0), image(1), image(2))
    assert job.bucket.uploads == 3


async def test_an_upload_that_waits_for_a_thread_has_all_its_time_when_it_begins() -> None:
    """Files of two jobs that are encoded at once may occupy every thread."""
    busy = Busy()
    asyncio.get_running_loop().set_default_executor(busy)
    left: dict[str, float] = {}

    class Watched(MemoryBucket):
        def upload(self, path: str, data: bytes, *, deadline: float, **how: Any) -> ObjectInfo | None:
            left[path] = deadline - busy.begun
            return super().upload(path, data, deadline=deadline, **how)

    await Job(count=1, bucket=Watched()).deliver(image(0))
    assert len(left) == 2
    for path, seconds in left.items():
        assert seconds >= (timing.THUMBNAIL_SECONDS if "thumbs" in path else timing.UPLOAD_SECONDS)


async def test_the_event_loop_stays_free_while_files_are_encoded() -> None:
    """Its longest gap is a fraction of the encoding time; a busy machine gets several chances."""
    found: list[tuple[float, float]] = []
    while not any(gap < min(0.2, encoding / 2) for gap, encoding in found):
        assert len(found) < CHANCES, found
        job = Job(count=1)
        finished = asyncio.create_task(job.deliver(image(0, 1024)))
        longest, last = 0.0, time.monotonic()
        while not finished.done():
            await asyncio.sleep(0)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert len((await finished).files) == 1
        found.append((longest, job.delivery.timings["encode"]))


async def test_timings_tell_encoding_and_uploading_apart() -> None:
    job = Job(count=1)
    job.bucket.before = lambda call, _path: time.sleep(0.2) if call == "upload" else None
    started = time.monotonic()
    await job.deliver(image(0))
    timings = job.delivery.timings
    assert timings["upload"] >= 0.2
    assert timings["encode"] > 0
    assert sum(timings.values()) <= time.monotonic() - started, "each second is counted once"


async def test_uploading_is_told_from_the_moment_all_is_generated() -> None:
    job = Job()
    job.delivery.take(image(0))
    await asyncio.sleep(0.1)
    assert job.progress == []
    job.delivery.take(image(1))
    job.delivery.take(image(2))
    await job.delivery.finish(LIMIT)
    assert {(progress.stage, progress.total_steps) for progress in job.progress} == {("uploading", 3)}
    steps = [progress.step for progress in job.progress]
    assert steps == sorted(steps)
    assert steps[-1] == 3


async def test_a_clip_is_one_mp4() -> None:
    job = Job(task_type="text2video", num_frames=5)
    (file,) = (await job.deliver(clip())).files
    assert (file.storage_path, file.content_type) == ("generating/user/video/file.mp4", "video/mp4")
    found = probe(job.bucket.objects["generating/user/video/file.mp4"][0])
    assert (found.codec, found.frames, found.width, found.height) == ("h264", 5, 64, 64)


@pytest.mark.parametrize("kind", ["unreachable", "refused"])
async def test_if_one_upload_fails_all_files_come_inline_and_none_stays(kind: str) -> None:
    job = Job()
    job.bucket.before = lambda call, path: is_down("storage", kind)(call, path) if path == PATHS[1] else None
    delivered = await job.deliver(image(0), image(1), image(2))
    assert delivered.storage == "base64"
    assert job.bucket.objects == {}
    assert [(file.url, file.storage_path, file.seed) for file in delivered.files] == [
        (None, None, k) for k in (7, 8, 9)
    ]
    for uri, index in zip(delivered.uris, range(3), strict=True):
        assert np.array_equal(np.asarray(opened(uri)), image(index).pixels)
    assert [warning.split(":")[0] for warning in delivered.warnings] == ["storage_unavailable"]


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_name_that_is_another_generations_is_told_as_that(attempt: int) -> None:
    """The only image of `file_0` has the name of the first of several of `file`; it stays, and nothing is spooled."""
    theirs = Job()
    await theirs.deliver(image(0), image(1), image(2))
    mine, path = Job(count=1, file_uid="file_0"), PATHS[0]
    mine.bucket.objects |= theirs.bucket.objects
    mine.provenance = replace(mine.provenance, file_uid="file_0", attempt=attempt)
    delivered = await mine.deliver(image(9))
    assert (delivered.storage, delivered.warnings) == ("base64", (NAME_TAKEN,))
    assert mine.bucket.objects[path] == theirs.bucket.objects[path]
    large = Job(count=1, file_uid="file_0")
    large.bucket.objects |= theirs.bucket.objects
    large.provenance = mine.provenance
    with pytest.raises(IdempotencyMismatch, match="belongs to another generation"):
        await large.deliver(image(9, 512), limit=10_000)
    assert large.bucket.objects == theirs.bucket.objects


async def test_a_request_without_cloud_storage_is_inline_without_a_warning() -> None:
    job = Job(cloud=False, count=2)
    delivered = await job.deliver(image(0), image(1))
    assert (delivered.storage, delivered.warnings, len(delivered.uris)) == ("base64", (), 2)
    assert job.bucket.objects == {}


async def test_what_does_not_fit_is_encoded_again_and_says_so() -> None:
    delivered = await Job(cloud=False, count=1).deliver(image(0, 256), limit=100_000)
    assert delivered.files[0].content_type == "image/webp"
    assert 2 * len(delivered.uris[0]) < 100_000
    assert opened(delivered.uris[0]).size == (256, 256)
    assert delivered.warnings
    quality = delivered.manifest["params"]["output_quality"]
    assert delivered.warnings[0].endswith(f"as WebP at quality {quality}.")


async def test_what_cannot_fit_is_an_error() -> None:
    with pytest.raises(ResultTooLarge):
        await Job(cloud=False, count=1).deliver(image(0, 512), limit=10_000)


async def test_a_newer_attempts_objects_are_left_alone_and_ours_go() -> None:
    job = Job(count=2)
    owner = ObjectOwner("job-2", 2, "hash", "2027", file_uid="file")
    newer = owner.metadata("theirs", Artifact.encoded(b"", "image/png", 64, 64))
    for path in PATHS[:2]:
        job.bucket.upload(path, b"newer", content_type="image/png", metadata=newer, replaces=0, deadline=0)
    with pytest.raises(Superseded):
        await job.deliver(image(0), image(1))
    assert {data for data, _, _ in job.bucket.objects.values()} == {b"newer"}


async def test_discard_takes_back_what_was_uploaded_and_waits_for_what_is_under_way() -> None:
    job = Job(count=2)
    under_way = threading.Event()

    def slow(call: str, path: str) -> None:
        if (call, path) == ("upload", PATHS[1]):
            under_way.set()
            time.sleep(0.2)

    job.bucket.before = slow
    job.delivery.take(image(0))
    job.delivery.take(image(1))
    assert await asyncio.to_thread(under_way.wait, PATIENCE)
    await job.delivery.discard()
    assert (job.bucket.uploads, job.bucket.objects) == (2, {})


async def test_objects_that_cannot_be_taken_back_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    job = Job(count=1)
    job.bucket.before = is_down("storage", calls=["delete"])
    job.delivery.take(image(0))
    await job.delivery.discard()
    (record,) = caplog.records
    assert (getattr(record, "action", ""), getattr(record, "count", 0)) == ("orphans", 2)


async def test_the_fallback_loses_no_picture_when_the_bucket_cannot_even_delete() -> None:
    job = Job(count=2)

    def second_fails_and_no_delete(call: str, path: str) -> None:
        if call == "delete" or path == PATHS[1]:
            raise BackendError("storage", "unreachable")

    job.bucket.before = second_fails_and_no_delete
    delivered = await job.deliver(image(0), image(1))
    assert (delivered.storage, len(delivered.uris)) == ("base64", 2)


async def test_encoding_a_clip_stops_when_the_job_does() -> None:
    def stop() -> None:
        raise Cancelled

    job = Job(task_type="text2video", num_frames=5, raise_if_stopped=stop)
    with pytest.raises(Cancelled):
        await job.deliver(clip(60))
    assert job.bucket.objects == {}


async def test_an_upload_that_fails_for_a_moment_is_the_buckets_business() -> None:
    """The bucket retries within its deadline; delivery asks once."""
    job = Job(count=1)
    once = fails_times(1, is_down("storage"))
    job.bucket.before = lambda call, path: once(call, path) if "/thumbs/" not in path else None
    assert (await job.deliver(image(0))).storage == "base64"


async def test_every_file_says_that_it_was_made_by_ai_and_which_one_it_is() -> None:
    job = Job(count=1, user_id="user", file_uid="file")
    await job.deliver(image(0))
    assert mark.packet("generated", "file") in job.bucket.objects[PATHS[0].replace("_0", "")][0]
    inline = Job(cloud=False, count=1, task_type="img2img", image_url="https://example.com/a.png", output_format="webp")
    delivered = await inline.deliver(image(0))
    assert mark.packet("composite") in content(delivered.uris[0])
    film = Job(count=1, task_type="text2video", user_id="user", file_uid="file")
    await film.deliver(clip())
    assert mark.packet("generated", "file") in film.bucket.objects["generating/user/video/file.mp4"][0]


@pytest.mark.parametrize("limit", [LIMIT, 24_000])
async def test_a_file_without_the_mark_has_none_of_it(limit: int) -> None:
    job = Job(cloud=False, count=1, marked=False)
    delivered = await job.deliver(image(0), limit=limit)
    assert b"xmp" not in content(delivered.uris[0]).lower()


async def test_what_was_encoded_again_to_fit_keeps_the_mark() -> None:
    job = Job(cloud=False, count=1, user_id="user", file_uid="file")
    delivered = await job.deliver(image(0), limit=24_000)
    assert delivered.warnings
    assert mark.packet("generated", "file") in content(delivered.uris[0])


# --- Thumbnails -------------------------------------------------------------------------------------------------------


async def test_each_file_has_a_thumbnail_of_its_own_beside_it() -> None:
    job = Job(count=2, user_id="user", file_uid="file")
    delivered = await job.deliver(image(0, side=1024), image(1, side=1024))
    for k, file in enumerate(delivered.files):
        entry = file.entry()
        assert entry["thumbnail_path"] == f"generating/user/image/thumbs/file_{k}.webp"
        assert entry["thumbnail_url"] != entry["url"]
        assert 20 < len(str(entry["blurhash"])) < 40
        data, info, kind = job.bucket.objects[entry["thumbnail_path"]]
        assert Image.open(io.BytesIO(data)).size == (512, 512)
        assert (kind, info.metadata["file_uid"]) == ("image/webp", "file")
        assert mark.packet("generated", "file") in data
    assert delivered.warnings == ()


async def test_a_clips_poster_is_a_frame_of_it() -> None:
    job = Job(count=1, task_type="text2video")
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    frames[2] = 200  # 0.3 s at five frames a second
    entry = (await job.deliver(GeneratedClip(7, frames))).files[0].entry()
    assert entry["poster_path"] == entry["thumbnail_path"] == "generating/user/video/thumbs/file.webp"
    assert entry["poster_url"] == entry["thumbnail_url"]
    shown = Image.open(io.BytesIO(job.bucket.objects[entry["poster_path"]][0]))
    assert abs(int(np.asarray(shown).mean()) - 200) < 3


async def test_a_thumbnail_that_cannot_be_stored_is_missing_and_nothing_else_is() -> None:
    job = Job(count=1)

    def no_thumbnails(call: str, path: str) -> None:
        if call == "upload" and "/thumbs/" in path:
            raise BackendError("storage", "unreachable")

    job.bucket.before = no_thumbnails
    delivered = await job.deliver(image(0))
    entry = delivered.files[0].entry()
    assert (delivered.storage, delivered.warnings) == ("firebase", (NO_THUMBNAIL,))
    assert (entry["thumbnail_url"], entry["thumbnail_path"]) == (None, None)
    assert entry["blurhash"]


async def test_an_inline_result_has_a_blurhash_and_leaves_no_thumbnail_behind() -> None:
    job = Job(count=1)

    def only_thumbnails(call: str, path: str) -> None:
        if call == "upload" and "/thumbs/" not in path:
            raise BackendError("storage", "unreachable")

    job.bucket.before = only_thumbnails
    delivered = await job.deliver(image(0))
    entry = delivered.files[0].entry()
    assert (delivered.storage, job.bucket.objects, entry["thumbnail_path"]) == ("base64", {}, None)
    assert entry["blurhash"]


@pytest.mark.parametrize(
    ("taken", "stay"), [((), True), (("file",), False), (("file", "thumbnail"), True)], ids=["none", "file", "both"]
)
async def test_of_a_newer_attempts_files_no_thumbnail_is_left_that_it_has_not_seen(
    taken: tuple[str, ...], stay: bool
) -> None:
    job = Job(count=1)
    entry = (await job.deliver(image(0))).files[0].entry()
    paths = {"file": entry["storage_path"], "thumbnail": entry["thumbnail_path"]}
    for which in taken:
        path = str(paths[which])
        job.bucket.take_over(path, {"attempt": "2"}, seen=job.bucket.objects[path][1], deadline=time.monotonic() + 5)
    await job.delivery.leave()
    assert set(job.bucket.objects) == {paths["file"], *([paths["thumbnail"]] if stay else [])}


async def test_thumbnails_are_taken_back_with_their_files() -> None:
    job = Job(count=2)
    job.delivery.take(image(0))
    job.delivery.take(image(1))
    await job.delivery.discard()
    assert (len(job.bucket.uploaded), job.bucket.objects) == (4, {})


async def test_a_clip_has_the_quality_that_was_asked_for_and_keeps_it_where_it_is_made_smaller() -> None:
    sizes = {}
    for quality in ("low", "medium", "high", "maximum"):
        job = Job(task_type="text2video", count=1, video_quality=quality)
        await job.deliver(clip())
        (path,) = (path for path in job.bucket.objects if path.endswith(".mp4"))
        sizes[quality] = len(job.bucket.objects[path][0])
    assert list(sizes.values()) == sorted(set(sizes.values()))
    plain = Job(task_type="text2video", count=1)
    await plain.deliver(clip())
    (path,) = (path for path in plain.bucket.objects if path.endswith(".mp4"))
    assert len(plain.bucket.objects[path][0]) == sizes["high"]
    squeezed = Job(cloud=False, task_type="text2video", count=1, video_quality="maximum")
    delivered = await squeezed.deliver(clip(), limit=ENVELOPE_BYTES + 2 * sizes["maximum"])
    assert len(delivered.files[0].data) < sizes["maximum"]
    assert "lower rate" in delivered.warnings[0]


@pytest.mark.parametrize(
    ("asked", "crf", "reached"),
    [
        ({"video_quality": "maximum"}, 18, "high"),
        ({"video_quality": "maximum"}, 19, "medium"),
        ({"video_quality": "high"}, 28, "low"),
        ({"video_quality": "low"}, 29, None),
        ({}, 46, None),
        ({}, 23, "medium"),
    ],
)
async def test_params_say_the_quality_of_a_clip_that_was_made_smaller(
    asked: dict[str, Any], crf: int, reached: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_smaller(*_: Any, **__: Any) -> Fitted:
        return Fitted([Artifact.encoded(b"clip", "video/mp4", 16, 16)], ["The video did not fit."], crf=crf)

    monkeypatch.setattr(uploader, "fit_video", made_smaller)
    job = Job(cloud=False, task_type="text2video", count=1, **asked)
    delivered = await job.deliver(clip(), limit=1_000_000)
    assert delivered.manifest["params"].get("video_quality") == reached
    said = [warning for warning in delivered.warnings if warning.startswith("video_quality: ")]
    level = asked.get("video_quality")
    fits = reached or "below low"
    assert said == ([f"video_quality: {level} has no effect; what fits into the response is {fits}"] if level else [])


async def test_a_clip_that_fits_has_the_quality_that_was_asked_for() -> None:
    job = Job(cloud=False, task_type="text2video", count=1, video_quality="maximum")
    delivered = await job.deliver(clip(), limit=10_000_000)
    assert delivered.manifest["params"] == {"video_quality": "maximum"}
    assert delivered.warnings == ()

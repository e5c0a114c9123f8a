"""Measures a job's overhead beside the model, in this worker and in a plain implementation, against local emulators.

    python benchmarks/overhead.py [--repeat 3] [--latency-ms 0 50 100] [--model card | demo]
                                     [--card-seconds 0.6] [--only NAME] [--quick]

The model is by default a simulated GPU, which returns photo-like images after a fixed time without using the CPU; or
the demo models, which share the cores with encoding and uploading.

"ours" is `handler.serve` with Google's real clients: validate, claim the document, generate, encode and upload each
image during the generation of the next, complete the document. "plain" uses the same models, pixels and clients: write
the document, generate everything, write the document, encode with default options and upload one file after another,
write the document. Both run in turn, warmed up; their pixels are asserted equal. Overhead is the total time minus the
time inside the model; `after` is the time from the last pixels to the URLs and the document.
"""

import argparse
import asyncio
import dataclasses
import io
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import handler
from benchmarks.encoders import clip, photo
from tests.support.faulty_firebase import FaultyFirebase
from tools import showing
from tools.emulators.firebase import bucket_at, environment
from worker.api.params import Params, VideoParams
from worker.api.request import Request, parse
from worker.api.resolve import resolve
from worker.core.config import load_settings, set_library_defaults
from worker.core.types import Control, Progress, Sources
from worker.engine.protocol import Generated, GeneratedClip, GeneratedImage, Generator, Placement
from worker.job.gpu_queue import GpuThread
from worker.job.progress import Unattended
from worker.job.services import Services

T = TypeVar("T")

USER = "benchmark"
PROMPT = {"prompt": "a red star on a blue background", "seed": 1}
IMAGE = {"task_type": "text2img", "num_inference_steps": 2, **PROMPT}
CLIP = {"task_type": "text2video", "num_inference_steps": 2, **PROMPT}
# Few steps at full size: encoding and uploading depend on the pixels, not on the time to generate them.
CASES: dict[str, dict[str, Any]] = {
    "1 image 1024x1024": {**IMAGE, "width": 1024, "height": 1024},
    "2 images 1024x1024": {**IMAGE, "width": 1024, "height": 1024, "num_images": 2},
    "4 images 1024x1024": {**IMAGE, "width": 1024, "height": 1024, "num_images": 4},
    "clip 832x480x49": {**CLIP, "video_width": 832, "video_height": 480, "num_frames": 49},
}
CARD_SECONDS = 0.6
"""Default seconds that the simulated GPU takes for an image or a video."""
CARD_STEPS = 6
QUICK: dict[str, dict[str, Any]] = {
    "1 image 64x64": {**IMAGE, "width": 64, "height": 64},
    "4 images 64x64": {**IMAGE, "width": 64, "height": 64, "num_images": 4},
    "clip 64x64x5": {**CLIP, "video_width": 64, "video_height": 64, "num_frames": 5},
}
STAGES = ("validate", "claim", "encode", "upload", "complete")


@dataclass(frozen=True, slots=True)
class Run:
    """The times of one job, in seconds."""

    total: float
    pipeline: float
    after: float
    """From the last pixels to the result."""
    stages: dict[str, float]

    @property
    def overhead(self) -> float:
        """The time outside the model."""
        return self.total - self.pipeline


class Stopwatch:
    """A `Generator` that measures the time inside another one's `generate`, and keeps the results."""

    def __init__(self, inner: Generator) -> None:
        self._inner = inner
        self.models, self.controlnet_types = inner.models, inner.controlnet_types
        self.describe, self.estimate = inner.describe, inner.estimate
        self.check, self.prepare = inner.check, inner.prepare
        self.preload, self.health, self.use_idle_moment = inner.preload, inner.health, inner.use_idle_moment
        self.seconds, self.last_at = 0.0, 0.0
        self.made: list[Generated] = []
        self.spans: list[tuple[float, float]] = []
        """Per job, the times of its first step and of its last pixels."""

    def start(self) -> None:
        """Reset the time and the results for the next job."""
        self.seconds, self.made = 0.0, []

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        """Generate with the inner one; the consumer's time between two images does not count."""
        pictures = self._inner.generate(request, params, sources, control)
        began = time.perf_counter()
        while True:
            started = time.perf_counter()
            picture = next(pictures, None)
            self.last_at = time.perf_counter()
            self.seconds += self.last_at - started
            if picture is None:
                self.spans.append((began, self.last_at))
                return
            self.made.append(picture)
            yield picture


class Card:
    """A simulated GPU: a `Generator` with the demo models' defaults, whose images take a fixed time and no CPU."""

    def __init__(self, inner: Generator, seconds: float = CARD_SECONDS) -> None:
        self._seconds = seconds
        self.models, self.controlnet_types = inner.models, inner.controlnet_types
        self.describe, self.estimate = inner.describe, inner.estimate
        self.check, self.preload, self.health = inner.check, inner.preload, inner.health
        self.use_idle_moment = inner.use_idle_moment
        self._pictures = [photo(1024, seed) for seed in range(4)]
        self._clip = clip()

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        """Return at once: there are no weights to load."""
        return Placement("resident", "a timed card has room")

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        """Yield photo-like images, or a video that pans over one, cropped to size."""
        seeds = (params.seed,) if isinstance(params, VideoParams) else params.seeds
        for index, seed in enumerate(seeds):
            for step in range(CARD_STEPS):
                control.raise_if_stopped()
                time.sleep(self._seconds / CARD_STEPS)
                control.report(Progress("generating", step + 1, CARD_STEPS))
            if isinstance(params, VideoParams):
                frames = self._clip[: params.num_frames, : params.height, : params.width]
                yield GeneratedClip(seed, np.ascontiguousarray(frames))
            else:
                cut = self._pictures[index % 4][: params.height, : params.width]
                yield GeneratedImage(index, seed, np.ascontiguousarray(cut))


class WatchedThread(GpuThread):
    """A GPU thread that records when each job was ready for generation."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[float] = []

    def submit(self, call: Callable[[], T], *, ahead: bool = False) -> "Future[T]":
        """Submit a call; only a job that is ready is submitted with `ahead`."""
        if ahead:
            self.ready.append(time.perf_counter())
        return super().submit(call, ahead=ahead)


@dataclass(frozen=True, slots=True)
class Idle:
    """The GPU's idle time with two jobs in flight, from its first step to its last pixels."""

    share: float
    """Idle share of the time."""
    without_job: float
    """Share of the time in which no job was ready: both were being delivered or started."""
    handover: float
    """Median seconds between a job and the next one, when that was ready."""

    def __str__(self) -> str:
        whole, starved, between = (100 * part for part in (self.share, self.without_job, self.share - self.without_job))
        return (
            f"{whole:5.1f} % ({starved:.1f} % no job was ready, {between:.1f} % from one to the next one that was: "
            f"{1000 * self.handover:.1f} ms each)"
        )


class Ours:
    """The worker."""

    def __init__(self, services: Services, watch: Stopwatch) -> None:
        self._services, self._watch = services, watch

    def run(self, job_input: dict[str, Any]) -> Run:
        """Run one job through the handler."""
        file_uid = uuid.uuid4().hex
        job = {**job_input, "user_id": USER, "file_uid": file_uid, "use_cloud_storage": True}
        self._watch.start()
        started = time.perf_counter()
        response = asyncio.run(handler.serve({"id": file_uid, "input": job}, self._services))
        total = time.perf_counter() - started
        assert response.get("storage") == "firebase", response
        timings = response["timings"]
        after = started + total - self._watch.last_at
        return Run(total, self._watch.seconds, after, {**timings, "complete": total - timings["total"]})


class Plain:
    """The plain implementation: sequential, with each library's defaults."""

    def __init__(self, services: Services, watch: Stopwatch, firebase: FaultyFirebase) -> None:
        from firebase_admin import firestore  # its client takes the emulator's address from the environment

        assert services.documents is not None
        self._services, self._watch = services, watch
        self._bucket = bucket_at(firebase.storage_proxy.url, firebase.project, firebase.bucket)
        self._client = services.documents.client  # type: ignore[attr-defined]  # FirestoreStore's client: the same connection
        self._now = firestore.SERVER_TIMESTAMP

    def run(self, job_input: dict[str, Any]) -> Run:
        """Run the same job, also generating in the worker's GPU thread."""
        self._watch.start()
        started = time.perf_counter()
        file_uid = uuid.uuid4().hex
        document = self._client.document(f"generations/{USER}/files/{file_uid}")
        document.set({"status": "processing", "request_data": job_input, "updated_at": self._now}, merge=True)
        made = self._services.gpu.submit(lambda: self._generate(job_input)).result()
        document.set({"status": "uploading", "updated_at": self._now}, merge=True)
        clock = dict.fromkeys(STAGES, 0.0)
        urls: list[str] = []
        for index, picture in enumerate(made):
            begun = time.perf_counter()
            data, suffix, content_type = encode(picture)
            clock["encode"] += time.perf_counter() - begun
            begun = time.perf_counter()
            blob = self._bucket.blob(f"generating/{USER}/{file_uid}_{index}.{suffix}")
            blob.metadata = {"firebaseStorageDownloadTokens": str(uuid.uuid4())}
            blob.upload_from_string(data, content_type=content_type)
            clock["upload"] += time.perf_counter() - begun
            urls.append(blob.public_url)
        document.set({"status": "completed", "urls": urls, "updated_at": self._now}, merge=True)
        ended = time.perf_counter()
        return Run(ended - started, self._watch.seconds, ended - self._watch.last_at, clock)

    def _generate(self, job_input: dict[str, Any]) -> list[NDArray[Any]]:
        request, settings = parse(job_input), self._services.settings
        params = resolve(
            request,
            self._watch.describe(request.task_type),
            max_image_pixels=settings.max_image_pixels,
            max_job_cost=settings.max_job_cost,
        )
        made = list(self._watch.generate(request, params, Sources(), Unattended()))
        started = time.perf_counter()
        # A video pipeline of diffusers returns floats by default: the conversion counts as its time.
        frames = [item if item.ndim == 3 else item.astype(np.float32) / 255 for item in pixels(made)]
        self._watch.seconds += time.perf_counter() - started
        return frames


def encode(picture: NDArray[Any]) -> tuple[bytes, str, str]:
    """Encode as Pillow's default PNG, or as diffusers' `export_to_video` does with imageio at quality 5."""
    if picture.ndim == 3:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "PNG")
        return out.getvalue(), "png", "image/png"
    _, height, width, _ = picture.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=15, quality=5)
        writer.send(None)
        for frame in picture:
            writer.send((frame * 255).astype(np.uint8))
        writer.close()
        return path.read_bytes(), "mp4", "video/mp4"


def pixels(made: list[Generated]) -> list[NDArray[np.uint8]]:
    """Return a job's results as arrays."""
    return [item.pixels if isinstance(item, GeneratedImage) else item.frames for item in made]


def warm_up(cases: dict[str, dict[str, Any]], ours: Ours, plain: Plain, watch: Stopwatch) -> None:
    """Run every case once in both ways, to load and connect everything, and assert that their pixels are equal."""
    for name, job_input in cases.items():
        ours.run(job_input)
        made = pixels(watch.made)
        plain.run(job_input)
        again = pixels(watch.made)
        same = len(made) == len(again) and all(map(np.array_equal, made, again))
        assert same, f"{name}: the two ways generated different pixels"


def measure(
    firebase: FaultyFirebase,
    cases: dict[str, dict[str, Any]],
    latencies_ms: list[float],
    repeat: int,
    card_seconds: float | None,
) -> tuple[dict[tuple[str, float, str], list[Run]], dict[float, Idle]]:
    """Run all cases, in rounds, so that other load on the machine affects both ways alike.

    Args:
        firebase: the emulators.
        cases: job inputs by name.
        latencies_ms: added each way to Storage and Firestore.
        repeat: number of rounds.
        card_seconds: see `Card`; None for the demo models.

    Returns:
        (case, latency, way) -> its runs, and latency -> the GPU's idle time with two jobs in flight.
    """
    settings = load_settings(sdxl_model="demo", wan_model="demo")
    services = handler.build(settings)
    watch = Stopwatch(services.generator if card_seconds is None else Card(services.generator, card_seconds))
    gpu = WatchedThread()
    services = dataclasses.replace(services, generator=watch, gpu=gpu)
    ours, plain = Ours(services, watch), Plain(services, watch, firebase)
    warm_up(cases, ours, plain, watch)
    runs: dict[tuple[str, float, str], list[Run]] = {}
    for turn in range(repeat):
        for latency in latencies_ms:
            firebase.set_latency(latency / 1000)
            for name, job_input in cases.items():
                ways: list[tuple[str, Ours | Plain]] = [("ours", ours), ("plain", plain)]
                for way, runner in ways if turn % 2 == 0 else reversed(ways):
                    runs.setdefault((name, latency, way), []).append(runner.run(job_input))
    idle: dict[float, Idle] = {}
    for latency in latencies_ms:
        firebase.set_latency(latency / 1000)
        idle[latency] = asyncio.run(two_at_a_time(services, gpu, watch, next(iter(cases.values())), 4 * repeat))
    return runs, idle


async def two_at_a_time(
    services: Services, gpu: WatchedThread, watch: Stopwatch, job_input: dict[str, Any], jobs: int
) -> Idle:
    """Keep two jobs in flight, as with `WORKER_CONCURRENCY=2`: start one as soon as another is answered."""
    watch.spans.clear()
    gpu.ready.clear()
    left = iter(range(jobs))

    async def take_jobs() -> None:
        for _ in left:
            file_uid = uuid.uuid4().hex
            job = {**job_input, "user_id": USER, "file_uid": file_uid, "use_cloud_storage": True}
            response = await handler.serve({"id": file_uid, "input": job}, services)
            assert response.get("storage") == "firebase", response

    await asyncio.gather(take_jobs(), take_jobs())
    whole = watch.spans[-1][1] - watch.spans[0][0]
    gaps, starved = [], []
    for (_, ended), (begins, _), ready in zip(watch.spans, watch.spans[1:], gpu.ready[1:], strict=False):
        starved.append(max(0.0, ready - ended))
        gaps.append(begins - ended)
    handovers = [gap - starving for gap, starving in zip(gaps, starved, strict=True)]
    return Idle(sum(gaps) / whole, sum(starved) / whole, _median(handovers))


def report(runs: dict[tuple[str, float, str], list[Run]]) -> str:
    """Return a table with the medians of each case in both ways, and one with the stages of ours."""
    rows: list[list[object]] = []
    stages: list[list[object]] = []
    for name, latency, way in sorted(runs, key=lambda key: (key[1], list(runs).index(key))):
        these = runs[name, latency, way]
        overhead = _median([run.overhead for run in these])
        total = _median([run.total for run in these])
        share = _median([100 * run.overhead / run.total for run in these])
        plain = _median([run.overhead for run in runs[name, latency, "plain"]])
        after = _median([run.after for run in these])
        plain_after = _median([run.after for run in runs[name, latency, "plain"]])
        case = [name, f"{latency:g}", way]
        ratios = [f"{plain_after / after:.1f}x", f"{plain / overhead:.1f}x"] if way == "ours" else ["", ""]
        pipeline = _median([run.pipeline for run in these])
        times = [f"{seconds:.2f}" for seconds in (total, pipeline, overhead)]
        rows.append([*case, *times, f"{share:.0f}%", f"{after:.2f}", *ratios])
        stages.append([*case, *(f"{1000 * _median([run.stages[stage] for run in these]):.0f}" for stage in STAGES)])
    heads = ["case", "latency ms", "way"]
    table = showing.table(
        rows, [*heads, "total s", "pipeline s", "overhead s", "share", "after s", "after: plain/ours", "plain/ours"]
    )
    where = showing.table([row for row in stages if row[2] == "ours"], [*heads, *(f"{stage} ms" for stage in STAGES)])
    return f"{table}\n\nwhere ours goes (encode and upload: sums over the files, most of it beside the model)\n{where}"


def _median(values: list[float]) -> float:
    return statistics.median(values)


def main() -> None:
    """Start the emulators, run both ways and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0.0, 50.0, 100.0], help="added each way")
    parser.add_argument("--model", choices=("card", "demo"), default="card")
    parser.add_argument("--card-seconds", type=float, default=CARD_SECONDS, help="of a picture or a clip")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--quick", action="store_true", help="small pictures, once: whether it runs, not how fast")
    arguments = parser.parse_args()
    set_library_defaults()
    showing.quiet_logs()
    cases, repeat = (QUICK, 1) if arguments.quick else (CASES, arguments.repeat)
    cases = {name: job_input for name, job_input in cases.items() if arguments.only in name}
    with FaultyFirebase() as firebase, environment(firebase.env):
        seconds = arguments.card_seconds if arguments.model == "card" else None
        runs, idle = measure(firebase, cases, arguments.latency_ms, repeat, seconds)
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load not known"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"model: {arguments.model}, {cores} cores, {load}, medians of {repeat}; "
        "latency is added each way to Storage and Firestore: a round trip costs twice as much"
    )
    print(report(runs))
    print(f"\nthe card waits, jobs of {next(iter(cases))} two at a time (WORKER_CONCURRENCY=2):")
    for latency, waits in idle.items():
        print(f"{latency:>5g} ms: {waits}")


if __name__ == "__main__":
    main()

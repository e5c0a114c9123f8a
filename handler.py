"""RunPod's adapter and the composition root: job dict in, result dict out. The only importer of `runpod`.

RunPod runs `python handler.py`. `--test_input '{"input": {...}}'` runs one job, `--rp_serve_api` serves a local API.
Importing this module is cheap and loads no model; `main` loads the models.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from worker.api import json_text
from worker.api.styles import check_styles
from worker.auth.caller import Identity
from worker.auth.tickets import Tickets
from worker.core import logs, timing
from worker.core.config import (
    ConfigError,
    Settings,
    default_settings,
    load_settings,
    misspelt_variables,
    opentelemetry_problem,
    set_library_defaults,
    unheeded_variables,
)
from worker.core.errors import Cancelled, GpuFault
from worker.core.stop import StopSignal
from worker.core.types import Progress
from worker.delivery.own_objects import OwnObjects
from worker.delivery.spool import Spool
from worker.engine.engine import Engine
from worker.firebase.app import Firebase
from worker.job.context import Job
from worker.job.gpu_queue import GpuThread
from worker.job.progress import Throttle, Unattended, terminal_bar
from worker.job.runner import run
from worker.job.services import Services
from worker.media.credentials import Signer
from worker.sources.loader import SourceLoader
from worker.sources.lora_files import LoraFiles
from worker.storage.results import Storage
from worker.telemetry import spans

log = logging.getLogger("worker")

STARTED = time.monotonic()


def build(settings: Settings) -> Services:
    """Assemble the worker. Opens no connection and loads no model."""
    firebase = _firebase(settings)
    bucket = firebase.bucket if firebase else None
    documents = firebase.documents if firebase else None
    storage = Storage(bucket, settings.storage_emulator_host, retention=settings.retention) if bucket else None
    worker_id = settings.runpod_pod_id or f"local-{uuid.uuid4().hex[:8]}"
    engine = Engine(settings)
    return Services(
        settings=settings,
        generator=engine,
        gpu=GpuThread(engine.use_idle_moment),
        sources=SourceLoader(settings, OwnObjects(storage, documents) if storage else None),
        loras=LoraFiles(settings),
        documents=documents,
        storage=storage,
        identity=_identity(settings, firebase),
        worker_id=worker_id,
        spool=Spool(settings.outbox_dir, retention=settings.retention) if settings.outbox_dir.parent.is_dir() else None,
        telemetry=_telemetry(settings, worker_id),
        signer=Signer.of(settings) if settings.ai_mark == "on" else None,
    )


def _telemetry(settings: Settings, worker_id: str) -> spans.Telemetry:
    sent = settings.signals
    if not sent:
        return spans.OFF
    from worker.telemetry.otlp import Otlp  # a third of a second

    try:
        telemetry = Otlp(worker_id, sent)
    except ValueError:
        raise ConfigError(opentelemetry_problem()) from None
    log.info("%s are sent over OTLP", " and ".join(sent), extra={"action": "telemetry"})
    return telemetry


def _identity(settings: Settings, firebase: Firebase | None) -> Identity:
    secret = settings.ticket_secret
    tickets = Tickets(secret.get_secret_value()) if secret else None
    return Identity(firebase.users if firebase else None, tickets, required=settings.require_id_token)


def _firebase(settings: Settings) -> Firebase | None:
    """Firebase, or None: with an unreadable key a worker loses documents and URLs, never the results."""
    if settings.firebase_service_account_key is None and not settings.uses_emulators:
        if settings.firebase_storage_bucket:
            log.warning(
                "FIREBASE_SERVICE_ACCOUNT_KEY: is not set, and FIREBASE_STORAGE_BUCKET is; results go back inline",
                extra={"action": "firebase_disabled"},
            )
        return None
    try:
        firebase = Firebase(settings)
        firebase.connect()
    except ConfigError as error:
        log.error("%s; results go back inline", error, extra={"action": "firebase_disabled"})  # noqa: TRY400 - no traceback
        return None
    log.info("Firebase: %s", firebase, extra={"action": "firebase"})
    return firebase


@functools.cache
def shared_services() -> Services:
    """The worker of this process, built on first use."""
    return build(load_settings())


async def handler(job: dict[str, Any]) -> dict[str, Any]:
    """RunPod's entry point: serve one job.

    RunPod's stop signal arrives as cancellation of this coroutine. The generation stops at its next denoising step, the
    document reaches its terminal state and the GPU becomes free; only then does the cancellation propagate.
    """
    services, bar = shared_services(), terminal_bar(str(job.get("id", "job")))
    try:
        response = await serve(job, services, bar)
    finally:
        if bar is not None:
            bar.close()
    if response.get("refresh_worker") and services.settings.on_platform:
        # `refresh_worker` asks RunPod to stop the pod, but the SDK goes on taking jobs until it does: drain and leave.
        signal.raise_signal(signal.SIGTERM)
    return response


async def serve(
    job: dict[str, Any], services: Services, watch: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """As `handler`, on the worker that the caller passes. `watch` receives all progress, in the event loop."""
    stop = StopSignal()
    posts = Throttle(_progress_sink(job)) if services.settings.runpod_webhook_post_output else None

    def on_progress(progress: Progress) -> None:
        for sink in (posts, watch):
            if sink is not None:
                sink(progress)

    work = asyncio.create_task(run(Job(str(job.get("id", "local")), job.get("input")), services, stop, on_progress))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.request(Cancelled())
        await _wait(work)
        raise
    finally:
        if posts is not None:
            await posts.close()


async def _wait(work: "asyncio.Task[Any]") -> None:
    """Wait for work that ends by itself, however often RunPod repeats its stop signal."""
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            log.info("already stopping", extra={"action": "stop_repeated"})


def _progress_sink(job: dict[str, Any]) -> Callable[[Progress], Awaitable[None]]:
    """Post progress as `runpod.serverless.progress_update` does, but awaited: in order, and never after the result."""

    async def post(progress: Progress) -> None:
        from runpod.http_client import AsyncClientSession
        from runpod.serverless.modules.rp_http import send_result

        update = {"status": "IN_PROGRESS", "output": progress.public()}
        try:
            async with asyncio.timeout(timing.PROGRESS_POST_SECONDS), AsyncClientSession() as session:
                await send_result(session, update, job)
        except (TimeoutError, OSError):
            log.info("a progress post was lost", extra={"action": "progress_lost"})

    return post


def _read_any_job() -> None:
    """Let the SDK read jobs that Python's JSON parser rejects, so that the worker can refuse them with a message.

    The SDK parses the response to its job-take before it calls a handler, and drops a response that it cannot parse. No
    job of that batch is ever answered: one user's deeply nested value would lose the jobs of others.
    """
    from runpod.serverless.modules import rp_scale

    take = rp_scale.get_job

    class Session:
        """The SDK's session, with another JSON parser."""

        def __init__(self, session: Any) -> None:
            self._session = session

        @contextlib.asynccontextmanager
        async def get(self, url: str) -> AsyncIterator[Any]:
            async with self._session.get(url) as response:
                response.json = functools.partial(response.json, loads=json_text.read)
                yield response

    async def get_job(session: Any, num_jobs: int = 1) -> Any:
        return await take(Session(session), num_jobs)

    rp_scale.get_job = get_job


class _Poll:
    """One of the SDK's long polls. Once `end` is called, this poll and every later one returns an empty list."""

    def __init__(self, ask: Callable[..., Awaitable[Any]]) -> None:
        self._ask, self._over = ask, False
        self._under_way: asyncio.Future[Any] | None = None

    async def __call__(self, *about: Any) -> Any:
        poll = self._under_way = asyncio.ensure_future(self._ask(*about))
        if self._over:
            poll.cancel()
        try:
            await asyncio.wait({poll})
        finally:
            poll.cancel()
        return [] if poll.cancelled() else poll.result()

    def end(self) -> None:
        """End the poll; safe in a signal handler."""
        self._over = True
        if self._under_way is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing polls any more
                self._under_way.get_loop().call_soon_threadsafe(self._under_way.cancel)


def _leave_when_told() -> None:
    """Let a worker that is told to shut down take no further job, and exit as soon as its last job ends.

    Left alone, the SDK waits up to 90 s for both of its polls and silently drops a job that one of them brings.
    """
    from runpod.serverless.modules import rp_scale

    scaler = rp_scale.JobScaler
    taking, stopping = _Poll(rp_scale.get_job), _Poll(rp_scale.get_stop_signals)
    leave, work = scaler.kill_worker, scaler.run_jobs

    def kill_worker(self: Any) -> None:
        leave(self)
        taking.end()

    async def run_jobs(self: Any, session: Any) -> None:
        await work(self, session)
        stopping.end()  # not earlier: a job that is finishing can still be cancelled

    rp_scale.get_job, rp_scale.get_stop_signals = taking, stopping
    scaler.kill_worker, scaler.run_jobs = kill_worker, run_jobs


def _register_fitness_checks(services: Services) -> None:
    """Register the checks that run before the first job; RunPod replaces a worker that fails one."""
    import runpod

    @runpod.serverless.register_fitness_check  # type: ignore[untyped-decorator]  # the SDK has no types
    def models_found_and_gpu_works() -> None:
        services.gpu.submit(services.generator.health).result()

    @runpod.serverless.register_fitness_check  # type: ignore[untyped-decorator]  # the SDK has no types
    def firebase_key_is_readable() -> None:
        # Without Firebase a worker serves inline results. One that must verify users would refuse every cloud job.
        if services.identity.required and not services.identity.can_check:
            raise RuntimeError("REQUIRE_ID_TOKEN needs a readable FIREBASE_SERVICE_ACCOUNT_KEY or a TICKET_SECRET")
        log.info("Firebase is %s", "ready" if services.identity.users else "not in use", extra={"action": "firebase"})
        if services.identity.users is not None and not services.identity.required:
            log.warning(
                "REQUIRE_ID_TOKEN is off: whoever holds the endpoint's key may act for any user_id",
                extra={"action": "users_unproven"},
            )


def _preload(services: Services) -> None:
    """Load the models of `PRELOAD_TASKS`; runs in the GPU thread."""
    bar = terminal_bar("models")
    try:
        ready = services.generator.preload(services.settings.preload_tasks, Unattended(bar) if bar else Unattended())
    except GpuFault as error:
        # The health check runs next, and RunPod shows its message; a process that exits here leaves only a traceback.
        log.error("no model is preloaded: %s", error, extra={"action": "preload"})  # noqa: TRY400 - no traceback
        return
    finally:
        if bar is not None:
            bar.close()
    services.telemetry.ready(time.monotonic() - STARTED)
    log.info("ready for %s", ", ".join(ready) or "no task yet", extra={"action": "preloaded"})


def deliver_spool(services: Services) -> threading.Event:
    """Deliver spooled results in a thread beside the jobs: those found at the start, and those this worker adds.

    Returns:
        An event; setting it ends the thread.
    """
    spool, storage, documents, over = services.spool, services.storage, services.documents, threading.Event()
    if spool is None or storage is None or documents is None:
        return over

    def deliver() -> None:
        spool.deliver(storage, documents)
        while not over.wait(timing.SPOOL_AGAIN_SECONDS):
            spool.deliver(storage, documents)

    threading.Thread(target=deliver, name="spool", daemon=True).start()
    return over


def _leave_while_loading() -> None:
    """Exit at once on a SIGTERM that arrives before the SDK handles it.

    In the image the worker is process 1, for which an unhandled SIGTERM has no effect: it would continue to download
    and load, in paid time, until it is killed.
    """

    def leave(*_: object) -> None:
        os._exit(128 + signal.SIGTERM)

    def as_it_was() -> None:
        # The SDK forks its ping process before it sets its own handler, and waits for that process to end.
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, leave)
    os.register_at_fork(after_in_child=as_it_was)


def _check_test_input(arguments: list[str]) -> None:
    """Check the one argument that a shell's quoting spoils; the SDK would end with an error of its parser.

    Raises:
        ConfigError: `--test_input` is not a JSON object.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--test_input", default="{}")
    try:
        given = json.loads(parser.parse_known_args(arguments)[0].test_input)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError('--test_input: must be a JSON object, such as {"input": {"prompt": "..."}}; mind the quotes')


def main() -> None:
    """Load the models, then run the SDK's job loop."""
    _leave_while_loading()
    set_library_defaults()
    logs.configure(default_settings())  # what is wrong with the environment is a log line too
    try:
        _check_test_input(sys.argv[1:])
        settings = load_settings()
        check_styles(settings.styles or {}, settings.loras or {})
        logs.configure(settings)
        for name, meant in misspelt_variables().items():
            log.warning("%s: nobody reads this variable; is %s meant?", name, meant, extra={"action": "misspelt"})
        for name, effect in unheeded_variables(settings).items():
            log.warning("%s: %s", name, effect, extra={"action": "unheeded"})
        services = shared_services()
    except ConfigError as error:
        log.critical("cannot start: %s", error, extra={"action": "cannot_start"})
        sys.exit(1)
    serves_many = settings.on_platform or "--rp_serve_api" in sys.argv
    loading = services.gpu.submit(lambda: _preload(services)) if serves_many else None
    import runpod  # takes a second or two, while the models load

    _read_any_job()
    _leave_when_told()
    _register_fitness_checks(services)
    if loading is not None:
        deliver_spool(services)
        loading.result()
    runpod.serverless.start(
        {"handler": handler, "concurrency_modifier": lambda _: settings.worker_concurrency},
    )


if __name__ == "__main__":
    main()

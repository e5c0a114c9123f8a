"""Runs model downloads that outlive the job that requested them: one thread per model, shared by all waiting jobs.

If a job gives up, the download continues, and the next job waits for the rest. A worker that follows a dead one finds
its finished files (https://huggingface.co/docs/huggingface_hub, "Understand caching") and downloads the others. Imports
no torch.
"""

import logging
import threading
import time
from concurrent.futures import Future, wait
from pathlib import Path

from worker.core.types import Control, Progress
from worker.engine.models import hub
from worker.engine.vendor_errors import translated

log = logging.getLogger(__name__)

ASKED_EVERY_SECONDS = 0.5
LOGGED_EVERY_SECONDS = 15.0

_under_way: dict[tuple[str, hub.What, bool], "Future[Path]"] = {}
_lock = threading.Lock()


def fetch(hub_id: str, what: hub.What, control: Control, *, half: bool) -> Path:
    """Wait for a model's download and return its folder; see `hub.download`.

    The wait does not count against the job's time limit. The next call restarts a failed download.

    Raises:
        ModelUnavailable, DiskFull: the download failed; all waiting jobs get the same error.
        What `control.raise_if_stopped` raises, within a second; the download continues.
    """
    coming = _join(hub_id, what, half)
    logged = time.monotonic()
    with control.untimed():
        while True:
            done, _ = wait((coming,), timeout=ASKED_EVERY_SECONDS)
            if done:
                return coming.result()
            control.raise_if_stopped()
            control.report(Progress("loading", 0, 1))
            if time.monotonic() - logged > LOGGED_EVERY_SECONDS:
                logged = time.monotonic()
                log.info(
                    "downloading %s",
                    hub_id,
                    extra={"action": "download", "model": hub_id, "bytes": hub.arrived(hub_id)},
                )


def _join(hub_id: str, what: hub.What, half: bool) -> "Future[Path]":
    """Return the running download of this model, starting it if necessary."""
    key = (hub_id, what, half)
    with _lock:
        if key not in _under_way:
            coming: Future[Path] = Future()
            _under_way[key] = coming
            # A daemon, so that a worker can exit without waiting for it.
            threading.Thread(target=_download, args=(key, coming), name="download", daemon=True).start()
        return _under_way[key]


def _download(key: tuple[str, hub.What, bool], coming: "Future[Path]") -> None:
    hub_id, what, half = key
    log.info("downloading %s", hub_id, extra={"action": "download", "model": hub_id})
    started = time.monotonic()
    try:
        with translated("load"):
            folder = hub.download(hub_id, what, half=half)
    except BaseException as error:  # noqa: BLE001 - passed to all waiting jobs, nothing is swallowed
        _forget(key)
        coming.set_exception(error)
    else:
        seconds = round(time.monotonic() - started, 2)
        log.info("%s is here", hub_id, extra={"action": "download", "model": hub_id, "seconds": seconds})
        _forget(key)
        coming.set_result(folder)


def _forget(key: tuple[str, hub.What, bool]) -> None:
    with _lock:
        del _under_way[key]

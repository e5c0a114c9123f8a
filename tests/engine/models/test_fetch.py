"""Downloads outlive the job that began them, are shared, and are finished by the next job or worker."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.clock import SOON_SECONDS, until
from tests.support.engine_jobs import Recorder
from tests.support.model_folders import put
from tests.support.model_hub import LARGE, model_hub
from worker.core.config import REPOSITORY
from worker.core.errors import Cancelled, DiskFull, ModelUnavailable
from worker.engine.models import hub
from worker.engine.models.fetch import fetch


class Fetched:
    """Stands in for `hub.download`: it blocks until `arrive` is set, and fails while there is an `error`."""

    def __init__(self) -> None:
        self.arrive = threading.Event()
        self.error: Exception | None = None
        self.calls: list[str] = []

    def __call__(self, hub_id: str, what: str, *, half: bool) -> Path:
        self.calls.append(hub_id)
        assert self.arrive.wait(60)
        if self.error is not None:
            raise self.error
        return Path("/models") / hub_id


class Joins(Recorder):
    """A job that tells when it waits for its download."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    @contextmanager
    def untimed(self) -> Iterator[None]:
        self.waits.set()
        yield


class Impatient(Recorder):
    """A job that is cancelled the third time it checks."""

    asked = 0

    def raise_if_stopped(self) -> None:
        self.asked += 1
        if self.asked == 3:
            raise Cancelled


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetched]:
    fetched = Fetched()
    monkeypatch.setattr(hub, "download", fetched)
    yield fetched
    fetched.arrive.set()


def test_a_job_that_gives_up_leaves_its_download_to_the_next_one(download: Fetched) -> None:
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch("org/left", "pipeline", Impatient(), half=True)
    assert time.monotonic() - began < SOON_SECONDS
    threading.Timer(0.1, download.arrive.set).start()
    assert fetch("org/left", "pipeline", Recorder(), half=True) == Path("/models/org/left")
    assert download.calls == ["org/left"]


def test_two_jobs_wait_for_one_download(download: Fetched) -> None:
    with ThreadPoolExecutor(2) as pool:
        controls = Joins(), Joins()
        jobs = [pool.submit(fetch, "org/shared", "pipeline", control, half=True) for control in controls]
        assert all(control.waits.wait(20) for control in controls)
        download.arrive.set()
        assert {job.result(timeout=20) for job in jobs} == {Path("/models/org/shared")}
    assert download.calls == ["org/shared"]


def test_a_download_that_fails_is_told_to_all_in_our_words_and_can_be_tried_again(download: Fetched) -> None:
    download.error = OSError("https://hub.example/secret cannot be reached")
    with ThreadPoolExecutor(2) as pool:
        controls = Joins(), Joins()
        jobs = [pool.submit(fetch, "org/failing", "pipeline", control, half=True) for control in controls]
        assert all(control.waits.wait(20) for control in controls)
        download.arrive.set()
        for job in jobs:
            with pytest.raises(ModelUnavailable) as caught:
                job.result(timeout=20)
            assert "secret" not in str(caught.value)
    download.error = OSError(28, "No space left on device")
    with pytest.raises(DiskFull):
        fetch("org/failing", "pipeline", Recorder(), half=True)
    download.error = None
    assert fetch("org/failing", "pipeline", Recorder(), half=True) == Path("/models/org/failing")
    assert len(download.calls) == 3


def test_the_wait_is_not_counted_against_the_jobs_time_and_is_told_as_loading(download: Fetched) -> None:
    class Clock(Recorder):
        stands = False

        @contextmanager
        def untimed(self) -> Iterator[None]:
            self.stands = True
            yield
            self.stands = False

        def raise_if_stopped(self) -> None:
            assert self.stands
            download.arrive.set()

    clock = Clock()
    fetch("org/timed", "pipeline", clock, half=True)
    assert not clock.stands
    assert {progress.stage for progress in clock.progress} == {"loading"}


def test_the_next_worker_fetches_only_what_had_not_arrived(
    demo_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed in the middle of a file; huggingface_hub itself, over HTTP, with a local hub."""
    repository = tmp_path / "hub" / "org" / "small"
    repository.parent.mkdir(parents=True)
    repository.symlink_to(demo_models / "sdxl")
    unet = "unet/diffusion_pytorch_model.safetensors"
    with model_hub(tmp_path / "hub") as served:
        served.held = unet
        code = "from worker.engine.models import hub; hub.download('org/small', 'pipeline', half=True)"
        environment = os.environ | {
            "HF_ENDPOINT": served.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
        }
        with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=REPOSITORY, stderr=-3) as worker:
            cache = tmp_path / "home" / "hub"
            until(lambda: unet in served.sent and len(list(cache.glob("*/snapshots/*/*/*.safetensors"))) == 3, 90)
            until(lambda: len(list(cache.glob("*/blobs/*.incomplete"))) == 1, 90)
            worker.kill()
        served.sent.clear()
        served.release.set()
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=REPOSITORY, check=True, timeout=90)
        assert served.sent == [unet]
    (folder,) = cache.glob("*/snapshots/*")
    for name in (unet, "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"):
        assert (folder / name).read_bytes() == (demo_models / "sdxl" / name).read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert hub.arrived("org/small") >= (folder / unet).stat().st_size


def test_a_repository_in_its_authors_own_layout_is_told_as_that(tmp_path: Path) -> None:
    """Every Wan has two repositories, and the one without -Diffusers comes first in a search."""
    put(tmp_path / "Wan-AI" / "Wan2.1-T2V-1.3B" / "config.json", {})
    code = "from worker.engine.models import hub; hub.download('Wan-AI/Wan2.1-T2V-1.3B', 'pipeline', half=True)"
    with model_hub(tmp_path) as served:
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
    assert "Wan-AI/Wan2.1-T2V-1.3B is not in diffusers' layout" in told.stderr
    assert "-Diffusers" in told.stderr


def test_a_download_tells_the_log_neither_the_hubs_address_nor_a_path(tmp_path: Path) -> None:
    """Weights are behind signed addresses; huggingface_hub logs each of its requests."""
    put(tmp_path / "org" / "name" / "config.json", {})
    (tmp_path / "org" / "name" / "x.safetensors").write_bytes(bytes(2 * LARGE))
    code = (
        "from worker.core import config, logs; from worker.engine.models import hub; config.set_library_defaults();"
        "logs.configure(config.load_settings()); print(hub.download('org/name', 'upscaler', half=False))"
    )
    with model_hub(tmp_path) as served:
        served.busy = 1
        own = {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | own | {"LOG_LEVEL": "DEBUG"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )
    assert (served.busy, served.sent) == (0, ["x.safetensors"])
    assert (Path(ran.stdout.strip()) / "x.safetensors").is_file()
    assert "127.0.0.1" not in ran.stderr
    assert "/resolve/" not in ran.stderr

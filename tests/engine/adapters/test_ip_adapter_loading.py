"""IP-Adapters in the published layouts beside a model in a folder: what is read, when, and how many bytes it counts."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.engine.conftest import engine_of
from tests.support.engine_jobs import Recorder, picture
from tests.support.ip_adapters import FACE_ID, LARGE, PLAIN, PLUS, ip_adapter
from tests.support.requested_jobs import URL, Job, resolved, run, small_job
from worker.core.config import load_settings
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.memory.footprint import extra_bytes
from worker.engine.memory.offload import module_bytes
from worker.engine.models.loader import Loader, SdxlParts

Serve = Callable[[Path], Engine]


@pytest.fixture(scope="module")
def unet(demo_models: Path) -> Any:
    kind: Any = UNet2DConditionModel
    return kind.from_pretrained(str(demo_models / "sdxl" / "unet"))


@pytest.fixture
def serve(demo_models: Path, tmp_path: Path) -> Serve:
    """Return a function that builds an engine with the demo networks in another folder, and an adapter's folder."""
    sdxl = shutil.copytree(demo_models / "sdxl", tmp_path / "mine")

    def start(folder: Path) -> Engine:
        return engine_of(load_settings(sdxl_model=str(sdxl), ip_adapter_model=str(folder), sdxl_refiner=None))

    return start


def seeing(scale: float = 1.0) -> Job:
    job = small_job(ip_adapters=[{"image_url": URL, "scale": scale}])
    return Job(job.fields, replace(job.sources, references=(picture(),)))


def parts_of(engine: Engine) -> SdxlParts:
    parts = engine._cache[engine.registry.spec(TaskType.TEXT2IMG)].parts
    assert isinstance(parts, SdxlParts)
    return parts


@pytest.mark.parametrize("name", [PLAIN, PLUS, LARGE])
def test_each_published_layout_is_read_and_weighs_what_was_told(
    unet: Any, serve: Serve, tmp_path: Path, name: str
) -> None:
    engine, job = serve(ip_adapter(tmp_path / "adapters", unet.float(), name)), seeing()
    (plain,) = run(engine, small_job())
    assert parts_of(engine).ip_adapter is None
    assert not np.array_equal(run(engine, job)[0], plain)
    request, _ = resolved(engine, job)
    told = extra_bytes(engine.registry.spec(request.task_type, None, request), cuda=False)
    adapter = parts_of(engine).ip_adapter
    # An encoder's position ids are in no file.
    ids = sum(buffer.numel() * buffer.element_size() for buffer in adapter.buffers())
    assert told == {"ip_adapter": module_bytes(adapter) - ids}
    assert {parameter.dtype for parameter in adapter.parameters()} == {next(unet.parameters()).dtype}
    assert np.array_equal(run(engine, small_job())[0], plain)


def test_it_is_read_for_the_first_job_that_asks_and_once(
    unet: Any, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, read = serve(ip_adapter(tmp_path / "adapters", unet.float(), PLUS)), list[str]()
    load = Loader.load_extra

    def counted(self: Loader, source: Any, parts: SdxlParts) -> Any:
        read.append(source.variable)
        return load(self, source, parts)

    monkeypatch.setattr(Loader, "load_extra", counted)
    run(engine, small_job())
    run(engine, seeing(scale=0.0))
    assert read == []
    run(engine, seeing())
    run(engine, small_job())
    run(engine, seeing())
    assert read == ["IP_ADAPTER_MODEL"]


def test_an_image_encoder_in_the_names_of_older_transformers_is_read(unet: Any, serve: Serve, tmp_path: Path) -> None:
    """h94/IP-Adapter has these names."""
    folder = ip_adapter(tmp_path / "adapters", unet.float(), PLUS)
    job = seeing()
    (before,) = run(serve(folder), job)
    path = folder / "models" / "image_encoder" / "model.safetensors"
    tensors = load_file(path)
    older = {
        name if name.startswith(("vision_model.", "visual_projection.")) else f"vision_model.{name}": tensor
        for name, tensor in tensors.items()
    }
    save_file(older, path, {"format": "pt"})
    (after,) = run(serve(folder), job)
    assert np.array_equal(after, before)


@pytest.mark.parametrize(
    "lost", ["image_proj.norm_out.bias", "ip_adapter.7.to_v_ip.weight", "image_proj.layers.2.0.to_q.weight"]
)
def test_a_tensor_that_is_missing_is_told_and_the_model_stays(
    unet: Any, serve: Serve, tmp_path: Path, lost: str
) -> None:
    folder = ip_adapter(tmp_path / "adapters", unet.float(), PLUS)
    path = folder / "sdxl_models" / PLUS
    tensors = load_file(path)
    del tensors[lost]
    save_file(tensors, path)
    engine = serve(folder)
    with pytest.raises(ModelUnavailable, match="IP_ADAPTER_MODEL"):
        run(engine, seeing())
    (image,) = run(engine, small_job())
    assert image.std() > 1


def test_an_adapter_that_identifies_faces_is_refused_before_anything_is_read(
    unet: Any, serve: Serve, tmp_path: Path
) -> None:
    folder = ip_adapter(tmp_path / "adapters", unet.float(), PLUS)
    (folder / "sdxl_models" / PLUS).rename(folder / "sdxl_models" / FACE_ID)
    engine = serve(folder)
    request, params = resolved(engine, seeing())
    with pytest.raises(ModelUnavailable, match="identifies faces"):
        engine.estimate(request, params)
    with pytest.raises(ModelUnavailable, match="identifies faces"):
        engine.prepare(request, params, Recorder())
    assert engine.loaded == {}

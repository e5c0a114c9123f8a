"""A model's bytes, from its files' headers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.conftest import prepare
from tests.support.model_folders import registry
from worker.core.types import TaskType
from worker.engine.memory.footprint import spec_bytes
from worker.engine.models.checkpoint import header, loaded_bytes, read_json


def test_floats_count_in_the_dtype_they_are_loaded_in(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(10, 10), "b": torch.zeros(5, dtype=torch.int64)}, path)
    assert loaded_bytes([path], 4) == 440
    assert loaded_bytes([path], 2) == 240


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (2).to_bytes(8, "little") + b"]["])
def test_what_is_no_safetensors_file_has_no_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert header(path) == {}
    assert read_json(path) == {}


def test_a_bundle_weighs_what_its_networks_take_once_loaded() -> None:
    from tests.support.engine_jobs import Recorder
    from worker.core.config import load_settings
    from worker.engine.engine import Engine

    models = registry(cuda=False)
    engine = Engine(load_settings(), registry=models)
    for task in ("text2img", "text2video"):
        prepare(engine, TaskType(task), Recorder())
        spec = models.spec(TaskType(task))
        sizes = spec_bytes(spec, cuda=False)
        parameters = {
            name: sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
            for name, module in engine._cache[spec].parts.modules().items()
        }
        assert set(sizes) == set(parameters)
        for name, size in parameters.items():
            assert sizes[name] == pytest.approx(size, rel=0.02)


def test_on_the_card_most_parts_weigh_half() -> None:
    spec = registry(cuda=False).spec(TaskType.TEXT2VIDEO)
    wide, narrow = (spec_bytes(spec, cuda=cuda) for cuda in (False, True))
    assert narrow["transformer"] * 2 == wide["transformer"]
    assert wide["vae"] / 2 < narrow["vae"] < wide["vae"]  # only its decoder

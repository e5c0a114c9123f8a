"""Upscaler networks: the same result in all naming schemes, counted work, and one network that no file has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from tests.support.engine_jobs import Recorder
from tests.support.model_folders import registry
from tests.support.upscalers import COMPACT, MIDDLE, ORIGINAL, REAL, rrdb
from worker.core.errors import ModelUnavailable
from worker.engine.models.loader import Loader, UpscalerParts
from worker.engine.models.upscaler import demo_weights, network
from worker.engine.models.upscaler_file import DEMO, Layout

SMALL = Layout("rrdb", 4, 8, 2, 4, 1, 2)


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return numbers as large as training gives, the same for the same place."""
    dice = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=dice) * 0.1 for name, shape in shapes.items()}


def test_each_way_of_naming_gives_the_same_picture() -> None:
    picture = torch.rand(1, 3, 12, 10)
    made = [network(tensors(rrdb(SMALL, names)))(picture) for names in (REAL, MIDDLE, ORIGINAL)]
    assert made[0].shape == (1, 3, 48, 40)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    "shapes",
    [rrdb(SMALL, REAL), rrdb(Layout("rrdb", 2, 8, 2, 4, 2, 2), REAL), COMPACT(Layout("compact", 4, 8, 3))],
    ids=["x4", "x2 of folded pixels", "compact"],
)
def test_its_work_is_what_torch_counts(shapes: dict[str, tuple[int, ...]]) -> None:
    made = network(tensors(shapes))
    with FlopCounterMode(display=False) as counter:
        made(torch.rand(1, 3, 16, 16))
    assert counter.get_total_flops() == made.layout.flop_a_pixel * 16 * 16


def test_the_built_in_one_is_cubic_convolution() -> None:
    made = network(demo_weights())
    assert made.layout == DEMO
    picture = torch.rand(1, 3, 20, 24)
    cubic = torch.nn.functional.interpolate(picture, scale_factor=4, mode="bicubic")
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert torch.allclose(made(picture)[inside], cubic[inside], atol=1e-5)


def load(path: Path) -> Any:
    spec = registry(cuda=False, upscaler_model=str(path)).upscaler()
    assert spec is not None
    return Loader(spec, cuda=False, control=Recorder()).load()


def test_a_file_in_half_precision_is_loaded_and_one_that_lacks_a_tensor_is_not(tmp_path: Path) -> None:
    given = {name: tensor.half() for name, tensor in tensors(rrdb(SMALL, ORIGINAL)).items()}
    save_file(given, tmp_path / "whole.safetensors")
    parts = load(tmp_path / "whole.safetensors")
    assert isinstance(parts, UpscalerParts)
    assert torch.equal(parts.upscaler.state_dict()["conv_first.weight"].half(), given["model.0.weight"])
    del given["model.1.sub.1.RDB2.conv3.0.bias"]
    save_file(given, tmp_path / "part.safetensors")
    with pytest.raises(ModelUnavailable, match="UPSCALER_MODEL names a model whose upscaler has tensors"):
        load(tmp_path / "part.safetensors")

"""Layers in eight bits: fewer bytes, a bounded error, and adapters and offloading still work with them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.conftest import engine_of, prepare, runner
from tests.support.engine_jobs import Recorder, sources_of
from tests.support.loras import lora, networks_of
from worker.core.config import Settings
from worker.core.types import LoraFile, Quantized, Sources, TaskType
from worker.engine.adapters import controlnet
from worker.engine.engine import Engine
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.offload import Offloader
from worker.engine.protocol import Placement
from worker.engine.speed.quantize import QuantizedLinear, multiplies_fp8, quantize

KINDS: tuple[Quantized, ...] = ("int8", "fp8")
MOST: dict[Quantized, float] = {"int8": 0.01, "fp8": 0.03}
"""Relative error of a product with random weights."""
T2I, T2V = TaskType.TEXT2IMG, TaskType.TEXT2VIDEO


def quantized_engine(settings: Settings, kind: Quantized | None) -> Engine:
    return engine_of(settings, quantize=kind or "none")


@pytest.fixture(scope="module")
def engines(demo_settings: Settings) -> dict[Quantized | None, Engine]:
    return {kind: quantized_engine(demo_settings, kind) for kind in (None, *KINDS)}


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    multiplies_fp8.cache_clear()
    yield
    multiplies_fp8.cache_clear()


def entry(engine: Engine, task: TaskType) -> Any:
    prepare(engine, task, Recorder())
    return engine._cache[engine.registry.spec(task)]


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


def psnr(one: Any, other: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.float32(one) - np.float32(other)) ** 2)))


def layer(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(64, 48).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_off_by_its_rounding_and_takes_a_quarter_of_its_bytes(kind: Quantized) -> None:
    plain, inputs = layer(), torch.randn(2, 5, 64)
    small = QuantizedLinear(plain, kind)
    assert 0 < away(small(inputs), plain(inputs)) < MOST[kind]
    assert small.small.element_size() == 1
    assert small.weight.shape == plain.weight.shape
    assert small.weight.dtype == plain.weight.dtype
    assert small.state_dict().keys() == plain.state_dict().keys()


def test_where_the_card_multiplies_fp8_the_inputs_are_rounded_too() -> None:
    plain, inputs = layer(torch.bfloat16), torch.randn(2, 5, 64).bfloat16()
    small = QuantizedLinear(plain, "fp8")
    assert multiplies_fp8(inputs.device)
    rounded = small(inputs)
    assert (rounded.shape, rounded.dtype) == ((2, 5, 48), torch.bfloat16)
    assert MOST["fp8"] < away(rounded, plain(inputs)) < 2 * MOST["fp8"]
    assert not torch.equal(rounded, nn.functional.linear(inputs, small.weight, small.bias))


def test_a_card_that_multiplies_no_fp8_is_told_of_once_and_makes_the_weights_wide(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("only on devices with compute capability >= 8.9")

    monkeypatch.setattr(nn.functional, "scaled_mm", refuses)
    plain, inputs = layer(torch.bfloat16), torch.randn(5, 64).bfloat16()
    small = QuantizedLinear(plain, "fp8")
    with caplog.at_level(logging.WARNING):
        results = [small(inputs) for _ in range(2)]
    assert torch.equal(*results)
    assert torch.equal(results[0], nn.functional.linear(inputs, small.weight, small.bias))
    assert len([record for record in caplog.records if "QUANTIZE" in record.message]) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [T2I, T2V])
def test_the_picture_stays_and_the_plan_knows_what_is_saved(
    engines: dict[Quantized | None, Engine], task: TaskType, kind: Quantized
) -> None:
    plain, small = entry(engines[None], task), entry(engines[kind], task)
    name = "unet" if task is T2I else "transformer"
    saved = plain.offloader.networks[name] - small.offloader.networks[name]
    planned = [spec_bytes(engines[one].registry.spec(task), cuda=False)[name] for one in (None, kind)]
    assert planned[0] - planned[1] == saved > 0
    for loaded, wanted in ((plain, None), (small, kind)):
        layers = [one for one in loaded.parts.modules()[name].modules() if isinstance(one, QuantizedLinear)]
        assert bool(layers) == (wanted is not None)
    others = {part: size for part, size in plain.offloader.networks.items() if not part.endswith(("unet", name))}
    assert others.items() <= small.offloader.networks.items()
    (before,), (after,) = (runner(engines[one])(task) for one in (None, kind))
    assert not np.array_equal(before, after)
    assert psnr(before, after) > (35 if kind == "int8" else 25)
    # The engines share nothing.
    (again,) = runner(engines[None])(task)
    assert np.array_equal(before, again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_networks_prediction_is_off_by_little(engines: dict[Quantized | None, Engine], kind: Quantized) -> None:
    def predicted(engine: Engine) -> torch.Tensor:
        network = entry(engine, T2V).parts.transformer
        torch.manual_seed(3)
        channels, width = network.config.in_channels, network.config.text_dim
        latents, text = torch.randn(1, channels, 2, 8, 8), torch.randn(1, 16, width)
        with torch.no_grad():
            result: torch.Tensor = network(latents, torch.tensor([500]), text, return_dict=False)[0]
        return result

    assert 0 < away(predicted(engines[kind]), predicted(engines[None])) < 3 * MOST[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_adds_to_quantized_layers_what_it_adds_to_others(
    engines: dict[Quantized | None, Engine], kind: Quantized, tmp_path: Path
) -> None:
    file = lora(tmp_path / "style.safetensors", networks_of(entry(engines[None], T2I).parts))
    sources = Sources(loras=(LoraFile("style", file, 1.0, "both"),))
    (plain,), (small,) = (runner(engines[one])(T2I, sources=sources) for one in (None, kind))
    (without,) = runner(engines[kind])(T2I)
    assert psnr(plain, small) > psnr(without, small) + 5
    (again,) = runner(engines[kind])(T2I)
    assert np.array_equal(without, again)


def test_what_looks_at_a_unets_weights_finds_them(engines: dict[Quantized | None, Engine]) -> None:
    """The built-in ControlNet is made of them."""
    plain, small = (controlnet.demo(entry(engines[one], T2I).parts.unet, union=True) for one in (None, "int8"))
    assert plain.state_dict().keys() == small.state_dict().keys()
    weights = zip(plain.parameters(), small.parameters(), strict=True)
    assert 0 < max(away(other, one) for one, other in weights if one.any()) < 0.05


def test_networks_in_eight_bits_come_and_go_as_others_do() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"ffn": nn.Sequential(layer())})])})
    quantize(network, "int8", None)
    blocks: Any = network["blocks"]
    small, inputs = blocks[0]["ffn"][0], torch.randn(3, 64)
    assert isinstance(small, QuantizedLinear)
    expected = small(inputs)
    offloader = Offloader({"transformer": network}, torch.device("cpu"))
    offloader.settle(Placement("offloaded", "for the test"))
    host = small.small.data_ptr()
    offloader.arrive("transformer")
    assert torch.equal(small(inputs), expected)
    offloader.rest()
    assert small.small.data_ptr() == host
    offloader.settle(Placement("resident", "for the test"))
    assert torch.equal(small(inputs), expected)


def test_every_task_runs_on_quantized_networks(engines: dict[Quantized | None, Engine]) -> None:
    for task in TaskType:
        assert runner(engines["int8"])(task, sources=sources_of(task))

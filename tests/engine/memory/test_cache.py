"""Models on a card: their placement by size, what is kept when memory runs out, and what is learnt from it.

The CPU stands in for the card, whose memory is made up. The rehearsal counts real bytes at full size.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.engine.conftest import request_of, runs_out
from tests.support.engine_jobs import Recorder, image_params, sources_of, video_params
from worker.api.params import Params
from worker.core.config import Settings
from worker.core.errors import OutOfMemory
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.memory import device
from worker.engine.memory.cache import HOST_RESERVE
from worker.engine.memory.placement import GIB, SLACK, Demand
from worker.engine.memory.room import Size
from worker.engine.models.loader import Loader
from worker.engine.models.registry import ModelRegistry, ModelSpec


class Card:
    """A card of `total` bytes; what lies on it is not free."""

    def __init__(self, total: int) -> None:
        self.total, self.host = total, 64 * GIB
        self.engine: Engine | None = None

    def memory(self, *, cuda: bool) -> tuple[int, int]:
        if not cuda:
            return self.host, 64 * GIB
        loaded = self.engine._cache._loaded.values() if self.engine else ()
        return self.total - sum(entry.offloader.resting_bytes for entry in loaded), self.total


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card(64 * GIB)
    monkeypatch.setattr(device, "memory", card.memory)
    monkeypatch.setattr(device, "name", lambda: "a card")
    monkeypatch.setattr(device, "device", lambda *, cuda: torch.device("cpu"))
    load = Loader.load

    def in_float32(self: Loader) -> Any:
        self.cuda = False  # half precision is a hundred times slower on a CPU
        return load(self)

    monkeypatch.setattr(Loader, "load", in_float32)
    return card


@pytest.fixture
def engine(demo_settings: Settings, card: Card) -> Iterator[Engine]:
    card.engine = Engine(demo_settings, registry=ModelRegistry(demo_settings, cuda=True, where=()))
    yield card.engine
    card.engine.unload()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    load = Loader.load

    def counted(self: Loader) -> Any:
        seen.append(self.spec.name)
        return load(self)

    monkeypatch.setattr(Loader, "load", counted)
    return seen


def run(engine: Engine, task: TaskType, params: Params) -> Recorder:
    control = Recorder()
    assert list(engine.generate(request_of(task), params, sources_of(task), control))
    return control


def count_calls(engine: Engine, task: TaskType, network: str) -> list[int]:
    calls: list[int] = []
    getattr(engine_parts(engine, task), network).register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def engine_parts(engine: Engine, task: TaskType) -> Any:
    return engine._cache[engine.registry.spec(task)].parts


def demand(engine: Engine, task: TaskType, params: Params) -> Demand:
    spec = engine.registry.spec(task)
    return Demand(spec.name, engine._cache[spec].offloader.networks, engine._cache.room(spec, Size.of(task, params)))


CLIP = video_params(width=288, height=288)
"""So large that decoding in tiles takes less memory than decoding whole."""


def test_a_size_that_does_not_fit_whole_is_decoded_in_tiles_from_the_start(engine: Engine, card: Card) -> None:
    run(engine, TaskType.TEXT2VIDEO, video_params())
    asked = demand(engine, TaskType.TEXT2VIDEO, CLIP)
    card.total = asked.least("offloaded", tiles=False) + SLACK - 1
    placement = engine.prepare(request_of(TaskType.TEXT2VIDEO), CLIP, Recorder())
    assert placement.tiles
    tiled = _tiled_decodes(engine, TaskType.TEXT2VIDEO)
    calls = count_calls(engine, TaskType.TEXT2VIDEO, "transformer")
    control = run(engine, TaskType.TEXT2VIDEO, CLIP)
    assert tiled == [True]
    assert len(calls) == 2 * CLIP.num_inference_steps  # conditional and unconditional, once each
    assert control.warnings == []
    assert not engine_parts(engine, TaskType.TEXT2VIDEO).vae.use_tiling


def _tiled_decodes(engine: Engine, task: TaskType) -> list[bool]:
    vae = engine_parts(engine, task).vae
    seen: list[bool] = []
    decode = vae.decode

    def told(*args: Any, **kwargs: Any) -> Any:
        seen.append(vae.use_tiling)
        return decode(*args, **kwargs)

    vae.decode = told
    return seen


@pytest.mark.parametrize(
    ("task", "params", "network"),
    [
        (TaskType.TEXT2IMG, image_params(), "unet"),
        (TaskType.INPAINT, image_params(strength=1.0), "unet"),
        (TaskType.TEXT2VIDEO, CLIP, "transformer"),
        (TaskType.IMG2VIDEO, CLIP, "transformer"),
    ],
    ids=["text2img", "inpaint", "text2video", "img2video"],
)
def test_a_decode_that_runs_out_of_memory_is_repeated_alone(
    engine: Engine, task: TaskType, params: Params, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paid-for latents are kept: the network and the text encoder run for one denoising."""
    run(engine, task, params)
    calls, texts = count_calls(engine, task, network), count_calls(engine, task, "text_encoder")
    run(engine, task, params)
    once, text_once = len(calls), len(texts)
    decodes = runs_out(monkeypatch, engine_parts(engine, task).vae, "decode")
    control = run(engine, task, params)
    assert (len(calls), len(texts)) == (2 * once, 2 * text_once)
    assert len(decodes) == 2
    assert any("short of memory" in warning for warning in control.warnings)


def test_the_refiner_that_runs_out_of_memory_goes_on_from_the_bases_latents(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = image_params(high_noise_frac=0.5, refiner_inference_steps=4, num_inference_steps=4)
    run(engine, TaskType.TEXT2IMG, params)
    base = count_calls(engine, TaskType.TEXT2IMG, "unet")
    refined = runs_out(monkeypatch, engine_parts(engine, TaskType.TEXT2IMG).refiner_unet, "forward")
    control = run(engine, TaskType.TEXT2IMG, params)
    assert len(base) == 2
    assert len(refined) == 1 + 2
    assert control.steps == sorted(control.steps)


def test_what_ran_out_is_planned_in_tiles_the_next_time(
    engine: Engine, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, TaskType.TEXT2VIDEO, video_params())
    card.total = demand(engine, TaskType.TEXT2VIDEO, CLIP).least("resident", tiles=False) + 2 * SLACK
    decodes = runs_out(monkeypatch, engine_parts(engine, TaskType.TEXT2VIDEO).vae, "decode")
    assert run(engine, TaskType.TEXT2VIDEO, CLIP).warnings
    assert len(decodes) == 2
    tiled = _tiled_decodes(engine, TaskType.TEXT2VIDEO)
    assert run(engine, TaskType.TEXT2VIDEO, CLIP).warnings == []
    assert tiled == [True]
    run(engine, TaskType.TEXT2VIDEO, video_params())
    assert tiled == [True, False]
    assert engine.loaded["wan:demo"] == "resident"


def test_what_cannot_fit_is_refused_in_numbers_before_anything_is_loaded(
    engine: Engine, card: Card, loads: list[str]
) -> None:
    card.total = 64 * 2**20
    with pytest.raises(OutOfMemory, match=r"at least \d+\.\d GiB .* the GPU has 0\.1 GiB; ask for a smaller size"):
        engine.prepare(request_of(TaskType.TEXT2VIDEO), video_params(width=1280, height=1280), Recorder())
    assert loads == []


def test_two_models_in_turn_are_read_from_the_disk_once_each(
    engine: Engine, card: Card, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params: dict[TaskType, Params] = {TaskType.TEXT2IMG: image_params(), TaskType.TEXT2VIDEO: video_params()}
    for task, own in params.items():
        run(engine, task, own)
    least = max(demand(engine, task, own).least("resident", tiles=False) for task, own in params.items())
    card.total = least + SLACK
    for _ in range(3):
        for task, own in params.items():
            run(engine, task, own)
            assert engine.loaded[engine.registry.spec(task).name] in {"resident", "partly"}
    assert sorted(loads) == ["sdxl:demo", "wan:demo"]


def test_a_machine_without_memory_to_spare_lets_go_of_what_leaves_the_card(
    engine: Engine, card: Card, loads: list[str]
) -> None:
    run(engine, TaskType.TEXT2IMG, image_params())
    card.host = GIB
    engine._cache.evict(["sdxl:demo"])
    assert engine.loaded == {}


def test_what_ran_out_on_the_card_stays_there_where_the_machine_has_no_memory_for_it(
    engine: Engine, card: Card
) -> None:
    """A container that exceeds its memory is killed with all its jobs; and the decode may fit in tiles."""
    run(engine, TaskType.TEXT2IMG, image_params())
    spec, size = engine.registry.spec(TaskType.TEXT2IMG), Size.of(TaskType.TEXT2IMG, image_params())
    card.host = HOST_RESERVE
    engine._cache.ran_out(spec, size, "decode", GIB)
    assert engine.loaded == {"sdxl:demo": "resident"}
    card.host += engine._cache[spec].offloader.bytes
    engine._cache.ran_out(spec, size, "decode", GIB)
    assert engine.loaded == {"sdxl:demo": "offloaded"}
    card.host = HOST_RESERVE  # its copies are there
    engine._cache.evict([spec.name])
    assert engine.loaded == {"sdxl:demo": "offloaded"}


def test_a_size_that_fits_nowhere_makes_no_other_model_leave(engine: Engine, card: Card) -> None:
    """Otherwise one user could have every model read from the disk again, as often as they ask."""
    run(engine, TaskType.TEXT2IMG, image_params())
    card.total = 64 * 2**20
    with pytest.raises(OutOfMemory, match="does not fit"):
        engine.prepare(request_of(TaskType.TEXT2VIDEO), video_params(width=1280, height=1280), Recorder())
    assert set(engine.loaded) == {"sdxl:demo"}


def test_what_others_keep_in_the_machines_memory_makes_room_for_who_needs_it(
    engine: Engine, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, TaskType.TEXT2IMG, image_params())
    engine._cache.evict(["sdxl:demo"])
    parked = engine._cache._loaded["sdxl:demo"].offloader.host_bytes
    assert parked == engine._cache._loaded["sdxl:demo"].offloader.bytes
    run(engine, TaskType.TEXT2VIDEO, CLIP)
    asked = demand(engine, TaskType.TEXT2VIDEO, CLIP)
    engine._cache._drop(["wan:demo"])
    card.total = asked.least("offloaded", tiles=True) + SLACK
    before = card.memory

    def short(*, cuda: bool) -> tuple[int, int]:
        if cuda:
            return before(cuda=True)
        kept = sum(entry.offloader.host_bytes for entry in engine._cache._loaded.values())
        return HOST_RESERVE + asked.aside("offloaded") - kept, 64 * GIB

    monkeypatch.setattr(device, "memory", short)
    assert engine.prepare(request_of(TaskType.TEXT2VIDEO), CLIP, Recorder()).mode == "offloaded"
    assert set(engine.loaded) == {"wan:demo"}


def test_a_small_job_never_grows_what_is_asked_of_a_large_one(engine: Engine) -> None:
    """Working memory is linear in pixels: twice as many take twice as much."""
    spec: ModelSpec = engine.registry.spec(TaskType.TEXT2VIDEO)
    room: Callable[[int], Any] = lambda side: engine._cache.room(spec, Size(side, side, 81))  # noqa: E731 - one line
    assert room(512).decode == pytest.approx(4 * room(256).decode, rel=1e-3)
    assert room(512).denoise == 4 * room(256).denoise

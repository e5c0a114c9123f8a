"""Jobs with LoRA: effect by scale, leftovers, whereabouts while networks move, and refusals."""

import copy
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.conftest import Runner, engine_of, parts_of, runner, runs_out
from tests.support.engine_jobs import Recorder, picture, sources_of
from tests.support.loras import lora, networks_of
from tests.support.memory_world import World
from tests.support.network_state import NetworkState
from tests.support.published_loras import header_only
from worker.core.config import Settings
from worker.core.errors import Cancelled, DownloadFailed, InvalidInput
from worker.core.types import Expert, LoraFile, Sources, TaskType
from worker.engine.adapters.lora import LoraStore, _Addition, applied_loras
from worker.engine.engine import Engine
from worker.engine.memory.offload import Offloader
from worker.engine.memory.room import Size, room
from worker.engine.protocol import Placement

EXPERTS: dict[Expert, tuple[bool, bool]] = {"both": (True, True), "high": (True, False), "low": (False, True)}
"""The expert that a LoRA is for -> whether it changes the high-noise and the low-noise one."""


@pytest.fixture(scope="module")
def engine(demo_settings: Settings) -> Engine:
    return engine_of(demo_settings)


@pytest.fixture(scope="module")
def start(engine: Engine) -> Runner:
    return runner(engine)


@pytest.fixture(scope="module")
def sdxl(engine: Engine) -> Any:
    return parts_of(engine, TaskType.TEXT2IMG)


@pytest.fixture(scope="module")
def wan(engine: Engine) -> Any:
    return parts_of(engine, TaskType.TEXT2VIDEO)


@pytest.fixture(scope="module")
def style(sdxl: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a LoRA with kohya's names, for the UNet and both text encoders."""
    return lora(tmp_path_factory.mktemp("loras") / "style.safetensors", networks_of(sdxl))


@pytest.fixture(scope="module")
def motion(wan: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a LoRA with Wan's own names."""
    return lora(tmp_path_factory.mktemp("loras") / "motion.safetensors", {"transformer": wan.transformer}, "wan")


def sources(*files: Path, scale: float = 1.0, expert: Expert = "both", **others: Any) -> Sources:
    loras = tuple(LoraFile(f"lora {number}", file, scale, expert) for number, file in enumerate(files))
    return Sources(loras=loras, **others)


def distance(one: Any, other: Any) -> float:
    return float(np.abs(np.int16(one) - np.int16(other)).mean())


@pytest.mark.parametrize("task", ["text2img", "text2video"])
def test_the_scale_says_by_how_much_and_nothing_is_left(
    start: Runner, sdxl: Any, wan: Any, style: Path, motion: Path, task: str
) -> None:
    parts, file = (sdxl, style) if task == "text2img" else (wan, motion)
    (before,) = start(task)
    state = NetworkState(parts.modules())
    by_scale = []
    for scale in (0.0, 0.02, 0.1, 0.4):
        (made,) = start(task, sources=sources(file, scale=scale))
        by_scale.append(distance(made, before))
        assert state.differences() == []
    assert by_scale[0] == 0
    assert by_scale == sorted(set(by_scale))
    assert np.array_equal(start(task)[0], before)


def test_a_lora_changes_what_starts_from_a_picture_too(start: Runner, style: Path) -> None:
    for task in ("img2img", "inpaint"):
        given = replace(sources_of(task), loras=sources(style).loras)
        assert not np.array_equal(start(task, sources=given)[0], start(task)[0])


def test_a_cancelled_job_and_one_that_is_left_leave_nothing(start: Runner, sdxl: Any, style: Path) -> None:
    start("text2img")
    state = NetworkState(sdxl.modules())
    with pytest.raises(Cancelled):
        start("text2img", control=Recorder(cancel_at=1), sources=sources(style))
    assert state.differences() == []
    assert not [one for one in gc.get_objects() if type(one) is _Addition]


def test_the_second_try_has_the_loras_too(
    start: Runner, sdxl: Any, style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = start("text2img", sources=sources(style))
    with monkeypatch.context() as patch:
        runs_out(patch, sdxl.unet, "forward", at=2)
        control = Recorder()
        (made,) = start("text2img", sources=sources(style), control=control)
    assert any("short of memory" in warning for warning in control.warnings)
    assert np.array_equal(made, expected)


def test_the_refiner_and_its_text_have_none(start: Runner, sdxl: Any, tmp_path: Path) -> None:
    """All steps are the refiner's here, and it reads its prompt through a network that the LoRA changes."""
    file = lora(tmp_path / "a.safetensors", {"text_encoder_2": sdxl.text_encoder_2, "unet": sdxl.unet})
    split = {"high_noise_frac": 0.01, "refiner_inference_steps": 3, "strength": 0.5}
    plain = start("img2img", **split)
    assert np.array_equal(start("img2img", sources=sources(file, image=picture()), **split)[0], plain[0])
    assert not np.array_equal(start("img2img", sources=sources(file, image=picture()))[0], start("img2img")[0])


def test_of_two_experts_each_has_its_own(wan: Any, motion: Path) -> None:
    both = replace(wan, transformer_2=copy.deepcopy(wan.transformer))
    offloader = Offloader(both.modules(), torch.device("cpu"))
    given = torch.randn(1, wan.transformer.config.in_channels, 2, 8, 8), torch.tensor([500]), torch.randn(1, 7, 64)
    with torch.no_grad():
        plain = wan.transformer(*given).sample
        for expert, changed in EXPERTS.items():
            one = LoraFile("a", motion, 1.0, expert)
            with applied_loras(both, offloader, [one], LoraStore(), Recorder()):
                made = both.transformer(*given).sample, both.transformer_2(*given).sample
            assert tuple(not torch.equal(result, plain) for result in made) == changed


def test_offloaded_networks_and_their_loras_come_and_go_together(start: Runner, sdxl: Any, style: Path) -> None:
    start("text2img")
    state = NetworkState(sdxl.modules())
    offloader = Offloader(sdxl.modules(), torch.device("cpu"))
    offloader.settle(Placement("offloaded", "for the test"))
    here: list[tuple[bool, ...]] = []

    def look() -> None:
        additions = [one for one in gc.get_objects() if type(one) is _Addition]
        encoder = {id(module) for module in sdxl.text_encoder.modules()}
        of_text = [one for one in additions if id(one.layer) in encoder]
        of_unet = [one for one in additions if id(one.layer) in {id(module) for module in sdxl.unet.modules()}]
        assert of_text
        assert of_unet
        here.append((of_text[0].here is not None, of_unet[0].here is not None))

    ids, times = torch.tensor([[1, 2, 3]]), torch.randn(1, 6)
    pooled, width = sdxl.text_encoder_2.config.projection_dim, sdxl.unet.config.cross_attention_dim
    with torch.no_grad(), applied_loras(sdxl, offloader, sources(style).loras, LoraStore(), Recorder()):
        look()
        sdxl.text_encoder(ids)
        look()
        given = {"text_embeds": torch.randn(1, pooled), "time_ids": times}
        sdxl.unet(torch.randn(1, 4, 8, 8), 500, torch.randn(1, 3, width), added_cond_kwargs=given)
        look()
        sdxl.vae.decode(torch.randn(1, 4, 8, 8))
        look()
    assert here == [(False, False), (True, False), (False, True), (False, False)]
    offloader.rest()
    offloader.settle(Placement("resident", "for the test"))
    assert [one for one in state.differences() if "numbers" in one or "_hooks was" in one] == []


def test_what_a_lora_takes_beside_the_weights_is_room_for_the_steps(engine: Engine) -> None:
    spec = engine.registry.spec(TaskType.TEXT2IMG)
    plain, more = (room(spec, Size(1024, 1024, beside=size), cuda=True) for size in (0, 700 << 20))
    assert more.denoise - plain.denoise == 700 << 20
    assert (more.text, more.decode) == (plain.text, plain.decode)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda tensors: {k: v.repeat(1, 2) if "down" in k else v for k, v in tensors.items()}, "another size"),
        (lambda tensors: {k: v * torch.nan if "down" in k else v for k, v in tensors.items()}, "not finite"),
        (
            lambda tensors: {
                k.replace("mid_block_attentions_0", "mid_block_attentions_7"): v for k, v in tensors.items()
            },
            "no layer",
        ),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_and_leaves_nothing(
    start: Runner, sdxl: Any, tmp_path: Path, make: Any, said: str
) -> None:
    file = lora(tmp_path / "a.safetensors", {"unet": sdxl.unet}, only=lambda name: name.startswith("mid_block.att"))
    save_file(make(load_file(file)), tmp_path / "b.safetensors")
    state = NetworkState(sdxl.modules())
    with pytest.raises(InvalidInput, match=said) as caught:
        start("text2img", sources=sources(file, tmp_path / "b.safetensors"))
    assert "lora 1" in str(caught.value)
    assert "lora 0" not in str(caught.value)
    assert state.differences() == []


def test_a_file_is_refused_before_a_model_is_loaded(demo_settings: Settings, tmp_path: Path, motion: Path) -> None:
    untouched = engine_of(demo_settings)
    pickled = tmp_path / "a.safetensors"
    pickled.write_bytes(b"\x80\x02}q\x00.")
    for file, said in ((pickled, "pickled"), (motion, "is made for Wan; this takes one for SDXL")):
        with pytest.raises(InvalidInput, match=said):
            runner(untouched)("text2img", sources=sources(file))
    assert untouched.loaded == {}


def test_a_file_that_is_gone_is_named_wherever_that_is_seen(
    start: Runner, sdxl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may remove it before a job begins, and between two reads."""
    path = lora(tmp_path / "a.safetensors", {"unet": sdxl.unet})
    state = NetworkState(sdxl.modules())
    read = LoraStore.__getitem__

    def remove_first(store: LoraStore, wanted: Path) -> Any:
        wanted.unlink()
        return read(store, wanted)

    monkeypatch.setattr(LoraStore, "__getitem__", remove_first)
    for _ in range(2):
        with pytest.raises(
            DownloadFailed, match="loras: the file of the LoRA a was removed before it was read"
        ) as error:
            start("text2img", sources=Sources(loras=(LoraFile("a", path, 1.0),)))
        assert error.value.retryable
    assert state.differences() == []


def test_one_expert_is_refused_where_there_is_one_network(start: Runner, motion: Path) -> None:
    with pytest.raises(InvalidInput, match=r"high_noise_loras: .*is for the high-noise expert"):
        start("text2video", sources=sources(motion, expert="high"))


def test_what_the_model_has_no_layer_for_is_said(start: Runner, sdxl: Any, tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors", {"unet": sdxl.unet})
    stem = "lora_unet_up_blocks_3_attentions_0_proj_in"
    more = {f"{stem}.lora_down.weight": torch.ones(2, 8), f"{stem}.lora_up.weight": torch.ones(8, 2)}
    save_file(load_file(file) | more, file)
    control = Recorder()
    start("text2img", sources=sources(file), control=control)
    assert control.warnings == ["lora 0: 1 of its weights are for nothing that this model has, and do nothing"]


def test_the_store_keeps_what_was_used_last_within_its_bytes(tmp_path: Path) -> None:
    shapes = {"lora_unet_a.lora_down.weight": (4, 500), "lora_unet_a.lora_up.weight": (500, 4)}
    files = [header_only(tmp_path / f"{number}.safetensors", shapes) for number in range(3)]
    store = LoraStore(2 * 8000)
    first = store[files[0]]
    assert store[files[0]] is first
    gone = weakref.ref(store[files[1]]["lora_unet_a.lora_up.weight"])
    assert store[files[0]] is first
    assert store[files[2]]
    assert (store.bytes, gone()) == (16000, None)
    assert store[files[0]] is first
    header_only(files[0], {name: (*shape[:1], 2) for name, shape in shapes.items()})
    assert store[files[0]] is not first
    large = LoraStore(100)
    assert large[files[1]]
    assert large.bytes == 0


async def test_a_request_names_its_loras_and_gets_them(engine: Engine, style: Path, motion: Path) -> None:
    asked = {"prompt": "a red circle", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 2}
    world = World(loras={"style": {"source": str(style), "scale": 0.5}, "motion": str(motion)})
    world.generator = engine  # type: ignore[assignment]  # in the painter's place
    plain, changed, again, wrong = [
        await world.run(asked | ({"loras": loras} if loras else {}))
        for loras in ([], [{"path": "style", "scale": 1.2}], [], [{"path": "motion"}])
    ]
    assert list(changed["params"]["loras"]) == [{"name": "style", "scale": 0.6}]
    assert changed["images"] != plain["images"] == again["images"]
    assert "loras: the LoRA motion is made for Wan; this takes one for SDXL" in wrong["error"]

"""ControlNets: they compute what diffusers' own pipelines do, within their range of steps, and leave nothing behind."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    MultiControlNetModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from tests.engine.conftest import engine_of, request_of, runs_out
from tests.support.engine_jobs import Recorder, image_params, picture, sources_of
from worker.api.params import ControlParams, Draft
from worker.api.request import ControlNet, parse
from worker.api.resolve import resolve
from worker.core.config import Settings, load_settings
from worker.core.errors import Cancelled, InvalidInput, ModelUnavailable
from worker.core.types import TaskType
from worker.engine.adapters.controlnet import demo
from worker.engine.adapters.depth import depth
from worker.engine.engine import Engine
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.room import DEPTH
from worker.engine.protocol import Placement
from worker.engine.schedulers import image_scheduler
from worker.engine.vae import decode_image

TEXT2IMG = TaskType.TEXT2IMG


@pytest.fixture(scope="module")
def union(engine: Engine) -> Engine:
    return engine


@pytest.fixture(scope="module")
def single(demo_settings: Settings) -> Iterator[Engine]:
    made = engine_of(demo_settings, controlnet_model="canny=demo, depth=demo")
    yield made
    made.unload()


def entry(kind: Any = "canny", **changes: Any) -> ControlParams:
    return ControlParams(**{"type": kind, "preprocess": False} | changes)


def draw(
    engine: Engine,
    *entries: ControlParams,
    shown: tuple[Image.Image, ...] | None = None,
    task: TaskType = TEXT2IMG,
    control: Recorder | None = None,
    **changes: Any,
) -> NDArray[np.uint8]:
    asked = [
        {"type": one.type, "image_url": "https://example.com/c.png", "preprocess": one.preprocess} for one in entries
    ]
    request = request_of(task).model_copy(update={"controlnets": tuple(map(ControlNet.model_validate, asked))})
    if task is not TEXT2IMG:
        changes = {"strength": 0.7} | changes
    params = image_params(controlnets=entries, **changes)
    pictures = shown or tuple(picture(seed=5 + index) for index in range(len(entries)))
    made = list(engine.generate(request, params, replace(sources_of(task), controls=pictures), control or Recorder()))
    pixels: NDArray[np.uint8] = made[0].pixels  # type: ignore[union-attr]
    return pixels


def parts_of(engine: Engine) -> Any:
    parts: Any = engine._cache._loaded["sdxl:demo"].parts
    return parts


def extras_of(engine: Engine) -> Any:
    return parts_of(engine).controlnets


def of_diffusers(engine: Engine, kind: Any, controlnet: Any, **said: Any) -> NDArray[np.uint8]:
    parts = parts_of(engine)
    pipeline = kind(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        text_encoder_2=parts.text_encoder_2,
        tokenizer=parts.tokenizer,
        tokenizer_2=parts.tokenizer_2,
        unet=parts.unet,
        controlnet=controlnet,
        scheduler=image_scheduler(parts.scheduler, None),
        force_zeros_for_empty_prompt=parts.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt="a red circle",
        num_inference_steps=3,
        guidance_scale=5.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="latent",
        **said,
    ).images
    return decode_image(parts.vae, latents)


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in parts_of(engine).unet.state_dict().items()}


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_a_union_network_draws_what_diffusers_pipeline_draws(union: Engine) -> None:
    found = draw(union, entry(conditioning_scale=0.8, end_percentage=0.7))
    network = extras_of(union)["controlnet"]
    assert isinstance(network, ControlNetUnionModel)
    theirs = of_diffusers(
        union,
        StableDiffusionXLControlNetUnionPipeline,
        network,
        control_image=[picture(seed=5)],
        control_mode=[3],
        controlnet_conditioning_scale=0.8,
        control_guidance_end=0.7,
    )
    assert np.array_equal(found, theirs)


def test_a_union_network_is_called_once_for_three_pictures(union: Engine) -> None:
    calls: list[int] = []
    draw(union, entry())
    hook = extras_of(union)["controlnet"].register_forward_pre_hook(lambda *_: calls.append(1))
    found = draw(union, entry(), entry("depth", conditioning_scale=0.5, start_percentage=0.5), entry("tile"))
    hook.remove()
    assert len(calls) == 3
    theirs = of_diffusers(
        union,
        StableDiffusionXLControlNetUnionPipeline,
        extras_of(union)["controlnet"],
        control_image=[picture(seed=5), picture(seed=6), picture(seed=7)],
        control_mode=[3, 1, 6],
        controlnet_conditioning_scale=[1.0, 0.5, 1.0],
        control_guidance_start=[0.0, 0.5, 0.0],
        control_guidance_end=[1.0, 1.0, 1.0],
    )
    assert np.array_equal(found, theirs)


def test_a_single_network_and_two_of_them_draw_what_diffusers_pipeline_draws(single: Engine) -> None:
    one = draw(single, entry())
    network = extras_of(single)["controlnet_canny"]
    assert isinstance(network, ControlNetModel)
    theirs = of_diffusers(single, StableDiffusionXLControlNetPipeline, network, image=picture(seed=5))
    # This pipeline's own default scale is 1.0.
    assert np.array_equal(one, theirs)
    two = draw(single, entry(), entry("depth", conditioning_scale=0.5))
    theirs = of_diffusers(
        single,
        StableDiffusionXLControlNetPipeline,
        MultiControlNetModel([network, extras_of(single)["controlnet_depth"]]),  # type: ignore[no-untyped-call]  # has none
        image=[picture(seed=5), picture(seed=6)],
        controlnet_conditioning_scale=[1.0, 0.5],
    )
    assert np.array_equal(two, theirs)


@pytest.mark.parametrize("task", [TEXT2IMG, TaskType.IMG2IMG, TaskType.INPAINT])
def test_the_stronger_the_farther_and_nothing_at_zero(union: Engine, task: TaskType) -> None:
    plain = draw(union, task=task)
    assert np.array_equal(draw(union, entry(conditioning_scale=0.0), task=task), plain)
    far = [distance(draw(union, entry(conditioning_scale=scale), task=task), plain) for scale in (0.3, 1.0, 2.0)]
    assert 0 < far[0] < far[1] < far[2]


def test_a_span_that_holds_no_step_is_said_to_have_no_effect(union: Engine) -> None:
    control, steps = Recorder(), 4
    both = entry(end_percentage=0.2), entry("depth", end_percentage=0.25)
    early = draw(union, *both, control=control, num_inference_steps=steps)
    assert control.warnings == [
        "controlnets.0: has no effect; no step of 4 lies between start_percentage 0 and end_percentage 0.2"
    ]
    alone = draw(union, both[1], shown=(picture(seed=6),), num_inference_steps=steps)
    assert np.array_equal(alone, early)


def test_where_the_picture_moves_the_response_moves(union: Engine) -> None:
    """A white square on black, moved 16 pixels right: the difference from the result of plain black moves with it."""
    black = Image.new("RGB", (128, 128))
    size: dict[str, Any] = {"width": 128, "height": 128}

    def centre(left: int) -> float:
        shown = black.copy()
        shown.paste((255, 255, 255), (left, 48, left + 32, 80))
        still = draw(union, entry("tile", conditioning_scale=2.0), shown=(black,), **size)
        moved = draw(union, entry("tile", conditioning_scale=2.0), shown=(shown,), **size)
        change = np.abs(moved.astype(float) - still).sum(axis=(0, 2))
        return float((change * np.arange(128)).sum() / change.sum())

    left, right = centre(32), centre(48)
    assert right - left > 2


def test_a_draft_and_its_second_pass_are_both_controlled(union: Engine) -> None:
    params: dict[str, Any] = {"width": 128, "height": 128, "draft": Draft(64, 64, 0.6)}
    plain = draw(union, **params)
    seen: list[tuple[int, ...]] = []
    draw(union, entry())
    hook = extras_of(union)["controlnet"].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2:]))
    assert distance(draw(union, entry(), **params), plain) > 0
    hook.remove()
    assert len(set(seen)) == 2


def test_nothing_stays_however_it_ends(union: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, before = draw(union), weights_of(union)

    def clean() -> bool:
        same = all(torch.equal(value, before[name]) for name, value in parts_of(union).unet.state_dict().items())
        return same and np.array_equal(draw(union), plain) and not parts_of(union).unet._forward_pre_hooks

    draw(union, entry())
    assert clean()
    for step in range(1, 3):
        with pytest.raises(Cancelled):
            draw(union, entry(), control=Recorder(cancel_at=step))
        assert clean()
    network = extras_of(union)["controlnet"]
    expected = draw(union, entry())
    with monkeypatch.context() as patch:
        runs_out(patch, network, "forward", at=2)
        control = Recorder()
        assert np.array_equal(draw(union, entry(), control=control), expected)
        assert any("short of memory" in warning for warning in control.warnings)
    assert clean()
    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(Exception, match=r"."):
            draw(union, entry())
    assert clean()


def test_offloaded_it_comes_with_the_unet_and_leaves_with_it(demo_settings: Settings) -> None:
    engine = engine_of(demo_settings)
    expected = draw(engine, entry())
    offloader = engine._cache._loaded["sdxl:demo"].offloader
    offloader.settle(Placement("offloaded", "for the test"))
    engine._cache.take = lambda *_, **__: Placement("offloaded", "for the test")  # type: ignore[method-assign]
    assert np.array_equal(draw(engine, entry()), expected)
    assert offloader.resting_bytes == 0
    assert not offloader._visiting
    engine.unload()


def test_a_refiner_alone_is_not_controlled_and_says_so(union: Engine) -> None:
    control = Recorder()
    refined: dict[str, Any] = {"high_noise_frac": 0.0, "refiner_inference_steps": 3, "strength": 0.7}
    draw(union, entry(), task=TaskType.IMG2IMG, control=control, **refined)
    assert any("controlnets: they steer the base model alone" in warning for warning in control.warnings)


def test_settings_name_types() -> None:
    with pytest.raises(Exception, match="CONTROLNET_MODEL: must be one source, or type=source"):
        load_settings(controlnet_model="canni=org/name, depth=org/other")


@pytest.mark.parametrize("union", [True, False])
def test_a_folder_as_it_is_published_is_read_and_draws_as_what_was_saved(
    demo_settings: Settings, demo_models: Path, tmp_path: Path, single: Engine, union: bool
) -> None:
    draw(single)
    network = demo(parts_of(single).unet, union=union)
    network.save_pretrained(tmp_path / "control")  # type: ignore[operator]  # diffusers' own
    source = str(tmp_path / "control") if union else f"canny={tmp_path / 'control'}"
    engine = engine_of(demo_settings, sdxl_model=str(demo_models / "sdxl"), sdxl_refiner=None, controlnet_model=source)
    assert ("tile" in engine.controlnet_types()) is union
    assert np.array_equal(draw(engine, entry()), draw(engine_of(demo_settings) if union else single, entry()))
    engine.unload()


def shifted(network: Any, by: float) -> Any:
    """Return another network of the same shape."""
    with torch.no_grad():
        network.controlnet_mid_block.bias.add_(by)
    return network


def promax(folder: Path, network: Any) -> Path:
    """Write xinsir/controlnet-union-sdxl-1.0's layout: a network of six types, and beside it ProMax, of eight."""
    shifted(network, 0.3).save_pretrained(folder)
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    said = json.loads(config.read_text()) | {"_class_name": "ControlNetModel_Union"}
    (folder / "config_promax.json").write_text(json.dumps(said))
    shifted(network, -0.3).save_pretrained(folder / "new")
    (folder / "new" / weights.name).rename(folder / "diffusion_pytorch_model_promax.safetensors")
    shutil.rmtree(folder / "new")
    config.write_text(json.dumps(said | {"num_control_type": 6}))
    return folder


@pytest.mark.parametrize(
    ("union", "layout"),
    [
        (True, "mixed folder"),
        (True, "mixed folder's file"),
        *((union, layout) for union in (True, False) for layout in ("file with its config", "file alone")),
    ],
)
def test_other_published_layouts_draw_as_what_was_saved(
    demo_settings: Settings, demo_models: Path, tmp_path: Path, single: Engine, union: bool, layout: str
) -> None:
    draw(single)
    network = demo(parts_of(single).unet, union=union)
    folder = tmp_path / "control"
    if layout.startswith("mixed"):
        promax(folder, network)
        where = folder if layout == "mixed folder" else folder / "diffusion_pytorch_model_promax.safetensors"
    else:
        network.save_pretrained(folder)  # type: ignore[operator]  # diffusers' own
        where = folder / "some name.safetensors"
        (folder / "diffusion_pytorch_model.safetensors").rename(where)
        if layout == "file alone":
            (folder / "config.json").unlink()
    source = str(where) if union else f"canny={where}"
    engine = engine_of(demo_settings, sdxl_model=str(demo_models / "sdxl"), sdxl_refiner=None, controlnet_model=source)
    assert ("tile" in engine.controlnet_types()) is union
    drawn, expected = draw(engine, entry()), draw(engine_of(demo_settings) if union else single, entry())
    # Shifting there and back is not exact to the last bit.
    assert np.abs(drawn.astype(int) - expected).max() <= (1 if layout.startswith("mixed") else 0)
    spec = engine.registry.spec(TEXT2IMG, None, parse(CONTROLLED))
    assert spec_bytes(spec, cuda=False)[spec.extras[0].network] == 4 * sum(one.numel() for one in network.parameters())
    engine.unload()


CONTROLLED = {"prompt": "a", "controlnets": [{"type": "canny", "image_url": "https://example.com/c.png"}]}


def test_a_file_that_is_no_controlnet_or_for_another_unet_is_refused_in_words(
    demo_settings: Settings, demo_models: Path, tmp_path: Path, single: Engine
) -> None:
    draw(single)
    base = {"sdxl_model": str(demo_models / "sdxl"), "sdxl_refiner": None}
    file = tmp_path / "network.safetensors"
    tensors = demo(parts_of(single).unet, union=False).state_dict()
    for changed, said in (
        ({"control_model.input_blocks.0.0.weight": torch.zeros(4, 4)}, "or one .safetensors file is read"),
        ({name: value for name, value in tensors.items() if "mid_block" not in name}, "missing or of another shape"),
        (tensors | {"conv_in.weight": torch.zeros(8, 4, 3, 3)}, "missing or of another shape"),
    ):
        save_file({name: value.contiguous() for name, value in changed.items()}, file)
        with pytest.raises(ModelUnavailable, match="CONTROLNET_MODEL") as caught:
            draw(engine_of(demo_settings, **base, controlnet_model=f"canny={file}"), entry())
        assert said in str(caught.value)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelUnavailable, match="not all there"):
        draw(engine_of(demo_settings, **base, controlnet_model=f"canny={file}"), entry())


def test_a_folder_that_does_not_go_with_the_model_is_refused_in_words(
    demo_settings: Settings, demo_models: Path, tmp_path: Path, single: Engine
) -> None:
    draw(single)
    network: Any = demo(parts_of(single).unet, union=False)
    network.save_pretrained(tmp_path / "control")
    base = {"sdxl_model": str(demo_models / "sdxl"), "sdxl_refiner": None}
    with pytest.raises(ModelUnavailable, match="of one type; say which"):
        draw(engine_of(demo_settings, **base, controlnet_model=str(tmp_path / "control")), entry())
    config = tmp_path / "control" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 112', '"cross_attention_dim": 64'))
    with pytest.raises(ModelUnavailable, match="CONTROLNET_MODEL"):
        draw(engine_of(demo_settings, **base, controlnet_model=f"canny={tmp_path / 'control'}"), entry())
    config.write_text("{}")
    with pytest.raises(ModelUnavailable, match="is not a ControlNet"):
        draw(engine_of(demo_settings, **base, controlnet_model=f"canny={tmp_path / 'control'}"), entry())
    with pytest.raises(ModelUnavailable, match="can be demo only"):
        draw(engine_of(demo_settings, **base, controlnet_model="demo"), entry())


def small_depth(folder: Path) -> Path:
    """Write a Depth Anything with random weights, as transformers saves one."""
    backbone = Dinov2Config(  # type: ignore[call-arg]  # by a name that it has besides
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=518,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[16, 24, 32, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    return folder


def test_the_depth_of_a_photo_is_told_where_there_is_a_model_for_it(
    demo_settings: Settings, tmp_path: Path, union: Engine
) -> None:
    engine = engine_of(demo_settings, depth_model=str(small_depth(tmp_path / "depth")))
    asked = {"prompt": "a", "controlnets": [{"type": "depth", "image_url": "https://example.com/c.png"}]}
    limits: dict[str, Any] = {"max_image_pixels": 2**20, "max_job_cost": 10**9}
    resolve(parse(asked), engine.describe(TEXT2IMG), **limits)
    with pytest.raises(InvalidInput, match="must be false for depth"):
        resolve(parse(asked), union.describe(TEXT2IMG), **limits)
    photo = picture(96, 64, seed=5)
    seen = draw(engine, entry("depth", preprocess=True), shown=(photo,))
    told = depth(parts_of(engine).depth, photo, torch.device("cpu"))
    assert (told.size, told.getextrema()[0]) == ((96, 64), (0, 255))
    assert not np.array_equal(seen, draw(engine, entry("depth"), shown=(photo,)))
    assert np.array_equal(seen, draw(engine, entry("depth", preprocess=True), shown=(photo,)))
    engine.unload()


def test_of_a_panorama_no_more_is_seen_than_its_room_is_counted_for() -> None:
    """603 bytes for each pixel of the largest network's input."""
    seen: list[torch.Size] = []

    class Looks(torch.nn.Module):
        dtype = torch.float32

        def forward(self, pixels: torch.Tensor) -> Any:
            seen.append(pixels.shape)
            return SimpleNamespace(predicted_depth=pixels.mean(1))

    for size in ((96, 64), (518, 518), (2048, 256), (64, 1024)):
        told = depth(Looks(), picture(*size, seed=5), torch.device("cpu"))
        assert told.size == size
        width, height = seen[-1][3], seen[-1][2]
        assert 603 * width * height <= DEPTH
        assert abs(width / height - size[0] / size[1]) < 0.08 * size[0] / size[1]


def test_what_tells_no_depth_is_refused_in_words(demo_settings: Settings, demo_models: Path) -> None:
    engine = engine_of(demo_settings, depth_model=str(demo_models / "sdxl" / "unet"))
    with pytest.raises(ModelUnavailable, match="DEPTH_MODEL names a folder that is not a Depth Anything"):
        draw(engine, entry("depth", preprocess=True))

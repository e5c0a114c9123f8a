"""The arithmetic of a job's work, compared with what torch counts on the full networks."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.networks import (
    REFINER,
    SDXL,
    TI2V_5B,
    TI2V_VAE,
    VIT_G,
    WAN,
    WAN_1_3B,
    WAN_14B,
    WAN_I2V,
    WAN_VAE,
    clip,
    images,
)
from worker.api.params import Draft, Params, ReferenceParams
from worker.core.types import Scheduler
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.work import (
    SDXL_UNET,
    SDXL_VAE,
    Networks,
    clip_decode,
    image_decode,
    image_encode,
    image_encoder,
    transformer,
    unet,
    work,
)

TERA = 1e12


def parts(networks: Networks, params: Params, **options: Any) -> list[str]:
    return [part for part, _, _ in work(networks, params, **options)]


@pytest.mark.parametrize(
    ("estimated", "counted"),
    [
        pytest.param(2 * unet(SDXL_UNET, 512, 512), 3.178, id="SDXL's UNet at 512, guided"),
        pytest.param(2 * unet(SDXL_UNET, 768, 768), 7.282, id="at 768"),
        pytest.param(2 * unet(SDXL_UNET, 1024, 1024), 13.522, id="at 1024"),
        pytest.param(2 * unet(SDXL_UNET, 1536, 1536), 34.522, id="at 1536"),
        pytest.param(unet(SDXL_UNET, 1024, 1024, 2) - unet(SDXL_UNET, 1024, 1024), 0.08478, id="a second chunk's"),
        pytest.param(unet(SDXL_UNET, 1024, 1024, 13), 7.779, id="of 13 chunks"),
        pytest.param(2 * unet(REFINER, 1024, 1024), 14.572, id="the refiner's"),
        pytest.param(image_decode(SDXL_VAE, 1024, 1024), 10.470, id="SDXL's decode"),
        pytest.param(image_decode(SDXL_VAE, 1536, 1536), 25.1, id="at 1536, too"),
        pytest.param(image_encode(SDXL_VAE, 1024, 1024), 4.879, id="its encode"),
        pytest.param(image_encoder({}), 0.3346, id="CLIP ViT-H, of an IP-Adapter"),
        pytest.param(image_encoder(VIT_G), 0.9675, id="CLIP ViT-bigG, of another"),
        pytest.param(transformer(WAN_1_3B, WAN_VAE, 832, 480, 81), 283.0, id="Wan 1.3B, 81 frames"),
        pytest.param(transformer(WAN_1_3B, WAN_VAE, 832, 480, 49), 128.6, id="49 frames"),
        pytest.param(transformer(WAN_1_3B, WAN_VAE, 832, 480, 49, chunks=2), 130.67, id="a long prompt"),
        pytest.param(transformer(WAN_14B, WAN_VAE, 832, 480, 81), 1678.4, id="14B"),
        pytest.param(2 * transformer(WAN_I2V, WAN_VAE, 832, 480, 81, from_image=True), 569, id="from an image"),
        pytest.param(2 * transformer(TI2V_5B, TI2V_VAE, 1280, 704, 81), 586, id="TI2V 5B"),
        pytest.param(clip_decode(WAN_VAE, 832, 480, 81), 275.35, id="Wan's decode"),
        pytest.param(clip_decode(WAN_VAE, 832, 480, 49), 166.95, id="of 49 frames"),
        pytest.param(clip_decode(WAN_VAE, 1280, 720, 81), 639, id="in 720p"),
        pytest.param(clip_decode(TI2V_VAE, 1280, 704, 81), 1348, id="TI2V's decode"),
        pytest.param(clip_decode(TI2V_VAE, 1280, 704, 81, tiled=True), 2228, id="in tiles"),
    ],
)
def test_work_is_what_torch_counts_on_the_full_networks(estimated: float, counted: float) -> None:
    """`counted` are TFLOP by torch's FlopCounterMode on diffusers' own classes, without weights."""
    assert estimated / TERA == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    ("folder", "counted"),
    [("sdxl", 0.40985e-3), ("sdxl-refiner", 0.40607e-3)],
)
def test_it_is_so_on_networks_of_other_widths(folder: str, counted: float) -> None:
    config = json.loads((DEMO_MODELS / folder / "unet" / "config.json").read_text())
    assert unet(config, 256, 256) / TERA == pytest.approx(counted, rel=0.1)


def test_a_step_is_what_its_network_calls_are() -> None:
    def step(networks: Networks, params: Params) -> float:
        return next(flop for part, _, flop in work(networks, params) if part == "step")

    plain = step(SDXL, images(guidance_scale=1.0))
    assert step(SDXL, images()) == 2 * plain
    assert step(SDXL, images(scheduler=Scheduler.HEUN)) == 4 * plain
    assert step(WAN, clip()) == 2 * step(WAN, clip(guidance_scale=1.0))
    heun = Networks("sdxl", SDXL_UNET, SDXL_VAE, None, {"_class_name": "HeunDiscreteScheduler"})
    assert step(heun, images()) == 4 * plain
    assert step(heun, images(scheduler=Scheduler.DDIM)) == 2 * plain


def test_a_job_is_its_pieces_in_their_order() -> None:
    assert parts(SDXL, images(num_inference_steps=2, seeds=(0, 1))) == [
        "text",
        *("step", "step", "decode"),
        *("step", "step", "decode"),
    ]
    changed = images(num_inference_steps=4, strength=0.5)
    assert parts(SDXL, changed, from_image=True) == ["text", "encode", "step", "step", "decode"]
    drafted = clip(num_inference_steps=3, draft=Draft(416, 240, 0.4))
    assert parts(WAN, drafted) == ["text", "step", "step", "step", "decode", "encode", "step", "decode"]
    assert parts(WAN, clip(num_inference_steps=1), from_image=True) == ["text", "encode", "step", "decode"]


def test_pictures_beside_the_prompt_are_encoded_once_a_job() -> None:
    seeing = replace(SDXL, image_encoder={})
    references = (ReferenceParams("subject", 0.6), ReferenceParams("style", 0.0))
    (plain, *_), (with_one, *steps) = work(seeing, images()), work(seeing, images(ip_adapters=references, seeds=(0, 1)))
    assert with_one[2] - plain[2] == pytest.approx(2 * image_encoder({}))
    assert tuple(steps) == work(seeing, images(seeds=(0, 1)))[1:]


def test_the_refiner_takes_its_share_of_the_steps_at_its_own_price() -> None:
    refined = images(num_inference_steps=30, high_noise_frac=0.8, refiner_inference_steps=30)
    steps = [flop for part, _, flop in work(SDXL, refined) if part == "step"]
    assert (len(steps), len(set(steps))) == (30, 2)
    assert steps.count(max(steps)) == 6

"""One or two blocks of each kind at full width: dtypes, devices, the host's waits, and each phase's working memory.

The working memory does not depend on the depth: one block's is freed before the next.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import Rehearsal, Row, rehearsal, room_of, rows_of
from tests.rehearsal.models import A14B, REFINED_SDXL, SDXL, TI2V_5B, WAN_1_3B, WAN_14B_I2V, Model
from worker.api.layout import Borders, Drawn
from worker.core.types import Scheduler, TaskType
from worker.engine.vae import decode_clip, decode_image, in_tiles

STEP = "diffusers/schedulers/scheduling_{}"
NOISE = {"upload diffusers/utils/torch_utils.py:randn_tensor": 1}
WAITS: dict[Scheduler | None, dict[str, int]] = {
    Scheduler.DDIM: {
        f"item {STEP.format('ddim')}.py:DDIMScheduler.step": 3,
        f"item {STEP.format('ddim')}.py:DDIMScheduler._get_variance": 3,
    },
    Scheduler.PNDM: {f"item {STEP.format('pndm')}.py:PNDMScheduler._get_prev_sample": 3},
    Scheduler.K_EULER_ANCESTRAL: NOISE,
    Scheduler.LCM: {f"item {STEP.format('lcm')}.py:LCMScheduler.step": 3} | NOISE,
    Scheduler.TCD: {f"item {STEP.format('tcd')}.py:TCDScheduler.step": 4},
    Scheduler.DPM_SOLVER_SDE_MULTISTEP_KARRAS: NOISE,
}
"""The host's waits in one step of text2img; a scheduler that is not named has none."""
INPAINT = (
    "item diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl_inpaint.py:"
    "StableDiffusionXLInpaintPipeline.__call__"
)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with rehearsal(tmp_path_factory.mktemp("refined"), REFINED_SDXL.shallow()) as stage:
        yield stage


@pytest.mark.parametrize("scheduler", [None, *Scheduler])
def test_a_step_waits_for_what_is_known_and_leaves_nothing(refined: Rehearsal, scheduler: Scheduler | None) -> None:
    run = refined.run(TaskType.TEXT2IMG, num_inference_steps=3, scheduler=scheduler)
    assert run.shapes == [(64, 64, 3)]
    assert dict(run.step) == WAITS.get(scheduler, {})
    assert refined.card.now == run.weights


@pytest.mark.parametrize(
    ("scheduler", "base", "refiner", "soft"),
    [(None, 3, 4, False), (None, 3, 4, True), (Scheduler.DDIM, 3, 4, False), (Scheduler.HEUN, 5, 9, False)],
)
def test_inpainting_with_the_refiner_runs_both_experts(
    refined: Rehearsal, scheduler: Scheduler | None, base: int, refiner: int, soft: bool
) -> None:
    split: dict[str, Any] = {"high_noise_frac": 0.5, "refiner_inference_steps": 8}
    split |= {"mask_blur": 4.0} if soft else {}
    run = refined.run(TaskType.INPAINT, num_inference_steps=8, scheduler=scheduler, **split)
    assert (run.calls["unet"], run.calls["refiner_unet"]) == (base, refiner)
    assert run.step[INPAINT] == 1
    assert refined.card.now == run.weights


Case = tuple[Model, TaskType, dict[str, Any], dict[str, int]]
CASES: dict[str, Case] = {
    "SDXL 1536x1536, img2img": (SDXL, TaskType.IMG2IMG, {"width": 1536, "height": 1536}, {"unet": 2}),
    "SDXL 1024x1024 of 2048x1152, soft inpaint": (
        SDXL,
        TaskType.INPAINT,
        {
            "width": 2048,
            "height": 1152,
            "mask_blur": 16.0,
            "outpaint": Borders(left=256),
            "drawn": Drawn(1024, 1024, (0, 0, 1152, 1152)),
        },
        {"unet": 2},
    ),
    "SDXL 512x768, unguided": (SDXL, TaskType.TEXT2IMG, {"width": 512, "height": 768, "guidance_scale": 1.0}, {}),
    "Wan 1.3B 832x480x33": (WAN_1_3B, TaskType.TEXT2VIDEO, {"width": 832, "height": 480, "num_frames": 33}, {}),
    "Wan I2V 14B 832x480x81": (
        WAN_14B_I2V,
        TaskType.IMG2VIDEO,
        {"width": 832, "height": 480, "num_frames": 81},
        {"image_encoder": 1, "transformer": 4},
    ),
    "Wan A14B 832x480x81": (
        A14B,
        TaskType.TEXT2VIDEO,
        {"width": 832, "height": 480, "num_frames": 81},
        {"transformer": 2, "transformer_2": 2},
    ),
    "Wan TI2V 832x480x33, img2video": (
        TI2V_5B,
        TaskType.IMG2VIDEO,
        {"width": 832, "height": 480, "num_frames": 33},
        {"transformer": 4},
    ),
    "Wan TI2V 832x480x33, first to last": (
        TI2V_5B,
        TaskType.IMG2VIDEO,
        {"width": 832, "height": 480, "num_frames": 33, "ends": True},
        {"transformer": 4},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_room_of_each_phase_is_as_estimated(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model, task, size, calls = CASES[name]
    with rehearsal(tmp_path, model.shallow()) as stage:
        run = stage.run(task, num_inference_steps=3 if model.family == "sdxl" else 2, **size)
        assert {network: run.calls[network] for network in calls} == calls
        assert not run.card.quadratic
        assert stage.card.now == run.weights
        for row in rows_of(stage, run, name, task, **size):
            record_property(ROWS, str(row))
            assert row.right, row
        stage.engine.unload()
        assert stage.card.now == 0


@pytest.mark.parametrize(
    ("model", "task", "size", "decode"),
    [
        (SDXL, TaskType.TEXT2IMG, {"width": 768, "height": 768}, decode_image),
        (WAN_1_3B, TaskType.TEXT2VIDEO, {"width": 640, "height": 384, "num_frames": 9}, decode_clip),
        (TI2V_5B, TaskType.TEXT2VIDEO, {"width": 640, "height": 384, "num_frames": 9}, decode_clip),
    ],
    ids=["SDXL", "Wan 2.1", "Wan 2.2"],
)
def test_decoding_in_tiles_takes_no_more_than_estimated(
    model: Model,
    task: TaskType,
    size: dict[str, int],
    decode: Callable[[Any, torch.Tensor], Any],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with rehearsal(tmp_path, model.shallow()) as stage:
        stage.prepare(task, **size)
        vae = stage.engine._cache[stage.spec(task)].parts.vae
        stage.card.forget()
        weights = stage.card.now
        latents = torch.empty(latents_shape(vae, **size), device="cuda")
        with in_tiles(vae, tiles=True):
            decode(vae, latents)
        estimated = room_of(stage, task, **size).decode_in_tiles
        name = f"{model.name} {'x'.join(map(str, size.values()))}, in tiles"
        row = Row(name, "decode", stage.card.peak - weights, estimated, 0)
        record_property(ROWS, str(row))
        assert row.counted <= 1.1 * row.estimated, row


def latents_shape(vae: Any, width: int, height: int, num_frames: int | None = None) -> tuple[int, ...]:
    if num_frames is None:
        return (1, vae.config.latent_channels, height // 8, width // 8)
    side = vae.config.scale_factor_spatial
    return (1, vae.config.z_dim, (num_frames - 1) // 4 + 1, height // side, width // side)

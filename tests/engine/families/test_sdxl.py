"""SDXL's three tasks and its refiner, on the demo weights."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.engine.conftest import Runner
from tests.support.engine_jobs import Recorder, image_params, picture, sources_of, stripe_mask
from worker.api.layout import Borders, Drawn
from worker.api.params import Draft
from worker.core.errors import Cancelled
from worker.core.types import Scheduler, Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.families import sdxl
from worker.engine.models.registry import ModelRegistry
from worker.engine.schedulers import CHOICES

IMAGE_TASKS = ("text2img", "img2img", "inpaint")
REFINED = {"high_noise_frac": 0.5, "refiner_inference_steps": 4, "num_inference_steps": 4}


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_an_image_has_the_size_asked_for(run: Runner, task: str) -> None:
    (image,) = run(task, width=72, height=104)
    assert image.shape == (104, 72, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.std() > 1


@pytest.mark.parametrize("task", IMAGE_TASKS)
@pytest.mark.parametrize("extra", [{}, REFINED], ids=["base", "refined"])
def test_image_k_equals_the_single_image_of_its_seed(run: Runner, task: str, extra: dict[str, float]) -> None:
    several = run(task, seeds=(11, 12, 13), **extra)
    assert len(several) == 3
    assert not np.array_equal(several[0], several[1])
    for index, seed in enumerate((11, 12, 13)):
        (alone,) = run(task, seeds=(seed,), **extra)
        assert np.array_equal(several[index], alone)


@pytest.mark.parametrize("extra", [{}, REFINED, REFINED | {"high_noise_frac": 0.1}], ids=["base", "both", "refiner"])
def test_a_large_image_is_drawn_small_and_finished_at_its_size(run: Runner, extra: dict[str, float]) -> None:
    drafted: dict[str, Any] = {"width": 128, "height": 96, "draft": Draft(64, 48, 0.5), "num_inference_steps": 4}
    control = Recorder()
    several = run("text2img", seeds=(11, 12), control=control, **drafted | extra)
    assert [image.shape for image in several] == [(96, 128, 3)] * 2
    assert control.steps == [*range(1, control.progress[-1].total_steps + 1)]
    assert control.steps[-1] == 2 * (4 + 2)
    (alone,) = run("text2img", seeds=(12,), **drafted | extra)
    assert np.array_equal(several[1], alone)
    (small,) = run("text2img", seeds=(12,), **drafted | {"width": 64, "height": 48, "draft": None})
    halved = np.asarray(Image.fromarray(alone).resize((64, 48), Image.Resampling.BOX), dtype=np.float32)
    (in_one,) = run("text2img", seeds=(12,), **drafted | {"draft": None})
    other = np.asarray(Image.fromarray(in_one).resize((64, 48), Image.Resampling.BOX), dtype=np.float32)
    assert np.abs(halved - small).mean() < np.abs(other - small).mean(), "it goes on from what was drawn small"


@pytest.mark.parametrize("scheduler", [None, *Scheduler])
def test_every_scheduler_finishes_a_draft(run: Runner, scheduler: Scheduler | None) -> None:
    control = Recorder()
    (image,) = run("text2img", width=128, height=128, draft=Draft(64, 64, 0.4), scheduler=scheduler, control=control)
    assert image.shape == (128, 128, 3)
    assert control.steps[-1] == control.progress[-1].total_steps
    assert control.steps == sorted(control.steps)


@pytest.mark.parametrize("scheduler", [None, *Scheduler])
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_every_scheduler_runs_every_task(run: Runner, task: str, scheduler: Scheduler | None) -> None:
    control = Recorder()
    (image,) = run(task, scheduler=scheduler, control=control)
    assert image.std() > 1
    assert control.steps[-1] == control.progress[-1].total_steps
    assert control.steps == sorted(control.steps)


@pytest.mark.parametrize("scheduler", [None, *Scheduler])
def test_every_scheduler_hands_over_to_the_refiner(run: Runner, scheduler: Scheduler | None) -> None:
    control = Recorder()
    (refined,) = run("text2img", scheduler=scheduler, control=control, **REFINED)
    (base,) = run("text2img", scheduler=scheduler, num_inference_steps=4)
    assert not np.array_equal(refined, base)
    assert control.steps[-1] == control.progress[-1].total_steps


@pytest.mark.parametrize("task", IMAGE_TASKS)
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.8, 0.999])
@pytest.mark.parametrize("steps", [1, 4])
def test_any_split_between_base_and_refiner_ends_in_a_picture(
    run: Runner, task: str, fraction: float, steps: int
) -> None:
    control = Recorder()
    extra = {} if task == "text2img" else {"strength": 0.3}
    (image,) = run(
        task,
        high_noise_frac=fraction,
        refiner_inference_steps=steps,
        num_inference_steps=steps,
        control=control,
        **extra,
    )
    assert image.std() > 1
    assert control.steps[-1] == control.progress[-1].total_steps >= 1


def test_a_full_fraction_is_the_base_alone(run: Runner) -> None:
    assert np.array_equal(run("text2img", high_noise_frac=1.0, refiner_inference_steps=3)[0], run("text2img")[0])


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1.0, ["high_noise_frac, refiner_inference_steps: no step was left for the refiner"]),
        (0.0, ["high_noise_frac, num_inference_steps: no step was left for the base model"]),
        (0.5, []),
        (None, []),
    ],
)
def test_an_expert_that_came_to_no_step_is_named(run: Runner, share: float | None, said: list[str]) -> None:
    control = Recorder()
    run("text2img", high_noise_frac=share, refiner_inference_steps=share and 4, num_inference_steps=4, control=control)
    assert control.warnings == said


def test_below_the_split_the_refiner_does_all_of_an_image_to_image(run: Runner) -> None:
    """A strength of at most 1 - high_noise_frac leaves no high noise for the base."""
    settings = {"strength": 0.4, "high_noise_frac": 0.5, "refiner_inference_steps": 5, "num_inference_steps": 5}
    control = Recorder()
    run("img2img", control=control, **settings)
    assert control.progress[-1].total_steps == 2  # 0.4 of 5 steps, all the refiner's


def test_progress_counts_all_images_and_the_refiner(run: Runner) -> None:
    control = Recorder()
    run("text2img", seeds=(1, 2), control=control, **REFINED)
    generating = [progress for progress in control.progress if progress.stage == "generating"]
    assert control.steps == list(range(1, 9))
    assert {progress.total_steps for progress in generating} == {8}
    decodes = [(progress.step, progress.share) for progress in generating if progress.part == "decode"]
    assert decodes == [(4, 0.0), (4, 1.0), (8, 0.0), (8, 1.0)]


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_without_guidance_the_negative_prompt_does_not_matter(run: Runner, guidance: float) -> None:
    (plain,) = run("text2img", guidance_scale=guidance)
    (negative,) = run("text2img", guidance_scale=guidance, negative_prompt="blue")
    assert np.array_equal(plain, negative)


def test_prompts_reach_the_model(run: Runner) -> None:
    plain, other, negative = (
        run("text2img", **changes)[0] for changes in ({}, {"prompt": "a cat"}, {"negative_prompt": "blue"})
    )
    assert not np.array_equal(plain, other)
    assert not np.array_equal(plain, negative)


@pytest.mark.parametrize("extra", [{}, REFINED], ids=["base", "refined"])
def test_inpainting_leaves_every_pixel_outside_the_mask_as_it_was(run: Runner, extra: dict[str, float]) -> None:
    source, mask = picture(), stripe_mask()
    (image,) = run("inpaint", sources=Sources(source, mask), strength=1.0, **extra)
    repaint = np.asarray(mask) >= 128
    assert np.array_equal(image[~repaint], np.asarray(source)[~repaint])
    assert not np.array_equal(image[repaint], np.asarray(source)[repaint])


def test_a_one_pixel_mask_is_repainted(run: Runner) -> None:
    """The latents are eight times coarser than the mask; a thin stroke must not fall between them."""
    source, mask = picture(), stripe_mask()
    mask.paste(0, (0, 0, 64, 64))
    mask.putpixel((3, 5), 255)
    (image,) = run("inpaint", sources=Sources(source, mask), strength=1.0)
    changed = np.argwhere((image != np.asarray(source)).any(axis=-1))
    assert changed.tolist() == [[5, 3]]


@pytest.mark.parametrize("scheduler", [None, *Scheduler])
@pytest.mark.parametrize("extra", [{}, REFINED], ids=["base", "refined"])
def test_a_soft_mask_keeps_what_has_no_weight_and_mixes_what_has_some(
    run: Runner, scheduler: Scheduler | None, extra: dict[str, float]
) -> None:
    """diffusers#10690, diffusers#5808: hard mask edges leave a seam; a blurred mask blends."""
    source, mask = picture(), Image.new("L", (64, 64))
    for column in range(64):
        mask.paste(4 * column if column >= 16 else 0, (column, 0, column + 1, 64))
    (image,) = run("inpaint", sources=Sources(source, mask), strength=1.0, scheduler=scheduler, **extra)
    assert np.array_equal(image[:, :16], np.asarray(source)[:, :16])
    changed = np.abs(image.astype(int) - np.asarray(source)).mean(axis=(0, 2))
    assert 0 < changed[16:32].mean() < changed[48:].mean()


def test_the_more_weight_a_mask_has_the_more_is_changed(run: Runner) -> None:
    """https://arxiv.org/abs/2306.00950: also before pixels are mixed, a lighter area is released later."""
    source = Image.new("RGB", (64, 64), (180, 60, 60))
    changes = []
    for weight in (16, 64, 128, 192, 255):
        mask = Image.new("L", (64, 64), weight)
        (image,) = run("inpaint", sources=Sources(source, mask), strength=1.0, num_inference_steps=8)
        changes.append(np.abs(image.astype(int) - np.asarray(source)).mean())
    assert changes == sorted(changes)
    assert changes[0] < 0.2 * changes[-1]


@pytest.mark.parametrize("extra", [{}, REFINED], ids=["base", "refined"])
def test_what_is_let_go_of_step_by_step_is_the_same_for_a_hard_mask(
    run: Runner, monkeypatch: pytest.MonkeyPatch, extra: dict[str, float]
) -> None:
    """A mask of 0 and 255 takes the shorter path: the pipeline's own mask, as it always was."""
    plain = run("inpaint", strength=1.0, seeds=(1, 2), **extra)
    monkeypatch.setattr(sdxl, "is_hard", lambda _: False)
    for one, other in zip(plain, run("inpaint", strength=1.0, seeds=(1, 2), **extra), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("extra", [{}, REFINED], ids=["base", "refined"])
def test_the_masked_area_is_drawn_at_the_models_size_and_the_rest_is_not_touched(
    run: Runner, extra: dict[str, float]
) -> None:
    source, mask = picture(200, 120), Image.new("L", (200, 120))
    mask.paste(255, (100, 40, 130, 70))
    part = Drawn(64, 64, (85, 25, 145, 85))
    (image,) = run("inpaint", sources=Sources(source, mask), width=200, height=120, drawn=part, strength=1.0, **extra)
    repaint = np.asarray(mask) == 255
    assert np.array_equal(image[~repaint], np.asarray(source)[~repaint])
    assert np.abs(image.astype(int) - np.asarray(source))[repaint].mean() > 10


@pytest.mark.parametrize("extra", [{}, REFINED], ids=["base", "refined"])
def test_a_canvas_grows_and_the_old_pixels_stay(run: Runner, extra: dict[str, float]) -> None:
    source, borders = picture(), Borders(left=32, down=16)
    given = Sources(source)
    (image,) = run("inpaint", sources=given, width=96, height=80, outpaint=borders, strength=1.0, **extra)
    assert image.shape == (80, 96, 3)
    assert np.array_equal(image[:64, 32:], np.asarray(source))
    assert image[:, :24].std() > 1


def test_a_tiny_strength_still_runs_one_step(run: Runner) -> None:
    for task in ("img2img", "inpaint"):
        control = Recorder()
        run(task, strength=0.01, control=control)
        assert control.steps == [1]
        assert any(warning.startswith("strength:") for warning in control.warnings)


def test_a_low_strength_stays_near_the_source(run: Runner) -> None:
    """Both decode the same source: the less of the schedule runs, the less the picture changes."""
    low = run("img2img", strength=0.2, num_inference_steps=10)[0].astype(int)
    same = run("img2img", strength=0.1, num_inference_steps=10)[0].astype(int)
    high = run("img2img", strength=1.0, num_inference_steps=10)[0].astype(int)
    assert abs(low - same).mean() < abs(high - same).mean()


def test_a_source_of_other_proportions_is_cropped_and_told(run: Runner) -> None:
    control = Recorder()
    (image,) = run("img2img", sources=Sources(picture(200, 100)), control=control)
    assert image.shape == (64, 64, 3)
    assert any("50 % of it was cropped" in warning for warning in control.warnings)


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_cancel_at_step_3_stops_within_the_step_and_leaves_nothing(run: Runner, task: str) -> None:
    settings = {"num_inference_steps": 8} | ({"strength": 1.0} if task != "text2img" else {})
    (before,) = run(task, **settings)
    control = Recorder(cancel_at=3)
    with pytest.raises(Cancelled):
        run(task, control=control, **settings)
    assert control.steps[-1] == 3
    (after,) = run(task, **settings)
    assert np.array_equal(before, after)


def test_the_three_pipelines_share_every_network(engine: Engine) -> None:
    import diffusers
    import torch

    from worker.engine.families.sdxl import SdxlJob
    from worker.engine.models.loader import SdxlParts

    refining = diffusers.StableDiffusionXLImg2ImgPipeline
    kinds = (diffusers.StableDiffusionXLPipeline, refining, diffusers.StableDiffusionXLInpaintPipeline)
    parts = engine._cache[engine.registry.spec(TaskType.TEXT2IMG)].parts
    assert isinstance(parts, SdxlParts)
    job = SdxlJob(parts, torch.device("cpu"), image_params(), sources_of("text2img"), Recorder())
    pipelines = [job._pipeline(kind) for kind in kinds]
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert len({id(getattr(pipeline, name)) for pipeline in pipelines}) == 1
    assert len({id(pipeline.scheduler) for pipeline in pipelines}) == 3
    assert id(job._pipeline(refining, refiner=True).vae) == id(parts.vae)


def test_the_catalog_puts_the_three_tasks_on_one_bundle(engine: Engine) -> None:
    registry: ModelRegistry = engine.registry
    assert registry.spec(TaskType.TEXT2IMG) == registry.spec(TaskType.IMG2IMG) == registry.spec(TaskType.INPAINT)


class Seen:
    """The pipelines that are called, with their schedulers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.schedulers: list[Any] = []
        for name in (
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
        ):
            monkeypatch.setattr(sdxl, name, self._watched(getattr(sdxl, name)))

    def _watched(self, kind: Any) -> Any:
        def called(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            self.schedulers.append(pipeline.scheduler)
            return kind.__call__(pipeline, *args, **kwargs)

        return type(kind.__name__, (kind,), {"__call__": called})


@pytest.mark.parametrize("choice", list(Scheduler))
def test_a_job_is_denoised_by_the_scheduler_that_was_asked_for(
    run: Runner, monkeypatch: pytest.MonkeyPatch, choice: Scheduler
) -> None:
    seen = Seen(monkeypatch)
    run("text2img", scheduler=choice)
    kind, options = CHOICES[choice]
    assert [type(scheduler).__name__ for scheduler in seen.schedulers] == [kind]
    assert options.items() <= dict(seen.schedulers[0].config).items()


@pytest.mark.parametrize(
    ("task", "fields"),
    [("img2img", {}), ("inpaint", {}), ("text2img", {"high_noise_frac": 0.5, "refiner_inference_steps": 4})],
    ids=["img2img", "inpaint", "refiner"],
)
def test_every_pass_of_a_job_has_that_scheduler(
    run: Runner, monkeypatch: pytest.MonkeyPatch, task: str, fields: dict[str, Any]
) -> None:
    seen = Seen(monkeypatch)
    run(task, scheduler=Scheduler.UNIPC, **fields)
    assert {type(scheduler).__name__ for scheduler in seen.schedulers} == {"UniPCMultistepScheduler"}
    assert len(seen.schedulers) == (2 if fields else 1)


def test_the_size_that_the_model_is_told_counts_and_its_own_changes_nothing(run: Runner) -> None:
    for task in ("text2img", "inpaint"):
        (plain,), (own,), (native,) = (run(task, micro_conditioning=told) for told in (None, (64, 64), (256, 256)))
        assert np.array_equal(plain, own)
        assert not np.array_equal(plain, native)

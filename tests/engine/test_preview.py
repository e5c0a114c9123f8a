"""Previews: the clean picture that the latents lead to, for every scheduler, without changing the result."""

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.engine.conftest import Runner, engine_of
from tests.support.engine_jobs import Recorder
from tests.support.network_state import NetworkState
from tests.support.requested_jobs import Job, resolved, small_job
from tests.support.requested_jobs import run as run_job
from worker.api.params import Draft, Upscale
from worker.core.config import Settings
from worker.core.errors import ModelUnavailable
from worker.core.types import Preview, Scheduler, TaskType
from worker.engine import preview
from worker.engine.engine import Engine
from worker.engine.memory.footprint import extra_bytes
from worker.engine.memory.room import PREVIEW, Size, room
from worker.engine.preview import (
    LONGEST_SIDE,
    SDXL_FACTOR,
    Backdrop,
    Beside,
    Frame,
    drawer,
    rows_for,
    shown,
    small,
)
from worker.engine.schedulers import image_scheduler, video_scheduler
from worker.media.preview import MAX_CHARACTERS, preview_uri

_KIT: Any = diffusers
AS_THEY_ARE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
"""Three latent channels that are colours."""
SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CLEAN = torch.rand((1, 3, 6, 10), generator=torch.Generator().manual_seed(5)) * 2 - 1


class Looker(Recorder):
    """Wants a preview of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Image.Image] = []

    def viewer(self) -> Callable[[Preview], None] | None:
        def take(shown: Preview) -> None:
            assert shown.ready()
            self.seen.append(shown.picture())

        return take


def known(scheduler: Any, index: int, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
    """Return the output of a network that knows the clean latents, for noisy ones."""
    clean, config = CLEAN.to(sample), scheduler.config
    if config.get("prediction_type") == "flow_prediction" or "FlowMatch" in type(scheduler).__name__:
        velocity: torch.Tensor = (sample - clean) / float(scheduler.sigmas[index])
        return velocity
    noisy = scheduler.scale_model_input(sample, timestep)
    if hasattr(scheduler, "sigmas"):
        alpha = 1 / (1 + float(scheduler.sigmas[index]) ** 2) ** 0.5
    else:
        alpha = float(scheduler.alphas_cumprod[int(timestep)]) ** 0.5
    noise: torch.Tensor = (noisy - alpha * clean) / (1 - alpha**2) ** 0.5
    return alpha * noise - (1 - alpha**2) ** 0.5 * clean if config.prediction_type == "v_prediction" else noise


def drawn(scheduler: Any, control: Recorder, steps: int = 6) -> torch.Tensor:
    """Return the latents that a scheduler ends with."""
    generator = torch.Generator().manual_seed(1)
    scheduler.set_timesteps(steps)
    sample = torch.randn(CLEAN.shape, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    with shown(scheduler, AS_THEY_ARE, control), torch.no_grad():
        for index, timestep in enumerate(scheduler.timesteps):
            takes = inspect.signature(scheduler.step).parameters
            options = {"generator": generator} if "generator" in takes else {}
            made = known(scheduler, index, sample, timestep)
            sample = scheduler.step(made, timestep, sample, **options, return_dict=False)[0]
    return sample


def assert_clean(seen: list[Image.Image]) -> None:
    wanted = CLEAN[0].permute(1, 2, 0).add(1).mul(127.5).numpy()
    for image in seen:
        assert np.abs(np.asarray(image, dtype=np.float32) - wanted).max() < 3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("choice", [None, *Scheduler])
def test_every_scheduler_shows_the_clean_picture_at_every_step(choice: Scheduler | None, prediction: str) -> None:
    own = _KIT.EulerDiscreteScheduler(**SDXL, prediction_type=prediction)
    looker = Looker()
    made = drawn(image_scheduler(own, choice), looker)
    assert len(looker.seen) >= 6
    assert not looker.warnings
    assert_clean(looker.seen)
    assert torch.equal(made, drawn(image_scheduler(own, choice), Recorder())), "who looks changes nothing"


@pytest.mark.parametrize(
    "own",
    [
        _KIT.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        _KIT.FlowMatchEulerDiscreteScheduler(),
        _KIT.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ],
    ids=["UniPC", "Euler", "DPM-Solver"],
)
def test_every_scheduler_of_a_flow_does_so_too(own: Any) -> None:
    looker = Looker()
    made = drawn(video_scheduler(own, 3.0), looker)
    assert_clean(looker.seen)
    assert len(looker.seen) == 6
    assert torch.equal(made, drawn(video_scheduler(own, 3.0), Recorder()))


@pytest.mark.filterwarnings("ignore:`algorithm_types dpmsolver:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("UniPCMultistepScheduler", {"predict_x0": False}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ],
)
def test_a_solver_that_keeps_noise_does_so_too(kind: str, options: dict[str, Any]) -> None:
    looker = Looker()
    drawn(getattr(_KIT, kind)(**SDXL, **options), looker)
    assert len(looker.seen) == 6
    assert_clean(looker.seen)


def test_a_scheduler_is_as_it_was_afterwards() -> None:
    scheduler = _KIT.EulerDiscreteScheduler(**SDXL)
    before = inspect.signature(scheduler.step)
    with shown(scheduler, AS_THEY_ARE, Recorder()):
        assert inspect.signature(scheduler.step) == before
    assert "step" not in vars(scheduler)


def test_who_wants_to_see_what_cannot_be_shown_is_told() -> None:
    looker, scheduler = Looker(), _KIT.EulerDiscreteScheduler(**SDXL)
    scheduler.set_timesteps(2)
    with shown(scheduler, None, looker):
        scheduler.step(CLEAN, scheduler.timesteps[0], CLEAN)
    assert (looker.seen, looker.warnings) == ([], [preview.NONE_SHOWN])


def test_latents_are_made_small_in_their_own_shape_and_of_a_clip_the_middle_counts() -> None:
    assert small(torch.zeros(1, 4, 128, 128)).shape == (4, 128, 128)
    assert small(torch.zeros(1, 4, 256, 128)).shape == (4, LONGEST_SIDE, LONGEST_SIDE // 2)
    clip = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 16, 5, 6, 8)
    assert small(clip).shape == (16, 6, 8)
    assert bool((small(clip) == 2).all())


def test_latents_that_are_no_numbers_are_shown_as_some_picture() -> None:
    image = Frame(preview._coloured(torch.full((3, 2, 2), torch.nan), torch.tensor(AS_THEY_ARE))).picture()
    assert image.size == (2, 2)


class Vae:
    def __init__(self, **config: Any) -> None:
        self.config = config


def test_colours_are_the_models_own_or_as_published_for_its_kind() -> None:
    assert [len(rows_for(Vae(z_dim=channels)) or ()) for channels in (16, 48, 12)] == [17, 49, 0]
    sdxl, playground = rows_for(Vae(latent_channels=4)), rows_for(Vae(latent_channels=4, latents_mean=[0.0] * 4))
    assert sdxl is not None
    assert playground is not None
    assert sdxl != playground
    assert rows_for(Vae(latent_channels=16)) is None
    own = [[0.5, 0, 0]] * 5
    assert rows_for(Vae(latent_channels=4), own) == ((0.5, 0, 0),) * 5
    assert rows_for(Vae(latent_channels=16), own) is None, "a row for each channel and one more"


def test_tiles_are_seen_in_the_whole_picture_one_after_another() -> None:
    backdrop = Backdrop(np.zeros((400, 800, 3), np.uint8))
    first = backdrop.with_tile((0, 0, 400, 400), Image.new("RGB", (50, 50), "red"))
    both = backdrop.with_tile((400, 0, 800, 400), Image.new("RGB", (50, 50), "lime"))
    assert first.size == both.size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert [image.getpixel((x, 48)) for image in (first, both) for x in (48, 144)] == [
        (255, 0, 0),
        (0, 0, 0),
        (255, 0, 0),
        (0, 255, 0),
    ]


JOBS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "text2img": ("text2img", {}, (8, 8)),
    "img2img": ("img2img", {}, (8, 8)),
    "inpaint": ("inpaint", {}, (8, 8)),
    "refined": ("inpaint", {"high_noise_frac": 0.5, "refiner_inference_steps": 4, "num_inference_steps": 4}, (8, 8)),
    "drafted": ("text2img", {"width": 128, "height": 128, "draft": Draft(64, 64, 0.4)}, (16, 16)),
    "upscaled": ("text2img", {"upscale": Upscale(2, 128, 128, "lanczos", 0.5, (96, 96))}, (128, 128)),
    "text2video": ("text2video", {}, (8, 8)),
    "img2video": ("img2video", {}, (8, 8)),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_is_looked_at_makes_the_same(run: Runner, name: str) -> None:
    task, params, size = JOBS[name]
    looker, unseen = Looker(), Recorder()
    looked_at = run(task, control=looker, **params)
    alone = run(task, control=unseen, **params)
    assert all(np.array_equal(one, other) for one, other in zip(looked_at, alone, strict=True))
    assert (looker.steps, looker.warnings) == (unseen.steps, unseen.warnings)
    assert looker.seen[-1].size == size
    assert len(looker.seen) >= len(set(looker.steps)) - 1


def test_half_way_a_star_is_seen(run: Runner) -> None:
    looker = Looker()
    scene = {"width": 256, "height": 256, "guidance_scale": 2.0}
    (image,) = run("text2img", control=looker, prompt="a red star on blue", num_inference_steps=8, **scene)
    final = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    half = np.asarray(looker.seen[len(looker.seen) // 2 - 1], dtype=np.float32)
    apart = [np.corrcoef(final[..., k].ravel(), half[..., k].ravel())[0, 1] for k in (0, 2)]
    assert min(apart) > 0.9, "red where it will be red, blue where it will be blue"


class Tiny(torch.nn.Module):
    """An autoencoder that turns a latent into a square of 8 x 8 pixels, its first three channels the colours."""

    dtype = torch.float32

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = {"latent_channels": 4, "scaling_factor": 1.0} | config
        self.given: list[tuple[int, ...]] = []

    def decode(self, latents: torch.Tensor, *, return_dict: bool) -> tuple[torch.Tensor]:
        assert not return_dict
        self.given.append(tuple(latents.shape))
        return (torch.nn.functional.interpolate(latents[:, :3], scale_factor=8),)


def of_sdxl(**config: Any) -> Vae:
    return Vae(**({"latent_channels": 4, "scaling_factor": SDXL_FACTOR} | config))


def drawn_by(tiny: Tiny, vae: Vae) -> Callable[[torch.Tensor], torch.Tensor]:
    draw = drawer(tiny, vae, Beside(), 512 * 512)
    assert draw is not None

    def pixels(clean: torch.Tensor) -> torch.Tensor:
        made = draw(clean)
        assert made is not None
        return made

    return pixels


def test_a_tiny_autoencoder_is_given_latents_as_sdxls_unet_has_them() -> None:
    clean = torch.tensor([0.5, -0.5, 0.0, 9.0])[:, None, None].expand(4, 6, 4)
    usual = drawn_by(Tiny(), of_sdxl())
    own = drawn_by(Tiny(), of_sdxl(scaling_factor=0.5, latents_mean=[1.0] * 4, latents_std=[2.0] * 4))
    scaled = drawn_by(Tiny(scaling_factor=0.5), of_sdxl())
    assert usual(clean).shape == (48, 32, 3)
    assert usual(clean)[5, 5].tolist() == [191, 64, 128]
    of_its_own = [round(127.5 * (1 + SDXL_FACTOR * (value * 2 / 0.5 + 1))) for value in (0.5, -0.5, 0.0)]
    assert own(clean)[5, 5].tolist() == of_its_own
    assert scaled(clean)[5, 5].tolist() == [255, 0, 128]


def test_of_large_pictures_it_draws_no_more_than_can_be_seen() -> None:
    tiny = Tiny()
    draw = drawn_by(tiny, of_sdxl())
    assert draw(torch.zeros(4, 192, 96)).shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)
    assert tiny.given == [(1, 4, 64, 32)]


def test_latents_that_it_does_not_take_are_drawn_by_the_map() -> None:
    assert drawer(None, of_sdxl(), Beside(), 512 * 512) is None
    assert drawer(Tiny(), of_sdxl(latent_channels=16), Beside(), 512 * 512) is None


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with madebyollin/taesdxl's layout, with random numbers."""
    folder: Path = tmp_path_factory.mktemp("tiny") / "taesdxl"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        _KIT.AutoencoderTiny().save_pretrained(folder)
    (folder / "README.md").write_text("TAESDXL")
    return folder


def engine_with(settings: Settings, preview_model: Path | None, **changes: Any) -> Engine:
    return engine_of(settings, preview_model=preview_model and str(preview_model), **changes)


def looked_at(engine: Engine, job: Job) -> tuple[list[Any], list[Image.Image]]:
    looker = Looker() if job.fields.get("preview") else Recorder()
    files = run_job(engine, job, looker)
    return files, looker.seen if isinstance(looker, Looker) else []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_tiny_autoencoder_draws_previews_in_place_of_the_map(
    kind: str, demo_settings: Settings, tiny_folder: Path
) -> None:
    source = tiny_folder if kind == "folder" else tiny_folder / "diffusion_pytorch_model.safetensors"
    engine, plain = engine_with(demo_settings, source), engine_with(demo_settings, None)
    unseen, none = looked_at(engine, small_job())
    spec = engine.registry.spec(TaskType.TEXT2IMG)
    parts: Any = engine._cache[spec].parts
    assert (parts.preview, none) == (None, []), "nothing is loaded for a job that shows nothing"
    looked_at(engine, small_job(preview=True))
    before = NetworkState(parts.modules())
    for task in (TaskType.TEXT2IMG, TaskType.INPAINT):
        seen = looked_at(engine, small_job(task, preview=True))
        by_map = looked_at(plain, small_job(task, preview=True))
        alone, _ = looked_at(engine, small_job(task))
        assert all(np.array_equal(one, other) for one, other in zip(seen[0], by_map[0], strict=True))
        assert all(np.array_equal(one, other) for one, other in zip(seen[0], alone, strict=True))
        assert [image.size for image in seen[1]] == [(64, 64)] * len(by_map[1])
        assert len(seen[1]) >= 2
        assert not np.array_equal(np.asarray(seen[1][0]), np.asarray(seen[1][-1])), "as the picture changes"
        assert not np.array_equal(np.asarray(seen[1][-1]), np.asarray(by_map[1][-1].resize((64, 64))))
        assert all(len(preview_uri(image)) <= MAX_CHARACTERS for image in seen[1])
    assert np.array_equal(unseen[0], looked_at(plain, small_job())[0][0])
    assert before.differences() == []
    assert not list(engine._cache[spec].offloader._visiting)
    assert "step" not in vars(parts.scheduler)
    request, _ = resolved(engine, small_job(preview=True))
    asked = engine.registry.spec(TaskType.TEXT2IMG, None, request)
    counted = extra_bytes(asked, cuda=False)["preview"]
    assert counted == engine._cache[spec].offloader.networks["preview"] == 4 * 2445063
    assert room(asked, Size(64, 64), cuda=True).denoise == 2 * PREVIEW
    assert room(asked, Size(2048, 2048), cuda=True) == room(spec, Size(2048, 2048), cuda=True)
    engine.unload()
    plain.unload()


def test_where_there_is_no_room_for_it_the_map_draws_until_something_leaves_the_gpu(
    demo_settings: Settings, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, plain = engine_with(demo_settings, tiny_folder), engine_with(demo_settings, None)
    large, less = small_job(preview=True, width=128, height=64), small_job(preview=True)
    by_map = looked_at(plain, large)
    looked_at(engine, large)
    engine.prepare(*resolved(engine, small_job(TaskType.TEXT2VIDEO)), Recorder())
    parts: Any = engine._cache[engine.registry.spec(TaskType.TEXT2IMG)].parts
    decode, tried = parts.preview.decode, []

    def short(*args: Any, **options: Any) -> Any:
        tried.append(1)
        raise torch.OutOfMemoryError

    def said() -> int:
        return sum(getattr(record, "action", "") == "preview_out_of_memory" for record in caplog.records)

    monkeypatch.setattr(parts.preview, "decode", short)
    with caplog.at_level(logging.WARNING, "worker"):
        for _ in range(2):
            files, seen = looked_at(engine, large)
            assert np.array_equal(files[0], by_map[0][0])
            assert len(seen) >= 2
            assert [image.tobytes() for image in seen] == [image.tobytes() for image in by_map[1]]
            assert (len(tried), said()) == (1, 1), "once, for all jobs of this size"
    monkeypatch.setattr(parts.preview, "decode", decode)
    assert looked_at(engine, less)[1][0].size == (64, 64), "a smaller job may leave it room"
    assert looked_at(engine, large)[1][0].size == (16, 8)
    engine._cache.evict([engine.registry.spec(TaskType.TEXT2VIDEO).name])
    assert looked_at(engine, large)[1][0].size == (128, 64)
    engine.unload()
    plain.unload()


def test_it_is_had_by_jobs_of_images_that_are_shown_alone(demo_settings: Settings, tiny_folder: Path) -> None:
    engine = engine_with(demo_settings, tiny_folder)
    blocks = engine_with(demo_settings, tiny_folder, safety_checker="block", safety_model=str(tiny_folder))

    def extras(engine: Engine, **fields: Any) -> list[str]:
        request, _ = resolved(engine_with(demo_settings, None), small_job(**fields))
        return [extra.network for extra in engine.registry.spec(request.task_type, None, request).extras]

    assert extras(engine, preview=True) == ["preview"]
    assert (
        extras(engine) == extras(blocks, preview=True) == extras(engine, task=TaskType.TEXT2VIDEO, preview=True) == []
    )


@pytest.mark.parametrize("kind", ["folder", "channels", "file", "cut short", "demo"])
def test_what_is_no_tiny_autoencoder_is_refused_in_words(
    kind: str, demo_settings: Settings, demo_models: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    of_16, file = tmp_path / "taef1", tmp_path / "a.safetensors"
    small = {"block_out_channels": (8, 8), "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    widths = {f"{half}_block_out_channels": small["block_out_channels"] for half in ("encoder", "decoder")}
    blocks = {name: value for name, value in small.items() if name != "block_out_channels"}
    _KIT.AutoencoderTiny(latent_channels=16, **widths, **blocks).save_pretrained(of_16)
    kept = {} if kind != "cut short" else {"decoder.layers.0.weight": torch.zeros(64, 4, 3, 3)}
    save_file({"1.weight": torch.zeros(64, 4, 3, 3), **kept}, file)
    sources = {"folder": demo_models / "sdxl" / "vae", "channels": of_16, "demo": Path("demo")}
    engine = engine_with(demo_settings, sources.get(kind, file))
    said = {
        "cut short": "PREVIEW_MODEL names a model whose preview has tensors",
        "demo": "PREVIEW_MODEL cannot be demo",
    }
    with pytest.raises(ModelUnavailable, match=said.get(kind, "PREVIEW_MODEL names .* is not a tiny autoencoder")):
        looked_at(engine, small_job(preview=True))
    assert len(looked_at(engine, small_job())[0]) == 1, "who asks for none is served"

"""A checkpoint draws however it was trained: from the file's header through the loader to the picture."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.conftest import runner
from tests.support.engine_jobs import Recorder, image_params
from tests.support.model_folders import registry
from tests.support.pixel_checker import look
from tests.support.single_file import single_file
from worker.api.request import Text2ImgRequest
from worker.core.config import load_settings
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.families.sdxl import SdxlJob
from worker.engine.memory.footprint import spec_bytes
from worker.engine.models.checkpoint import schedule_of
from worker.engine.models.few_steps import named
from worker.engine.models.hub import Place
from worker.engine.models.loader import Loader, SdxlParts
from worker.engine.models.registry import SDXL_BASE, ModelRegistry
from worker.engine.protocol import GeneratedImage
from worker.engine.schedulers import image_scheduler, reconfigured

V_PRED = {"v_pred": torch.zeros(0)}
ZERO_SNR = {"ztsnr": torch.zeros(0)}
COSXL = {"edm_vpred.sigma_min": torch.tensor(0.002), "edm_vpred.sigma_max": torch.tensor(120.0)}
PLAYGROUND = {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.full((1, 4, 1, 1), 0.5)}

Models = Callable[..., ModelRegistry]


@pytest.fixture(scope="module")
def original(small_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the tensors of a small checkpoint in one file."""
    return load_file(single_file(small_sdxl, tmp_path_factory.mktemp("original") / "model.safetensors"))


@pytest.fixture
def models(original: dict[str, torch.Tensor], small_sdxl: Path, tmp_path: Path) -> Models:
    """Return a worker whose model is that file with changes; its configs are on this machine."""
    shutil.copytree(small_sdxl, tmp_path / "models" / SDXL_BASE.replace("/", "--"))

    def start(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> ModelRegistry:
        path = tmp_path / "changed.safetensors"
        save_file(change(original), path)
        return registry(cuda=False, sdxl_model=str(path), where=(Place(tmp_path / "models", "plain"),))

    return start


def loaded(models: ModelRegistry, *, cuda: bool = False) -> SdxlParts:
    parts = Loader(
        models.spec(TaskType.TEXT2IMG), cuda=cuda, control=Recorder(), sdxl_configs=models.sdxl_configs()
    ).load()
    assert isinstance(parts, SdxlParts)
    return parts


def test_a_v_prediction_file_of_zero_snr_runs_as_it_was_trained(models: Models) -> None:
    config = loaded(models(lambda tensors: tensors | V_PRED | ZERO_SNR)).scheduler.config
    assert config.prediction_type == "v_prediction"
    assert config.rescale_betas_zero_snr is True
    assert config.timestep_spacing == "trailing"
    assert (config.beta_start, config.beta_end) == (0.00085, 0.012)


def test_a_file_draws_what_a_folder_of_the_same_scheduler_draws(
    models: Models, small_sdxl: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "v-prediction"
    shutil.copytree(small_sdxl, folder)
    base = loaded(registry(cuda=False, sdxl_model=str(folder))).scheduler
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    reconfigured(base, options).save_pretrained(folder / "scheduler")
    in_folder = registry(cuda=False, sdxl_model=str(folder))
    in_file = models(lambda tensors: tensors | V_PRED | ZERO_SNR)
    pictures = [runner(Engine(load_settings(), registry=each))("text2img")[0] for each in (in_file, in_folder)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert in_file.describe(TaskType.TEXT2IMG).schedulers == in_folder.describe(TaskType.TEXT2IMG).schedulers


@pytest.mark.parametrize("task", ["text2img", "img2img", "inpaint"])
@pytest.mark.parametrize("kind", [COSXL, PLAYGROUND], ids=["CosXL", "Playground"])
def test_an_edm_file_draws_in_every_task(models: Models, kind: dict[str, torch.Tensor], task: str) -> None:
    start = runner(Engine(load_settings(), registry=models(lambda tensors: tensors | kind)))
    assert start(task)[0].std() > 0


def test_playgrounds_vae_is_given_the_statistics_of_its_latents(models: Models) -> None:
    config = loaded(models(lambda tensors: tensors | PLAYGROUND)).vae.config
    assert (tuple(config.latents_mean), tuple(config.latents_std)) == ((0.0,) * 4, (0.5,) * 4)
    assert config.scaling_factor == 0.5


def test_fp8_is_read_into_the_dtype_it_runs_in_and_weighed_so(models: Models) -> None:
    def narrowed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(torch.float8_e4m3fn) for name, value in tensors.items()}

    found = models(narrowed)
    for cuda, dtype in ((True, torch.float16), (False, torch.float32)):
        networks = loaded(found, cuda=cuda).modules().values()
        assert {tensor.dtype for network in networks for tensor in network.parameters()} == {dtype}
        held = sum(tensor.numel() * tensor.element_size() for network in networks for tensor in network.parameters())
        weighed = sum(spec_bytes(found.spec(TaskType.TEXT2IMG), cuda=cuda).values())
        assert weighed == pytest.approx(held, rel=0.02)


def test_a_file_without_a_vae_draws_with_another(
    models: Models, original: dict[str, torch.Tensor], small_sdxl: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({name: value for name, value in original.items() if not name.startswith("first_stage_model.")}, path)
    place = Place(tmp_path / "models", "plain")
    bare = registry(cuda=False, sdxl_model=str(path), sdxl_vae=str(small_sdxl / "vae"), where=(place,))
    whole = models(lambda tensors: tensors)
    pictures = [runner(Engine(load_settings(), registry=each))("text2img")[0] for each in (bare, whole)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


class Retold(torch.nn.Module):
    """A v-prediction UNet converted to predict noise: eps = alpha v + sigma x, with x of unit variance.

    https://arxiv.org/abs/2202.00512, appendix D.
    """

    def __init__(self, unet: Any, alphas_cumprod: torch.Tensor) -> None:
        super().__init__()
        self.unet, self.alphas_cumprod = unet, alphas_cumprod
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device
        self.add_embedding = unet.add_embedding

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        (velocity,) = self.unet(sample, timestep, **options)
        kept = self.alphas_cumprod[int(timestep)]
        return (kept.sqrt() * velocity + (1 - kept).sqrt() * sample,)


def test_the_same_network_told_as_noise_or_as_v_draws_the_same_scene() -> None:
    """The demo model predicts v. Its noise-predicting twin draws the same; either, run as the other, does not."""
    parts = loaded(registry(cuda=False))
    own = parts.scheduler
    noise = dataclasses.replace(parts, unet=Retold(parts.unet, own.alphas_cumprod))
    as_noise = reconfigured(own, {"prediction_type": "epsilon"})
    zero_snr = reconfigured(own, {"rescale_betas_zero_snr": True})
    scenes = {
        "v as v": parts,
        "noise as noise": dataclasses.replace(noise, scheduler=as_noise),
        "v from pure noise": dataclasses.replace(parts, scheduler=zero_snr),
        "v as noise": dataclasses.replace(parts, scheduler=as_noise),
        "noise as v": noise,
    }
    params = image_params(
        prompt="a red circle on a blue background",
        width=256,
        height=256,
        num_inference_steps=12,
        guidance_scale=2.0,
        seeds=(3,),
    )
    seen = {}
    for name, scene in scenes.items():
        job = SdxlJob(scene, torch.device("cpu"), params, Sources(), Recorder())
        found = look(next(iter(job.run())).pixels)
        seen[name] = (found.shape, found.colour, found.background)
    assert seen["v as v"] == ("circle", "red", "blue")
    assert seen["noise as noise"] == seen["v as v"]
    assert seen["v from pure noise"] == seen["v as v"]
    assert seen["v as noise"] != seen["v as v"]
    assert seen["noise as v"] != seen["v as v"]


def test_dmd2_takes_the_steps_that_it_was_trained_at() -> None:
    """https://huggingface.co/tianweiy/DMD2: LCMScheduler's own four would be different."""
    own = reconfigured(loaded(registry(cuda=False)).scheduler, schedule_of(named("dmd2-4step")))
    scheduler = image_scheduler(own, named("dmd2-4step")["scheduler"])
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_two_models_behind_one_endpoint_draw_each_its_own(small_sdxl: Path, demo_models: Path) -> None:
    models = registry(cuda=False, sdxl_model=f"small={small_sdxl}, demo={demo_models / 'sdxl'}")
    engine = Engine(load_settings(), registry=models)
    assert engine.health()[0] == "text2img"
    small, demo = (
        Text2ImgRequest.model_validate({"prompt": "a red circle", "model": name}) for name in ("small", "demo")
    )
    params = image_params()

    def draw(request: Text2ImgRequest) -> Any:
        engine.prepare(request, params, Recorder())
        (picture,) = engine.generate(request, params, Sources(), Recorder())
        assert isinstance(picture, GeneratedImage)
        return picture.pixels

    assert not np.array_equal(draw(small), draw(demo))
    assert np.array_equal(draw(small), draw(small))
    assert set(engine.loaded) == {"sdxl:small", "sdxl:demo"}

"""The kind of a single-file checkpoint, told by headers with the names and shapes of published ones."""

import json
import struct
from pathlib import Path

import pytest

import handler
from tests.support.checkpoint_headers import ENCODERS, SDXL, UNET, VAE, Tensors, put_header, unet
from tests.support.model_folders import fake_sdxl, put, registry
from worker.core.config import load_settings
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models.checkpoint import loaded_bytes
from worker.engine.models.hub import Place
from worker.engine.models.identity import Identity, identify
from worker.engine.models.registry import SDXL_VAE

V_PRED: Tensors = {"v_pred": ("F32", [0])}
ZERO_SNR: Tensors = {"ztsnr": ("F32", [0])}
OPEN_CLIP: Tensors = {"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": ("F16", [1280])}

REFUSED: dict[str, tuple[Tensors, str]] = {
    "a LoRA in kohya's names": ({"lora_unet_input_blocks_4_1.lora_up.weight": ("F16", [640, 16])}, "holds a LoRA"),
    "a LoRA in diffusers' names": ({"unet.down_blocks.1.attn2.to_k.lora_A.weight": ("F16", [8, 64])}, "holds a LoRA"),
    "an inpainting UNet": (SDXL | unet(2048, channels=9), "inpainting-only UNet"),
    "a UNet that edits": (SDXL | unet(2048, channels=8), "edits pictures by instruction"),
    "the refiner": (unet(1280) | OPEN_CLIP | VAE, "SDXL refiner"),
    "Stable Diffusion 1": (unet(768, block=1) | VAE, "Stable Diffusion 1 model"),
    "Stable Diffusion 2": (unet(1024, block=1) | VAE, "Stable Diffusion 2 model"),
    "Stable Diffusion 3": ({f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": ("F16", [4608, 1536])}, "Diffusion 3"),
    "Flux": ({"double_blocks.0.img_attn.qkv.weight": ("BF16", [9216, 3072])}, "Flux"),
    "Wan": ({"head.modulation": ("BF16", [1, 2, 1536])}, "Wan"),
    "a ControlNet": ({"controlnet_cond_embedding.conv_in.weight": ("F16", [16, 3, 3, 3])}, "ControlNet"),
    "no text encoders": (unet(2048) | VAE, "has no text encoders"),
    "one network of diffusers": ({"down_blocks.0.resnets.0.conv1.weight": ("F16", [320, 320, 3, 3])}, "no whole SDXL"),
    "scaled fp8": (SDXL | {"scaled_fp8": ("F8_E4M3", [0])}, "scaled fp8"),
}
TRAINED: dict[str, tuple[Tensors, dict[str, str], dict[str, object]]] = {
    "SDXL base": (SDXL, {}, {}),
    "v-prediction": (SDXL | V_PRED, {}, {"prediction_type": "v_prediction"}),
    "v-prediction by its modelspec": (
        SDXL,
        {"modelspec.prediction_type": "v"},
        {"prediction_type": "v_prediction"},
    ),
    "v-prediction of zero SNR": (
        SDXL | V_PRED | ZERO_SNR,
        {},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "fp8": ({name: ("F8_E4M3", shape) for name, (_, shape) in SDXL.items()}, {}, {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sdxl_checkpoint_is_refused_by_its_name(tmp_path: Path, case: str) -> None:
    tensors, said = REFUSED[case]
    path = put_header(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ModelUnavailable) as caught:
        registry(cuda=True, sdxl_model=str(path)).describe(TaskType.TEXT2IMG)
    assert caught.value.message.startswith("SDXL_MODEL names a file that ")
    assert said in caught.value.message
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.ckpt", b"PK\x03\x04" + bytes(64), "is pickled"),
        ("model.pt", b"\x80\x02}q\x00." + bytes(64), "is pickled"),
        ("model.safetensors", b"PK\x03\x04" + bytes(64), "is pickled"),
        ("model.gguf", b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF"),
        ("model.safetensors", b"<!DOCTYPE html><html>", "not in the safetensors format"),
        ("model.safetensors", b"", "not in the safetensors format"),
    ],
)
def test_another_format_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelUnavailable, match=said):
        registry(cuda=True, sdxl_model=str(tmp_path / name)).describe(TaskType.TEXT2IMG)


@pytest.mark.parametrize("case", TRAINED)
def test_a_file_tells_how_it_was_trained(tmp_path: Path, case: str) -> None:
    tensors, metadata, scheduler = TRAINED[case]
    found = identify(put_header(tmp_path / "model.safetensors", tensors, **metadata))
    assert (found.problem, found.has_vae, dict(found.scheduler)) == (None, True, scheduler)


def with_numbers(path: Path, numbers: dict[str, list[float]]) -> Path:
    entries, data = {name: {"dtype": d, "shape": s, "data_offsets": [0, 0]} for name, (d, s) in SDXL.items()}, b""
    for name, values in numbers.items():
        packed = struct.pack(f"<{len(values)}f", *values)
        entries[name] = {
            "dtype": "F32",
            "shape": [len(values)],
            "data_offsets": [len(data), len(data) + len(packed)],
        }
        data += packed
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_an_edm_model_brings_its_own_noise_levels(tmp_path: Path) -> None:
    """CosXL's: the levels are in the file."""
    levels = {"edm_vpred.sigma_min": [0.25], "edm_vpred.sigma_max": [128.0]}
    found = dict(identify(with_numbers(tmp_path / "cosxl.safetensors", levels)).scheduler)
    assert (found["_class_name"], found["sigma_min"], found["sigma_max"]) == ("EDMEulerScheduler", 0.25, 128.0)
    assert (found["sigma_data"], found["prediction_type"]) == (1.0, "v_prediction")


def test_an_edm_model_brings_the_statistics_of_its_latents(tmp_path: Path) -> None:
    """Playground v2.5's."""
    statistics = {"edm_mean": [-1.5, 1.75, -1.25, 2.5], "edm_std": [8.5, 6.0, 6.5, 5.25]}
    found = identify(with_numbers(tmp_path / "playground.safetensors", statistics))
    assert dict(found.scheduler)["_class_name"] == "EDMDPMSolverMultistepScheduler"
    assert dict(found.vae) == {
        "latents_mean": (-1.5, 1.75, -1.25, 2.5),
        "latents_std": (8.5, 6.0, 6.5, 5.25),
        "scaling_factor": 0.5,
    }


def test_a_file_without_a_vae_takes_the_one_that_is_named_or_here(tmp_path: Path) -> None:
    """dgenerate#62, stablepy#18: many community checkpoints have no VAE."""
    path = str(put_header(tmp_path / "model.safetensors", unet(2048) | ENCODERS))
    with pytest.raises(ModelUnavailable, match="SDXL_MODEL names a file that has no VAE; name one in SDXL_VAE"):
        registry(cuda=True, sdxl_model=path).describe(TaskType.TEXT2IMG)
    folder = tmp_path / "models" / SDXL_VAE.replace("/", "--")
    put(folder / "config.json", {"_class_name": "AutoencoderKL"})
    put_header(folder / "diffusion_pytorch_model.safetensors", VAE)
    found = registry(cuda=True, sdxl_model=path, where=(Place(tmp_path / "models", "plain"),))
    assert found.spec(TaskType.TEXT2IMG).vae is not None
    assert registry(cuda=True, sdxl_model=path, sdxl_vae=str(folder)).spec(TaskType.TEXT2IMG).vae is not None


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (unet(2048) | ENCODERS, "SDXL_MODEL names a file that has no VAE; name one in SDXL_VAE"),
        (
            unet(2048) | VAE,
            "SDXL_MODEL names a file that has no text encoders; name a checkpoint that has all of its parts",
        ),
        (
            REFUSED["a LoRA in kohya's names"][0],
            "SDXL_MODEL names a file that holds a LoRA; name the checkpoint that it is for",
        ),
    ],
    ids=["no VAE", "no text encoders", "a LoRA"],
)
async def test_a_part_in_a_checkpoints_place_is_named_at_the_start_and_ends_each_job_for_good(
    tmp_path: Path, tensors: Tensors, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """dgenerate#62, stablepy#18: the health check listed all tasks, and every job failed with an unexpected error."""
    settings = load_settings(sdxl_model=str(put_header(tmp_path / "model.safetensors", tensors)))
    services = handler.build(settings)
    # It is the endpoint's only model, so the worker does not even start.
    with pytest.raises(ModelUnavailable) as caught:
        services.generator.health()
    assert caught.value.message == said
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "health"]
    tasks = ("text2img", "img2img", "inpaint", "upscale")
    assert told == [f"{task} is not served: model_unavailable: {said}" for task in tasks]
    response = await handler.serve({"id": "job", "input": {"prompt": "a fox"}}, services)
    assert (response["error_code"], response["retryable"]) == ("model_unavailable", False)
    assert response["error"] == f"model_unavailable: {said}"


def test_fp8_weighs_what_it_is_loaded_as(tmp_path: Path) -> None:
    path = put_header(tmp_path / "a.safetensors", {"a": ("F8_E4M3", [10, 10]), "b": ("F8_E5M2", [10])})
    assert loaded_bytes([path], 2) == 220


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    path = put_header(tmp_path / "a.safetensors", SDXL)
    assert identify(path) == Identity()
    put_header(path, SDXL | V_PRED)
    assert dict(identify(path).scheduler) == {"prediction_type": "v_prediction"}


def test_what_a_file_was_trained_for_is_what_its_jobs_are_told(tmp_path: Path) -> None:
    path = put_header(tmp_path / "noob.safetensors", SDXL | V_PRED | ZERO_SNR)
    defaults = registry(cuda=True, sdxl_model=str(path)).describe(TaskType.TEXT2IMG)
    assert (defaults.prediction_type, defaults.timestep_spacing) == ("v_prediction", "trailing")
    assert defaults.guidance_rescale == 0.7
    assert defaults.schedulers is not None
    assert "HEUN" not in defaults.schedulers


def test_a_folder_says_the_same_in_its_schedulers_config(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "noob")
    models = registry(cuda=True, sdxl_model=str(folder))
    put(folder / "scheduler" / "scheduler_config.json", {"prediction_type": "v_prediction"})
    assert models.describe(TaskType.TEXT2IMG).prediction_type == "v_prediction"
    assert models.describe(TaskType.TEXT2IMG).guidance_rescale == 0.0
    put(folder / "scheduler" / "scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"})
    assert models.describe(TaskType.TEXT2IMG).schedulers == ()
    assert not models.describe(TaskType.TEXT2IMG).has_refiner

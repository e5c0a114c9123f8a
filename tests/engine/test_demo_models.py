"""The built-in demo models as they ship: complete, safe, small, and recognised by diffusers itself."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open

from tests.engine.conftest import Runner
from worker.core.config import REPOSITORY
from worker.engine.models.checkpoint import components, has_weights, read_json
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.models.roles import Role, folder_problem

KIT: Any = diffusers
FOLDERS: dict[str, Role] = {"sdxl": "sdxl", "sdxl-refiner": "refiner", "wan": "wan"}
MOST_BYTES = 15_000_000
FILES = sorted(path for path in DEMO_MODELS.rglob("*") if path.is_file())

# model_index.json of stabilityai/stable-diffusion-xl-base-1.0, -refiner-1.0 and Wan-AI/Wan2.2-TI2V-5B-Diffusers.
LARGE: dict[str, dict[str, Any]] = {
    "sdxl": {
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "sdxl-refiner": {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "requires_aesthetics_score": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": [None, None],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "wan": {
        "_class_name": "WanPipeline",
        "boundary_ratio": None,
        "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    },
}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return DEMO_MODELS / str(request.param)


def test_every_folder_is_whole(folder: Path) -> None:
    assert folder_problem(folder, FOLDERS[folder.name]) is None
    for name in components(folder):
        config = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
        assert (folder / name / config.get(name.removesuffix("_2"), "config.json")).is_file()


def test_every_part_is_of_the_large_models_class(folder: Path) -> None:
    large, ours = LARGE[folder.name], read_json(folder / "model_index.json")
    assert {key: ours.get(key) for key in large} == large
    assert set(components(folder)) == {key for key, value in large.items() if isinstance(value, list) and all(value)}


def test_the_weights_are_safetensors_in_float16_and_nothing_is_a_pickle() -> None:
    assert {path.suffix for path in FILES} <= {".json", ".txt", ".safetensors", ".md", ""}
    assert {path.name for path in FILES if not path.suffix} <= {"LICENSE"}
    weights = [path for path in FILES if path.suffix == ".safetensors"]
    assert {path.name for path in weights} == {"model.safetensors", "diffusion_pytorch_model.safetensors"}
    for path in weights:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, it has keys only
        assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}, path
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values()), path


def test_no_file_names_a_folder_of_the_machine_that_trained_it() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES if path.suffix == ".json"]
    assert [text for text in texts if "_name_or_path" in text] == []


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= MOST_BYTES


def test_whoever_may_read_the_code_may_read_the_weights() -> None:
    """transformers and diffusers write files that only their owner may read; an image runs as another user."""
    code = (REPOSITORY / "worker" / "__init__.py").stat().st_mode & 0o444
    assert {path.stat().st_mode & 0o444 for path in FILES} == {code}


def test_a_licence_and_a_model_card_lie_beside_them() -> None:
    assert "Apache License" in (DEMO_MODELS / "LICENSE").read_text(encoding="utf-8")
    card = (DEMO_MODELS / "README.md").read_text(encoding="utf-8")
    assert all(f"{name}/" in card for name in FOLDERS)


def test_each_says_what_it_draws_and_at_which_size() -> None:
    for name in ("sdxl", "wan"):
        own = read_json(DEMO_MODELS / name / "worker.json")
        assert own["name"] == "demo"
        (warning,) = own["warnings"]
        assert "demo models" in warning
        assert {"width", "height", "num_inference_steps", "guidance_scale"} <= set(own)


def test_the_refiner_reads_the_texts_and_latents_of_its_base() -> None:
    base, refiner = DEMO_MODELS / "sdxl", DEMO_MODELS / "sdxl-refiner"
    for part in ("text_encoder_2", "tokenizer_2", "vae"):
        for path in sorted((base / part).iterdir()):
            assert path.read_bytes() == (refiner / part / path.name).read_bytes()


def test_diffusers_itself_loads_each_folder(folder: Path) -> None:
    pipeline = KIT.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    assert type(pipeline).__name__ == LARGE[folder.name]["_class_name"]
    for name in filter(has_weights, components(folder)):
        network = getattr(pipeline, name)
        assert type(network).__name__ == components(folder)[name][1]
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(("task", "folder_name"), [("text2img", "sdxl"), ("text2video", "wan")])
def test_a_job_at_the_native_size_gives_a_picture(run: Runner, task: str, folder_name: str) -> None:
    own = json.loads((DEMO_MODELS / folder_name / "worker.json").read_text(encoding="utf-8"))
    keys = ("width", "height", "num_inference_steps", "guidance_scale")
    (made,) = run(task, prompt="a red circle on a blue background", **{key: own[key] for key in keys})
    assert made.shape[-3:] == (own["height"], own["width"], 3)
    assert made.std() > 1

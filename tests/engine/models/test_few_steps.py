"""The settings that a distilled model's name implies: each row comes from its model card."""

from typing import Any

import pytest

from worker.engine.models.few_steps import named


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "more"),
    [
        ("stabilityai/sdxl-turbo", 1, 0.0, {"width": 512, "timestep_spacing": "trailing"}),
        ("sd_xl_turbo_1.0_fp16.safetensors", 1, 0.0, {"width": 512}),
        ("sdxl_lightning_4step.safetensors", 4, 0.0, {"timestep_spacing": "trailing"}),
        ("sdxl_lightning_8step.safetensors", 8, 0.0, {"timestep_spacing": "trailing"}),
        ("sdxl_lightning_1step_x0.safetensors", 1, 0.0, {"prediction_type": "sample"}),
        ("Lykon/dreamshaper-xl-lightning", 4, 2.0, {"timestep_spacing": "trailing"}),
        ("Lykon/dreamshaper-xl-v2-turbo", 6, 2.0, {}),
        ("juggernaut-Hyper-SDXL-8steps.safetensors", 8, 0.0, {"scheduler": "DDIM"}),
        ("Hyper-SDXL-8steps-CFG.safetensors", 8, 5.0, {"scheduler": "DDIM"}),
        ("model-DMD2-4step.safetensors", 4, 0.0, {"scheduler": "LCM"}),
        ("latent-consistency/lcm-sdxl", 4, 1.0, {"scheduler": "LCM"}),
    ],
)
def test_a_name_tells_its_steps_and_its_guidance(name: str, steps: int, guidance: float, more: dict[str, Any]) -> None:
    """mold PR#1283, ai-runner#107, diffusers#6112: the base model's steps and guidance burn the picture."""
    said = named(name)
    assert said["few_steps"] is True
    assert (said["num_inference_steps"], said["guidance_scale"]) == (steps, guidance)
    assert {key: said[key] for key in more} == more


@pytest.mark.parametrize(
    "name", ["stabilityai/stable-diffusion-xl-base-1.0", "noobaiXLNAIXL_vPred10.safetensors", "demo", "calcmodel"]
)
def test_any_other_name_tells_nothing(name: str) -> None:
    assert named(name) == {}

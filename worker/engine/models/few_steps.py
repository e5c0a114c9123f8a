"""Models distilled to a few steps, told by their names: the steps and the guidance that they were made for.

Only what a model card says of its own model is here. A name that says nothing, or says it wrongly, is put right with
`MODEL_DEFAULTS` or a file beside the weights. Knows no files; imports no torch.
"""

import re
from collections.abc import Mapping
from typing import Any

from worker.core.types import Scheduler

_STEPS = r"(?P<steps>[1-8])[-_ ]?steps?"
_TRAILING = {"timestep_spacing": "trailing"}

_KNOWN: tuple[tuple[str, Mapping[str, Any]], ...] = (
    # https://huggingface.co/stabilityai/sdxl-turbo
    (
        r"(sdxl|sd_xl)[-_ ]turbo",
        {"num_inference_steps": 1, "guidance_scale": 0.0, "width": 512, "height": 512, **_TRAILING},
    ),
    # https://huggingface.co/ByteDance/SDXL-Lightning; its one-step model gives the picture itself
    (
        r"lightning.*1[-_ ]?step",
        {"num_inference_steps": 1, "guidance_scale": 0.0, "prediction_type": "sample", **_TRAILING},
    ),
    (r"lightning.*" + _STEPS, {"guidance_scale": 0.0, **_TRAILING}),
    # https://huggingface.co/Lykon/dreamshaper-xl-lightning: a model of one's own with Lightning merged in
    (r"lightning", {"num_inference_steps": 4, "guidance_scale": 2.0, **_TRAILING}),
    # https://huggingface.co/ByteDance/Hyper-SD
    (r"hyper[-_ ]?sd.*" + _STEPS + r".*cfg", {"guidance_scale": 5.0, "scheduler": Scheduler.DDIM, **_TRAILING}),
    (r"hyper[-_ ]?sd.*" + _STEPS, {"guidance_scale": 0.0, "scheduler": Scheduler.DDIM, **_TRAILING}),
    # https://huggingface.co/tianweiy/DMD2: at the steps 999, 749, 499, 249
    (
        r"dmd2",
        {
            "num_inference_steps": 4,
            "guidance_scale": 0.0,
            "scheduler": Scheduler.LCM,
            "original_inference_steps": 100,
        },
    ),
    # https://huggingface.co/latent-consistency/lcm-sdxl: guidance off, or of 1 to 2
    (r"(?<![a-z])lcm(?![a-z])", {"num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": Scheduler.LCM}),
    # https://huggingface.co/Lykon/dreamshaper-xl-turbo: a model of one's own with Turbo merged in
    (r"turbo", {"num_inference_steps": 6, "guidance_scale": 2.0}),
)


def named(name: str) -> dict[str, Any]:
    """What the name of an SDXL model tells of it, by the keys of `OwnDefaults`; empty where it tells nothing."""
    for pattern, said in _KNOWN:
        if match := re.search(pattern, name.lower()):
            steps = {"num_inference_steps": int(match["steps"])} if "steps" in match.groupdict() else {}
            return {"few_steps": True, **steps, **said}
    return {}

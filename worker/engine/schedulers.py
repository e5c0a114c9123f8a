"""Makes a scheduler per request from the model's own config. Knows names and options; holds no state.

Schedulers keep state between steps, so two runs never share one.
"""

from collections.abc import Mapping
from typing import Any

import diffusers

from worker.core.types import Scheduler

CHOICES: dict[Scheduler, tuple[str, dict[str, Any]]] = {
    # DDIM clips to [-1, 1] by default, which would ruin latents.
    Scheduler.DDIM: ("DDIMScheduler", {"clip_sample": False}),
    # The Runge-Kutta warm-up is off for latent models, as in their own configs.
    Scheduler.PNDM: ("PNDMScheduler", {"skip_prk_steps": True}),
    Scheduler.KLMS: ("LMSDiscreteScheduler", {}),
    Scheduler.K_EULER: ("EulerDiscreteScheduler", {}),
    Scheduler.K_EULER_ANCESTRAL: ("EulerAncestralDiscreteScheduler", {}),
    Scheduler.DPM_SOLVER_MULTISTEP: ("DPMSolverMultistepScheduler", {}),
    Scheduler.DPM_SOLVER_SINGLESTEP: ("DPMSolverSinglestepScheduler", {}),
    Scheduler.DPM_SOLVER_MULTISTEP_KARRAS: ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    Scheduler.DPM_SOLVER_SDE_MULTISTEP_KARRAS: (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    Scheduler.HEUN: ("HeunDiscreteScheduler", {}),
    Scheduler.UNIPC: ("UniPCMultistepScheduler", {}),
    Scheduler.LCM: ("LCMScheduler", {}),
    Scheduler.TCD: ("TCDScheduler", {}),
    Scheduler.K_EULER_TRAILING: ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
"""The wire contract's names -> diffusers' classes and options beyond the model's own config."""


def image_scheduler(own: Any, choice: Scheduler | None, **said: Any) -> Any:
    """Return a new scheduler of the chosen kind; `choice` None: the model's own kind.

    `said` overrides entries of the model's own config.
    """
    other = {name: value for name, value in said.items() if value is not None}
    if choice is None:
        return type(own).from_config(own.config, **other)
    name, options = CHOICES[choice]
    return getattr(diffusers, name).from_config(own.config, **other | options)


def reconfigured(own: Any, options: Mapping[str, Any]) -> Any:
    """Return a copy of `own` with other config entries, possibly including `_class_name`."""
    if not options:
        return own
    changes = {name: value for name, value in options.items() if name != "_class_name"}
    name = options.get("_class_name")
    return getattr(diffusers, name)(**changes) if name else type(own).from_config({**own.config, **changes})


def video_scheduler(own: Any, flow_shift: float) -> Any:
    """Return a new scheduler of the model's own kind with the request's flow shift.

    Multistep solvers call it `flow_shift`, flow-matching Euler calls it `shift`.
    """
    name = "flow_shift" if "flow_shift" in own.config else "shift"
    return type(own).from_config(own.config, **{name: flow_shift})

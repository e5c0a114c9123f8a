"""Schedulers as a request chooses them."""

import inspect
from typing import Any

import diffusers
import pytest
import torch

from worker.api.request import MAX_SHORT_STEPS, SHORT_SCHEDULERS, ZERO_SNR_SCHEDULERS
from worker.core.types import Scheduler
from worker.engine.schedulers import CHOICES, image_scheduler, video_scheduler

_KIT: Any = diffusers


def test_every_choice_of_the_contract_has_a_class() -> None:
    assert set(CHOICES) == set(Scheduler)
    assert all(hasattr(_KIT, name) for name, _ in CHOICES.values())


@pytest.mark.parametrize("choice", [None, *Scheduler])
def test_a_scheduler_is_new_each_time_and_follows_the_models_own_noise(choice: Scheduler | None) -> None:
    own = _KIT.EulerDiscreteScheduler(beta_start=0.001, beta_end=0.02, prediction_type="v_prediction", steps_offset=1)
    before = dict(own.config)
    one, other = image_scheduler(own, choice), image_scheduler(own, choice)
    assert one is not other
    assert one is not own
    assert one.config.prediction_type == "v_prediction"
    assert (one.config.beta_start, one.config.beta_end) == (0.001, 0.02)
    assert dict(own.config) == before


def test_those_that_begin_at_pure_noise_are_those_whose_class_can() -> None:
    able = {
        choice
        for choice, (name, _) in CHOICES.items()
        if "rescale_betas_zero_snr" in inspect.signature(getattr(_KIT, name)).parameters
    }
    assert set(ZERO_SNR_SCHEDULERS) == able


@pytest.mark.parametrize("choice", ZERO_SNR_SCHEDULERS)
def test_from_pure_noise_every_step_is_finite(choice: Scheduler) -> None:
    """With a network that predicts zero for v, whatever its input."""
    own = _KIT.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler = image_scheduler(own, choice)
    scheduler.set_timesteps(8)
    assert float(scheduler.timesteps[0]) == 999
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn((1, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for step in scheduler.timesteps:
        seen = scheduler.scale_model_input(sample, step)
        sample = scheduler.step(torch.zeros_like(seen), step, sample, **options).prev_sample
    assert torch.isfinite(sample).all()


@pytest.mark.parametrize("choice", SHORT_SCHEDULERS)
def test_a_short_scheduler_has_so_many_steps(choice: Scheduler) -> None:
    scheduler = image_scheduler(_KIT.EulerDiscreteScheduler(), choice)
    scheduler.set_timesteps(MAX_SHORT_STEPS)
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps(MAX_SHORT_STEPS + 1)


def test_options_of_one_choice_do_not_reach_another() -> None:
    own = _KIT.EulerDiscreteScheduler()
    assert image_scheduler(own, Scheduler.DPM_SOLVER_MULTISTEP_KARRAS).config.use_karras_sigmas
    assert not image_scheduler(own, Scheduler.DPM_SOLVER_MULTISTEP).config.use_karras_sigmas


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (_KIT.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "flow_shift"),
        (_KIT.FlowMatchEulerDiscreteScheduler(shift=1.0), "shift"),
    ],
)
def test_the_flow_shift_is_set_under_the_schedulers_own_name(own: Any, name: str) -> None:
    low, high = video_scheduler(own, 2.0), video_scheduler(own, 8.0)
    assert low.config[name] == 2.0
    assert own.config[name] == 1.0
    low.set_timesteps(4)
    high.set_timesteps(4)
    assert float(high.sigmas[1]) > float(low.sigmas[1])

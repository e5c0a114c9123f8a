"""A scheduler per request."""

from typing import Any

import diffusers
import pytest

from worker.api.request import Scheduler
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

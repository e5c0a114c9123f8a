"""What a request comes to on this worker, before anything is touched for it: its model, its numbers and its time.

The way of a job and of a quote alike. Knows no document and no GPU; of a model only what its small files say.
"""

import asyncio
from dataclasses import dataclass

from worker.api.departures import departures
from worker.api.params import ModelDefaults, Params, resolve
from worker.api.request import Request
from worker.core.errors import FieldProblem, InvalidInput
from worker.engine.estimate import Estimate
from worker.job.services import Services


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that this worker would serve."""

    defaults: ModelDefaults
    params: Params
    estimate: Estimate | None
    """None: its model is not here yet."""
    warnings: tuple[str, ...]


async def plan(request: Request, services: Services) -> Plan:
    """Resolve a request against its model and this worker's limits.

    Raises:
        ModelUnavailable: nothing serves it.
        InvalidInput: it asks for what the model cannot do, for too much, or for what cannot end in time on this card.
    """
    settings, generator = services.settings, services.generator
    defaults = generator.describe(request.task_type, request.model)
    params = resolve(request, defaults, max_image_pixels=settings.max_image_pixels, max_job_cost=settings.max_job_cost)
    # In a thread: of a model that is not loaded yet, the headers of its files are read.
    estimate = await asyncio.to_thread(generator.estimate, request, params)
    check_time(estimate, params, settings.job_timeout_seconds)
    return Plan(defaults, params, estimate, (*defaults.warnings, *departures(request, params, defaults)))


def check_time(estimate: Estimate | None, params: Params, limit: float) -> None:
    """Refuse what cannot end within `limit` seconds on this card.

    Raises:
        InvalidInput: it cannot; the message says how many steps could.
    """
    if estimate is None or estimate.seconds is None or not estimate.exceeds(limit):
        return
    asked, seconds, card = params.num_inference_steps, round(estimate.seconds), estimate.card
    problem = FieldProblem(
        "num_inference_steps",
        "invalid_input.too_slow_at_any_steps",
        seconds=seconds,
        card=card,
        limit=round(limit),
        got=asked,
    )
    if steps := estimate.steps_within(limit, asked):
        problem = FieldProblem(
            "num_inference_steps",
            "invalid_input.too_slow",
            seconds=seconds,
            card=card,
            limit=round(limit),
            steps=steps,
            got=asked,
        )
    raise InvalidInput([problem])

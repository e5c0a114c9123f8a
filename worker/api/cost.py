"""Computes the price of a job: work that GPU time grows with, counted the same for every card.

Pure arithmetic over a job's params, in pixel-steps; a unit is a million of them (`job_units`).
"""

import math

from worker.api.params import ImageParams, ModelDefaults, Params, VideoParams
from worker.api.prompt_length import likely_chunks
from worker.api.request import TWICE_A_STEP

PIXEL_STEPS_A_UNIT = 1_000_000
STEPS_BESIDE = 1
"""Decoding a picture and encoding its source count as this many steps. By the FLOP of engine/work.py, with two calls
of a network per step: 0.9 steps to decode and 0.4 to encode with SDXL at 1024 x 1024; 0.5 to decode with Wan 2.1 1.3B
at 832 x 480, and 2 with Wan 2.2 TI2V 5B at 1280 x 704."""
OTHER_MODEL = {"image": 30_000_000, "video": 120_000_000}
"""Price of a model other than the worker's first, in pixel-steps: one picture at SDXL's native size, four for Wan's
larger files. It is always charged: whether both models fit in memory depends on the card, and a price does not."""
CONTROLNET_SHARE = 0.45
"""Work of a ControlNet call relative to a UNet call: 3.02 of 6.76 TFLOP, as torch counts them for SDXL."""

TEXT_PIXELS = {"image": 8_192, "video": 32_768}
"""Each further chunk of a prompt counts as this many additional pixels: 53 GFLOP, at SDXL's 6.4 MFLOP per pixel. For
Wan's models it is 16,000 to 110,000."""
TEXT_SHARE = {"image": 0.005, "video": 0.01}
"""And as this share of the pixels: 32 GFLOP of 6.76 TFLOP at SDXL's native size. Without both, 4,000 rare letters at
64 x 64 would be three hundred times the work that is paid for."""


def job_cost(params: Params, defaults: ModelDefaults | None = None) -> int:
    """Return pixels x frames x (denoising steps + `STEPS_BESIDE`) x images, plus `OTHER_MODEL` for a second model.

    Further chunks of a prompt count as pixels. `defaults` are those of the job's model; without them the model counts
    as the worker's first.
    """
    if isinstance(params, VideoParams):
        cost, other = _drawing_cost(params), OTHER_MODEL["video"]
    else:
        cost = upscaling_cost(params) + (0 if params.enlarges else _drawing_cost(params))
        other = OTHER_MODEL["image"]
    loads_another = defaults is not None and not defaults.is_first and not params.draws_nothing
    return cost + other if loads_another else cost


def upscaling_cost(params: ImageParams) -> int:
    """Return the part of a job's cost that enlarges its pictures; 0 without an upscale.

    An upscaler counts as one step over its output pixels: its own work is less, but such a large file also occupies the
    queue. A second pass counts like any drawing, including the overlaps of its tiles.
    """
    if (upscale := params.upscale) is None:
        return 0
    cost = upscale.width * upscale.height
    if upscale.tile is not None:
        sides = zip((upscale.width, upscale.height), upscale.tiles, strict=True)
        painted = math.prod(side + (count - 1) * upscale.overlap for side, count in sides)
        steps = upscale.steps(params.num_inference_steps) * _calls_a_step(params) + STEPS_BESIDE
        cost += (painted + _text_pixels(params, painted, math.prod(upscale.tiles))) * steps
    return cost * len(params.seeds)


def _text_pixels(params: Params, pixels: int, pieces: int = 1) -> int:
    """Return the pixels that a prompt's further chunks count as, over `pieces` tiles with `pixels` together."""
    kind = "video" if isinstance(params, VideoParams) else "image"
    return (likely_chunks(params) - 1) * round(TEXT_PIXELS[kind] * pieces + TEXT_SHARE[kind] * pixels)


def _calls_a_step(params: ImageParams) -> int:
    return 2 if params.scheduler in TWICE_A_STEP else 1


def _drawing_cost(params: Params) -> int:
    """Return the cost of all drawing; each control picture adds `CONTROLNET_SHARE` of the steps in its span."""
    steps, calls = float(params.num_inference_steps), 1
    if isinstance(params, VideoParams):
        times, frames, (width, height) = 1, params.num_frames, (params.width, params.height)
    else:
        times, frames, (width, height) = len(params.seeds), 1, params.drawn_size
        calls = _calls_a_step(params)
        if params.refiner_inference_steps is not None and params.high_noise_frac is not None:
            refined = params.refiner_inference_steps * (1 - params.high_noise_frac)
            steps = round(steps * params.high_noise_frac + refined)
    controls = (params.controlnets or ()) if isinstance(params, ImageParams) else ()
    beside = 1 + CONTROLNET_SHARE * sum(entry.span for entry in controls)
    steps *= beside
    passes = []
    if params.draft is not None:
        schedule = params.num_inference_steps * beside
        passes.append((params.draft.width * params.draft.height * frames, schedule))
        steps *= params.draft.strength
    passes.append((width * height * frames, steps))
    cost = sum((pixels + _text_pixels(params, pixels)) * (run * calls + STEPS_BESIDE) for pixels, run in passes)
    return round(cost) * times


def job_units(params: Params, defaults: ModelDefaults | None = None) -> int:
    """Return the price of a job: its cost in millions of pixel-steps, rounded up, at least 1."""
    return max(1, math.ceil(job_cost(params, defaults) / PIXEL_STEPS_A_UNIT))

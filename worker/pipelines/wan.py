"""Wan: text to video and image to video, for the layouts of Wan 2.1 (T2V, I2V) and Wan 2.2 (TI2V, two experts).

Condition, denoise (flow matching, https://arxiv.org/abs/2503.20314), decode. Knows latents and schedules; knows no
users, no files and no placement.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline

from worker.generation import Control, GeneratedClip, Progress, Sources
from worker.params import VideoParams
from worker.pipelines import fitting, pixels
from worker.pipelines.loading import WanParts
from worker.pipelines.schedulers import video_scheduler

MAX_PROMPT_TOKENS = 512
"""What Wan was trained with, and the length its text encoder pads to."""


class WanJob:
    """One video job on loaded networks. Nothing of it outlives it but the frames."""

    def __init__(
        self, parts: WanParts, device: torch.device, params: VideoParams, sources: Sources, control: Control
    ) -> None:
        self._parts = parts
        self._device = device
        self._params = params
        self._control = control
        self._source = None
        if sources.image is not None:
            self._source = fitting.fit_image(sources.image, params.width, params.height, control)

    def run(self, first: int = 0) -> Iterator[GeneratedClip]:
        """The clip, (num_frames, height, width, 3)."""
        if first:
            return
        self._warn_of_cut_prompts()
        self._control.checkpoint()
        try:
            latents = self._denoise()
            self._control.checkpoint()
            frames = pixels.decode_clip(self._parts.vae, latents)
        finally:
            # A run that was stopped leaves the frames it had come to in the VAE's cache.
            self._parts.vae.clear_cache()
        yield GeneratedClip(self._params.seed, frames)

    def _denoise(self) -> torch.Tensor:
        params = self._params
        options = {} if self._source is None else {"image": self._source}
        with torch.no_grad(), fastest_attention(self._device):
            latents: torch.Tensor = self._pipeline()(
                **options,
                prompt=params.prompt,
                negative_prompt=params.negative_prompt,
                width=params.width,
                height=params.height,
                num_frames=params.num_frames,
                num_inference_steps=params.num_inference_steps,
                guidance_scale=params.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(params.seed),
                max_sequence_length=MAX_PROMPT_TOKENS,
                output_type="latent",
                callback_on_step_end=self._step,
            ).frames
        return latents

    def _step(self, pipeline: Any, index: int, _timestep: Any, _tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        self._control.report(Progress("generating", index + 1, pipeline.num_timesteps))
        self._control.checkpoint()
        return {}

    def _pipeline(self) -> Any:
        """A pipeline over the loaded networks with a scheduler of its own, shifted as this request wants it."""
        parts = self._parts
        shared: dict[str, Any] = {
            "tokenizer": parts.tokenizer,
            "text_encoder": parts.text_encoder,
            "vae": parts.vae,
            "transformer": parts.transformer,
            "transformer_2": parts.transformer_2,
            "boundary_ratio": parts.boundary_ratio,
            "expand_timesteps": parts.expand_timesteps,
            "scheduler": video_scheduler(parts.scheduler, self._params.flow_shift),
        }
        kind: Any = WanPipeline
        if self._source is not None:
            kind = WanImageToVideoPipeline
            shared |= {"image_encoder": parts.image_encoder, "image_processor": parts.image_processor}
        pipeline = kind(**shared)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _warn_of_cut_prompts(self) -> None:
        for name in ("prompt", "negative_prompt"):
            tokens = len(self._parts.tokenizer(getattr(self._params, name)).input_ids)
            if tokens > MAX_PROMPT_TOKENS:
                self._control.warn(
                    f"{name}: the model reads {MAX_PROMPT_TOKENS} tokens and this has {tokens}; the rest was left out"
                )


@contextmanager
def fastest_attention(device: torch.device) -> Iterator[None]:
    """On Hopper, cuDNN's attention first (1.3x of a Wan step there), the others behind it; elsewhere torch's order.

    An order of preference, not a choice: a shape that cuDNN refuses goes to the next. Only Wan runs inside it.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield

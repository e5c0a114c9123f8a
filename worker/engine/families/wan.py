"""Wan: text to video and image to video, for the layouts of Wan 2.1 (T2V, I2V) and Wan 2.2 (TI2V, two experts).

Condition, denoise (flow matching, https://arxiv.org/abs/2503.20314), decode. Knows latents and schedules; knows no
users, no files and no placement.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanVideoToVideoPipeline
from diffusers.utils.torch_utils import randn_tensor

from worker.api.params import VideoParams
from worker.core.types import Attention, Control, Progress, Sources
from worker.engine import preview, resize
from worker.engine.memory.room import Phase
from worker.engine.models.loader import WanParts
from worker.engine.prompt import umt5
from worker.engine.protocol import GeneratedClip
from worker.engine.schedulers import video_scheduler
from worker.engine.speed.attention import attention
from worker.engine.speed.step_cache import serves, step_cache
from worker.engine.vae import clip_calls, decode_clip, encode_clip, encode_pixels, watched

if TYPE_CHECKING:
    from numpy.typing import NDArray

HELD_FRAMES = 2
"""Latent frames to encode of a still picture; the first of them covers a single frame."""


class WanJob:
    """One video job on loaded networks, which it leaves unchanged.

    After running out of memory, `run` may be called again: finished latents are kept, so that only the failed stage is
    repeated.
    """

    def __init__(
        self,
        parts: WanParts,
        device: torch.device,
        params: VideoParams,
        sources: Sources,
        control: Control,
        *,
        attention: Attention = "auto",
    ) -> None:
        self._parts = parts
        self._device = device
        self._params = params
        self._control = control
        self._attention = attention
        self._source = None
        if sources.image is not None:
            self._source = resize.fit_image(sources.image, params.width, params.height, control)
        self._end = None
        if sources.end is not None:
            self._end = resize.fit_image(sources.end, params.width, params.height, control, field="end_image_url")
        self._kept: dict[str, torch.Tensor] = {}
        self._embeds: dict[str, torch.Tensor | None] | None = None
        self.phase: Phase = "text"
        """The current phase, or the one that failed, by which the engine knows what ran out of memory."""
        self._done, self._total = 0, params.num_inference_steps
        if params.draft is not None:
            self._total += _left(params.num_inference_steps, params.draft.strength)

    def run(self, first: int = 0) -> Iterator[GeneratedClip]:
        """Generate the clip, (num_frames, height, width, 3)."""
        if first:
            return
        params = self._params
        self._warn_of_cut_prompts()
        self._control.raise_if_stopped()
        try:
            latents = self._denoise()
            self._control.raise_if_stopped()
            self.phase = "decode"
            with self._watched("decode", params.width, params.height):
                frames = decode_clip(self._parts.vae, latents)
        finally:
            # A stopped run leaves frames in the VAE's cache.
            self._parts.vae.clear_cache()
        yield GeneratedClip(self._params.seed, frames)

    def _denoise(self) -> torch.Tensor:
        params, draft = self._params, self._params.draft
        with torch.no_grad(), attention(self._attention, self._device, clip=True):
            if draft is None:
                return self._stage("drawn", lambda: self._draw(params.width, params.height))
            latents = self._stage("draft", lambda: self._draw(draft.width, draft.height))
            if "drawn" not in self._kept:
                self._control.raise_if_stopped()
                self.phase = "decode"
                with self._watched("decode", draft.width, draft.height):
                    small = decode_clip(self._parts.vae, latents)
                self.phase = "encode"
                self._kept["drawn"] = self._finish(small, draft.strength)
            return self._kept["drawn"]

    def _stage(self, name: str, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return a stage's latents: kept from an earlier run, or denoised now."""
        if name not in self._kept:
            self._kept[name] = run()
        return self._kept[name]

    def _draw(self, width: int, height: int) -> torch.Tensor:
        options: dict[str, Any] = {} if self._source is None else {"image": self._source, "last_image": self._end}
        if self._parts.boundary_ratio is not None:
            options["guidance_scale_2"] = self._params.guidance_scale_2
        size = {"width": width, "height": height, "num_frames": self._params.num_frames}
        if self._source is None:
            return self._call(self._pipeline(), options | size, cached=True)
        pipeline = self._pipeline()
        held = _both_ends_held(pipeline) if self._end is not None and self._parts.expand_timesteps else nullcontext()
        with self._watched("encode", width, height), held:
            return self._call(pipeline, options | size, cached=True)

    def _finish(self, drawn: "NDArray[np.uint8]", strength: float) -> torch.Tensor:
        """Run the second pass: denoise the enlarged draft again from a little noise.

        The schedule is not shifted here: a shift spends most steps on the noise levels that determine the composition.
        diffusers' pipeline for this takes only Wan 2.1's VAE; it is given latents and only denoises.
        """
        params, parts = self._params, self._parts
        size = params.width, params.height
        frames = np.stack([np.asarray(resize.enlarged(frame, *size), dtype=np.uint8) for frame in drawn])
        with self._watched("encode", *size):
            clean = encode_clip(parts.vae, frames, self._device).float()
        scheduler = video_scheduler(parts.scheduler, 1.0)
        scheduler.set_timesteps(params.num_inference_steps, device=self._device)
        left = _left(params.num_inference_steps, strength)
        noise = randn_tensor(clean.shape, generator=self._generator(), device=clean.device, dtype=clean.dtype)
        level = scheduler.timesteps[-left].reshape(1)
        if hasattr(scheduler, "scale_noise"):  # the name in flow-matching Euler
            noisy = scheduler.scale_noise(clean, level, noise)
        else:
            noisy = scheduler.add_noise(clean, noise, level)
        kind: Any = WanVideoToVideoPipeline
        pipeline = kind(
            tokenizer=parts.tokenizer,
            text_encoder=parts.text_encoder,
            vae=parts.vae,
            # Of two experts the low-noise one.
            transformer=parts.transformer_2 or parts.transformer,
            scheduler=scheduler,
        )
        return self._call(
            pipeline, {"latents": noisy, "strength": strength, "width": params.width, "height": params.height}
        )

    def _call(self, pipeline: Any, options: dict[str, Any], *, cached: bool = False) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        params, before = self._params, self._done
        embeds = self._embed(pipeline)

        def step(pipeline: Any, index: int, _timestep: Any, _tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            self._done = before + index + 1
            self._control.report(Progress("generating", self._done, self._total))
            self._control.raise_if_stopped()
            return {}

        rows = preview.rows_for(self._parts.vae, self._parts.preview_factors)
        skipping = step_cache(self._cached(pipeline) if cached else (), params.step_cache)
        with self._phase_told(), preview.shown(pipeline.scheduler, rows, self._control), skipping:
            latents: torch.Tensor = pipeline(
                **options,
                **embeds,
                num_inference_steps=params.num_inference_steps,
                guidance_scale=params.guidance_scale,
                generator=self._generator(),
                max_sequence_length=umt5.MAX_TOKENS,
                output_type="latent",
                callback_on_step_end=step,
            ).frames
        return latents

    def _cached(self, pipeline: Any) -> Iterator[Any]:
        """Enable the job's step cache on the transformers; warns if one does not support it."""
        wanted = self._params.step_cache
        for network in (pipeline.transformer, pipeline.transformer_2):
            if network is None or wanted is None:
                continue
            if serves(network, wanted):
                yield network
            else:
                self._control.warn("acceleration: this model cannot skip steps so; all were computed in full")

    def _embed(self, pipeline: Any) -> dict[str, torch.Tensor | None]:
        """Return the embeddings of both prompts, computed once per job."""
        if self._embeds is None:
            self.phase = "text"
            params = self._params
            self._embeds = umt5.embeddings(
                pipeline,
                self._device,
                params.wanted,
                params.unwanted,
                guided=params.guidance_scale > 1,
                most_chunks=self._most_chunks,
                raise_if_stopped=self._control.raise_if_stopped,
            )
        return self._embeds

    @property
    def _most_chunks(self) -> int | None:
        """1 for Wan 2.1 from an image: its transformer takes exactly 512 text tokens. None: no limit."""
        return 1 if self._parts.image_encoder is not None else None

    def _warn_of_cut_prompts(self) -> None:
        if self._most_chunks is None:
            return
        for field, passages in (("prompt", self._params.wanted), ("negative_prompt", self._params.unwanted)):
            chunks = umt5.chunks_of(self._parts.tokenizer, passages)
            if len(chunks) > self._most_chunks:
                left_out = sum(len(chunk.ids) for chunk in chunks[self._most_chunks :])
                self._control.warn(
                    f"{field}: this model reads {umt5.MAX_TOKENS} tokens; the last {left_out} were left out"
                )

    @contextmanager
    def _watched(self, part: Literal["encode", "decode"], width: int, height: int) -> Iterator[None]:
        """Report the VAE's progress at each latent frame in the body."""
        vae, steps = self._parts.vae, self._done

        def tell(share: float) -> None:
            self._control.raise_if_stopped()
            self._control.report(Progress("generating", steps, self._total, part, share))

        frames = (self._params.num_frames - 1) // 4 + 1
        if part == "encode" and self._parts.expand_timesteps and self._source is not None:
            frames = 1 if self._end is None else 1 + HELD_FRAMES  # the first picture, and the last one if given
        network = vae.decoder if part == "decode" else vae.encoder
        with watched(network, clip_calls(vae, frames, height, width), tell):
            yield

    @contextmanager
    def _phase_told(self) -> Iterator[None]:
        """Set `phase` in the body: `encode` until a transformer first runs, then `denoise`."""

        def denoising(*_: object) -> None:
            self.phase = "denoise"

        self.phase = "encode"
        networks = [net for net in (self._parts.transformer, self._parts.transformer_2) if net is not None]
        hooks = [network.register_forward_pre_hook(denoising) for network in networks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _generator(self) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(self._params.seed)

    def _pipeline(self) -> Any:
        """Make a pipeline of the loaded networks with its own scheduler and the request's flow shift."""
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
        return kind(**shared)


@contextmanager
def _both_ends_held(pipeline: Any) -> Iterator[None]:
    """Hold a TI2V's last latent frame at the last picture, at time step 0, in the body, as the model does the first."""
    prepare_latents = pipeline.prepare_latents

    def prepare(*arguments: Any) -> Any:
        *others, last = arguments
        latents, first, mask = prepare_latents(*others)
        # A latent frame after the first covers four frames: here the still picture.
        still = last.unsqueeze(2).repeat(1, 1, 4 * HELD_FRAMES - 3, 1, 1)
        held = encode_pixels(pipeline.vae, still)[:, :, -1:].to(first)
        mask[:, :, -1] = 0
        return latents, torch.cat([first.repeat(1, 1, latents.shape[2] - 1, 1, 1), held], dim=2), mask

    pipeline.prepare_latents = prepare
    try:
        yield
    finally:
        del pipeline.prepare_latents


def _left(steps: int, strength: float) -> int:
    """Return the steps of a schedule that run at this strength, as diffusers counts them."""
    return int(steps * strength)

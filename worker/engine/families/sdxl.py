"""SDXL: text to image, image to image and inpainting with one set of networks and an optional refiner.

Reads like the papers: condition (https://arxiv.org/abs/2307.01952, section 2), denoise (base, then the refiner as an
ensemble of experts, appendix B), decode. Knows latents and schedules; knows no users, no files and no placement.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from worker.api.params import Draft, ImageParams
from worker.api.prompt_weights import Passages
from worker.core.types import Attention, Control, Part, Progress, Sources
from worker.engine import preview, resize
from worker.engine.adapters.controlnet import Controls
from worker.engine.adapters.depth import depth
from worker.engine.adapters.ip_adapter import Reference, referenced
from worker.engine.adapters.lora import without_loras
from worker.engine.canvas import Canvas
from worker.engine.families.upscale import as_it_is
from worker.engine.memory.room import Phase
from worker.engine.models.loader import SdxlParts
from worker.engine.prompt.clip import Embeddings, embeddings
from worker.engine.protocol import GeneratedImage
from worker.engine.schedulers import image_scheduler
from worker.engine.speed.attention import attention
from worker.engine.tiles import Box, Grid
from worker.engine.vae import decode_image, encode_image
from worker.media.masks import is_hard

if TYPE_CHECKING:
    from numpy.typing import NDArray

StepCallback = Callable[[Any, int, Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]]


_FLAT = 8
"""A tile with fewer distinct values has no details to draw anew."""
_LATENT = 8
"""Pixels per latent along a side."""
_OF_BASE = ("loras", "ip_adapters")
"""Parameters that affect the base model but not the refiner; of these only LoRAs affect an upscale's second pass."""


@dataclass(frozen=True, slots=True)
class _Anew:
    """The second pass over an enlarged picture, tile by tile."""

    width: int
    height: int
    """Of the picture, in pixels, rounded up to whole latents."""
    grid: Grid
    strength: float
    steps: int
    """Of each tile."""


class SdxlJob:
    """One image job on loaded networks, which it leaves unchanged.

    After running out of memory, `run` may be called again: the latents of finished stages are kept until their picture
    is yielded, so that only the failed stage is repeated.
    """

    def __init__(
        self,
        parts: SdxlParts,
        device: torch.device,
        params: ImageParams,
        sources: Sources,
        control: Control,
        *,
        attention: Attention = "auto",
    ) -> None:
        self._parts = parts
        self._device = device
        self._params = _at_least_one_step(params, control)
        self._control = control
        self._attention = attention
        self._given = sources.image
        self._size = params.drawn_size
        self._source: Image.Image | None = None
        self._canvas: Canvas | None = None
        if sources.image is not None and (sources.mask is not None or params.outpaint is not None):
            self._canvas = Canvas(params, sources.image, sources.mask, control)
            self._source = self._canvas.source
        elif sources.image is not None and not params.enlarges:
            self._source = resize.fit_image(sources.image, *self._size, control)
        self._strength = self._params.strength if params.draft is None else params.draft.strength
        self._draft_steps = 0
        if params.draft is not None:
            self._draft_steps = len(self._timesteps(parts.scheduler, params.num_inference_steps, None))
        self._base_steps, self._refiner_steps = (0, 0) if params.enlarges else self._plan()
        self._anew = self._plan_anew()
        self._warn_of_one_expert()
        self._pictures = sources.references
        self._controls: Controls | None = None
        if params.controlnets:
            factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
            depth_of = functools.partial(depth, parts.depth, device=device)
            passes = [steps for steps in (self._draft_steps, self._base_steps) if steps]
            self._controls = Controls(
                self._params, sources, parts.controlnets, control, factor=factor, passes=passes, depth=depth_of
            )
        self._references: tuple[Reference, ...] | None = None
        self._kept: dict[str, torch.Tensor] = {}
        self._base_embeds: Embeddings | None = None
        self._refiner_embeds: Embeddings | None = None
        self._source_latents: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None
        """(1, 1, height, width) in latents: how much each is repainted, 0 ... 1."""
        self.phase: Phase = "text"
        """The current phase, or the one that failed, by which the engine knows what ran out of memory."""
        self._done = 0
        self._steps = self._draft_steps + self._base_steps + self._refiner_steps
        self._steps += 0 if self._anew is None else len(self._anew.grid) * self._anew.steps
        self._total = self._steps * len(params.seeds)

    def run(self, first: int = 0) -> Iterator[GeneratedImage]:
        """Yield images from number `first` on. Image k equals the image of a job with its seed alone."""
        if self._params.enlarges:
            yield from as_it_is(self._given, self._params.seeds, first)
            return
        self._condition()
        for index, seed in list(enumerate(self._params.seeds))[first:]:
            self._done = self._steps * index
            latents = self._denoise(seed)
            self._control.raise_if_stopped()
            self.phase = "decode"
            with self._reported("decode"):
                image = decode_image(self._parts.vae, latents)
            del latents
            if self._canvas is not None:
                image = self._canvas.finished(image)
            yield GeneratedImage(index, seed, np.ascontiguousarray(image))
            # Not earlier: enlarging the picture may run out of memory, too.
            self._kept.clear()

    def drawn_anew(self, pixels: "NDArray[np.uint8]", seed: int) -> "NDArray[np.uint8]":
        """Draw the details of an enlarged picture, (height, width, 3), with the base model, tile by tile.

        Each tile is an image to image pass with the whole prompt (SDEdit, https://arxiv.org/abs/2108.01073), with few
        enough steps to keep its content.
        """
        if self._anew is None:
            return pixels
        plan, (height, width) = self._anew, pixels.shape[:2]
        self._condition()
        below, beside = plan.height - height, plan.width - width
        backdrop = preview.Backdrop(pixels)
        padded = np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge")

        def paint(box: Box) -> "NDArray[np.float32]":
            tile = np.ascontiguousarray(padded[box[1] : box[3], box[0] : box[2]])
            if int(tile.max()) - int(tile.min()) < _FLAT:
                return tile.astype(np.float32)
            place = functools.partial(backdrop.with_tile, box)
            return self._tile_anew(tile, seed, plan, place).astype(np.float32)

        return np.ascontiguousarray(plan.grid.painted(paint)[:height, :width])

    @torch.no_grad()
    def _tile_anew(
        self,
        tile: "NDArray[np.uint8]",
        seed: int,
        plan: "_Anew",
        place: Callable[[Image.Image], Image.Image],
    ) -> "NDArray[np.uint8]":
        self._control.raise_if_stopped()
        self.phase = "encode"
        with self._reported("encode"):
            latents = encode_image(self._parts.vae, Image.fromarray(tile), self._device).to(self._parts.unet.dtype)
        self.phase = "denoise"
        pipeline = self._pipeline(StableDiffusionXLImg2ImgPipeline)
        options = self._base_options() | {"image": latents, "strength": plan.strength}
        before = self._done
        latents = self._call(pipeline, self._base_embeds, seed, self._stepper(plan.steps), options, place=place)
        self._done = before + plan.steps
        self.phase = "decode"
        with self._reported("decode"):
            return decode_image(self._parts.vae, latents)

    def _plan_anew(self) -> "_Anew | None":
        """Return the second pass over an enlarged picture; None: there is none."""
        upscale, parts = self._params.upscale, self._parts
        if upscale is None or upscale.tile is None:
            return None
        width, height = (-(-side // _LATENT) * _LATENT for side in (upscale.width, upscale.height))
        grid = Grid.over((width, height), upscale.tile, upscale.overlap, _LATENT)
        schedule = self._params.num_inference_steps
        strength = upscale.strength(schedule)
        return _Anew(width, height, grid, strength, len(self._timesteps(parts.scheduler, schedule, strength)))

    def _plan(self) -> tuple[int, int]:
        """Return the steps of base and refiner for one image: each noise level belongs to exactly one of them."""
        params, parts = self._params, self._parts
        base = self._timesteps(parts.scheduler, params.num_inference_steps, self._strength)
        if params.high_noise_frac is None or parts.refiner_unet is None:
            return len(base), 0
        steps = params.refiner_inference_steps or params.num_inference_steps
        trained = parts.scheduler.config.num_train_timesteps
        cutoff = round(trained - params.high_noise_frac * trained)
        high = sum(step >= cutoff for step in base)
        if high == 0:
            # Even the first step is below the split (low strength, low fraction): the refiner does everything.
            return 0, len(self._timesteps(parts.refiner_scheduler, steps, self._strength))
        low = sum(step < cutoff for step in self._timesteps(parts.refiner_scheduler, steps, None))
        return (high, low) if low else (len(base), 0)

    def _warn_of_one_expert(self) -> None:
        """Warn if base or refiner was requested but has no step."""
        if self._params.high_noise_frac is None or (self._base_steps and self._refiner_steps):
            return
        if self._base_steps:
            self._control.warn("high_noise_frac, refiner_inference_steps: no step was left for the refiner")
        elif not self._draft_steps:
            if self._params.controlnets:
                self._control.warn("controlnets: they steer the base model alone, and it had no step")
            self._control.warn("high_noise_frac, num_inference_steps: no step was left for the base model")
            of_base = _OF_BASE if self._anew is None else ("ip_adapters",)
            if lost := [name for name in of_base if getattr(self._params, name)]:
                verb = "has" if len(lost) == 1 else "have"
                self._control.warn(f"{', '.join(lost)}: {verb} no effect; the refiner alone draws")

    def _scheduler(self, own: Any) -> Any:
        params = self._params
        spacing, among = params.timestep_spacing, params.original_inference_steps
        if own is not self._parts.scheduler:
            spacing = among = None  # these belong to the base model
        return image_scheduler(own, params.scheduler, timestep_spacing=spacing, original_inference_steps=among)

    def _timesteps(self, own: Any, steps: int, strength: float | None) -> list[float]:
        scheduler = self._scheduler(own)
        scheduler.set_timesteps(steps)
        skipped = 0 if strength is None else max(steps - int(steps * strength), 0)
        return [float(step) for step in scheduler.timesteps[skipped * scheduler.order :]]

    @torch.no_grad()
    def _condition(self) -> None:
        """Encode prompts, reference pictures and source picture: once per job, not per image."""
        self._control.raise_if_stopped()
        params, parts = self._params, self._parts
        self.phase = "text"
        if self._base_embeds is None and (self._base_steps or self._draft_steps or self._anew is not None):
            # If the model was trained so, no negative prompt means zeros, not the embedding of "".
            self._base_embeds = self._embed(
                self._pipeline(StableDiffusionXLPipeline), params.unwanted if params.negative_prompt else None
            )
        if self._refiner_embeds is None and self._refiner_steps:
            refiner = self._pipeline(StableDiffusionXLImg2ImgPipeline, refiner=True)
            with without_loras(parts.text_encoder_2):
                self._refiner_embeds = self._embed(refiner, params.unwanted)
        if self._references is None and (self._base_steps or self._draft_steps):
            self._references = self._refer()
        self.phase = "encode"
        if self._source_latents is None and self._source is not None:
            with self._reported("encode"):
                latents = encode_image(parts.vae, self._source, self._device)
            self._source_latents = latents.to(parts.unet.dtype)
        if self._canvas is not None and self._source_latents is not None:
            # A latent covers 8 x 8 pixels and is repainted if any of them is, so that thin strokes are not lost.
            full = torch.from_numpy(np.array(self._canvas.weights)).to(self._device).float()[None, None]
            factor = full.shape[-1] // self._source_latents.shape[-1]
            self._mask = torch.nn.functional.max_pool2d(full, factor) / 255

    def _embed(self, pipeline: Any, unwanted: Passages | None) -> Embeddings:
        params = self._params
        return embeddings(
            pipeline,
            self._device,
            params.wanted,
            unwanted,
            guided=params.guidance_scale > 1,
            raise_if_stopped=self._control.raise_if_stopped,
        )

    def _refer(self) -> tuple[Reference, ...]:
        """Encode the pictures of `ip_adapters`; the refiner does not use them."""
        references = []
        adapter = self._parts.ip_adapter
        for index, (asked, picture) in enumerate(zip(self._params.ip_adapters or (), self._pictures, strict=True)):
            if asked.scale == 0:
                continue
            if (lost := resize.cropped_share(picture.size, (1, 1))) >= 0.01:
                self._control.warn(
                    f"ip_adapters.{index}.image_url: only the square in the middle of the picture is seen; "
                    f"{round(100 * lost)} % of it is not"
                )
            added = adapter(adapter.pixels_of(picture, self._device))
            references.append(Reference(added, asked.scale, asked.type))
        return tuple(references)

    def _denoise(self, seed: int) -> torch.Tensor:
        """Denoise one picture. The references leave the UNet before it is yielded: its receiver may take long."""
        with referenced(self._parts.unet, self._references or ()):
            return self._denoise_all(seed)

    def _denoise_all(self, seed: int) -> torch.Tensor:
        latents, source, draft = None, self._source_latents, self._params.draft
        if draft is not None:
            small = self._stage("draft", self._draft_steps, lambda: self._draw_small(seed, draft))
            source = self._enlarged(small)
        if self._base_steps:
            latents = self._stage("base", self._base_steps, lambda: self._denoise_base(seed, source))
        if self._refiner_steps:
            base = latents
            latents = self._stage("refiner", self._refiner_steps, lambda: self._denoise_refiner(seed, base, source))
        if latents is None:
            raise AssertionError("a job has at least one step")
        return latents

    def _stage(self, name: str, steps: int, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return a stage's latents of the current picture: kept from an earlier run, or denoised now."""
        before = self._done
        if name not in self._kept:
            self.phase = "denoise"
            self._kept[name] = run()
        self._done = before + steps
        return self._kept[name]

    def _draw_small(self, seed: int, draft: Draft) -> torch.Tensor:
        """Denoise the first of two passes.

        Far above its native size a model loses the composition (SDXL repeats objects: He et al. 2023,
        arXiv:2310.07702). So the composition is drawn at about the native size, and the second pass adds details
        at full size.
        """
        options = self._base_options() | {"width": draft.width, "height": draft.height}
        pipeline = self._pipeline(StableDiffusionXLPipeline)
        with self._steered(pipeline):
            return self._call(pipeline, self._base_embeds, seed, self._stepper(self._draft_steps), options)

    def _enlarged(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents of the first pass's picture at full size, from which the second pass continues."""
        self._control.raise_if_stopped()
        params, vae = self._params, self._parts.vae
        self.phase = "decode"
        with self._reported("decode"):
            small = decode_image(vae, latents)
        self.phase = "encode"
        with self._reported("encode"):
            picture = resize.enlarged(small, params.width, params.height)
            return encode_image(vae, picture, self._device).to(self._parts.unet.dtype)

    def _denoise_base(self, seed: int, source: torch.Tensor | None) -> torch.Tensor:
        options = self._base_options()
        # Below 1.0, which to diffusers would mean no split.
        options["denoising_end"] = self._params.high_noise_frac if self._refiner_steps else None
        size, stepper = {"width": self._size[0], "height": self._size[1]}, self._stepper(self._base_steps)
        if source is None:
            pipeline = self._pipeline(StableDiffusionXLPipeline)
            options |= size
        elif self._mask is None:
            pipeline = self._pipeline(StableDiffusionXLImg2ImgPipeline)
            options |= {"image": source, "strength": self._strength}
        else:
            pipeline = self._pipeline(StableDiffusionXLInpaintPipeline)
            first = torch.nn.functional.interpolate(_free(1 / self._steps, self._mask), self._size[::-1])
            options |= {"image": source, "mask_image": first, "strength": self._strength, **size}
            stepper = self._stepper(self._base_steps, self._releaser(self._mask))
        with self._steered(pipeline):
            return self._call(pipeline, self._base_embeds, seed, stepper, options)

    def _base_options(self) -> dict[str, Any]:
        """Return the arguments of every base model pass."""
        return {
            "num_inference_steps": self._params.num_inference_steps,
            "guidance_rescale": self._params.guidance_rescale or 0.0,
        }

    def _steered(self, pipeline: Any) -> AbstractContextManager[None]:
        """Apply the ControlNets to the UNet in the body, one pass of the base model."""
        if self._controls is None:
            return nullcontext()
        return self._controls.steering(pipeline.unet, lambda: pipeline.num_timesteps)

    def _denoise_refiner(self, seed: int, latents: torch.Tensor | None, source: torch.Tensor | None) -> torch.Tensor:
        params, pipeline = self._params, self._pipeline(StableDiffusionXLImg2ImgPipeline, refiner=True)
        options: dict[str, Any] = {"num_inference_steps": params.refiner_inference_steps or params.num_inference_steps}
        if latents is not None:
            options |= {"image": latents, "denoising_start": params.high_noise_frac}
        elif source is not None:
            options |= {"image": source, "strength": self._strength}
        else:
            # No source picture: zeros, to which full strength adds all the noise.
            channels, factor = self._parts.vae.config.latent_channels, pipeline.vae_scale_factor
            shape = (1, channels, self._size[1] // factor, self._size[0] // factor)
            zeros = torch.zeros(shape, dtype=self._parts.refiner_unet.dtype, device=self._device)
            options |= {"image": zeros, "strength": 1.0}
        step = self._stepper(self._refiner_steps, keep=self._keeper(seed))
        return self._call(pipeline, self._refiner_embeds, seed, step, options)

    def _call(
        self,
        pipeline: Any,
        embeds: Embeddings | None,
        seed: int,
        step: StepCallback,
        options: Any,
        *,
        place: Callable[[Image.Image], Image.Image] | None = None,
    ) -> torch.Tensor:
        """Run one pass and return its latents. `place` puts a tile's preview into the whole picture."""
        size = self._params.micro_conditioning
        conditioning = {} if size is None else {"original_size": size[::-1], "target_size": size[::-1]}
        rows = preview.rows_for(self._parts.vae, self._parts.preview_factors)
        correct = None if place else self._corrector()
        draw = preview.drawer(self._parts.preview, self._parts.vae, self._parts.beside, math.prod(self._size))
        with (
            preview.shown(pipeline.scheduler, rows, self._control, correct=correct, place=place, draw=draw),
            attention(self._attention, self._device, clip=False),
        ):
            latents: torch.Tensor = pipeline(
                **(embeds or {}),
                **options,
                **conditioning,
                generator=_generator(seed),
                guidance_scale=self._params.guidance_scale,
                output_type="latent",
                callback_on_step_end=step,
            ).images
        return latents

    def _corrector(self) -> preview.Correction | None:
        """Return the correction of an inpainting's previews: the source where nothing is repainted."""
        if self._mask is None or self._source_latents is None:
            return None
        source, weights = self._source_latents, self._mask

        def correct(clean: torch.Tensor) -> torch.Tensor:
            return torch.where(preview.small(weights) > 0, clean, preview.small(source))

        return correct

    def moment(self, part: Part, share: float) -> Progress:
        """Return the progress when `share` of `part` is done."""
        return Progress("generating", self._done, self._total, part, share)

    @contextmanager
    def _reported(self, part: Literal["encode", "decode"]) -> Iterator[None]:
        """Report the start and the end of one VAE call in the body."""
        now = self.moment(part, 0.0)
        self._control.report(now)
        yield
        self._control.report(replace(now, share=1.0))

    def _stepper(self, planned: int, keep: StepCallback | None = None) -> StepCallback:
        """Return the callback after each of `planned` steps: reports it, checks for a stop, and applies `keep`."""
        before = self._done

        def step(pipeline: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            # Some schedulers call the network more often than they have steps; planned steps are counted.
            self._done = before + min(planned, -(-(index + 1) * planned // max(pipeline.num_timesteps, 1)))
            self._control.report(Progress("generating", self._done, self._total))
            self._control.raise_if_stopped()
            return keep(pipeline, index, timestep, tensors) if keep else {}

        return step

    def _releaser(self, weights: torch.Tensor) -> StepCallback | None:
        """Return the `keep` of a soft mask's base pass: sets the pipeline's mask for the next step."""
        if self._canvas is None or is_hard(self._canvas.weights):
            return None

        def release(
            pipeline: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            share = (index + 2) / pipeline.num_timesteps
            mask = _free(share * self._base_steps / self._steps, weights).to(tensors["latents"].dtype)
            return {"mask": torch.cat([mask] * 2) if pipeline.do_classifier_free_guidance else mask}

        return release

    def _keeper(self, seed: int) -> StepCallback | None:
        """Return the `keep` of an inpainting's refiner: resets what is not repainted to the source at each step."""
        if self._mask is None or self._source_latents is None:
            return None
        source, weights = self._source_latents, self._mask
        noise = randn_tensor(source.shape, generator=_generator(seed), device=source.device, dtype=source.dtype)
        before = self._base_steps

        def keep(
            pipeline: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            known, left = source, pipeline.num_timesteps - index - 1
            if left:
                scheduler = pipeline.scheduler
                known = scheduler.add_noise(source, noise, scheduler.timesteps[-left].reshape(1))
            done = (before + (index + 1) / pipeline.num_timesteps * self._refiner_steps) / self._steps
            mask = _free(done, weights).to(source.dtype)
            return {"latents": (1 - mask) * known + mask * tensors["latents"]}

        return keep

    def _pipeline(self, kind: Any, *, refiner: bool = False) -> Any:
        """Make a pipeline of the shared networks with its own scheduler; takes a millisecond."""
        parts = self._parts
        options: dict[str, Any] = {
            "force_zeros_for_empty_prompt": parts.force_zeros_for_empty_prompt and not refiner,
            "add_watermarker": False,
        }
        if refiner:
            options["requires_aesthetics_score"] = parts.refiner_aesthetics
        own = parts.refiner_scheduler if refiner else parts.scheduler
        pipeline = kind(
            vae=parts.vae,
            text_encoder=None if refiner else parts.text_encoder,
            text_encoder_2=parts.text_encoder_2,
            tokenizer=None if refiner else parts.tokenizer,
            tokenizer_2=parts.tokenizer_2,
            unet=parts.refiner_unet if refiner else parts.unet,
            scheduler=self._scheduler(own),
            **options,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _generator(seed: int) -> torch.Generator:
    """Return a CPU generator, whose numbers are the same on every card."""
    return torch.Generator("cpu").manual_seed(seed)


def _free(done: float, weights: torch.Tensor) -> torch.Tensor:
    """Return 1 where the latents are the model's after this share of the steps, 0 where they are the source's.

    Differential Diffusion (https://arxiv.org/abs/2306.00950, algorithm 1): the less a latent may change, the later it
    is released. Weights of 0 and 1 only give the same mask at every step.
    """
    return ((weights > 0) & (weights >= 1 - done)).float()


def _at_least_one_step(params: ImageParams, control: Control) -> ImageParams:
    """Return `params` with a strength at which at least one step runs."""
    if params.strength is None:
        return params
    steps = min(params.num_inference_steps, params.refiner_inference_steps or params.num_inference_steps)
    if int(steps * params.strength) >= 1:
        return params
    control.warn(f"strength: {params.strength} of {steps} steps is less than one step; one was run")
    return replace(params, strength=min(1.0, (1 + 1e-6) / steps))

"""Weights on disk -> networks in the dtype they run in. Knows files, classes and dtypes; runs nothing, places nothing.

Every part is read straight into its run dtype, as safetensors, from this disk only. Progress is one step a component.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from worker.core.errors import ModelUnavailable
from worker.core.types import Control, Progress
from worker.engine.models.checkpoint import components, read_json
from worker.engine.models.registry import ModelSpec
from worker.engine.models.weight_files import variant_of

log = logging.getLogger(__name__)

_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
CLASSES = frozenset(
    {
        "AutoencoderKL",
        "AutoencoderKLWan",
        "CLIPImageProcessor",
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPTokenizer",
        "CLIPVisionModel",
        "T5Tokenizer",
        "T5TokenizerFast",
        "UMT5EncoderModel",
        "UNet2DConditionModel",
        "WanTransformer3DModel",
    }
)
"""The classes a model folder may name (schedulers beside them): a folder chooses among these, it brings no code."""


@dataclass(slots=True)
class SdxlParts:
    """SDXL's networks and what goes with them. The refiner shares the VAE and the second text encoder."""

    tokenizer: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any
    unet: Any
    vae: Any
    scheduler: Any
    force_zeros_for_empty_prompt: bool = True
    refiner_unet: Any = None
    refiner_scheduler: Any = None
    refiner_aesthetics: bool = True

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks in the order in which a job uses them."""
        names = ("text_encoder", "text_encoder_2", "unet", "refiner_unet", "vae")
        return {name: module for name in names if (module := getattr(self, name)) is not None}


@dataclass(slots=True)
class WanParts:
    """Wan's networks. `image_encoder` is Wan 2.1's for image to video, `transformer_2` Wan 2.2's low-noise expert."""

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any
    scheduler: Any
    image_encoder: Any = None
    image_processor: Any = None
    transformer_2: Any = None
    boundary_ratio: float | None = None
    expand_timesteps: bool = False

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks in the order in which a job uses them."""
        names = ("text_encoder", "image_encoder", "transformer", "transformer_2", "vae")
        return {name: module for name in names if (module := getattr(self, name)) is not None}


Parts = SdxlParts | WanParts


@dataclass(slots=True)
class Loader:
    """Loads one model whose files are here. `cuda` decides the dtypes, `arrived` takes each network as it is read."""

    spec: ModelSpec
    cuda: bool
    control: Control
    sdxl_configs: Path | None = None
    arrived: Callable[[torch.nn.Module], object] = field(default=lambda module: module)
    _done: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    def load(self) -> Parts:
        """The model's parts, in evaluation mode.

        Raises:
            ModelUnavailable, or an error of safetensors, diffusers, transformers or the operating system.
        """
        return self._sdxl() if self.spec.family == "sdxl" else self._wan()

    def _sdxl(self) -> SdxlParts:
        main, vae, refiner = self.spec.main, self.spec.vae, self.spec.refiner
        self._total = 7 + (2 if refiner else 0)
        if main.kind == "file":
            parts = self._sdxl_file(_path(main.path), load_vae=vae is None)
        else:
            folder = _path(main.path)
            self._check(folder, ("unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"))
            half = torch.float16
            parts = SdxlParts(
                tokenizer=self._small(folder, "tokenizer"),
                tokenizer_2=self._small(folder, "tokenizer_2"),
                text_encoder=self._network(folder, "text_encoder", half),
                text_encoder_2=self._network(folder, "text_encoder_2", half),
                unet=self._network(folder, "unet", half),
                vae=self._vae(folder / "vae", self._vae_dtype(folder / "vae")) if vae is None else None,
                scheduler=self._small(folder, "scheduler"),
                force_zeros_for_empty_prompt=_index(folder).get("force_zeros_for_empty_prompt", True),
            )
        if vae is not None:
            parts.vae = self._vae(_path(vae.path), self._vae_dtype(_path(vae.path)))
        if self.cuda:
            parts.vae.to(memory_format=torch.channels_last)
        # The dtype was chosen here, once; with this flag diffusers would cast the shared VAE up and down.
        parts.vae.register_to_config(force_upcast=False)
        if refiner is not None:
            folder = _path(refiner.path)
            parts.refiner_unet = self._network(folder, "unet", torch.float16)
            parts.refiner_scheduler = self._small(folder, "scheduler")
            parts.refiner_aesthetics = bool(_index(folder).get("requires_aesthetics_score", True))
            self._check_refiner(parts)
        return parts

    def _sdxl_file(self, path: Path, *, load_vae: bool) -> SdxlParts:
        if self.sdxl_configs is None:
            raise ModelUnavailable("model_unavailable.file_configs")
        dtype = torch.float16 if self.cuda else torch.float32
        options = {"config": str(self.sdxl_configs), "local_files_only": True}
        without_vae = {} if load_vae else {"vae": None}
        pipeline = diffusers.StableDiffusionXLPipeline.from_single_file(
            str(path), torch_dtype=dtype, add_watermarker=False, **without_vae, **options
        )
        vae = pipeline.vae
        if vae is not None and self.cuda and vae.config.force_upcast:
            # Read again, not cast: what float16 has rounded away does not come back.
            vae = diffusers.AutoencoderKL.from_single_file(
                str(path), subfolder="vae", torch_dtype=torch.bfloat16, **options
            )
        for module in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet, vae):
            if module is not None:
                self.arrived(module.eval())
        for _ in range(7):
            self._step()
        return SdxlParts(
            tokenizer=pipeline.tokenizer,
            tokenizer_2=pipeline.tokenizer_2,
            text_encoder=pipeline.text_encoder,
            text_encoder_2=pipeline.text_encoder_2,
            unet=pipeline.unet,
            vae=vae,
            scheduler=pipeline.scheduler,
        )

    def _wan(self) -> WanParts:
        folder = _path(self.spec.main.path)
        index, present = _index(folder), components(folder)
        self._check(folder, ("tokenizer", "text_encoder", "transformer", "vae", "scheduler"))
        self._total = len(present)
        bfloat16 = torch.bfloat16
        return WanParts(
            tokenizer=self._small(folder, "tokenizer"),
            text_encoder=self._network(folder, "text_encoder", bfloat16),
            # Small, and its features steer every step: float32 as in diffusers' own example for Wan.
            image_encoder=self._network(folder, "image_encoder", torch.float32) if "image_encoder" in present else None,
            image_processor=self._small(folder, "image_processor") if "image_processor" in present else None,
            transformer=self._network(folder, "transformer", bfloat16),
            transformer_2=self._network(folder, "transformer_2", bfloat16) if "transformer_2" in present else None,
            vae=self._wan_vae(folder),
            scheduler=self._small(folder, "scheduler"),
            boundary_ratio=index.get("boundary_ratio"),
            expand_timesteps=bool(index.get("expand_timesteps")),
        )

    def _wan_vae(self, folder: Path) -> Any:
        """Encodes in float32, decodes in bfloat16: half the room where a job needs most, and no difference to see.

        Clips decoded in bfloat16 have an MS-SSIM of 0.9999 to those in float32 (hao-ai-lab/FastVideo, pull request
        1472); what is encoded steers every step, so that stays exact.
        """
        vae = self._network(folder, "vae", torch.float32)
        if self.cuda:
            for part in (vae.decoder, vae.post_quant_conv):
                part.to(torch.bfloat16)
        return vae

    def _vae_dtype(self, folder: Path) -> torch.dtype:
        """The dtype of an SDXL VAE on the GPU: float16 only where it was made not to overflow there."""
        config = read_json((folder.parent if folder.suffix == ".safetensors" else folder) / "config.json")
        return torch.bfloat16 if config.get("force_upcast", True) else torch.float16

    def _vae(self, where: Path, dtype: torch.dtype) -> Any:
        if where.suffix == ".safetensors":
            if self.sdxl_configs is None:
                raise ModelUnavailable("model_unavailable.vae_configs")
            vae = diffusers.AutoencoderKL.from_single_file(
                str(where),
                config=str(self.sdxl_configs),
                subfolder="vae",
                local_files_only=True,
                torch_dtype=dtype if self.cuda else torch.float32,
            )
        else:
            vae = self._read(diffusers.AutoencoderKL, where, dtype)
        self._step()
        self.arrived(vae)
        return vae

    def _network(self, folder: Path, name: str, dtype: torch.dtype) -> Any:
        library, kind = components(folder)[name]
        module = self._read(_class(library, kind), folder / name, dtype)
        self._step()
        self.arrived(module)
        return module

    def _read(self, kind: Any, folder: Path, dtype: torch.dtype) -> Any:
        options = {
            # transformers 5 calls it dtype, diffusers torch_dtype.
            "dtype" if kind.__module__.startswith("transformers") else "torch_dtype": dtype
            if self.cuda
            else torch.float32,
            "use_safetensors": True,
            "local_files_only": True,
            "low_cpu_mem_usage": True,
        }
        if variant := variant_of(folder, half=self.cuda):
            options["variant"] = variant
        return kind.from_pretrained(str(folder), **options).eval()

    def _small(self, folder: Path, name: str) -> Any:
        library, kind = components(folder)[name]
        if name.startswith("tokenizer"):
            part = transformers.AutoTokenizer.from_pretrained(str(folder / name), local_files_only=True)
        else:
            part = _class(library, kind).from_pretrained(str(folder / name), local_files_only=True)
        self._step()
        return part

    def _step(self) -> None:
        self.control.raise_if_stopped()
        self._done += 1
        self.control.report(Progress("loading", min(self._done, self._total), self._total))

    def _check(self, folder: Path, needed: tuple[str, ...]) -> None:
        missing = [name for name in needed if name not in components(folder)]
        if missing:
            variable = self.spec.main.variable
            raise ModelUnavailable("model_unavailable.parts", variable=variable, missing=", ".join(missing))

    def _check_refiner(self, parts: SdxlParts) -> None:
        width = parts.text_encoder_2.config.hidden_size
        if parts.refiner_unet.config.cross_attention_dim != width:
            raise ModelUnavailable("model_unavailable.refiner_encoder")


def _class(library: str, name: str) -> Any:
    if name in CLASSES or (library == "diffusers" and name.endswith("Scheduler")):
        kind = getattr(_LIBRARIES.get(library), name, None)
        if kind is not None:
            return kind
    raise ModelUnavailable("model_unavailable.class", name=name[:60])


def _index(folder: Path) -> dict[str, Any]:
    return read_json(folder / "model_index.json")


def _path(path: Path | None) -> Path:
    if path is None:
        raise ModelUnavailable("model_unavailable.not_here")
    return path

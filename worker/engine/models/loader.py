"""Loads weights from disk into networks in their run dtype. Knows files, classes and dtypes; runs nothing.

Each part is read once, as safetensors, from this disk only, directly into its run dtype and to its target device. A
missing tensor is an error: no network runs with values that its file does not contain. Progress is one step per
component.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import safe_open

from worker.core.config import PreviewFactors
from worker.core.errors import ModelUnavailable
from worker.core.types import Control, Progress, Quantized
from worker.engine.adapters import controlnet, ip_adapter
from worker.engine.adapters.ip_adapter import IpAdapter
from worker.engine.models.checkpoint import DENOISERS, components, read_json
from worker.engine.models.control_types import is_union
from worker.engine.models.controlnet_files import ControlNetFiles, controlnet_files
from worker.engine.models.identity import identify
from worker.engine.models.ip_adapter_files import ip_adapter_files
from worker.engine.models.registry import ModelSpec, WeightSource
from worker.engine.models.upscaler import Upscaler, demo_weights, network
from worker.engine.models.upscaler_file import NotAnUpscaler, file_in
from worker.engine.models.weight_files import variant_of
from worker.engine.preview import Beside
from worker.engine.schedulers import reconfigured
from worker.engine.speed.quantize import quantize

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
"""The classes that a model folder may name, beside schedulers: a folder chooses among these and brings no code."""
_READ_AS = {"CLIPVisionModelWithProjection": "CLIPVisionModel"}
"""The class that Wan 2.1's image-to-video checkpoints name -> the one that diffusers' example loads: the projection is
not used (https://huggingface.co/docs/diffusers/api/pipelines/wan)."""
_IN_ONE_FILE = {"unet": ("model.diffusion_model.",), "vae": ("first_stage_model.", "vae.")}
"""Network -> prefix of its tensors in a single SDXL file."""


@dataclass(slots=True)
class SdxlParts:
    """SDXL's networks, tokenizers and scheduler. The refiner shares the VAE and the second text encoder."""

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
    ip_adapter: Any = None
    depth: Any = None
    preview: Any = None
    beside: Beside = field(default_factory=Beside)
    """Whether there is memory for `preview`."""
    preview_factors: PreviewFactors | None = None
    """The map from latents to colours, if the model has its own."""
    controlnets: dict[str, Any] = field(default_factory=dict)
    """By their `WeightSource.network`."""

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks in the order in which a job uses them."""
        names = ("depth", "text_encoder", "text_encoder_2", "ip_adapter", "unet", "refiner_unet", "preview", "vae")
        return {name: module for name in names if (module := getattr(self, name)) is not None} | self.controlnets


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
    preview_factors: PreviewFactors | None = None

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks in the order in which a job uses them."""
        names = ("text_encoder", "image_encoder", "transformer", "transformer_2", "vae")
        return {name: module for name in names if (module := getattr(self, name)) is not None}


@dataclass(slots=True)
class UpscalerParts:
    """The upscaler network."""

    upscaler: Upscaler
    vae: Any = None
    """It has none."""

    def modules(self) -> dict[str, torch.nn.Module]:
        """The network."""
        return {"upscaler": self.upscaler}


Parts = SdxlParts | WanParts | UpscalerParts


@dataclass(slots=True)
class Loader:
    """Loads one model whose files are on this machine.

    `cuda` decides the dtypes. A network for which `on_card` is true is read directly to `card`; all others, and all
    without a card, to host memory.
    """

    spec: ModelSpec
    cuda: bool
    control: Control
    sdxl_configs: Path | None = None
    card: torch.device | None = None
    on_card: Callable[[str], bool] = field(default=lambda _name: True)
    _done: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    def load(self) -> Parts:
        """Return the model's parts, in evaluation mode.

        Raises:
            ModelUnavailable, or an error of safetensors, diffusers, transformers or the operating system.
        """
        match self.spec.family:
            case "sdxl":
                return self._sdxl()
            case "wan":
                return self._wan()
            case "upscaler":
                return self._upscaler()

    def _upscaler(self) -> UpscalerParts:
        source = self.spec.main
        self._total = 1
        tensors = demo_weights() if source.kind == "demo" else _tensors(file_in(_path(source)))
        try:
            made = network(tensors)
        except (NotAnUpscaler, RuntimeError) as error:  # torch's: a tensor is missing, or of another shape
            raise _incomplete(source, "upscaler") from error
        made.to(self._run_dtype(torch.float16))
        self._step()
        return UpscalerParts(made)

    def load_extra(self, source: WeightSource, parts: SdxlParts) -> torch.nn.Module:
        """Load a job's extras into the model's parts.

        Raises:
            As `load`.
        """
        self._total = 1
        network: torch.nn.Module
        if source.role == "controlnet":
            network = self._controlnet(source, parts.unet)
            parts.controlnets[source.network] = network
        elif source.role == "depth":
            kind = transformers.DepthAnythingForDepthEstimation
            network = parts.depth = self._read(kind, _path(source), torch.float16, source, "depth")
        elif source.role == "preview":
            network = parts.preview = self._preview(source, parts.unet.dtype)
        else:
            network = parts.ip_adapter = self._ip_adapter(source, parts.unet)
        self._step()
        return network

    def _sdxl(self) -> SdxlParts:
        main, vae, refiner = self.spec.main, self.spec.vae, self.spec.refiner
        self._total = 7 + (2 if refiner else 0)
        if main.kind == "file":
            parts = self._sdxl_file(main, load_vae=vae is None)
        else:
            folder = _path(main)
            self._check(folder, ("unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"))
            half = torch.float16
            parts = SdxlParts(
                tokenizer=self._small(folder, "tokenizer"),
                tokenizer_2=self._small(folder, "tokenizer_2"),
                text_encoder=self._network(main, "text_encoder", half),
                text_encoder_2=self._network(main, "text_encoder_2", half),
                unet=self._network(main, "unet", half),
                vae=self._network(main, "vae", _vae_dtype(folder / "vae")) if vae is None else None,
                scheduler=self._small(folder, "scheduler"),
                force_zeros_for_empty_prompt=_index(folder).get("force_zeros_for_empty_prompt", True),
            )
        parts.scheduler = reconfigured(parts.scheduler, dict(self.spec.scheduler))
        if vae is not None:
            parts.vae = self._vae(vae)
        if main.kind == "file":
            parts.vae.register_to_config(**dict(identify(_path(main)).vae))
        if self.cuda:
            parts.vae.to(memory_format=torch.channels_last)
        # The dtype is chosen here; with this flag diffusers would cast the shared VAE back and forth.
        parts.vae.register_to_config(force_upcast=False)
        if refiner is not None:
            folder = _path(refiner)
            parts.refiner_unet = self._network(refiner, "unet", torch.float16, slot="refiner_unet")
            parts.refiner_scheduler = self._small(folder, "scheduler")
            parts.refiner_aesthetics = bool(_index(folder).get("requires_aesthetics_score", True))
            self._check_refiner(parts)
        parts.preview_factors = self.spec.preview_factors
        return parts

    def _sdxl_file(self, source: WeightSource, *, load_vae: bool) -> SdxlParts:
        if self.sdxl_configs is None:
            raise ModelUnavailable("model_unavailable.file_configs")
        half = torch.float16
        # Large networks one by one, so that each is read once, in its own dtype, to its own device.
        unet = self._of_file(source, "unet", diffusers.UNet2DConditionModel, half)
        vae_dtype = _vae_dtype(self.sdxl_configs / "vae")
        vae = self._of_file(source, "vae", diffusers.AutoencoderKL, vae_dtype) if load_vae else None
        pipeline = diffusers.StableDiffusionXLPipeline.from_single_file(
            str(_path(source)),
            config=str(self.sdxl_configs),
            local_files_only=True,
            torch_dtype=self._run_dtype(half),
            add_watermarker=False,
            unet=unet,
            vae=vae,
        )
        for name in ("text_encoder", "text_encoder_2"):
            module = _whole(getattr(pipeline, name), source, name)
            if (place := self._place(name)) is not None:
                module.to(place)
        for _ in range(7):
            self._step()
        return SdxlParts(
            tokenizer=pipeline.tokenizer,
            tokenizer_2=pipeline.tokenizer_2,
            text_encoder=pipeline.text_encoder,
            text_encoder_2=pipeline.text_encoder_2,
            unet=unet,
            vae=vae,
            scheduler=pipeline.scheduler,
        )

    def _of_file(self, source: WeightSource, name: str, kind: Any, dtype: torch.dtype) -> Any:
        """Load one network of a single SDXL file, reading no other tensors."""
        tensors = _tensors(_path(source), prefixes=_IN_ONE_FILE[name])
        with _whole_or_error(source, name):
            if not tensors:
                raise _incomplete(source, name)
            module = kind.from_single_file(
                tensors,
                config=str(self.sdxl_configs),
                subfolder=name,
                local_files_only=True,
                torch_dtype=self._run_dtype(dtype),
                device=self._place(name),
            )
        return self._as_it_runs(_whole(module, source, name), name)

    def _wan(self) -> WanParts:
        main = self.spec.main
        folder = _path(main)
        index, present = _index(folder), components(folder)
        self._check(folder, ("tokenizer", "text_encoder", "transformer", "vae", "scheduler"))
        self._total = len(present)
        bfloat16 = torch.bfloat16
        return WanParts(
            tokenizer=self._small(folder, "tokenizer"),
            text_encoder=self._network(main, "text_encoder", bfloat16),
            # Small, and its features affect every step: float32 as in diffusers' example for Wan.
            image_encoder=self._network(main, "image_encoder", torch.float32) if "image_encoder" in present else None,
            image_processor=self._small(folder, "image_processor") if "image_processor" in present else None,
            transformer=self._network(main, "transformer", bfloat16),
            transformer_2=self._network(main, "transformer_2", bfloat16) if "transformer_2" in present else None,
            vae=self._wan_vae(main),
            scheduler=self._small(folder, "scheduler"),
            boundary_ratio=index.get("boundary_ratio"),
            expand_timesteps=bool(index.get("expand_timesteps")),
            preview_factors=self.spec.preview_factors,
        )

    def _wan_vae(self, source: WeightSource) -> Any:
        """Load a VAE that encodes in float32 and decodes in bfloat16: half the peak memory, no visible difference.

        Clips decoded in bfloat16 have an MS-SSIM of 0.9999 to those in float32 (hao-ai-lab/FastVideo, pull request
        1472); what is encoded affects every step, so that stays exact.
        """
        vae = self._network(source, "vae", torch.float32)
        if self.cuda:
            for part in (vae.decoder, vae.post_quant_conv):
                part.to(torch.bfloat16)
        return vae

    def _ip_adapter(self, source: WeightSource, unet: Any) -> IpAdapter:
        """Load an IP-Adapter for this UNet, with its image encoder."""
        if source.kind == "demo":
            return ip_adapter.demo(unet)
        files = ip_adapter_files(_path(source))
        if isinstance(files, str):
            raise ModelUnavailable("model_unavailable.folder", variable=source.variable, problem=files)
        half = torch.float16
        encoder = self._read(transformers.CLIPVisionModelWithProjection, files.encoder, half, source, "ip_adapter")
        tensors = _tensors(files.weights, self._place("ip_adapter"), self._run_dtype(half))
        try:
            return ip_adapter.assembled(tensors, encoder, unet)
        except (KeyError, RuntimeError) as error:
            raise _incomplete(source, "ip_adapter") from error

    def _preview(self, source: WeightSource, dtype: torch.dtype) -> Any:
        """Load a tiny autoencoder from a folder, or from a file with diffusers' names."""
        where = _path(source)
        if where.suffix != ".safetensors":
            return self._read(diffusers.AutoencoderTiny, where, dtype, source, "preview")
        kind: Any = diffusers.AutoencoderTiny
        with torch.device("meta"):
            network = kind()
        return _filled(network, _tensors(where, dtype=dtype), source, "preview")

    def _controlnet(self, source: WeightSource, unet: Any) -> Any:
        """Load a ControlNet for this UNet."""
        if source.kind == "demo":
            return controlnet.demo(unet, union=source.called is None)
        files = controlnet_files(_path(source), half=self.cuda)
        if isinstance(files, str):
            raise ModelUnavailable("model_unavailable.folder", variable=source.variable, problem=files)
        union = is_union(files.config)
        kind: Any = diffusers.ControlNetUnionModel if union else diffusers.ControlNetModel
        if files.folder is not None:
            network = self._read(kind, files.folder, torch.float16, source, source.network)
        else:
            network = self._controlnet_alone(kind, files, source, unet)
        if any(getattr(network.config, name) != getattr(unet.config, name) for name in controlnet.SHARED):
            raise ModelUnavailable("model_unavailable.controlnet_unet")
        return network

    def _controlnet_alone(self, kind: Any, files: ControlNetFiles, source: WeightSource, unet: Any) -> Any:
        """Load a ControlNet whose config is not where diffusers looks, or that has none and then matches the UNet."""
        config = dict(files.config)
        if "block_out_channels" not in config:
            config = controlnet.config_like(unet, kind) | config
        with torch.device("meta"):
            network = kind.from_config(config)
        place, dtype = self._place(source.network), self._run_dtype(torch.float16)
        tensors: dict[str, torch.Tensor] = {}
        for path in files.files:
            tensors |= _tensors(path, place, dtype)
        return _filled(network, tensors, source, source.network, strict=False)

    def _vae(self, source: WeightSource) -> Any:
        """Load a separate VAE from a folder, or from a file with the original's or diffusers' names."""
        where = _path(source)
        if where.suffix != ".safetensors":
            vae = self._read(diffusers.AutoencoderKL, where, _vae_dtype(where), source, "vae")
        elif self.sdxl_configs is None:
            raise ModelUnavailable("model_unavailable.vae_configs")
        else:
            with _whole_or_error(source, "vae"):
                vae = diffusers.AutoencoderKL.from_single_file(
                    str(where),
                    config=str(self.sdxl_configs),
                    subfolder="vae",
                    local_files_only=True,
                    torch_dtype=self._run_dtype(_vae_dtype(where.parent)),
                    device=self._place("vae"),
                )
            _whole(vae, source, "vae")
        self._step()
        return vae

    def _network(self, source: WeightSource, name: str, dtype: torch.dtype, *, slot: str | None = None) -> Any:
        """Load a component of a folder as the network `slot` (default: its own name)."""
        folder = _path(source)
        taken = slot or name
        module = self._read(_class(*components(folder)[name]), folder / name, dtype, source, taken)
        self._step()
        return self._as_it_runs(module, taken)

    def _read(self, kind: Any, folder: Path, dtype: torch.dtype, source: WeightSource, name: str) -> Any:
        ours = kind.__module__.startswith("transformers")
        options: dict[str, Any] = {
            # transformers 5 calls it dtype, diffusers torch_dtype.
            "dtype" if ours else "torch_dtype": self._run_dtype(dtype),
            "use_safetensors": True,
            "local_files_only": True,
            "low_cpu_mem_usage": True,
            "output_loading_info": True,
        }
        if ours:
            options["ignore_mismatched_sizes"] = True  # reported below, like missing ones
        if variant := variant_of(folder, half=self.cuda):
            options["variant"] = variant
        if (place := self._place(name)) is not None:
            options["device_map"] = {"": place}
        with _whole_or_error(source, name):
            module, said = kind.from_pretrained(str(folder), **options)
        if said["missing_keys"] or said["mismatched_keys"]:
            # transformers initialises these randomly.
            raise _incomplete(source, name)
        return _whole(module, source, name)

    def _place(self, name: str) -> torch.device | None:
        """Return the device to read a network to; a quantised one moves to the card layer by layer afterwards."""
        return self.card if self.on_card(name) and self._quantized(name) is None else None

    def _quantized(self, name: str) -> Quantized | None:
        return self.spec.quantize if name in DENOISERS else None

    def _as_it_runs(self, module: Any, name: str) -> Any:
        if (kind := self._quantized(name)) is not None:
            quantize(module, kind, self.card if self.on_card(name) else None)
        return module

    def _run_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if self.cuda else torch.float32

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
    name = _READ_AS.get(name, name)
    if name in CLASSES or (library == "diffusers" and name.endswith("Scheduler")):
        kind = getattr(_LIBRARIES.get(library), name, None)
        if kind is not None:
            return kind
    raise ModelUnavailable("model_unavailable.class", name=name[:60])


def _index(folder: Path) -> dict[str, Any]:
    return read_json(folder / "model_index.json")


def _path(source: WeightSource) -> Path:
    if source.path is None:
        raise ModelUnavailable("model_unavailable.not_here")
    return source.path


def _vae_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of an SDXL VAE on the GPU: float16 only if it was fixed not to overflow."""
    return torch.bfloat16 if read_json(folder / "config.json").get("force_upcast", True) else torch.float16


def _incomplete(source: WeightSource, name: str) -> ModelUnavailable:
    return ModelUnavailable("model_unavailable.incomplete", variable=source.variable, part=name)


def _tensors(
    path: Path,
    place: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    prefixes: tuple[str, ...] = ("",),
) -> dict[str, torch.Tensor]:
    """The tensors of a file, by name: those that begin with one of `prefixes`, each at its place once it is read.

    Without a `place` they are in the machine's memory, without a `dtype` in that of the file.
    """
    with safe_open(path, "pt") as file:
        return {
            key: file.get_tensor(key).to(device=place, dtype=dtype)
            for key in file.keys()  # noqa: SIM118 - not a dict
            if key.startswith(prefixes)
        }


def _filled(
    module: Any, tensors: Mapping[str, torch.Tensor], source: WeightSource, name: str, *, strict: bool = True
) -> Any:
    """Assign tensors to a network on `meta`; `strict`: refuse unknown tensors."""
    try:
        module.load_state_dict(tensors, strict=strict, assign=True)
    except RuntimeError as error:  # torch's: a tensor is missing, or of another shape
        raise _incomplete(source, name) from error
    return _whole(module.requires_grad_(False), source, name)


def _whole(module: Any, source: WeightSource, name: str) -> Any:
    """The network in evaluation mode, when each of its tensors holds numbers.

    Raises:
        ModelUnavailable: diffusers left one that is missing on `meta`.
    """
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise _incomplete(source, name)
    return module.eval()


@contextmanager
def _whole_or_error(source: WeightSource, name: str) -> Iterator[None]:
    """Translate diffusers' errors about missing or misshapen tensors in the body."""
    try:
        yield
    except NotImplementedError as error:  # torch: a tensor on the meta device has no data
        raise _incomplete(source, name) from error
    except ValueError as error:
        if "expected shape" in str(error):
            raise _incomplete(source, name) from error
        raise

"""Identifies a single-file SDXL checkpoint: how it was trained, what it lacks, or what it is instead.

Read from the names, shapes and types in the file's header (and its modelspec,
https://github.com/Stability-AI/ModelSpec), before any weight is loaded. A file that cannot run as it was trained has a
`problem`. Knows no variables and no places; imports no torch.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from worker.core.messages import text
from worker.engine.models.checkpoint import header, metadata

Header = Mapping[str, Mapping[str, Any]]
Options = tuple[tuple[str, Any], ...]
"""Entries of a scheduler's config that differ from SDXL base's, including `_class_name`."""

_UNET = "model.diffusion_model."
_CROSS_ATTENTION = "transformer_blocks.0.attn2.to_k.weight"
_LORA = ("lora_up.", "lora_down.", "lora_A.", "lora_B.", "lora_te", "lora_unet", ".hada_w1", ".lokr_w1")
_FLUX = ("double_blocks.0.", "single_blocks.0.")
_PLAYGROUND_SCALE = 0.5  # of its VAE: https://huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic


@dataclass(frozen=True, slots=True)
class Identity:
    """One file's identity; scheduler and VAE entries only if they differ from SDXL base's."""

    problem: str | None = None
    """Why it cannot run, as the end of a sentence about the file."""
    scheduler: Options = ()
    vae: Options = ()
    """Entries of the VAE's config."""
    has_vae: bool = True


@lru_cache(maxsize=64)
def _identify(path: Path, _size: int, _changed: int) -> Identity:
    entries = header(path)
    if not entries:
        return Identity(_no_header(path))
    if problem := _problem(entries):
        return Identity(problem)
    return Identity(
        scheduler=_scheduler(entries, path),
        vae=_vae(entries, path),
        has_vae=_begins("first_stage_model.", "vae.")(entries),
    )


def identify(path: Path) -> Identity:
    """Return the identity of a file. Its header is read again only after the file has changed.

    Raises:
        OSError: the file does not exist.
    """
    state = path.stat()
    return _identify(path, state.st_size, state.st_mtime_ns)


def _no_header(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"GGUF"):
        return text("model_unavailable.is_gguf")
    # A bare pickle, and PyTorch's archive of one.
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK\x03\x04")):
        return text("model_unavailable.is_pickle")
    return text("model_unavailable.is_no_safetensors")


def _problem(entries: Header) -> str | None:
    """Return what these tensors are instead of a whole SDXL checkpoint; None: they are one."""
    for found, problem in _PROBLEMS:
        if found(entries):
            return problem
    return None


def _has(*parts: str) -> Callable[[Header], bool]:
    return lambda entries: any(part in name for name in entries for part in parts)


def _begins(*starts: str) -> Callable[[Header], bool]:
    return lambda entries: any(name.startswith(starts) for name in entries)


def _input_channels(*counts: int) -> Callable[[Header], bool]:
    return lambda entries: _shape(entries, _UNET + "input_blocks.0.0.weight", 1) in counts


def _text_width(entries: Header) -> int | None:
    """Return the text width of the UNet's first cross-attention: SDXL 2048, refiner 1280, SD 2 1024, SD 1 768."""
    names = (name for name in entries if name.startswith(_UNET) and name.endswith(_CROSS_ATTENTION))
    return next((_shape(entries, name, 1) for name in names), None)


def _shape(entries: Header, name: str, axis: int) -> int | None:
    shape = entries.get(name, {}).get("shape", ())
    return int(shape[axis]) if len(shape) > axis else None


# The first match identifies the file.
_PROBLEMS: tuple[tuple[Callable[[Header], bool], str], ...] = (
    (_has(*_LORA), text("model_unavailable.is_lora")),
    (_begins("control_model.", "controlnet_cond_embedding."), text("model_unavailable.is_controlnet")),
    (_has("joint_blocks.0."), text("model_unavailable.is_another", model="Stable Diffusion 3")),
    (_has(*_FLUX), text("model_unavailable.is_another", model="Flux")),
    (_has("head.modulation"), text("model_unavailable.is_another", model="Wan")),
    (lambda entries: _text_width(entries) == 768, text("model_unavailable.is_another", model="Stable Diffusion 1")),
    (lambda entries: _text_width(entries) == 1024, text("model_unavailable.is_another", model="Stable Diffusion 2")),
    (lambda entries: _text_width(entries) == 1280, text("model_unavailable.is_refiner")),
    (_input_channels(9), text("model_unavailable.inpainting_only")),
    (_input_channels(8), text("model_unavailable.is_edit")),
    # Scaled values: read without their scales they would be noise.
    (_has("scaled_fp8", ".scale_weight"), text("model_unavailable.is_scaled")),
    (lambda entries: not _begins(_UNET)(entries), text("model_unavailable.is_part")),
    (
        lambda entries: not all(_begins(f"conditioner.embedders.{k}.")(entries) for k in (0, 1)),
        text("model_unavailable.is_without_encoders"),
    ),
)


def _scheduler(entries: Header, path: Path) -> Options:
    if "edm_vpred.sigma_max" in entries:
        # https://huggingface.co/stabilityai/cosxl
        return (
            ("_class_name", "EDMEulerScheduler"),
            ("sigma_min", _numbers(entries, path, "edm_vpred.sigma_min", (0.002,))[0]),
            ("sigma_max", _numbers(entries, path, "edm_vpred.sigma_max", (120.0,))[0]),
            ("sigma_data", 1.0),
            ("sigma_schedule", "exponential"),
            ("prediction_type", "v_prediction"),
        )
    if "edm_mean" in entries:
        # https://huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic, scheduler/scheduler_config.json
        return (("_class_name", "EDMDPMSolverMultistepScheduler"), ("prediction_type", "epsilon"))
    options: dict[str, Any] = {}
    if "v_pred" in entries or metadata(path).get("modelspec.prediction_type") == "v":
        options["prediction_type"] = "v_prediction"
    if "ztsnr" in entries:
        # https://arxiv.org/abs/2305.08891: the schedule ends in pure noise, so sampling must start there.
        options |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return tuple(options.items())


def _vae(entries: Header, path: Path) -> Options:
    if "edm_mean" not in entries or "edm_std" not in entries:
        return ()
    mean, deviation = (_numbers(entries, path, name, ()) for name in ("edm_mean", "edm_std"))
    return (("latents_mean", mean), ("latents_std", deviation), ("scaling_factor", _PLAYGROUND_SCALE))


def _numbers(entries: Header, path: Path, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return the values of a small tensor."""
    entry = entries.get(name, {})
    kind = {"F64": "d", "F32": "f", "F16": "e"}.get(entry.get("dtype", ""))
    if kind is None:
        return default
    start, end = entry["data_offsets"]
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length + start)
        return tuple(value for (value,) in struct.iter_unpack(f"<{kind}", file.read(end - start)))

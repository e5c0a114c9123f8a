"""Identifies an upscaler's architecture by the names and shapes of its tensors. Imports no torch.

Supports two architectures, under the tensor names in use: RRDBNet of ESRGAN and Real-ESRGAN
(https://arxiv.org/abs/1809.00219, https://arxiv.org/abs/2107.10833), and SRVGGNetCompact of Real-ESRGAN's small models.
The library for this, spandrel, depends on torchvision, which neither architecture needs.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worker.core.messages import text
from worker.engine.models.checkpoint import header
from worker.engine.models.weight_files import is_whole

Tensors = Mapping[str, Mapping[str, Any]]
"""Tensor name -> its entry in a safetensors header."""

_WRAPPERS = ("params_ema.", "params.", "state_dict.", "model_state_dict.", "module.", "generator.", "netG.")
"""Prefixes that programs put before tensor names."""
_ORIGINAL = re.compile(r"model\.1\.sub\.(\d+)\.(RDB\d\.conv\d)\.0\.(weight|bias)")
_MIDDLE = {
    "RRDB_trunk": "body",
    "trunk_conv": "conv_body",
    "upconv1": "conv_up1",
    "upconv2": "conv_up2",
    "HRconv": "conv_hr",
}
"""Names of https://github.com/xinntao/ESRGAN -> those of Real-ESRGAN."""
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"model\.diffusion_model\.", "a whole Stable Diffusion checkpoint"),
    (r"lora_|.*\.lora_(A|B|up|down)", "a LoRA"),
    (r".*overlap_attn\.", "a HAT upscaler"),
    (r".*attn\.logit_scale", "a Swin2SR upscaler"),
    (r"layers\.\d+\.residual_group\.blocks\.", "a SwinIR upscaler"),
    (r"layers\.\d+\.blocks\.\d+\.attn\.", "a DAT upscaler"),
    (r"residual_layer\.\d+\.", "an OmniSR upscaler"),
    (r"block_1\.c1_r\.", "a SPAN upscaler"),
    (r"feats\.\d+\.", "a PLKSR upscaler"),
    (r"m_head\.", "a SCUNet or DRUNet restorer"),
    (r"unet1\.", "a CUGAN upscaler"),
    (r"head\.0\.|sub_mean\.", "an EDSR upscaler"),
    (r"stylegan_decoder\.", "a GFPGAN face restorer"),
    (r"(encoder|decoder)\.(mid|down|up)", "a VAE"),
)
"""Name prefixes of other architectures -> what they are."""


@dataclass(frozen=True, slots=True)
class Layout:
    """An upscaler's architecture and sizes."""

    kind: Literal["rrdb", "compact"]
    scale: int
    """Enlargement of a side."""
    features: int
    blocks: int
    """RRDB blocks, or convolutions between the first and the last."""
    growth: int = 0
    """Channels that each convolution of a dense block adds."""
    unshuffle: int = 1
    """Pixel-unshuffle factor of the input (Real-ESRGAN's x2 and x1)."""
    doublings: int = 0
    """How often an RRDBNet doubles the size."""

    @property
    def flop_a_pixel(self) -> float:
        """FLOP of the convolutions per input pixel."""
        if self.kind == "compact":
            middle = self.blocks * self.features**2 + self.features * 3 * (1 + self.scale**2)
            return 2.0 * 9 * middle
        f, g = self.features, self.growth
        dense: int = sum((f + k * g) * (g if k < 4 else f) for k in range(5))
        folded = 9 * (3 * self.unshuffle**2 * f + 3 * self.blocks * dense + f * f)
        enlarged: int = sum(9 * f * f * 4**k for k in range(1, self.doublings + 1))
        last: int = 9 * (f * f + 3 * f) * 4**self.doublings
        return 2.0 * (folded + enlarged + last) / self.unshuffle**2


DEMO = Layout("compact", 4, 27, 0)
"""The layout of `upscaler.demo_weights`, which are computed on loading."""
USUAL = Layout("rrdb", 4, 64, 23, 32, 1, 2)
"""Real-ESRGAN's x4plus; assumed for a file that is not on this machine yet."""


class NotAnUpscaler(ValueError):
    """A file is not a usable upscaler; the message is the end of a sentence about it."""


def file_in(path: Path) -> Path:
    """Return the single weights file of a folder, or the file itself.

    Raises:
        NotAnUpscaler: there is none, or there are several.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        raise NotAnUpscaler(text("model_unavailable.has_several_files", names=", ".join(one.name for one in found[:5])))
    if not found:
        pickled = any(one.suffix == ".pth" for one in path.iterdir())
        raise NotAnUpscaler(text("model_unavailable." + ("is_upscaler_pickle" if pickled else "no_weights")))
    if not is_whole(found[0]):
        raise NotAnUpscaler(text("model_unavailable.cut_off"))
    return found[0]


def read(path: Path) -> Layout:
    """The layout of a safetensors file.

    Raises:
        NotAnUpscaler: it is none that is run here.
    """
    if path.suffix in {".pth", ".pt", ".ckpt", ".bin"}:
        raise NotAnUpscaler(text("model_unavailable.is_upscaler_pickle"))
    tensors = header(path)
    if not tensors:
        raise NotAnUpscaler(text("model_unavailable.is_no_safetensors"))
    return layout(tensors)


def problem(path: Path) -> str | None:
    """Return why a file, or the one in a folder, is not an upscaler, as the end of a sentence; None: it is one."""
    try:
        read(file_in(path))
    except NotAnUpscaler as error:
        return str(error)
    return None


def layout(tensors: Tensors) -> Layout:
    """The layout that tensors of these names and shapes make up.

    Raises:
        NotAnUpscaler: none that is run here, or one that lacks tensors.
    """
    shapes = {ours: tuple(tensors[name].get("shape", ())) for name, ours in renamed(tensors).items()}
    if "conv_first.weight" in shapes and any(name.startswith("body.0.rdb1.") for name in shapes):
        found = _rrdb(shapes)
    elif len(shapes.get("body.0.weight", ())) == 4 and len(shapes.get("body.1.weight", ())) == 1:
        found = _compact(shapes)
    else:
        raise NotAnUpscaler(text("model_unavailable.is_no_upscaler", what=_told(tensors)))
    if found is None or found.scale < 2 or found.scale > 8:
        raise NotAnUpscaler(text("model_unavailable.is_no_upscaler", what=_told(shapes)))
    return found


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Rename a file's tensors to Real-ESRGAN's names."""
    names = list(names)
    plain = dict(zip(names, map(_unwrapped, names), strict=True))
    original = {name for name in plain.values() if _ORIGINAL.fullmatch(name)}
    if original:
        return {name: _of_original(ours, list(plain.values())) for name, ours in plain.items()}
    return {name: _of_middle(ours) for name, ours in plain.items()}


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _of_middle(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{_MIDDLE.get(first, first)}.{rest.replace('RDB', 'rdb')}" if first in _MIDDLE else name


def _of_original(name: str, names: list[str]) -> str:
    """Rename the tensors of ESRGAN's first release, which numbers the layers of one sequence."""
    if match := _ORIGINAL.fullmatch(name):
        return f"body.{match[1]}.{match[2].lower()}.{match[3]}"
    tops = sorted({int(found[1]) for one in names if (found := re.fullmatch(r"model\.(\d+)\.weight", one))})
    last = [f"conv_up{k}" for k in range(1, len(tops) - 2)] + ["conv_hr", "conv_last"]
    called = {f"model.{top}": ours for top, ours in zip(tops, ["conv_first", *last], strict=False)}
    head, _, end = name.rpartition(".")
    if re.fullmatch(r"model\.1\.sub\.\d+", head):
        return f"conv_body.{end}"
    return f"{called.get(head, head)}.{end}"


def _rrdb(shapes: Mapping[str, tuple[int, ...]]) -> Layout | None:
    features, channels = shapes["conv_first.weight"][:2]
    growth = shapes.get("body.0.rdb1.conv1.weight", (0,))[0]
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
    doublings = sum(f"conv_up{k}.weight" in shapes for k in range(1, 4))
    unshuffle = math.isqrt(channels // 3)
    if channels != 3 * unshuffle**2 or 2**doublings % unshuffle or shapes.get("conv_last.weight", (0,))[0] != 3:
        return None
    return Layout("rrdb", 2**doublings // unshuffle, features, blocks, growth, unshuffle, doublings)


def _compact(shapes: Mapping[str, tuple[int, ...]]) -> Layout | None:
    features, channels = shapes["body.0.weight"][:2]
    last = max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
    out = shapes.get(f"body.{last}.weight", (0,))[0]
    scale = math.isqrt(out // 3)
    return Layout("compact", scale, features, (last - 2) // 2) if (channels, out) == (3, 3 * scale**2) else None


def _told(names: Iterable[str]) -> str:
    names = list(names)
    for form, what in _OTHERS:
        if any(re.match(form, _unwrapped(name)) for name in names):
            return what
    return text("model_unavailable.is_unknown_network")

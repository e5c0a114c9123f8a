"""IP-Adapter: pictures as prompts beside the text (https://arxiv.org/abs/2308.06721).

The keys and values that a picture adds to a cross-attention are the same at every step. So an adapter and its image
encoder run once per job, beside the text encoders, and need not be on the GPU while the UNet denoises. Meanwhile the
UNet has processors with these keys and values, and afterwards its own again, as the same objects. It never gets a
module that a LoRA, an offloader or a state dict could see.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from worker.engine.resize import middle

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Each (2, tokens, width of the attention): for an empty picture, then for the picture."""

STYLE_LAYERS = "up_blocks.0.attentions.1."
"""The cross-attentions that carry a picture's style but not its content: InstantStyle
(https://arxiv.org/abs/2404.02733, section 3.3; its code and diffusers' documentation name the block)."""
_HEAD = 64
"""Head width in the resampler of IP-Adapter Plus (tencent-ailab/IP-Adapter, `resampler.py`)."""
_PLUS = {
    "0.norm1": "ln0",
    "0.norm2": "ln1",
    "0.to_q": "attn.to_q",
    "0.to_k": "attn.to_k",
    "0.to_v": "attn.to_v",
    "0.to_out": "attn.to_out.0",
    "1.0": "ff.0",
    "1.1": "ff.1.net.0.proj",
    "1.3": "ff.1.net.2",
}
"""Names in a layer of the published resampler -> diffusers' names."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The effect of one picture on a job."""

    added: Mapping[str, KeysValues]
    """Cross-attention -> the picture's keys and values."""
    scale: float
    type: Literal["subject", "style"]

    def reaches(self, attention: str) -> bool:
        """Whether this attention uses the picture: all do, for a style only those that carry it."""
        return self.scale != 0 and (self.type == "subject" or attention.startswith(STYLE_LAYERS))


class IpAdapter(torch.nn.Module):
    """An image encoder, the projection to a few tokens, and each cross-attention's key and value layers."""

    def __init__(
        self,
        encoder: Any,
        projection: torch.nn.Module,
        layers: Iterable[tuple[str, torch.nn.Module, torch.nn.Module]],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.attentions, keys, values = zip(*layers, strict=True)
        self.to_k = torch.nn.ModuleList(keys)
        self.to_v = torch.nn.ModuleList(values)
        size = encoder.config.image_size
        self._processor = CLIPImageProcessor(size=size, crop_size=size)

    def forward(self, pixels: torch.Tensor) -> dict[str, KeysValues]:
        """Return each attention's keys and values for `pixels` from `pixels_of`."""
        if isinstance(self.projection, ImageProjection):
            seen = self.encoder(pixels).image_embeds
            nothing = torch.zeros_like(seen)
        else:
            seen = self._inside(pixels)
            nothing = self._inside(torch.zeros_like(pixels))
        tokens = self.projection(torch.cat([nothing, seen]))
        layers = zip(self.attentions, self.to_k, self.to_v, strict=True)
        return {name: (to_k(tokens), to_v(tokens)) for name, to_k, to_v in layers}

    def pixels_of(self, picture: Image.Image, device: torch.device) -> torch.Tensor:
        """Return the centred square of the picture in the encoder's normalisation: (1, 3, side, side)."""
        pixels: torch.Tensor = self._processor(middle(picture).convert("RGB"), return_tensors="pt").pixel_values
        return pixels.to(device, self.encoder.dtype)

    def _inside(self, pixels: torch.Tensor) -> torch.Tensor:
        inside: torch.Tensor = self.encoder(pixels, output_hidden_states=True).hidden_states[-2]
        return inside


@contextmanager
def referenced(unet: Any, references: Sequence[Reference]) -> Iterator[None]:
    """Let the UNet use the pictures in the body; its own processors are restored however the body ends."""
    own: list[tuple[Any, Any]] = []
    try:
        for name, attention in cross_attentions(unet) if references else ():
            added = [(each.scale, *each.added[name]) for each in references if each.reaches(name)]
            if added:
                own.append((attention, attention.processor))
                attention.set_processor(_Seeing(added))
        yield
    finally:
        for attention, processor in own:
            attention.set_processor(processor)


def cross_attentions(unet: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and module of each cross-attention, in the order in which published adapters number them."""
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            attention = name.removesuffix(".processor")
            yield attention, unet.get_submodule(attention)


class _Seeing:
    """diffusers' `AttnProcessor2_0`, plus the pictures' attention before the output projection.

    Bit-equal to `IPAdapterAttnProcessor2_0` for SDXL's cross-attentions.
    """

    def __init__(self, added: Sequence[tuple[float, torch.Tensor, torch.Tensor]]) -> None:
        self._added = added

    def __call__(
        self, attention: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_kwargs: Any
    ) -> torch.Tensor:
        batch = len(hidden_states)

        def in_heads(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.view(batch, -1, attention.heads, tensor.shape[-1] // attention.heads).transpose(1, 2)

        def attend(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            seen = torch.nn.functional.scaled_dot_product_attention(query, in_heads(keys), in_heads(values))
            return seen.transpose(1, 2).flatten(2)

        query = in_heads(attention.to_q(hidden_states))
        result = attend(attention.to_k(encoder_hidden_states), attention.to_v(encoder_hidden_states))
        for scale, keys, values in self._added:
            # Without guidance the batch has no unconditional half.
            result = result + scale * attend(keys[-batch:], values[-batch:])
        last, dropout = attention.to_out
        projected: torch.Tensor = dropout(last(result))
        return projected


def assembled(tensors: Mapping[str, torch.Tensor], encoder: Any, unet: Any) -> IpAdapter:
    """Build the adapter of a published file, IP-Adapter or IP-Adapter Plus for SDXL.

    `tensors`: `image_proj.*`, and `ip_adapter.<n>.to_k_ip.weight` and `to_v_ip`, where n counts the UNet's attentions.

    Raises:
        KeyError: a tensor is missing; the message is its name.
        RuntimeError: a tensor's shape does not fit the UNet or the encoder.
    """
    found = _under(tensors, "image_proj.")
    projection = _resampler(found) if "latents" in found else _linear(found)
    layers = []
    for index, name in enumerate(unet.attn_processors):
        if not name.endswith("attn2.processor"):
            continue
        attention = name.removesuffix(".processor")
        pair = []
        for which in ("to_k", "to_v"):
            weight, own = tensors[f"ip_adapter.{index}.{which}_ip.weight"], unet.get_submodule(f"{attention}.{which}")
            own = getattr(own, "base_layer", own)
            if weight.shape != own.weight.shape:
                raise RuntimeError(f"{attention}.{which}: {tuple(weight.shape)}")
            pair.append(_projecting(weight))
        layers.append((attention, *pair))
    return IpAdapter(encoder, projection, layers).eval()


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _projecting(weight: torch.Tensor) -> torch.nn.Linear:
    with torch.device("meta"):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def _linear(found: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    width = found["norm.weight"].shape[0]
    tokens, embedded = found["proj.weight"].shape[0] // width, found["proj.weight"].shape[1]
    renamed = {name.replace("proj.", "image_embeds."): tensor for name, tensor in found.items()}
    with torch.device("meta"):
        projection = ImageProjection(embedded, width, tokens)
    return _filled(projection, renamed)


def _resampler(found: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        match = re.fullmatch(r"(layers\.\d+)\.(\d\.\w+?)\.(weight|bias)", name)
        if match is None:
            renamed[name] = tensor
        elif match[2] == "0.to_kv":
            for which, half in zip(("0.to_k", "0.to_v"), tensor.chunk(2), strict=True):
                renamed[f"{match[1]}.{_PLUS[which]}.{match[3]}"] = half
        else:
            renamed[f"{match[1]}.{_PLUS[match[2]]}.{match[3]}"] = tensor
    hidden, embedded = found["proj_in.weight"].shape
    with torch.device("meta"):
        projection = IPAdapterPlusImageProjection(
            embed_dims=embedded,
            output_dims=found["proj_out.weight"].shape[0],
            hidden_dims=hidden,
            depth=len({name.split(".")[1] for name in found if name.startswith("layers.")}),
            dim_head=_HEAD,
            heads=found["layers.0.0.to_q.weight"].shape[0] // _HEAD,
            num_queries=found["latents"].shape[1],
            ffn_ratio=found["layers.0.1.1.weight"].shape[0] / hidden,
        )
    return _filled(projection, renamed)


def _filled(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.requires_grad_(requires_grad=False)


def demo(unet: Any) -> IpAdapter:
    """Build a small deterministic demo adapter for this UNet: a picture has an effect, but no meaning.

    Keys and values use the UNet's own layers, with which the training of a published adapter begins
    (tencent-ailab/IP-Adapter, `tutorial_train_sdxl.py`); the projection of a picture is random, but fixed.
    """
    width = unet.config.cross_attention_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=32,
            initializer_factor=8.0,
        )
        encoder = CLIPVisionModelWithProjection(vision)
        projection = ImageProjection(32, width, 4)
        torch.nn.init.constant_(projection.norm.weight, 5.0)

    def copied(layer: torch.nn.Linear) -> torch.nn.Linear:
        return _projecting(layer.weight.detach().clone())

    layers = [(name, copied(attention.to_k), copied(attention.to_v)) for name, attention in cross_attentions(unet)]
    adapter = IpAdapter(encoder, projection, layers).eval().requires_grad_(requires_grad=False)
    return adapter.to(unet.device, unet.dtype)

"""Applies ControlNets to a UNet's calls (https://arxiv.org/abs/2302.05543).

A pre-forward hook of the UNet calls them with the UNet's arguments, so they work in every pipeline and at every size.
The results equal those of diffusers' ControlNet pipelines, bit for bit.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from diffusers import ControlNetModel, ControlNetUnionModel

from worker.core.types import ControlType
from worker.engine.adapters.control_pictures import control_picture
from worker.engine.models.control_types import UNION_MODES, is_union

if TYPE_CHECKING:
    from PIL import Image

    from worker.api.params import ControlParams, ImageParams
    from worker.core.types import Control, Sources

SHARED = ("in_channels", "block_out_channels", "cross_attention_dim", "layers_per_block")
"""Entries of a ControlNet's config that must equal those of its UNet."""
_DEMO_GAIN = 0.15
"""Standard deviation of the demo's weights where an untrained ControlNet has zeros, times the root of its inputs."""
_DEMO_CONTRAST = 0.3
"""Standard deviation of what the demo's picture embedding adds to the first hidden state for a noise picture."""

Residuals = tuple[list[torch.Tensor], torch.Tensor]
"""What is added to the UNet's hidden states: one tensor for each down block output, and one for the middle."""


class Controls:
    """The ControlNets of one job, and their pictures."""

    def __init__(
        self,
        params: "ImageParams",
        sources: "Sources",
        networks: Mapping[str, Any],
        control: "Control",
        *,
        factor: int,
        passes: Sequence[int],
        depth: "Callable[[Image.Image], Image.Image]",
    ) -> None:
        """`networks` are the loaded ones, by name; `factor` is the pixels per latent along a side.

        `passes` has the steps of each controlled pass; `depth` estimates a photo's depth, if a request needs it.
        """
        self._networks, self._factor = networks, factor
        self._entries: list[tuple[str, ControlParams, dict[tuple[int, int], torch.Tensor]]] = []
        sizes = [params.drawn_size]
        if params.draft is not None:
            sizes.append((params.draft.width, params.draft.height))
        for index, (entry, image) in enumerate(zip(params.controlnets or (), sources.controls, strict=True)):
            if not entry.conditioning_scale:
                continue
            if passes and not any(entry.counts(call, steps) for steps in passes for call in range(steps)):
                control.warn(
                    f"controlnets.{index}: has no effect; no step of {passes[-1]} lies between start_percentage "
                    f"{entry.start_percentage:g} and end_percentage {entry.end_percentage:g}"
                )
                continue
            field = f"controlnets.{index}.image_url"
            pictures = {
                size: _tensor(control_picture(image, entry, params, size, field=field, control=control, depth=depth))
                for size in dict.fromkeys(sizes)
            }
            name = next(name for name in (f"controlnet_{entry.type}", "controlnet") if name in networks)
            self._entries.append((name, entry, pictures))
        self._index = 0
        self._total: Callable[[], int] = lambda: 1

    @contextmanager
    def steering(self, unet: Any, total: Callable[[], int]) -> Iterator[None]:
        """Add the ControlNets' residuals to the UNet's calls in the body, which is one pass of `total` steps."""
        self._index, self._total = 0, total
        hook = unet.register_forward_pre_hook(self, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def __call__(self, _unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The pre-forward hook: return the UNet's arguments with the ControlNets' residuals."""
        call, calls = self._index, max(self._total(), 1)
        self._index += 1
        sample, timestep = args
        height, width = (side * self._factor for side in sample.shape[-2:])
        same = {name: kwargs[name] for name in ("encoder_hidden_states", "added_cond_kwargs")}
        added: Residuals | None = None
        for name in dict.fromkeys(name for name, _, _ in self._entries):
            mine = [(entry, pictures[width, height]) for own, entry, pictures in self._entries if own == name]
            if not any(entry.counts(call, calls) for entry, _ in mine):
                continue
            network = functools.partial(self._networks[name], sample, timestep, **same, return_dict=False)
            shown = [
                _Shown(
                    picture.to(sample.device, sample.dtype).expand(len(sample), -1, -1, -1),
                    entry.conditioning_scale if entry.counts(call, calls) else 0.0,
                    entry.type,
                )
                for entry, picture in mine
            ]
            if is_union(config := self._networks[name].config):
                added = _sum(added, _called_once(network, shown, config.num_control_type))
                continue
            for one in shown:
                if one.scale:
                    added = _sum(added, network(controlnet_cond=one.picture, conditioning_scale=one.scale))
        if added is None:
            return args, kwargs
        down, middle = added
        return args, kwargs | {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class _Shown(NamedTuple):
    """A control picture in one call of a ControlNet."""

    picture: torch.Tensor
    """(batch, 3, height, width), 0 ... 1."""
    scale: float
    """0 outside its span of the steps."""
    type: ControlType


def _called_once(network: Callable[..., Residuals], shown: Sequence[_Shown], types: int) -> Residuals:
    """Call a union, which knows `types` types, with all its pictures at once: it weights them itself."""
    modes, like = [UNION_MODES[one.type] for one in shown], shown[0].picture
    asked = torch.zeros(types).scatter_(0, torch.tensor(modes), 1)[None].to(like).repeat(len(like), 1)
    return network(
        controlnet_cond=[one.picture for one in shown],
        conditioning_scale=[one.scale for one in shown],
        control_type=asked,
        control_type_idx=modes,
    )


def _sum(found: Residuals | None, more: Residuals) -> Residuals:
    if found is None:
        return more
    return [one + other for one, other in zip(found[0], more[0], strict=True)], found[1] + more[1]


def _tensor(picture: Any) -> torch.Tensor:
    """(1, 3, height, width), 0 ... 1."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255.0).permute(2, 0, 1)[None].contiguous()


def config_like(unet: Any, kind: Any) -> dict[str, Any]:
    """Return the config of a ControlNet of this class for this UNet, with the usual picture embedding."""
    with torch.device("meta"):
        network: Any = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    names = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in network.config.items() if name in names}


def demo(unet: Any, *, union: bool) -> torch.nn.Module:
    """Build a demo ControlNet from the UNet's own weights (https://arxiv.org/abs/2302.05543, section 3.1).

    It has small numbers where training begins with zeros.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = ControlNetModel.from_unet(unet)
        if union:
            # `from_unet` knows only SDXL's widths.
            width: int = unet.config.block_out_channels[0]
            kind: Any = ControlNetUnionModel
            own = {"num_control_type": 8, "num_trans_channel": width, "num_proj_channel": width}
            plain, network = network, kind(**config_like(unet, kind) | own)
            network.load_state_dict(plain.state_dict(), strict=False)
        for weight in network.parameters():
            if weight.dim() == 4 and not weight.any():
                torch.nn.init.normal_(weight, std=_DEMO_GAIN / weight[0].numel() ** 0.5)
        with torch.no_grad():
            reader = network.controlnet_cond_embedding
            contrast = reader(torch.rand(1, 3, 128, 128)).std(dim=(2, 3)).mean()
            reader.conv_out.weight.mul_(_DEMO_CONTRAST / contrast)
    first = next(unet.parameters())
    module: torch.nn.Module = network.to(first.device, first.dtype).eval().requires_grad_(False)
    return module

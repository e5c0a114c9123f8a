"""The upscaler networks RRDBNet and SRVGGNetCompact, and demo weights in their layout.

Knows the layouts of `upscaler_file`; knows no tiles and no pictures.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.engine.models.upscaler_file import Layout, layout, renamed

_SLOPE = 0.2
"""Slope of the leaky ReLUs, and residual scaling (https://arxiv.org/abs/1809.00219, section 3.1)."""


class _Dense(nn.Module):
    """Five densely connected convolutions."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for k in range(5):
            out = growth if k < 4 else features
            self.add_module(f"conv{k + 1}", nn.Conv2d(features + k * growth, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for name, conv in self.named_children():
            made = conv(seen)
            if name != "conv5":
                seen = torch.cat((seen, functional.leaky_relu(made, _SLOPE)), 1)
        result: Tensor = x + _SLOPE * made
        return result


class _Block(nn.Module):
    """A residual block of three dense blocks (RRDB)."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(features, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + _SLOPE * made


class Upscaler(nn.Module):
    """(1, 3, h, w) in 0 ... 1 -> (1, 3, scale x h, scale x w); `h` and `w` are multiples of `layout.unshuffle`."""

    layout: Layout


class RrdbNet(Upscaler):
    """ESRGAN's and Real-ESRGAN's generator: features at the picture's size, doubled by nearest neighbours."""

    def __init__(self, found: Layout) -> None:
        super().__init__()
        self.layout, features = found, found.features
        self.conv_first = nn.Conv2d(3 * found.unshuffle**2, features, 3, padding=1)
        self.body = nn.Sequential(*(_Block(features, found.growth) for _ in range(found.blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self._doubling = [f"conv_up{k + 1}" for k in range(found.doublings)]
        for name in self._doubling:
            self.add_module(name, nn.Conv2d(features, features, 3, padding=1))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch of one."""
        first = self.conv_first(functional.pixel_unshuffle(x, self.layout.unshuffle))
        y = first + self.conv_body(self.body(first))
        for name in self._doubling:
            y = functional.leaky_relu(self.get_submodule(name)(functional.interpolate(y, scale_factor=2)), _SLOPE)
        made: Tensor = self.conv_last(functional.leaky_relu(self.conv_hr(y), _SLOPE))
        return made


class CompactNet(Upscaler):
    """Real-ESRGAN's small networks: a row of convolutions at the picture's size, added to its nearest neighbours."""

    def __init__(self, found: Layout) -> None:
        super().__init__()
        self.layout, features = found, found.features
        body: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(found.blocks):
            body += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        self.body = nn.Sequential(*body, nn.Conv2d(features, 3 * found.scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch of one."""
        scale = self.layout.scale
        return functional.pixel_shuffle(self.body(x), scale) + functional.interpolate(x, scale_factor=scale)


def network(tensors: Mapping[str, Tensor]) -> Upscaler:
    """Build the network of a file's tensors, in float32 on the CPU.

    Raises:
        NotAnUpscaler: neither of the two architectures.
        RuntimeError: a tensor is missing or has another shape.
    """
    found = layout({name: {"shape": tensor.shape} for name, tensor in tensors.items()})
    with torch.device("meta"):
        made: Upscaler = RrdbNet(found) if found.kind == "rrdb" else CompactNet(found)
    ours = renamed(tensors)
    made.load_state_dict({ours[name]: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return made.eval().requires_grad_(requires_grad=False)


DEMO_SCALE = 4
_SHARPNESS = -0.75
"""The cubic kernel's slope at distance 1: OpenCV's, slightly sharper than Catmull-Rom's -0.5."""


def demo_weights() -> dict[str, Tensor]:
    """Compute weights of a SRVGGNetCompact that enlarges four times by cubic convolution.

    Keys (1981), https://doi.org/10.1109/TASSP.1981.1163711, equation 4. The first convolution passes on a pixel and its
    eight neighbours; the last one weighs five rows and columns, minus the nearest neighbour that the network adds.
    """
    scale, taps = DEMO_SCALE, range(-2, 3)
    lines = torch.zeros(scale, 5)
    for phase in range(scale):
        for tap in taps:
            lines[phase, tap + 2] = _cubic(abs(tap - ((phase + 0.5) / scale - 0.5)))
    first, last = torch.zeros(27, 3, 3, 3), torch.zeros(3 * scale**2, 27, 3, 3)
    for colour in range(3):
        for near in range(9):
            first[9 * colour + near, colour, near // 3, near % 3] = 1.0
        for phase in range(scale**2):
            weights = torch.outer(lines[phase // scale], lines[phase % scale])
            weights[2, 2] -= 1.0
            for down in taps:
                for right in taps:
                    # Within the reach of the last convolution; the rest comes from a neighbour.
                    y, x = max(-1, min(1, down)), max(-1, min(1, right))
                    near = 3 * (down - y + 1) + (right - x + 1)
                    last[scale**2 * colour + phase, 9 * colour + near, y + 1, x + 1] += weights[down + 2, right + 2]
    return {
        "body.0.weight": first,
        "body.0.bias": torch.zeros(27),
        "body.1.weight": torch.ones(27),
        "body.2.weight": last,
        "body.2.bias": torch.zeros(3 * scale**2),
    }


def _cubic(distance: float) -> float:
    a, d = _SHARPNESS, distance
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

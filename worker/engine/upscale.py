"""Enlarges pictures two or four times, with an upscaler's network in tiles, or with Lanczos.

Knows pixels, networks and tiles; knows no prompt and no denoising (`families.sdxl` draws details anew).
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from worker.core.errors import OutOfMemory
from worker.engine.memory.room import UPSCALE_TILES
from worker.engine.models.upscaler import Upscaler
from worker.engine.tiles import Grid
from worker.engine.vendor_errors import no_picture, release_memory, translated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.engine.tiles import Box

log = logging.getLogger(__name__)

OVERLAP = 16
"""Overlap of two tiles in source pixels: an upscaler's output depends on little beyond."""
_BORDER = 8
"""Padding on each side, in pixels, so that the convolutions' zero padding does not show at the edges."""


def resized(pixels: "NDArray[np.uint8]", width: int, height: int) -> "NDArray[np.uint8]":
    """Resize a picture with Lanczos."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def passes(scale: int, factor: int) -> int:
    """Return how often a network of this scale must run to enlarge a side at least `factor` times."""
    count = 1
    while scale**count < factor:
        count += 1
    return count


def upscaled(
    network: Upscaler,
    pixels: "NDArray[np.uint8]",
    factor: int,
    *,
    tile: int,
    device: torch.device,
    tell: Callable[[float], None],
) -> "NDArray[np.uint8]":
    """Enlarge `pixels`, (height, width, 3), `factor` times.

    A network of another scale runs until the picture is large enough, and the result is reduced. If a tile runs out of
    memory, everything is repeated with smaller tiles. `tell` gets the share done after each tile; it may raise.

    Raises:
        OutOfMemory: not even the smallest tile fits.
        Internal: the network's output is not finite, not even in float32.
    """
    height, width = pixels.shape[:2]
    rounds = passes(network.layout.scale, factor)
    for done in range(rounds):

        def share(part: float, before: int = done) -> None:
            tell((before + part) / rounds)

        pixels = _once(network, pixels, tile, device, share)
    return resized(pixels, factor * width, factor * height)


def _once(
    network: Upscaler, pixels: "NDArray[np.uint8]", tile: int, device: torch.device, tell: Callable[[float], None]
) -> "NDArray[np.uint8]":
    smaller = [size for size in UPSCALE_TILES if size < tile]
    while True:
        try:
            with translated("run"):
                return _in_tiles(network, pixels, tile, device, tell)
        except OutOfMemory:
            if not smaller:
                raise
            tile = smaller.pop(0)
        release_memory()
        log.warning("out of memory: upscaling in tiles of %d", tile, extra={"action": "out_of_memory", "tile": tile})


def _in_tiles(
    network: Upscaler, pixels: "NDArray[np.uint8]", tile: int, device: torch.device, tell: Callable[[float], None]
) -> "NDArray[np.uint8]":
    (height, width), scale, fold = pixels.shape[:2], network.layout.scale, network.layout.unshuffle
    beyond = [(_BORDER, _BORDER + -(side + 2 * _BORDER) % fold) for side in (height, width)]
    padded = np.pad(pixels, (*beyond, (0, 0)), mode="edge")
    grid = Grid.over((padded.shape[1], padded.shape[0]), (tile, tile), OVERLAP, fold)
    done = 0

    def paint(box: "Box") -> "NDArray[np.float32]":
        nonlocal done
        made = _tile(network, padded[box[1] : box[3], box[0] : box[2]], device)
        done += 1
        tell(done / len(grid))
        return made

    whole, edge = grid.painted(paint, scale=scale), _BORDER * scale
    return np.ascontiguousarray(whole[edge : edge + height * scale, edge : edge + width * scale])


@torch.no_grad()
def _tile(network: Upscaler, pixels: "NDArray[np.uint8]", device: torch.device) -> "NDArray[np.float32]":
    given = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)[None].float() / 255
    dtype = next(network.parameters()).dtype
    made = network(given.to(dtype))
    if dtype != torch.float32 and not torch.isfinite(made).all():
        # As with a VAE, an overflow in half precision is repeated in float32.
        network.float()
        try:
            made = network(given)
        finally:
            network.to(dtype)
    if not torch.isfinite(made).all():
        raise no_picture()
    tile: NDArray[np.float32] = made[0].float().clamp(0, 1).mul(255).permute(1, 2, 0).cpu().numpy()
    return tile

"""A picture -> the same, two or four times as large: by an upscaler's network in tiles, or by Lanczos.

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
"""Pixels of the smaller picture that two tiles share: what an upscaler makes of a pixel depends on little beyond."""
_BORDER = 8
"""Pixels by which a picture is continued on each side, so that the zeros beyond do not show at its edges."""


def resized(pixels: "NDArray[np.uint8]", width: int, height: int) -> "NDArray[np.uint8]":
    """A picture at another size, by Lanczos."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def passes(scale: int, factor: int) -> int:
    """How often a network of this scale has to run so that a side is at least `factor` times as long."""
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
    """`pixels`, (height, width, 3), at `factor` times its size.

    A network of another scale runs until the picture is at least as large, and the result is reduced. Where a tile runs
    out of memory, all is done in smaller ones. `tell` is called after each tile with the share done, and may raise.

    Raises:
        OutOfMemory: not even the smallest tile fits.
        Internal: the network gives no numbers, not even in float32.
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
        # As with a VAE, what overflows in two bytes a number is computed once more in four.
        network.float()
        try:
            made = network(given)
        finally:
            network.to(dtype)
    if not torch.isfinite(made).all():
        raise no_picture()
    tile: NDArray[np.float32] = made[0].float().clamp(0, 1).mul(255).permute(1, 2, 0).cpu().numpy()
    return tile

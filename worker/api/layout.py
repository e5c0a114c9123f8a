"""Computes where a client's picture lies in the output, and which part the model draws at which size.

Pure arithmetic over sizes and boxes. A box is (left, top, right, bottom) in pixels, as in Pillow. Knows no image data,
no request, and of a model only its native size.
"""

import math
from dataclasses import dataclass

from worker.api.sizes import shaped

Box = tuple[int, int, int, int]
Shares = tuple[float, float, float, float]
"""A box relative to a picture's sides, 0 ... 1."""

SHORTEST = 64
"""Shortest side, in pixels, that the client did not choose."""
LONGEST_IMAGE, LONGEST_CLIP = 2048, 1280
_CONTEXT = 32
"""Minimum context around the repainted area, in pixels; A1111's default."""
_CONTEXT_SHARE = 4
"""And at least one n-th of the area's longer side."""
_SMALLER = 1.1
"""A canvas with this many times fewer pixels than the native size is not drawn at its own size."""


@dataclass(frozen=True, slots=True)
class Native:
    """A model's native size, and the limits of its sides."""

    width: int
    height: int
    multiple: int
    longest: int

    @property
    def pixels(self) -> int:
        """The pixel limit of sizes that the client did not choose."""
        return self.width * self.height

    def shaped(self, width: float, height: float) -> tuple[int, int]:
        """Return the size in which the model draws this shape."""
        return shaped(width / height, self.pixels, multiple=self.multiple, least=SHORTEST, most=self.longest)

    def follow(self, side: int, ratio: float, most_pixels: int) -> int:
        """Return the second side of a picture from its first; `ratio` is second / first."""
        most = min(self.longest, most_pixels // side) // self.multiple
        wanted = round(side * ratio / self.multiple)
        return max(SHORTEST, min(wanted, most) * self.multiple)


@dataclass(frozen=True, slots=True)
class Borders:
    """Widths of the outpainted borders around the client's picture, in pixels of the output."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0

    def around(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of a picture of `size` with these borders."""
        return size[0] + self.left + self.right, size[1] + self.up + self.down

    def inside(self, size: tuple[int, int]) -> Box:
        """Return the box of the client's picture in an output of `size`."""
        return self.left, self.up, size[0] - self.right, size[1] - self.down

    def scaled(self, whole: tuple[int, int], size: tuple[int, int]) -> "Borders":
        """Return these borders after the picture with borders, `whole`, is scaled to `size`.

        The picture and each border keep at least one pixel, if there are enough.
        """

        def scaled(before: int, behind: int, old: int, new: int) -> tuple[int, int]:
            first = min(max(round(before * new / old), int(before > 0)), new - 1)
            return first, min(max(round(behind * new / old), int(behind > 0)), new - 1 - first)

        left, right = scaled(self.left, self.right, whole[0], size[0])
        up, down = scaled(self.up, self.down, whole[1], size[1])
        return Borders(left, right, up, down)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The part of the output that the model draws, if that is not the whole output at its own size."""

    width: int
    height: int
    """The size at which it is drawn; it is then scaled to its box."""
    box: Box


@dataclass(frozen=True, slots=True)
class Layout:
    """The output's size, its outpainted borders, and the part that the model draws."""

    width: int
    height: int
    outpaint: Borders | None = None
    drawn: Drawn | None = None


def followed(
    asked: tuple[int | None, int | None],
    native: Native,
    source: tuple[int, int] | None,
    *,
    most_pixels: int,
) -> tuple[int, int]:
    """Return the output's size: as requested; an open side follows the source's shape, or else the native size."""
    width, height = asked
    if source is None:
        return width or native.width, height or native.height
    if width is None and height is None:
        return native.shaped(*source)
    if height is None and width is not None:
        height = native.follow(width, source[1] / source[0], most_pixels)
    elif width is None and height is not None:
        width = native.follow(height, source[0] / source[1], most_pixels)
    assert width is not None and height is not None  # noqa: S101, PT018 - at least one was requested
    return width, height


def laid_out(
    asked: tuple[int | None, int | None],
    native: Native,
    source: tuple[int, int] | None,
    *,
    most_pixels: int,
    borders: Borders | None,
    only: Shares | None,
    blur: float,
) -> Layout:
    """Return the layout of an inpainting.

    Args:
        asked: requested width and height of the output; None: open.
        native: the model's native size.
        source: the size of the client's picture; None: not known yet, the native size is assumed.
        most_pixels: pixel limit of the output.
        borders: outpainted borders, in pixels of the client's picture.
        only: the box that the mask repaints, if only its surroundings are drawn; None: everything is drawn.
        blur: the mask's blur, in pixels of the output.
    """
    if source is None:
        width, height = followed(asked, native, None, most_pixels=most_pixels)
        drawn = None if only is None else _drawn(native, (width, height), (0, 0, width, height))
        return Layout(width, height, borders, drawn)
    whole = source if borders is None else borders.around(source)
    fits = max(whole) <= native.longest and whole[0] * whole[1] <= most_pixels
    kept = asked == (None, None) and borders is not None and fits
    if asked == (None, None) and only is not None:
        size = _at_most(whole, native.longest, most_pixels)
    else:
        size = whole if kept else followed(asked, native, whole, most_pixels=most_pixels)
    outpaint = None if borders is None else borders.scaled(whole, size)
    everything = (0, 0, *size)
    if only is not None:
        inside = everything if outpaint is None else outpaint.inside(size)
        repainted = _repainted(only, source, inside, blur)
        if outpaint is not None:
            repainted = _with_borders(repainted, outpaint, size)
        return Layout(*size, outpaint, _drawn(native, size, _with_context(repainted, size)))
    at_home = native.pixels / _SMALLER <= size[0] * size[1] <= native.pixels
    as_it_is = not kept or (at_home and not any(side % native.multiple for side in size))
    return Layout(*size, outpaint, None if as_it_is else _drawn(native, size, everything))


def _at_most(size: tuple[int, int], longest: int, pixels: int) -> tuple[int, int]:
    """Return a picture's own size, reduced to the limits."""
    scale = min(1.0, longest / max(size), math.sqrt(pixels / (size[0] * size[1])))
    # Rounded down, so that no limit is exceeded.
    return max(1, int(size[0] * scale + 1e-6)), max(1, int(size[1] * scale + 1e-6))


def _repainted(shares: Shares, source: tuple[int, int], inside: Box, blur: float) -> Box | None:
    """Return the repainted box in pixels of the output, for a picture that is scaled to cover `inside` and cropped."""
    if shares[0] >= shares[2] or shares[1] >= shares[3]:
        return None
    size = inside[2] - inside[0], inside[3] - inside[1]
    scale = max(size[0] / source[0], size[1] / source[1])
    reach = 3 * blur + 1

    def across(axis: int, share: float) -> float:
        return inside[axis] + size[axis] / 2 + (share - 0.5) * source[axis] * scale

    left, right = (across(0, share) for share in shares[::2])
    top, bottom = (across(1, share) for share in shares[1::2])
    box = (
        max(inside[0], math.floor(left - reach)),
        max(inside[1], math.floor(top - reach)),
        min(inside[2], math.ceil(right + reach)),
        min(inside[3], math.ceil(bottom + reach)),
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def _with_borders(box: Box | None, borders: Borders, size: tuple[int, int]) -> Box:
    """Return the smallest box that contains `box` and all borders."""
    inside = borders.inside(size)
    strips = [
        (borders.left, (0, 0, inside[0], size[1])),
        (borders.right, (inside[2], 0, *size)),
        (borders.up, (0, 0, size[0], inside[1])),
        (borders.down, (0, inside[3], *size)),
    ]
    boxes = [strip for width, strip in strips if width] + ([box] if box is not None else [])
    if not boxes:
        return (0, 0, *size)
    low, high = zip(*((b[:2], b[2:]) for b in boxes), strict=True)
    return min(b[0] for b in low), min(b[1] for b in low), max(b[0] for b in high), max(b[1] for b in high)


def _with_context(box: Box | None, size: tuple[int, int]) -> Box:
    """Return `box` with context, so that the drawing matches its surroundings; without a box, the whole output."""
    if box is None:
        return (0, 0, *size)
    context = max(_CONTEXT, math.ceil(max(box[2] - box[0], box[3] - box[1]) / _CONTEXT_SHARE))
    return (
        max(0, box[0] - context),
        max(0, box[1] - context),
        min(size[0], box[2] + context),
        min(size[1], box[3] + context),
    )


def _drawn(native: Native, size: tuple[int, int], box: Box) -> Drawn | None:
    """Grow the box within the output to the shape in which the model draws it, at about the native size."""
    width, height = native.shaped(box[2] - box[0], box[3] - box[1])
    left, right = _grown(box[0], box[2], (box[3] - box[1]) * width / height, size[0])
    top, bottom = _grown(box[1], box[3], (right - left) * height / width, size[1])
    grown = left, top, right, bottom
    return None if (width, height) == size and grown == (0, 0, *size) else Drawn(width, height, grown)


def _grown(low: int, high: int, wanted: float, most: int) -> tuple[int, int]:
    """Return the interval extended to a length of `wanted`, within 0 ... `most`."""
    length = min(most, max(high - low, round(wanted)))
    low = min(max(0, low - (length - (high - low)) // 2), most - length)
    return low, low + length

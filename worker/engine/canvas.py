"""Prepares the client's picture and mask for inpainting, and composites the drawing back into the picture.

Pure Pillow and NumPy; knows no models. Pixels with a weight of 0 keep the client's values exactly, those with 255 get
the drawing, and those between a mixture.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from worker.api.layout import Borders
from worker.engine import resize
from worker.media import masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.api.layout import Box
    from worker.api.params import ImageParams
    from worker.core.types import Control

_SEAM = 2.0
"""Standard deviation, in pixels, of the blurred seam between the client's picture and its outpainted borders."""
_SMEARED = 12
"""Outpainted borders start as the picture's mirror image, blurred over one n-th of the canvas."""
_ANY = [0] + [255] * 255
_OFF_THE_KEPT = [255 - min(255, 2 * value) for value in range(256)]


class Canvas:
    """The client's picture and mask at the output's size, and the part that the model draws."""

    def __init__(self, params: "ImageParams", image: Image.Image, mask: Image.Image | None, control: "Control") -> None:
        size, blur = (params.width, params.height), params.mask_blur or 0.0
        inside = (params.outpaint or Borders()).inside(size)
        inner = inside[2] - inside[0], inside[3] - inside[1]
        self._picture = resize.fit_image(image, *inner, control)
        if mask is None:
            self._weights = Image.new("L", inner)
        else:
            self._weights = resize.fit_mask(mask, image.size, *inner, control)
        if blur:
            self._weights = self._weights.filter(ImageFilter.GaussianBlur(blur))
        if mask is not None:
            self._warn_of_no_white(masks.cleaned(mask), params, control)
        if params.outpaint is not None:
            seam, least = self._grow(inside, size, blur)
            if mask is None and blur and seam == least:
                control.warn(f"mask_blur: has no effect; the seam of these borders is {seam:g} pixels soft")
        self._box: Box = (0, 0, *size) if params.drawn is None else params.drawn.box
        self._whole = self._box == (0, 0, *size)
        self.source, self.weights = self._part(self._picture), self._part(self._weights)
        """Return the model's source (RGB) and the weight of each pixel (L), at the size that it draws."""
        if self.source.size != params.drawn_size:
            self.source = self.source.resize(params.drawn_size, Image.Resampling.LANCZOS)
            weights = self.weights.resize(params.drawn_size, Image.Resampling.BILINEAR)
            self.weights = weights.point(_ANY) if masks.is_hard(self._weights) else weights

    def finished(self, drawn: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
        """Return the output, (height, width, 3), with the drawing composited into it."""
        image, size = Image.fromarray(drawn), (self._box[2] - self._box[0], self._box[3] - self._box[1])
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        result = self._picture.copy()
        result.paste(image, self._box, self._part(self._weights))
        return np.array(result)

    def _warn_of_no_white(self, mask: Image.Image, params: "ImageParams", control: "Control") -> None:
        """Warn if a mask repaints nothing, or nothing fully: strokes are missing, too small, or not white."""
        brightest = max(level for level, count in enumerate(mask.histogram()) if count)
        if self._weights.getbbox() is None:
            why = f"the mask's white is too small for {params.width}x{params.height}"
            if not brightest:
                why = "the mask has no white pixel"
            left = "the picture stays as it was" if params.outpaint is None else "only what lies beside it is drawn"
            control.warn(f"mask_url: {why}, so {left}")
        elif brightest < 255:
            control.warn(
                f"mask_url: the mask has no white (its brightest value is {brightest} of 255), so nothing is repainted "
                "wholly; paint in white what shall be"
            )

    def _part(self, of: Image.Image) -> Image.Image:
        return of if self._whole else of.crop(self._box)

    def _grow(self, inside: "Box", size: tuple[int, int], blur: float) -> tuple[float, float]:
        """Place the picture on a larger canvas whose borders are drawn.

        The seam lies outside the picture, in its mirror image. Returns its standard deviation, and its least one.
        """
        borders = [border for border in (*inside[:2], size[0] - inside[2], size[1] - inside[3]) if border]
        kept = Image.new("L", size)
        kept.paste(ImageChops.invert(self._weights), inside)
        most = min(borders, default=0) / 4
        seam = min(max(blur, _SEAM), most)
        weights = kept.filter(ImageFilter.GaussianBlur(seam)).point(_OFF_THE_KEPT)
        left, up, right, down = inside
        around = ((up, size[1] - down), (left, size[0] - right), (0, 0))
        mirrored = Image.fromarray(np.pad(np.asarray(self._picture), around, mode="symmetric"))
        smeared = mirrored.filter(ImageFilter.GaussianBlur(max(size) / _SMEARED))
        mirrored.paste(smeared, (0, 0), weights)
        mirrored.paste(self._picture, inside)
        weights.paste(self._weights, inside)
        self._picture, self._weights = mirrored, weights
        return seam, min(_SEAM, most)

"""The task `upscale` without drawing: passes on the client's picture, which the engine enlarges.

Knows no network: `engine.upscale` enlarges any finished picture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.core.types import Part, Progress
from worker.engine.protocol import GeneratedImage

if TYPE_CHECKING:
    from PIL import Image

    from worker.api.params import ImageParams
    from worker.core.types import Sources
    from worker.engine.memory.room import Phase


class UpscaleJob:
    """A job that passes on the client's picture."""

    def __init__(
        self, _parts: Any, _device: Any, params: "ImageParams", sources: "Sources", _control: Any, **_: Any
    ) -> None:
        self._seeds, self._sources = params.seeds, sources
        self.phase: Phase = "upscale"

    def run(self, first: int = 0) -> Iterator[GeneratedImage]:
        """Yield the picture."""
        return as_it_is(self._sources.image, self._seeds, first)

    def moment(self, part: Part, share: float) -> Progress:
        """Return the progress when `share` of `part` is done."""
        return Progress("generating", 0, 0, part, share)


def as_it_is(image: "Image.Image | None", seeds: tuple[int, ...], first: int) -> Iterator[GeneratedImage]:
    """Return a client's picture as a generated image."""
    if image is not None and first == 0:
        yield GeneratedImage(0, seeds[0], np.ascontiguousarray(np.asarray(image.convert("RGB"))))

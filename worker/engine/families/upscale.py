"""The task `upscale` where nothing is drawn: the client's picture as it is, which the engine enlarges.

Knows no network: an upscaler works on whatever picture is finished (`engine.upscale`), this one or a model's.
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
    """One picture of a client, of which nothing is drawn."""

    def __init__(
        self, _parts: Any, _device: Any, params: "ImageParams", sources: "Sources", _control: Any, **_: Any
    ) -> None:
        self._seeds, self._sources = params.seeds, sources
        self.phase: Phase = "upscale"

    def run(self, first: int = 0) -> Iterator[GeneratedImage]:
        """The one picture, once."""
        return as_it_is(self._sources.image, self._seeds, first)

    def moment(self, part: Part, share: float) -> Progress:
        """How far the job is when so much of `part` is done."""
        return Progress("generating", 0, 0, part, share)


def as_it_is(image: "Image.Image | None", seeds: tuple[int, ...], first: int) -> Iterator[GeneratedImage]:
    """A client's picture as if it had been drawn."""
    if image is not None and first == 0:
        yield GeneratedImage(0, seeds[0], np.ascontiguousarray(np.asarray(image.convert("RGB"))))

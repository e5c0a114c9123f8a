"""The worker's engine without a job around it: a request in, pixels out. Knows requests; knows no scenes."""

import dataclasses
from typing import Any

from PIL import Image

from tests.support.drawn_scenes import Pixels
from worker.api.request import REQUESTS
from worker.api.resolve import SourceShape, resolve
from worker.core.config import load_settings, set_library_defaults
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.memory import device
from worker.engine.memory.cache import Loaded
from worker.engine.protocol import GeneratedImage
from worker.job.progress import Unattended

_ELSEWHERE = "https://example.com/given.png"
"""The URL in a request with a picture; the picture itself is passed beside it."""


class Studio:
    """Runs requests one after another on the built-in models as the worker does, with its defaults and checks."""

    def __init__(self, *, without_words: bool = False) -> None:
        """Load the engine; with `without_words`, every image comes from the unconditional prediction alone.

        That is guidance 0 as defined by Ho & Salimans (2022). The worker's own 0 means no guidance, which leaves the
        conditional prediction.
        """
        set_library_defaults()
        models = dict.fromkeys(("sdxl_model", "sdxl_refiner", "wan_model", "wan_i2v_model"), "demo")
        self._settings = load_settings(**models, sdxl_vae=None, safety_checker="off")
        self._engine = _WithoutWords(self._settings) if without_words else Engine(self._settings)

    def run(
        self,
        task_type: str,
        prompt: str,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        **fields: Any,
    ) -> list[Pixels]:
        """Return the images of a request, each (height, width, 3), or its one clip, (frames, height, width, 3).

        `fields` are the request's own. The prompt may be empty, unlike in a request.
        """
        given = {"image_url": image, "mask_url": mask}
        urls = {name: _ELSEWHERE for name, picture in given.items() if picture is not None}
        task = TaskType(task_type)
        request = REQUESTS[task].model_validate({"task_type": task, "prompt": prompt or "nothing", **urls, **fields})
        params = resolve(
            request,
            self._engine.describe(task),
            max_image_pixels=self._settings.max_image_pixels,
            max_job_cost=self._settings.max_job_cost,
            source=None if image is None else SourceShape(*image.size),
        )
        params = dataclasses.replace(params, prompt=prompt)
        made = self._engine.generate(request, params, Sources(image=image, mask=mask), Unattended())
        return [one.pixels if isinstance(one, GeneratedImage) else one.frames for one in made]


class _WithoutWords(Engine):
    """The same engine, whose images use the unconditional prediction as both guidance terms."""

    def _job(self, entry: Loaded, params: Any, sources: Sources, control: Any) -> Any:
        if entry.spec.family != "sdxl":
            return super()._job(entry, params, sources, control)
        # Imported here, after the engine has silenced the vendors' libraries.
        from worker.engine.families.sdxl import SdxlJob
        from worker.engine.prompt.clip import Embeddings

        class Unprompted(SdxlJob):
            def _embed(self, pipeline: Any, unwanted: Any) -> Embeddings:
                embeds = super()._embed(pipeline, unwanted)
                return embeds | {
                    "prompt_embeds": embeds["negative_prompt_embeds"],
                    "pooled_prompt_embeds": embeds["negative_pooled_prompt_embeds"],
                }

        parts: Any = entry.parts
        return Unprompted(parts, device.device(cuda=self.registry.cuda), params, sources, control)

"""The worker's own engine without a job around it: a request in, pixels out. Knows requests; knows no scenes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from worker.config import load_settings, set_library_defaults
from worker.generation import GeneratedImage, Progress, Sources
from worker.params import ModelDefaults, resolve
from worker.pipelines import machine
from worker.pipelines.engine import Engine
from worker.pipelines.shelf import Loaded
from worker.request import REQUESTS

Pixels = NDArray[np.uint8]
_ELSEWHERE = "https://example.com/given.png"
"""What a request with a picture names; the picture itself is handed over beside it."""


class Studio:
    """Runs one request after another as the worker does: its defaults, its checks, its pipelines."""

    def __init__(self, models: Path | None = None, *, without_words: bool = False) -> None:
        """`models` is a folder with `sdxl`, `sdxl-refiner` and `wan`; None means the worker's built-in ones.

        `without_words` makes every image from the unconditional prediction alone: guidance 0 as it is written by
        Ho & Salimans (2022). The worker's own 0 means no guidance, which leaves the conditional prediction.
        """
        set_library_defaults()
        self._settings = load_settings(
            sdxl_model=_named(models, "sdxl"),
            sdxl_refiner=_named(models, "sdxl-refiner"),
            sdxl_vae=None,
            wan_model=_named(models, "wan"),
            wan_i2v_model=_named(models, "wan"),
            safety_checker="off",
        )
        self._engine = _WithoutWords(self._settings) if without_words else Engine(self._settings)

    def describe(self, task_type: str) -> ModelDefaults:
        """What the model of a task says of itself."""
        return self._engine.describe(task_type)

    def run(
        self,
        task_type: str,
        prompt: str,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        **fields: Any,
    ) -> list[Pixels]:
        """The images of a request, each (height, width, 3), or its one clip, (frames, height, width, 3).

        `fields` are the request's own. The prompt may be empty, which a request's may not.
        """
        given = {"image_url": image, "mask_url": mask}
        urls = {name: _ELSEWHERE for name, picture in given.items() if picture is not None}
        request = REQUESTS[task_type].model_validate(
            {"task_type": task_type, "prompt": prompt or "nothing", **urls, **fields}
        )
        params = resolve(
            request,
            self._engine.describe(task_type),
            max_image_pixels=self._settings.max_image_pixels,
            max_job_cost=self._settings.max_job_cost,
        )
        params = dataclasses.replace(params, prompt=prompt)
        made = self._engine.generate(request, params, Sources(image=image, mask=mask), _Quiet())
        return [one.pixels if isinstance(one, GeneratedImage) else one.frames for one in made]


class _Quiet:
    """A job's side of a run that never stops it."""

    def checkpoint(self) -> None:
        """Go on."""

    def report(self, progress: Progress) -> None:
        """Nobody watches."""

    def warn(self, warning: str) -> None:
        """Nobody reads."""


class _WithoutWords(Engine):
    """The same engine, whose images are guided from the unconditional prediction to itself."""

    def _job(self, entry: Loaded, params: Any, sources: Sources, control: Any) -> Any:
        if entry.bundle.family != "sdxl":
            return super()._job(entry, params, sources, control)
        # Imported here, once the engine has quieted the vendors' libraries.
        from worker.pipelines.sdxl import Embeddings, SdxlJob

        class Unprompted(SdxlJob):
            def _embed(self, pipeline: Any, negative_prompt: str | None) -> Embeddings:
                embeds = super()._embed(pipeline, negative_prompt)
                return embeds | {
                    "prompt_embeds": embeds["negative_prompt_embeds"],
                    "pooled_prompt_embeds": embeds["negative_pooled_prompt_embeds"],
                }

        parts: Any = entry.parts
        return Unprompted(parts, machine.device(cuda=self.catalog.cuda), params, sources, control)


def _named(models: Path | None, folder: str) -> str:
    return "demo" if models is None else str((models / folder).resolve())

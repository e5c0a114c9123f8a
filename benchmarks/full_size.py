"""Runs every task through the worker's engine at full size, with random weights, for times, peak memory and placement.

`python -m benchmarks.full_size` builds SDXL, its refiner, Wan 2.1 1.3B (text and image to video) and Wan 2.2 TI2V 5B
once under `.cache/full-size` (about 45 GB) and runs them as the worker would. Without CUDA, or with `--small`, the demo
models run instead, at sizes for a laptop.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.core.types import TaskType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from benchmarks.full_size_models import WRITERS
from worker.api.params import ImageParams, Params, VideoParams
from worker.api.request import REQUESTS
from worker.core.config import REPOSITORY, load_settings, set_library_defaults
from worker.core.types import Progress, Sources
from worker.engine.engine import Engine
from worker.engine.memory import device
from worker.engine.models.registry import ModelRegistry
from worker.job.progress import Unattended


class Watch(Unattended):
    """A `Control` that records when each denoising step ended."""

    def __init__(self) -> None:
        super().__init__(self.note)
        self.steps: list[float] = []
        self.warnings: list[str] = []

    def note(self, progress: Progress) -> None:
        """Record the end of each step once; later stages repeat the number of the last step."""
        if progress.stage == "generating" and progress.step > len(self.steps):
            self.steps.append(time.perf_counter())

    def warn(self, warning: str) -> None:
        """Keep the warning for the table."""
        self.warnings.append(warning)


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the table."""

    name: str
    task_type: TaskType
    params: Params


def main() -> None:
    """Build missing models, run every job twice (the first run includes loading), and print the table."""
    set_library_defaults()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--small", action="store_true", help="the demo models (the only choice without CUDA)")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".cache" / "full-size", help="where weights are kept"
    )
    parser.add_argument("--wan-steps", type=int, default=50, help="denoising steps of a clip in the large form")
    parser.add_argument("--channels-last-3d", action="store_true", help="Wan's VAE with its weights laid out so")
    parser.add_argument("--only", default="", help="run only the jobs whose name holds this")
    arguments = parser.parse_args()

    import torch

    cuda = torch.cuda.is_available() and not arguments.small
    if cuda:
        print(f"{device.describe_gpu()}, compute capability {torch.cuda.get_device_capability()}; full form")
        forms = full_forms(arguments.folder, arguments.wan_steps)
    else:
        print(f"CPU; torch {torch.__version__}; small form")
        forms = iter([small_form()])
    columns = f"{'load s':>8}{'first step':>11}{'s/step':>8}{'decode s':>9}{'total s':>9}{'peak bytes':>16}"
    print(f"{'job':<36}{columns}  placement")
    for engine, jobs in forms:
        for job in jobs:
            if arguments.only in job.name:
                for run in ("cold", "warm"):
                    print(measure(engine, job, run, cuda=cuda), flush=True)
                    if arguments.channels_last_3d:
                        lay_out(engine)  # takes effect from the warm run on
        engine.unload()


def lay_out(engine: Engine) -> None:
    """Convert the convolutions of every loaded Wan VAE to the channels-last memory layout.

    It is reported to save memory in cuDNN's bfloat16 convolutions (ModelTC/LightX2V, pull request 860). The worker does
    not do it, since no GPU has confirmed it here: compare a warm line with and without it.
    """
    import torch

    for entry in engine._cache._loaded.values():
        if entry.spec.family == "wan":
            for module in entry.parts.vae.modules():
                if isinstance(module, torch.nn.Conv3d):
                    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub has channels_last alone


def measure(engine: Engine, job: Job, run: str, *, cuda: bool) -> str:
    """Run one job and return its line of the table."""
    import torch

    watch = Watch()
    model = REQUESTS[job.task_type]
    urls = {name: "https://example.com/a.png" for name in ("image_url", "mask_url") if name in model.model_fields}
    request = model.model_validate({"task_type": job.task_type, "prompt": job.params.prompt, **urls})
    noise = np.random.default_rng(0).integers(0, 256, (job.params.height, job.params.width, 3), dtype=np.uint8)
    mask = Image.new("L", (job.params.width, job.params.height))
    mask.paste(255, (0, 0, job.params.width // 2, job.params.height))
    sources = Sources(
        Image.fromarray(noise) if "image_url" in urls else None,
        mask if "mask_url" in urls else None,
    )
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    placement = engine.prepare(request, job.params, watch)
    ready = time.perf_counter()
    pictures = list(engine.generate(request, job.params, sources, watch))
    done = time.perf_counter()
    assert pictures
    # Without a GPU: the resident set of the process; ru_maxrss is in KiB on Linux.
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    steps = watch.steps
    each = (steps[-1] - steps[0]) / max(len(steps) - 1, 1)
    warned = f"; {'; '.join(watch.warnings)}" if watch.warnings else ""
    return (
        f"{job.name + ', ' + run:<36}{ready - begun:>8.2f}{steps[0] - ready:>11.2f}{each:>8.3f}{done - steps[-1]:>9.2f}"
        f"{done - begun:>9.2f}{peak:>16,}  {engine.loaded} {placement.reason}{warned}"
    )


def small_form() -> tuple[Engine, list[Job]]:
    """Return the demo models with jobs at native sizes and at the two sizes in test_cloud_storage.py."""
    settings = load_settings(sdxl_model="demo", sdxl_refiner="demo", wan_model="demo", wan_i2v_model="demo")
    engine = Engine(settings, registry=ModelRegistry(settings, cuda=False))
    image, clip = engine.describe(TaskType.TEXT2IMG), engine.describe(TaskType.TEXT2VIDEO)
    steps, native = image.num_inference_steps, (image.width, image.height)
    return engine, [
        Job("text2img native", TaskType.TEXT2IMG, _image(*native, steps)),
        Job("text2img native, refiner", TaskType.TEXT2IMG, _image(*native, steps, refined=True)),
        Job("img2img native", TaskType.IMG2IMG, _image(*native, steps, strength=0.6)),
        Job("inpaint native", TaskType.INPAINT, _image(*native, steps, strength=0.99)),
        Job("text2img 1024x1024", TaskType.TEXT2IMG, _image(1024, 1024, steps)),
        *(
            Job(f"{task} {width}x{height}x{frames}", task, _clip(width, height, frames, clip.num_inference_steps))
            for task in (TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO)
            for width, height, frames in ((clip.width, clip.height, clip.num_frames), (832, 480, 49))
        ),
    ]


def full_forms(folder: Path, wan_steps: int) -> Iterator[tuple[Engine, list[Job]]]:
    """Yield SDXL and Wan 2.1 with jobs at the sizes in test_cloud_storage.py, then SDXL and TI2V at native sizes."""
    for name, write in WRITERS.items():
        if not (folder / name / "model_index.json").exists():
            begun = time.perf_counter()
            write(folder, folder / name)
            print(f"built {name} in {time.perf_counter() - begun:.0f} s", flush=True)
    sdxl, refiner = str(folder / "sdxl"), str(folder / "sdxl-refiner")
    settings = load_settings(
        sdxl_model=sdxl, sdxl_refiner=refiner, wan_model=str(folder / "wan"), wan_i2v_model=str(folder / "wan-i2v")
    )
    yield (
        Engine(settings, registry=ModelRegistry(settings, cuda=True)),
        [
            Job("text2img 1024x1024, 30 steps", TaskType.TEXT2IMG, _image(1024, 1024, 30)),
            Job("text2img, refiner 24 + 6", TaskType.TEXT2IMG, _image(1024, 1024, 30, refined=True)),
            Job("img2img, strength 0.6", TaskType.IMG2IMG, _image(1024, 1024, 30, strength=0.6)),
            Job("inpaint, strength 0.99", TaskType.INPAINT, _image(1024, 1024, 30, strength=0.99)),
            Job(f"text2video 832x480x49, {wan_steps}", TaskType.TEXT2VIDEO, _clip(832, 480, 49, wan_steps)),
            Job(f"img2video 832x480x49, {wan_steps}", TaskType.IMG2VIDEO, _clip(832, 480, 49, wan_steps)),
        ],
    )
    settings = load_settings(sdxl_model=sdxl, wan_model=str(folder / "wan-ti2v"))
    yield (
        Engine(settings, registry=ModelRegistry(settings, cuda=True)),
        [
            Job("text2img beside TI2V", TaskType.TEXT2IMG, _image(1024, 1024, 30)),
            *(
                Job(f"TI2V {task}, {wan_steps}", task, _clip(1280, 704, 81, wan_steps, flow_shift=5.0))
                for task in (TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO)
            ),
        ],
    )


def _image(width: int, height: int, steps: int, *, strength: float | None = None, refined: bool = False) -> ImageParams:
    return ImageParams(
        prompt="a red circle on a blue background",
        negative_prompt="blurry",
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=5.0,
        scheduler=None,
        seeds=(1,),
        strength=strength,
        high_noise_frac=0.8 if refined else None,
        refiner_inference_steps=steps if refined else None,
    )


def _clip(width: int, height: int, frames: int, steps: int, *, flow_shift: float = 3.0) -> VideoParams:
    return VideoParams(
        prompt="a red circle moving left",
        negative_prompt="blurry",
        width=width,
        height=height,
        num_frames=frames,
        fps=15,
        num_inference_steps=steps,
        guidance_scale=5.0,
        flow_shift=flow_shift,
        seed=1,
    )


if __name__ == "__main__":
    main()

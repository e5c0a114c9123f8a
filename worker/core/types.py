"""Small frozen values that several packages share: task, owner, sources, progress.

Imports nothing of the worker.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, Protocol

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from PIL import Image


class TaskType(StrEnum):
    """The tasks; the values are the wire contract's."""

    TEXT2IMG = "text2img"
    IMG2IMG = "img2img"
    INPAINT = "inpaint"
    UPSCALE = "upscale"
    TEXT2VIDEO = "text2video"
    IMG2VIDEO = "img2video"

    @property
    def is_video(self) -> bool:
        """Whether the result is a clip."""
        return self in {TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO}


class Scheduler(StrEnum):
    """The schedulers that a client or an operator may choose, by the names of RunPod's SDXL worker."""

    DDIM = "DDIM"
    PNDM = "PNDM"
    KLMS = "KLMS"
    K_EULER = "K_EULER"
    K_EULER_ANCESTRAL = "K_EULER_ANCESTRAL"
    DPM_SOLVER_MULTISTEP = "DPMSolverMultistep"
    DPM_SOLVER_SINGLESTEP = "DPMSolverSinglestep"
    DPM_SOLVER_MULTISTEP_KARRAS = "DPMSolverMultistepKarras"
    DPM_SOLVER_SDE_MULTISTEP_KARRAS = "DPMSolverSDEMultistepKarras"
    HEUN = "HEUN"
    UNIPC = "UniPC"
    LCM = "LCM"
    TCD = "TCD"
    K_EULER_TRAILING = "K_EULER_TRAILING"


@dataclass(frozen=True, slots=True)
class Owner:
    """The two ids of a generation, which make up every path."""

    user_id: str
    file_uid: str


ControlType = Literal["canny", "depth", "openpose", "scribble", "lineart", "softedge", "tile", "segment", "normal"]
"""What a control picture shows."""
Level = Literal["regular", "high"]
"""How much quality was traded for speed."""
Allowed = Literal["none", "regular", "high"]
"""How much quality may be traded for speed."""
Quantized = Literal["int8", "fp8"]
"""The 8-bit format of a network's large layers."""
Attention = Literal["auto", "native", "cudnn", "flash3"]
"""The preferred attention kernel: chosen by the card, torch's own, cuDNN's, FlashAttention 3."""
Stage = Literal["queued", "loading", "generating", "uploading"]
Part = Literal["load", "text", "encode", "step", "decode", "upscale", "pack", "upload"]
"""The parts of a job's time. `encode` and `decode` are the VAE's; `pack` encodes the file."""


class ProgressData(TypedDict):
    """A job's progress, as RunPod and the document receive it."""

    stage: Stage
    step: int
    total_steps: int
    """Both within the stage."""
    percent: int
    """Of the whole job; never decreases within an attempt."""
    eta_seconds: int | None
    """Seconds left; None: not known."""
    preview: NotRequired[str]
    """Only in the document, and only if requested: a data URI of a WebP of at most 8 KB."""


class Usage(TypedDict):
    """What a job has used."""

    gpu_seconds: float
    units: int
    """The price, which does not depend on the GPU."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's progress at one moment. May be throttled or lost; a terminal state never travels this way."""

    stage: Stage
    step: int = 0
    total_steps: int = 0
    part: Part | None = None
    """The part that runs after `step`; None: the next denoising step."""
    share: float = 0.0
    """How much of `part` is done, 0 ... 1."""
    percent: int = 0
    """0 ... 100 over the whole job, by its estimate; filled in by the job, not by the reporter."""
    eta_seconds: int | None = None
    """Seconds left; None: not known."""
    preview: str | None = None
    """A small picture of the current state, as a data URI; filled in by the job, for the document only."""

    def public(self) -> ProgressData:
        """Return the progress without its preview, which only the document receives."""
        return {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "percent": self.percent,
            "eta_seconds": self.eta_seconds,
        }


Expert = Literal["both", "high", "low"]
"""Which of Wan 2.2's two experts a LoRA is for; `both` for any other model."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA file on this machine."""

    name: str
    """Its name towards the client: the operator's name, or the public part of its source."""
    path: Path
    scale: float
    expert: Expert = "both"


@dataclass(frozen=True, slots=True)
class Sources:
    """The client's pictures, decoded, upright, RGB (the mask L, white = repaint), in their own size; and LoRA files."""

    image: "Image.Image | None" = None
    mask: "Image.Image | None" = None
    end: "Image.Image | None" = None
    """The last frame of a clip."""
    controls: "tuple[Image.Image, ...]" = ()
    """One per entry of `controlnets`."""
    references: "tuple[Image.Image, ...]" = ()
    """One per entry of `ip_adapters`."""
    loras: tuple[LoraFile, ...] = ()
    """One per entry of `loras`, `high_noise_loras` and `low_noise_loras`."""
    warnings: tuple[str, ...] = ()
    """Warnings about how the pictures were read, for the client."""


class Preview(Protocol):
    """A small picture of the current state, while it is copied from the GPU."""

    def ready(self) -> bool:
        """Whether the copy is complete; returns at once. Thread-safe."""
        ...

    def picture(self) -> "Image.Image":
        """Return the picture, RGB. Call it once, after `ready`. Thread-safe."""
        ...


class Control(Protocol):
    """The job's side of a generation: the engine reports progress to it, and checks it for a stop at each step."""

    def raise_if_stopped(self) -> None:
        """Raise if the job must stop.

        Raises:
            Cancelled, JobTimeout, or another of the job's reasons to stop.
        """
        ...

    def untimed(self) -> AbstractContextManager[None]:
        """Do not count the body against the job's time limit, such as the download of a model that serves all jobs."""
        ...

    def report(self, progress: Progress) -> None:
        """Note progress; returns at once."""
        ...

    def warn(self, warning: str) -> None:
        """Add a warning to the response."""
        ...

    def viewer(self) -> Callable[[Preview], None] | None:
        """The callable that takes a preview of this step, at once; None: no preview is wanted now."""
        ...

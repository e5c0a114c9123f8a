"""Small frozen values that several packages share: which task, whose job, which pictures, how far it is.

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
    """What a request asks for; the values are the contract's."""

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
    """The schedulers that a client or an operator may choose, by the names RunPod's SDXL worker made common."""

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
    """Whose generation it is: the two ids that make up every path."""

    user_id: str
    file_uid: str


ControlType = Literal["canny", "depth", "openpose", "scribble", "lineart", "softedge", "tile", "segment", "normal"]
"""What a control picture shows."""
Level = Literal["regular", "high"]
"""How much is traded for speed."""
Allowed = Literal["none", "regular", "high"]
"""How much may be: nothing, or a level."""
Quantized = Literal["int8", "fp8"]
"""In which numbers of eight bits the large layers of a network are kept."""
Attention = Literal["auto", "native", "cudnn", "flash3"]
"""Which way to compute attention comes first: by the card, torch's own, cuDNN's, FlashAttention 3."""
Stage = Literal["queued", "loading", "generating", "uploading"]
Part = Literal["load", "text", "encode", "step", "decode", "upscale", "pack", "upload"]
"""What a job's time goes into. `encode` and `decode` are the VAE's, `pack` makes a file of pixels."""


class ProgressData(TypedDict):
    """One moment of a job, as RunPod and the document are told it."""

    stage: Stage
    step: int
    total_steps: int
    """Both within the stage."""
    percent: int
    """Of the whole job; never goes back within an attempt."""
    eta_seconds: int | None
    """What is left; None: not known."""
    preview: NotRequired[str]
    """In the document alone, of a job that was asked for it: a data URI of a WebP of at most 8 KB."""


class Usage(TypedDict):
    """What a job has cost."""

    gpu_seconds: float
    units: int
    """Its price on any card."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a job. May be throttled or lost; the terminal state is told another way."""

    stage: Stage
    step: int = 0
    total_steps: int = 0
    part: Part | None = None
    """What goes on after that step, where it is not the next step."""
    share: float = 0.0
    """How much of `part` is done, 0 ... 1."""
    percent: int = 0
    """0 ... 100 over the whole job, by its estimate: the job fills it in, not who reports."""
    eta_seconds: int | None = None
    """What is left of it; None: not known."""
    preview: str | None = None
    """A small picture of what is being made, as a data URI: the document's alone, and the job fills it in."""

    def public(self) -> ProgressData:
        """As RunPod and the document are told it; the document is shown a preview, too."""
        return {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "percent": self.percent,
            "eta_seconds": self.eta_seconds,
        }


Expert = Literal["both", "high", "low"]
"""Which of Wan 2.2's two experts a LoRA is for; any other model is `both`."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA that is on this machine."""

    name: str
    """What it is called towards the client: the operator's name, or what is public of its source."""
    path: Path
    scale: float
    expert: Expert = "both"


@dataclass(frozen=True, slots=True)
class Sources:
    """The client's pictures, decoded, upright, RGB (the mask: L, white = repaint), in their own size; and its LoRAs."""

    image: "Image.Image | None" = None
    mask: "Image.Image | None" = None
    end: "Image.Image | None" = None
    """What a clip ends with."""
    controls: "tuple[Image.Image, ...]" = ()
    """One for each entry of `controlnets`."""
    references: "tuple[Image.Image, ...]" = ()
    """One for each entry of `ip_adapters`."""
    loras: tuple[LoraFile, ...] = ()
    """One for each entry of `loras`, `high_noise_loras` and `low_noise_loras`."""
    warnings: tuple[str, ...] = ()
    """What the client should know of how they were read."""


class Preview(Protocol):
    """A small picture of what is being made, on its way from where it is made."""

    def ready(self) -> bool:
        """Whether it is here; returns at once, any thread."""
        ...

    def picture(self) -> "Image.Image":
        """RGB; once it is ready, and once only. Any thread."""
        ...


class Control(Protocol):
    """The job's side of a model run: it is asked at each step whether to go on, and told how far it is."""

    def raise_if_stopped(self) -> None:
        """Return to go on.

        Raises:
            Cancelled, JobTimeout, or another of the job's reasons to stop.
        """
        ...

    def untimed(self) -> AbstractContextManager[None]:
        """The body is not counted against the job's time limit: it waits for what serves all jobs (a download)."""
        ...

    def report(self, progress: Progress) -> None:
        """Take note of progress; returns at once."""
        ...

    def warn(self, warning: str) -> None:
        """Say something of the result that its receiver should know."""
        ...

    def viewer(self) -> Callable[[Preview], None] | None:
        """Who is to be handed a preview of this step, and takes it at once; None: nobody, or not so soon again."""
        ...

"""Small frozen values that several packages share: which task, whose job, which pictures, how far it is.

Imports nothing of the worker.
"""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL import Image


class TaskType(StrEnum):
    """What a request asks for; the values are the contract's."""

    TEXT2IMG = "text2img"
    IMG2IMG = "img2img"
    INPAINT = "inpaint"
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


Stage = Literal["queued", "loading", "generating", "uploading"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a job. May be throttled or lost; the terminal state is told another way."""

    stage: Stage
    step: int = 0
    total_steps: int = 0

    @property
    def percent(self) -> int:
        """0 ... 100 over the whole job: loading counts for 5, the denoising steps for 85, uploading for the rest."""
        share = self.step / self.total_steps if self.total_steps else 0.0
        start, width = {"queued": (0, 0), "loading": (0, 5), "generating": (5, 85), "uploading": (90, 10)}[self.stage]
        return round(start + width * min(share, 1.0))

    def public(self) -> dict[str, Any]:
        """As RunPod and the document are told it."""
        return {**asdict(self), "percent": self.percent}


@dataclass(frozen=True, slots=True)
class Sources:
    """The client's pictures, decoded, upright, RGB (the mask: L, white = repaint), in their own size."""

    image: "Image.Image | None" = None
    mask: "Image.Image | None" = None


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

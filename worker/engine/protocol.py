"""What a model run gives and asks for: the values that cross between the GPU thread and everything else.

Small frozen values and two Protocols. Knows no torch, no files and no network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from worker.api.params import ModelDefaults, Params
    from worker.api.request import Request

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


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One finished image."""

    index: int
    seed: int
    pixels: "NDArray[np.uint8]"
    """(height, width, 3), RGB, C-contiguous."""
    nsfw: bool | None = None
    """Whether the content safety check flagged it; None: none ran."""


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """One finished clip."""

    seed: int
    frames: "NDArray[np.uint8]"
    """(frames, height, width, 3), RGB, C-contiguous."""
    nsfw: bool | None = None
    """As for an image, of the first, the middle and the last frame."""


Generated = GeneratedImage | GeneratedClip


@dataclass(frozen=True, slots=True)
class Sources:
    """The client's pictures, decoded, upright, RGB (the mask: L, white = repaint), in their own size."""

    image: "Image.Image | None" = None
    mask: "Image.Image | None" = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task's weights live while it runs, and why."""

    mode: Literal["resident", "offloaded"]
    reason: str
    evicted: tuple[str, ...] = field(default=())


class Control(Protocol):
    """The job's side of a model run: it is asked at each step whether to go on, and told how far it is."""

    def checkpoint(self) -> None:
        """Return to go on.

        Raises:
            Cancelled, JobTimeout, or another of the job's reasons to stop.
        """
        ...

    def report(self, progress: Progress) -> None:
        """Take note of progress; returns at once."""
        ...

    def warn(self, warning: str) -> None:
        """Say something of the result that its receiver should know."""
        ...


class Generator(Protocol):
    """Every model of this worker behind one door. All but `describe` are called in the one GPU thread."""

    def describe(self, task_type: str) -> "ModelDefaults":
        """What the model of a task says of itself; reads small files only, imports nothing heavy, any thread.

        Raises:
            ModelUnavailable: no model is configured for the task; the message names the variable to set.
        """
        ...

    def prepare(self, task_type: str, control: Control) -> Placement:
        """Have the weights of a task where they will run.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, or what `control.checkpoint` raises.
        """
        ...

    def preload(self, tasks: Sequence[str] | None, control: Control) -> Sequence[str]:
        """Load the weights of `tasks` (None: all that fit) before the first job; the tasks that are ready."""
        ...

    def health(self) -> Sequence[str]:
        """The tasks that can be served, when the card works and there is at least one.

        Raises:
            ModelUnavailable, GpuFault: what is wrong, in words for the operator.
        """
        ...

    def generate(self, request: "Request", params: "Params", sources: Sources, control: Control) -> Iterator[Generated]:
        """Run one job; yields each image as soon as it is decoded, or one clip.

        Raises:
            OutOfMemory, GpuFault, InvalidImage, Internal (no usable picture), or what `control.checkpoint` raises,
            within one denoising step.
        """
        ...

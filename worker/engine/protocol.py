"""What a model run gives and asks for: the values that cross between the GPU thread and everything else.

Small frozen values and two Protocols. Knows no torch, no files and no network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from worker.core.types import Control, Sources, TaskType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.api.params import ModelDefaults, Params
    from worker.api.request import Request
    from worker.engine.estimate import Estimate


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
    """As for an image, of some of its frames."""


Generated = GeneratedImage | GeneratedClip


PlacementMode = Literal["resident", "partly", "offloaded", "refused"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job's weights live while it runs, and why."""

    mode: PlacementMode
    """All on the GPU; all but the text encoders; each network only while it runs; or nowhere: it would not fit."""
    reason: str
    evicted: tuple[str, ...] = field(default=())
    """Models that leave the GPU first."""
    tiles: bool = False
    """Whether the VAE works in tiles."""


class Generator(Protocol):
    """Every model of this worker behind one door. What does not say `any thread` runs in the one GPU thread."""

    def models(self, task_type: TaskType) -> Sequence[str]:
        """The names that a request of this task may ask for, the default first; empty: none has one. Any thread."""
        ...

    def controlnet_types(self) -> Sequence[str]:
        """The types of control picture that a request may name; empty: there is no ControlNet. Any thread."""
        ...

    def describe(self, task_type: TaskType, model: str | None = None) -> "ModelDefaults":
        """What a model of a task says of itself; reads small files only, imports nothing heavy, any thread.

        `model` is the name of one of several that serve the task; None stands for the first.

        Raises:
            ModelUnavailable: no model is configured for the task; the message names the variable to set.
        """
        ...

    def estimate(self, request: "Request", params: "Params") -> "Estimate | None":
        """How long the job will take, piece by piece; reads small files only, any thread. None: not known.

        Raises:
            ModelUnavailable: as `describe`.
        """
        ...

    def check(self, request: "Request", sources: Sources) -> None:
        """Refuse LoRA files that no model of this task can take; reads their headers only, any thread.

        Raises:
            InvalidInput: naming each with what is wrong with it.
            DownloadFailed: one is not there any more.
        """
        ...

    def prepare(self, request: "Request", params: "Params", control: Control) -> Placement:
        """Have the weights of a job where they will run, with the room that its size takes beside them.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, DiskFull, or what `control.raise_if_stopped` raises.
        """
        ...

    def preload(self, tasks: Sequence[TaskType] | None, control: Control) -> Sequence[str]:
        """Load the weights of `tasks` (None: all that fit) before the first job; the tasks that are ready."""
        ...

    def health(self) -> Sequence[str]:
        """The tasks that can be served, when the GPU works and there is at least one.

        Raises:
            ModelUnavailable, GpuFault: what is wrong, in words for the operator.
        """
        ...

    def use_idle_moment(self) -> bool:
        """Do a little of what makes later jobs faster, while none is there; whether there was anything to do."""
        ...

    def generate(self, request: "Request", params: "Params", sources: Sources, control: Control) -> Iterator[Generated]:
        """Run one job; yields each image as soon as it is decoded, or one clip.

        Raises:
            InvalidInput (a LoRA that does not go with the model), DownloadFailed (its file is gone), OutOfMemory,
            GpuFault, Internal (no usable picture), or, within one denoising step, what `control.raise_if_stopped`
            raises.
        """
        ...

"""The Protocol of the engine, and the values that cross between the GPU thread and everything else.

Knows no torch, no files and no network.
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
    """Whether the content safety check flagged it; None: no check ran."""


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
    """Where a job's weights are while it runs, and why."""

    mode: PlacementMode
    """All on the GPU; all but the text encoders; each network only while it runs; or nowhere: it does not fit."""
    reason: str
    evicted: tuple[str, ...] = field(default=())
    """Models to evict from the GPU first."""
    tiles: bool = False
    """Whether the VAE is tiled."""


class Generator(Protocol):
    """Loads and runs the models of this worker. Methods run in the GPU thread unless marked thread-safe."""

    def models(self, task_type: TaskType) -> Sequence[str]:
        """Return the model names that a request of this task may use, the default first; may be empty. Thread-safe."""
        ...

    def controlnet_types(self) -> Sequence[str]:
        """Return the types of control picture that a request may use; empty: no ControlNet. Thread-safe."""
        ...

    def describe(self, task_type: TaskType, model: str | None = None) -> "ModelDefaults":
        """Return a model's defaults. Reads small files only and imports nothing heavy. Thread-safe.

        `model` is a name from `models`; None: the first.

        Raises:
            ModelUnavailable: no model is configured for the task; the message names the variable to set.
        """
        ...

    def estimate(self, request: "Request", params: "Params") -> "Estimate | None":
        """Return the estimated seconds of each piece of a job; None: not known. Reads small files only. Thread-safe.

        Raises:
            ModelUnavailable: as `describe`.
        """
        ...

    def check(self, request: "Request", sources: Sources) -> None:
        """Refuse LoRA files that no model of this task can use. Reads headers only. Thread-safe.

        Raises:
            InvalidInput: naming each file and its problem.
            DownloadFailed: a file no longer exists.
        """
        ...

    def prepare(self, request: "Request", params: "Params", control: Control) -> Placement:
        """Place the weights of a job where they will run, with memory for its size reserved beside them.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, DiskFull, or what `control.raise_if_stopped` raises.
        """
        ...

    def preload(self, tasks: Sequence[TaskType] | None, control: Control) -> Sequence[str]:
        """Load the weights of `tasks` (None: all that fit) before the first job; returns the tasks that are ready."""
        ...

    def health(self) -> Sequence[str]:
        """Check the GPU and the configured models; returns the tasks that can be served, at least one.

        Raises:
            ModelUnavailable, GpuFault: the problem, for the operator.
        """
        ...

    def use_idle_moment(self) -> bool:
        """Do a small piece of work that makes later jobs faster; returns whether there was any."""
        ...

    def generate(self, request: "Request", params: "Params", sources: Sources, control: Control) -> Iterator[Generated]:
        """Run one job; yields each image as soon as it is decoded, or one clip.

        Raises:
            InvalidInput (a LoRA does not fit the model), DownloadFailed (its file is gone), OutOfMemory, GpuFault,
            Internal (no usable picture), or within one denoising step what `control.raise_if_stopped` raises.
        """
        ...

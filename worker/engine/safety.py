"""Runs the safety checker of diffusers' Stable Diffusion on results. Changes no pixel.

Importing this module imports no torch. Knows the checker's networks; knows no settings and no request.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.errors import Internal, ModelUnavailable
from worker.core.types import Control
from worker.engine.memory import device
from worker.engine.models import hub
from worker.engine.models.checker_files import checker_folders
from worker.engine.models.fetch import fetch
from worker.engine.models.registry import WeightSource
from worker.engine.models.weight_files import variant_of
from worker.engine.protocol import Generated, GeneratedImage
from worker.engine.vendor_errors import quiet, translated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES_APART = 16
"""Frames of a clip that the checker looks at: a second of Wan 2.1's, and the longest that a scene goes unseen."""

log = logging.getLogger(__name__)


class SafetyChecker:
    """CLIP's vision tower and 20 concepts (https://arxiv.org/abs/2210.04610), on the GPU in half precision: 0.6 GB."""

    def __init__(self, weights: WeightSource, *, cuda: bool, control: Control | None = None) -> None:
        """Load the checker, downloading it if necessary; `control` may stop the download.

        Raises:
            ModelUnavailable: it is not available; the message names the variable.
            OutOfMemory, GpuFault, DiskFull, or what `control.raise_if_stopped` raises.
        """
        started = time.monotonic()
        self._device = device.device(cuda=cuda)
        try:
            with translated("load"):
                folder = weights.path or _download(weights.hub_id, control, cuda=cuda)
                self._checker, self._processor = _load(folder, cuda=cuda)
                self._checker.to(self._device)
        except ModelUnavailable as error:
            raise ModelUnavailable(
                "model_unavailable.checker", variable=weights.variable, problem=error.message
            ) from error
        seconds = round(time.monotonic() - started, 2)
        log.info("safety checker loaded", extra={"action": "model_loaded", "seconds": seconds})

    def objects_to(self, generated: Generated) -> bool:
        """Whether it flags the image, or one of the clip's frames: the first, the last, and others between them.

        It sees squares: all of a picture is shown to it in several, or a wide one's sides would pass unseen.

        Raises:
            Internal: it gave no answer.
            OutOfMemory, GpuFault.
        """
        if isinstance(generated, GeneratedImage):
            return self._flags(generated.pixels)
        frames = generated.frames
        return any(self._flags(frames[index]) for index in _looked_at(len(frames)))

    def _flags(self, picture: "NDArray[np.uint8]") -> bool:
        """Whether any square of a (height, width, 3) picture is flagged."""
        import numpy as np
        from PIL import Image

        from worker.engine.resize import squares

        with translated("run"):
            for square in squares(Image.fromarray(picture)):
                seen = self._processor([square], return_tensors="pt").pixel_values
                # The checker blackens the pictures that it is given, so it gets an empty one.
                clip_input = seen.to(self._device, self._checker.dtype)
                _, flags = self._checker(clip_input=clip_input, images=[np.empty(0)])
                if any(flags):
                    return True
        return False


def _looked_at(frames: int) -> list[int]:
    """Which frames of a clip: three at least, `FRAMES_APART` at most."""
    parts = max(2, -(-(frames - 1) // FRAMES_APART))
    return sorted({round(place * (frames - 1) / parts) for place in range(parts + 1)})


def _download(hub_id: str, control: Control | None, *, cuda: bool) -> Path:
    if control is None:
        return hub.download(hub_id, "safety", half=cuda)
    return fetch(hub_id, "safety", control, half=cuda)


def _load(folder: Path, *, cuda: bool) -> tuple[Any, Any]:
    quiet()
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    kind: Any = StableDiffusionSafetyChecker
    network, processor = checker_folders(folder)
    checker, said = kind.from_pretrained(
        str(network),
        dtype=torch.float16 if cuda else torch.float32,
        variant=variant_of(network, half=cuda),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if said["missing_keys"]:
        # transformers initialises missing weights randomly, and a random checker flags nothing.
        raise ModelUnavailable("model_unavailable.checker_incomplete")
    checker.visual_projection.register_forward_hook(_answers)
    return checker.eval(), CLIPImageProcessor.from_pretrained(str(processor), local_files_only=True)


def _answers(_module: Any, _inputs: Any, embeds: Any) -> None:
    """Refuse a result that is not finite: NaN exceeds no threshold, so the picture would pass."""
    if not bool(embeds.isfinite().all()):
        raise Internal("internal.no_verdict")

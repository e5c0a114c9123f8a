"""Makes small previews during denoising: the clean picture that the scheduler currently predicts.

At each step a scheduler has an estimate of the clean latents (x0: https://arxiv.org/abs/2006.11239, equation 15). A
linear map converts them to colours, one pixel per latent, or a tiny autoencoder decodes them. Without a viewer nothing
is computed. With one, the scheduler's inputs and results are unchanged, and the GPU thread never waits: the picture is
copied from the GPU in the background and polled for later. Knows schedulers and latents; does not know the viewer.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from worker.core.types import Control
from worker.engine.memory.room import PREVIEW_SIDE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.engine.tiles import Box

log = logging.getLogger(__name__)

Rows = tuple[tuple[float, float, float], ...]
"""Red, green and blue, -1 ... 1, that each latent channel contributes to its pixel; the last row is a constant."""
Correction = Callable[[torch.Tensor], torch.Tensor]
Drawer = Callable[[torch.Tensor], torch.Tensor | None]
"""Converts (c, h, w) clean latents to (h, w, 3) uint8 pixels; None: no memory for it."""

LONGEST_SIDE = 192
"""Longest side of a preview: the number of latents along SDXL's longest native side, 1536."""
SDXL_FACTOR = 0.13025
"""SDXL's scaling factor; its tiny autoencoder takes latents as the UNet has them."""
NONE_SHOWN = "preview: has no effect; of this model no preview can be made"

# Fitted by the authors of ComfyUI (comfy/latent_formats.py at 75399d7: SDXL, SDXL_Playground_2_5, Wan21, Wan22), for
# latents as the networks take them, standardised.
_SDXL: Rows = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
    (0.1084, -0.0175, -0.0011),
)
_PLAYGROUND: Rows = (
    (0.3920, 0.4054, 0.4549),
    (-0.2634, -0.0196, 0.0653),
    (0.0568, 0.1687, -0.0755),
    (-0.3112, -0.2359, -0.2076),
    (0.0, 0.0, 0.0),
)
_WAN_21: Rows = (
    (-0.1299, -0.1692, 0.2932),
    (0.0671, 0.0406, 0.0442),
    (0.3568, 0.2548, 0.1747),
    (0.0372, 0.2344, 0.1420),
    (0.0313, 0.0189, -0.0328),
    (0.0296, -0.0956, -0.0665),
    (-0.3477, -0.4059, -0.2925),
    (0.0166, 0.1902, 0.1975),
    (-0.0412, 0.0267, -0.1364),
    (-0.1293, 0.0740, 0.1636),
    (0.0680, 0.3019, 0.1128),
    (0.0032, 0.0581, 0.0639),
    (-0.1251, 0.0927, 0.1699),
    (0.0060, -0.0633, 0.0005),
    (0.3477, 0.2275, 0.2950),
    (0.1984, 0.0913, 0.1861),
    (-0.1835, -0.0868, -0.3360),
)
_WAN_22: Rows = (
    (0.0119, 0.0103, 0.0046),
    (-0.1062, -0.0504, 0.0165),
    (0.0140, 0.0409, 0.0491),
    (-0.0813, -0.0677, 0.0607),
    (0.0656, 0.0851, 0.0808),
    (0.0264, 0.0463, 0.0912),
    (0.0295, 0.0326, 0.0590),
    (-0.0244, -0.0270, 0.0025),
    (0.0443, -0.0102, 0.0288),
    (-0.0465, -0.0090, -0.0205),
    (0.0359, 0.0236, 0.0082),
    (-0.0776, 0.0854, 0.1048),
    (0.0564, 0.0264, 0.0561),
    (0.0006, 0.0594, 0.0418),
    (-0.0319, -0.0542, -0.0637),
    (-0.0268, 0.0024, 0.0260),
    (0.0539, 0.0265, 0.0358),
    (-0.0359, -0.0312, -0.0287),
    (-0.0285, -0.1032, -0.1237),
    (0.1041, 0.0537, 0.0622),
    (-0.0086, -0.0374, -0.0051),
    (0.0390, 0.0670, 0.2863),
    (0.0069, 0.0144, 0.0082),
    (0.0006, -0.0167, 0.0079),
    (0.0313, -0.0574, -0.0232),
    (-0.1454, -0.0902, -0.0481),
    (0.0714, 0.0827, 0.0447),
    (-0.0304, -0.0574, -0.0196),
    (0.0401, 0.0384, 0.0204),
    (-0.0758, -0.0297, -0.0014),
    (0.0568, 0.1307, 0.1372),
    (-0.0055, -0.0310, -0.0380),
    (0.0239, -0.0305, 0.0325),
    (-0.0663, -0.0673, -0.0140),
    (-0.0416, -0.0047, -0.0023),
    (0.0166, 0.0112, -0.0093),
    (-0.0211, 0.0011, 0.0331),
    (0.1833, 0.1466, 0.2250),
    (-0.0368, 0.0370, 0.0295),
    (-0.3441, -0.3543, -0.2008),
    (-0.0479, -0.0489, -0.0420),
    (-0.0660, -0.0153, 0.0800),
    (-0.0101, 0.0068, 0.0156),
    (-0.0690, -0.0452, -0.0927),
    (-0.0145, 0.0041, 0.0015),
    (0.0421, 0.0451, 0.0373),
    (0.0504, -0.0483, -0.0356),
    (-0.0837, 0.0168, 0.0055),
    (0.0317, -0.0878, -0.1388),
)


def rows_for(vae: Any, own: Sequence[Sequence[float]] | None = None) -> Rows | None:
    """Return the map from a VAE's latents to colours: the model's own, or the published one; None: not known."""
    config = vae.config
    if "z_dim" in config:
        channels, published = config["z_dim"], {16: _WAN_21, 48: _WAN_22}.get(config["z_dim"])
    else:
        channels = config["latent_channels"]
        published = (_SDXL if config.get("latents_mean") is None else _PLAYGROUND) if channels == 4 else None
    if own is None:
        return published
    return tuple((red, green, blue) for red, green, blue in own) if len(own) == channels + 1 else None


def small(latents: torch.Tensor, side: int = LONGEST_SIDE) -> torch.Tensor:
    """Reduce (1, c, h, w), or the middle frame of (1, c, f, h, w), to (c, h, w) float32 of at most `side`."""
    one = (latents if latents.ndim == 4 else latents[:, :, latents.shape[2] // 2])[:1].float()
    height, width = one.shape[-2:]
    if (longest := max(height, width)) > side:
        size = [max(1, round(each * side / longest)) for each in (height, width)]
        one = torch.nn.functional.interpolate(one, size, mode="area")
    only: torch.Tensor = one[0]
    return only


@contextmanager
def shown(
    scheduler: Any,
    rows: Rows | None,
    control: Control,
    *,
    correct: Correction | None = None,
    place: Callable[[Image.Image], Image.Image] | None = None,
    draw: Drawer | None = None,
) -> Iterator[None]:
    """Send previews of the steps of `scheduler` to the job's viewer during the body.

    Args:
        scheduler: the pipeline's; restored afterwards.
        rows: see `rows_for`; None: nothing can be shown, which is reported as a warning.
        control: provides the viewer at each step.
        correct: a correction of the reduced clean latents.
        place: post-processes the picture; runs in the viewer's thread.
        draw: makes the pixels instead of `rows`, if there is memory for it.
    """
    step = scheduler.step

    @functools.wraps(step)
    def watched(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        viewer = control.viewer()
        if viewer is None:
            return step(model_output, timestep, sample, *args, **options)
        as_object = options.pop("return_dict", True)
        # Before the step: a scheduler may modify its input in place.
        known = _Known(small(sample), small(model_output), timestep)
        stepped = step(model_output, timestep, sample, *args, return_dict=True, **options)
        clean = _clean(scheduler, stepped, known)
        if clean is None or rows is None:
            control.warn(NONE_SHOWN)
        else:
            clean = clean if correct is None else correct(clean)
            viewer(Frame(_drawn(clean, rows, draw), place))
        return stepped if as_object else (stepped.prev_sample,)

    scheduler.step = watched
    try:
        yield
    finally:
        del scheduler.step


@dataclass(frozen=True, slots=True)
class _Known:
    """The arguments of a scheduler's step."""

    given: torch.Tensor
    """The noisy latents, reduced."""
    predicted: torch.Tensor
    """The network's output, reduced."""
    timestep: Any


def _clean(scheduler: Any, stepped: Any, known: _Known) -> torch.Tensor | None:
    """Return the reduced clean latents that a scheduler predicts after a step; None: it does not provide them."""
    given, predicted = known.given, known.predicted
    for name in ("pred_original_sample", "denoised"):
        if (found := getattr(stepped, name, None)) is not None:
            return small(found)
    config, outputs = scheduler.config, getattr(scheduler, "model_outputs", None)
    if outputs:
        # Multistep solvers keep converted network outputs: clean latents, or noise.
        newest = small(outputs[-1])
        if config.get("predict_x0", str(config.get("algorithm_type", "dpmsolver++")).endswith("++")):
            return newest
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index - 1])
        return (given - float(sigma) * newest) / float(alpha)
    if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        # A flow's velocity points from the clean latents to the noise: https://arxiv.org/abs/2210.02747.
        level: torch.Tensor = scheduler.sigmas[scheduler.step_index - 1]
        return given - level * predicted
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None or hasattr(scheduler, "sigmas"):
        return None
    # The remaining share of the clean latents: a variance-preserving schedule.
    left = _beside(levels, given).take(torch.as_tensor(known.timestep, device=given.device).long())
    alpha, sigma = left.sqrt(), (1 - left).sqrt()
    match config.get("prediction_type", "epsilon"):
        case "epsilon":
            return (given - sigma * predicted) / alpha
        case "v_prediction":  # https://arxiv.org/abs/2202.00512, appendix D
            return alpha * given - sigma * predicted
        case "sample":
            return predicted
    return None


def _beside(numbers: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return `numbers` as float32 on the device of `other`, without waiting for the GPU."""
    numbers = numbers.float()
    if not other.is_cuda or numbers.is_cuda:
        return numbers.to(other.device)
    return numbers.pin_memory().to(other.device, non_blocking=True)


@dataclass(slots=True)
class Beside:
    """Remembers whether a loaded model's jobs leave memory for a tiny autoencoder.

    Finding out that there is none costs time during a job: it waits for the GPU and empties torch's cache. So the
    result is kept until something leaves the GPU.
    """

    too_large: float = math.inf
    """Pixels of the smallest job that left no memory for it."""

    def changed(self) -> None:
        """Memory was freed: let the next job try again."""
        self.too_large = math.inf


def drawer(tiny: Any, vae: Any, beside: Beside, pixels: int) -> Drawer | None:
    """What draws with a tiny autoencoder for SDXL the latents of a model with this VAE; None: nothing can.

    At most 64 latents a side are drawn: at 512 pixels nothing is lost that could be seen at 192. That is a quarter of
    what SDXL's native size would take, in time and in room, and no more at any other size; 24 latents, which give 192
    pixels at once, would show less than the map does. A preview is not worth the memory of its job, which has `pixels`:
    where that is short, nothing more is drawn for it, nor for later ones of its size.
    """
    config = vae.config
    if tiny is None or config["latent_channels"] != tiny.config["latent_channels"]:
        return None
    mean, deviation = config.get("latents_mean"), config.get("latents_std")

    @torch.no_grad()
    def decoded(clean: torch.Tensor) -> torch.Tensor:
        latents = small(clean[None], PREVIEW_SIDE) * (SDXL_FACTOR / config["scaling_factor"])
        if mean is not None and deviation is not None:
            each, added = (_beside(torch.tensor(values), clean)[:, None, None] for values in (deviation, mean))
            latents = latents * each + added * SDXL_FACTOR
        latents = latents[None].to(tiny.dtype) / tiny.config["scaling_factor"]
        return _quantised(small(tiny.decode(latents, return_dict=False)[0]).permute(1, 2, 0))

    def draw(clean: torch.Tensor) -> torch.Tensor | None:
        if pixels >= beside.too_large:
            return None
        try:
            return decoded(clean)
        except torch.OutOfMemoryError:
            beside.too_large = pixels
        facts = {"action": "preview_out_of_memory", "pixels": pixels}
        log.warning("no room for PREVIEW_MODEL: previews are drawn without it", extra=facts)
        return None

    return draw


def _drawn(clean: torch.Tensor, rows: Rows, draw: Drawer | None) -> torch.Tensor:
    pixels = None if draw is None else draw(clean)
    return _coloured(clean, _beside(torch.tensor(rows), clean)) if pixels is None else pixels


def _coloured(clean: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Convert (c, h, w) latents to (h, w, 3) uint8 pixels."""
    return _quantised(torch.einsum("chw,cd->hwd", clean, colours[:-1]) + colours[-1])


def _quantised(values: torch.Tensor) -> torch.Tensor:
    return values.nan_to_num().add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)


class Frame:
    """Implements `core.types.Preview` for a picture that is being copied from the GPU."""

    def __init__(self, pixels: torch.Tensor, place: Callable[[Image.Image], Image.Image] | None = None) -> None:
        """`pixels`: (height, width, 3) uint8, copied while the GPU goes on."""
        self._place = place
        self._arrived: Any = None
        self._pixels = pixels
        if pixels.is_cuda:
            self._pixels = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
            self._pixels.copy_(pixels, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            self._arrived.record()

    def ready(self) -> bool:
        """As `Preview.ready`; never True on a GPU that has failed."""
        try:
            return self._arrived is None or bool(self._arrived.query())
        except RuntimeError:
            return False

    def picture(self) -> Image.Image:
        """As `Preview.picture`."""
        image = Image.fromarray(self._pixels.numpy())
        return image if self._place is None else self._place(image)


class Backdrop:
    """A large picture, small, on which the tiles that are drawn anew are seen one after another.

    For whoever looks, one preview at a time: nothing of it is done in the thread that denoises.
    """

    def __init__(self, pixels: "NDArray[np.uint8]") -> None:
        """`pixels`: (height, width, 3), RGB."""
        self._height, self._width = pixels.shape[:2]
        self._pixels: NDArray[np.uint8] | None = pixels
        self._small: Image.Image | None = None

    def with_tile(self, box: "Box", tile: Image.Image) -> Image.Image:
        """The picture with a tile, left, top, right, bottom in its own pixels, as it is now."""
        if self._pixels is not None:
            self._small = Image.fromarray(self._pixels)
            self._small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC, reducing_gap=2)
            self._pixels = None
        assert self._small is not None  # noqa: S101 - made above
        across, down = self._small.width / self._width, self._small.height / self._height
        left, right = round(box[0] * across), round(box[2] * across)
        top, bottom = round(box[1] * down), round(box[3] * down)
        self._small.paste(tile.resize((max(1, right - left), max(1, bottom - top))), (left, top))
        return self._small.copy()

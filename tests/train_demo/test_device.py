"""The training runs on another device than the processor's: no step mixes tensors of both.

The other device is torch's `meta`, which knows shapes and no values; what needs values is run on the processor alone.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worker.pipelines.places import DEMO_MODELS

from tools.train_demo import clips, decoders, device, encoders, images, texts, transformer

BATCHES = 4
COPIES = {"aten._to_copy.default", "aten.copy_.default", "aten.set_.source_Storage"}
"""What may take a tensor from one device to another."""


class OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it out
    """Raises where an operation is given tensors of two devices, but for single numbers, which a GPU takes too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        if str(func) not in COPIES and len({tensor.device for tensor in given}) > 1:
            raise AssertionError(f"{func} is given tensors of {[str(tensor.device) for tensor in given]}")
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return False  # UMT5 asks whether no word is masked; either answer goes a way that real tensors go
        return func(*args, **kwargs or {})


class Enough(Exception):
    """Raised once the batches have been learned from."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another default device, and a training loop of a few batches without its optimizer, with few scenes at hand."""

    def fit(_name: str, _model: Any, loss_of: Callable[[random.Random, int], torch.Tensor], **_options: Any) -> None:
        for step in range(BATCHES):
            loss = loss_of(random.Random(step), step)
            assert loss.device.type == "meta"
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it out
        raise Enough

    for module in (decoders, encoders, images, texts, transformer):
        monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(images, "_NATIVE_ALONE", 0.0)
    monkeypatch.setattr(images, "_OTHERS_SHARE", 0.5)
    buckets = tuple(
        dataclasses.replace(bucket, kept=4, share=(1 / len(clips.BUCKETS),) * 3) for bucket in clips.BUCKETS
    )
    monkeypatch.setattr(transformer, "BUCKETS", buckets)
    monkeypatch.setattr(transformer, "_FIRST_FRAME_GIVEN", 0.5)
    monkeypatch.setattr(transformer, "_OWN_ANSWERS", (0.5, 0.5, 0.5))
    device.use("meta")
    yield
    torch.set_default_device(None)


STAGES: dict[str, Callable[[Path], None]] = {
    "image_text": lambda work: texts.clip_encoders(work / "sdxl", work, 100),
    "video_text": lambda work: texts.t5_encoder(work / "wan", work, 100),
    "image_encoder": lambda work: encoders.image_encoder(work / "vae", work, 100),
    "video_encoder": lambda work: encoders.video_encoder(work / "vae", work, 100),
    "image_unet": lambda work: images.base(DEMO_MODELS / "sdxl", work, 100),
    "image_sizes": lambda work: images.sizes(DEMO_MODELS / "sdxl", work, 100),
    "image_refiner": lambda work: images.refiner(DEMO_MODELS / "sdxl", work, work, 100),
    "video_transformer": lambda work: transformer.transformer(DEMO_MODELS / "wan", work, 100),
    "video_motion": lambda work: transformer.motion(DEMO_MODELS / "wan", work, 100),
    "video_turning": lambda work: transformer.turning(DEMO_MODELS / "wan", work, 100),
}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_all_of_its_tensors_on_one_device(stage: str, tmp_path: Path) -> None:
    with pytest.raises(Enough), OneDevice():  # type: ignore[no-untyped-call]  # as above
        STAGES[stage](tmp_path)

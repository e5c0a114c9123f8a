"""What SDXL's two UNets are shown in training, and what they are asked beside it."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from worker.pipelines.places import DEMO_MODELS

from tools.train_demo import architecture, images
from tools.train_demo.captions import Caption
from tools.train_demo.images import caption_of
from tools.train_demo.latents import SIDE, of_pictures
from tools.train_demo.scenes import PICTURE_SIZES, Scene, draw_lots, paint

BATCHES = 40


class Shown:
    """In place of a UNet: which noise levels, sizes and scenes it is shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, tuple[int, int], Scene]] = []
        self._painted: list[Scene] = []
        self._size = images.NATIVE
        monkeypatch.setattr(images, "paint", self._paint)

    def _paint(self, scenes: list[Scene], height: int, width: int) -> torch.Tensor:
        self._painted, self._size = scenes, (height, width)
        return paint(scenes, height, width)

    def __call__(self, noisy: torch.Tensor, steps: torch.Tensor, **_: Any) -> Any:
        self.seen += [(step, self._size, scene) for step, scene in zip(steps.tolist(), self._painted, strict=True)]
        return SimpleNamespace(sample=torch.zeros_like(noisy))


def shown(monkeypatch: pytest.MonkeyPatch, *, refiner: bool, others: float) -> list[tuple[int, tuple[int, int], Scene]]:
    unet = Shown(monkeypatch)
    monkeypatch.setattr(images, "_OTHERS", {(64, 64): 1.0, (256, 768): 0.3})
    loss = images._Loss(DEMO_MODELS / "sdxl", unet, refiner=refiner)
    for step in range(BATCHES):
        torch.manual_seed(step)
        loss(random.Random(step), others)
    return unet.seen


@pytest.fixture(scope="module")
def mixed() -> list[tuple[int, tuple[int, int], Scene]]:
    """Of the base, with other sizes in half of the batches."""
    with pytest.MonkeyPatch.context() as patch:
        return shown(patch, refiner=False, others=0.5)


def upright(scene: Scene) -> bool:
    return scene.angle == 0 and scene.radius in PICTURE_SIZES.values()


def test_shapes_lie_loosely_only_where_little_enough_noise_shows_them(
    mixed: list[tuple[int, tuple[int, int], Scene]],
) -> None:
    assert all(upright(scene) for step, _, scene in mixed if step >= images._LITTLE_NOISE)
    little = [upright(scene) for step, _, scene in mixed if step < images._LITTLE_NOISE]
    assert 0.4 < sum(little) / len(little) < 0.8


def test_words_are_of_another_picture_at_times_and_only_where_the_picture_is_seen_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Scene] = []

    def noted(scene: Scene, rng: random.Random) -> Caption:
        told.append(scene)
        return caption_of(scene, rng)

    monkeypatch.setattr(images, "caption_of", noted)
    seen = shown(monkeypatch, refiner=False, others=0.0)
    others = [(step, scene != other) for (step, _, scene), other in zip(seen, told, strict=True)]
    assert not any(is_another for step, is_another in others if step >= images._SHOWN_WELL)
    well = [is_another for step, is_another in others if step < images._SHOWN_WELL]
    assert 0.05 < sum(well) / len(well) < 0.4


def test_other_sizes_come_where_asked_for_and_drafted_ones_with_little_noise(
    monkeypatch: pytest.MonkeyPatch, mixed: list[tuple[int, tuple[int, int], Scene]]
) -> None:
    assert {size for _, size, _ in shown(monkeypatch, refiner=False, others=0.0)} == {images.NATIVE}
    assert max(step for step, size, _ in mixed if size == (256, 768)) < images._LITTLE_NOISE
    assert max(step for step, size, _ in mixed if size == (64, 64)) > images._LITTLE_NOISE


def test_the_base_sees_its_native_size_alone_at_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[float] = []

    def fit(_name: str, _model: Any, loss_of: Callable[[random.Random, int], Any], **_options: Any) -> None:
        for step in (0, 49, 50, 99):
            loss_of(random.Random(), step)

    monkeypatch.setattr(images, "_Loss", lambda *_, **__: lambda _rng, others: asked.append(others))
    monkeypatch.setattr(images, "fit", fit)
    images.base(tmp_path, tmp_path, steps=100)
    assert asked == [0, 0, images._OTHERS_SHARE, images._OTHERS_SHARE]


def test_the_refiner_sees_what_it_takes_over_and_the_base_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(step for step, _, _ in shown(monkeypatch, refiner=True, others=0.5)) < images._REFINED
    steps = [step for step, _, _ in shown(monkeypatch, refiner=False, others=0.0)]
    assert min(steps) < 50
    assert max(steps) > 950


@pytest.mark.parametrize(("height", "width"), [images.NATIVE, *images._OTHERS])
def test_the_unet_is_asked_for_the_cover_of_every_latent_at_three_levels_at_every_size(height: int, width: int) -> None:
    sides = (height // SIDE, width // SIDE)
    unet = architecture.unet(refiner=False)
    probes = images._Probes(unet)
    with torch.no_grad():
        for name, value in probes.named_parameters():
            value.fill_(0.25 if name.endswith("bias") else 0.0)
        unet(
            torch.randn(2, architecture.LATENT_CHANNELS, *sides),
            500,
            encoder_hidden_states=torch.zeros(2, 77, architecture.TEXT_WIDTH + architecture.TEXT_WIDTH_2),
            added_cond_kwargs={"text_embeds": torch.zeros(2, architecture.CODE), "time_ids": torch.zeros(2, 6)},
        )
    cover, weight = torch.full((2, 1, *sides), 0.75), torch.rand(2, 1, *sides)
    torch.testing.assert_close(probes(cover, weight), torch.tensor(3 * 0.5**2))


def test_every_shape_counts_more_than_its_background() -> None:
    rng = random.Random(0)
    latents = of_pictures(paint([draw_lots(rng) for _ in range(200)], 256, 256)[:, 0] * 2 - 1)
    weight = images._shape_weight(latents)
    assert (weight.flatten(1).amax(1) > 5).all()
    assert (weight[..., 0, 0] == 1).all()
    assert (weight == 1).float().mean() > 0.6

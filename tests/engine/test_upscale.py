"""Upscaled pictures: by a network in tiles, by Lanczos, and by a model that redraws their details."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.engine.conftest import engine_of, request_of
from tests.support.engine_jobs import Recorder, image_params, picture
from tests.support.upscalers import REAL, rrdb
from worker.api.params import ImageParams, Upscale
from worker.core.config import Settings
from worker.core.errors import Cancelled, Internal, OutOfMemory
from worker.core.types import Sources, TaskType
from worker.engine import upscale
from worker.engine.engine import Engine
from worker.engine.memory.room import UPSCALE_TILES
from worker.engine.models.registry import ModelRegistry
from worker.engine.models.upscaler import Upscaler, demo_weights, network
from worker.engine.models.upscaler_file import Layout
from worker.engine.protocol import GeneratedImage

CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]


def silent(_share: float) -> None:
    """Ignore progress."""


def enlarged(made: Upscaler, pixels: Pixels, factor: int, tile: int, tell: Callable[[float], None] = silent) -> Pixels:
    return upscale.upscaled(made, pixels, factor, tile=tile, device=CPU, tell=tell)


def drawn(width: int, height: int) -> Pixels:
    """Draw smooth shapes with edges, as pictures have them."""
    down, across = np.mgrid[0:height, 0:width]
    rings = 127 + 120 * np.sin(np.hypot(across - width / 3, down - height / 2) / 4)
    return np.stack([rings, 255 * across / width, np.where(across > down, 220, 30)], 2).astype(np.uint8)


def rrdb_net(found: Layout) -> Upscaler:
    """Return a network with random weights, with an output in the range of colours."""
    dice = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=dice) * 0.08 for name, shape in rrdb(found, REAL).items()}
    weights["conv_last.bias"] = torch.full((3,), 0.5)
    return network(weights)


NETWORKS = {
    "built in, x4": lambda: network(demo_weights()),
    "rrdb, x4": lambda: rrdb_net(Layout("rrdb", 4, 8, 2, 4, 1, 2)),
    "rrdb, x2 of folded pixels": lambda: rrdb_net(Layout("rrdb", 2, 8, 2, 4, 2, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("factor", [2, 4])
def test_any_size_comes_out_as_many_times_as_large_and_tiles_show_no_seam(name: str, factor: int) -> None:
    made, pixels = NETWORKS[name](), drawn(151, 97)
    whole, tiled = (enlarged(made, pixels, factor, tile) for tile in (512, 64))
    assert whole.shape == tiled.shape == (97 * factor, 151 * factor, 3)
    off = np.abs(whole.astype(int) - tiled)
    assert off.mean() < 0.05
    assert off.max() <= 4


def test_the_built_in_one_is_near_lanczos_up_to_the_edges() -> None:
    pixels = drawn(80, 60)
    lanczos = np.asarray(Image.fromarray(pixels).resize((160, 120), Image.Resampling.LANCZOS)).astype(int)
    off = np.abs(enlarged(network(demo_weights()), pixels, 2, 64) - lanczos)
    assert off.mean() < 3
    assert np.abs(off[[0, -1]]).mean() < 6


def test_without_memory_the_tiles_become_smaller_until_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made, pixels, tried, limit = network(demo_weights()), drawn(300, 200), [], 150

    def scarce(given: Upscaler, tile: Pixels, device: torch.device) -> Any:
        tried.append(max(tile.shape))
        if max(tile.shape) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return of_enough(given, tile, device)

    whole = enlarged(made, pixels, 2, 512)
    of_enough = upscale._tile
    monkeypatch.setattr(upscale, "_tile", scarce)
    assert np.abs(enlarged(made, pixels, 2, 512).astype(int) - whole).max() <= 1
    assert max(tried[-4:]) <= 128
    limit = 0
    with pytest.raises(OutOfMemory):
        enlarged(made, pixels, 2, 512)
    assert max(tried[-1:]) <= min(UPSCALE_TILES)


def test_numbers_that_are_none_are_no_picture() -> None:
    made = network(demo_weights())
    made.body[2].weight.data[0] = torch.nan  # type: ignore[index, union-attr]
    with pytest.raises(Internal):
        enlarged(made, drawn(20, 20), 4, 64)


def test_what_is_told_after_a_tile_may_end_it() -> None:
    shares: list[float] = []

    def cancel(share: float) -> None:
        shares.append(share)
        if share > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        enlarged(network(demo_weights()), drawn(200, 200), 4, 64, cancel)
    assert shares == sorted(shares)
    assert 1 < len(shares) < 16


# --- Through the engine ---------------------------------------------------------------------------------------------


def given(creativity: float = 0.0, *, by: str = "demo", size: tuple[int, int] = (64, 64), factor: int = 2) -> Any:
    width, height = size[0] * factor, size[1] * factor
    tile = (width, height) if creativity else None
    tile = None if tile is None else (-(-width // 8) * 8, -(-height // 8) * 8)
    return Upscale(factor, width, height, by, creativity, tile)


def run(engine: Engine, params: ImageParams, source: Image.Image | None = None, control: Recorder | None = None) -> Any:
    task = TaskType.TEXT2IMG if source is None else TaskType.UPSCALE
    return list(engine.generate(request_of(task), params, Sources(image=source), control or Recorder()))


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{part}.{key}": tensor.clone()
        for name, entry in engine._cache._loaded.items()
        for part, module in entry.parts.modules().items()
        for key, tensor in module.state_dict().items()
    }


def without_upscaler(settings: Settings) -> Engine:
    """Return an engine whose operator has an image model and no upscaler."""

    class Without(ModelRegistry):
        def upscaler(self) -> None:
            return None

    return Engine(settings, registry=Without(settings, cuda=False, where=()))


def test_a_drawn_picture_is_enlarged_and_is_otherwise_the_one_that_would_have_been_drawn(engine: Engine) -> None:
    (plain,), (large,) = run(engine, image_params()), run(engine, image_params(upscale=given()))
    assert isinstance(large, GeneratedImage)
    assert large.pixels.shape == (128, 128, 3)
    smaller = np.asarray(Image.fromarray(large.pixels).resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(smaller - plain.pixels).mean() < 6
    assert np.array_equal(run(engine, image_params())[0].pixels, plain.pixels)


def test_more_creativity_draws_more_anew_and_nothing_of_it_stays(engine: Engine) -> None:
    source = Image.fromarray(run(engine, image_params(width=72, height=56, num_inference_steps=8))[0].pixels)
    job = {"enlarges": True, "num_inference_steps": 8, "width": 72, "height": 56}
    levels = (0.0, 0.125, 0.25, 0.5)
    made = [
        run(engine, image_params(**job, upscale=given(level, size=(72, 56))), source)[0].pixels.astype(int)
        for level in levels
    ]
    before = weights(engine)
    distances = [float(np.abs(one - made[0]).mean()) for one in made]
    assert distances == sorted(distances)
    assert 0 < distances[1] < distances[2]
    again = run(engine, image_params(**job, upscale=given(0.5, size=(72, 56))), source)[0].pixels
    assert np.array_equal(again, made[3])
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_large_picture_is_drawn_anew_in_tiles_whose_steps_are_planned(engine: Engine) -> None:
    size = Upscale(2, 256, 192, "demo", 0.5, (128, 128))
    params = image_params(enlarges=True, width=128, height=96, num_inference_steps=4, upscale=size)
    control = Recorder()
    estimate = engine.estimate(request_of(TaskType.UPSCALE), params)
    (made,) = run(engine, params, Image.fromarray(drawn(128, 96)), control)
    assert made.pixels.shape == (192, 256, 3)
    assert estimate is not None
    assert control.steps[-1] == control.progress[-1].total_steps
    assert control.steps[-1] % 2 == 0


@pytest.mark.parametrize("step", [1, 3])
def test_a_job_that_is_cancelled_while_it_draws_anew_leaves_nothing(engine: Engine, step: int) -> None:
    source = Image.fromarray(drawn(64, 64))
    job = {"enlarges": True, "num_inference_steps": 8, "upscale": given(0.5)}
    run(engine, image_params(**job), source)
    before = weights(engine)
    with pytest.raises(Cancelled):
        run(engine, image_params(**job), source, Recorder(cancel_at=step))
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_out_of_memory_while_it_draws_anew_does_not_draw_the_picture_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine.families.sdxl import SdxlJob

    params = image_params(num_inference_steps=4, upscale=given(0.5))
    expected = run(engine, params)[0].pixels
    failed: list[bool] = []
    paint = SdxlJob._tile_anew

    def once(self: SdxlJob, *args: Any) -> Any:
        if not failed:
            failed.append(True)
            self.phase = "denoise"
            raise torch.OutOfMemoryError("CUDA out of memory")
        return paint(self, *args)

    monkeypatch.setattr(SdxlJob, "_tile_anew", once)
    control = Recorder()
    (made,) = run(engine, params, control=control)
    assert np.array_equal(made.pixels, expected)
    assert control.steps.count(1) == 1
    assert any("the slow way" in warning for warning in control.warnings)


def test_without_an_upscaler_lanczos_enlarges_and_the_model_draws(demo_settings: Settings) -> None:
    engine, source = without_upscaler(demo_settings), picture(40, 30)
    plain = image_params(enlarges=True, width=40, height=30, upscale=given(by="lanczos", size=(40, 30)))
    (made,) = run(engine, plain, source)
    assert np.array_equal(made.pixels, np.asarray(source.resize((80, 60), Image.Resampling.LANCZOS)))
    creative = image_params(enlarges=True, width=40, height=30, upscale=given(0.5, by="lanczos", size=(40, 30)))
    assert not np.array_equal(run(engine, creative, source)[0].pixels, made.pixels)


def test_where_nothing_is_drawn_no_image_model_is_loaded(demo_settings: Settings) -> None:
    engine = engine_of(demo_settings)
    params = image_params(enlarges=True, width=645, height=1398, upscale=given(size=(645, 1398)))
    control = Recorder()
    (made,) = run(engine, params, Image.fromarray(drawn(645, 1398)), control)
    assert made.pixels.shape == (2796, 1290, 3)
    assert engine.loaded == {"upscaler:demo": "resident"}
    shares = [progress.share for progress in control.progress if progress.part == "upscale"]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)


def test_the_safety_check_comes_before_and_once_more_after_what_was_drawn_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    sizes: list[int] = []

    def checked(generated: Any) -> Any:
        sizes.append(generated.pixels.shape[0])
        return replace(generated, nsfw=len(sizes) == 1)

    monkeypatch.setattr(engine, "_checked", checked)
    (plain,) = run(engine, image_params(upscale=given()))
    assert (sizes, plain.nsfw) == ([64], True)
    sizes.clear()
    (drawn_anew,) = run(engine, image_params(num_inference_steps=4, upscale=given(0.5)))
    assert (sizes, drawn_anew.nsfw) == ([64, 128], True)

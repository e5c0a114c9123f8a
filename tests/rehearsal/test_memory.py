"""Where weights are, when they move, and what happens on a card that is too small."""

from collections import Counter
from pathlib import Path

import pytest

from tests.rehearsal.card import GIB
from tests.rehearsal.jobs import rehearsal, room_of
from tests.rehearsal.models import A14B, REFINED_SDXL, SDXL, TI2V_5B, WAN_1_3B
from worker.core.errors import OutOfMemory
from worker.core.types import TaskType
from worker.engine.protocol import Placement

T2I, T2V = TaskType.TEXT2IMG, TaskType.TEXT2VIDEO


def test_offloaded_weights_go_up_once_a_job_and_never_down(tmp_path: Path) -> None:
    """SDXL with the refiner on 2.6 GiB, 3.9 GiB of weights: nothing is left behind, and the weights can return."""
    split = {"high_noise_frac": 0.5, "refiner_inference_steps": 8, "num_inference_steps": 8}
    with rehearsal(tmp_path, REFINED_SDXL.shallow(), gib=2.9) as stage:
        for _ in range(2):
            run = stage.run(TaskType.INPAINT, **split)
            assert run.placement.mode == "offloaded"
            assert (run.calls["unet"], run.calls["refiner_unet"]) == (3, 4)
            assert run.weights == stage.card.now == 0
            entry = stage.engine._cache[stage.spec(T2I)]
            sizes = entry.offloader.networks
            # The VAE encodes before and decodes after; both experts use the second text encoder.
            once = sum(sizes.values()) + sizes["vae"]
            assert once <= run.card.up <= once + 2 * 2**20
            assert run.card.down < 2**20


def test_all_but_the_text_encoder_stays_and_that_alone_moves(tmp_path: Path) -> None:
    with rehearsal(tmp_path, WAN_1_3B.shallow(), gib=4.3) as stage:
        for _ in range(2):
            run = stage.run(T2V, width=480, height=320, num_frames=9)
            assert run.placement.mode == "partly"
            sizes = stage.engine._cache[stage.spec(T2V)].offloader.networks
            text = sizes.pop("text_encoder")
            assert stage.card.now == pytest.approx(sum(sizes.values()), rel=0.01)
            assert run.warnings == []
            assert run.card.down < 2**20 * 16  # the clip's pixels
        assert text <= run.card.up <= text + 2 * 2**20


def test_a_card_that_has_grown_takes_the_weights_back(tmp_path: Path) -> None:
    with rehearsal(tmp_path, SDXL.shallow(), gib=1.9) as stage:
        assert stage.run(T2I).placement.mode == "offloaded"
        entry = stage.engine._cache[stage.spec(T2I)]
        entry.offloader.settle(Placement("resident", "there is room"))
        assert stage.card.now == pytest.approx(entry.offloader.bytes, rel=0.01)
        del entry
        stage.engine.unload()
        assert stage.card.now == 0


def test_what_ran_out_of_memory_is_done_once_more_and_nothing_else(tmp_path: Path) -> None:
    """The card has 1.4 GiB less than it reports: the decode fails, the latents are kept, and the next job knows."""
    size = {"width": 1024, "height": 1024, "num_inference_steps": 3}
    with rehearsal(tmp_path, SDXL.shallow(), gib=4.0, missing=1.4) as stage:
        first = stage.run(T2I, **size)
        assert first.placement.mode == "resident"
        assert (first.calls["unet"], first.calls["text_encoder"]) == (3, 1)
        assert len(first.warnings) == 1
        second = stage.run(T2I, **size)
        assert second.placement.tiles or second.placement.mode != "resident"
        assert (second.calls["unet"], second.warnings) == (3, [])


def test_a_clip_that_ran_out_of_memory_is_denoised_once(tmp_path: Path) -> None:
    size = {"width": 480, "height": 320, "num_frames": 9}
    with rehearsal(tmp_path, WAN_1_3B.shallow(), gib=5.6, missing=1.9) as stage:
        run = stage.run(T2V, **size)
        assert run.placement.mode == "resident"
        assert (run.calls["transformer"], run.calls["text_encoder"]) == (4, 2)
        assert run.shapes == [(9, 320, 480, 3)]
        assert len(run.warnings) == 1


def test_images_and_clips_in_turn_are_read_from_the_disk_once(tmp_path: Path) -> None:
    """SDXL and Wan 1.3B at full size on 24 GB."""
    sizes = {T2I: {"width": 1024, "height": 1024}, T2V: {"width": 832, "height": 480, "num_frames": 81}}
    with rehearsal(tmp_path, SDXL, WAN_1_3B, gib=22.0) as stage:
        for task in (T2I, T2V, T2I, T2V):
            stage.prepare(task, **sizes[task])
        assert set(Counter(stage.read).values()) == {1}
        assert len(stage.read) == len(SDXL.networks) + len(WAN_1_3B.networks)


@pytest.mark.parametrize(
    ("gib", "mode", "tiles"),
    [(44.4, "resident", False), (23.1, "partly", False), (22.0, "offloaded", False), (15.7, "offloaded", False)],
)
def test_the_video_model_of_the_hub_is_planned_before_it_works(
    tmp_path: Path, gib: float, mode: str, tiles: bool
) -> None:
    """TI2V 5B at 1280x704x81, on cards sold as 48, 24 (RTX 4090, L4) and 16 GB."""
    with rehearsal(tmp_path, TI2V_5B, gib=gib) as stage:
        placement = stage.prepare(T2V, width=1280, height=704, num_frames=81)
        assert (placement.mode, placement.tiles) == (mode, tiles)
        assert (stage.card.now > 20 * GIB) == (mode == "resident")


@pytest.mark.parametrize(("quantize", "mode"), [("none", "offloaded"), ("int8", "resident")])
def test_two_experts_of_fourteen_billion_stay_on_a_card_of_48_gb_in_eight_bits(
    tmp_path: Path, quantize: str, mode: str
) -> None:
    """A14B at 832x480x81: unquantised, both experts move for every clip."""
    with rehearsal(tmp_path, A14B, gib=44.4, quantize=quantize) as stage:
        placement = stage.prepare(T2V, width=832, height=480, num_frames=81)
        assert placement.mode == mode
        entry = stage.engine._cache[stage.spec(T2V)]
        assert (36 * GIB < stage.card.now < 39 * GIB) == (quantize != "none")
        assert stage.card.now == pytest.approx(entry.offloader.resting_bytes, rel=0.01)


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_a_job_in_eight_bits_works_in_the_room_that_is_planned(tmp_path: Path, quantize: str) -> None:
    size = {"width": 832, "height": 480, "num_frames": 33}
    with rehearsal(tmp_path, A14B.shallow(), gib=44.4, quantize=quantize) as stage:
        run = stage.run(T2V, **size)
        estimated = room_of(stage, T2V, **size).denoise
        assert run.warnings == []
        assert run.beside_weights("denoise") <= 1.1 * estimated, (run.beside_weights("denoise") / GIB, estimated / GIB)


def test_what_fits_nowhere_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with rehearsal(tmp_path, TI2V_5B, gib=8) as stage:
        with pytest.raises(OutOfMemory):
            stage.prepare(T2V, width=1280, height=704, num_frames=81)
        assert stage.read == []

"""The content safety check: each result has its flag and its own pixels, and without a checker nothing runs."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.engine.conftest import Runner, engine_of, prepare, request_of
from tests.support.engine_jobs import Recorder, image_params, picture, sources_of, video_params
from tests.support.model_hub import model_hub
from tests.support.small_models import safety_checker
from worker.core.config import REPOSITORY, Settings
from worker.core.errors import Internal, ModelUnavailable, OutOfMemory
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.memory import device
from worker.engine.models import hub
from worker.engine.models.checker_files import needed_files
from worker.engine.models.registry import PINNED, SAFETY, ModelRegistry, WeightSource
from worker.engine.protocol import Generated, GeneratedClip, GeneratedImage
from worker.engine.resize import squares
from worker.engine.safety import SafetyChecker, _looked_at

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def flags_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return safety_checker(tmp_path_factory.mktemp("safety") / "all", flags=True)


@pytest.fixture(scope="module")
def flags_nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return safety_checker(tmp_path_factory.mktemp("safety") / "nothing", flags=False)


@pytest.fixture
def with_checker(demo_settings: Settings) -> MakeEngine:
    def make(folder: Path | str, mode: str = "flag", **changes: Any) -> Engine:
        return engine_of(demo_settings, **{"safety_checker": mode, "safety_model": str(folder)} | changes)

    return make


def generate(engine: Engine, task: str, **changes: Any) -> list[Generated]:
    params = video_params(**changes) if task.endswith("video") else image_params(**changes)
    return list(engine.generate(request_of(TaskType(task)), params, sources_of(task), Recorder()))


def weights(folder: Path) -> WeightSource:
    return WeightSource("SAFETY_MODEL", "safety", "folder", folder.name, folder)


def spoiled(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    shutil.copytree(source, folder)
    save_file(change(load_file(source / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


def of_a_pipeline(source: Path, folder: Path) -> Path:
    """Put the same checker among a pipeline's folders, of which the others are not read."""
    shutil.copytree(source, folder / "safety_checker")
    (folder / "feature_extractor").mkdir()
    (folder / "safety_checker" / "preprocessor_config.json").rename(
        folder / "feature_extractor" / "preprocessor_config.json"
    )
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not for a checker")
    for name in ("model_index.json", "unet/config.json"):
        (folder / name).write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def downloaded(tmp_path: Path, *, half: bool) -> tuple[Path | None, str]:
    """Download org/checker from the hub in `tmp_path` in another process; returns its path, or the error."""
    code = f"from worker.engine.models import hub; print(hub.download('org/checker', 'safety', half={half}))"
    with model_hub(tmp_path / "hub") as served:
        environment = os.environ | {
            "HF_ENDPOINT": served.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
        }
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    if ran.returncode:
        return None, ran.stderr.strip().splitlines()[-1]
    return Path(ran.stdout.strip()), ""


@pytest.mark.parametrize("mode", ["flag", "block"])
def test_what_the_checker_objects_to_is_flagged_and_keeps_its_pixels(
    with_checker: MakeEngine, flags_all: Path, run: Runner, mode: str
) -> None:
    engine = with_checker(flags_all, mode)
    images = generate(engine, "text2img", seeds=(7, 8))
    assert [image.nsfw for image in images] == [True, True]
    for image, unchecked in zip(images, run("text2img", seeds=(7, 8)), strict=True):
        assert isinstance(image, GeneratedImage)
        assert np.array_equal(image.pixels, unchecked)
    (clip,) = generate(engine, "text2video")
    assert isinstance(clip, GeneratedClip)
    assert clip.nsfw is True
    assert np.array_equal(clip.frames, run("text2video")[0])


def test_what_it_does_not_object_to_is_marked_as_checked(with_checker: MakeEngine, flags_nothing: Path) -> None:
    engine = with_checker(flags_nothing)
    for task in ("text2img", "img2video"):
        assert [generated.nsfw for generated in generate(engine, task)] == [False]


def test_off_means_that_nothing_is_looked_for_or_loaded(with_checker: MakeEngine) -> None:
    engine = with_checker("/gone", "off")
    assert [image.nsfw for image in generate(engine, "text2img")] == [None]
    assert engine.health() == tuple(TaskType)


def test_one_picture_is_told_from_others(tmp_path: Path) -> None:
    checker = SafetyChecker(weights(safety_checker(tmp_path / "one", flags=picture(seed=1))), cuda=False)
    for seed in range(4):
        assert checker.objects_to(GeneratedImage(0, 7, np.asarray(picture(seed=seed)))) == (seed == 1)


def test_a_strip_takes_no_memory_to_speak_of(flags_nothing: Path) -> None:
    """Its shorter side is scaled to 224 pixels; scaling 2 x 60,000 whole would take 4.5 GB."""
    checker = SafetyChecker(weights(flags_nothing), cuda=False)
    strip = np.zeros((2, 60_000, 3), np.uint8)
    tracemalloc.start()
    try:
        assert not checker.objects_to(GeneratedImage(0, 7, strip))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(320, 64), (64, 320), (100, 64), (192, 64), (64, 74)])
def test_no_part_of_a_picture_goes_unseen(tmp_path: Path, size: tuple[int, int]) -> None:
    """The network sees a square: content at the side of a wide picture used to pass."""
    bad, good = picture(seed=1), picture(seed=2)
    checker = SafetyChecker(weights(safety_checker(tmp_path / "one", flags=bad)), cuda=False)
    canvas = Image.new("RGB", size)
    for left in range(0, size[0], 64):
        for top in range(0, size[1], 64):
            canvas.paste(good, (left, top))
    assert not checker.objects_to(GeneratedImage(0, 7, np.asarray(canvas)))
    ends = {(0, 0), (size[0] - 64, size[1] - 64), ((size[0] - 64) // 2, (size[1] - 64) // 2)}
    for end in ends:
        spoilt = canvas.copy()
        spoilt.paste(bad, end)
        assert checker.objects_to(GeneratedImage(0, 7, np.asarray(spoilt))), end


@pytest.mark.parametrize(
    "size", [(1000, 1000), (1100, 1000), (1216, 832), (832, 1216), (2048, 64), (1, 60_000), (7, 3)]
)
def test_the_squares_of_a_picture_reach_from_end_to_end_with_its_middle_among_them(size: tuple[int, int]) -> None:
    image = picture(*size)
    shown = list(squares(image))
    short, long = sorted(size)
    if long <= short * 1.1:
        assert shown == [image]
        return
    assert len(shown) % 2 == 1
    assert {square.size for square in shown} == {(short, short)}
    assert len(shown) == 33 or len(shown) * short >= long
    low, high = (0, 0, short, short), (size[0] - short, size[1] - short, *size)
    assert (shown[0].tobytes(), shown[-1].tobytes()) == (image.crop(low).tobytes(), image.crop(high).tobytes())


def test_of_a_clip_a_frame_of_every_second_counts() -> None:
    assert [_looked_at(frames) for frames in (1, 5, 33, 81)] == [[0], [0, 2, 4], [0, 16, 32], [0, 16, 32, 48, 64, 80]]
    for frames in range(5, 122, 4):
        seen = _looked_at(frames)
        assert (seen[0], seen[-1]) == (0, frames - 1)
        assert max(later - one for one, later in itertools.pairwise(seen)) <= 16


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_of_a_short_clip_the_first_the_middle_and_the_last_frame_count(tmp_path: Path, frames: int) -> None:
    checker = SafetyChecker(weights(safety_checker(tmp_path / "one", flags=picture(seed=1))), cuda=False)
    bad, good = np.asarray(picture(seed=1)), np.asarray(picture(seed=2))
    for index in range(frames):
        clip = GeneratedClip(7, np.stack([bad if number == index else good for number in range(frames)]))
        assert checker.objects_to(clip) == (index in {0, frames // 2, frames - 1})


def test_the_published_weights_names_are_understood(flags_nothing: Path, tmp_path: Path) -> None:
    """The published file has one "vision_model." more than this version of transformers writes."""

    def published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {name.replace("vision_model.", "vision_model.vision_model.", 1): state[name] for name in state}
        return renamed | {"vision_model.vision_model.embeddings.position_ids": torch.arange(17)[None]}

    old = SafetyChecker(weights(spoiled(flags_nothing, tmp_path / "old", published)), cuda=False)
    new = SafetyChecker(weights(flags_nothing), cuda=False)
    for name, value in new._checker.state_dict().items():
        assert torch.equal(old._checker.state_dict()[name], value), name


def test_missing_weights_are_not_made_up(with_checker: MakeEngine, flags_all: Path, tmp_path: Path) -> None:
    def without_a_layer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value for name, value in state.items() if "layers.1." not in name}

    engine = with_checker(spoiled(flags_all, tmp_path / "cut", without_a_layer))
    with pytest.raises(ModelUnavailable, match=r"SAFETY_MODEL: .* not complete"):
        prepare(engine, TaskType.TEXT2IMG, Recorder())


def test_a_checker_that_gives_no_answer_lets_nothing_through(
    with_checker: MakeEngine, flags_all: Path, tmp_path: Path
) -> None:
    def not_finite(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return state | {"visual_projection.weight": state["visual_projection.weight"] * float("nan")}

    with pytest.raises(Internal, match="no answer"):
        generate(with_checker(spoiled(flags_all, tmp_path / "nan", not_finite)), "text2img")


@pytest.mark.parametrize("mode", ["flag", "block"])
def test_without_the_checker_that_was_asked_for_no_task_is_served(
    with_checker: MakeEngine, demo_models: Path, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("/gone", tmp_path / "empty", demo_models / "sdxl", "demo"):
        engine = with_checker(folder, mode)
        assert engine.preload(None, Recorder()) == ()
        assert engine.loaded == {}
        for call in (
            lambda engine=engine: engine.describe(TaskType.TEXT2IMG),
            lambda engine=engine: prepare(engine, TaskType.TEXT2VIDEO, Recorder()),
            lambda engine=engine: generate(engine, "text2img"),
            engine.health,
        ):
            with pytest.raises(ModelUnavailable, match="SAFETY_MODEL") as caught:
                call()
            assert str(tmp_path) not in str(caught.value)


def test_weights_that_cannot_be_read_are_found_before_the_first_job(
    with_checker: MakeEngine, flags_all: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(flags_all, tmp_path / "torn"))
    (folder / "model.safetensors").write_bytes(b"torn")
    engine = with_checker(folder)
    with pytest.raises(ModelUnavailable, match="SAFETY_MODEL names a folder that has only a part of its weights"):
        engine.health()


def test_pickled_weights_are_not_loaded(with_checker: MakeEngine, flags_all: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(flags_all, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"SAFETY_MODEL .* no \.safetensors weights"):
        with_checker(folder).health()


def test_by_default_it_is_the_published_one_and_found_where_models_lie(
    demo_settings: Settings, flags_all: Path, tmp_path: Path
) -> None:
    settings = demo_settings.model_copy(update={"safety_checker": "block"})
    where = (hub.Place(tmp_path, "plain"),)
    found = ModelRegistry(settings, cuda=False, where=where).safety()
    assert found is not None
    assert (found.kind, found.name, found.path) == ("hub", SAFETY, None)
    assert found.hub_id == PINNED[SAFETY]
    baked = of_a_pipeline(flags_all, tmp_path / SAFETY.replace("/", "--"))
    engine = Engine(settings, registry=ModelRegistry(settings, cuda=False, where=where))
    found = engine.registry.safety()
    assert found is not None
    assert (found.kind, found.path) == ("folder", baked)
    assert engine.health() == tuple(TaskType)
    (baked / "safety_checker" / "config.json").write_text(json.dumps({"architectures": ["CLIPModel"]}))
    assert engine.registry.safety() == WeightSource(
        "SAFETY_MODEL", "safety", "hub", SAFETY, None, revision=hub.parts(PINNED[SAFETY])[1]
    )


def test_a_pipelines_checker_judges_as_one_in_a_folder_of_its_own(
    with_checker: MakeEngine, flags_all: Path, flags_nothing: Path, tmp_path: Path
) -> None:
    for folder, flagged in ((flags_all, True), (flags_nothing, False)):
        engine = with_checker(of_a_pipeline(folder, tmp_path / folder.name))
        assert [image.nsfw for image in generate(engine, "text2img")] == [flagged]
    (tmp_path / "all" / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"SAFETY_MODEL .* no preprocessor_config\.json"):
        with_checker(tmp_path / "all").health()


LONE = ["config.json", "preprocessor_config.json"]
OF_A_PIPELINE = ["safety_checker/config.json", "feature_extractor/preprocessor_config.json"]
FULL, HALF = "model.safetensors", "model.fp16.safetensors"
MORE = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "v1-5.safetensors"]


@pytest.mark.parametrize("inside", ["", "safety_checker/"])
@pytest.mark.parametrize(
    ("half", "there", "wanted"),
    [
        (False, [FULL, HALF], FULL),
        (True, [FULL, HALF], HALF),
        (True, [FULL], FULL),
        (False, [HALF], HALF),
        (True, ["pytorch_model.bin", "flax_model.msgpack"], None),
    ],
)
def test_of_a_repository_the_checkers_files_are_wanted_and_no_others(
    inside: str, half: bool, there: list[str], wanted: str | None
) -> None:
    small = OF_A_PIPELINE if inside else LONE
    weights = [inside + name for name in there]
    expected = [] if wanted is None else [*small, inside + wanted]
    assert needed_files([*MORE, *small, *weights], half=half) == expected


@pytest.mark.parametrize("half", [True, False])
def test_a_pipelines_checker_is_downloaded_without_the_rest_of_it(flags_all: Path, tmp_path: Path, half: bool) -> None:
    """huggingface_hub itself, over HTTP, with a local hub."""
    repository = of_a_pipeline(flags_all, tmp_path / "hub" / "org" / "checker")
    full = load_file(repository / "safety_checker" / FULL)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in full.items()}
    save_file(halves, repository / "safety_checker" / HALF, {"format": "pt"})
    torch.save(full, repository / "safety_checker" / "pytorch_model.bin")
    found, _ = downloaded(tmp_path, half=half)
    assert found is not None
    assert files_of(found) == {*OF_A_PIPELINE, f"safety_checker/{HALF if half else FULL}"}
    checker = SafetyChecker(weights(found), cuda=False)
    assert checker.objects_to(GeneratedImage(0, 7, np.asarray(picture(seed=1))))


def test_a_repository_that_has_its_checker_pickled_is_refused_with_the_reason(flags_all: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(flags_all, tmp_path / "hub" / "org" / "checker"))
    torch.save(load_file(repository / FULL), repository / "pytorch_model.bin")
    (repository / FULL).unlink()
    found, said = downloaded(tmp_path, half=True)
    assert found is None
    assert "model_unavailable: org/checker has no .safetensors weights of this kind, and pickles are not read" in said
    assert not list((tmp_path / "home").rglob("*.bin"))


def test_a_checker_that_cannot_be_downloaded_stops_every_job(
    with_checker: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def unreachable(hub_id: str, kind: str, *, half: bool) -> Path:
        asked.append((hub_id, kind))
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "download", unreachable)
    engine = with_checker("org/checker")
    assert engine.preload(None, Recorder()) == ()
    for call in (engine.health, lambda: prepare(engine, TaskType.TEXT2IMG, Recorder())):
        with pytest.raises(ModelUnavailable, match=r"^model_unavailable: SAFETY_MODEL: ") as caught:
            call()
        assert "route" not in str(caught.value)
    assert asked == [("org/checker", "safety")] * 3


def test_half_precision_answers_as_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the card."""
    monkeypatch.setattr(device, "device", lambda *, cuda: torch.device("cpu"))
    checker = SafetyChecker(weights(safety_checker(tmp_path / "one", flags=picture(seed=1))), cuda=True)
    assert {value.dtype for value in checker._checker.state_dict().values() if value.is_floating_point()} == {
        torch.float16
    }
    assert [checker.objects_to(GeneratedImage(0, 7, np.asarray(picture(seed=seed)))) for seed in (1, 2)] == [
        True,
        False,
    ]


def test_it_is_loaded_once_and_before_the_models(
    with_checker: MakeEngine, flags_nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_checker(flags_nothing)
    order: list[str] = []
    load, take = SafetyChecker.__init__, engine._cache.take

    def loads(self: SafetyChecker, *args: Any, **kwargs: Any) -> None:
        order.append("checker")
        load(self, *args, **kwargs)

    def takes(*args: Any, **kwargs: Any) -> Any:
        order.append("model")
        return take(*args, **kwargs)

    monkeypatch.setattr(SafetyChecker, "__init__", loads)
    monkeypatch.setattr(engine._cache, "take", takes)
    prepare(engine, TaskType.TEXT2IMG, Recorder())
    generate(engine, "text2img")
    assert order[0] == "checker"
    assert order.count("checker") == 1


def test_a_check_that_runs_out_of_memory_is_tried_once_more_and_never_skipped(
    with_checker: MakeEngine, flags_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_checker(flags_all)
    prepare(engine, TaskType.TEXT2IMG, Recorder())
    assert engine._safety is not None
    forward, calls = engine._safety._checker.forward, [0]

    def scarce(times: int) -> Callable[..., Any]:
        calls[0] = 0

        def run(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] <= times:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(*args, **kwargs)

        return run

    monkeypatch.setattr(engine._safety._checker, "forward", scarce(1))
    assert [image.nsfw for image in generate(engine, "text2img", seeds=(1, 2))] == [True, True]
    monkeypatch.setattr(engine._safety._checker, "forward", scarce(2))
    with pytest.raises(OutOfMemory):
        generate(engine, "text2img")

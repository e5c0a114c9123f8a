"""The places where a hub id is looked up, in folder trees; nothing is downloaded."""

from pathlib import Path
from typing import Literal

import pytest

from tests.support.model_folders import fake_sdxl, registry
from worker.core.types import TaskType
from worker.engine.models.hub import Place, default_places, find

HUB_ID = "stabilityai/stable-diffusion-xl-base-1.0"
FLAT = "stabilityai--stable-diffusion-xl-base-1.0"


def cached(hub: Path, commit: str, *, is_main: bool) -> Path:
    folder = fake_sdxl(hub / f"models--{FLAT}" / "snapshots" / commit)
    if is_main:
        refs = folder.parent.parent / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(commit)
    return folder


def test_the_order_is_runpod_cache_then_volume_then_image_then_hugging_face(tmp_path: Path) -> None:
    names = [(place.root.as_posix(), place.layout) for place in default_places(tmp_path)]
    assert names[0] == ("/runpod-volume/huggingface-cache/hub", "hub")
    assert names[1] == ("/runpod-volume/models", "plain")
    assert names[2] == (tmp_path.as_posix(), "plain")
    assert names[3][1] == "hub"


def test_the_first_place_that_has_it_wins(tmp_path: Path) -> None:
    places = (Place(tmp_path / "hub", "hub"), Place(tmp_path / "volume", "plain"), Place(tmp_path / "image", "plain"))
    models = registry(cuda=True, where=places, sdxl_model=HUB_ID)
    assert models.spec(TaskType.TEXT2IMG).main.path is None
    for root in ("image", "volume"):
        folder = fake_sdxl(tmp_path / root / FLAT)
        assert models.spec(TaskType.TEXT2IMG).main.path == folder
    snapshot = cached(tmp_path / "hub", "abc", is_main=False)
    main = models.spec(TaskType.TEXT2IMG).main
    assert (main.path, main.kind, main.name) == (snapshot, "folder", HUB_ID)


def test_the_snapshot_of_main_is_taken_among_several(tmp_path: Path) -> None:
    cached(tmp_path, "aaa", is_main=False)
    main = cached(tmp_path, "bbb", is_main=True)
    assert Place(tmp_path, "hub").find(HUB_ID) == main


@pytest.mark.parametrize("layout", ["plain", "hub"])
def test_a_model_whose_folder_is_in_small_letters_is_found(tmp_path: Path, layout: Literal["plain", "hub"]) -> None:
    """The hub treats both spellings as one, and RunPod's cache may have either."""
    place, hub_id = Place(tmp_path, layout), "Wan-AI/Wan2.1-T2V"
    small, spelt = (
        tmp_path / name if layout == "plain" else tmp_path / f"models--{name}" / "snapshots" / "abc"
        for name in ("wan-ai--wan2.1-t2v", "Wan-AI--Wan2.1-T2V")
    )
    small.mkdir(parents=True)
    assert place.find(hub_id) == small
    assert any(small.is_relative_to(looked_at) for looked_at in place.holds(hub_id))
    spelt.mkdir(parents=True, exist_ok=True)
    assert place.find(hub_id) == spelt


def test_several_snapshots_without_a_main_are_not_guessed_at(tmp_path: Path) -> None:
    cached(tmp_path, "aaa", is_main=False)
    cached(tmp_path, "bbb", is_main=False)
    assert Place(tmp_path, "hub").find(HUB_ID) is None


def test_a_model_that_is_pinned_is_that_commit_or_none(tmp_path: Path) -> None:
    """The files behind a name may be replaced on the hub, the safety checker's too."""
    pinned, main = cached(tmp_path, "aaa", is_main=False), cached(tmp_path, "bbb", is_main=True)
    (main.parent.parent / "refs" / "v1").write_text("aaa")
    place = Place(tmp_path, "hub")
    assert place.find(f"{HUB_ID}@aaa") == place.find(f"{HUB_ID}@v1") == pinned
    assert place.find(f"{HUB_ID}@ccc") is None
    assert place.find(HUB_ID) == main
    models = registry(
        cuda=True, where=(place,), sdxl_model=f"{HUB_ID}@aaa", safety_checker="flag", safety_model="o/n@x"
    )
    spec = models.spec(TaskType.TEXT2IMG)
    assert (spec.main.name, spec.main.path, spec.vae is not None) == (HUB_ID, pinned, True)
    assert models.models(TaskType.TEXT2IMG) == (HUB_ID,)
    checker = models.safety()
    assert checker is not None
    assert (checker.name, checker.hub_id) == ("o/n", "o/n@x")


def test_a_download_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "volume" / FLAT)
    places = (Place(tmp_path / "volume", "plain"),)
    assert registry(cuda=True, where=places).spec(TaskType.TEXT2IMG).main.path == folder
    (folder / "unet" / "model.safetensors").unlink()
    assert registry(cuda=True, where=places).spec(TaskType.TEXT2IMG).main.path is None


@pytest.mark.parametrize("layout", ["hub", "plain"])
def test_an_empty_place_has_nothing(tmp_path: Path, layout: str) -> None:
    place = Place(tmp_path / "none", "hub" if layout == "hub" else "plain")
    assert find(HUB_ID, (place,), lambda folder: True) is None

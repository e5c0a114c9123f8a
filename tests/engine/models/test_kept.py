"""Data read from models' files is read again once one of them has changed, and not before."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_folders import fake_sdxl, fake_wan, put, put_weights, registry
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models.hub import Place
from worker.engine.models.kept import Kept, look, together
from worker.engine.models.registry import ModelRegistry


def aged(folder: Path) -> None:
    """Make the files as old as those of a worker that has run for a while."""
    hour_ago = time.time() - 3600
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (hour_ago, hour_ago))


class Reading:
    """Reads a folder's notes, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times, self.kept = folder, 0, Kept()

    def __call__(self) -> list[str]:
        def read() -> list[str]:
            look(self.folder)
            self.times += 1
            return [path.read_text() for path in sorted(self.folder.rglob("*.txt"))]

        return self.kept.get("notes", read)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "notes"
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "b" / "one.txt").write_text("one")
    aged(made)
    return made


def rewrite(folder: Path) -> None:
    (folder / "a" / "b" / "one.txt").write_text("two")


def replace_file(folder: Path) -> None:
    (folder / "new").write_text("two")
    aged(folder)
    (folder / "new").rename(folder / "a" / "b" / "one.txt")
    aged(folder)


def replace_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("other"))
    aged(folder.with_name("other"))
    (folder.with_name("other") / "a" / "b" / "one.txt").write_text("two")
    aged(folder.with_name("other"))
    shutil.rmtree(folder)
    folder.with_name("other").rename(folder)


def add(folder: Path) -> None:
    (folder / "a" / "two.txt").write_text("two")


@pytest.mark.parametrize("change", [rewrite, replace_file, replace_folder, add, shutil.rmtree])
def test_what_is_read_is_read_again_after_a_change(folder: Path, change: Callable[[Path], None]) -> None:
    reading = Reading(folder)
    assert [reading() for _ in range(3)] == [["one"]] * 3
    assert reading.times == 1
    change(folder)
    fresh = Reading(folder)()
    assert fresh != ["one"]
    assert reading() == fresh


def test_what_has_just_changed_is_not_kept_because_a_second_change_might_not_be_seen(folder: Path) -> None:
    reading = Reading(folder)
    rewrite(folder)
    assert (reading(), reading(), reading.times) == (["two"], ["two"], 2)
    aged(folder)
    assert (reading(), reading(), reading.times) == (["two"], ["two"], 3)


def test_a_reading_made_of_others_depends_on_what_they_look_at(folder: Path) -> None:
    inner = Reading(folder)
    outer = Kept()

    def notes() -> int:
        return outer.get("outer", lambda: len(inner()))

    assert (notes(), notes(), inner.times) == (1, 1, 1)
    add(folder)
    assert notes() == 2


def test_an_error_is_not_kept(folder: Path) -> None:
    kept = Kept()

    def fails() -> None:
        look(folder)
        raise ModelUnavailable

    for _ in range(2):
        with pytest.raises(ModelUnavailable):
            kept.get("key", fails)
    assert kept.get("key", lambda: 5) == 5


def test_what_looks_at_nothing_is_not_kept() -> None:
    kept, answers = Kept(), iter(range(9))
    assert [kept.get("key", lambda: next(answers)) for _ in range(2)] == [0, 1]


def test_what_is_asked_together_has_one_answer(folder: Path) -> None:
    reading = Reading(folder)
    with together():
        before = reading()
        add(folder)
        assert reading() == before
    assert reading() != before


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record the JSON files that are opened from now on."""
    opened: list[Path] = []
    read_text = Path.read_text

    def noted(path: Path, *args: Any, **options: Any) -> str:
        opened.append(path)
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", noted)
    return opened


def answers(models: ModelRegistry) -> list[Any]:
    return [(models.spec(task), models.describe(task)) for task in (TaskType.TEXT2IMG, TaskType.TEXT2VIDEO)]


def test_a_second_job_opens_no_file_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, video = fake_sdxl(tmp_path / "mine"), fake_wan(tmp_path / "wan")
    aged(tmp_path)
    models = registry(cuda=True, sdxl_model=str(image), wan_model=str(video))
    first, opened = answers(models), counted(monkeypatch)
    assert (answers(models), opened) == (first, [])
    put(image / "worker.json", {"num_inference_steps": 4})
    assert models.describe(TaskType.TEXT2IMG).num_inference_steps == 4
    assert opened


@pytest.mark.parametrize("change", ["exchanged", "cut off", "gone", "another commit"])
def test_a_model_that_changes_under_a_running_worker_is_seen(tmp_path: Path, change: str) -> None:
    cache = tmp_path / "models--org--name"
    here = fake_sdxl(cache / "snapshots" / "one")
    fake_sdxl(cache / "snapshots" / "two", sample_size=64)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("one")
    aged(tmp_path)
    models = registry(cuda=True, sdxl_model="org/name", where=(Place(tmp_path, "hub"),))
    wide = [models.describe(TaskType.TEXT2IMG).width for _ in range(2)]
    if change == "another commit":
        (cache / "refs" / "main").write_text("two")
    elif change == "exchanged":
        put(here / "unet" / "config.json", {"sample_size": 64, "in_channels": 4})
    elif change == "cut off":
        (here / "unet" / "model.safetensors").write_bytes(b"")
    else:
        shutil.rmtree(here)
        (cache / "refs" / "main").unlink()
        shutil.rmtree(cache / "snapshots" / "two")
    spec = models.spec(TaskType.TEXT2IMG)
    assert wide == [1024, 1024]
    if change in {"cut off", "gone"}:
        assert (spec.main.kind, spec.main.path) == ("hub", None)
    else:
        assert models.describe(TaskType.TEXT2IMG).width == 512


def test_a_model_that_is_arriving_is_looked_at_until_it_is_there(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "mine")
    (folder / "unet" / "model.safetensors").rename(tmp_path / "rest")
    aged(tmp_path)
    models = registry(cuda=True, sdxl_model=str(folder))
    for _ in range(2):
        with pytest.raises(ModelUnavailable):
            models.spec(TaskType.TEXT2IMG)
    put_weights(folder / "unet" / "model.safetensors")
    assert models.spec(TaskType.TEXT2IMG).main.path == folder

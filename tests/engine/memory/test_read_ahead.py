"""Weight files are read while Python imports: whole files, in order, as far as memory allows."""

from pathlib import Path

import pytest

from tests.engine.conftest import engine_of
from tests.support.engine_jobs import Recorder
from worker.core.config import Settings
from worker.core.types import TaskType
from worker.engine import engine as module
from worker.engine.memory import read_ahead as reading
from worker.engine.memory.footprint import spec_files
from worker.engine.memory.read_ahead import read_ahead
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.models.registry import ModelRegistry


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("b", "a", "c")]
    for path in found:
        path.write_bytes(bytes(1000))
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record the files that are opened."""
    seen: list[Path] = []
    whole = Path.open

    def told(self: Path, *args: object, **kwargs: object) -> object:
        seen.append(self)
        return whole(self, *args, **kwargs)  # type: ignore[call-overload]  # passed through

    monkeypatch.setattr(Path, "open", told)
    return seen


@pytest.mark.parametrize(("most", "count"), [(10_000, 3), (3000, 3), (2999, 2), (999, 0)])
def test_whole_files_are_read_in_order_as_far_as_they_fit(
    files: list[Path], opened: list[Path], most: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE", 64)
    read_ahead(files, most).join(30)
    assert opened == files[:count]


def test_a_file_that_is_gone_stops_nothing(files: list[Path], opened: list[Path]) -> None:
    files[1].unlink()
    read_ahead(files, 10_000).join(30)
    assert opened == [files[0], files[2]]


def test_what_is_read_is_what_loading_reads(demo_settings: Settings) -> None:
    registry = ModelRegistry(demo_settings, cuda=False, where=())
    found = spec_files(registry.spec(TaskType.TEXT2IMG), cuda=False)
    parents = [path.parent.relative_to(DEMO_MODELS).as_posix() for path in found]
    assert sorted(parents) == sorted(
        ["sdxl-refiner/unet", *(f"sdxl/{name}" for name in ("text_encoder", "text_encoder_2", "unet", "vae"))]
    )


@pytest.mark.parametrize("wanted", [False, True])
def test_it_begins_before_the_models_are_loaded_and_only_where_it_is_asked_for(
    wanted: bool, demo_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Path]] = []
    monkeypatch.setattr(module, "read_ahead", lambda files, _most: asked.append(list(files)))
    engine = engine_of(demo_settings, read_ahead=wanted)
    assert engine.preload((), Recorder()) == ()

    assert len(asked) == wanted
    names = [path.parent.name for path in engine._files((TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO))]
    assert sorted(names) == ["text_encoder", "transformer", "vae"]

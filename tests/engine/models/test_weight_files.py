"""The files of a folder that are loaded; an interrupted download is not taken for a model."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.support.checkpoint_headers import SDXL, put_header
from tests.support.model_folders import fake_sdxl, fake_wan, put_shards, put_tensor, registry
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models.hub import Place
from worker.engine.models.weight_files import is_complete, is_whole, variant_of, weight_files

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def cut(path: Path, bytes_off: int = 1) -> None:
    os.truncate(path, path.stat().st_size - bytes_off)


def test_half_precision_files_are_chosen_for_the_card_or_where_they_are_all_there_is(tmp_path: Path) -> None:
    put_tensor(tmp_path / "model.safetensors")
    assert variant_of(tmp_path, half=True) is None
    put_tensor(tmp_path / "model.fp16.safetensors")
    assert variant_of(tmp_path, half=True) == "fp16"
    assert variant_of(tmp_path, half=False) is None
    assert [path.name for path in weight_files(tmp_path, half=True)] == ["model.fp16.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert variant_of(tmp_path, half=False) == "fp16"


@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_weights_are_complete_with_every_shard_of_their_index(tmp_path: Path, stem: str, variant: str) -> None:
    shards = put_shards(tmp_path, stem, 3, variant=variant)
    assert is_complete(tmp_path)
    shards[1].unlink()
    assert not is_complete(tmp_path)


def test_a_copy_under_another_name_is_not_read_weighed_or_taken_for_the_weights(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "mine")
    unet = folder / "unet" / "model.safetensors"
    for copy in ("diffusion_pytorch_model.non_ema", "diffusion_pytorch_model.bf16", "sdxl_unet"):
        put_tensor(unet.with_name(f"{copy}.safetensors"))
    assert weight_files(folder / "unet", half=True) == [unet]
    models = registry(cuda=True, sdxl_model=str(folder))
    assert models.spec(TaskType.TEXT2IMG).main.path == folder
    unet.unlink()
    with pytest.raises(ModelUnavailable, match=r"no \.safetensors weights for its unet \(diffusion_pytorch_model"):
        models.spec(TaskType.TEXT2IMG)


def test_a_file_shorter_than_its_header_says_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    put_tensor(path)
    assert is_whole(path)
    cut(path)
    assert not is_whole(path)
    assert not is_complete(tmp_path)
    path.write_bytes(b"<html>")
    assert not is_whole(path)


def test_half_precision_files_that_were_cut_off_leave_the_others_to_load(tmp_path: Path) -> None:
    put_tensor(tmp_path / "model.safetensors")
    put_shards(tmp_path, "model", 2, variant="fp16")[1].unlink()
    assert is_complete(tmp_path)
    assert variant_of(tmp_path, half=True) is None


def test_a_repository_with_one_shard_of_five_is_downloaded_further(tmp_path: Path) -> None:
    folder = fake_wan(tmp_path / "Wan-AI--Wan2.1-T2V-1.3B-Diffusers")
    (folder / "text_encoder" / "model.safetensors").unlink()
    shards = put_shards(folder / "text_encoder", "model", 5)
    models = registry(cuda=True, wan_model=WAN, where=(Place(tmp_path, "plain"),))
    assert models.spec(TaskType.TEXT2VIDEO).main.kind == "folder"
    for shard in shards[1:]:
        shard.unlink()
    assert models.spec(TaskType.TEXT2VIDEO).main.kind == "hub"


def test_a_folder_of_ones_own_that_was_cut_off_is_refused_in_words(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "mine")
    put_shards(folder / "unet", "diffusion_pytorch_model", 2)[0].unlink()
    with pytest.raises(
        ModelUnavailable, match="SDXL_MODEL names a folder that has only a part of the weights of its unet"
    ):
        registry(cuda=True, sdxl_model=str(folder)).spec(TaskType.TEXT2IMG)


@pytest.mark.parametrize("part", ["tokenizer_2", "scheduler"])
def test_a_download_that_lacks_a_small_part_is_none(demo_models: Path, tmp_path: Path, part: str) -> None:
    """A pipeline also has parts without weights, and a download may end between any two files."""
    folder = tmp_path / "org--photo"
    shutil.copytree(demo_models / "sdxl", folder)
    models = registry(cuda=True, sdxl_model="org/photo", where=(Place(tmp_path, "plain"),))
    assert models.spec(TaskType.TEXT2IMG).main.path == folder
    shutil.rmtree(folder / part)
    assert models.spec(TaskType.TEXT2IMG).main.kind == "hub"
    with pytest.raises(ModelUnavailable, match=f"SDXL_MODEL names a folder that has no {part}"):
        registry(cuda=True, sdxl_model=str(folder)).spec(TaskType.TEXT2IMG)


@pytest.fixture
def volume() -> Iterator[Path]:
    """Yield a folder that everybody may read, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def stranger() -> Iterator[Callable[[], None]]:
    """Yield a function that makes this process run as the image does: not as root, who may open everything."""
    user = os.geteuid()
    yield lambda: os.seteuid(10001) if user == 0 else None
    os.seteuid(user)


@pytest.mark.parametrize("what", ["folder", "a file in it", "the folder above", "single file"])
def test_what_only_root_may_read_is_refused_as_that(volume: Path, what: str, stranger: Callable[[], None]) -> None:
    folder, file = fake_sdxl(volume / "models" / "mine"), volume / "models" / "mine.safetensors"
    put_header(file, SDXL)
    closed = {
        "folder": folder, "a file in it": folder / "unet" / "model.safetensors", "the folder above": volume / "models"
    }  # fmt: skip
    closed.get(what, file).chmod(0)
    stranger()
    with pytest.raises(ModelUnavailable, match="SDXL_MODEL names what this worker's user may not read"):
        registry(cuda=True, sdxl_model=str(file if what == "single file" else folder)).spec(TaskType.TEXT2IMG)


@pytest.mark.parametrize("layout", ["plain", "hub"])
def test_a_model_that_only_root_may_read_is_looked_for_elsewhere_and_told(
    volume: Path, layout: Literal["plain", "hub"], stranger: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    closed, image = Place(volume / "closed", layout), Place(volume / "image", "plain")
    fake_sdxl(closed.root / ("org--photo" if layout == "plain" else "models--org--photo/snapshots/abc"))
    there = fake_sdxl(image.root / "org--photo")
    closed.root.chmod(0)
    stranger()
    models = registry(cuda=True, sdxl_model="org/photo", where=(closed,))
    main = models.spec(TaskType.TEXT2IMG).main
    assert (main.kind, models.closed(main) is not None) == ("hub", True)
    assert "files of org/photo may not be read by this user" in caplog.messages
    both = registry(cuda=True, sdxl_model="org/photo", where=(closed, image))
    assert both.spec(TaskType.TEXT2IMG).main.path == there


def test_a_single_file_that_was_cut_off_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    put_tensor(path)
    cut(path)
    with pytest.raises(ModelUnavailable, match="SDXL_VAE names a file that is not all there"):
        registry(cuda=True, sdxl_vae=str(path)).spec(TaskType.TEXT2IMG)

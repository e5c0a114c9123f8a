"""Which files of a folder are loaded, and that a download which was cut off is not taken for a model."""

import os
from pathlib import Path

import pytest

from tests.support.model_folders import fake_sdxl, fake_wan, put_shards, put_tensor, registry
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models.hub import Place
from worker.engine.models.weight_files import is_complete, is_whole, variant_of, weight_files

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def cut(path: Path, bytes_off: int = 1) -> None:
    os.truncate(path, path.stat().st_size - bytes_off)


def test_half_precision_files_are_chosen_for_the_card_or_where_they_are_all_there_is(tmp_path: Path) -> None:
    put_tensor(tmp_path / "m.safetensors")
    assert variant_of(tmp_path, half=True) is None
    put_tensor(tmp_path / "m.fp16.safetensors")
    assert variant_of(tmp_path, half=True) == "fp16"
    assert variant_of(tmp_path, half=False) is None
    assert [path.name for path in weight_files(tmp_path, half=True)] == ["m.fp16.safetensors"]
    (tmp_path / "m.safetensors").unlink()
    assert variant_of(tmp_path, half=False) == "fp16"


@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_weights_are_complete_with_every_shard_of_their_index(tmp_path: Path, stem: str, variant: str) -> None:
    shards = put_shards(tmp_path, stem, 3, variant=variant)
    assert is_complete(tmp_path)
    shards[1].unlink()
    assert not is_complete(tmp_path)


def test_a_file_shorter_than_its_header_says_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
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


def test_a_single_file_that_was_cut_off_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    put_tensor(path)
    cut(path)
    with pytest.raises(ModelUnavailable, match="SDXL_VAE names a file that is not all there"):
        registry(cuda=True, sdxl_vae=str(path)).spec(TaskType.TEXT2IMG)

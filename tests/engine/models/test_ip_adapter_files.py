"""The files of a folder that make an IP-Adapter, told by names and headers alone."""

from pathlib import Path

import pytest

from tests.support.model_folders import put, put_shapes, put_tensor
from worker.engine.models.ip_adapter_files import PREFERRED, IpAdapterFiles, ip_adapter_files

PLUS, PLAIN, LARGE = PREFERRED
# The shapes of h94/IP-Adapter's files for SDXL; `proj` and `proj_in` read the image encoder.
PLAIN_SHAPES = {"image_proj.proj.weight": [8192, 1024], "ip_adapter.1.to_k_ip.weight": [640, 2048]}
LARGE_SHAPES = {"image_proj.proj.weight": [8192, 1280], "ip_adapter.1.to_k_ip.weight": [640, 2048]}
PLUS_SHAPES = {
    "image_proj.latents": [1, 16, 1280],
    "image_proj.proj_in.weight": [1280, 1280],
    "ip_adapter.1.to_k_ip.weight": [640, 2048],
}
FACE_SHAPES = {"image_proj.proj.0.weight": [1024, 512], "image_proj.proj.2.weight": [8192, 1024]}
VIT_H = {"hidden_size": 1280, "projection_dim": 1024}
VIT_G = {"hidden_size": 1664, "projection_dim": 1280}


def put_encoder(folder: Path, config: dict[str, int]) -> None:
    put(folder / "config.json", config)
    put_tensor(folder / "model.safetensors")


def published(folder: Path) -> Path:
    """Write all of h94/IP-Adapter that is for SDXL."""
    put_shapes(folder / "sdxl_models" / PLAIN, PLAIN_SHAPES)
    put_shapes(folder / "sdxl_models" / PLUS, PLUS_SHAPES)
    put_shapes(folder / "sdxl_models" / LARGE, LARGE_SHAPES)
    put_encoder(folder / "models" / "image_encoder", VIT_H)
    put_encoder(folder / "sdxl_models" / "image_encoder", VIT_G)
    return folder


def test_of_the_published_ones_plus_comes_first(tmp_path: Path) -> None:
    found = ip_adapter_files(published(tmp_path))
    assert found == IpAdapterFiles(tmp_path / "sdxl_models" / PLUS, tmp_path / "models" / "image_encoder", context=2048)


@pytest.mark.parametrize(("name", "encoder"), [(PLAIN, "models"), (LARGE, "sdxl_models")])
def test_each_gets_the_encoder_that_it_was_trained_with(tmp_path: Path, name: str, encoder: str) -> None:
    published(tmp_path)
    for other in {PLUS, PLAIN, LARGE} - {name}:
        (tmp_path / "sdxl_models" / other).unlink()
    found = ip_adapter_files(tmp_path)
    assert isinstance(found, IpAdapterFiles)
    assert (found.weights.name, found.encoder) == (name, tmp_path / encoder / "image_encoder")


def test_a_folder_of_the_two_parts_alone_will_do(tmp_path: Path) -> None:
    put_shapes(tmp_path / "mine.safetensors", PLUS_SHAPES)
    put_encoder(tmp_path / "image_encoder", VIT_H)
    assert isinstance(ip_adapter_files(tmp_path), IpAdapterFiles)


def test_one_whose_encoder_is_not_here_gives_way_to_one_whose_is(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "models" / "image_encoder" / "model.safetensors").unlink()
    found = ip_adapter_files(tmp_path)
    assert isinstance(found, IpAdapterFiles)
    assert found.weights.name == LARGE


def test_what_is_none_is_told_why(tmp_path: Path) -> None:
    assert "no IP-Adapter for SDXL" in str(ip_adapter_files(tmp_path))
    (tmp_path / "ip-adapter_sdxl.bin").touch()
    assert "pickled" in str(ip_adapter_files(tmp_path))
    put_shapes(tmp_path / "ip-adapter-faceid_sdxl.safetensors", PLAIN_SHAPES)
    assert "identifies faces" in str(ip_adapter_files(tmp_path))
    put_shapes(tmp_path / "renamed.safetensors", FACE_SHAPES)
    assert "identifies faces" in str(ip_adapter_files(tmp_path))
    put_shapes(tmp_path / "renamed.safetensors", {"lora_unet_down.weight": [1, 1]})
    assert "no IP-Adapter for SDXL" in str(ip_adapter_files(tmp_path))
    put_shapes(tmp_path / PLAIN, PLAIN_SHAPES)
    assert "no image encoder of its width (1024)" in str(ip_adapter_files(tmp_path))
    put_tensor(tmp_path / PLAIN)
    (tmp_path / PLAIN).write_bytes((tmp_path / PLAIN).read_bytes()[:-1])
    assert "cut off" in str(ip_adapter_files(tmp_path))

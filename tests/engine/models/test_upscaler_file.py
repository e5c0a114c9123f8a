"""An upscaler's file, identified by names and shapes alone: three ways to write one network, and other files."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_headers import put_header
from tests.support.model_folders import registry
from tests.support.upscalers import COMPACT, MIDDLE, ORIGINAL, REAL, rrdb
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models.upscaler_file import Layout, NotAnUpscaler, layout

Header = dict[str, Any]


def headed(shapes: dict[str, tuple[int, ...]]) -> Header:
    return {name: {"shape": shape} for name, shape in shapes.items()}


@pytest.mark.parametrize("names", [ORIGINAL, MIDDLE, REAL], ids=["original", "middle", "real"])
def test_one_network_is_the_same_in_whichever_names_it_is_written(names: Any) -> None:
    found = Layout("rrdb", 4, 64, 23, 32, 1, 2)
    assert layout(headed(rrdb(found, names))) == found
    assert layout(headed({f"params_ema.{name}": shape for name, shape in rrdb(found, names).items()})) == found


@pytest.mark.parametrize(
    "found",
    [
        Layout("rrdb", 2, 64, 23, 32, 2, 2),  # RealESRGAN_x2plus
        Layout("rrdb", 4, 64, 6, 32, 1, 2),  # RealESRGAN_x4plus_anime_6B
        Layout("rrdb", 2, 64, 23, 32, 1, 1),
        Layout("rrdb", 8, 64, 23, 32, 1, 3),
    ],
)
def test_scale_and_widths_are_read_from_the_shapes(found: Layout) -> None:
    assert layout(headed(rrdb(found, REAL))) == found
    if found.unshuffle == 1:
        assert layout(headed(rrdb(found, ORIGINAL))) == found


@pytest.mark.parametrize(("scale", "convolutions"), [(4, 32), (4, 16), (2, 16)])
def test_the_small_networks_are_known(scale: int, convolutions: int) -> None:
    """realesr-general-x4v3, realesr-animevideov3, and one of half their scale."""
    found = Layout("compact", scale, 64, convolutions)
    assert layout(headed(COMPACT(found))) == found


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_first.weight"], "a SwinIR upscaler"),
        (["layers.0.residual_group.overlap_attn.qkv.weight", "conv_first.weight"], "a HAT upscaler"),
        (["layers.0.residual_group.blocks.0.attn.logit_scale"], "a Swin2SR upscaler"),
        (["params.layers.0.blocks.2.attn.attn_mask_0", "conv_first.weight"], "a DAT upscaler"),
        (["block_1.c1_r.sk.weight"], "a SPAN upscaler"),
        (["feats.0.weight"], "a PLKSR upscaler"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a whole Stable Diffusion checkpoint"),
        (["lora_unet_x.lora_up.weight"], "a LoRA"),
        (["something.weight"], "no network that is known here"),
    ],
)
def test_another_architecture_is_named(names: list[str], what: str) -> None:
    with pytest.raises(NotAnUpscaler, match=f"holds {what}; ESRGAN's RRDBNet and SRVGGNetCompact"):
        layout(headed(dict.fromkeys(names, (4,))))


def test_one_that_makes_nothing_larger_is_refused() -> None:
    """1x models remove noise or JPEG artefacts; they are published under the same names."""
    with pytest.raises(NotAnUpscaler):
        layout(headed(COMPACT(Layout("compact", 1, 64, 16))))


def described(value: str) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        registry(cuda=True, upscaler_model=value).upscaler()
    return caught.value.message


def test_what_is_configured_and_cannot_be_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a", "b"):
        put_header(folder / f"{name}.safetensors", {"x": ("F32", [1])})
    pickled = tmp_path / "RealESRGAN_x4plus.pth"
    pickled.write_bytes(b"PK\3\4")
    put_header(tmp_path / "swin.safetensors", {"layers.0.residual_group.blocks.0.norm1.weight": ("F32", [1])})
    assert "convert it to safetensors" in described(str(pickled))
    assert "names a folder that has several .safetensors files; name one of them (a.safe" in described(str(folder))
    assert "UPSCALER_MODEL names a file that holds a SwinIR upscaler" in described(str(tmp_path / "swin.safetensors"))
    assert "is not there" in described(str(tmp_path / "gone.safetensors"))
    assert str(tmp_path) not in described(str(pickled))


def test_an_upscaler_that_cannot_be_had_leaves_every_other_task_as_it_is(tmp_path: Path) -> None:
    models = registry(cuda=False, sdxl_model="demo", upscaler_model=str(tmp_path / "gone.safetensors"))
    assert models.describe(TaskType.TEXT2IMG).upscaler is None


def test_an_endpoint_with_an_upscaler_alone_serves_its_task_and_downloads_nothing(tmp_path: Path) -> None:
    found = Layout("rrdb", 4, 8, 1, 4, 1, 2)
    path = tmp_path / "small.safetensors"
    put_header(path, {name: ("F16", list(shape)) for name, shape in rrdb(found, REAL).items()})
    models = registry(cuda=True, upscaler_model=str(path), where=())
    assert models.tasks == (TaskType.UPSCALE,)
    assert not models.may_download
    described = models.describe(TaskType.UPSCALE)
    assert (described.name, described.draws, described.upscaler) == ("small.safetensors", False, "small.safetensors")
    assert models.spec(TaskType.UPSCALE).family == "upscaler"

"""What a LoRA file's header tells: the model it is for, and every reason why it cannot be used."""

import json
import struct
import tracemalloc
from pathlib import Path

import pytest

from tests.support.published_loras import PUBLISHED, Published, header_only
from worker.core.errors import InvalidInput
from worker.core.lora_source import MAX_HEADER_BYTES
from worker.core.types import Expert, LoraFile, TaskType
from worker.engine.adapters.lora_file import MAX_RANK, MAX_TENSORS, check_loras, identify

LAYER = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k"


def kohya(rank: int = 4, inputs: int = 640, outputs: int = 640) -> dict[str, tuple[int, ...]]:
    return {
        f"{LAYER}.lora_down.weight": (rank, inputs),
        f"{LAYER}.lora_up.weight": (outputs, rank),
        f"{LAYER}.alpha": (),
    }


def refusal(path: Path, task: TaskType = TaskType.TEXT2IMG, expert: Expert = "both") -> str:
    with pytest.raises(InvalidInput) as caught:
        check_loras([LoraFile("my style", path, 1.0, expert)], task)
    return str(caught.value)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.trainer)
def test_published_layouts_are_told_or_refused_with_the_reason(tmp_path: Path, one: Published) -> None:
    path = header_only(tmp_path / "a.safetensors", one.shapes)
    if one.refused:
        said = refusal(path)
        assert "loras: the LoRA my style is " in said
        assert one.refused in said
        return
    found = identify(path)
    assert (found.problem, found.family, found.rank) == (None, one.family, one.rank)
    assert found.text_encoders == any("te1_" in name or name.startswith("text_encoder") for name in one.shapes)
    check_loras([LoraFile("a", path, 1.0)], TaskType.TEXT2IMG if one.family == "sdxl" else TaskType.IMG2VIDEO)
    other, name = (TaskType.TEXT2VIDEO, "SDXL") if one.family == "sdxl" else (TaskType.INPAINT, "Wan")
    assert f"is made for {name}; this takes one for" in refusal(path, other)


def test_each_file_that_cannot_be_used_is_named_with_the_field_it_came_from(tmp_path: Path) -> None:
    path = header_only(tmp_path / "a.safetensors", kohya())
    bad = tmp_path / "b.safetensors"
    bad.write_bytes(b"\x80\x04]q")
    loras = [LoraFile("one", path, 1.0, "high"), LoraFile("two", bad, 0.0, "low")]
    with pytest.raises(InvalidInput) as caught:
        check_loras(loras, TaskType.TEXT2VIDEO)
    assert [problem.field for problem in caught.value.problems] == ["high_noise_loras", "low_noise_loras"]
    assert "the LoRA two is a pickled file" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a .safetensors file"),
        (b"PK\x03\x04" + bytes(40), "pickled"),
        (b"\x80\x02}q\x00" + bytes(40), "pickled"),
        (b"<!DOCTYPE html><html></html>", "not a .safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "not a .safetensors file"),
        (struct.pack("<Q", 2**60) + b"{}", "not a .safetensors file"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not a .safetensors file"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "not a .safetensors file"),
    ],
)
def test_other_bytes_are_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        {},
        {"dtype": "F16", "shape": "4", "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4, -1], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [2**50, 2], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4, 640], "data_offsets": [0]},
        {"dtype": "F16", "shape": [4, 640], "data_offsets": ["a", "b"]},
        {"dtype": 5, "shape": [4, 640], "data_offsets": [0, 8]},
    ],
)
def test_a_header_that_makes_no_sense_is_a_damaged_file(tmp_path: Path, entry: object) -> None:
    content = json.dumps({f"{LAYER}.lora_down.weight": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(8))
    assert "the file is damaged" in refusal(path)


def test_a_header_of_nothing_but_brackets_is_not_read(tmp_path: Path) -> None:
    """30 MB of it used to block the worker for 8 seconds, and took 0.9 GB."""
    content = b'{"a":[' + b",".join([b"[]"] * 4_000_000) + b"]}"
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    tracemalloc.start()
    try:
        assert f"has a header of {len(content)} bytes; a LoRA's may have {MAX_HEADER_BYTES}" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_did_not_arrive_whole_says_how_much_did(tmp_path: Path) -> None:
    path = header_only(tmp_path / "a.safetensors", kohya())
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - 100)
    assert f"is not complete: it has {whole - 100} of {whole} bytes" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (kohya(MAX_RANK + 1), f"has the rank {MAX_RANK + 1}; the highest that is taken is {MAX_RANK}"),
        ({f"{LAYER}.lora_up.weight": (640, 5)}, "do not go together"),
        ({f"{LAYER}.lora_up.weight": (640,)}, "do not go together"),
        ({f"{LAYER}.alpha": (4,)}, "do not go together"),
        ({f"{LAYER}.lora_mid.weight": (4, 5, 3, 3)}, "do not go together"),
        ({f"{LAYER}.dora_scale": (1, 640)}, "DoRA over a layer's inputs"),
        ({"first_stage_model.decoder.conv_in.weight": (4, 4)}, "has a tensor first_stage_model.decoder.conv_in.weight"),
        ({"lora_unet_input_blocks_5_1_proj_in.lora_up.weight": (640, 4)}, "only one half"),
        ({"lora_unet_input_blocks_5_1_proj_in.dora_scale": (640, 1)}, "only one half"),
        ({f"lora_unet_input_blocks_4_1_proj_{i}.alpha": () for i in range(MAX_TENSORS)}, f"at most {MAX_TENSORS}"),
        ({"lora_unet_a.oft_blocks": (4, 4)}, "is OFT"),
        ({"lora_controlnet": ()}, "is Control-LoRA"),
    ],
)
def test_what_no_lora_has_is_refused(tmp_path: Path, changes: dict[str, tuple[int, ...]], said: str) -> None:
    assert said in refusal(header_only(tmp_path / "a.safetensors", kohya() | changes))


@pytest.mark.parametrize(
    ("width", "said"),
    [(1024, "Stable Diffusion 2"), (1280, "SDXL's refiner")],
)
def test_the_width_of_the_text_tells_the_unet(tmp_path: Path, width: int, said: str) -> None:
    names = kohya(4, width, 320)
    path = header_only(tmp_path / "a.safetensors", {k.replace("attn1", "attn2"): v for k, v in names.items()})
    assert f"is made for {said}; this takes one for SDXL" in refusal(path)


def test_whole_numbers_are_no_weights_and_a_bias_alone_is_no_lora(tmp_path: Path) -> None:
    assert "of the type I64" in refusal(header_only(tmp_path / "a.safetensors", kohya(), dtype="I64"))
    path = header_only(tmp_path / "b.safetensors", {"diffusion_model.blocks.0.ffn.0.diff_b": (64,)})
    assert "has no low-rank weights" in refusal(path)


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ('{"unet.lora_alpha": 8, "unet.r": 16}', (("unet", 0.5),)),
        ('{"unet.lora_alpha": 8, "unet.r": 16, "unet.use_rslora": true}', (("unet", 2.0),)),
        ('{"unet.lora_alpha": 8, "unet.r": 0}', ()),
        ('{"unet.lora_alpha": "8", "unet.r": 16}', ()),
        ("[]", ()),
        ("{", ()),
        ("[" * 100_000, ()),
    ],
)
def test_pefts_configs_beside_the_weights_say_their_scale(
    tmp_path: Path, config: str, scales: tuple[tuple[str, float], ...]
) -> None:
    shapes = {"unet.mid_block.a.lora_A.weight": (16, 64), "unet.mid_block.a.lora_B.weight": (64, 16)}
    path = header_only(tmp_path / "a.safetensors", shapes, metadata={"lora_adapter_metadata": config})
    assert identify(path).scales == scales


def test_a_file_is_read_again_only_after_it_has_changed(tmp_path: Path) -> None:
    path = header_only(tmp_path / "a.safetensors", kohya())
    first = identify(path)
    assert identify(path) is first
    header_only(path, kohya(8, 320))
    assert identify(path).rank == 8

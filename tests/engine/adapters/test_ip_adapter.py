"""IP-Adapter on small weights in the published layouts: it draws diffusers' pictures, and leaves nothing behind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from tests.support.engine_jobs import picture
from tests.support.ip_adapters import PLAIN, PLUS, ip_adapter
from worker.engine.adapters.ip_adapter import (
    STYLE_LAYERS,
    IpAdapter,
    Reference,
    assembled,
    cross_attentions,
    demo,
    referenced,
)

CPU = torch.device("cpu")
FIRST, SECOND = picture(48, 48, seed=1), Image.new("RGB", (40, 40), "teal")
Draw = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module")
def pipeline(demo_models: Path) -> Any:
    kind: Any = StableDiffusionXLPipeline
    loaded = kind.from_pretrained(str(demo_models / "sdxl"), add_watermarker=False, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ip_adapter(tmp_path_factory.mktemp("ip_adapter"), pipeline.unet, PLAIN, PLUS)


@pytest.fixture(scope="module")
def draw(pipeline: Any) -> Draw:
    def start(references: Sequence[Reference] = (), guidance: float = 5.0, **extra: Any) -> NDArray[np.float32]:
        with referenced(pipeline.unet, references):
            image: NDArray[np.float32] = pipeline(
                "a red circle",
                width=64,
                height=64,
                num_inference_steps=3,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(7),
                output_type="np",
                **extra,
            ).images[0]
        return image

    return start


def adapter_of(pipeline: Any, folder: Path, name: str) -> IpAdapter:
    encoder: Any = CLIPVisionModelWithProjection
    loaded = encoder.from_pretrained(str(folder / "models" / "image_encoder"))
    return assembled(load_file(folder / "sdxl_models" / name), loaded, pipeline.unet)


@torch.no_grad()
def seen(adapter: IpAdapter, image: Image.Image, scale: float = 0.6, kind: Any = "subject") -> Reference:
    return Reference(adapter(adapter.pixels_of(image, CPU)), scale, kind)


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("names", [(PLAIN,), (PLUS,), (PLUS, PLUS)], ids=["plain", "plus", "two pictures"])
@pytest.mark.parametrize("kind", ["subject", "style"])
def test_a_picture_is_that_of_diffusers_own_loader(
    pipeline: Any, folder: Path, draw: Draw, names: tuple[str, ...], kind: str
) -> None:
    pictures, scales = (FIRST, SECOND)[: len(names)], (0.7, 0.4)
    references = [
        seen(adapter_of(pipeline, folder, name), image, scale, kind)
        for name, image, scale in zip(names, pictures, scales, strict=False)
    ]
    ours = draw(references)
    pipeline.load_ip_adapter(
        str(folder), subfolder="sdxl_models", weight_name=list(names), image_encoder_folder="models/image_encoder"
    )
    try:
        # InstantStyle's block, as diffusers' documentation enables it for SDXL; the demo has two layers there, not
        # three.
        layers = 2
        style = [{"up": {"block_0": [float(n == 1) * scale for n in range(layers)]}} for scale in scales]
        pipeline.set_ip_adapter_scale(list(scales[: len(names)]) if kind == "subject" else style[: len(names)])
        theirs = draw(ip_adapter_image=list(pictures))
    finally:
        pipeline.unload_ip_adapter()
    assert distance(ours, draw()) > 1e-3
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["subject", "style"])
@pytest.mark.parametrize("name", [PLAIN, PLUS, "demo"])
def test_the_more_scale_the_more_the_picture_moves(
    pipeline: Any, folder: Path, draw: Draw, name: str, kind: str
) -> None:
    adapter = demo(pipeline.unet) if name == "demo" else adapter_of(pipeline, folder, name)
    plain = draw()
    moved = [distance(draw([seen(adapter, FIRST, scale, kind)]), plain) for scale in (0, 0.25, 0.5, 1.0)]
    assert moved[0] == 0
    assert moved == sorted(set(moved)), moved


@pytest.mark.parametrize("name", [PLAIN, PLUS, "demo"])
def test_another_picture_has_another_effect(pipeline: Any, folder: Path, draw: Draw, name: str) -> None:
    adapter = demo(pipeline.unet) if name == "demo" else adapter_of(pipeline, folder, name)
    assert distance(draw([seen(adapter, FIRST)]), draw([seen(adapter, SECOND)])) > 1e-4


def test_of_a_strip_the_middle_is_seen(pipeline: Any) -> None:
    """Its shorter side is scaled to the encoder's size; scaling 60,000 x 2 pixels whole would take gigabytes."""
    adapter, strip = demo(pipeline.unet), Image.new("RGB", (60_000, 2))
    strip.paste((255, 0, 0), (29_999, 0, 30_001, 2))
    assert torch.equal(adapter.pixels_of(strip, CPU), adapter.pixels_of(strip.crop((29_996, 0, 30_004, 2)), CPU))
    wide = FIRST.resize((320, 64))
    square = adapter.pixels_of(wide.crop((128, 0, 192, 64)), CPU)
    assert (adapter.pixels_of(wide, CPU) - square).abs().mean() < 0.05


def test_it_works_without_guidance_too(pipeline: Any, folder: Path, draw: Draw) -> None:
    adapter = adapter_of(pipeline, folder, PLUS)
    assert distance(draw([seen(adapter, FIRST)], guidance=1.0), draw(guidance=1.0)) > 1e-4


def test_a_style_reaches_its_block_alone(pipeline: Any, folder: Path) -> None:
    reference = seen(adapter_of(pipeline, folder, PLAIN), FIRST, kind="style")
    own = {name: attention.processor for name, attention in cross_attentions(pipeline.unet)}
    with referenced(pipeline.unet, [reference]):
        changed = [name for name, attention in cross_attentions(pipeline.unet) if attention.processor is not own[name]]
    assert changed == [name for name in own if name.startswith(STYLE_LAYERS)] != []


def test_nothing_stays_whichever_way_it_ends(pipeline: Any, folder: Path, draw: Draw) -> None:
    before = draw()
    modules = [id(module) for module in pipeline.unet.modules()]
    processors = list(map(id, pipeline.unet.attn_processors.values()))
    config, weights = dict(pipeline.unet.config), pipeline.unet.state_dict()
    reference = seen(adapter_of(pipeline, folder, PLUS), FIRST)
    draw([reference])
    with pytest.raises(KeyboardInterrupt), referenced(pipeline.unet, [reference]):
        raise KeyboardInterrupt
    broken = Reference({}, 1.0, "subject")
    with pytest.raises(KeyError), referenced(pipeline.unet, [broken]):
        pass
    assert [id(module) for module in pipeline.unet.modules()] == modules
    assert list(map(id, pipeline.unet.attn_processors.values())) == processors
    assert dict(pipeline.unet.config) == config
    assert all(torch.equal(tensor, pipeline.unet.state_dict()[name]) for name, tensor in weights.items())
    assert np.array_equal(draw(), before)


def test_the_unet_gets_no_module_and_no_tensor(pipeline: Any, folder: Path) -> None:
    names = set(pipeline.unet.state_dict())
    with referenced(pipeline.unet, [seen(adapter_of(pipeline, folder, PLUS), FIRST)]):
        assert set(pipeline.unet.state_dict()) == names


@pytest.mark.parametrize("lost", ["image_proj.norm.weight", "image_proj.proj.bias", "ip_adapter.1.to_k_ip.weight"])
def test_a_tensor_that_is_missing_is_no_random_one(pipeline: Any, folder: Path, lost: str) -> None:
    tensors = load_file(folder / "sdxl_models" / PLAIN)
    del tensors[lost]
    with pytest.raises((KeyError, RuntimeError)):
        assembled(tensors, None, pipeline.unet)


def test_another_models_adapter_is_refused(pipeline: Any, folder: Path) -> None:
    tensors = load_file(folder / "sdxl_models" / PLAIN)
    tensors["ip_adapter.1.to_v_ip.weight"] = torch.zeros(320, 768)
    with pytest.raises(RuntimeError, match=r"attn2\.to_v"):
        assembled(tensors, None, pipeline.unet)


def test_the_demo_is_the_same_each_time_and_leaves_the_random_numbers_alone(pipeline: Any) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, other = demo(pipeline.unet).state_dict(), demo(pipeline.unet).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())

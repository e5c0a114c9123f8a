"""Every published repository that the worker names loads through the real loader, in miniature, and draws."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.conftest import runner
from tests.support import published
from tests.support.engine_jobs import Recorder
from tests.support.model_folders import registry
from worker.core.config import load_settings
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.models import registry as named
from worker.engine.models.hub import Place
from worker.engine.models.loader import Loader, WanParts

NETWORKS = {"text_encoder", "image_encoder", "transformer", "transformer_2", "vae"}
VIDEO = {
    published.T2V_1B: ("text2video",),
    published.T2V_14B: ("text2video",),
    published.I2V_480P: ("img2video",),
    published.I2V_720P: ("img2video",),
    published.TI2V_5B: ("text2video", "img2video"),
    published.T2V_A14B: ("text2video",),
    published.I2V_A14B: ("img2video",),
}


@pytest.fixture(scope="module")
def place(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a folder with all of them, as baked into an image."""
    root = tmp_path_factory.mktemp("published")
    for hub_id in published.CONFIGS:
        published.miniature(hub_id, demo_models, root)
    return Place(root, "plain")


def variables(hub_id: str, task: str) -> dict[str, Any]:
    if task == "img2video" and hub_id != published.TI2V_5B:
        return {"wan_i2v_model": hub_id}
    return {"wan_model": hub_id}


@pytest.mark.parametrize(("hub_id", "task"), [(hub_id, task) for hub_id, tasks in VIDEO.items() for task in tasks])
def test_every_wan_draws_a_clip(place: Place, hub_id: str, task: str) -> None:
    models = registry(cuda=False, where=(place,), **variables(hub_id, task))
    (frames,) = runner(Engine(load_settings(), registry=models))(task)
    assert frames.shape == (5, 64, 64, 3)
    assert models.spec(TaskType(task)).main.kind == "folder"


@pytest.mark.parametrize("hub_id", VIDEO)
def test_every_wan_loads_in_the_dtypes_of_a_card(place: Place, hub_id: str) -> None:
    task = VIDEO[hub_id][0]
    spec = registry(cuda=False, where=(place,), **variables(hub_id, task)).spec(TaskType(task))
    parts = Loader(spec, cuda=True, control=Recorder()).load()
    assert isinstance(parts, WanParts)
    assert parts.boundary_ratio == published.INDEXES[hub_id].get("boundary_ratio")
    for name, module in parts.modules().items():
        assert module.dtype == (torch.float32 if name in {"vae", "image_encoder"} else torch.bfloat16)
    assert set(parts.modules()) == {
        name for name, entry in published.INDEXES[hub_id].items() if name in NETWORKS and entry[0] is not None
    }


@pytest.mark.parametrize("with_others", [False, True], ids=["alone", "with the fixed VAE and the refiner"])
def test_sdxl_draws_a_picture(place: Place, with_others: bool) -> None:
    others = {"sdxl_vae": published.SDXL_VAE, "sdxl_refiner": published.SDXL_REFINER} if with_others else {}
    models = registry(cuda=False, where=(place,), sdxl_model=published.SDXL_BASE, **others)
    (picture,) = runner(Engine(load_settings(), registry=models))("text2img")
    assert picture.shape == (64, 64, 3)
    parts = Loader(models.spec(TaskType.TEXT2IMG), cuda=True, control=Recorder()).load()
    assert parts.vae.dtype == (torch.float16 if with_others else torch.bfloat16)


def test_what_the_worker_names_itself_is_among_them() -> None:
    assert {named.SDXL_BASE, named.SDXL_VAE, named.WAN_T2V} <= set(published.CONFIGS)


def test_the_projection_that_wan_does_not_use_changes_nothing(place: Place) -> None:
    """Read as CLIPVisionModel, the image encoder gives the same result as the class that the index names."""
    import transformers

    kind: Any = transformers.CLIPVisionModelWithProjection
    folder = place.find(published.I2V_480P)
    assert folder is not None
    spec = registry(cuda=False, where=(place,), wan_i2v_model=published.I2V_480P).spec(TaskType.IMG2VIDEO)
    parts = Loader(spec, cuda=False, control=Recorder()).load()
    assert isinstance(parts, WanParts)
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        ours = parts.image_encoder(pixels, output_hidden_states=True).hidden_states[-2]
        theirs = kind.from_pretrained(folder / "image_encoder")(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(ours, theirs)

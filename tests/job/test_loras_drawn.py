"""Requests with LoRAs and styles through the built-in model: each name, hub id or style shows in the pixels."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.demo_loras import lora
from tests.support.https_server import HOST, HttpsServer
from tests.support.memory_world import World
from worker.core.config import load_settings
from worker.engine.engine import Engine
from worker.sources.http import Fetcher
from worker.sources.lora_files import LoraFiles

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = {
    "prompt": "a red circle",
    "width": 64,
    "height": 64,
    "num_inference_steps": 2,
    "seed": 7,
    "guidance_scale": 3.0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("loras")
    own = lora(folder / "own.safetensors", 1)
    (folder / "bad.safetensors").write_bytes(b"\x80\x02}q\x00." * 20)
    with HttpsServer() as server:
        listing = {"sha": COMMIT, "siblings": [{"rfilename": "other.safetensors"}]}
        server.files["/api/models/org/other"] = json.dumps(listing).encode()
        server.files[f"/org/other/resolve/{COMMIT}/other.safetensors"] = lora(
            folder / "other.safetensors", 2
        ).read_bytes()
        made = World(
            loras={"own": str(own), "bad": str(folder / "bad.safetensors")},
            lora_sources="hub",
            lora_cache_dir=folder / "cache",
            styles={"look": {"prompt": "{prompt}", "loras": [{"path": "own"}]}},
        )
        made.firebase = False
        made.generator = Engine(load_settings())  # type: ignore[assignment]  # the built-in models in the painter's place
        fetcher = Fetcher(
            0,
            resolve=lambda *_: ["127.0.0.1"],
            is_allowed=lambda _: True,
            ports=frozenset({server.port}),
            tls=server.tls,
        )
        made.loras = LoraFiles(made.settings, fetcher, f"https://{HOST}:{server.port}")
        yield made


async def drawn(world: World, **fields: Any) -> str:
    response = await world.run({**SMALL, **fields})
    assert "error" not in response, response
    picture: str = response["image_url"]
    return picture


async def test_a_lora_by_name_by_hub_id_and_in_a_style_changes_the_picture_and_is_gone_after_it(world: World) -> None:
    plain = await drawn(world)
    own = await drawn(world, loras=[{"path": "own"}])
    hub = await drawn(world, loras=[{"path": "org/other"}])
    assert len({plain, own, hub}) == 3
    assert await drawn(world, style="look") == own
    assert await drawn(world, loras=[{"path": "own", "scale": 0}]) == plain
    assert await drawn(world) == plain


async def test_a_file_that_is_none_is_refused_by_its_name(world: World) -> None:
    response = await world.run({**SMALL, "loras": [{"path": "bad"}]})
    assert response["error"].startswith("invalid_input: loras: the LoRA bad is a pickled file")

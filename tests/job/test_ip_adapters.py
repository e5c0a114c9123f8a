"""Pictures beside the prompt, through the handler and the demo models: their effect, and refusals before any work."""

from typing import Any

import pytest

import handler
from tests.support.model_folders import put_ip_adapter
from tools import showing
from worker.core.config import load_settings
from worker.job.services import Services

pytestmark = [
    pytest.mark.e2e,
    # diffusers' schedulers pass tensors to NumPy in a way that NumPy 2 deprecates; that cannot be changed here.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

DEMO = dict.fromkeys(("sdxl_model", "sdxl_refiner", "ip_adapter_model", "wan_model", "wan_i2v_model"), "demo")
PICTURE = showing.data_uri(showing.source_picture(64, 64))
JOB = {"prompt": "a red circle on blue", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 5}


@pytest.fixture(scope="module")
def services() -> Services:
    return handler.build(load_settings(**DEMO))


async def serve(services: Services, **fields: Any) -> dict[str, Any]:
    return await handler.serve({"id": "job", "input": JOB | fields}, services, None)


def seeing(**fields: Any) -> dict[str, Any]:
    return {"ip_adapters": [{"image_url": PICTURE, **fields}]}


async def test_a_picture_moves_the_result_and_the_next_job_knows_nothing_of_it(services: Services) -> None:
    plain = await serve(services)
    subject, style = [await serve(services, **seeing(type=kind, scale=1)) for kind in ("subject", "style")]
    files = [showing.uris(response) for response in (plain, subject, style)]
    assert all(files)
    assert len({str(each) for each in files}) == 3
    assert list(subject["params"]["ip_adapters"]) == [{"type": "subject", "scale": 1.0}]
    assert PICTURE not in str(subject["params"])
    assert showing.uris(await serve(services)) == files[0]
    assert showing.uris(await serve(services, **seeing(scale=0))) == files[0]


async def test_it_goes_with_a_source_a_mask_and_the_refiner(services: Services) -> None:
    source: dict[str, Any] = {
        "task_type": "inpaint",
        "image_url": PICTURE,
        "mask_url": showing.data_uri(showing.centre_mask(64, 64)),
    }
    source |= {"high_noise_frac": 0.5, "refiner_inference_steps": 3, "strength": 1.0}
    plain, seen = await serve(services, **source), await serve(services, **source, **seeing())
    assert showing.uris(plain) != showing.uris(seen)
    assert seen["params"]["refiner_inference_steps"] == 3


async def test_a_job_that_cannot_be_is_refused_before_any_model_is_touched(tmp_path: Any) -> None:
    narrow = str(put_ip_adapter(tmp_path / "sd15", context=768))
    cases = (
        ({"ip_adapter_model": narrow, "sdxl_model": "demo"}, "model_unavailable: IP_ADAPTER_MODEL does not go with"),
        ({"ip_adapter_model": str(tmp_path / "gone")}, "model_unavailable: IP_ADAPTER_MODEL does not go with"),
    )
    for values, message in cases:
        services = handler.build(load_settings(**DEMO | values))
        response = await serve(services, **seeing())
        assert response["error"].startswith(message)
        assert services.generator.loaded == {}  # type: ignore[attr-defined]  # the engine's own
    services = handler.build(load_settings(**DEMO))
    for fields, field in (
        (seeing(scale=3), "ip_adapters.0.scale"),
        (seeing(type="face"), "ip_adapters.0.type"),
        ({"ip_adapters": [{"image_url": "data:image/png;base64,AAAA"}]}, "ip_adapters.0.image_url"),
    ):
        assert f"{field}: " in (await serve(services, **fields))["error"]
    assert services.generator.loaded == {}  # type: ignore[attr-defined]  # as above
    clip = {"task_type": "text2video", "width": None, "height": None, **seeing()}
    assert "ip_adapters: " in (await serve(services, **clip))["error"]

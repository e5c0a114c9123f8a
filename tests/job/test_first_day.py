"""The first day of an app: every kind of phone file, with every task, through the handler to the demo models."""

import base64
import io
import logging

import pytest
from PIL import Image

import handler
from tests.support.phone_files import PHONE_FILES, PhoneFile, difference, shown_fields
from tools import showing
from worker.core.config import load_settings
from worker.job.services import Services

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker() -> Services:
    """Yield one worker for all tests: models load once."""
    return handler.build(load_settings(max_input_image_bytes=60_000_000))


def inline(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def centre_mask(side: int = 256) -> str:
    """Return a mask of a fifth of each side, in the middle."""
    mask = Image.new("L", (side, side))
    mask.paste(255, (2 * side // 5, 2 * side // 5, 3 * side // 5, 3 * side // 5))
    return showing.data_uri(mask)


@pytest.mark.parametrize("file", PHONE_FILES, ids=str)
async def test_a_phones_file_goes_through_every_task_in_its_shape_and_its_colours(
    worker: Services, file: PhoneFile, caplog: pytest.LogCaptureFixture
) -> None:
    """cog-sdxl#10, MultiTalk#104: an upright photo came back square, its clip in landscape; imgproxy#539: and dull."""
    source = inline(file.data, file.media_type)
    common = {"prompt": "a red star on blue", "seed": 1, "image_url": source}
    image = {**common, "num_inference_steps": 2, "strength": 0.5}
    jobs = {
        "img2img": image,
        "inpaint": {**image, "mask_url": centre_mask()},
        "img2video": {**common, "num_inference_steps": 2, "num_frames": 5},
    }
    ratio = file.size[0] / file.size[1]
    with caplog.at_level(logging.INFO):
        for task, fields in jobs.items():
            answer = await handler.serve({"id": task, "input": {"task_type": task, **fields}}, worker)
            assert "error" not in answer, answer["error"]
            params = answer["params"]
            assert params["width"] / params["height"] == pytest.approx(ratio, rel=0.12), task
            (made,) = answer["files"]
            assert (made["width"], made["height"]) == (params["width"], params["height"])
            if task == "inpaint":
                picture = Image.open(io.BytesIO(showing.content(answer["image_url"])))
                assert max(map(difference, shown_fields(picture.convert("RGB")), file.fields)) <= 2
    read = [vars(record)["seconds"] for record in caplog.records if getattr(record, "action", "") == "decoded"]
    assert len(read) == len(jobs) + 1, "a picture is read once a job, and its mask"
    assert all(0 < seconds < 30 for seconds in read)

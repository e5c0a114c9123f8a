"""The operator's policy for flagged results, from the model's flag to the response, the document and the bucket."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.fakes import PaintingGenerator, fails_times, is_down
from tests.support.memory_world import CLOUD, PATH, VolumeWorld, World
from worker.api.params import Params
from worker.api.request import REQUESTS, Request
from worker.core.types import Control, Sources
from worker.delivery.recovery import RECOVERED
from worker.delivery.spool import DELIVERED
from worker.engine.protocol import Generated, GeneratedImage

VIDEO = {**CLOUD, "task_type": "text2video", "num_frames": 5}


class Flags(PaintingGenerator):
    """A painter whose safety checker flags the images of these indexes; a clip has index 0."""

    def __init__(self, indexes: Collection[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.indexes = indexes

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        for generated in super().generate(request, params, sources, control):
            index = generated.index if isinstance(generated, GeneratedImage) else 0
            yield replace(generated, nsfw=index in self.indexes)


async def test_without_a_check_nothing_is_said_of_it() -> None:
    world = World()
    response = await world.run(CLOUD)
    assert all("nsfw" not in file for file in response["files"])
    assert "nsfw" not in world.bucket.objects["generating/user/image/file.png"][1].metadata


@pytest.mark.parametrize("cloud", [True, False])
async def test_flagged_files_are_delivered_with_their_flag_and_a_warning(cloud: bool) -> None:
    world = World(Flags({1}), safety_checker="flag")
    job = {**CLOUD, "num_images": 3} if cloud else {"prompt": "a fox", "seed": 7, "num_images": 3}
    response = await world.run(job)
    assert [file["nsfw"] for file in response["files"]] == [False, True, False]
    assert response["warnings"] == ["content safety: file 1 was flagged"]
    assert len(set(response["images"])) == 3
    if cloud:
        assert world.document["status"] == "completed"
        assert world.document["generation_data"]["files"] == response["files"]
        again = await world.run(job, job_id="job-2")
        assert again["files"] == response["files"]
        assert again["warnings"][0] == response["warnings"][0]


async def test_the_flag_survives_the_way_back_inline() -> None:
    world = World(Flags({0}), safety_checker="flag")
    world.bucket.before = is_down("storage", "refused")
    response = await world.run(VIDEO)
    assert (response["storage"], response["files"][0]["nsfw"]) == ("base64", True)
    assert response["warnings"][-1] == "content safety: file 0 was flagged"


async def test_the_flag_survives_a_lost_document() -> None:
    world = World(Flags({1}), safety_checker="flag")
    first = await world.run({**CLOUD, "num_images": 2})
    world.documents.write_as_app(PATH, None)
    world.generator.lingers = True
    again = await world.run({**CLOUD, "num_images": 2}, job_id="job-2")
    assert again["files"] == first["files"]
    assert again["warnings"] == [RECOVERED, "content safety: file 1 was flagged"]
    assert world.generator.generated == 2


async def test_the_flag_survives_the_outbox(tmp_path: Path) -> None:
    world = VolumeWorld(tmp_path / "outbox")
    world.generator = Flags({1}, side=256)
    world.bucket.before = is_down("storage", "refused")
    assert (await world.run({**CLOUD, "num_images": 2}))["error_code"] == "storage_unavailable"
    world.bucket.before = lambda *_: None
    assert world.deliver() == 1
    data = world.document["generation_data"]
    assert [file["nsfw"] for file in data["files"]] == [False, True]
    assert data["warnings"] == [DELIVERED, "content safety: file 1 was flagged"]
    world.documents.write_as_app(PATH, None)
    again = await world.run({**CLOUD, "num_images": 2}, job_id="job-2")
    assert again["files"] == data["files"]


@pytest.mark.parametrize(
    ("job", "flagged", "part"),
    [
        (CLOUD, {0}, ""),
        (VIDEO, {0}, ""),
        ({**CLOUD, "num_images": 4}, {1, 3}, ": 2 of 4 images"),
        ({**CLOUD, "num_images": 2}, {0, 1}, ": 2 of 2 images"),
    ],
)
async def test_a_refused_result_ends_as_forbidden_and_leaves_nothing(
    job: dict[str, Any], flagged: set[int], part: str
) -> None:
    world = World(Flags(flagged), safety_checker="block")
    written: list[str] = []
    world.bucket.after = lambda call, path: written.append(path) if call == "upload" else None
    response = await world.run(job)
    assert response["error"] == f"forbidden: the content safety check refused this result{part}"
    assert (response["error_code"], response["retryable"]) == ("forbidden", False)
    assert "images" not in response
    assert "videos" not in response
    assert (world.document["status"], world.document["error"]["code"]) == ("failed", "forbidden")
    assert world.paths == []
    assert not any(path.endswith(f"_{index}.png") for path in written for index in flagged)


async def test_what_was_uploaded_before_another_image_was_refused_is_taken_back() -> None:
    class WaitsForTheUpload(Flags):
        def generate(self, *args: Any) -> Iterator[Generated]:
            for generated in super().generate(*args):
                yield generated
                until(lambda: world.bucket.uploads, 5, "upload")

    world = World(WaitsForTheUpload({1}), safety_checker="block")
    response = await world.run({**CLOUD, "num_images": 2})
    assert response["error_code"] == "forbidden"
    assert (world.bucket.uploads, world.paths) == (1, [])


async def test_a_refused_image_is_not_made_good_by_asking_again() -> None:
    world = World(Flags({1}), safety_checker="block")
    world.bucket.before = fails_times(9, is_down("storage", calls=["delete"]))
    job = {**CLOUD, "num_images": 2}
    for attempt in range(2):
        response = await world.run(job, job_id=f"job-{attempt}")
        assert response["error_code"] == "forbidden"
    assert world.document["status"] == "failed"


async def test_what_is_refused_does_not_come_back_inline() -> None:
    world = World(Flags({0}), safety_checker="block")
    world.bucket.before = is_down("storage", "refused")
    for job in (CLOUD, VIDEO, {"prompt": "a fox"}):
        response = await world.run({**job, "file_uid": f"f{len(job)}"} if "file_uid" in job else job)
        assert response["error_code"] == "forbidden"
        assert "base64," not in str(response)


async def test_blocking_delivers_what_was_checked_and_found_harmless() -> None:
    world = World(Flags(()), safety_checker="block")
    response = await world.run({**CLOUD, "num_images": 2})
    assert [file["nsfw"] for file in response["files"]] == [False, False]
    assert response["warnings"] == []
    assert len(world.paths) == 2


async def test_blocking_lets_nothing_unchecked_through() -> None:
    world = World(PaintingGenerator(), safety_checker="block")
    assert (await world.run(CLOUD))["error_code"] == "forbidden"
    assert world.paths == []


@pytest.mark.parametrize(
    "name", ["safety_checker", "disable_safety_checker", "enable_safety_checker", "SAFETY_CHECKER"]
)
async def test_no_field_of_a_request_switches_it_off(name: str) -> None:
    world = World(Flags({0}), safety_checker="block")
    for value in ("off", False, True, None):
        response = await world.run({**CLOUD, name: value})
        assert response["error_code"] == "invalid_input"
        assert name in response["error"]
    assert world.generator.generated == 0
    assert not any("safety" in field or "nsfw" in field for model in REQUESTS.values() for field in model.model_fields)

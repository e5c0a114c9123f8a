"""Recovery: complete files are never generated again, whatever became of their document."""

import pytest

from tests.support.fakes import is_down
from tests.support.memory_world import CLOUD, PATH, World
from worker.delivery.recovery import RECOVERED


async def test_a_job_that_died_between_upload_and_document_is_finished_without_the_gpu() -> None:
    world = World()
    first = await world.run({**CLOUD, "num_images": 2})
    lost = dict(world.document) | {"status": "processing"}
    lost.pop("generation_data")
    world.documents.write_as_app(PATH, None)
    world.documents.write_as_app(PATH, lost)
    world.generator.lingers = True
    again = await world.run({**CLOUD, "num_images": 2})
    assert again["images"] == first["images"]
    assert again["files"] == first["files"]
    assert (again["seeds"], again["model"], again["params"]) == (first["seeds"], first["model"], first["params"])
    assert again["warnings"] == [RECOVERED]
    assert (world.document["status"], world.document["attempt"]) == ("completed", 2)
    assert (world.generator.generated, world.bucket.uploads) == (2, 2)


async def test_a_thumbnail_that_comes_while_its_file_is_taken_over_belongs_to_the_result() -> None:
    """The second attempt found the file while the first one still uploaded its thumbnail, which was then lost."""
    world = World()
    first = await world.run(CLOUD)
    world.documents.write_as_app(PATH, None)
    path = first["files"][0]["thumbnail_path"]
    late = world.bucket.objects.pop(path)

    def comes(call: str, taken: str) -> None:
        if call == "take_over" and taken != path:
            world.bucket.objects[path] = late

    world.bucket.before = comes
    again = await world.run(CLOUD, job_id="job-2")
    assert (again["warnings"], again["files"]) == ([RECOVERED], first["files"])
    assert world.bucket.objects[path][1].metadata["job_id"] == "job-2"


async def test_a_result_is_recovered_without_a_thumbnail_that_goes_meanwhile() -> None:
    world = World()
    first = await world.run(CLOUD)
    world.documents.write_as_app(PATH, None)
    path = first["files"][0]["thumbnail_path"]

    def goes(call: str, taken: str) -> None:
        if call == "take_over" and taken == path:
            del world.bucket.objects[path]

    world.bucket.before = goes
    world.generator.lingers = True
    again = await world.run(CLOUD, job_id="job-2")
    assert (again["images"], again["files"][0]["thumbnail_path"]) == (first["images"], None)
    assert world.generator.generated == 1


@pytest.mark.usefixtures("impatient")
async def test_a_video_is_recovered_with_its_facts() -> None:
    world = World()
    job = {**CLOUD, "task_type": "text2video", "num_frames": 5, "fps": 10}
    world.documents.before = is_down("firestore")
    first = await world.run(job)
    world.documents.before = lambda *_: None
    world.generator.lingers = True
    again = await world.run(job, job_id="job-2")
    assert again["video_url"] == first["video_url"]
    assert again["video_info"] == first["video_info"]
    assert world.document["status"] == "completed"
    assert world.generator.generated == 1


async def test_when_one_of_two_files_is_missing_both_are_made_again_under_their_tokens() -> None:
    world = World()
    first = await world.run({**CLOUD, "num_images": 2})
    world.documents.write_as_app(PATH, None)
    del world.bucket.objects["generating/user/image/file_1.png"]
    again = await world.run({**CLOUD, "num_images": 2}, job_id="job-2")
    assert again["images"][0] == first["images"][0]
    assert again["images"][1] != first["images"][1]
    assert world.generator.generated == 4


async def test_files_that_were_found_go_with_a_document_that_is_deleted_meanwhile() -> None:
    world = World()
    await world.run(CLOUD)
    lost = dict(world.document) | {"status": "processing"}
    world.documents.write_as_app(PATH, None)
    world.documents.write_as_app(PATH, lost)

    def deleted(call: str, _path: str) -> None:
        if call == "take_over":
            world.documents.write_as_app(PATH, None)

    world.bucket.before = deleted
    assert (await world.run(CLOUD))["error_code"] == "deleted"
    assert (world.documents.stored, world.paths) == ({}, [])


async def test_another_requests_files_are_not_taken_for_ones_own() -> None:
    world = World()
    await world.run(CLOUD)
    world.documents.write_as_app(PATH, None)
    again = await world.run({**CLOUD, "seed": 8}, job_id="job-2")
    assert again["seed"] == 8
    assert world.generator.generated == 2


async def test_objects_without_a_readable_manifest_are_made_again() -> None:
    world = World()
    await world.run(CLOUD)
    world.documents.write_as_app(PATH, None)
    data, info, kind = world.bucket.objects["generating/user/image/file.png"]
    spoiled = type(info)(info.generation, info.size, info.crc32c, {**info.metadata, "manifest": "{"}, info.content_type)
    world.bucket.objects["generating/user/image/file.png"] = (data, spoiled, kind)
    assert "error" not in await world.run(CLOUD, job_id="job-2")
    assert world.generator.generated == 2

"""The contract's schemas match the worker: current files, conforming documents, and requests that it accepts."""

import json
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from tests.support.examples import examples
from tests.support.memory_world import CLOUD, PATH, World, data_uri
from tools.schema.__main__ import ROOT, old_files
from tools.schema.contract import WORDS, closed, schemas
from worker.api import params
from worker.api.request import REQUESTS, parse
from worker.core.errors import InvalidInput
from worker.core.types import TaskType

EXAMPLES = sorted((ROOT / "schema" / "examples").rglob("*.json"))
LATER = "of-a-later-version"
PICTURE = data_uri()
JOBS: dict[str, dict[str, Any]] = {
    "text2img": {"num_images": 2, "width": 64, "height": 128, "scheduler": "DDIM", "output_format": "jpeg"},
    "img2img": {"image_url": PICTURE, "upscale_factor": 2, "controlnets": [{"type": "tile", "image_url": PICTURE}]},
    "inpaint": {"image_url": PICTURE, "outpaint": {"left": 8}, "inpaint_area": "masked", "mask_blur": 2},
    "upscale": {"image_url": PICTURE, "upscale_factor": 4},
    "text2video": {"num_frames": 9, "fps": 8, "video_quality": "low"},
    "img2video": {"image_url": PICTURE, "duration": 1.0},
}
"""One of each task, with fields that make its `params` long."""


SCHEMAS = schemas()


@cache
def validator(name: str, *, strict: bool = False) -> Draft202012Validator:
    schema = SCHEMAS[name]
    return Draft202012Validator(closed(schema) if strict else schema, format_checker=FormatChecker())


def as_json(value: object) -> Any:
    """Return the value as it arrives; times as text."""

    def text(part: object) -> str:
        assert isinstance(part, datetime), part
        return part.isoformat()

    return json.loads(json.dumps(value, default=text, allow_nan=False))


def problems(name: str, value: object, *, strict: bool = True) -> list[str]:
    """Return what is wrong with the value; by default also what a later version might add."""
    found = validator(name, strict=strict).iter_errors(as_json(value))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def test_the_files_are_what_the_models_say() -> None:
    assert [str(path.relative_to(ROOT)) for path in old_files()] == [], "python -m tools.schema writes them anew"


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    Draft202012Validator.check_schema(closed(SCHEMAS[name]))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_examples_fit(path: Path) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    assert problems(path.parent.name, value, strict=False) == []
    strict = problems(path.parent.name, value)
    assert bool(strict) == (path.stem == LATER), strict


@pytest.mark.parametrize("task", TaskType)
@pytest.mark.parametrize("cloud", [True, False], ids=["cloud", "inline"])
async def test_what_a_job_answers_and_writes_fits(task: TaskType, cloud: bool) -> None:
    world = World(safety_checker="off")
    asked = {"prompt": "a fox", "seed": 7, "task_type": task, **JOBS[task], **(CLOUD if cloud else {})}
    assert problems("request", asked) == []
    answered = await world.run(asked)
    assert "error" not in answered, answered
    assert problems("response", answered) == []
    assert all(problems("progress", one.public()) == [] for one in world.progress)
    assert problems("quote", await world.run({**asked, "action": "quote"})) == []
    if cloud:
        assert problems("document", world.document) == []
        assert world.document["status"] == "completed"


@pytest.mark.parametrize("asked", [{**CLOUD, "width": 7}, {**CLOUD, "prompt": 3}, {"task_type": "x"}], ids=str)
async def test_a_refusal_fits(asked: dict[str, Any]) -> None:
    world = World()
    answered = await world.run(asked)
    assert problems("response", answered) == []
    assert "error_code" in answered
    if "file_uid" in asked:
        assert problems("document", world.document) == []


async def test_a_document_fits_at_each_of_its_moments() -> None:
    world = World()
    seen: list[Any] = []

    def look(_: object) -> None:
        seen.extend(dict(fields) for fields, *_ in world.documents.stored.values())

    world.progress = Watching(look)
    world.documents.write_as_app(PATH, {"status": "queued", "labels": ["beach"], "favorite": True})
    await world.run(CLOUD)
    assert "processing" in {one["status"] for one in seen}
    for one in [*seen, world.document]:
        assert problems("document", one) == []


class Watching(list[Any]):
    """A list of progress that reads the document with each entry."""

    def __init__(self, look: Any) -> None:
        super().__init__()
        self._look = look

    def append(self, one: Any) -> None:
        self._look(one)
        super().append(one)


async def test_what_the_worker_serves_fits() -> None:
    assert problems("capabilities", await World().run({"action": "capabilities"})) == []


def test_a_later_versions_fields_and_words_do_not_break_a_reader() -> None:
    """Every value of an enumeration may be a new one, and every object may have more fields."""
    for name in set(SCHEMAS) - {"request"}:
        for found in _objects(SCHEMAS[name]):
            assert found.get("additionalProperties", True) is not False
        for words in WORDS:
            assert f'{{"$ref": "#/$defs/{words}"}}, {{"type": "string"}}' in json.dumps(SCHEMAS[name]) or (
                words not in SCHEMAS[name]["$defs"]
            )


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    for part in schema if isinstance(schema, list) else schema.values() if isinstance(schema, dict) else ():
        yield from _objects(part)
    if isinstance(schema, dict) and "properties" in schema:
        yield schema


@pytest.mark.parametrize("task", TaskType)
def test_a_request_has_exactly_the_fields_of_its_model(task: TaskType) -> None:
    model = REQUESTS[task]
    schema = SCHEMAS["request"]["$defs"][model.__name__]
    assert set(schema["properties"]) == set(model.model_fields)
    assert schema["additionalProperties"] is False
    assert set(schema.get("required", ())) == {
        name for name, field in model.model_fields.items() if field.is_required()
    }


def test_what_really_ran_has_a_place_for_each_public_parameter() -> None:
    described = set(SCHEMAS["quote"]["$defs"]["GenerationParams"]["properties"])
    fields = {*params.ImageParams.__dataclass_fields__, *params.VideoParams.__dataclass_fields__}
    assert described == fields - params.PRIVATE


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("add-detail_v1.5 (fp16).safetensors", True),
        ("comfy/hyper.8steps.safetensors", True),
        ("a" * 201 + ".safetensors", True),
        ("a" * 202 + ".safetensors", False),
        *((name, False) for name in ("../a.safetensors", "a/../b.safetensors", "/a.safetensors", "a.bin")),
    ],
)
def test_the_usual_names_of_files_fit(name: str, *, fits: bool) -> None:
    """An app that validates by the schema could otherwise not name what a refusal lists."""
    asked = {"prompt": "a fox", "loras": [{"path": "a/b", "weight_name": name}]}
    assert (problems("request", asked) == []) == fits
    if fits:
        parse(asked)


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2, 4, 5, 7, 8, 9, 16, 63, 64, 72, 121, 122, 128, 1280, 2048, 2056, 2**32, -2),
        *(0.0, 0.5, 1.0, 1.5, 2.0, -4.0, 30.0, 31.0, 120.0, 1e9),
        *("", "a", "a" * 4000, "a" * 4001, "png", "PNG", "gif", "16:9", "480p", "square", "high", "canny", "K_EULER"),
        *("user", "a/b", "..", "__x__", "a@b", "masked", "subject", PICTURE, "https://example.com/a.png"),
        *("http://example.com", "gs://b/x", "ftp://x", "a.safetensors", "../a.safetensors"),
        *(
            [],
            [1],
            [{}],
            [{"path": "x"}],
            [{"path": "x", "scale": 5}],
            [{"path": "x"}] * 5,
            {},
            {"left": 8},
            {"left": 7},
        ),
        *([{"type": "canny", "image_url": PICTURE}], [{"image_url": PICTURE, "scale": 2}], [{"type": "fog"}]),
    ]
)


@pytest.mark.parametrize("task", TaskType)
@given(data=st.data())
@examples(60)
def test_what_the_schema_takes_the_worker_takes(task: TaskType, data: st.DataObject) -> None:
    fields = sorted({*REQUESTS[task].model_fields, "metadata", "fps", "width"} - {"task_type"})
    asked = {name: data.draw(VALUES) for name in data.draw(st.lists(st.sampled_from(fields), max_size=4, unique=True))}
    asked = {"prompt": "a fox", "seed": 7, "task_type": task, **JOBS[task], **asked}
    try:
        parse(asked)
        taken = True
    except InvalidInput:
        taken = False
    one = {"$ref": f"#/$defs/{REQUESTS[task].__name__}", "$defs": SCHEMAS["request"]["$defs"]}
    # The worker may be more lenient than the schema about spelling, never stricter.
    if Draft202012Validator(one).is_valid(as_json(asked)):
        assert taken, asked

"""A job with a style draws what the style says, and stores what the user wrote."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import handler
from tests.job.test_loras import LISTED, Seeing, Shelf
from tests.support.memory_world import CLOUD, World
from worker.api.fingerprint import fingerprint
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request, parse
from worker.core import logs
from worker.core.errors import ModelUnavailable
from worker.core.types import Control, Sources, TaskType
from worker.doctor import environment
from worker.engine.protocol import Generated

STYLES: dict[str, dict[str, Any]] = {
    "ghibli": {
        "prompt": "ghibli style, {prompt}",
        "loras": [{"path": "ghibli"}],
        "num_inference_steps": 3,
        "output_format": "webp",
    },
    "film": {"num_frames": 9},
}
ASKED = {**CLOUD, "style": "ghibli"}


class Reading(Seeing):
    """Records the prompts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        self.prompts.append(params.prompt)
        return super().generate(request, params, sources, control)


def world(**settings: Any) -> World:
    made = World(Reading(), loras=LISTED, styles=STYLES, **settings)
    made.loras = Shelf()  # type: ignore[assignment]  # in the downloader's place
    return made


async def test_the_model_gets_the_style_and_the_document_what_the_user_wrote() -> None:
    here = world()
    response = await here.run(ASKED)
    generator = here.generator
    assert isinstance(generator, Reading)
    assert generator.prompts == ["ghibli style, a fox"]
    assert [(one.name, one.scale) for one in generator.given[0].loras] == [("ghibli", 0.5)]
    params = response["params"]
    assert (params["style"], params["num_inference_steps"]) == ("ghibli", 3)
    assert response["files"][0]["content_type"] == "image/webp"
    asked = here.document["request_data"]
    assert (asked["prompt"], asked["style"], asked["loras"], asked["num_inference_steps"]) == (
        "a fox",
        "ghibli",
        [],
        None,
    )


async def test_the_same_request_again_is_the_same_whatever_became_of_the_style(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world()
    first = await here.run(ASKED)
    monkeypatch.setitem(STYLES["ghibli"], "prompt", "another style, {prompt}")
    here.generator.lingers = True
    again = await here.run(ASKED, "job-2")
    assert again["images"] == first["images"]
    assert here.generator.generated == 1
    assert fingerprint(parse(ASKED)) != fingerprint(parse(CLOUD))


async def test_a_quote_counts_the_style() -> None:
    here = world()
    plain, with_style = [
        await here.run({"action": "quote", "prompt": "a fox", **more}) for more in ({}, {"style": "ghibli"})
    ]
    assert (plain["params"]["num_inference_steps"], with_style["params"]["num_inference_steps"]) == (4, 3)


async def test_a_style_that_is_not_there_is_refused_before_anything_is_touched() -> None:
    here = world()
    response = await here.run({**ASKED, "style": "gibli"})
    assert response["error"].startswith("invalid_input: style: is no style of this worker; did you mean ghibli?")
    assert here.generator.generated == 0
    none = await World().run({"prompt": "a fox", "style": "ghibli"})
    assert "style: is no style of this worker; there are none" in none["error"]


async def test_capabilities_list_styles_with_their_tasks() -> None:
    answer = await world().run({"action": "capabilities"})
    assert [one["name"] for one in answer["styles"]] == ["ghibli", "film"]
    assert answer["styles"][1]["tasks"] == ["text2video", "img2video"]


async def test_a_style_for_what_is_not_served_is_not_offered() -> None:
    class Images(Reading):
        def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
            if task_type.is_video:
                raise ModelUnavailable("model_unavailable.task", task=task_type, tasks="text2img")
            return super().describe(task_type, model)

    styles = STYLES | {"anime": {"model": "anime"}, "own": {"model": "fake"}}
    answer = await World(Images(), loras=LISTED, styles=styles).run({"action": "capabilities"})
    images = ["text2img", "img2img", "inpaint"]
    assert answer["styles"] == [{"name": "ghibli", "tasks": images}, {"name": "own", "tasks": [*images, "upscale"]}]


def test_a_wrong_style_stops_the_worker_with_its_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "configure", lambda _: None)
    monkeypatch.setenv("STYLES", '{"ghibli": {"loras": [{"path": "nothing"}]}}')
    with pytest.raises(SystemExit) as caught:
        handler.main()
    assert caught.value.code == 1
    assert caplog.messages == ['cannot start: STYLES.ghibli: names "nothing", which LORAS does not have']


def test_the_doctor_shows_a_wrong_style_and_no_source() -> None:
    bad = World(loras=LISTED, styles={"ghibli": {"prompt": "no place for it"}}).settings
    found = {row.name: row for row in environment(bad, {}, ())}
    rows = [row for row in environment(bad, {}, ()) if row.name == "STYLES" and row.state == "fail"]
    assert [row.detail for row in rows] == ["STYLES.ghibli.prompt: must be a text with {prompt} in it"]
    assert "ghibli" in found["LORAS"].detail
    assert "secret" not in found["LORAS"].detail


def test_the_doctor_misses_the_file_of_a_lora(tmp_path: Path) -> None:
    here, gone = tmp_path / "here.safetensors", tmp_path / "gone.safetensors"
    here.touch()
    settings = World(loras={"here": str(here), "gone": str(gone), "far": "org/far"}).settings
    rows = [row for row in environment(settings, {}, ()) if row.name.startswith("LoRA ")]
    assert [(row.name, row.state) for row in rows] == [("LoRA gone", "fail")]
    assert str(tmp_path) not in rows[0].detail
